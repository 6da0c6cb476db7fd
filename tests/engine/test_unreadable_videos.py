"""Unreadable training videos: a run counts them over restarts and ends with too many."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slowfast.distributed.signals import INTERRUPTED_STATUS

Serve = Callable[..., list[int]]
Arguments = Callable[..., list[str]]


def test_unreadable_videos_are_counted_without_a_log_line(
    serve: Serve, arguments: Arguments, tmp_path: Path, broken_folder: Path
) -> None:
    # 5 of 20 videos are unreadable, and 2 are allowed. Each start runs some steps and is stopped.
    settings: dict[str, Any] = {
        "LOG_PERIOD": 1000,
        "DATA__MAX_BAD_FRACTION": 0.1,
        "DATA__PATH_TO_DATA_DIR": broken_folder,
        "DATA__PATH_PREFIX": broken_folder,
        "DATA__CLASS_NAMES": broken_folder / "classes.txt",
    }
    output = tmp_path / "output"
    command = arguments("run", 1, **settings)
    status, num_starts = INTERRUPTED_STATUS, 0

    while status == INTERRUPTED_STATUS and num_starts < 12:
        num_starts += 1
        stop = {"signal": "SIGTERM", "when": "training"}
        [status] = serve(command, num_processes=1, output=output, **stop)

    assert status == 1
    error = r"error: 3 of 20 training videos could not be read in this epoch"
    assert re.search(error, output.read_text())
