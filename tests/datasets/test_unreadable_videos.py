"""Unreadable videos: replaced in training, never in evaluation, named once, counted and limited."""

import logging
import re
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from slowfast.config import CfgNode
from slowfast.datasets.build import VideoLoader, build_loader, build_opener, find_problems
from slowfast.datasets.decode import DecodeError, FrameFolder, TruncatedError, VideoFile
from slowfast.datasets.records import Batch, Video
from slowfast.engine.train import train
from slowfast.evaluation.result import open_result
from slowfast.models.build import build_model
from slowfast.utils.checkpoint import load_checkpoint, save_checkpoint
from slowfast.utils.checkpoint_files import list_checkpoints
from tests.engine.outputs import evaluate_labeled

Reasons = dict[int, tuple[str, str]]


@pytest.fixture
def unreadable_cfg(tiny_cfg: Callable[..., CfgNode], broken_folder: Path) -> Callable[..., CfgNode]:
    """Builder of the tiny config on a list of 20 videos, five of them unreadable."""
    settings: dict[str, object] = {
        "DATA__PATH_TO_DATA_DIR": broken_folder,
        "DATA__PATH_PREFIX": broken_folder,
        "TRAIN__BATCH_SIZE": 4,
    }
    return lambda **overrides: tiny_cfg(**(settings | overrides))


def write_manifest(path: Path, rows: dict[str, str]) -> Path:
    """Write a manifest with the given statuses by path."""
    lines = [f"{name},{status},because,1,1,,,,," for name, status in rows.items()]
    header = "path,status,reason,bytes,mtime,num_frames,fps,width,height,codec"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def list_shown(batches: Iterable[Batch]) -> list[int]:
    return torch.cat([batch.video_indices for batch in batches]).tolist()


def list_unreadable(batches: Iterable[Batch]) -> dict[int, str]:
    """Return the reason of each unreadable video by row."""
    found = chain(*(batch.unreadable for batch in batches))
    return {video.video_index: video.reason for video in found}


def load_epoch(loader: VideoLoader, epoch: int) -> tuple[list[int], list[int], torch.Tensor]:
    """Return the shown and the unreadable videos in order, and all frames."""
    loader.set_epoch(epoch)
    batches = list(loader)
    unreadable = [video.video_index for video in chain(*(batch.unreadable for batch in batches))]
    return list_shown(batches), unreadable, torch.cat([batch.frames for batch in batches])


@pytest.mark.parametrize("workers", [0, 2])
def test_replacements_in_training_depend_on_the_seed_alone(
    unreadable_cfg: Callable[..., CfgNode], broken_rows: Reasons, workers: int
) -> None:
    loader = build_loader(unreadable_cfg(DATA_LOADER__NUM_WORKERS=workers), "train")
    shown, unreadable, frames = load_epoch(loader, 3)
    assert sorted(unreadable) == sorted(broken_rows)
    assert len(shown) == 20
    assert not set(shown) & set(broken_rows)

    again, _, same_frames = load_epoch(build_loader(unreadable_cfg(), "train"), 3)
    assert again == shown
    assert torch.equal(frames, same_frames)
    assert load_epoch(build_loader(unreadable_cfg(), "train"), 4)[0] != shown


def test_a_replacement_does_not_depend_on_its_batch(
    unreadable_cfg: Callable[..., CfgNode],
) -> None:
    loader = build_loader(unreadable_cfg(), "train")
    loader.set_epoch(0)
    requests = {request.video_index: request for request in chain(*loader.batch_sampler)}

    dataset = loader.dataset
    for row in (2, 17):
        batch = dataset[requests[row]]
        assert [video.video_index for video in batch.unreadable] == [row]
        again = dataset[requests[row]]
        assert batch.video_indices.tolist() == again.video_indices.tolist() != [row]


