"""Extraction: features are what the head of the test sees, and a kill loses nothing."""

import logging
import os
import re
import resource
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from slowfast.config import CfgNode
from slowfast.engine.evaluate import evaluate
from slowfast.inference.feature_extraction import build_features
from slowfast.inference.feature_files import StoredFeatures
from slowfast.inference.feature_plan import Extraction
from slowfast.utils.checkpoint import load_checkpoint
from tests.engine.outputs import read_logits
from tests.inference.conftest import save_random_checkpoint
from tests.inference.extractions import extract

TinyCfg = Callable[..., CfgNode]


def head_logits(features: NDArray[np.float32], weights: Path, *, num_rows: int) -> NDArray:
    """Return the logits of features (M, C) in forward passes of a number of rows."""
    state = load_checkpoint(weights)["model_state"]
    padded = torch.zeros(-(-len(features) // num_rows) * num_rows, features.shape[1])
    padded[: len(features)] = torch.from_numpy(features)
    logits = [
        F.linear(rows, state["head.weight"], state["head.bias"]) for rows in padded.split(num_rows)
    ]
    return torch.cat(logits)[: len(features)].numpy()


def few_videos(
    tiny_cfg: TinyCfg, tmp_path: Path, *, num_videos: int = 4, **settings: Any
) -> CfgNode:
    """A config whose lists have a few videos."""
    given = tiny_cfg()
    lines = Path(given.DATA.PATH_TO_DATA_DIR, "test.csv").read_text().splitlines(keepends=True)
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("".join(lines[:num_videos]))
    return tiny_cfg(DATA__PATH_TO_DATA_DIR=tmp_path, **settings)


def test_the_head_gives_the_logits_of_the_test(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    # 7 videos of 2 x 3 views, in forward passes of 2 videos.
    cfg = few_videos(
        tiny_cfg, tmp_path, num_videos=7, TEST__NUM_SPATIAL_CROPS=3, TEST__VIEWS_PER_FORWARD=16
    )
    weights = save_random_checkpoint(cfg)
    evaluate(cfg)
    features = extract(cfg)

    logits = head_logits(features[:], weights, num_rows=12)
    np.testing.assert_array_equal(logits.reshape(7, 6, 8), read_logits(Path(cfg.OUTPUT_DIR)))
    table = features.index()
    assert table["clip"].to_pylist()[:6] == [0, 0, 0, 1, 1, 1]
    assert table["crop"].to_pylist()[:6] == [0, 1, 2, 0, 1, 2]


def test_means_and_tokens_belong_to_the_same_views(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    cfg = few_videos(tiny_cfg, tmp_path, TEST__NUM_SPATIAL_CROPS=3)
    views = extract(cfg)[:].reshape(4, 2, 3, 16)
    clips = extract(cfg, "clips", per="clip")
    videos = extract(cfg, "videos", per="video")
    tokens = extract(cfg, "tokens", tokens=True)
    stage = extract(cfg, "stage", stage=1)
    np.testing.assert_allclose(clips[:].reshape(4, 2, 16), views.mean(axis=2), rtol=1e-5)
    np.testing.assert_allclose(videos[:], views.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    assert tokens.record.shape == (2, 16)  # 2 x 1 x 1 positions
    means = tokens[:].reshape(4, 2, 3, 2, 16).mean(axis=3)
    np.testing.assert_allclose(means, views, rtol=1e-5, atol=1e-6)
    assert stage.record.shape == (8,)
    with pytest.raises(ValueError, match="stage is 5, but the model has stages 1 to 4"):
        extract(cfg, "fifth", stage=5)


def test_every_split_has_the_views_of_the_test(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    cfg = few_videos(tiny_cfg, tmp_path, AUG__ENABLE=True)
    train, test = extract(cfg, "train", split="train"), extract(cfg)
    np.testing.assert_array_equal(train[:], test[:])
    assert train.record.list_path.endswith("train.csv")
    assert train.labels.tolist() == test.labels.tolist()


def test_the_index_says_when_each_clip_is_shown(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    cfg = few_videos(tiny_cfg, tmp_path)  # 2 clips of 4 frames, 3 frames apart
    table = extract(cfg).index("path", "start", "end").slice(0, 2).to_pylist()
    with av.open(str(Path(cfg.DATA.PATH_PREFIX, table[0]["path"]))) as container:
        times = [float(frame.time) for frame in container.decode(video=0)]

    # With offset sampling, the clips begin at 0 and at half of the slack over a span of 12 frames.
    slack = len(times) - 12
    second = [int(number) for number in np.linspace(slack, slack + 11, 4)]
    assert table[0]["start"] == 0
    assert table[0]["end"] == pytest.approx(times[12])
    assert table[1]["start"] == pytest.approx(times[second[0]])
    assert table[1]["end"] == pytest.approx(times[-1] + times[1])
    videos = extract(cfg, "videos", per="video").index("start", "end").slice(0, 1).to_pylist()
    assert videos == [{"start": table[0]["start"], "end": table[1]["end"]}]


def test_unreadable_videos_are_reported(
    tiny_cfg: TinyCfg, broken_folder: Path, broken_rows: dict[int, tuple[str, str]]
) -> None:
    cfg = tiny_cfg(DATA__PATH_TO_DATA_DIR=broken_folder, DATA__PATH_PREFIX=broken_folder)
    weights = save_random_checkpoint(cfg)
    extraction = Extraction(str(weights), Path(cfg.OUTPUT_DIR, "features"), split="test")
    counts = build_features(cfg, extraction)
    assert counts == (20, 5, 0)

    features = extract(cfg)
    left_out = [row for row in features.index().to_pylist() if row["status"] == "unreadable"]
    assert [row["row"] for row in left_out] == [*broken_rows]
    assert all(row["path"] in row["reason"] for row in left_out)
    assert len(features) == 2 * 15
    assert np.isfinite(features[:]).all()


def test_non_finite_features_are_reported(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    cfg = few_videos(tiny_cfg, tmp_path, TRAIN__AMP="fp16")  # whose largest number is 65504
    weights = save_random_checkpoint(cfg)
    state = load_checkpoint(weights)
    state["model_state"]["patch_embed4.norm.weight"] *= 1e7
    torch.save(state, weights)
    extraction = Extraction(str(weights), Path(cfg.OUTPUT_DIR, "features"), split="test")
    counts = build_features(cfg, extraction)
    assert counts.num_unreadable == 0
    assert counts.num_nonfinite == 4


def test_weights_of_other_classes_have_the_same_features(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    cfg = few_videos(tiny_cfg, tmp_path)
    expected = extract(cfg)
    state = load_checkpoint(Path(expected.record.weights))
    state["model_state"]["head.weight"] = torch.zeros(3, 16)
    state["model_state"]["head.bias"] = torch.zeros(3)
    state["class_names"] = ["x", "y", "z"]
    torch.save(state, tmp_path / "other.pyth")
    folder = tmp_path / "other"
    build_features(cfg, Extraction(str(tmp_path / "other.pyth"), folder, split="test"))
    first = (expected.folder / "features_00000.safetensors").read_bytes()
    assert (folder / "features_00000.safetensors").read_bytes() == first


# ---- Folders and kills -----------------------------------------------------------------------


def test_a_folder_with_other_content_is_refused(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    cfg = few_videos(tiny_cfg, tmp_path)
    features = extract(cfg)
    before = {path: path.stat().st_mtime_ns for path in features.folder.iterdir()}
    extract(cfg)  # finished, so nothing is written
    assert {path: path.stat().st_mtime_ns for path in features.folder.iterdir()} == before

    with pytest.raises(FileExistsError, match=r"holds other features \(other stage\)"):
        extract(cfg, stage=2)
    (features.folder / "features.json").unlink()
    with pytest.raises(FileExistsError, match=r"holds other files \(features_00000"):
        extract(cfg)


def test_a_damaged_shard_is_extracted_again(
    tiny_cfg: TinyCfg, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = few_videos(tiny_cfg, tmp_path)
    shard = extract(cfg).folder / "features_00000.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-3])
    extract(cfg)
    assert shard.read_bytes() == content
    assert "is truncated or damaged" in caplog.text


def long_list(tiny_cfg: TinyCfg, tmp_path: Path) -> CfgNode:
    """A config with a test list of 96 rows."""
    given = tiny_cfg()
    (tmp_path / "lists").mkdir()
    lines = Path(given.DATA.PATH_TO_DATA_DIR, "test.csv").read_text()
    (tmp_path / "lists/test.csv").write_text(lines * 4)
    return tiny_cfg(
        DATA__PATH_TO_DATA_DIR=tmp_path / "lists",
        TEST__NUM_ENSEMBLE_VIEWS=1,
        TEST__BATCH_SIZE=8,
        TEST__VIEWS_PER_FORWARD=8,
    )


def kill_at(cfg: CfgNode, name: str, *, num_bytes: int) -> None:
    """Extract in a process that is killed in the middle of a record, at a size of its shard."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            extract(cfg, name)
        finally:
            os._exit(0)

    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGXFSZ


def content_of(features: StoredFeatures) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in features.folder.iterdir()}


@pytest.mark.parametrize(
    "sizes", [[9001], pytest.param(range(7000, 12000, 517), marks=pytest.mark.soak)]
)
def test_a_killed_extraction_ends_with_the_same_bytes(
    tiny_cfg: TinyCfg, tmp_path: Path, caplog: pytest.LogCaptureFixture, sizes: Sequence[int]
) -> None:
    cfg = long_list(tiny_cfg, tmp_path)
    save_random_checkpoint(cfg)
    expected = content_of(extract(cfg, "quiet"))
    caplog.set_level(logging.INFO)
    for size in sizes:
        caplog.clear()
        kill_at(cfg, f"hit {size}", num_bytes=size)
        assert content_of(extract(cfg, f"hit {size}")) == expected
        assert re.search(r"continuing: [1-9]\d* of 96 videos are done", caplog.text)
