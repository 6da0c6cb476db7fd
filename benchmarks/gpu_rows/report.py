"""Table of rows that runs each of them, contains its errors and is written after each result."""

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

from benchmarks.gpu_rows.workload import Workload

OK = "ok"
FAILED = "FAILED"
NOT_RUN = "not run"
MEASURED = ""  # A measurement without a limit.


class Result(NamedTuple):
    """One line of the table."""

    name: str
    measured: str
    verdict: str = MEASURED


class Row(NamedTuple):
    """A check or a measurement that yields one or more lines."""

    name: str
    results: Callable[[Workload], Iterator[Result]]
    needs_gpu: bool = False


def verdict(is_right: bool) -> str:
    """Return the verdict of a check."""
    return OK if is_right else FAILED


class Report:
    """Table of the results so far.

    Args:
        heading: Sentence about the machine.
        path: File to write the table to after each line. None for no file.
    """

    def __init__(self, heading: str, *, path: Path | None) -> None:
        self._heading = heading
        self._path = path
        self._results: list[Result] = []
        self._started = time.monotonic()

    @property
    def has_failed(self) -> bool:
        """Whether a check failed or a row raised an error."""
        return any(result.verdict == FAILED for result in self._results)

    def add(self, result: Result) -> None:
        """Add a line, print it to stderr and rewrite the file."""
        self._results.append(result)
        seconds = time.monotonic() - self._started
        line = f"[{seconds:5.0f} s] {result.verdict:<7} {result.name}: {result.measured}"
        print(line, file=sys.stderr, flush=True)
        if self._path is not None:
            self._path.write_text(self.markdown())

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [self._heading, "", "| row | measured | verdict |", "| --- | --- | --- |"]
        for result in self._results:
            cells = [_cell(text) for text in result]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def run_rows(rows: Sequence[Row], workload: Workload, *, minutes: float, report: Report) -> None:
    """Run rows one after another.

    If a row raises an error, it is reported as failed and the next row runs. GPU time is expensive,
    and the other rows are still worth knowing.

    Args:
        rows: Rows in order.
        workload: Device and sizes.
        minutes: Time after which no row starts.
        report: Report to add the results to.
    """
    started = time.monotonic()
    for row in rows:
        if row.needs_gpu and not workload.is_gpu:
            report.add(Result(row.name, "needs a GPU", NOT_RUN))
            continue
        if time.monotonic() - started > minutes * 60:
            report.add(Result(row.name, f"no time left after {minutes:g} minutes", NOT_RUN))
            continue
        try:
            for result in row.results(workload):
                report.add(result)
        except Exception as error:
            traceback.print_exc()
            report.add(Result(row.name, _reason(error), FAILED))
        if not workload.is_gpu:
            continue
        try:
            _clean_up()
        except RuntimeError as error:
            # After an illegal memory access, for example, the process cannot use its GPU anymore.
            traceback.print_exc()
            report.add(Result(f"all rows after {row.name}", _reason(error), FAILED))
            return


def describe_machine(device: torch.device) -> str:
    """Return the card, the driver and the version of torch, as the heading of the table."""
    versions = f"torch {torch.__version__}"
    if device.type != "cuda":
        threads = torch.get_num_threads()
        return (
            f"CPU, {threads} threads, {versions}. Small inputs, with times unlike those of a GPU."
        )
    properties = torch.cuda.get_device_properties(device)
    cudnn = torch.backends.cudnn.version()
    memory = f"{properties.total_memory / 2**30:.0f} GiB"
    return (
        f"{properties.name}, {memory}, driver {_driver_version()}, {versions}, "
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
    """Free the GPU memory that a row left behind, so that all rows start alike."""
    torch._dynamo.reset()
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
