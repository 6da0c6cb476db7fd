"""Runs that are killed, stopped and started again end as if nothing had happened."""

import contextlib
import fcntl
import os
import pty
import random
import re
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
import simplejson
import torch

from slowfast.distributed.signals import CTRL_C_STATUS, INTERRUPTED_STATUS, ONE_REQUEST
from slowfast.utils.checkpoint import checkpoints_of, load_checkpoint, newest_checkpoint
from slowfast.utils.files import read_json

Serve = Callable[..., list[int]]
Arguments = Callable[..., list[str]]
REPOSITORY = Path(__file__).parents[2]
EXPECTED = {  # exit statuses after each signal
    "SIGKILL": {-9},
    "SIGTERM": {INTERRUPTED_STATUS},
    "SIGUSR2": {INTERRUPTED_STATUS},
    "SIGHUP": {INTERRUPTED_STATUS},
    "SIGINT": {INTERRUPTED_STATUS, CTRL_C_STATUS},
}


def assert_same(first: Any, second: Any) -> None:
    """Equal to the bit, through dicts and lists."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple):
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


def assert_same_end(first: Path, second: Path) -> None:
    states = [load_checkpoint(str(newest_checkpoint(str(folder)))) for folder in (first, second)]
    for part in (
        "epoch",
        "step",
        "counters",
        "validations",
        "model_state",
        "ema_state",
        "optimizer_state",
    ):
        assert_same(states[0][part], states[1][part])
    written = [
        read_json(folder / "validation.json", remedy="")["validations"]
        for folder in (first, second)
    ]
    assert written[0] == written[1]


NUM_SIGNALS = {
    "start": 5,
    "rehearsal": 7,
    "training": 10,
    "validation": 7,
    "saving": 7,
    "test": 4,
}  # 40, by phase
FIRST = (
    "start",
    "rehearsal",
)  # phases before the first checkpoint; those of FIRST alone come again after it, too
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGUSR2", "SIGHUP")


def plan_signals(rng: random.Random, num_signals: dict[str, int]) -> list[tuple[str, str]]:
    """Phases with the signal that comes in each: rehearsals first, tests last, the others shuffled."""
    later = [
        phase
        for phase, number in num_signals.items()
        if phase not in ("rehearsal", "test")
        for _ in range(number)
    ]
    rng.shuffle(later)
    phases = ["rehearsal"] * num_signals["rehearsal"] + later + ["test"] * num_signals["test"]
    names = [SIGNALS[number % len(SIGNALS)] for number in range(len(phases))]
    rng.shuffle(names)
    return list(zip(phases, names, strict=True))


def listens(pid: int) -> bool:
    """Whether a process has handlers for SIGTERM and SIGHUP, the first and the last that it gets."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return all(caught >> (number - 1) & 1 for number in (signal.SIGTERM, signal.SIGHUP))


