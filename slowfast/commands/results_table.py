"""Table of submitted jobs: their states, and the test results in their output folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slowfast.distributed.submitted_job import SubmittedJob
from slowfast.utils.files import read_json

_COLUMNS = ("run", "job", "state", "starts", "top-1", "top-5", "scored")


def format_table(jobs: Sequence[SubmittedJob], *, states: Sequence[str]) -> str:
    """Return a table with one line for each job.

    Args:
        jobs: Jobs of a submission.
        states: State of each job.

    Raises:
        ValueError: If the result of a job is damaged.
    """
    rows = [_COLUMNS]
    for job, state in zip(jobs, states, strict=True):
        num_starts = max((task.starts for task in job.statuses()), default=0)
        name = job.label or Path(job.output_dir).name
        rows.append((name, job.job_id, state, str(num_starts), *_read_scores(job.output_dir)))

    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_format_row(row, widths) for row in rows)


def _read_scores(output_dir: str) -> tuple[str, str, str]:
    path = Path(output_dir, "test/metrics.json")
    result: dict[str, Any] = {}
    if path.exists():
        result = read_json(path, remedy="Test again to write it anew")

    scored = f"{result['num_scored']}/{result['num_videos']}" if "num_scored" in result else "-"
    return _format_percent(result, "top1"), _format_percent(result, "top5"), scored


def _format_percent(result: dict[str, Any], name: str) -> str:
    return f"{result[name]:.2f}" if name in result else "-"


def _format_row(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(padded).rstrip()
