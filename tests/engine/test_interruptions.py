"""Signals: a run that is stopped or killed in any phase resumes and ends bit-equal."""

import contextlib
import fcntl
import os
import pty
import random
import signal
import subprocess
import sys
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slowfast.distributed.signals import CTRL_C_STATUS, INTERRUPTED_STATUS, ONE_REQUEST_SECONDS
from slowfast.utils.checkpoint_files import newest_checkpoint
from tests.engine.equal_runs import assert_equal_ends
from tests.engine.outputs import read_logits

Serve = Callable[..., list[int]]
Arguments = Callable[..., list[str]]

REPOSITORY = Path(__file__).parents[2]

# Exit statuses after each signal.
EXPECTED = {
    "SIGKILL": {-9},
    "SIGTERM": {INTERRUPTED_STATUS},
    "SIGUSR2": {INTERRUPTED_STATUS},
    "SIGHUP": {INTERRUPTED_STATUS},
    "SIGINT": {INTERRUPTED_STATUS, CTRL_C_STATUS},
}

PHASES = ("start", "rehearsal", "training", "validation", "saving", "test")
ONE_EACH = dict.fromkeys(PHASES, 1)
MANY = dict(zip(PHASES, (5, 7, 10, 7, 7, 4), strict=True))  # 40 signals

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGUSR2", "SIGHUP")


def plan_signals(rng: random.Random, num_signals: dict[str, int]) -> list[tuple[str, str]]:
    """Return phases and their signals: rehearsals first, tests last, the others shuffled."""
    middle = [phase for phase in PHASES if phase not in ("rehearsal", "test")]
    middle = [phase for phase in middle for _ in range(num_signals[phase])]
    rng.shuffle(middle)
    phases = ["rehearsal"] * num_signals["rehearsal"] + middle + ["test"] * num_signals["test"]

    names = [SIGNALS[index % len(SIGNALS)] for index in range(len(phases))]
    rng.shuffle(names)
    return list(zip(phases, names, strict=True))