def writers_of(path: Path) -> list[int]:
    """The processes that have a file open, as all processes of a run have their output."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(link) == str(path):
                found.append(int(link.parts[2]))
    return found


def leftovers_in(folder: Path) -> set[Path]:
    """What no process leaves that can clean up: unfinished files, and its rehearsal."""
    return {*folder.rglob("*.unfinished"), *folder.glob("rehearsal")}


def wait_until_gone(path: Path, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while left := writers_of(path):
        assert time.monotonic() < deadline, [
            Path(f"/proc/{pid}/cmdline").read_text() for pid in left
        ]
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("num_processes", "num_signals", "num_epochs"),
    [
        pytest.param(
            1,
            {"start": 1, "rehearsal": 1, "training": 1, "validation": 1, "saving": 1, "test": 1},
            5,
        ),
        pytest.param(1, NUM_SIGNALS, 32, marks=pytest.mark.soak),
        pytest.param(2, NUM_SIGNALS, 32, marks=pytest.mark.soak),
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
    quiet, hit = (arguments(name, num_processes, **settings) for name in ("quiet", "hit"))
    assert serve(quiet, num_processes=num_processes) == [0] * num_processes

    rng, said = random.Random(num_processes), tmp_path / "said"
    counts: Counter[str] = Counter()
    for phase, name in plan_signals(rng, num_signals):
        left_before = leftovers_in(tmp_path / "hit")
        statuses = serve(hit, num_processes=num_processes, signal=name, when=phase, output=said)
        assert statuses == [0] * num_processes or set(statuses) <= EXPECTED[name], (
            phase,
            name,
            said.read_text()[-2000:],
        )
        counts[phase] += statuses[0] != 0
        if name != "SIGKILL":
            wait_until_gone(said, seconds=5)
            assert leftovers_in(tmp_path / "hit") <= left_before  # by a process that was killed
    # A worker that hands over a batch to a process that is killed just then says so, in a thread of Python's own.
    tracebacks = [
        text
        for text in said.read_text().split("Traceback")[1:]
        if "resource_sharer" not in text[:400]
    ]
    assert not tracebacks
    print("signals that hit a run, by phase:", dict(counts))
    assert all(counts[phase] for phase, number in num_signals.items() if number), counts

    assert serve(hit, num_processes=num_processes, output=said) == [0] * num_processes
    wait_until_gone(
        said, seconds=30
    )  # workers of a process that was killed look for it every few seconds
    assert_same_end(tmp_path / "quiet", tmp_path / "hit")
    files = [
        sorted(path.relative_to(folder) for path in folder.rglob("*"))
        for folder in (tmp_path / "quiet", tmp_path / "hit")
    ]
    assert files[0] == files[1]
    scores = [np.load(tmp_path / name / "test/scores.npz") for name in ("quiet", "hit")]
    assert np.array_equal(scores[0]["scores"], scores[1]["scores"])


@pytest.mark.parametrize(
    ("phase", "name", "status", "line"),
    [
        (
            "rehearsal",
            "SIGTERM",
            75,
            "stopped by SIGTERM during the rehearsal: nothing to save; run the same command again",
        ),
        (
            "rehearsal",
            "SIGINT",
            130,
            "stopped by SIGINT during the rehearsal: nothing to save; run the same command again",
        ),
        (
            "validation",
            "SIGUSR2",
            75,
            "stopped by SIGUSR2; the same command resumes at epoch 2, step 1",
        ),
        ("training", "SIGHUP", 75, "stopped by SIGHUP; the same command resumes at epoch "),
        (
            "test",
            "SIGINT",
            75,
            "stopped by SIGINT during the test: the training is saved; the same command tests again",
        ),
        (
            "test alone",
            "SIGINT",
            130,
            "stopped by SIGINT during the test: nothing to save; run the same command again",
        ),
        (
            "test alone",
            "SIGHUP",
            75,
            "stopped by SIGHUP during the test: nothing to save; run the same command again",
        ),
    ],
)
def test_a_signal_ends_a_phase_in_one_line(
    serve: Serve,
    arguments: Arguments,
    tmp_path: Path,
    phase: str,
    name: str,
    status: int,
    line: str,
) -> None:
    settings: dict[str, Any] = {
        "TRAIN__REHEARSE": True,
        "TEST__ENABLE": True,
        "SOLVER__MAX_EPOCH": 1,
    }
    settings |= {"TRAIN__BATCH_SIZE": 8, "TRAIN__CHECKPOINT_PERIOD": 10, "TRAIN__EVAL_PERIOD": 1}
    settings |= {"SOLVER__MAX_EPOCH": 3} if phase == "training" else {}
    said, command = tmp_path / "said", arguments("run", 1, **settings)
    if phase == "test alone":
        assert serve([*command, "TEST.ENABLE", "False"], num_processes=1) == [0]
        command += ["TRAIN.ENABLE", "False"]
    when = phase.removesuffix(" alone")
    assert serve(command, num_processes=1, signal=name, when=when, output=said) == [status], (
        said.read_text()
    )
    assert line in said.read_text().splitlines()[-1]
    assert "Traceback" not in said.read_text()
    assert not (tmp_path / "run/rehearsal").exists()
    assert not list((tmp_path / "run").glob("*.lock"))
    wait_until_gone(said, seconds=5)
    if phase == "validation":
        assert serve(command, num_processes=1, output=said) == [0]
        assert said.read_text().count("validation after epoch 1: ") == 1


def test_a_hangup_that_was_ignored_at_the_start_stays_ignored(
    serve: Serve, arguments: Arguments, tmp_path: Path
) -> None:
    command = arguments("run", 1, SOLVER__MAX_EPOCH=1, TRAIN__BATCH_SIZE=8)
    assert serve(command, num_processes=1, signal="SIGHUP", when="training", ignored="SIGHUP") == [
        0
    ]


@pytest.mark.soak
def test_a_terminal_that_is_closed_makes_a_run_save(arguments: Arguments, tmp_path: Path) -> None:
    terminal, end = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(end, termios.TIOCSCTTY, 0)

    arguments_of_run = arguments(
        "run", 1, SOLVER__MAX_EPOCH=1000, TRAIN__BATCH_SIZE=8, TRAIN__REHEARSE=True
    )
    command = [sys.executable, str(REPOSITORY / "tools/run_net.py"), *arguments_of_run]
    process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, preexec_fn=take_terminal)
    os.close(end)
    threading.Thread(target=read_all, args=(terminal,), daemon=True).start()
    log = tmp_path / "run/stdout.log"
    while not (log.exists() and "first step done" in log.read_text()):
        assert process.poll() is None
        time.sleep(0.01)
    os.close(terminal)
    assert process.wait(timeout=60) == INTERRUPTED_STATUS
    assert "stopped by SIGHUP; the same command resumes at epoch " in log.read_text()
    assert newest_checkpoint(str(tmp_path / "run"))


def read_all(descriptor: int) -> None:
    """Read what a process prints on its terminal, so that it never waits for a reader."""
    with contextlib.suppress(OSError):
        while os.read(descriptor, 1 << 16):
            pass


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_signal_during_the_imports_ends_in_one_line(
    arguments: Arguments, name: str, status: int
) -> None:
    command = [sys.executable, str(REPOSITORY / "tools/run_net.py"), *arguments("run", 1)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not listens(process.pid):
        time.sleep(0.001)
    process.send_signal(signal.Signals[name])
    said = process.communicate(timeout=30)
    assert process.returncode == status, said
    assert said == (
        "",
        f"stopped by {name} during the start: nothing to save; run the same command again\n",
    )


def losses_of(folder: Path) -> dict[tuple[int, int], float]:
    """The losses by epoch and step, the last one where a step was taken twice."""
    lines = (folder / "stdout.log").read_text().splitlines()
    records = [
        simplejson.loads(line.split("json_stats: ")[1]) for line in lines if "json_stats: " in line
    ]
    return {
        (one["epoch"], one["step"]): one["loss"] for one in records if one["_type"] == "train_step"
    }


def test_a_run_on_2_processes_goes_on_on_1_with_the_same_losses(
    serve: Serve, arguments: Arguments, tmp_path: Path
) -> None:
    settings = {"LOG_PERIOD": 1, "SOLVER__MAX_EPOCH": 3, "TRAIN__EVAL_PERIOD": 3}
    assert serve(arguments("quiet", 2, **settings), num_processes=2) == [0, 0]
    moved = serve(
        arguments("moved", 2, **settings), num_processes=2, signal="SIGTERM", when="training"
    )
    assert moved == [INTERRUPTED_STATUS] * 2
    stopped_at = max(losses_of(tmp_path / "moved"))
    assert stopped_at < (3, 16)
    assert serve(arguments("moved", 1, **settings), num_processes=1) == [0]
    quiet, moved_losses = losses_of(tmp_path / "quiet"), losses_of(tmp_path / "moved")
    assert len(quiet) == 3 * 16
    assert moved_losses == pytest.approx(quiet, abs=1e-4)
    assert (tmp_path / "moved/stdout.log").read_text().count("2 videos (2 clips) in 2 parts") == 2
    assert "with 1 process" in (tmp_path / "moved/stdout.log").read_text()


def test_another_run_in_the_same_folder_is_refused_with_what_differs(
    serve: Serve, arguments: Arguments, tmp_path: Path
) -> None:
    settings = {"SOLVER__MAX_EPOCH": 1}
    assert serve(arguments("run", 1, **settings), num_processes=1) == [0]
    said = tmp_path / "said"
    other = arguments("run", 1, **settings, SOLVER__WEIGHT_DECAY=0.1, TRAIN__BATCH_SIZE=4)
    assert serve(other, num_processes=1, output=said) == [1]
    for part in (
        "SOLVER.WEIGHT_DECAY: 0.05 there, 0.1 here",
        "NUM_SHARDS): 2 there, 4 here",
        "another OUTPUT_DIR for a new run",
    ):
        assert part in said.read_text()
    allowed = [*other, "TRAIN.RESUME_WITH_CHANGES", "True"]
    assert serve(allowed, num_processes=1) == [0]
    assert "resuming from" in (tmp_path / "run/stdout.log").read_text()


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    serve: Serve, arguments: Arguments, tmp_path: Path
) -> None:
    settings = {"SOLVER__MAX_EPOCH": 3}
    for name in ("quiet", "damaged"):
        assert serve(arguments(name, 1, **settings), num_processes=1) == [0]
    newest, before, _ = checkpoints_of(str(tmp_path / "damaged"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert serve(arguments("damaged", 1, **settings), num_processes=1) == [0]
    log = (tmp_path / "damaged/stdout.log").read_text()
    assert re.search(
        rf"{newest.name}: not a whole checkpoint .*checksum.*; trying the checkpoint before it", log
    )
    assert f"resuming at epoch 3, step 1, from {before}" in log
    assert_same_end(tmp_path / "quiet", tmp_path / "damaged")


def test_a_full_disk_stops_the_run_and_leaves_the_old_checkpoints_whole(
    serve: Serve, arguments: Arguments, tmp_path: Path
) -> None:
    assert serve(arguments("run", 1, SOLVER__MAX_EPOCH=1), num_processes=1) == [0]
    (checkpoint,) = checkpoints_of(str(tmp_path / "run"))
    said = tmp_path / "said"
    # What the kernel refuses here is a file that grows too large; a full disk is refused in the same way.
    longer = arguments("run", 1, SOLVER__MAX_EPOCH=2, TRAIN__RESUME_WITH_CHANGES=True)
    statuses = serve(
        longer, num_processes=1, output=said, largest_file=checkpoint.stat().st_size // 2
    )
    assert statuses == [1]
    assert "checkpoint_epoch_00002.pyth: the checkpoint cannot be written" in said.read_text()
    assert "older ones are whole" in said.read_text()
    assert checkpoints_of(str(tmp_path / "run")) == [checkpoint]
    assert load_checkpoint(checkpoint)["epoch"] == 1
    assert not list((tmp_path / "run").rglob("*.unfinished"))


def test_a_rehearsal_leaves_no_trace_in_the_run(
    serve: Serve, arguments: Arguments, tmp_path: Path
) -> None:
    settings = {"SOLVER__MAX_EPOCH": 2, "TEST__ENABLE": True}
    for name, rehearse in (("quiet", False), ("rehearsed", True)):
        assert serve(arguments(name, 1, **settings, TRAIN__REHEARSE=rehearse), num_processes=1) == [
            0
        ]
    assert (
        "rehearsed training, checkpoint, validation and test in"
        in (tmp_path / "rehearsed/stdout.log").read_text()
    )
    assert_same_end(tmp_path / "quiet", tmp_path / "rehearsed")
    files = [
        sorted(str(path.relative_to(tmp_path / name)) for path in (tmp_path / name).rglob("*"))
        for name in ("quiet", "rehearsed")
    ]
    assert files[0] == files[1]


def test_a_rehearsal_finds_what_would_fail_after_the_last_epoch(
    serve: Serve, arguments: Arguments, tmp_path: Path, motion_folder: Path
) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    for split in ("train", "val", "test"):
        text = (motion_folder / f"{split}.csv").read_text()
        (lists / f"{split}.csv").write_text(text.replace("test/", "nowhere/"))
    said = tmp_path / "said"
    settings = {"TEST__ENABLE": True, "TRAIN__REHEARSE": True, "DATA__PATH_TO_DATA_DIR": lists}
    assert serve(arguments("run", 1, **settings), num_processes=1, output=said) == [1]
    assert "no video of 4 has scores" in said.read_text()
    assert not checkpoints_of(str(tmp_path / "run"))


def test_a_second_signal_ends_a_process_at_once(tmp_path: Path) -> None:
    code = (
        "import time\nfrom slowfast.distributed.signals import Interruption\n"
        "with Interruption() as interruption:\n"
        "    print('ready', flush=True)\n"
        "    while not interruption.is_requested: time.sleep(0.01)\n"
        "    print(interruption.signal_name, flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR2)
    assert process.stdout.readline() == "SIGUSR2\n"
    process.send_signal(
        signal.SIGUSR2
    )  # so soon after the first, it is the same request by another way
    time.sleep(ONE_REQUEST + 0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == -signal.SIGTERM
