"""The live bar of a run in a terminal: epochs, validation, test, failures and signals."""

import os
import pty
import re
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest

from tests.screen import read_all, rows_of, set_columns

Arguments = Callable[..., list[str]]


class Shown(NamedTuple):
    """The exit statuses of a run, and the rows that its terminal shows."""

    statuses: list[int]
    rows: list[str]

    @property
    def bars(self) -> list[str]:
        return [row for row in self.rows if re.match(r"(train|validate|rehearse|test)\b.*\|", row)]


Show = Callable[..., Shown]


@pytest.fixture
def show(serve: Callable[..., list[int]]) -> Show:
    """Run tools/run_net.py in a terminal."""

    def run(
        command: list[str], *, columns: int = 200, num_processes: int = 1, **options: Any
    ) -> Shown:
        near_end, far_end = pty.openpty()
        set_columns(far_end, columns)
        read: list[bytes] = []
        reader = Thread(target=lambda: read.append(read_all(near_end)), daemon=True)
        reader.start()

        statuses = serve(
            command,
            num_processes=num_processes,
            output=Path(os.ttyname(far_end)),
            environment={"TERM": "xterm"},
            **options,
        )
        os.close(far_end)
        reader.join()
        os.close(near_end)
        return Shown(statuses, rows_of(read[0], columns=columns))

    return run


def log_without_numbers(folder: Path) -> list[str]:
    lines = (folder / "stdout.log").read_text().replace(folder.name, "RUN").splitlines()
    numbers = re.compile(r"-?\d[\d.:]*(e-\d+)?")
    return [numbers.sub("N", line) for line in lines if "slowfast 0." not in line]


def test_a_run_shows_one_bar_after_the_other(
    show: Show, serve: Callable[..., list[int]], arguments: Arguments, tmp_path: Path
) -> None:
    settings = {"TRAIN__BATCH_SIZE": 8, "TRAIN__REHEARSE": True, "TEST__ENABLE": True}
    settings |= {"TEST__BATCH_SIZE": 4, "TEST__VIEWS_PER_FORWARD": 4}
    shown = show(arguments("shown", 1, **settings), columns=80)
    assert shown.statuses == [0]
    assert [bar.split(" |")[0] for bar in shown.bars] == [
        "rehearse val",
        "rehearse test",
        "train epoch 1/2",
        "train epoch 2/2",
        "validate epoch 2",
        "test",
    ]
    for bar in shown.bars:
        assert re.search(r"█\| (\d+)/\1 .*data wait \d+% ETA [\d:]+$", bar)
        assert ("loss" in bar and "top1" in bar) == bar.startswith(("train", "validate"))

    lines = [row[9:] for row in shown.rows if re.match(r"\d\d:\d\d:\d\d ", row)]
    assert len([line for line in lines if line.startswith("saved ")]) == 2
    assert len([line for line in lines if line.startswith("first step done in ")]) == 1
    assert not [line for line in lines if "data wait" in line]

    assert serve(arguments("piped", 1, **settings), num_processes=1) == [0]
    assert log_without_numbers(tmp_path / "shown") == log_without_numbers(tmp_path / "piped")


@pytest.mark.parametrize(
    ("name", "when", "status", "last_bar"),
    [
        ("SIGTERM", "training", 75, "train epoch 1/1"),
        ("SIGINT", "120 bytes of scores", 75, "test"),
    ],
)
def test_a_signal_ends_the_bar(
    show: Show, arguments: Arguments, name: str, when: str, status: int, last_bar: str
) -> None:
    settings = {"TEST__ENABLE": True, "TEST__BATCH_SIZE": 1, "SOLVER__MAX_EPOCH": 1}
    settings["DATA_LOADER__NUM_WORKERS"] = 0
    shown = show(arguments("run", 1, **settings), signal=name, when=when)
    assert shown.statuses == [status]
    assert shown.bars[-1].startswith(f"{last_bar} |")
    *_, last, end = shown.rows
    assert end == ""
    assert re.match(rf"(\d\d:\d\d:\d\d )?stopped by {name}", last)


def test_a_non_finite_stop_ends_the_bar(show: Show, faulty_arguments: Arguments) -> None:
    command = [*faulty_arguments(first=2, last=15), "SOLVER.MAX_BAD_STEPS", "3"]
    shown = show(command, columns=200)
    assert shown.statuses == [1]
    assert re.match(r"train epoch 1/2 \|█.*\d/16 loss \S+ top1 \S+ lr \S+ .* ETA ", shown.bars[-1])
    assert shown.rows[-1] == ""
    after = shown.rows.index(shown.bars[-1]) + 1
    assert "error: 3 steps in a row up to epoch 1, step" in "".join(shown.rows[after:])


def test_another_process_that_fails_ends_the_bar(show: Show, faulty_arguments: Arguments) -> None:
    command = faulty_arguments(kind="raise", num_processes=2, rank=1, first=3, last=3)
    shown = show(command, num_processes=2)
    assert shown.statuses == [1, 1]
    (bar,) = shown.bars
    after = shown.rows[shown.rows.index(bar) + 1 :]
    assert after[0].startswith("rank 0 on ")
    assert after[1].startswith("rank 1 on ")
    assert after[-2:] == ["ArithmeticError: a fault on purpose", ""]
