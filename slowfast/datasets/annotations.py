"""From one list file to compact columns: a list may have many millions of rows, which forked workers share."""

import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from slowfast.datasets.records import Video
from slowfast.utils.paths import forget, pathmgr

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv")

MOST_SHOWN = 5  # bad rows of a list that an error shows
BLOCK_CHARACTERS = 1 << 21  # of a list that are parsed at once
BLOCK_ROWS = 1 << 16  # of a list that are read for a checksum at once
_CHECKSUM_DIGITS = 16
_NUMBER = r"\d{1,9}"  # fits into 32 bits

pa.set_memory_pool(pa.system_memory_pool())  # mimalloc, Arrow's default, is slower here and keeps what it has freed


class Annotations:
    """The rows of a list: paths in Arrow buffers, labels and frame counts in arrays.

    Args:
        paths: of the videos, relative to DATA.PATH_PREFIX.
        labels: class numbers from 0.
        num_frames: of each video, where the list says.
    """

    def __init__(
        self, paths: Sequence[str] | pa.ChunkedArray, labels: ArrayLike, *, num_frames: ArrayLike | None = None
    ) -> None:
        self._paths = paths if isinstance(paths, pa.ChunkedArray) else pa.chunked_array([paths], pa.string())
        self.labels: NDArray[np.int32] = np.asarray(labels, np.int32)
        self.num_frames: NDArray[np.int32] | None = None if num_frames is None else np.asarray(num_frames, np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> Video:
        num_frames = None if self.num_frames is None else int(self.num_frames[row])
        return Video(self._paths[int(row)].as_py(), int(self.labels[row]), num_frames)

    def rows_of(self, paths: Sequence[str]) -> NDArray[np.int64]:
        """Return the rows, ascending, whose path is one of `paths`."""
        return np.flatnonzero(pc.is_in(self._paths, value_set=pa.array(paths, self._paths.type)).to_numpy())

    def checksum_of_labels(self) -> str:
        """Return a checksum of the labels and, where the list has them, the numbers of frames, in order."""
        digest = hashlib.sha256(self.labels.tobytes())
        if self.num_frames is not None:
            digest.update(self.num_frames.tobytes())
        return digest.hexdigest()[:_CHECKSUM_DIGITS]

    def checksum_of_paths(self, *, prefix: str) -> str:
        """Return a checksum of the paths, in order, which stays the same when the videos move.

        Args:
            prefix: DATA.PATH_PREFIX; a path counts without it, whether the list writes it or not.
        """
        digest = hashlib.sha256()
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        for chunk in self._paths.chunks:
            for first in range(0, len(chunk), BLOCK_ROWS):
                paths = chunk.slice(first, BLOCK_ROWS).cast(pa.large_string())
                if start:
                    is_inside = pc.starts_with(paths, start)
                    paths = pc.if_else(is_inside, pc.utf8_slice_codeunits(paths, len(start)), paths)
                # A path holds no line end, so that the lines are the paths whatever the chunks are.
                lines = pc.binary_join_element_wise(paths, *(pa.scalar(text, paths.type) for text in ("", "\n")))
                _, offsets, characters = lines.buffers()
                used = np.frombuffer(offsets, np.int64)[[lines.offset, lines.offset + len(lines)]]
                digest.update(memoryview(characters)[used[0] : used[1]])
        return digest.hexdigest()[:_CHECKSUM_DIGITS]

    def select(self, rows: ArrayLike) -> "Annotations":
        """Return a list of the given rows, in their order."""
        rows = np.asarray(rows, np.int64)
        num_frames = None if self.num_frames is None else self.num_frames[rows]
        paths = self._paths.cast(pa.large_string())  # taking makes one chunk, which may be longer than 2 GB
        return Annotations(paths.take(pa.array(rows)), self.labels[rows], num_frames=num_frames)


def read_path_list(list_path: str, *, separator: str, num_classes: int) -> Annotations:
    """Return the rows of a list of `path<separator>label` lines; the path may contain the separator.

    Args:
        list_path: UTF-8 text, local or remote, plain or .gz.
        separator: "": a comma, a semicolon, or tabs and spaces, whichever the first line has before its label.
        num_classes: labels are below.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: the list is empty, or lines, named by their numbers, are not a path and a label below num_classes.
    """
    found = separator or _separator_of(list_path)
    paths, numbers = _read_columns(
        list_path,
        line=(rf"\S\s*{re.escape(found)}\s*" if found else r"\S\s+") + _NUMBER,
        separator=found,
        num_numbers=1,
        num_classes=num_classes,
        expected=f"a path and a class number with {repr(found) if found else 'tabs or spaces'} between "
        "(DATA.PATH_LABEL_SEPARATOR)",
    )
    return Annotations(paths, numbers[0])


def read_frame_list(list_path: str, *, num_classes: int) -> Annotations:
    """Return the rows of a list of `folder num_frames label` lines; the folder's name may contain spaces.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: the list is empty, or lines, named by their numbers, are not as above or have no frames.
    """
    paths, numbers = _read_columns(
        list_path,
        line=rf"\S\s+0{{0,8}}[1-9]\d{{0,8}}\s+{_NUMBER}",
        separator=None,
        num_numbers=2,
        num_classes=num_classes,
        expected="a folder, its number of frames and a class number",
    )
    return Annotations(paths, numbers[1], num_frames=numbers[0])


@contextmanager
def open_text(path: str, *, key: str = "DATA.PATH_TO_DATA_DIR") -> Iterator[TextIO]:
    """Open UTF-8 text, local or remote, plain or .gz, with any line ends and with or without a byte order mark.

    Args:
        path: of the file.
        key: of the config, to look at if the file is not there.

    Raises:
        OSError, ValueError: the file is missing, cannot be read, or is not such text; the message names it.
    """
    try:
        local_path = pathmgr.get_local_path(path)
        with (gzip.open if path.endswith(".gz") else open)(local_path, "rt", encoding="utf-8-sig") as file:
            yield file
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file; check {key}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in UTF-8: {error.reason}{forget(path)}") from error
    except ValueError:  # what the reader makes of the text
        forget(path)
        raise
    except (OSError, EOFError, zlib.error) as error:  # of a server, a disk, or a damaged .gz
        reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{path}: ")
        raise OSError(f"{path}: {reason}{forget(path)}") from error


def reject_bad_rows(list_path: str, reasons: Sequence[str], *, num_bad: int) -> None:
    """Raise one ValueError for all bad rows of a list, if there are any.

    Args:
        list_path: of the list.
        reasons: for some of them at least, which row and what is wrong with it.
        num_bad: how many there are.
    """
    discarded = forget(list_path) if num_bad else ""
    if num_bad == 1:
        raise ValueError(f"{list_path}{discarded} {reasons[0]}")
    if num_bad:
        raise ValueError("\n    ".join([f"{list_path}{discarded} has {num_bad} bad rows:", *reasons[:MOST_SHOWN]]))


def _separator_of(list_path: str) -> str | None:
    """What comes before the label in the first line that ends in a number; None for tabs and spaces."""
    with open_text(list_path) as file:
        for line in file:
            if found := re.search(r"([,;\t ])[\t ]*\d+\s*$", line):
                return None if found[1].isspace() else found[1]
    return ","


def _read_columns(
    list_path: str, *, line: str, separator: str | None, num_numbers: int, num_classes: int, expected: str
) -> tuple[pa.ChunkedArray, NDArray[np.int32]]:
    """Split lines from the right, as str.rsplit does.

    Args:
        list_path: of the list.
        line: regular expression that the end of a good line matches.
        separator: None for white space.
        num_numbers: at the end of a line. The last one is the label.
        num_classes: labels are below.
        expected: what a line holds, for messages.

    Returns:
        the paths (N,) and the numbers (num_numbers, N).
    """
    paths, numbers = [], []
    reasons: list[str] = []
    num_bad = 0
    for first, lines in _numbered_blocks(list_path):
        lines = pc.utf8_trim_whitespace(lines)
        is_row = pc.match_substring_regex(lines, f"{line}$").to_numpy(zero_copy_only=False)
        rows = lines.filter(pa.array(is_row))
        if separator:
            fields = pc.split_pattern(rows, separator, max_splits=num_numbers, reverse=True)
        else:
            fields = pc.utf8_split_whitespace(rows, max_splits=num_numbers, reverse=True)
        columns = [pc.utf8_trim_whitespace(pc.list_element(fields, index)) for index in range(num_numbers + 1)]
        paths.append(columns[0])
        numbers.append(np.stack([column.cast(pa.int32()).to_numpy() for column in columns[1:]]))

        is_bad = ~is_row & (pc.binary_length(lines).to_numpy() > 0)
        is_bad[is_row] = numbers[-1][-1] >= num_classes
        num_bad += int(is_bad.sum())
        for index in np.flatnonzero(is_bad)[: MOST_SHOWN - len(reasons)]:
            text = lines[int(index)].as_py()
            if is_row[index]:
                label = int(re.split(r"\D", text)[-1])
                problem = f"has the label {label}, but MODEL.NUM_CLASSES={num_classes} counts from 0"
            else:
                problem = f"is {text[:200]!r}; expected {expected}"
            reasons.append(f"line {first + index} {problem}")
    reject_bad_rows(list_path, reasons, num_bad=num_bad)
    if not any(len(column) for column in paths):
        raise ValueError(f"{list_path}: the list is empty")
    return pa.chunked_array(paths), np.concatenate(numbers, axis=1)


def _numbered_blocks(list_path: str) -> Iterator[tuple[int, pa.Array]]:
    """Blocks of whole lines, each with the number of its first one; a list of many millions is never held twice."""
    first = 1
    with open_text(list_path) as file:
        while block := file.read(BLOCK_CHARACTERS):
            block += file.readline()
            lines = pc.split_pattern(pa.scalar(block.removesuffix("\n")), "\n").values
            yield first, lines
            first += len(lines)
