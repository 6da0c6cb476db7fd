"""From one list file to compact columns: a list may have many millions of rows, which forked workers share."""

import gzip
import hashlib
import os
import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from slowfast.datasets.records import Span, Video
from slowfast.utils.paths import forget, pathmgr

MOST_SHOWN = 5  # bad rows of a list that an error shows
MOST_CHARACTERS = 500  # of what it says of one
BLOCK_CHARACTERS = 1 << 21  # of a list that are parsed at once
BLOCK_ROWS = 1 << 16  # of a list that are read for a checksum at once
_CHECKSUM_DIGITS = 16
_NUMBER = r"\d{1,9}"  # fits into 32 bits
_SECONDS = r"\d{1,9}(?:\.\d*)?"

pa.set_memory_pool(
    pa.system_memory_pool()
)  # mimalloc, Arrow's default, is slower here and keeps what it has freed


class Annotations:
    """The rows of a list: paths in Arrow buffers, labels and frame counts in arrays.

    Args:
        paths: of the videos, relative to DATA.PATH_PREFIX.
        labels: class numbers from 0.
        num_frames: of each video, where the list says.
        spans: Start and end of each video in its file, in seconds, shape (N, 2), nan for a whole
            file; None if all are whole files.
    """

    def __init__(
        self,
        paths: Sequence[str] | pa.ChunkedArray,
        labels: ArrayLike,
        *,
        num_frames: ArrayLike | None = None,
        spans: ArrayLike | None = None,
    ) -> None:
        self._paths = (
            paths if isinstance(paths, pa.ChunkedArray) else pa.chunked_array([paths], pa.string())
        )
        self.labels: NDArray[np.int32] = np.asarray(labels, np.int32)
        self.num_frames: NDArray[np.int32] | None = (
            None if num_frames is None else np.asarray(num_frames, np.int32)
        )
        self.spans: NDArray[np.float64] | None = (
            None if spans is None else np.asarray(spans, np.float64)
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> Video:
        num_frames = None if self.num_frames is None else int(self.num_frames[row])
        return Video(
            self._paths[int(row)].as_py(), int(self.labels[row]), num_frames, self._span(int(row))
        )

    def _span(self, row: int) -> Span | None:
        if self.spans is None or np.isnan(self.spans[row, 0]):
            return None
        return Span(*self.spans[row].tolist())

    @cached_property
    def names(self) -> pa.ChunkedArray:
        """The name of each video, see `Video.name`."""
        if self.spans is None:
            return self._paths
        return pa.chunked_array([[self[row].name for row in range(len(self))]], pa.string())

    def rows_of(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Return the rows, ascending, whose name is one of `names`."""
        own = self.names
        return np.flatnonzero(pc.is_in(own, value_set=pa.array(names, own.type)).to_numpy())

    def checksum_of_labels(self) -> str:
        """Return a checksum of the labels and, where the list has them, the numbers of frames, in order."""
        digest = hashlib.sha256(self.labels.tobytes())
        if self.num_frames is not None:
            digest.update(self.num_frames.tobytes())
        return digest.hexdigest()[:_CHECKSUM_DIGITS]

    def checksum_of_paths(self, *, prefix: str) -> str:
        """Return a checksum of the paths and spans, in order, which stays the same when the videos move.

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
                lines = pc.binary_join_element_wise(
                    paths, *(pa.scalar(text, paths.type) for text in ("", "\n"))
                )
                _, offsets, characters = lines.buffers()
                used = np.frombuffer(offsets, np.int64)[[lines.offset, lines.offset + len(lines)]]
                digest.update(memoryview(characters)[used[0] : used[1]])
        if self.spans is not None:
            digest.update(self.spans.tobytes())
        return digest.hexdigest()[:_CHECKSUM_DIGITS]

    def select(self, rows: ArrayLike) -> "Annotations":
        """Return a list of the given rows, in their order."""
        rows = np.asarray(rows, np.int64)
        num_frames = None if self.num_frames is None else self.num_frames[rows]
        paths = self._paths.cast(
            pa.large_string()
        )  # taking makes one chunk, which may be longer than 2 GB
        spans = None if self.spans is None else self.spans[rows]
        return Annotations(
            paths.take(pa.array(rows)), self.labels[rows], num_frames=num_frames, spans=spans
        )


def read_path_list(list_path: str, *, separator: str, num_classes: int) -> Annotations:
    """Return the rows of a list of `path<separator>label` lines; the path may contain the separator.

    A path may stand in quotes, as RFC 4180 has them: quotes in it are doubled, blanks at its ends belong to it. The
    label of such a row may stand in quotes, too.

    A line `path<separator>label<separator>start<separator>end`, whose path ends in a suffix, is a part of a file, from
    second `start` to second `end`.

    Args:
        list_path: UTF-8 text, local or remote, plain or .gz.
        separator: "": a comma, a semicolon, or tabs and spaces, whichever the first line has before its label.
        num_classes: labels are below.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: the list is empty, or lines, named by their numbers, are not a path and a label below num_classes.
    """
    found = separator or _separator_of(list_path)
    paths, numbers, spans = _read_columns(
        list_path,
        line=(rf"\S\s*{re.escape(found)}\s*" if found else r"\S\s+") + _NUMBER,
        separator=found,
        num_numbers=1,
        num_classes=num_classes,
        expected=f"a path and a class number with {repr(found) if found else 'tabs or spaces'} between "
        "(DATA.PATH_LABEL_SEPARATOR)",
    )
    return Annotations(paths, numbers[0], spans=spans)


def read_frame_list(list_path: str, *, num_classes: int) -> Annotations:
    """Return the rows of a list of `folder num_frames label` lines; the folder's name may contain spaces.

    It may stand in quotes, as in `read_path_list`.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: the list is empty, or lines, named by their numbers, are not as above or have no frames.
    """
    paths, numbers, _ = _read_columns(
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
        mode = os.stat(local_path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OSError(
                "is a pipe or a device, which cannot be read again; write its content to a file"
            )
        with (gzip.open if path.endswith(".gz") else open)(
            local_path, "rt", encoding="utf-8-sig"
        ) as file:
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


def format_row(path: str, *numbers: float, separator: str) -> str:
    """Return a line of a list, which is read as this path and these numbers.

    The path stands in quotes where it would be misread without them.

    Raises:
        ValueError: No list can hold the path: it has a line break, or is not UTF-8.
    """
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{path!r}: the name is not UTF-8, as a list is; rename the file"
        ) from error
    if "\n" in path or "\r" in path:
        raise ValueError(
            f"{path!r}: the name has a line break, which a list cannot hold; rename it"
        )

    fields = [f"{number:.12g}" for number in numbers]
    row = separator.join([path, *fields])
    is_misread = path.startswith(('"', "\ufeff")) or path != path.strip()
    if is_misread or re.fullmatch(_spanned_row(separator if separator.strip() else None), row):
        quoted = '"{}"'.format(path.replace('"', '""'))
        row = separator.join([quoted, *fields])
    return row + "\n"


def reject_bad_rows(list_path: str, reasons: Sequence[str], *, num_bad: int) -> None:
    """Raise one ValueError for all bad rows of a list, if there are any.

    Args:
        list_path: of the list.
        reasons: for some of them at least, which row and what is wrong with it.
        num_bad: how many there are.
    """
    discarded = forget(list_path) if num_bad else ""
    shown = [_shorten(reason) for reason in reasons[:MOST_SHOWN]]
    if num_bad == 1:
        raise ValueError(f"{list_path}{discarded} {shown[0]}")
    if num_bad:
        raise ValueError("\n    ".join([f"{list_path}{discarded} has {num_bad} bad rows:", *shown]))


def _shorten(text: str) -> str:
    """The text without its middle, where it is long."""
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[: MOST_CHARACTERS // 2]} ... {text[-MOST_CHARACTERS // 2 :]}"


def _separator_of(list_path: str) -> str | None:
    """What comes before the label in the first line that ends in a number; None for tabs and spaces."""
    with open_text(list_path) as file:
        for line in file:
            if found := re.search(r"([,;\t ])[\t ]*(\d+\.?\d*|\"\d+\.?\d*\")\s*$", line):
                return None if found[1].isspace() else found[1]
    return ","


def _read_columns(
    list_path: str,
    *,
    line: str,
    separator: str | None,
    num_numbers: int,
    num_classes: int,
    expected: str,
) -> tuple[pa.ChunkedArray, NDArray[np.int32], NDArray[np.float64] | None]:
    """Split lines from the right, as str.rsplit does.

    Args:
        list_path: of the list.
        line: regular expression that the end of a good line matches.
        separator: None for white space.
        num_numbers: at the end of a line. The last one is the label.
        num_classes: labels are below.
        expected: what a line holds, for messages.

    Returns:
        the paths (N,), the numbers (num_numbers, N) and, if any row has one, the spans (N, 2) of lists of one number.
    """
    paths, numbers, spans = [], [], []
    reasons: list[str] = []
    num_bad = 0
    for first, lines in _numbered_blocks(list_path):
        lines = pc.utf8_trim_whitespace(lines)
        span_of_line = None
        if num_numbers == 1:
            lines, span_of_line = _take_off_spans(lines, separator=separator)
        lines, unquoted = _take_off_quotes(lines, separator=separator, num_numbers=num_numbers)
        is_row = pc.match_substring_regex(lines, f"{line}$").to_numpy(zero_copy_only=False)
        rows = lines.filter(pa.array(is_row))
        if separator:
            fields = pc.split_pattern(rows, separator, max_splits=num_numbers, reverse=True)
        else:
            fields = pc.utf8_split_whitespace(rows, max_splits=num_numbers, reverse=True)
        columns = [
            pc.utf8_trim_whitespace(pc.list_element(fields, index))
            for index in range(num_numbers + 1)
        ]
        paths.append(
            columns[0]
            if unquoted is None
            else pc.coalesce(unquoted.filter(pa.array(is_row)), columns[0])
        )
        numbers.append(np.stack([column.cast(pa.int32()).to_numpy() for column in columns[1:]]))

        is_bad = ~is_row & (pc.binary_length(lines).to_numpy() > 0)
        is_bad[is_row] = numbers[-1][-1] >= num_classes
        spans.append(None if span_of_line is None else span_of_line[is_row])
        is_backward = np.zeros(len(lines), bool)
        if span_of_line is not None:
            is_backward = is_row & (span_of_line[:, 0] >= span_of_line[:, 1])
            is_bad |= is_backward
        num_bad += int(is_bad.sum())
        for index in np.flatnonzero(is_bad)[: MOST_SHOWN - len(reasons)]:
            text = lines[int(index)].as_py()
            if is_backward[index] and span_of_line is not None:
                start, end = span_of_line[index].tolist()
                problem = f"has the span {start:g} to {end:g} s, which does not end after its start"
            elif is_row[index]:
                label = int(re.split(r"\D", text)[-1])
                problem = (
                    f"has the label {label}, but MODEL.NUM_CLASSES={num_classes} counts from 0"
                )
            else:
                problem = f"is {text[:200]!r}; expected {expected}"
                if re.fullmatch(r'"([^"]|"")*', text):
                    problem += ". Its quote is not closed: a path cannot hold a line break"
            reasons.append(f"line {first + index} {problem}")
    reject_bad_rows(list_path, reasons, num_bad=num_bad)
    if not any(len(column) for column in paths):
        raise ValueError(f"{list_path}: the list is empty")
    return pa.chunked_array(paths), np.concatenate(numbers, axis=1), _join_spans(spans, numbers)


def _join_spans(
    spans: Sequence[NDArray[np.float64] | None], numbers: Sequence[NDArray[np.int32]]
) -> NDArray[np.float64] | None:
    """The spans of all blocks, (N, 2), nan where a block has none; None if no block has any."""
    if all(span is None for span in spans):
        return None
    whole = [np.full((block.shape[1], 2), np.nan) for block in numbers]
    return np.concatenate([w if s is None else s for s, w in zip(spans, whole, strict=True)])


def _spanned_row(separator: str | None) -> str:
    """A regular expression of a row with a span, whose path ends in a suffix."""
    between = rf"\s*{re.escape(separator)}\s*" if separator else r"\s+"
    label, seconds = (rf'(?:{number}|"{number}")' for number in (_NUMBER, _SECONDS))
    suffix = r"\.[0-9]*[A-Za-z][0-9A-Za-z]*"
    row = rf'.*{suffix}(?:\s*")?{between}{label}'
    return rf"(?P<row>{row}){between}(?P<start>{seconds}){between}(?P<end>{seconds})"


def _take_off_spans(
    lines: pa.Array, *, separator: str | None
) -> tuple[pa.Array, NDArray[np.float64] | None]:
    """Cut spans off the ends of lines.

    Returns:
        The lines, and their spans (N, 2), nan where a line has none; None if no line has one.
    """
    between = rf"\s*{re.escape(separator)}\s*" if separator else r"\s+"
    ending = (
        rf'{between}"?{_SECONDS}"?{between}"?{_SECONDS}"?$'  # searched from the end, which is fast
    )
    if not pc.any(pc.match_substring_regex(lines, ending)).as_py():
        return lines, None

    found = pc.extract_regex(lines, f"^{_spanned_row(separator)}$")
    columns = [
        pc.replace_substring(pc.struct_field(found, name), '"', "") for name in ("start", "end")
    ]
    spans = [column.cast(pa.float64()).to_numpy(zero_copy_only=False) for column in columns]
    if np.isnan(spans[0]).all():
        return lines, None
    return pc.coalesce(pc.struct_field(found, "row"), lines), np.stack(spans, axis=1)


def _take_off_quotes(
    lines: pa.Array, *, separator: str | None, num_numbers: int
) -> tuple[pa.Array, pa.Array | None]:
    """Replace quoted paths, and take the quotes off the numbers behind them.

    Returns:
        The lines, with another path where one is quoted; and the unquoted paths, null where none is.
    """
    if not pc.any(pc.starts_with(lines, '"')).as_py():
        return lines, None

    number = (rf"\s*{re.escape(separator)}\s*" if separator else r"\s+") + r'(?:\d+|"\d+")'
    quoted = rf'^"(?P<path>(?:[^"]|"")+)"(?P<numbers>(?:{number}){{{num_numbers}}})$'
    found = pc.extract_regex(lines, quoted)
    numbers = pc.replace_substring(pc.struct_field(found, "numbers"), '"', "")
    path = pc.replace_substring(pc.struct_field(found, "path"), '""', '"')
    return pc.coalesce(pc.binary_join_element_wise("x", numbers, ""), lines), path


def _numbered_blocks(list_path: str) -> Iterator[tuple[int, pa.Array]]:
    """Blocks of whole lines, each with the number of its first one; a list of many millions is never held twice."""
    first = 1
    with open_text(list_path) as file:
        while block := file.read(BLOCK_CHARACTERS):
            block += file.readline()
            lines = pc.split_pattern(pa.scalar(block.removesuffix("\n")), "\n").values
            yield first, lines
            first += len(lines)