def test_a_list_without_readable_videos_is_an_error(
    unreadable_cfg: Callable[..., CfgNode], tmp_path: Path
) -> None:
    (tmp_path / "train.csv").write_text("a.mp4,0\nb.mp4,1\nc.mp4,2\nd.mp4,3\n")
    loader = build_loader(unreadable_cfg(DATA__PATH_TO_DATA_DIR=tmp_path), "train")
    message = r"10 videos in a row are unreadable, the last because of .*mp4: no such file"
    with pytest.raises(DecodeError, match=message):
        next(iter(loader))


@pytest.mark.parametrize("split", ["val", "test"])
def test_validation_and_test_never_substitute(
    unreadable_cfg: Callable[..., CfgNode], broken_rows: Reasons, split: str
) -> None:
    batches = list(build_loader(unreadable_cfg(), split))
    unreadable = list_unreadable(batches)
    assert sorted(unreadable) == sorted(broken_rows)
    for row, (kind, reason) in broken_rows.items():
        assert re.search(rf"{kind} {row}\.mp4: .*{reason}", unreadable[row])
    assert set(list_shown(batches)) == set(range(20)) - set(broken_rows)


def test_a_batch_of_unreadable_videos_is_empty(
    unreadable_cfg: Callable[..., CfgNode], tmp_path: Path
) -> None:
    (tmp_path / "test.csv").write_text("a.mp4,0\nb.mp4,1\n")
    (batch,) = build_loader(unreadable_cfg(DATA__PATH_TO_DATA_DIR=tmp_path), "test")
    assert len(batch.labels) == len(batch.frames) == 0
    assert [video.video_index for video in batch.unreadable] == [0, 1]


def test_training_names_each_unreadable_video_once(
    unreadable_cfg: Callable[..., CfgNode], broken_rows: Reasons, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = unreadable_cfg(DATA__MAX_BAD_FRACTION=0.25, SOLVER__MAX_EPOCH=3)
    with caplog.at_level(logging.INFO):
        logging.getLogger().addHandler(caplog.handler)
        train(cfg)
    log = Path(cfg.OUTPUT_DIR, "stdout.log").read_text()
    for row, (kind, reason) in broken_rows.items():
        pattern = rf"unreadable video, another one replaces it: .*{kind} {row}\.mp4: .*{reason}"
        assert len(re.findall(pattern, log)) == 1
    assert log.count("(scored 15/20, ") == 2  # the validations after epochs 2 and 3


def test_too_many_unreadable_videos_end_the_training(
    unreadable_cfg: Callable[..., CfgNode],
) -> None:
    message = r"5 of 20 training videos .* more than DATA\.MAX_BAD_FRACTION=0\.2 allows"
    with pytest.raises(DecodeError, match=message):
        train(unreadable_cfg(DATA__MAX_BAD_FRACTION=0.2, LOG_PERIOD=100))


def run_net(
    serve: Callable[..., list[int]], cfg: CfgNode, *overrides: str
) -> tuple[list[int], str]:
    """Run the command on 1 or 2 processes, and return its exit statuses and its output."""
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "given.yaml").write_text(cfg.dump())
    arguments = ["--cfg", str(folder / "given.yaml"), *overrides]

    output = folder / "output.txt"
    output.unlink(missing_ok=True)
    statuses = serve(arguments, num_processes=max(cfg.NUM_GPUS, 1), output=output)
    return statuses, output.read_text()


def test_unreadable_videos_are_counted_over_processes(
    unreadable_cfg: Callable[..., CfgNode], serve: Callable[..., list[int]]
) -> None:
    settings = {"DATA__MAX_BAD_FRACTION": 0.2, "LOG_PERIOD": 100, "TEST__ENABLE": False}
    statuses, output = run_net(serve, unreadable_cfg(**settings, NUM_GPUS=2, DIST_BACKEND="gloo"))
    assert statuses == [1, 1]
    assert "5 of 20 training videos could not be read in this epoch" in output
    assert (
        output.count("unreadable video, another one replaces it") == 5
    )  # only one process names them


