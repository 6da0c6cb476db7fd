"""The work below is done in real processes, which die and hang as decoders do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from slowfast.utils.pool import Failure, map_in_processes


def work(text: str) -> str:
    """Return the text in capitals, unless it names a disaster."""
    if text == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if text == "exit":
        os._exit(3)
    if text == "hang":
        time.sleep(600)
    if text == "raise":
        raise LookupError("no such thing")
    return text.upper()


def write_where(path: str, *, folder: str) -> int:
    Path(folder, path).write_text(os.getcwd())
    return os.getpid()


def test_a_lost_item_is_named_with_its_cause_and_the_others_go_on() -> None:
    items = ["a", "segfault", "b", "exit", "hang", "c", "raise", *"defgh"]
    outcomes = dict(map_in_processes(work, items, num_workers=2, timeout=1))
    assert outcomes == {
        **{letter: letter.upper() for letter in "abcdefgh"},
        "segfault": Failure("crashed", "its process was ended by SIGSEGV"),
        "exit": Failure("crashed", "its process ended with status 3"),
        "hang": Failure("timeout", "not done after 1 s"),
        "raise": Failure("crashed", "LookupError: no such thing"),
    }


def test_processes_share_the_work_in_the_folder_of_their_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    items = [str(number) for number in range(40)]
    results = dict(map_in_processes(partial(write_where, folder="out"), items, num_workers=3, timeout=60))
    assert results.keys() == set(items)
    assert 2 <= len(set(results.values())) <= 3
    assert os.getpid() not in results.values()
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(items)


def test_items_are_taken_only_as_processes_become_free() -> None:
    taken = []

    def letters() -> Iterator[str]:
        for letter in "abcdefgh":
            taken.append(letter)
            yield letter

    results = map_in_processes(work, letters(), num_workers=2, timeout=60)
    next(results)
    assert len(taken) == 3
    results.close()


def test_no_process_is_left_when_the_caller_stops_or_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, time\n"
        "from slowfast.utils.pool import map_in_processes\n"
        "def work(item):\n"
        "    os.write(1, f'{os.getpid()}\\n'.encode())\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    list(map_in_processes(work, range(1000), num_workers=2, timeout=60))\n"
    )
    for stop in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        workers = [int(process.stdout.readline()) for _ in range(2)]
        if stop == signal.SIGKILL:
            process.kill()
        else:
            os.killpg(process.pid, stop)  # as Ctrl-C does
        process.wait(timeout=10)
        process.stdout.close()
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_no_processes_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="0 processes are to do the work; use 1 or more"):
        list(map_in_processes(work, ["a"], num_workers=0, timeout=1))
