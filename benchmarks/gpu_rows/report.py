"""A report of rows: each is run, guarded and written down as soon as it is known."""

import gc
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.gpu_rows.setup import Setup

OK = "ok"
FAILED = "FAILED"
NOT_RUN = "not run"
MEASURED = ""  # A number without a limit.


class Result(NamedTuple):
    """One line of the table."""

    name: str
    measured: str
    verdict: str = MEASURED


class Row(NamedTuple):
    """A check or a measurement, which gives one line or several."""

    name: str
    results: Callable[[Setup], Iterator[Result]]
    needs_gpu: bool = False


def verdict(is_right: bool) -> str:
    """Return the verdict of a check."""
    return OK if is_right else FAILED


class Report:
    """The lines that are known so far.

    Args:
        heading: What the table was measured on, one sentence.
        path: The file to write them to after each line, or None.
    """

    def __init__(self, heading: str, *, path: Path | None) -> None:
        self._heading = heading
        self._path = path
        self._results: list[Result] = []
        self._started = time.monotonic()

    @property
    def has_failed(self) -> bool:
        """Whether a check has failed, or a row could not be finished."""
        return any(result.verdict == FAILED for result in self._results)

    def add(self, result: Result) -> None:
        """Add a line, print it as progress, and write the file anew."""
        self._results.append(result)
        seconds = time.monotonic() - self._started
        note = f"{result.verdict:<7}" if result.verdict else "       "
        print(
            f"[{seconds:5.0f} s] {note} {result.name}: {result.measured}",
            file=sys.stderr,
            flush=True,
        )
        if self._path is not None:
            self._path.write_text(self.markdown())

    def markdown(self) -> str:
        """Return the table."""
        lines = [self._heading, "", "| row | measured | verdict |", "| --- | --- | --- |"]
        for result in self._results:
            cells = [_cell(text) for text in result]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def run_rows(rows: Sequence[Row], setup: Setup, *, minutes: float, report: Report) -> None:
    """Run rows one after another.

    A row that raises is reported as failed, with its reason, and the next one is run: an hour on a
    GPU is expensive, and the other rows are still worth knowing.

    Args:
        rows: The rows, in order.
        setup: The device and the sizes.
        minutes: No row starts later than this.
        report: Takes the lines.
    """
    started = time.monotonic()
    for row in rows:
        if row.needs_gpu and not setup.is_gpu:
            report.add(Result(row.name, "needs a GPU", NOT_RUN))
            continue
        if time.monotonic() - started > minutes * 60:
            report.add(Result(row.name, f"{minutes:g} minutes are over", NOT_RUN))
            continue
        try:
            for result in row.results(setup):
                report.add(result)
        except Exception as error:
            traceback.print_exc()
            report.add(Result(row.name, _reason(error), FAILED))
        if not setup.is_gpu:
            continue
        try:
            _clean_up()
        except (
            RuntimeError
        ) as error:  # As after an illegal access: the process cannot use its GPU any more.
            traceback.print_exc()
            report.add(Result(f"all rows after {row.name}", _reason(error), FAILED))
            return


def describe_machine(device: torch.device) -> str:
    """Return the card, the driver and the version of torch, as the heading of the table."""
    versions = f"torch {torch.__version__}"
    if device.type != "cuda":
        return f"CPU, {torch.get_num_threads()} threads, {versions}: in small, its times say nothing of a GPU."
    properties = torch.cuda.get_device_properties(device)
    cudnn = torch.backends.cudnn.version()
    return (
        f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, driver {_driver_version()}, {versions}, "
        f"CUDA {torch.version.cuda}, cuDNN {cudnn}."
    )


def _driver_version() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    return done.stdout.split("\n")[0].strip() or "unknown"


def _reason(error: Exception) -> str:
    first_line = str(error).strip().split("\n")[0][:200]
    return f"{type(error).__name__}: {first_line}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _clean_up() -> None:
    """Free the memory of the GPU that a row has left, so that the next one starts from the same."""
    torch._dynamo.reset()
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
