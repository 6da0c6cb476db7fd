"""Runs that are killed, stopped and started again end as if nothing had happened."""

import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import simplejson
import torch

from slowfast.utils.checkpoint import checkpoints_of, load_checkpoint, newest_checkpoint
from slowfast.utils.interrupt import INTERRUPTED_STATUS, ONE_REQUEST

Serve = Callable[..., list[int]]
Arguments = Callable[..., list[str]]
SAVES_ALL_THE_TIME: dict[str, Any] = {
    "TRAIN__CHECKPOINT_MINUTES": 0.001,
    "TRAIN__KEEP_LAST": 2,
    "TRAIN__EVAL_PERIOD": 4,
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
    for part in ("epoch", "step", "model_state", "ema_state", "optimizer_state", "scaler_state"):
        assert_same(states[0][part], states[1][part])
    texts = [(folder / "validation.json").read_text() for folder in (first, second)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("num_processes", "num_kills", "num_stops", "num_epochs"),
    [
        pytest.param(1, 20, 5, 16),
        pytest.param(2, 4, 2, 8),
        pytest.param(2, 20, 5, 16, marks=pytest.mark.soak),
    ],
)
def test_a_run_killed_at_random_moments_ends_in_the_same_weights_to_the_bit(
    serve: Serve,
    arguments: Arguments,
    tmp_path: Path,
    num_processes: int,
    num_kills: int,
    num_stops: int,
    num_epochs: int,
) -> None:
    quiet, killed = (
        arguments(name, num_processes, **SAVES_ALL_THE_TIME, SOLVER__MAX_EPOCH=num_epochs)
        for name in ("quiet", "killed")
    )
    assert serve(quiet, num_processes=num_processes) == [0] * num_processes
    rng = random.Random(num_processes)
    signals = ["SIGKILL"] * num_kills + ["SIGTERM"] * num_stops
    rng.shuffle(signals)
    ended = {"SIGKILL": 0, "SIGTERM": 0}
    for name in signals:
        when = "saving" if name == "SIGKILL" and rng.random() < 0.5 else rng.uniform(0.0, 1.0)
        statuses = serve(killed, num_processes=num_processes, signal=name, when=when)
        expected = {"SIGKILL": -9, "SIGTERM": INTERRUPTED_STATUS}[name]
        assert set(statuses) <= {expected, 0, -15}, "ended by an error"  # -15: before it was ready for signals
        ended[name] += statuses[0] == expected
    assert ended["SIGKILL"] > 0.6 * num_kills
    assert ended["SIGTERM"] > 0
    assert serve(killed, num_processes=num_processes) == [0] * num_processes
    assert_same_end(tmp_path / "quiet", tmp_path / "killed")


def losses_of(folder: Path) -> dict[tuple[int, int], float]:
    """The losses by epoch and step, the last one where a step was taken twice."""
    lines = (folder / "stdout.log").read_text().splitlines()
    records = [simplejson.loads(line.split("json_stats: ")[1]) for line in lines if "json_stats: " in line]
    return {(one["epoch"], one["step"]): one["loss"] for one in records if one["_type"] == "train_step"}


def test_a_run_on_2_processes_goes_on_on_1_with_the_same_losses(
    serve: Serve, arguments: Arguments, tmp_path: Path
) -> None:
    settings = {"LOG_PERIOD": 1, "SOLVER__MAX_EPOCH": 3, "TRAIN__EVAL_PERIOD": 3}
    assert serve(arguments("quiet", 2, **settings), num_processes=2) == [0, 0]
    moved = serve(arguments("moved", 2, **settings), num_processes=2, signal="SIGTERM", when="training")
    assert moved == [INTERRUPTED_STATUS] * 2
    stopped_at = max(losses_of(tmp_path / "moved"))
    assert stopped_at < (3, 16)
    assert serve(arguments("moved", 1, **settings), num_processes=1) == [0]
    quiet, moved_losses = losses_of(tmp_path / "quiet"), losses_of(tmp_path / "moved")
    assert len(quiet) == 3 * 16
    assert moved_losses == pytest.approx(quiet, abs=1e-4)
    assert (tmp_path / "moved/stdout.log").read_text().count("2 videos (2 clips) in 2 parts") == 2
    assert "with 1 processes" in (tmp_path / "moved/stdout.log").read_text()


def test_another_run_in_the_same_folder_is_refused_with_what_differs(
    serve: Serve, arguments: Arguments, tmp_path: Path
) -> None:
    settings = {"SOLVER__MAX_EPOCH": 1}
    assert serve(arguments("run", 1, **settings), num_processes=1) == [0]
    said = tmp_path / "said"
    other = arguments("run", 1, **settings, SOLVER__WEIGHT_DECAY=0.1, TRAIN__BATCH_SIZE=4)
    assert serve(other, num_processes=1, output=said) == [1]
    for part in ("SOLVER.WEIGHT_DECAY: 0.05 there, 0.1 here", "NUM_SHARDS): 2 there, 4 here", "use another OUTPUT_DIR"):
        assert part in said.read_text()
    allowed = [*other, "TRAIN.RESUME_WITH_CHANGES", "True"]
    assert serve(allowed, num_processes=1) == [0]
    assert "going on from" in (tmp_path / "run/stdout.log").read_text()


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
    assert re.search(rf"{newest.name}: not a whole checkpoint .*checksum.*; going back to the checkpoint before", log)
    assert f"going on at epoch 3, step 1, from {before}" in log
    assert_same_end(tmp_path / "quiet", tmp_path / "damaged")


def test_a_full_disk_stops_the_run_and_leaves_the_old_checkpoints_whole(
    serve: Serve, arguments: Arguments, tmp_path: Path
) -> None:
    assert serve(arguments("run", 1, SOLVER__MAX_EPOCH=1), num_processes=1) == [0]
    (checkpoint,) = checkpoints_of(str(tmp_path / "run"))
    said = tmp_path / "said"
    # What the kernel refuses here is a file that grows too large; a full disk is refused in the same way.
    longer = arguments("run", 1, SOLVER__MAX_EPOCH=2, TRAIN__RESUME_WITH_CHANGES=True)
    statuses = serve(longer, num_processes=1, output=said, largest_file=checkpoint.stat().st_size // 2)
    assert statuses == [1]
    assert "checkpoint_epoch_00002.pyth: the checkpoint cannot be written" in said.read_text()
    assert "older ones are whole" in said.read_text()
    assert checkpoints_of(str(tmp_path / "run")) == [checkpoint]
    assert load_checkpoint(checkpoint)["epoch"] == 1
    assert not list((tmp_path / "run").rglob("*.unfinished"))


def test_a_rehearsal_leaves_no_trace_in_the_run(serve: Serve, arguments: Arguments, tmp_path: Path) -> None:
    settings = {"SOLVER__MAX_EPOCH": 2, "TEST__ENABLE": True}
    for name, rehearse in (("quiet", False), ("rehearsed", True)):
        assert serve(arguments(name, 1, **settings, TRAIN__REHEARSE=rehearse), num_processes=1) == [0]
    assert "rehearsed training, checkpoint, validation and test in" in (tmp_path / "rehearsed/stdout.log").read_text()
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
    assert "none of 4 videos can be read" in said.read_text()
    assert not checkpoints_of(str(tmp_path / "run"))


def test_a_second_signal_ends_a_process_at_once(tmp_path: Path) -> None:
    code = (
        "import time\nfrom slowfast.utils.interrupt import Interruption\n"
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
    process.send_signal(signal.SIGUSR2)  # so soon after the first, it is the same request by another way
    time.sleep(ONE_REQUEST + 0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == -signal.SIGTERM
