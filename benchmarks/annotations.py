"""Time and memory of reading a list and sharing it with workers, against plain Python tuples.

`python benchmarks/annotations.py [ROWS ...]` writes lists of `path,label` lines to a temporary
folder and reads each of them in a new process, so that peaks are independent. It requires Linux.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import _checkout  # noqa: F401  the package of this checkout
import numpy as np

from slowfast.datasets.annotation_lists import Source, read_path_list
from slowfast.datasets.annotations import Annotations  # imports torch, as training does

NUM_CLASSES = 400
NUM_WORKERS = 8
ROWS_PER_WORKER = 1000
Rows = Sequence[tuple[str, int]] | Annotations


def read_tuples(list_path: str) -> Sequence[tuple[str, int]]:
    """Return the rows of a list as Python tuples, the baseline."""
    rows = []
    with open(list_path, encoding="utf-8") as file:
        for line in file:
            path, label = line.rsplit(",", 1)
            rows.append((path.strip(), int(label)))
    return rows


def read_annotations(list_path: str) -> Annotations:
    """Return the rows of a list as the package reads them."""
    return read_path_list(Source(list_path, num_classes=NUM_CLASSES))


READERS: dict[str, Callable[[str], Rows]] = {
    "tuples": read_tuples,
    "Annotations": read_annotations,
}


def write_list(list_path: Path, *, num_rows: int) -> None:
    """Write a list of paths of about 40 bytes that contain commas and spaces."""
    with open(list_path, "w", encoding="utf-8") as file:
        for row in range(num_rows):
            label = row * 7919 % NUM_CLASSES
            file.write(f"train/class {label:03d}, any/video {row:010d}.mp4,{label}\n")


def measure(reader: str, list_path: str) -> dict[str, float]:
    """Return the seconds and peak MB of reading a list, and the MB its use adds to workers."""
    imports = peak_memory()
    start = time.perf_counter()
    rows = READERS[reader](list_path)
    seconds = time.perf_counter() - start
    peak = peak_memory()

    context = get_context("fork")
    answers = context.SimpleQueue()
    workers = []
    for seed in range(NUM_WORKERS):
        workers.append(context.Process(target=use_rows, args=(rows, seed, answers)))
        workers[-1].start()
    growth = sum(answers.get() for _ in workers)
    for worker in workers:
        worker.join()
    return {"seconds": seconds, "imports": imports, "peak": peak, "workers": growth}


def use_rows(rows: Rows, seed: int, answers: "SimpleQueue[float]") -> None:
    """Read random rows and answer by how much the private memory of this worker has grown."""
    before = private_memory()
    indices = np.random.default_rng(seed).integers(len(rows), size=ROWS_PER_WORKER)
    for index in indices.tolist():
        path, label = rows[index][:2]
        assert path.startswith(f"train/class {label:03d},"), "the label belongs to another row"
    answers.put(private_memory() - before)


def peak_memory() -> float:
    """Return the peak memory of this process in MB."""
    return _megabytes("status", field="VmHWM")


def private_memory() -> float:
    """Return the memory that this process shares with no other in MB."""
    return _megabytes("smaps_rollup", field="Private_")


def _megabytes(name: str, *, field: str) -> float:
    lines = Path("/proc/self", name).read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def main() -> None:
    """Print a table of list sizes and readers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "rows",
        nargs="*",
        type=int,
        default=[10**5, 10**6, 10**7],
        help="numbers of rows (default: %(default)s)",
    )
    parser.add_argument("--measure", nargs=2, metavar=("READER", "LIST"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return

    print(
        f"workers: memory that {NUM_WORKERS} forked workers add, {ROWS_PER_WORKER} random rows "
        "each; MB = 1e6 bytes"
    )
    print(
        f"{'rows':>10}  {'reader':<12}{'seconds':>8}{'peak MB':>9}{'of it imports':>15}"
        f"{'workers MB':>12}{'of peak':>9}"
    )
    for num_rows in args.rows:
        compare_readers(num_rows)


def compare_readers(num_rows: int) -> None:
    """Print the figures of all readers for a list of one size, and the ratios."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        list_path = Path(folder, "train.csv")
        write_list(list_path, num_rows=num_rows)
        for reader in READERS:
            command = [sys.executable, __file__, "--measure", reader, str(list_path)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[reader] = result = json.loads(done.stdout)
            share = result["workers"] / result["peak"]
            print(
                f"{num_rows:>10}  {reader:<12}{result['seconds']:>8.2f}{result['peak']:>9.0f}"
                f"{result['imports']:>15.0f}{result['workers']:>12.1f}{share:>9.1%}"
            )

    ratios = {}
    for name in ("seconds", "peak", "workers"):
        ratios[name] = results["tuples"][name] / results["Annotations"][name]
    print(
        f"{'':>10}  {'ratio':<12}{ratios['seconds']:>7.1f}x{ratios['peak']:>8.1f}x"
        f"{'':>15}{ratios['workers']:>11.1f}x",
        flush=True,
    )


if __name__ == "__main__":
    main()
