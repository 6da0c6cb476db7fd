"""The live bar: what a terminal shows of a loop, of its log lines, and of its end."""

import logging
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slowfast.utils import terminal
from slowfast.utils.progress import Progress, log_to_file, start_logging
from slowfast.utils.progress_bar import progress_bar
from tests.screen import read_all, rows_of, run_in_terminal, set_columns

logger = logging.getLogger("slowfast.test")
LOOP = """import sys, warnings
from slowfast.utils.progress import Progress, start_logging
start_logging(is_main=True)
for step in (steps := Progress(range(2), "train", num_steps=2, period=1)):
"""
TRAINED = {"loss": 1.25, "top1": 33.3333, "lr": 6.25e-05, "grad_norm": 1.5}


class Terminal:
    """A terminal that is the standard output and error of this process."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self._near_end, self.far_end = pty.openpty()
        set_columns(self.far_end, columns)
        self.stream = open(self.far_end, "w")  # noqa: SIM115
        self._read: list[bytes] = []
        self._reader = threading.Thread(
            target=lambda: self._read.append(read_all(self._near_end)), daemon=True
        )
        self._reader.start()

    def hang_up(self) -> None:
        """Close the terminal while it is in use."""
        os.close(self._near_end)

    def written(self) -> bytes:
        """Close the terminal and return all that was written."""
        self.stream.close()
        self._reader.join()
        return self._read[0].replace(b"\r\n", b"\n")

    def rows(self) -> list[str]:
        """Close the terminal and return the rows that it shows, without the last, empty one."""
        *rows, last = rows_of(self.written().replace(b"\n", b"\r\n"), columns=self.columns)
        assert last == "", "the cursor is not at the start of a line"
        return rows


@pytest.fixture
def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Terminal]:
    """Make standard output and error a terminal, and log to it."""

    def start(*, columns: int = 80, is_main: bool = True) -> Terminal:
        opened = Terminal(columns)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stdout", opened.stream)
        monkeypatch.setattr(sys, "stderr", opened.stream)
        start_logging(is_main=is_main)
        return opened

    return start


def train(*, num_steps: int = 4, period: int = 2, steps_after: int = 0) -> None:
    steps = Progress(
        range(num_steps),
        "train epoch 1/2",
        num_steps=num_steps,
        period=period,
        steps_after=steps_after,
    )
    for _ in steps:
        if steps.line_is_due():
            steps.write_line(**TRAINED)


def test_a_wide_bar_shows_all_values_data_wait_and_eta(
    open_terminal: Callable[..., Terminal],
) -> None:
    opened = open_terminal(columns=200)
    train()
    (row,) = opened.rows()
    assert row.startswith("train epoch 1/2 |█████████████")
    values = "loss 1.25 top1 33.3 lr 6.25e-5 grad_norm 1.5 data wait "
    assert f"█| 4/4 {values}" in row
    assert row.endswith("% ETA 00:00")
    assert len(row) == 199


def test_a_narrow_bar_leaves_out_the_last_values(open_terminal: Callable[..., Terminal]) -> None:
    opened = open_terminal(columns=80)
    train()
    (row,) = opened.rows()
    assert row.startswith("train epoch 1/2 |████")
    assert "| 4/4 loss 1.25 top1 33.3 data wait " in row
    assert "lr" not in row
    assert row.endswith("% ETA 00:00")
    assert len(row) == 79


@pytest.mark.parametrize("columns", [1, 10, 18, 25, 40, 60])
def test_a_bar_stays_within_one_row(columns: int, open_terminal: Callable[..., Terminal]) -> None:
    opened = open_terminal(columns=columns)
    train()
    (row,) = opened.rows()
    assert row.startswith("train epoch 1/2 4/4"[: columns - 1].strip()[:15])
    assert len(row) < max(columns, 2)


def test_a_bar_follows_the_width_of_the_terminal(open_terminal: Callable[..., Terminal]) -> None:
    opened = open_terminal(columns=200)
    for step in (steps := Progress(range(2), "test", num_steps=2, period=1)):
        set_columns(opened.far_end, 200 if step == 0 else 60)
        steps.write_line()
    drawn = opened.written().decode().replace("\x1b[K", "").split("\r")
    lengths = [len(text.strip("\n")) for text in drawn if text]
    assert lengths[0] == 199
    assert lengths[-1] == 59


def test_lines_appear_above_the_bar(open_terminal: Callable[..., Terminal]) -> None:
    opened = open_terminal()
    steps = Progress(range(3), "test", num_steps=3, period=1)
    for step in steps:
        logger.info("a line of step %d", step)
        logger.warning("first row of a table\n  second row")
        print("a print")
        print("a part", end="", file=sys.stderr)
        print(" and the rest", file=sys.stderr)
        steps.write_line()

    rows = [row[9:] if row[2:3] == ":" else row for row in opened.rows()]
    lines = ["first row of a table", "  second row", "a print", "a part and the rest"]
    expected = [line for step in range(3) for line in (f"a line of step {step}", *lines)]
    assert rows[:-1] == expected
    assert rows[-1].startswith("test |█")


def test_a_line_without_an_end_follows_the_bar(open_terminal: Callable[..., Terminal]) -> None:
    opened = open_terminal()
    for _ in Progress(range(2), "test", num_steps=2, period=1):
        print("...", end="")
    print("done")
    bar, line = opened.rows()
    assert bar.startswith("test |█")
    assert line == "......done"


def test_a_line_of_another_process_takes_the_row_of_the_bar(
    open_terminal: Callable[..., Terminal],
) -> None:
    opened = open_terminal(is_main=False)
    opened.stream.write("train epoch 1/2 |███     | 5/10")  # by the main process
    logger.warning("from rank 1")
    train()
    (row,) = opened.rows()
    assert row[9:] == "from rank 1"


@pytest.mark.parametrize("in_terminal", [True, False])
def test_the_log_file_has_the_lines(
    in_terminal: bool,
    open_terminal: Callable[..., Terminal],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if in_terminal:
        opened = open_terminal()
    else:
        start_logging(is_main=True)
    log_to_file(tmp_path / "stdout.log")
    train()
    lines = (tmp_path / "stdout.log").read_text().splitlines()
    assert len(lines) == 2
    for step, line in zip((2, 4), lines, strict=True):
        assert f" slowfast.utils.progress: train epoch 1/2  {step}/4  loss 1.2500  top1 33" in line

    shown = opened.rows() if in_terminal else capsys.readouterr().out.splitlines()
    assert len(shown) == (1 if in_terminal else 2)


@pytest.mark.parametrize(
    "environment", [{"TERM": "dumb"}, {"TERM": "unknown"}, {"TQDM_DISABLE": "1"}], ids=str
)
def test_a_terminal_without_a_bar_shows_the_lines(
    environment: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", f"{LOOP}    steps.write_line()\n"]
    output = run_in_terminal(command, columns=80, folder=tmp_path, environment=environment)
    text = output.written.decode().replace("\r\n", "\n")
    assert [line[9:19] for line in text.splitlines()] == ["train  1/2", "train  2/2"]
    assert not {"\r", "\x1b"} & set(text)


def test_a_warning_of_a_library_appears_above_the_bar(tmp_path: Path) -> None:
    loop = LOOP + "    warnings.warn(f'careful {step}', stacklevel=1)\n"
    output = run_in_terminal([sys.executable, "-c", loop], columns=80, folder=tmp_path)
    *warned, bar, _ = rows_of(output.written, columns=80)
    assert warned == ["<string>:5: UserWarning: careful 0", "<string>:5: UserWarning: careful 1"]
    assert bar.startswith("train |██")


def test_a_process_without_standard_streams_goes_through_its_steps() -> None:
    script = f"{LOOP}    steps.write_line()\nassert sys.stdout is None"
    command = f"exec '{sys.executable}' -c '{script.replace(chr(39), chr(34))}' >&- 2>&-"
    assert subprocess.run(command, shell=True).returncode == 0


def test_lines_need_no_tqdm() -> None:
    script = f"{LOOP}    steps.write_line()\nassert 'tqdm' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("data wait") == 2


def test_no_color_needs_no_care(
    open_terminal: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    opened = open_terminal()
    train()
    assert b"\x1b" not in opened.written().replace(b"\x1b[K", b"")


def fail() -> None:
    for _ in Progress(range(3), "train", num_steps=3, period=1):
        raise FloatingPointError("the loss is not finite")


def stop() -> None:
    for _ in Progress(range(3), "train", num_steps=3, period=1):
        break


def fail_to_load() -> None:
    def load() -> Iterator[int]:
        yield 0
        raise FloatingPointError("no such file")

    list(Progress(load(), "train", num_steps=3, period=1))


@pytest.mark.parametrize("end", [fail, stop, fail_to_load])
def test_a_bar_ends_with_its_loop(
    end: Callable[[], None], open_terminal: Callable[..., Terminal]
) -> None:
    opened = open_terminal()
    before = sys.stdout, sys.stderr
    try:
        end()
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
    assert (sys.stdout, sys.stderr) == before

    for _ in Progress(range(2), "validate", num_steps=2, period=1):
        pass
    print("done")
    first, *errors, second, last = opened.rows()
    assert first.startswith("train |")
    assert errors == [] or errors[0].startswith("error: ")
    assert second.startswith("validate |██")
    assert last == "done"


def test_a_bar_that_was_left_open_ends_before_the_next(
    open_terminal: Callable[..., Terminal],
) -> None:
    opened = open_terminal()
    left = iter(Progress(range(3), "train", num_steps=3, period=1))
    next(left)
    train()
    logger.info("done")
    del left
    rows = opened.rows()
    assert [row[:7] for row in rows[:2]] == ["train |", "train e"]
    assert rows[2].endswith("done")


def test_a_forked_process_leaves_the_bar_alone(open_terminal: Callable[..., Terminal]) -> None:
    opened = open_terminal()
    for _ in Progress(range(1), "test", num_steps=1, period=1):
        child = os.fork()
        if child == 0:
            logger.warning("from a worker")
            print("a print of a worker", file=sys.stderr)
            terminal.close_bar()
            os._exit(0)
        os.waitpid(child, 0)
    first, second, bar = opened.rows()
    assert first.endswith("from a worker")
    assert second == "a print of a worker"
    assert bar.startswith("test |█")


def test_a_terminal_that_is_closed_is_no_error(open_terminal: Callable[..., Terminal]) -> None:
    opened = open_terminal()
    num_done = 0
    for num_done, _ in enumerate(Progress(range(20), "test", num_steps=20, period=1), start=1):
        if num_done == 5:
            opened.hang_up()
        time.sleep(0.02)
    assert num_done == 20


def test_the_eta_counts_the_steps_of_later_epochs(open_terminal: Callable[..., Terminal]) -> None:
    opened = open_terminal()
    steps = Progress(range(4), "train", num_steps=4, period=1, steps_after=72_000)
    started_at = time.perf_counter()
    for _ in steps:
        time.sleep(0.05)
    seconds = time.perf_counter() - started_at

    (row,) = opened.rows()
    hours, minutes, rest = map(int, row.split("ETA ")[1].split(":"))
    eta = 3600 * hours + 60 * minutes + rest
    assert 3600 <= eta <= 72_000 * seconds / 4


def test_a_resumed_loop_starts_where_it_was(open_terminal: Callable[..., Terminal]) -> None:
    opened = open_terminal()
    for _ in Progress(range(2), "train", num_steps=12, period=5, first=10):
        pass
    written = opened.written().decode()
    assert "| 10/12 " in written.split("\x1b[K")[0]
    assert "| 12/12 " in written.split("\x1b[K")[-2]


def test_a_tool_prints_above_its_bar(open_terminal: Callable[..., Terminal]) -> None:
    opened = open_terminal()
    with progress_bar("predict", total=None, unit="video") as bar:
        for name in ("a.mp4", "b.mp4"):
            print(f"{name}: diving")
            bar.update()
    first, second, last = opened.rows()
    assert (first, second) == ("a.mp4: diving", "b.mp4: diving")
    assert last.startswith("predict: 2video [00:0")
