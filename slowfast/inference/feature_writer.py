"""Feature writer: from features in the order of a list to the files in `feature_files`."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
from numpy.typing import NDArray

from slowfast.inference.feature_files import (
    FEATURES,
    INDEX_NAME,
    NONFINITE,
    READ,
    ROW,
    SCHEMA,
    UNREADABLE,
    FeatureRecord,
    shard_path,
)
from slowfast.utils.files import write_file

_ROWS_PER_GROUP = 1 << 16


class FeatureBlock(NamedTuple):
    """Features of some videos in the order of the list."""

    videos: NDArray[np.int64]  # (N,), rows of the list
    features: NDArray[np.float32]  # (N, F, ...), F features of each video
    intervals: NDArray[np.float64]  # (N, F, 2), seconds, NaN if unknown
    unreadable: dict[int, str]  # reason by row of the list


def write_features(
    folder: Path,
    record: FeatureRecord,
    blocks: Iterable[FeatureBlock],
    *,
    names: pa.ChunkedArray,
    labels: NDArray[np.int32],
) -> None:
    """Write the shards and then the index. It holds one shard in memory.

    If it is stopped, the next call writes all of them anew.

    Args:
        folder: Folder with the record.
        record: What was extracted.
        blocks: Features of all videos, in the order of the list.
        names: Name of each video of the list.
        labels: Label of each video of the list, negative for none.

    Raises:
        OSError: If a file cannot be written.
    """

    def write_index(file: IO[bytes]) -> None:
        shards = _ShardWriter(folder, record)
        with pq.ParquetWriter(
            file, SCHEMA, compression="zstd", write_page_checksum=True
        ) as parquet:
            tables = (shards.write(block, names=names, labels=labels) for block in blocks)
            for table in _in_row_groups(tables):
                parquet.write_table(table)
        shards.flush()

    write_file(folder / INDEX_NAME, write_index)


class _ShardWriter:
    """Writes shards of a fixed number of features."""

    def __init__(self, folder: Path, record: FeatureRecord) -> None:
        self._folder = folder
        self._record = record
        clips, crops = record.clips_and_crops()
        self._clips = pa.array(clips, pa.int32())
        self._crops = pa.array(crops, pa.int32())
        self._num_written = 0  # features of all shards, with those that wait
        self._waiting: list[NDArray[np.float32]] = []
        self._waiting_rows: list[NDArray[np.int64]] = []

    def write(
        self, block: FeatureBlock, *, names: pa.ChunkedArray, labels: NDArray[np.int32]
    ) -> pa.Table:
        """Write the features of some videos, and return their rows of the index."""
        states = _states_of(block)
        is_read = np.array([status == READ for status, _ in states])
        num_written = self._num_written
        self._add(block.features[is_read], block.videos[is_read])

        # A video without features has one row in the index.
        num_rows = np.where(is_read, self._record.features_per_video, 1)
        video = np.repeat(np.arange(len(block.videos)), num_rows)
        number = np.arange(len(video)) - np.repeat(np.cumsum(num_rows) - num_rows, num_rows)
        is_missing = ~is_read[video]

        position = num_written + np.cumsum(~is_missing) - 1
        shard, offset = np.divmod(position, self._record.features_per_shard)
        paths = names.slice(int(block.videos[0]), len(block.videos)).combine_chunks()
        video_labels = labels[block.videos[video]]
        times = block.intervals[video, number]
        has_no_time = is_missing[:, None] | np.isnan(times)

        columns = {
            "row": block.videos[video],
            "path": paths.take(pa.array(video)),
            "label": pa.array(video_labels, mask=video_labels < 0),
            "clip": self._clips.take(pa.array(number, mask=is_missing)),
            "crop": self._crops.take(pa.array(number, mask=is_missing)),
            "start": pa.array(times[:, 0], mask=has_no_time[:, 0]),
            "end": pa.array(times[:, 1], mask=has_no_time[:, 1]),
            "shard": pa.array(shard, mask=is_missing),
            "offset": pa.array(offset, mask=is_missing),
            "status": pa.array([status for status, _ in states]).take(pa.array(video)),
            "reason": pa.array([reason for _, reason in states]).take(pa.array(video)),
        }
        return pa.table(columns).cast(SCHEMA)

    def flush(self) -> None:
        """Write the last shard."""
        if self._waiting:
            self._write_shard(np.concatenate(self._waiting), np.concatenate(self._waiting_rows))

    def _add(self, features: NDArray[np.float32], videos: NDArray[np.int64]) -> None:
        per_shard = self._record.features_per_shard
        flat = features.reshape(-1, *self._record.shape)
        rows = np.repeat(videos, self._record.features_per_video)
        while len(flat):
            num_free = per_shard - self._num_written % per_shard
            self._waiting.append(flat[:num_free].copy())
            self._waiting_rows.append(rows[:num_free])
            self._num_written += len(flat[:num_free])
            flat, rows = flat[num_free:], rows[num_free:]
            if self._num_written % per_shard == 0:
                self.flush()

    def _write_shard(self, features: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
        number = (self._num_written - 1) // self._record.features_per_shard
        content = safetensors.numpy.save({FEATURES: features, ROW: rows})
        write_file(shard_path(self._folder, number), content)
        self._waiting, self._waiting_rows = [], []


def _states_of(block: FeatureBlock) -> list[tuple[str, str]]:
    """Return the status of each video, and why it has no features."""
    states = []
    for row, features in zip(block.videos.tolist(), block.features, strict=True):
        if row in block.unreadable:
            states.append((UNREADABLE, block.unreadable[row]))
        elif not np.isfinite(features).all():
            states.append((NONFINITE, "its features are not finite"))
        else:
            states.append((READ, ""))
    return states


def _in_row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join tables to row groups."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= _ROWS_PER_GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)