def save_random_weights(cfg: CfgNode, path: Path) -> Path:
    torch.manual_seed(3)
    save_checkpoint(path, {"model_state": build_model(cfg).state_dict()})
    return path


def test_a_test_lists_what_it_could_not_score(
    unreadable_cfg: Callable[..., CfgNode], broken_rows: Reasons, tmp_path: Path
) -> None:
    weights = save_random_weights(unreadable_cfg(), tmp_path / "weights.pyth")
    cfg = unreadable_cfg(TEST__CHECKPOINT_FILE_PATH=weights)
    result = evaluate_labeled(cfg)
    assert (result.num_scored, result.num_videos) == (15, 20)
    assert result.top1_listed == pytest.approx(result.top1 * 15 / 20)
    written = open_result(Path(cfg.OUTPUT_DIR))
    assert written.metrics["num_unreadable"] == 5
    predictions = written.predictions("row", "status", "reason").to_pylist()
    unscored = {row["row"]: row["reason"] for row in predictions if row["status"] == "unreadable"}
    assert unscored.keys() == broken_rows.keys()


def test_four_broken_of_twenty_are_counted_everywhere(
    unreadable_cfg: Callable[..., CfgNode],
    broken_rows: Reasons,
    broken_folder: Path,
    serve: Callable[..., list[int]],
    tmp_path: Path,
) -> None:
    lines = (broken_folder / "test.csv").read_text().splitlines()
    repaired, *broken = sorted(broken_rows)
    readable = next(row for row in range(20) if row not in broken_rows)
    lines[repaired] = lines[readable]
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "test.csv").write_text("\n".join(lines))

    cfg = unreadable_cfg(
        DATA__PATH_TO_DATA_DIR=lists,
        TEST__CHECKPOINT_FILE_PATH=save_random_weights(unreadable_cfg(), tmp_path / "w.pyth"),
        TRAIN__ENABLE=False,
        TEST__REPORT=True,
        NUM_GPUS=2,
        DIST_BACKEND="gloo",
    )
    statuses, output = run_net(serve, cfg)
    assert statuses == [3, 3], output
    assert "scored 16/20" in output
    assert output.count("test: not scored: ") == 4

    result = open_result(Path(cfg.OUTPUT_DIR))
    counts = {name: result.metrics[f"num_{name}"] for name in ("videos", "scored", "unreadable")}
    assert counts == {"videos": 20, "scored": 16, "unreadable": 4}
    assert result.metrics["top1_listed"] == pytest.approx(result.metrics["top1"] * 16 / 20)
    assert sum(entry["support"] for entry in result.metrics["classes"]) == 16
    assert sum(entry["listed"] for entry in result.metrics["classes"]) == 20
    assert sum(result.metrics["confusion"]["counts"]) == 16
    assert sum(entry["count"] for entry in result.metrics["reliability"]) == 16

    reasons = {}
    for row in result.predictions().to_pylist():
        is_scored = row["status"] == "scored"
        assert (row["prediction"] is None, row["top_labels"] is None) == (not is_scored,) * 2
        if not is_scored:
            assert (row["status"], row["num_views"]) == ("unreadable", 0)
            reasons[row["row"]] = row["reason"]
    assert sorted(reasons) == broken
    shards = result.record.shards(result.folder)
    assert reasons == {
        row: reason for scores in shards.read() for row, reason in scores.unreadable.items()
    }

    page = (result.folder / "report.html").read_text()
    assert "16 of 20 listed videos are scored" in page
    assert "4 videos without scores: 4 unreadable, 0 with non-finite scores" in page


