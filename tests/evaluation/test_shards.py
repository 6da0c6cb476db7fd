"""Score shards: what is written is read, torn records are scored again, edits are refused."""

import os
import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from slowfast.datasets.view_groups import ViewGroups
from slowfast.evaluation.shards import ShardError, Shards
from slowfast.evaluation.view_scores import ViewScores

GROUPS = ViewGroups(num_videos=11, num_views=2, views_per_forward=6)  # 3, 3, 3 and 2 videos
LOGITS = np.random.default_rng(0).normal(size=(11, 2, 4)).astype(np.float32)


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    return Shards(tmp_path / "scores", "id of the test", GROUPS, num_classes=4)


def scores_of(group: int, *, unreadable: tuple[int, ...] = ()) -> ViewScores:
    videos = np.array(GROUPS.videos(group))
    logits = LOGITS[videos].copy()
    logits[np.isin(videos, unreadable)] = np.nan
    reasons = {row: f"{row}.mp4: broken" for row in videos.tolist() if row in unreadable}
    return ViewScores(videos, logits, reasons)


def write(shards: Shards, *groups: int, rank: int = 0, unreadable: tuple[int, ...] = ()) -> Path:
    """Write groups to a new shard, and return its path."""
    with shards.writer(start=shards.next_start(), rank=rank) as writer:
        for group in groups:
            writer.write(scores_of(group, unreadable=unreadable))
    return writer.path


def check(shards: Shards, *, unreadable: dict[int, str] | None = None) -> None:
    """Compare all scores with what was written."""
    records = list(shards.read())
    videos = np.concatenate([scores.videos for scores in records])
    logits = np.concatenate([scores.logits for scores in records])
    expected = LOGITS.copy()
    expected[list(unreadable or {})] = np.nan
    assert videos.tolist() == list(range(11))
    np.testing.assert_array_equal(logits, expected)
    found = {row: reason for scores in records for row, reason in scores.unreadable.items()}
    assert found == (unreadable or {})


def test_shards_of_several_processes_are_one_table(shards: Shards) -> None:
    assert shards.recover().tolist() == [0, 1, 2, 3]
    write(shards, 0, 3, rank=0)
    assert shards.recover().tolist() == [1, 2]
    write(shards, 2, rank=1)
    write(shards, 1, rank=2)
    assert shards.recover().tolist() == []
    check(shards)


def test_unreadable_videos_are_tried_again(shards: Shards) -> None:
    write(shards, 0, 1, 2, 3, unreadable=(4, 9))
    check(shards, unreadable={4: "4.mp4: broken", 9: "9.mp4: broken"})
    assert shards.recover().tolist() == [1, 3]
    write(shards, 1, 3, unreadable=(9,))
    check(shards, unreadable={9: "9.mp4: broken"})
    write(shards, 3)
    check(shards)


def test_missing_videos_are_an_error(shards: Shards) -> None:
    write(shards, 0, 2)
    with pytest.raises(ShardError, match="no scores of 3 videos of the list from row 3 on"):
        list(shards.read())
    write(shards, 1)
    with pytest.raises(ShardError, match="no scores of 2 videos of the list from row 9 on"):
        list(shards.read())


def test_a_shard_torn_anywhere_loses_its_last_record_alone(shards: Shards) -> None:
    path = write(shards, 0, 1, 2)
    content = path.read_bytes()
    ends = [end for _, end in shards._read_shard(path)]
    assert len(ends) == 3

    for length in range(0, len(content), 3):
        path.write_bytes(content[:length])
        num_whole = sum(end <= length for end in ends)
        assert shards.recover().tolist() == list(range(num_whole, 4)), length
        assert path.stat().st_size in (0, length, *ends)
        path.write_bytes(content)

    path.write_bytes(content[: ends[1] + 7])
    shards.recover()
    write(shards, 2, 3)
    check(shards)


def test_an_edited_byte_is_never_taken_for_a_score(shards: Shards) -> None:
    path = write(shards, 0, 1, 2, 3)
    content = path.read_bytes()
    num_found = 0
    for position in range(0, len(content), 3):
        edited = bytearray(content)
        edited[position] ^= 0x11
        path.write_bytes(edited)
        try:
            records = list(shards.read())
        except ShardError:
            num_found += 1
            continue
        # Padding and unused bits hold no scores.
        np.testing.assert_array_equal(np.concatenate([s.logits for s in records]), LOGITS)
    assert num_found > len(content) / 3 * 0.5


def test_shards_of_another_test_are_refused(shards: Shards, tmp_path: Path) -> None:
    write(shards, 0, 1, 2, 3)
    other = Shards(tmp_path / "scores", "another id", GROUPS, num_classes=4)
    for use in (other.recover, lambda: list(other.read())):
        with pytest.raises(ShardError, match=r"belongs to another test\. Move it away"):
            use()
    check(shards)


def test_a_shard_with_videos_of_two_groups_is_refused(shards: Shards) -> None:
    mixed = ViewScores(np.arange(2, 5), LOGITS[2:5], {})
    with shards.writer(start=1, rank=0) as writer:
        writer.write(mixed)
    with pytest.raises(ShardError, match="unexpected videos"):
        list(shards.read())


def test_any_arrow_reader_can_open_a_shard(shards: Shards) -> None:
    path = write(shards, 0, 1, unreadable=(1,))
    with pa.ipc.open_stream(path) as reader:
        table = reader.read_all()
    assert table["video"].to_pylist() == [0, 1, 2, 3, 4, 5]
    assert table["unreadable"].to_pylist()[:3] == [None, "1.mp4: broken", None]
    np.testing.assert_array_equal(table["logits"][0].values.to_numpy(), LOGITS[0].ravel())


def test_a_full_disk_is_named_and_loses_nothing_before(shards: Shards) -> None:
    shards.folder.mkdir()
    path = shards.folder / "start_00001_rank_00000.arrows"
    os.symlink("/dev/full", path.with_name("full"))
    write(shards, 0)
    writer = shards.writer(start=2, rank=0)
    writer._file.close()
    message = r"the disk is full.*the same command continues from there"
    with open(path.with_name("full"), "wb", buffering=0) as file:
        writer._file = file  # type: ignore[assignment]
        writer._writer = pa.ipc.new_stream(file, shards._schema())
        with pytest.raises(OSError, match=message):
            writer.write(scores_of(1))
    assert shards.recover().tolist() == [1, 2, 3]


def test_many_shards_need_no_higher_limit_of_open_files(shards: Shards) -> None:
    for group in (0, 1, 2, 3):
        write(shards, group, rank=group)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 2, limits[1]))
        check(shards)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
