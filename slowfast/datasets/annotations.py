"""Annotations of a list in columns, compact enough for hundreds of millions of rows."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from slowfast.datasets.records import NO_LABEL, Span, Video

BLOCK_ROWS = 1 << 16  # rows that are hashed at once
_CHECKSUM_DIGITS = 16


class Annotations:
    """Rows of an annotation list. Forked loader workers share the memory of its columns.

    Attributes:
        is_labeled: Whether the videos have labels. All of them have one, or none has.

    Args:
        paths: Paths of the videos, relative to DATA.PATH_PREFIX.
        labels: Class indices, shape (N,), or NO_LABEL for all videos of a list without labels.
        num_frames: Number of frames of each video, shape (N,), or None if the list does not say.
        spans: Start and end of each video within its file in seconds, shape (N, 2). NaN stands for
            a whole file, None for a list of whole files.

    Raises:
        ValueError: If some videos have a label and others have none.
    """

    def __init__(
        self,
        paths: Sequence[str] | pa.ChunkedArray,
        labels: ArrayLike,
        *,
        num_frames: ArrayLike | None = None,
        spans: ArrayLike | None = None,
    ) -> None:
        if not isinstance(paths, pa.ChunkedArray):
            with system_memory_pool():
                paths = pa.chunked_array([paths], pa.string())
        self._paths = paths

        self.labels: NDArray[np.int32] = np.asarray(labels, np.int32)
        self.num_frames: NDArray[np.int32] | None = None
        self.spans: NDArray[np.float64] | None = None
        if num_frames is not None:
            self.num_frames = np.asarray(num_frames, np.int32)
        if spans is not None:
            self.spans = np.asarray(spans, np.float64)
        self.is_labeled = self._find_whether_labeled()

    def _find_whether_labeled(self) -> bool:
        has_label = self.labels != NO_LABEL
        is_labeled = bool(has_label.all())
        if not is_labeled and has_label.any():
            labeled, unlabeled = int(has_label.argmax()), int(has_label.argmin())
            raise ValueError(
                f"{self[unlabeled].name} (row {unlabeled} from 0) has no label, but "
                f"{self[labeled].name} (row {labeled}) has one. Label all videos or none"
            )
        return is_labeled

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> Video:
        row = int(row)
        num_frames = None if self.num_frames is None else int(self.num_frames[row])
        return Video(self._paths[row].as_py(), int(self.labels[row]), num_frames, self._span(row))

    def _span(self, row: int) -> Span | None:
        if self.spans is None or np.isnan(self.spans[row, 0]):
            return None
        return Span(*self.spans[row].tolist())

    @cached_property
    def names(self) -> pa.ChunkedArray:
        """Name of each video, see `Video.name`."""
        if self.spans is None:
            return self._paths
        return pa.chunked_array([[self[row].name for row in range(len(self))]], pa.string())

    def find_rows(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Return the rows with one of the given names (see `Video.name`) in ascending order."""
        with system_memory_pool():
            wanted = pa.array(names, self.names.type)
            return np.flatnonzero(pc.is_in(self.names, value_set=wanted).to_numpy())

    def select(self, rows: ArrayLike) -> "Annotations":
        """Return annotations that consist of the given rows, in the given order."""
        rows = np.asarray(rows, np.int64)
        with system_memory_pool():
            # `take` returns one chunk, which may exceed the 2 GB that 32-bit offsets can address.
            paths = self._paths.cast(pa.large_string()).take(pa.array(rows))

        return Annotations(
            paths,
            self.labels[rows],
            num_frames=None if self.num_frames is None else self.num_frames[rows],
            spans=None if self.spans is None else self.spans[rows],
        )

    def hash_labels(self) -> str:
        """Return a checksum of the labels and, if the list has them, the numbers of frames."""
        digest = hashlib.sha256(self.labels.tobytes())
        if self.num_frames is not None:
            digest.update(self.num_frames.tobytes())
        return digest.hexdigest()[:_CHECKSUM_DIGITS]

    def hash_paths(self, *, prefix: str) -> str:
        """Return a checksum of the paths and spans that stays the same when the videos move.

        Args:
            prefix: DATA.PATH_PREFIX. It is removed from the paths that start with it.
        """
        digest = hashlib.sha256()
        folder = f"{prefix.rstrip('/')}/" if prefix else ""

        with system_memory_pool():
            for paths in self._path_blocks():
                digest.update(_join_lines(_remove_prefix(paths, folder)))

        if self.spans is not None:
            digest.update(self.spans.tobytes())
        return digest.hexdigest()[:_CHECKSUM_DIGITS]

    def _path_blocks(self) -> Iterator[pa.Array]:
        for chunk in self._paths.chunks:
            for first in range(0, len(chunk), BLOCK_ROWS):
                yield chunk.slice(first, BLOCK_ROWS).cast(pa.large_string())


@contextmanager
def system_memory_pool() -> Iterator[None]:
    """Let Arrow allocate with malloc.

    Arrow's default, mimalloc, is slower for lists and does not return freed memory to the system.
    """
    default = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(default)


def _remove_prefix(paths: pa.Array, prefix: str) -> pa.Array:
    if not prefix:
        return paths
    has_prefix = pc.starts_with(paths, prefix)
    return pc.if_else(has_prefix, pc.utf8_slice_codeunits(paths, len(prefix)), paths)


def _join_lines(paths: pa.Array) -> memoryview:
    """Return the paths as lines of UTF-8. No path contains a line break, so this is unambiguous."""
    empty, line_break = (pa.scalar(text, paths.type) for text in ("", "\n"))
    lines = pc.binary_join_element_wise(paths, empty, line_break)

    _, offsets, characters = lines.buffers()
    first, last = np.frombuffer(offsets, np.int64)[[lines.offset, lines.offset + len(lines)]]
    return memoryview(characters)[first:last]
