"""Resuming: on other processes, after damage, and never as another run."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slowfast.config import CfgNode
from slowfast.distributed.signals import INTERRUPTED_STATUS
from slowfast.engine.train import train
from slowfast.utils.checkpoint import load_checkpoint
from slowfast.utils.checkpoint_files import checkpoint_path, list_checkpoints
from tests.engine.equal_runs import assert_equal_ends
from tests.engine.outputs import epochs_in, json_records

TinyCfg = Callable[..., CfgNode]
Serve = Callable[..., list[int]]
Arguments = Callable[..., list[str]]

Finish = Callable[..., Path]
Start = Callable[..., tuple[int, str]]


def losses_in(folder: Path) -> dict[tuple[int, int], float]:
    """Return the losses by epoch and step. A repeated step counts with its last loss."""
    records = json_records(folder, "train_step")
    return {(record["epoch"], record["step"]): record["loss"] for record in records}


def test_a_run_on_2_processes_resumes_on_1_with_equal_losses(
    serve: Serve, arguments: Arguments, tmp_path: Path
) -> None:
    settings = {"LOG_PERIOD": 1, "SOLVER__MAX_EPOCH": 2, "TRAIN__EVAL_PERIOD": 2}
    assert serve(arguments("quiet", 2, **settings), num_processes=2) == [0, 0]

    command = arguments("moved", 2, **settings)
    statuses = serve(command, num_processes=2, signal="SIGTERM", when="training")
    assert statuses == [INTERRUPTED_STATUS] * 2
    assert max(losses_in(tmp_path / "moved")) < (2, 16)
    assert serve(arguments("moved", 1, **settings), num_processes=1) == [0]

    losses = losses_in(tmp_path / "quiet")
    assert len(losses) == 2 * 16
    assert losses_in(tmp_path / "moved") == pytest.approx(losses, abs=1e-4)
    log = (tmp_path / "moved/stdout.log").read_text()
    assert log.count("2 videos (2 clips) in 2 micro-batches") == 2
    assert "with 1 process" in log


def test_another_run_in_the_folder_is_refused_with_reasons(start: Start, finish: Finish) -> None:
    finish()
    changes = {"SOLVER__WEIGHT_DECAY": 0.1, "TRAIN__BATCH_SIZE": 4}
    status, printed = start(**changes)
    assert status == 1
    assert "SOLVER.WEIGHT_DECAY: 0.05 there, 0.1 here" in printed
    assert "NUM_SHARDS): 8 there, 4 here" in printed
    assert "another OUTPUT_DIR for a new run" in printed

    status, printed = start(**changes, TRAIN__RESUME_WITH_CHANGES=True)
    assert status == 0
    assert "resuming from" in printed


def test_a_checkpoint_of_another_model_is_refused(tiny_cfg: TinyCfg, trained_cfg: TinyCfg) -> None:
    trained_cfg()
    message = r"holds another run .*\n.*UNIFORMER\.EMBED_DIM: \[8, 8, 16, 16\] there"
    with pytest.raises(ValueError, match=message):
        train(tiny_cfg(UNIFORMER__EMBED_DIM="[8,8,16,32]"))


def test_other_start_weights_make_another_run(start: Start, finish: Finish, tmp_path: Path) -> None:
    state = load_checkpoint(checkpoint_path(str(finish(folder="first")), epoch=1))
    weights = [tmp_path / "a.pyth", tmp_path / "b.pyth"]
    for path in weights:
        torch.save({key: state[key] for key in ("model_state", "class_names")}, path)
        state["model_state"]["head.bias"] += 1
    assert start(TRAIN__CHECKPOINT_FILE_PATH=weights[0])[0] == 0

    status, printed = start(TRAIN__CHECKPOINT_FILE_PATH=weights[1])
    assert status == 1
    assert "holds another run" in printed
    assert "SHA-256 of the start weights: " in printed

    shutil.move(weights[0], tmp_path / "moved.pyth")
    status, printed = start(TRAIN__CHECKPOINT_FILE_PATH=tmp_path / "moved.pyth")
    assert status == 0
    line = f"the start weights of the run, {tmp_path}/moved.pyth, are not loaded again"
    assert line in printed

    status, printed = start(TRAIN__CHECKPOINT_FILE_PATH=weights[0])
    assert status == 0
    line = "the start weights of this run are missing, but resuming does not need them"
    assert line in printed
    assert "is finished" in printed


def test_two_swapped_rows_of_a_class_make_another_run(
    start: Start, finish: Finish, tmp_path: Path, motion_folder: Path
) -> None:
    lists = tmp_path / "lists"
    shutil.copytree(motion_folder, lists, ignore=shutil.ignore_patterns("*.mp4"))
    rows = (motion_folder / "train.csv").read_text().splitlines()
    swapped = rows.copy()
    first, second = [index for index, row in enumerate(rows) if row.endswith(",3")][:2]
    swapped[first], swapped[second] = rows[second], rows[first]
    finish()

    (lists / "train.csv").write_text("\n".join(swapped) + "\n")
    status, printed = start(DATA__PATH_TO_DATA_DIR=lists)
    assert status == 1
    assert re.search("SHA-256 of .* paths, in order: ", printed)

    # Absolute paths of the same videos make the same run.
    (lists / "train.csv").write_text("".join(f"{motion_folder}/{row}\n" for row in rows))
    status, printed = start(DATA__PATH_TO_DATA_DIR=lists)
    assert (status, "is finished" in printed) == (0, True)


def test_a_mistyped_path_of_start_weights_resumes_nothing(
    start: Start, finish: Finish, tmp_path: Path
) -> None:
    finish()
    status, printed = start(TRAIN__CHECKPOINT_FILE_PATH=tmp_path / "typo.pth")
    assert status == 1
    assert "typo.pth': no such file of weights" in printed


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(start: Start, finish: Finish) -> None:
    settings = {"SOLVER__MAX_EPOCH": 3}
    quiet, damaged = (finish(folder=name, **settings) for name in ("quiet", "damaged"))
    newest, before, _ = list_checkpoints(str(damaged))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)

    status, printed = start(folder="damaged", **settings)
    assert status == 0
    warning = (
        rf"{newest.name}: not a whole checkpoint .*checksum.*. Trying the checkpoint before it"
    )
    assert re.search(warning, printed)
    assert f"resuming at epoch 3, step 1, from {before}" in printed
    assert_equal_ends(quiet, damaged)


def test_a_save_after_a_damaged_checkpoint_is_not_pruned(start: Start, finish: Finish) -> None:
    settings: dict[str, Any] = {"TRAIN__KEEP_LAST": 2, "TRAIN__EVAL_PERIOD": 3}
    settings |= {"TRAIN__BATCH_SIZE": 2, "SOLVER__MAX_EPOCH": 3}
    run = finish(**settings)
    (run / "best.pyth").unlink()
    newest, *_ = list_checkpoints(str(run))
    newest.write_bytes(newest.read_bytes()[:1000])

    status, _ = start(**settings, signal="SIGTERM", when="training")
    assert status == INTERRUPTED_STATUS
    assert newest.with_name(f"{newest.name}.damaged").exists()
    saved = list_checkpoints(str(run))[0]
    state = load_checkpoint(saved)
    assert (state["epoch"], state["step"]) > (2, 0)

    status, printed = start(**settings)
    assert status == 0
    assert f"from {saved}" in printed


def test_a_folder_or_loop_named_like_a_checkpoint_is_skipped(start: Start, finish: Finish) -> None:
    run = str(finish())
    checkpoint_path(run, epoch=8).mkdir()
    loop = checkpoint_path(run, epoch=9)
    loop.symlink_to(loop.name)
    status, printed = start(SOLVER__MAX_EPOCH=2, TRAIN__RESUME_WITH_CHANGES=True, TEST__ENABLE=True)
    assert status == 0, printed
    assert printed.count("Trying the checkpoint before it") == 2
    assert "resuming at epoch 2, step 1" in printed


def test_a_run_resumes_from_best_pyth_if_that_is_the_newest(start: Start, finish: Finish) -> None:
    settings: dict[str, Any] = {"SOLVER__MAX_EPOCH": 4, "TRAIN__EVAL_PERIOD": 1}
    quiet, run = (finish(folder=name, **settings) for name in ("quiet", "run"))
    for path in list_checkpoints(str(run))[:-1]:
        path.unlink()
    best = load_checkpoint(run / "best.pyth")

    status, printed = start(**settings)
    assert status == 0
    if best["epoch"] > 1:
        assert f"from {run}/best.pyth" in printed
    assert_equal_ends(quiet, run)
    bests = [load_checkpoint(folder / "best.pyth") for folder in (quiet, run)]
    assert bests[0]["validation"] == bests[1]["validation"]


def test_a_finished_run_with_fewer_epochs_is_finished(start: Start, finish: Finish) -> None:
    run = finish(SOLVER__MAX_EPOCH=3)
    status, printed = start(SOLVER__MAX_EPOCH=2, TRAIN__RESUME_WITH_CHANGES=True)
    assert status == 0
    assert "is finished: it has 3 epochs, and SOLVER.MAX_EPOCH is 2" in printed
    assert epochs_in(run) == [3, 2, 1]


def test_a_finished_run_trains_no_further(trained_cfg: TinyCfg) -> None:
    cfg = trained_cfg()
    before = checkpoint_path(cfg.OUTPUT_DIR, epoch=2).stat().st_mtime_ns
    train(cfg)
    assert checkpoint_path(cfg.OUTPUT_DIR, epoch=2).stat().st_mtime_ns == before
