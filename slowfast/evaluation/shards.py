"""Score shards: files of logits that a test appends to, continues after a kill, and merges.

Every process of every start of a test writes a shard of its own, an Arrow IPC stream with one
record batch per group of views:

    video       int64, row of the annotation list
    logits      fixed-size list of V * K float32, view by view
    unreadable  string, why the video could not be read. Null if it was read

The metadata of a record batch holds a checksum of its content, that of the schema the ID of the
test. A process that is killed leaves at most one torn record batch, at the end of its shard.
"""

import heapq
import logging
import os
import resource
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slowfast.datasets.view_groups import ViewGroups
from slowfast.evaluation.view_scores import ViewScores, merge
from slowfast.utils.files import explain
from slowfast.utils.text import count

logger = logging.getLogger(__name__)

SUFFIX = ".arrows"  # Arrow's suffix for files in the stream format
_SPARE_FILES = 64  # that a process may open beside the shards it reads
_TEST_ID, _CHECKSUM = b"test_id", b"crc32"


class ShardError(ValueError):
    """Raised for a shard that is damaged, edited or of another test. The message names it."""


@dataclass(frozen=True)
class Shards:
    """The shards of a test.

    Args:
        folder: Folder of the shards.
        test_id: ID of the test. Shards with another ID are refused.
        groups: How the list is cut into groups of views.
        num_classes: Number of classes.
    """

    folder: Path
    test_id: str
    groups: ViewGroups
    num_classes: int

    def recover(self) -> NDArray[np.int64]:
        """Cut off what cannot be read, and return the groups that are still to be scored.

        Groups with unreadable videos are among them, since the files may have been repaired. Only
        one process may call this, before any of them writes.

        Raises:
            ShardError: If a shard belongs to another test.
        """
        is_scored = np.zeros(self.groups.num_groups * self.groups.videos_per_group, bool)
        is_scored[self.groups.num_videos :] = True  # what the last group lacks

        for path in self._paths():
            end = 0
            try:
                for scores, end in self._read_shard(path):  # noqa: B007  the last one is kept
                    is_scored[scores.videos[scores.is_readable]] = True
            except ShardError as error:
                if self._has_other_id(path):
                    raise
                logger.warning("%s. What is missing is computed again", error)
                os.truncate(path, end)

        by_group = is_scored.reshape(self.groups.num_groups, -1)
        return np.flatnonzero(~by_group.all(axis=1))

    def next_start(self) -> int:
        """Return the number of the next start of the test, from 1."""
        return 1 + max((int(path.name[6:11]) for path in self._paths()), default=0)

    def writer(self, *, start: int, rank: int) -> "ShardWriter":
        """Return the writer of the shard of a process, a new file.

        Args:
            start: Number of the start of the test, the same in every process.
            rank: Rank of the process.
        """
        path = self.folder / f"start_{start:05d}_rank_{rank:05d}{SUFFIX}"
        return ShardWriter(path, schema=self._schema())

    def read(self) -> Iterator[ViewScores]:
        """Iterate over the scores of all videos in the order of the list.

        It holds one record batch per shard in memory, whatever the length of the list.

        Raises:
            ShardError: If a shard is damaged, or videos are missing.
        """
        paths = self._paths()
        _allow_open_files(len(paths))
        expected = 0
        with ExitStack() as stack:
            shards = []
            for path in paths:
                records = self._read_shard(path)
                stack.callback(records.close)
                shards.append(scores for scores, _ in records)

            merged = heapq.merge(*shards, key=_first_video)
            for first, same in groupby(merged, key=_first_video):
                self._check_complete(expected, first)
                scores = merge(list(same))
                expected = int(scores.videos[-1]) + 1
                yield scores
        self._check_complete(expected, self.groups.num_videos)

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob(f"start_[0-9]*_rank_[0-9]*{SUFFIX}"))

    def _check_complete(self, expected: int, found: int) -> None:
        if found != expected:
            raise ShardError(
                f"{self.folder}: has no scores of {count(found - expected, 'video')} of the list "
                f"from row {expected} on (from 0). The same command scores them"
            )

    def _schema(self) -> pa.Schema:
        size = self.groups.num_views * self.num_classes
        fields = [
            pa.field("video", pa.int64()),
            pa.field("logits", pa.list_(pa.float32(), size)),
            pa.field("unreadable", pa.string()),
        ]
        return pa.schema(fields, metadata={_TEST_ID: self.test_id})

    def _read_shard(self, path: Path) -> Generator[tuple[ViewScores, int], None, None]:
        """Iterate over the records of a shard and the offset in the file at which each one ends.

        Raises:
            ShardError: At the first record that is torn, damaged or of another test.
        """
        with open(path, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size == 0:  # the process was killed before it wrote
                return
            last_group = -1
            for batch, metadata, end in _read_batches(file, path, schema=self._schema()):
                if not len(batch):
                    raise ShardError(f"{path}: a record before byte {end} is empty")
                scores = self._parse(batch)
                group = int(scores.videos[0]) // self.groups.videos_per_group
                is_whole = scores.videos.tolist() == list(self.groups.videos(group))
                if metadata.get(_CHECKSUM) != _checksum(scores):
                    raise ShardError(f"{path}: a record before byte {end} is damaged")
                if not is_whole or group <= last_group:
                    raise ShardError(f"{path}: a record before byte {end} has unexpected videos")
                last_group = group
                yield scores, end

    def _parse(self, batch: pa.RecordBatch) -> ViewScores:
        videos, logits, unreadable = batch.columns
        values = logits.flatten().to_numpy()
        reasons: dict[int, str] = {}
        if unreadable.null_count < len(unreadable):
            reasons = {
                video: reason
                for video, reason in zip(videos.to_pylist(), unreadable.to_pylist(), strict=True)
                if reason is not None
            }
        shape = len(videos), self.groups.num_views, self.num_classes
        return ViewScores(videos.to_numpy(), values.reshape(shape), reasons)

    def _has_other_id(self, path: Path) -> bool:
        try:
            with open(path, "rb") as file, pa.ipc.open_stream(file) as reader:
                return bool((reader.schema.metadata or {}).get(_TEST_ID) != self.test_id.encode())
        except (pa.ArrowInvalid, OSError):
            return False


class ShardWriter:
    """Writes one shard. As a context manager, it syncs and closes the file in the end.

    Args:
        path: The shard, a new file. Its folder is created if it is missing.
        schema: Schema of the shards of this test.

    Raises:
        OSError: If the file cannot be written.
    """

    def __init__(self, path: Path, *, schema: pa.Schema) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._schema = schema
        self._file = open(path, "xb")  # noqa: SIM115  __exit__ closes it
        self._writer = pa.ipc.new_stream(self._file, schema)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._file:
            if error is None:
                self._explained(self._close)

    def write(self, scores: ViewScores) -> None:
        """Append the scores of a group. A kill after this call does not lose them.

        Raises:
            OSError: If they cannot be written, such as if the disk is full.
        """
        reasons = [scores.unreadable.get(row) for row in scores.videos.tolist()]
        logits = pa.FixedSizeListArray.from_arrays(
            pa.array(scores.logits.ravel()), type=self._schema.field("logits").type
        )
        columns = [pa.array(scores.videos), logits, pa.array(reasons, pa.string())]
        batch = pa.record_batch(columns, schema=self._schema)
        self._explained(lambda: self._append(batch, checksum=_checksum(scores)))

    def _append(self, batch: pa.RecordBatch, *, checksum: bytes) -> None:
        self._writer.write_batch(batch, custom_metadata={_CHECKSUM: checksum})
        self._file.flush()

    def _close(self) -> None:
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())

    def _explained(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            reason = explain(error, self.path.parent)
            raise OSError(
                f"{self.path}: cannot be written: {reason}. What was written before is "
                "kept, and the same command continues from there"
            ) from error


def _read_batches(
    file: IO[bytes], path: Path, *, schema: pa.Schema
) -> Iterator[tuple[pa.RecordBatch, dict[bytes, bytes], int]]:
    """Iterate over the record batches of a shard, their metadata, and where each of them ends."""
    try:
        reader = pa.ipc.open_stream(file)
        if not reader.schema.equals(schema, check_metadata=True):
            raise ShardError(f"{path}: belongs to another test. Move it away")
        while True:
            batch, metadata = reader.read_next_batch_with_custom_metadata()
            batch.validate(full=True)
            yield batch, dict(metadata or {}), file.tell()
    except StopIteration:
        return
    except ShardError:
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:  # even of its lengths
        raise ShardError(f"{path}: ends in the middle of a record, or is damaged") from error


def _checksum(scores: ViewScores) -> bytes:
    """Return the CRC-32 of the content of a record."""
    checksum = zlib.crc32(scores.videos.tobytes())
    checksum = zlib.crc32(scores.logits.tobytes(), checksum)
    for row, reason in sorted(scores.unreadable.items()):
        checksum = zlib.crc32(f"{row}: {reason}\n".encode(), checksum)
    return b"%08x" % checksum


def _first_video(scores: ViewScores) -> int:
    return int(scores.videos[0])


def _allow_open_files(number: int) -> None:
    """Raise this process's limit of open files if a number of further files would exceed it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/proc/self/fd")) + number + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
