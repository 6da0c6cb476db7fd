"""Time and memory of reading a list, and of forked workers that use it, against plain Python tuples.

`python benchmarks/annotations.py [ROWS ...]` writes lists of `path,label` lines to a temporary folder and reads each
in a process of its own, so that peaks are honest. Needs Linux.
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
import _cli  # noqa: F401  the package of this checkout
import numpy as np

from slowfast.datasets.annotations import (
    Annotations,
    read_path_list,
)  # imports torch, as training does

NUM_CLASSES = 400
NUM_WORKERS = 8
ROWS_PER_WORKER = 1000
Rows = Sequence[tuple[str, int]] | Annotations


def read_tuples(list_path: str) -> Sequence[tuple[str, int]]:
    """Return the rows of a list as the plain way has them: the baseline."""
    rows = []
    with open(list_path, encoding="utf-8") as file:
        for line in file:
            path, label = line.rsplit(",", 1)
            rows.append((path.strip(), int(label)))
    return rows


READERS: dict[str, Callable[[str], Rows]] = {
    "tuples": read_tuples,
    "Annotations": lambda list_path: read_path_list(
        list_path, separator="", num_classes=NUM_CLASSES
    ),
}


def write_list(list_path: Path, *, num_rows: int) -> None:
    """Write a list with paths of about 40 bytes, commas and spaces among them."""
    with open(list_path, "w", encoding="utf-8") as file:
        for row in range(num_rows):
            label = row * 7919 % NUM_CLASSES
            file.write(f"train/class {label:03d}, any/video {row:010d}.mp4,{label}\n")


def measure(reader: str, list_path: str) -> dict[str, float]:
    """Return what reading costs this process, and using the rows its forked workers, in seconds and MB."""
    imports = peak_memory()
    start = time.perf_counter()
    rows = READERS[reader](list_path)
    seconds = time.perf_counter() - start
    peak = peak_memory()
    context = get_context("fork")
    answers = context.SimpleQueue()
    workers = [
        context.Process(target=use_rows, args=(rows, seed, answers)) for seed in range(NUM_WORKERS)
    ]
    for worker in workers:
        worker.start()
    extra = sum(answers.get() for _ in workers)
    for worker in workers:
        worker.join()
    return {"seconds": seconds, "imports": imports, "peak": peak, "workers": extra}


def use_rows(rows: Rows, seed: int, answers: "SimpleQueue[float]") -> None:
    """Read random rows, and answer by how much this has grown the memory that is the worker's own."""
    before = private_memory()
    for row in np.random.default_rng(seed).integers(len(rows), size=ROWS_PER_WORKER).tolist():
        path, label = rows[row][:2]
        assert path.startswith(f"train/class {label:03d},"), "a row with the label of another"
    answers.put(private_memory() - before)


def peak_memory() -> float:
    """Return the most memory that this process has had, in MB."""
    return _megabytes("status", field="VmHWM")


def private_memory() -> float:
    """Return the memory of this process that it shares with no other, in MB."""
    return _megabytes("smaps_rollup", field="Private_")


def _megabytes(name: str, *, field: str) -> float:
    lines = Path("/proc/self", name).read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def main() -> None:
    """Print a table of sizes and readers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "rows", nargs="*", type=int, default=[10**5, 10**6, 10**7], help="sizes of the lists"
    )
    parser.add_argument("--measure", nargs=2, metavar=("READER", "LIST"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    print(
        f"workers: memory that {NUM_WORKERS} forked workers add, {ROWS_PER_WORKER} random rows each; MB = 1e6 bytes"
    )
    print(
        f"{'rows':>10}  {'reader':<12}{'seconds':>8}{'peak MB':>9}{'of it imports':>15}{'workers MB':>12}{'of peak':>9}"
    )
    for num_rows in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            list_path = Path(folder, "train.csv")
            write_list(list_path, num_rows=num_rows)
            results = {}
            for reader in READERS:
                command = [sys.executable, __file__, "--measure", reader, str(list_path)]
                answer = subprocess.run(
                    command, check=True, stdout=subprocess.PIPE, text=True
                ).stdout
                results[reader] = result = json.loads(answer)
                print(
                    f"{num_rows:>10}  {reader:<12}{result['seconds']:>8.2f}{result['peak']:>9.0f}"
                    f"{result['imports']:>15.0f}{result['workers']:>12.1f}{result['workers'] / result['peak']:>9.1%}"
                )
            ratios = [
                results["tuples"][name] / results["Annotations"][name]
                for name in ("seconds", "peak", "workers")
            ]
            print(
                f"{'':>10}  {'ratio':<12}{ratios[0]:>7.1f}x{ratios[1]:>8.1f}x{'':>15}{ratios[2]:>11.1f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()
