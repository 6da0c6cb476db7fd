"""Bad videos: replaced in training, never in validation and test, named once, counted, limited."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from slowfast.config import CfgNode
from slowfast.datasets.build import VideoLoader, build_loader, find_problems
from slowfast.datasets.decode import DecodeError
from slowfast.engine.evaluate import evaluate
from slowfast.engine.train import train
from slowfast.models.build import build_model
from slowfast.utils.checkpoint import save_checkpoint

Broken = dict[int, tuple[str, str]]


@pytest.fixture
def broken_cfg(tiny_cfg: Callable[..., CfgNode], broken_folder: Path) -> Callable[..., CfgNode]:
    """The tiny config on a list of 20 videos of which five are broken; `SECTION__NAME=value` overrides."""
    folder = {"DATA__PATH_TO_DATA_DIR": broken_folder, "DATA__PATH_PREFIX": broken_folder}
    return lambda **overrides: tiny_cfg(**({**folder, "TRAIN__BATCH_SIZE": 4} | overrides))


def write_manifest(path: Path, rows: dict[str, str]) -> Path:
    """A manifest that calls the paths what they are given."""
    lines = [f"{name},{status},because,1,1,,,,," for name, status in rows.items()]
    header = "path,status,reason,bytes,mtime,num_frames,fps,width,height,codec"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def epoch_of(loader: VideoLoader, epoch: int) -> tuple[list[int], list[int], torch.Tensor]:
    """The videos that were shown and those that could not be read, in order, and all frames."""
    loader.set_epoch(epoch)
    batches = list(loader)
    shown = [row for batch in batches for row in batch.video.tolist()]
    unreadable = [part.video for batch in batches for part in batch.unreadable]
    return shown, unreadable, torch.cat([batch.frames for batch in batches])


@pytest.mark.parametrize("workers", [0, 2])
def test_training_replaces_bad_videos_by_others_that_depend_on_the_seed_alone(
    broken_cfg: Callable[..., CfgNode], broken_rows: Broken, workers: int
) -> None:
    shown, unreadable, frames = epoch_of(
        build_loader(broken_cfg(DATA_LOADER__NUM_WORKERS=workers), "train"), 3
    )
    assert sorted(unreadable) == sorted(broken_rows)
    assert len(shown) == 20
    assert not set(shown) & set(broken_rows)
    again, _, same_frames = epoch_of(build_loader(broken_cfg(), "train"), 3)
    assert again == shown
    assert torch.equal(frames, same_frames)
    assert epoch_of(build_loader(broken_cfg(), "train"), 4)[0] != shown


def test_the_replacement_of_a_bad_video_does_not_depend_on_its_batch(
    broken_cfg: Callable[..., CfgNode],
) -> None:
    loader = build_loader(broken_cfg(), "train")
    loader.set_epoch(0)
    requests = {request.video: request for batch in loader.batch_sampler for request in batch}
    dataset = loader.dataset
    for row in (2, 17):
        batch = dataset[requests[row]]
        assert [part.video for part in batch.unreadable] == [row]
        assert batch.video.tolist() == dataset[requests[row]].video.tolist() != [row]


def test_a_list_of_bad_videos_alone_ends_with_an_error_not_an_endless_search(
    broken_cfg: Callable[..., CfgNode], tmp_path: Path
) -> None:
    (tmp_path / "train.csv").write_text("a.mp4,0\nb.mp4,1\nc.mp4,2\nd.mp4,3\n")
    loader = build_loader(broken_cfg(DATA__PATH_TO_DATA_DIR=tmp_path), "train")
    with pytest.raises(
        DecodeError,
        match=r"10 videos in a row cannot be read, the last because of .*mp4: no such file",
    ):
        next(iter(loader))


@pytest.mark.parametrize("split", ["val", "test"])
def test_validation_and_test_never_substitute(
    broken_cfg: Callable[..., CfgNode], broken_rows: Broken, split: str
) -> None:
    batches = list(build_loader(broken_cfg(), split))
    unreadable = {part.video: part.reason for batch in batches for part in batch.unreadable}
    assert sorted(unreadable) == sorted(broken_rows)
    for row, (kind, reason) in broken_rows.items():
        assert re.search(rf"{kind} {row}\.mp4: .*{reason}", unreadable[row])
    shown = [row for batch in batches for row in batch.video.tolist()]
    assert set(shown) == set(range(20)) - set(broken_rows)


def test_a_batch_of_unread_videos_alone_is_empty(
    broken_cfg: Callable[..., CfgNode], tmp_path: Path
) -> None:
    (tmp_path / "test.csv").write_text("a.mp4,0\nb.mp4,1\n")
    (batch,) = build_loader(broken_cfg(DATA__PATH_TO_DATA_DIR=tmp_path), "test")
    assert len(batch.label) == len(batch.frames) == 0
    assert [part.video for part in batch.unreadable] == [0, 1]


def test_training_names_each_bad_video_once_and_goes_on(
    broken_cfg: Callable[..., CfgNode], broken_rows: Broken, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = broken_cfg(DATA__MAX_BAD_FRACTION=0.25, SOLVER__MAX_EPOCH=3)
    with caplog.at_level(logging.INFO):
        logging.getLogger().addHandler(caplog.handler)
        train(cfg)
    log = Path(cfg.OUTPUT_DIR, "stdout.log").read_text()
    for row, (kind, reason) in broken_rows.items():
        assert (
            len(re.findall(rf"another video takes the place .*{kind} {row}\.mp4: .*{reason}", log))
            == 1
        )
    assert log.count("(scored 15/20, ") == 2  # the validations after epochs 2 and 3


def test_too_many_bad_videos_end_the_training(broken_cfg: Callable[..., CfgNode]) -> None:
    with pytest.raises(
        DecodeError,
        match=r"5 of 20 training videos .* more than DATA\.MAX_BAD_FRACTION=0\.2 allows",
    ):
        train(broken_cfg(DATA__MAX_BAD_FRACTION=0.2, LOG_PERIOD=100))


def run_net(
    serve: Callable[..., list[int]], cfg: CfgNode, *overrides: str
) -> tuple[list[int], str]:
    """Run the command on 1 or 2 processes, as the config says; the exit statuses, and what was printed."""
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "given.yaml").write_text(cfg.dump())
    arguments = ["--cfg", str(folder / "given.yaml"), *overrides]
    said = folder / "said"
    said.unlink(missing_ok=True)
    statuses = serve(arguments, num_processes=max(cfg.NUM_GPUS, 1), output=said)
    return statuses, said.read_text()


def test_bad_videos_are_counted_over_all_processes(
    broken_cfg: Callable[..., CfgNode], serve: Callable[..., list[int]]
) -> None:
    settings = {"DATA__MAX_BAD_FRACTION": 0.2, "LOG_PERIOD": 100, "TEST__ENABLE": False}
    statuses, said = run_net(serve, broken_cfg(**settings, NUM_GPUS=2, DIST_BACKEND="gloo"))
    assert statuses == [1, 1]
    assert "5 of 20 training videos could not be read in this epoch" in said
    assert said.count("another video takes the place") == 5  # named by one process alone


def save_random_weights(cfg: CfgNode, path: Path) -> Path:
    torch.manual_seed(3)
    save_checkpoint(path, {"model_state": build_model(cfg).state_dict()})
    return path


def test_a_test_lists_what_it_could_not_score(
    broken_cfg: Callable[..., CfgNode], broken_rows: Broken, tmp_path: Path
) -> None:
    weights = save_random_weights(broken_cfg(), tmp_path / "weights.pyth")
    cfg = broken_cfg(TEST__CHECKPOINT_FILE_PATH=weights)
    result = evaluate(cfg)
    assert (result.num_scored, result.num_videos) == (15, 20)
    assert result.top1_listed == pytest.approx(result.top1 * 15 / 20)
    written = json.loads(Path(cfg.OUTPUT_DIR, "test/result.json").read_text())
    assert [entry["video"] for entry in written["unscored"]] == sorted(broken_rows)
    with np.load(Path(cfg.OUTPUT_DIR, "test/scores.npz")) as arrays:
        assert np.flatnonzero(~arrays["is_scored"]).tolist() == sorted(broken_rows)


@pytest.mark.parametrize("processes", [0, 2])
def test_the_exit_status_says_that_videos_are_unscored_unless_allowed(
    broken_cfg: Callable[..., CfgNode],
    serve: Callable[..., list[int]],
    tmp_path: Path,
    processes: int,
) -> None:
    weights = save_random_weights(broken_cfg(), tmp_path / "weights.pyth")
    settings = {"TEST__CHECKPOINT_FILE_PATH": weights, "TRAIN__ENABLE": False}
    cfg = broken_cfg(**settings, NUM_GPUS=processes, DIST_BACKEND="gloo")
    statuses, said = run_net(serve, cfg)
    assert set(statuses) == {3}, said
    assert "scored 15/20; the others counted as wrong" in said
    assert "Traceback" not in said
    statuses, said = run_net(serve, cfg, "TEST.ALLOW_UNSCORED", "True")
    assert set(statuses) == {0}, said


def test_a_manifest_keeps_bad_videos_out_of_training_and_says_how_many(
    broken_cfg: Callable[..., CfgNode],
    broken_rows: Broken,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad = {f"{kind} {row}.mp4": "damaged" for row, (kind, _) in broken_rows.items()}
    manifest = write_manifest(tmp_path / "manifest.csv", {"good 0.mp4": "ok", **bad})
    with caplog.at_level(logging.INFO):
        loader = build_loader(broken_cfg(DATA__MANIFEST=manifest), "train")
    assert "5 of the 20 videos of train are left out" in caplog.text
    assert len(loader.dataset) == 15
    assert epoch_of(loader, 0)[1] == []


def test_a_manifest_makes_videos_unscored_without_opening_them(
    broken_cfg: Callable[..., CfgNode], tmp_path: Path
) -> None:
    manifest = write_manifest(
        tmp_path / "manifest.csv", {"good 0.mp4": "crashed", "missing 2.mp4": "missing"}
    )
    batches = list(build_loader(broken_cfg(DATA__MANIFEST=manifest), "test"))
    unreadable = {part.video: part.reason for batch in batches for part in batch.unreadable}
    assert unreadable[0] == "good 0.mp4: crashed: because (in the manifest)"
    assert sorted(unreadable) == [0, 2, 5, 9, 13, 17]


def test_a_manifest_that_leaves_nothing_or_is_none_is_refused(
    broken_cfg: Callable[..., CfgNode], broken_folder: Path, tmp_path: Path
) -> None:
    paths = [line.split(",")[0] for line in (broken_folder / "train.csv").read_text().splitlines()]
    manifest = write_manifest(tmp_path / "manifest.csv", dict.fromkeys(paths, "missing"))
    with pytest.raises(ValueError, match=r"calls all 20 videos of .* bad"):
        build_loader(broken_cfg(DATA__MANIFEST=manifest), "train")
    assert find_problems(broken_cfg(DATA__MANIFEST=tmp_path / "none.csv"))
    assert find_problems(broken_cfg(DATA__MANIFEST=broken_folder / "train.csv"))


def test_short_videos_can_be_refused(broken_cfg: Callable[..., CfgNode]) -> None:
    # The videos have 32 frames; a clip of 4 frames at a rate of 9 spans 36.
    settings = {"DATA__NUM_FRAMES": 4, "DATA__SAMPLING_RATE": 9}
    (batch, *_) = build_loader(broken_cfg(**settings, DATA__SHORT_CLIP="error"), "val")
    assert (
        "has 32 frames, but a clip spans 36 (DATA.SHORT_CLIP error)" in batch.unreadable[0].reason
    )
    assert len(batch.label) == 0
    repeated, looped = (
        next(iter(build_loader(broken_cfg(**settings, DATA__SHORT_CLIP=policy), "val"))).frames
        for policy in ("repeat_last", "loop")
    )
    assert torch.equal(repeated[:, :, :3], looped[:, :, :3])  # frames 0, 11 and 23
    assert not torch.equal(repeated[:, :, 3], looped[:, :, 3])  # frame 35: the last one, or 3