@pytest.mark.parametrize("processes", [0, 2])
def test_the_exit_status_tells_of_unscored_videos(
    unreadable_cfg: Callable[..., CfgNode],
    serve: Callable[..., list[int]],
    tmp_path: Path,
    processes: int,
) -> None:
    weights = save_random_weights(unreadable_cfg(), tmp_path / "weights.pyth")
    settings = {"TEST__CHECKPOINT_FILE_PATH": weights, "TRAIN__ENABLE": False}
    cfg = unreadable_cfg(**settings, NUM_GPUS=processes, DIST_BACKEND="gloo")
    statuses, output = run_net(serve, cfg)
    assert set(statuses) == {3}, output
    assert "scored 15/20. With the others counted as wrong" in output
    assert "Traceback" not in output
    statuses, output = run_net(serve, cfg, "TEST.ALLOW_UNSCORED", "True")
    assert set(statuses) == {0}, output


def test_a_manifest_keeps_unreadable_videos_out_of_training(
    unreadable_cfg: Callable[..., CfgNode],
    broken_rows: Reasons,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    statuses = {f"{kind} {row}.mp4": "damaged" for row, (kind, _) in broken_rows.items()}
    manifest = write_manifest(tmp_path / "manifest.csv", {"good 0.mp4": "ok", **statuses})
    with caplog.at_level(logging.INFO):
        loader = build_loader(unreadable_cfg(DATA__MANIFEST=manifest), "train")
    assert (
        f"skipping 5 of the 20 videos of train: unreadable according to {manifest}" in caplog.text
    )
    assert len(loader.dataset) == 15
    assert load_epoch(loader, 0)[1] == []


def test_videos_that_a_manifest_calls_unreadable_stay_closed(
    unreadable_cfg: Callable[..., CfgNode], tmp_path: Path
) -> None:
    manifest = write_manifest(
        tmp_path / "manifest.csv", {"good 0.mp4": "crashed", "missing 2.mp4": "missing"}
    )
    batches = list(build_loader(unreadable_cfg(DATA__MANIFEST=manifest), "test"))
    unreadable = list_unreadable(batches)
    assert unreadable[0] == "good 0.mp4: crashed: because (in the manifest)"
    assert sorted(unreadable) == [0, 2, 5, 9, 13, 17]


def test_an_invalid_manifest_or_one_without_videos_is_refused(
    unreadable_cfg: Callable[..., CfgNode], broken_folder: Path, tmp_path: Path
) -> None:
    paths = [line.split(",")[0] for line in (broken_folder / "train.csv").read_text().splitlines()]
    manifest = write_manifest(tmp_path / "manifest.csv", dict.fromkeys(paths, "missing"))
    with pytest.raises(ValueError, match=r"all 20 videos of .*train\.csv are unreadable"):
        build_loader(unreadable_cfg(DATA__MANIFEST=manifest), "train")
    assert find_problems(unreadable_cfg(DATA__MANIFEST=tmp_path / "none.csv"))
    assert find_problems(unreadable_cfg(DATA__MANIFEST=broken_folder / "train.csv"))


def test_short_videos_can_be_refused(unreadable_cfg: Callable[..., CfgNode]) -> None:
    # The videos have 32 frames; a clip of 4 frames at a rate of 9 spans 36.
    settings = {"DATA__NUM_FRAMES": 4, "DATA__SAMPLING_RATE": 9}
    (batch, *_) = build_loader(unreadable_cfg(**settings, DATA__SHORT_CLIP="error"), "val")
    message = "has 32 frames, but a clip spans 36 (DATA.SHORT_CLIP error)"
    assert message in batch.unreadable[0].reason
    assert len(batch.labels) == 0

    repeated, looped = (
        next(iter(build_loader(unreadable_cfg(**settings, DATA__SHORT_CLIP=policy), "val"))).frames
        for policy in ("repeat_last", "loop")
    )
    assert torch.equal(repeated[:, :, :3], looped[:, :, :3])  # frames 0, 11 and 23
    assert not torch.equal(repeated[:, :, 3], looped[:, :, 3])  # frame 35: the last one, or 3


def test_a_checkpoint_counts_the_videos_of_its_last_step(
    unreadable_cfg: Callable[..., CfgNode],
) -> None:
    # With this seed, the second and the fourth step meet unreadable videos.
    cfg = unreadable_cfg(
        RNG_SEED=3,
        DATA__MAX_BAD_FRACTION=0.2,
        LOG_PERIOD=100,
        SOLVER__MAX_EPOCH=1,
        TRAIN__CHECKPOINT_MINUTES=1e-6,
    )
    loader = build_loader(cfg, "train")
    loader.set_epoch(0)
    by_step = [{video.video_index for video in batch.unreadable} for batch in loader]

    with pytest.raises(DecodeError, match="5 of 20 training videos could not be read"):
        train(cfg)
    states = [load_checkpoint(path) for path in list_checkpoints(cfg.OUTPUT_DIR)]
    assert [state["step"] for state in states] == [4, 2]
    for state in states:
        assert by_step[state["step"] - 1]
        assert {*state["counters"]["unreadable"]} == set().union(*by_step[: state["step"]])


@pytest.mark.parametrize("is_allowed", [False, True])
def test_truncated_videos_of_a_manifest_can_be_allowed(
    unreadable_cfg: Callable[..., CfgNode], tmp_path: Path, is_allowed: bool
) -> None:
    manifest = write_manifest(tmp_path / "manifest.csv", {"good 0.mp4": "truncated"})
    cfg = unreadable_cfg(DATA__MANIFEST=manifest, DATA__ALLOW_TRUNCATED=is_allowed)
    assert len(build_loader(cfg, "train").dataset) == (20 if is_allowed else 19)
    assert (0 in build_loader(cfg, "test").dataset.known_unreadable) != is_allowed


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_videos_are_opened_with_the_limits_of_the_config(
    tiny_cfg: Callable[..., CfgNode], write_painted: Callable[..., Path], tmp_path: Path, split: str
) -> None:
    content = write_painted(tmp_path / "v.mkv", 50, g="10").read_bytes()
    (tmp_path / "v.mkv").write_bytes(content[: int(len(content) * 0.6)])

    def open_video(**settings: Any) -> VideoFile | FrameFolder:
        cfg = tiny_cfg(DATA__PATH_PREFIX=tmp_path, **settings)
        return build_opener(cfg, split)(Video("v.mkv", 0, None))

    with pytest.raises(TruncatedError, match=r"v\.mkv: truncated: "):
        open_video()
    with open_video(DATA__ALLOW_TRUNCATED=True, DATA__MAX_FRAME_PIXELS=32 * 128) as video:
        assert 0 < video.num_frames < 50
    with pytest.raises(
        DecodeError, match=r"128 x 32 pixels are larger than DATA\.MAX_FRAME_PIXELS 4095"
    ):
        open_video(DATA__ALLOW_TRUNCATED=True, DATA__MAX_FRAME_PIXELS=32 * 128 - 1)


@pytest.mark.parametrize(
    ("num_unreadable", "split", "message"),
    [
        (0, "train", "all 20 videos of train are readable according to"),
        (1, "train", "skipping 1 of the 20 videos of train: unreadable according to"),
        (0, "test", "all 20 videos of test are readable according to"),
        (1, "val", "1 of the 20 videos of val will not be scored: unreadable according to"),
        (2, "test", "2 of the 20 videos of test will not be scored: unreadable according to"),
    ],
)
def test_the_log_says_what_a_manifest_means_for_a_list(
    unreadable_cfg: Callable[..., CfgNode],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    num_unreadable: int,
    split: str,
    message: str,
) -> None:
    names = ["good 0.mp4", "good 1.mp4", "good 3.mp4"]
    statuses = ["damaged"] * num_unreadable + ["ok"] * (3 - num_unreadable)
    manifest = write_manifest(tmp_path / "manifest.csv", dict(zip(names, statuses, strict=True)))
    with caplog.at_level(logging.INFO):
        build_loader(unreadable_cfg(DATA__MANIFEST=manifest), split)
    assert f"{message} {manifest}" in caplog.messages
