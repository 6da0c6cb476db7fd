"""Progress lines on the console, and json_stats in the log file."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import simplejson

from slowfast.utils.progress import Progress, log_json_stats, log_to_file, start_logging


class Slow:
    """A loader that waits before each item."""

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[int]:
        for number in range(5):
            time.sleep(0.02)
            yield number


def test_a_line_has_values_step_time_data_wait_and_eta(
    caplog: pytest.LogCaptureFixture,
) -> None:
    records = []
    with caplog.at_level(logging.INFO):
        progress = Progress(Slow(), "train epoch 1/2", num_steps=5, period=2, steps_after=5)
        for _ in progress:
            time.sleep(0.01)
            if progress.line_is_due():
                records.append(progress.write_line(loss=1.25))

    assert [record["step"] for record in records] == [2, 4, 5]
    for record in records:
        assert record["data_wait_seconds"] >= 0.019
        assert record["step_seconds"] - record["data_wait_seconds"] >= 0.009
    assert records[0]["eta_seconds"] == pytest.approx(records[0]["step_seconds"] * 8)
    assert "train epoch 1/2  2/5  loss 1.2500  step 0.0" in caplog.messages[0]


def test_json_stats_only_go_to_the_log_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start_logging(is_main=True)
    logging.getLogger("x").info("a line")
    assert not list(tmp_path.iterdir())
    log_to_file(tmp_path / "stdout.log")
    log_json_stats({"_type": "train_step", "loss": 0.123456789, "lr": float("nan")})
    shown, kept = capsys.readouterr().out, (tmp_path / "stdout.log").read_text()
    assert "a line" in shown
    assert "json_stats" not in shown
    assert "a line" in kept
    record = simplejson.loads(kept.split("json_stats: ")[1])
    assert record == {"_type": "train_step", "loss": 0.123457, "lr": None}


def test_other_processes_only_show_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start_logging(is_main=False)
    log_to_file(tmp_path / "out/stdout.log")
    logging.getLogger("x").info("quiet")
    logging.getLogger("x").warning("loud")
    shown = capsys.readouterr().out
    assert "quiet" not in shown
    assert "loud" in shown
    assert not (tmp_path / "out").exists()