def listens(pid: int) -> bool:
    """Whether a process has handlers for SIGTERM and SIGHUP, the first and the last it installs."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return all(caught >> (number - 1) & 1 for number in (signal.SIGTERM, signal.SIGHUP))


def writers_of(path: Path) -> list[int]:
    """Return the processes that have a file open, such as the output of a run."""
    pids = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # The process has ended.
            if os.readlink(link) == str(path):
                pids.append(int(link.parts[2]))
    return pids


def leftovers_in(folder: Path) -> set[Path]:
    """Return unfinished files and the rehearsal, which only a killed process leaves."""
    return {*folder.rglob("*.unfinished"), *folder.glob("rehearsal")}


def wait_until_gone(path: Path, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while pids := writers_of(path):
        commands = [Path(f"/proc/{pid}/cmdline") for pid in pids]
        assert time.monotonic() < deadline, [path.read_text() for path in commands if path.exists()]
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("num_processes", "num_signals", "num_epochs"),
    [
        pytest.param(1, ONE_EACH, 3),
        pytest.param(1, MANY, 32, marks=pytest.mark.soak),
        pytest.param(2, MANY, 32, marks=pytest.mark.soak),
    ],
)
def test_a_run_that_is_hit_in_every_phase_ends_bit_equal(
    serve: Serve,
    arguments: Arguments,
    tmp_path: Path,
    num_processes: int,
    num_signals: dict[str, int],
    num_epochs: int,
) -> None:
    settings: dict[str, Any] = {
        "SOLVER__MAX_EPOCH": num_epochs,
        "TRAIN__BATCH_SIZE": 4,
        "TRAIN__CHECKPOINT_MINUTES": 0.001,
        "TRAIN__KEEP_LAST": 2,
        "TRAIN__EVAL_PERIOD": 2,
        "TRAIN__REHEARSE": True,
        "TEST__ENABLE": True,
        "TEST__TEST_BEST": True,
    }
    success = [0] * num_processes
    quiet, hit = tmp_path / "quiet", tmp_path / "hit"
    command = arguments("quiet", num_processes, **settings)
    assert serve(command, num_processes=num_processes) == success

    command, output = arguments("hit", num_processes, **settings), tmp_path / "output"
    num_hits: Counter[str] = Counter()
    for phase, name in plan_signals(random.Random(num_processes), num_signals):
        leftovers = leftovers_in(hit)
        stop = {"signal": name, "when": phase}
        statuses = serve(command, num_processes=num_processes, output=output, **stop)
        is_expected = statuses == success or set(statuses) <= EXPECTED[name]
        assert is_expected, (phase, name, output.read_text()[-2000:])

        num_hits[phase] += statuses[0] != 0
        if name != "SIGKILL":
            wait_until_gone(output, seconds=60)
            assert leftovers_in(hit) <= leftovers  # Only killed processes leave any.

    assert not unexpected_tracebacks(output.read_text())
    print("signals that hit the run, by phase:", dict(num_hits))
    assert all(num_hits[phase] for phase in num_signals), num_hits

    assert serve(command, num_processes=num_processes, output=output) == success
    wait_until_gone(output, seconds=30)  # Workers look for a killed parent every few seconds.
    assert_equal_ends(quiet, hit)
    assert files_in(quiet) == files_in(hit)
    assert np.array_equal(read_logits(quiet), read_logits(hit))


def unexpected_tracebacks(printed: str) -> list[str]:
    """Return all tracebacks but those of a worker that hands a batch to a killed process."""
    tracebacks = printed.split("Traceback")[1:]
    return [text for text in tracebacks if "resource_sharer" not in text[:400]]


def files_in(folder: Path) -> list[Path]:
    """Return the files of a run but for its score shards: each start of a test writes one."""
    shards = folder / "test/scores"
    paths = (path for path in folder.rglob("*") if path.parent != shards)
    return sorted(path.relative_to(folder) for path in paths)


@pytest.mark.parametrize(
    ("phase", "name", "status", "line"),
    [
        (
            "rehearsal",
            "SIGTERM",
            75,
            "stopped by SIGTERM during the rehearsal: nothing to save. Run the same command again",
        ),
        (
            "rehearsal",
            "SIGINT",
            130,
            "stopped by SIGINT during the rehearsal: nothing to save. Run the same command again",
        ),
        (
            "validation",
            "SIGUSR2",
            75,
            "stopped by SIGUSR2. The same command resumes at epoch 2, step 1",
        ),
        ("training", "SIGHUP", 75, "stopped by SIGHUP. The same command resumes at epoch "),
        (
            "test",
            "SIGINT",
            75,
            "stopped by SIGINT during the test: the scores so far are saved. "
            "The same command continues the test",
        ),
        (
            "test alone",
            "SIGINT",
            75,
            "stopped by SIGINT during the test: the scores so far are saved. "
            "The same command continues the test",
        ),
        (
            "test alone",
            "SIGHUP",
            75,
            "stopped by SIGHUP during the test: the scores so far are saved. "
            "The same command continues the test",
        ),
    ],
)
def test_a_signal_ends_a_phase_in_one_line(
    serve: Serve,
    arguments: Arguments,
    tmp_path: Path,
    make_once: Callable[..., Path],
    phase: str,
    name: str,
    status: int,
    line: str,
) -> None:
    run, output = tmp_path / "run", tmp_path / "output"
    settings: dict[str, Any] = {
        "TRAIN__REHEARSE": True,
        "TRAIN__BATCH_SIZE": 8,
        "TRAIN__CHECKPOINT_PERIOD": 10,
        "TRAIN__EVAL_PERIOD": 1,
        "TEST__ENABLE": True,
        "SOLVER__MAX_EPOCH": 3 if phase == "training" else 1,
    }
    command = arguments("run", 1, **settings)
    if phase == "test alone":
        train = [*command, "TEST.ENABLE", "False"]
        make_once("run", key="for test alone", make=lambda: serve(train, num_processes=1))
        command += ["TRAIN.ENABLE", "False"]

    stop = {"signal": name, "when": phase.removesuffix(" alone")}
    statuses = serve(command, num_processes=1, output=output, **stop)
    printed = output.read_text()
    assert statuses == [status], printed
    assert line in printed.splitlines()[-1]
    assert "Traceback" not in printed
    assert not (run / "rehearsal").exists()
    assert not list(run.glob("*.lock"))
    wait_until_gone(output, seconds=60)
    if phase == "validation":
        assert serve(command, num_processes=1, output=output) == [0]
        assert output.read_text().count("validation after epoch 1: ") == 1


def test_a_hangup_that_was_ignored_at_the_start_stays_ignored(
    serve: Serve, arguments: Arguments, tmp_path: Path
) -> None:
    command = arguments("run", 1, SOLVER__MAX_EPOCH=1, TRAIN__BATCH_SIZE=8)
    stop = {"signal": "SIGHUP", "when": "training", "ignored": "SIGHUP"}
    assert serve(command, num_processes=1, **stop) == [0]


@pytest.mark.soak
def test_a_terminal_that_is_closed_makes_a_run_save(arguments: Arguments, tmp_path: Path) -> None:
    terminal, end = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(end, termios.TIOCSCTTY, 0)

    settings = {"SOLVER__MAX_EPOCH": 1000, "TRAIN__BATCH_SIZE": 8, "TRAIN__REHEARSE": True}
    tool = str(REPOSITORY / "tools/run_net.py")
    command = [sys.executable, tool, *arguments("run", 1, **settings)]
    process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, preexec_fn=take_terminal)
    os.close(end)
    threading.Thread(target=read_all, args=(terminal,), daemon=True).start()

    log = tmp_path / "run/stdout.log"
    while not (log.exists() and "first step done" in log.read_text()):
        assert process.poll() is None
        time.sleep(0.01)
    os.close(terminal)
    assert process.wait(timeout=60) == INTERRUPTED_STATUS
    assert "stopped by SIGHUP. The same command resumes at epoch " in log.read_text()
    assert newest_checkpoint(str(tmp_path / "run"))


def read_all(descriptor: int) -> None:
    """Read all that a process prints on its terminal, so that it never waits for a reader."""
    with contextlib.suppress(OSError):
        while os.read(descriptor, 1 << 16):
            pass


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_signal_during_the_imports_ends_in_one_line(
    arguments: Arguments, name: str, status: int
) -> None:
    command = [sys.executable, str(REPOSITORY / "tools/run_net.py"), *arguments("run", 1)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell or nohup may have started the tests with this signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    while not listens(process.pid):
        assert process.poll() is None
        time.sleep(0.001)

    process.send_signal(signal.Signals[name])
    outputs = process.communicate(timeout=30)
    assert process.returncode == status, outputs
    line = f"stopped by {name} during the start: nothing to save. Run the same command again\n"
    assert outputs == ("", line)


def test_a_second_signal_ends_a_process_at_once(tmp_path: Path) -> None:
    code = (
        "import time\nfrom slowfast.distributed.signals import StopRequest\n"
        "with StopRequest() as request:\n"
        "    print('ready', flush=True)\n"
        "    while not request.is_requested: time.sleep(0.01)\n"
        "    print(request.signal_name, flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR2)
    assert process.stdout.readline() == "SIGUSR2\n"
    # So soon after the first one, it is the same request on another way.
    process.send_signal(signal.SIGUSR2)
    time.sleep(ONE_REQUEST_SECONDS + 0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == -signal.SIGTERM
