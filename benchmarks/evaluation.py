"""Memory, time and disk of a test of many videos, whose model and videos alone are simulated.

`python benchmarks/evaluation.py [VIDEOS ...] [--classes K] [--folder DIR]` writes the score shards
of a test with two processes, merges them, computes the metrics, and writes the report, with the
code of a real test. It prints one row for each number of videos. 10 million videos and 400 classes
need 20 GB of disk. It requires Linux.
"""

import argparse
import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import _checkout  # noqa: F401  the package of this checkout
import numpy as np
import pyarrow as pa

from slowfast.evaluation.report.page import write_report
from slowfast.evaluation.result import write_result
from slowfast.evaluation.result_record import ResultRecord, write_record
from slowfast.evaluation.view_scores import ViewScores

NUM_PROCESSES = 2
VIEWS_PER_FORWARD = 64
ROWS_PER_CHUNK = 1 << 20
SAMPLE_SECONDS = 0.05


class PeakMemory:
    """Largest resident memory of this process in MB while the block runs, sampled."""

    def __init__(self) -> None:
        self.megabytes = 0.0
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._is_done.wait(SAMPLE_SECONDS):
            self.megabytes = max(self.megabytes, resident_megabytes())


def resident_megabytes() -> float:
    """Return the resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    resident = next(line for line in lines if line.startswith("VmRSS"))
    return int(resident.split()[1]) / 1000


def make_record(num_videos: int, num_classes: int) -> ResultRecord:
    """Return the record of the simulated test."""
    return ResultRecord(
        identity={"simulated": num_videos},
        class_names=[f"class {number:03d}" for number in range(num_classes)],
        num_videos=num_videos,
        num_clips=1,
        num_crops=1,
        views_per_forward=VIEWS_PER_FORWARD,
        weights="simulated",
        list_path="simulated",
    )


def make_labels(num_videos: int, num_classes: int) -> np.ndarray:
    """Return the label of each video."""
    return (np.arange(num_videos) * 7919 % num_classes).astype(np.int32)


def make_names(num_videos: int) -> pa.ChunkedArray:
    """Return the name of each video, about 40 bytes each."""
    chunks = []
    for start in range(0, num_videos, ROWS_PER_CHUNK):
        rows = range(start, min(start + ROWS_PER_CHUNK, num_videos))
        names = [f"test/class {row % 400:03d}/video {row:010d}.mp4" for row in rows]
        chunks.append(pa.array(names))
    return pa.chunked_array(chunks)


def simulate(folder: Path, record: ResultRecord, rank: int) -> None:
    """Write the shard of a process: noise in which the label stands out a little."""
    num_classes = len(record.class_names)
    labels = make_labels(record.num_videos, num_classes)
    shards = record.shards(folder)
    with shards.writer(start=1, rank=rank) as writer:
        for group in range(rank, shards.groups.num_groups, NUM_PROCESSES):
            videos = np.array(shards.groups.videos(group))
            rng = np.random.default_rng(group)
            logits = rng.standard_normal((len(videos), 1, num_classes), np.float32)
            logits[np.arange(len(videos)), 0, labels[videos]] += 3
            writer.write(ViewScores(videos, logits, {}))


def measure(step: Callable[[], Any]) -> dict[str, float]:
    """Return the seconds of a step, and the memory that it needs beyond what is in use."""
    before = resident_megabytes()
    started_at = time.perf_counter()
    with PeakMemory() as peak:
        step()
    return {
        "seconds": time.perf_counter() - started_at,
        "megabytes": max(peak.megabytes - before, 0),
    }


def run(num_videos: int, num_classes: int, folder: Path) -> dict[str, Any]:
    """Simulate one test, and return what it took."""
    record = make_record(num_videos, num_classes)
    write_record(folder, record)
    context = multiprocessing.get_context("fork")
    started_at = time.perf_counter()
    writers = [
        context.Process(target=simulate, args=(folder, record, rank))
        for rank in range(NUM_PROCESSES)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    if any(writer.exitcode for writer in writers):
        raise RuntimeError("a writer failed")
    written = {"seconds": time.perf_counter() - started_at}
    shard_bytes = sum(path.stat().st_size for path in folder.glob("scores/*"))

    names, labels = make_names(num_videos), make_labels(num_videos, num_classes)
    merged = measure(lambda: write_result(folder, record, names=names, labels=labels, fusion="sum"))
    reported = measure(lambda: write_report(folder, training=None, thumbnails=None))
    return {
        "videos": num_videos,
        "written": written,
        "merged": merged,
        "reported": reported,
        "bytes_per_video": shard_bytes / num_videos,
        "predictions_bytes_per_video": (folder / "predictions.parquet").stat().st_size / num_videos,
        "report_megabytes": (folder / "report.html").stat().st_size / 1e6,
    }


def main() -> None:
    """Print one row for each number of videos, each measured in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="*", type=int, default=[100_000, 1_000_000])
    parser.add_argument("--classes", type=int, default=400)
    parser.add_argument("--folder", help="folder with enough room, a temporary one by default")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()

    if args.json:
        print(json.dumps(run(args.videos[0], args.classes, Path(args.folder))))
        return

    head = "videos", "write s", "merge s", "merge MB", "report s", "report MB", "bytes/video"
    print("".join(f"{word:>13}" for word in head))
    for num_videos in args.videos:
        folder = Path(tempfile.mkdtemp(dir=args.folder, prefix="evaluation_"))
        try:
            command = [sys.executable, __file__, str(num_videos), "--classes", str(args.classes)]
            command += ["--folder", str(folder), "--json"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        row = json.loads(done.stdout.splitlines()[-1])
        cells = (
            row["written"]["seconds"],
            row["merged"]["seconds"],
            row["merged"]["megabytes"],
            row["reported"]["seconds"],
            row["reported"]["megabytes"],
            row["bytes_per_video"] + row["predictions_bytes_per_video"],
        )
        print(f"{num_videos:>13,}" + "".join(f"{cell:>13.1f}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
