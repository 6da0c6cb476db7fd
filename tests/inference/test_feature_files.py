"""Feature files: what is written is read, lazily and with one clear error for damage."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from slowfast.inference import feature_files
from slowfast.inference.feature_files import (
    FeatureRecord,
    StoredFeatures,
    open_features,
    unread_reasons,
    write_record,
)
from slowfast.inference.feature_writer import FeatureBlock, write_features

NUM_VIDEOS = 7
NAMES = pa.chunked_array([[f"{row}.mp4" for row in range(NUM_VIDEOS)]])
LABELS = np.array([0, 1, 2, 0, 1, 2, -1], np.int32)
# Two clips of three crops, four numbers each. Video 2 is unreadable, video 4 overflows.
VALUES = np.arange(NUM_VIDEOS * 6 * 4, dtype=np.float32).reshape(NUM_VIDEOS, 6, 4)
KEPT = [0, 1, 3, 5, 6]


def make_record(*, per: str = "view", shape: tuple[int, ...] = (4,)) -> FeatureRecord:
    return FeatureRecord(
        identity={"num_clips": 2, "num_crops": 3, "per": per},
        class_names=["a", "b", "c"],
        num_videos=NUM_VIDEOS,
        features_per_video=6,
        shape=shape,
        fusion="sum",
        weights="w.pyth",
        list_path="test.csv",
        config="",
    )


def blocks(shape: tuple[int, ...]) -> Iterator[FeatureBlock]:
    values = VALUES.copy()
    values[2] = np.nan
    values[4, 5, 3] = np.inf
    times = np.full((NUM_VIDEOS, 6, 2), np.nan)
    times[:4] = [1.5, 2.25]
    for start, end in ((0, 3), (3, 4), (4, 7)):
        videos = np.arange(start, end)
        reasons = {2: "2.mp4: broken"} if start == 0 else {}
        features = values[start:end].reshape(end - start, 6, *shape)
        yield FeatureBlock(videos, features, times[start:end], reasons)


def write(folder: Path, shape: tuple[int, ...] = (4,)) -> StoredFeatures:
    record = make_record(shape=shape)
    write_record(folder, record)
    write_features(folder, record, blocks(shape), names=NAMES, labels=LABELS)
    return open_features(folder)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four features of 16 bytes in a shard."""
    monkeypatch.setattr(feature_files, "SHARD_BYTES", 64)


@pytest.mark.usefixtures("small_shards")
def test_features_look_like_one_array(tmp_path: Path) -> None:
    features = write(tmp_path)
    expected = VALUES[KEPT].reshape(-1, 4)
    assert len(features) == 30
    np.testing.assert_array_equal(features[:], expected)
    np.testing.assert_array_equal(features[5], expected[5])
    np.testing.assert_array_equal(features[-1], expected[29])
    np.testing.assert_array_equal(features[[7, 3, 3]], expected[[7, 3, 3]])
    np.testing.assert_array_equal(features[28:2:-5], expected[28:2:-5])
    np.testing.assert_array_equal(features[features.labels == 1], expected[6:12])
    with pytest.raises(IndexError, match="boolean index did not match"):
        features[np.ones(29, bool)]
    with pytest.raises(IndexError, match="there are 30 features, from 0 to 29"):
        features[30]
    assert features.rows.tolist() == np.repeat(KEPT, 6).tolist()
    assert features.labels.tolist() == np.repeat([0, 1, 0, 2, -1], 6).tolist()


@pytest.mark.usefixtures("small_shards")
def test_shards_are_bounded_and_plain_safetensors(tmp_path: Path) -> None:
    write(tmp_path)
    paths = sorted(tmp_path.glob("*.safetensors"))
    shards = [safetensors.numpy.load_file(path) for path in paths]
    assert [len(shard["features"]) for shard in shards] == [4] * 7 + [2]
    rows = np.concatenate([shard["row"] for shard in shards])
    assert rows.tolist() == np.repeat(KEPT, 6).tolist()

    # The index says where each feature is.
    table = pq.read_table(tmp_path / "index.parquet").to_pylist()
    for entry in table:
        if entry["status"] == "read":
            view = 3 * entry["clip"] + entry["crop"]
            found = shards[entry["shard"]]["features"][entry["offset"]]
            assert found.tolist() == VALUES[entry["row"], view].tolist()


def test_the_index_has_a_row_per_video_without_features(tmp_path: Path) -> None:
    features = write(tmp_path)
    table = features.index().to_pylist()
    assert len(table) == 32
    unreadable, nonfinite = (entry for entry in table if entry["status"] != "read")
    nothing = dict.fromkeys(("clip", "crop", "start", "end", "shard", "offset"))
    assert unreadable == {
        "row": 2, "path": "2.mp4", "label": 2, **nothing,
        "status": "unreadable", "reason": "2.mp4: broken",
    }  # fmt: skip
    assert nonfinite == {
        "row": 4, "path": "4.mp4", "label": 1, **nothing,
        "status": "nonfinite", "reason": "its features are not finite",
    }  # fmt: skip
    assert [table[0][side] for side in ("start", "end")] == [1.5, 2.25]
    assert [table[-1][side] for side in ("start", "end", "label")] == [None] * 3
    reasons = ["2.mp4: broken", "4.mp4: its features are not finite"]
    assert unread_reasons(tmp_path, limit=5) == reasons
    assert unread_reasons(tmp_path, limit=1) == reasons[:1]


def test_means_have_no_clip_or_no_crop() -> None:
    assert make_record(per="video").clips_and_crops() == ([None], [None])
    assert make_record(per="clip").clips_and_crops() == ([0, 1], [None, None])
    assert make_record().clips_and_crops() == ([0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2])


def test_tokens_keep_their_shape(tmp_path: Path) -> None:
    features = write(tmp_path, shape=(2, 2))
    assert features[:3].shape == (3, 2, 2)
    np.testing.assert_array_equal(features[:], VALUES[KEPT].reshape(30, 2, 2))


@pytest.mark.usefixtures("small_shards")
def test_damaged_files_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    shard = tmp_path / "features_00003.safetensors"
    content = shard.read_bytes()
    for damaged in (content[:-1], content[:20], b"", b"\xff" * 40):
        shard.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"features_00003\.safetensors: is truncated or damaged"
        ):
            open_features(tmp_path)
    shard.write_bytes((tmp_path / "features_00007.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"has features \(2, 4\), but the index has \(4, 4\)"):
        open_features(tmp_path)
    shard.unlink()
    with pytest.raises(ValueError, match=r"features_00003\.safetensors: no such file"):
        open_features(tmp_path)

    shard.write_bytes(content)
    index = tmp_path / "index.parquet"
    index.write_bytes(index.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"index\.parquet: is damaged"):
        open_features(tmp_path)
    index.unlink()
    with pytest.raises(FileNotFoundError, match="the extraction is not finished"):
        open_features(tmp_path)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no features"):
        open_features(tmp_path)
    (tmp_path / "features.json").write_text('{"version": 7}')
    with pytest.raises(ValueError, match="has version 7, and not 1"):
        open_features(tmp_path)
    (tmp_path / "features.json").write_text('{"version": 1}')
    with pytest.raises(ValueError, match=r"lacks 'identity'\. Extract the features again"):
        open_features(tmp_path)
