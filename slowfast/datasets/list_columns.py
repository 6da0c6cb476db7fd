"""Parser of annotation lists: lines of text to columns of paths, numbers and spans.

A list without labels has the label -1 in all rows, or no labels. Rows are parsed as rows with a
label, and if none of them has one and this is allowed, once more as rows without.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from slowfast.datasets.annotations import system_memory_pool
from slowfast.datasets.records import NO_LABEL
from slowfast.datasets.text_files import (
    MAX_SHOWN,
    open_text,
    reject_invalid_rows,
    reject_mixed_labels,
)

BLOCK_CHARACTERS = 1 << 21  # characters that are parsed at once
LABEL = r"(?:-1|\d{1,9})"  # fits into 32 bits
FILE_SUFFIX = r"\.[0-9]*[A-Za-z][0-9A-Za-z]*"
_SECONDS = r"\d{1,9}(?:\.\d*)?"
_PLACEHOLDER = "x.x"  # path that stands for a quoted one


@dataclass(frozen=True)
class RowLayout:
    """Layout of the rows of a list: a path, and then numbers.

    Attributes:
        separator: Text between the fields, None for white space.
        num_numbers: Number of numbers that end a row.
        ending: Regular expression that the end of a valid row matches.
        expected: Description of a valid row, for errors.
        has_labels: Whether the last number is the label.
        may_have_spans: Whether the numbers of a span may follow.
    """

    separator: str | None
    num_numbers: int
    ending: str
    expected: str
    has_labels: bool = True
    may_have_spans: bool = False


class Columns(NamedTuple):
    """Rows of a list by column."""

    paths: pa.ChunkedArray  # (N,)
    numbers: NDArray[np.int32]  # (num_numbers, N), in which the label of a row without one is -1
    spans: NDArray[np.float64] | None  # (N, 2), NaN for whole files; None if no row has a span


class _Block(NamedTuple):
    """L parsed lines, R of which have the layout of a row."""

    lines: pa.Array  # (L,), without spans and quotes
    is_row: NDArray[np.bool_]  # (L,)
    spans: NDArray[np.float64] | None  # (L, 2)
    rows: Columns  # (R,)


@dataclass
class _Parsed:
    """Blocks of a list that was parsed with one layout.

    Attributes:
        blocks: Rows of each block.
        problems: The first invalid rows.
        num_invalid: Number of invalid rows.
        has_label_column: Whether at least one row ends in a label, and cannot be read otherwise.
        first_labeled: Number of the first line with a label, None if there is none.
        first_unlabeled: Number of the first line with the label -1.
    """

    blocks: list[Columns] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    num_invalid: int = 0
    has_label_column: bool = False
    first_labeled: int | None = None
    first_unlabeled: int | None = None

    @property
    def num_rows(self) -> int:
        return sum(len(block.paths) for block in self.blocks)


def read_columns(
    list_path: str, layout: RowLayout, *, unlabeled: RowLayout | None, num_classes: int
) -> Columns:
    """Return the rows of a list.

    Each line is split from the right, so the path may contain the separator.

    Args:
        list_path: Path of the list.
        layout: Layout of its rows.
        unlabeled: Layout of its rows if none of them has a label, None if they need one.
        num_classes: Number of classes.

    Raises:
        FileNotFoundError: If the list does not exist.
        ValueError: If the list is empty, has invalid rows, or has some rows with a label and some
            without. The message names the rows by line.
    """
    with system_memory_pool():
        parsed = _parse_list(list_path, layout, num_classes=num_classes)
        if unlabeled is not None and not parsed.has_label_column:
            without_labels = _parse_list(list_path, unlabeled, num_classes=num_classes)
            if without_labels.num_rows:
                parsed = without_labels

    reject_invalid_rows(list_path, parsed.problems, num_invalid=parsed.num_invalid)
    if not parsed.num_rows:
        raise ValueError(f"{list_path}: the list is empty")
    if parsed.first_labeled is not None and parsed.first_unlabeled is not None:
        reject_mixed_labels(
            list_path,
            labeled=f"line {parsed.first_labeled}",
            unlabeled=f"line {parsed.first_unlabeled} ({NO_LABEL})",
        )
    return _concatenate(parsed.blocks)


def field_gap(separator: str | None) -> str:
    """Return a regular expression of the text between two fields of a row."""
    return rf"\s*{re.escape(separator)}\s*" if separator else r"\s+"


def spanned_row(separator: str | None, *, has_label: bool = True) -> str:
    """Return a regular expression of a row with a span. The path of such a row ends in a suffix."""
    gap = field_gap(separator)
    label, seconds = (rf'(?:{number}|"{number}")' for number in (LABEL, _SECONDS))
    row = rf'.*{FILE_SUFFIX}(?:\s*")?'
    row += f"{gap}{label}" if has_label else f"(?:{gap})?"  # an empty label is none
    return rf"(?P<row>{row}){gap}(?P<start>{seconds}){gap}(?P<end>{seconds})"


def _parse_list(list_path: str, layout: RowLayout, *, num_classes: int) -> _Parsed:
    parsed = _Parsed()
    for first_number, lines in _numbered_blocks(list_path):
        block = _parse_block(lines, layout)
        parsed.blocks.append(block.rows)

        invalid = _find_invalid(block, num_classes=num_classes)
        parsed.num_invalid += len(invalid)
        for index in invalid[: MAX_SHOWN - len(parsed.problems)].tolist():
            problem = _describe_invalid(block, index, layout=layout, num_classes=num_classes)
            parsed.problems.append(f"line {first_number + index} {problem}")

        if not parsed.has_label_column:
            parsed.has_label_column = _has_label_column(block, layout)
        _note_labels(parsed, block, first_number=first_number)
    return parsed


def _has_label_column(block: _Block, layout: RowLayout) -> bool:
    """Return whether a row of a block ends in a label.

    The numbers behind the path `a.mp4,12,30` could be a label or a span.
    """
    if not layout.has_labels or not layout.may_have_spans:
        return bool(block.is_row.any())
    row = spanned_row(layout.separator, has_label=False)
    is_spanned = pc.match_substring_regex(block.lines, f"^{row}$").to_numpy(zero_copy_only=False)
    return bool((block.is_row & ~is_spanned).any())


def _note_labels(parsed: _Parsed, block: _Block, *, first_number: int) -> None:
    """Note the first lines with and without a label."""
    lines = np.flatnonzero(block.is_row) + first_number
    is_labeled = block.rows.numbers[-1] != NO_LABEL
    if parsed.first_labeled is None and is_labeled.any():
        parsed.first_labeled = int(lines[is_labeled][0])
    if parsed.first_unlabeled is None and not is_labeled.all():
        parsed.first_unlabeled = int(lines[~is_labeled][0])


def _numbered_blocks(list_path: str) -> Iterator[tuple[int, pa.Array]]:
    """Yield blocks of whole lines, each with the number of its first line.

    Reading by blocks never holds the text of a huge list in memory.
    """
    first_number = 1
    with open_text(list_path) as file:
        while block := file.read(BLOCK_CHARACTERS):
            block += file.readline()
            lines = pc.split_pattern(pa.scalar(block.removesuffix("\n")), "\n").values
            yield first_number, lines
            first_number += len(lines)


def _parse_block(lines: pa.Array, layout: RowLayout) -> _Block:
    lines = pc.utf8_trim_whitespace(lines)
    spans = None
    if layout.may_have_spans:
        lines, spans = _split_spans(lines, layout)
    if layout.separator and not layout.has_labels:
        lines = pc.replace_substring_regex(lines, rf"\s*{re.escape(layout.separator)}$", "")
    lines, quoted_paths = _split_quotes(lines, layout)

    is_row = pc.match_substring_regex(lines, f"{layout.ending}$")
    paths, numbers = _split_rows(lines.filter(is_row), layout)
    if quoted_paths is not None:
        paths = pc.coalesce(quoted_paths.filter(is_row), paths)

    mask = is_row.to_numpy(zero_copy_only=False)
    row_spans = None if spans is None else spans[mask]
    return _Block(lines, mask, spans, Columns(paths, numbers, row_spans))


def _split_rows(rows: pa.Array, layout: RowLayout) -> tuple[pa.Array, NDArray[np.int32]]:
    num_numbers = layout.num_numbers
    if num_numbers == 0:
        return rows, np.full((1, len(rows)), NO_LABEL, np.int32)
    if layout.separator:
        fields = pc.split_pattern(rows, layout.separator, max_splits=num_numbers, reverse=True)
    else:
        fields = pc.utf8_split_whitespace(rows, max_splits=num_numbers, reverse=True)

    texts = [pc.list_element(fields, index) for index in range(num_numbers + 1)]
    paths, *numbers = [pc.utf8_trim_whitespace(text) for text in texts]
    columns = [number.cast(pa.int32()).to_numpy() for number in numbers]
    if not layout.has_labels:
        columns.append(np.full(len(rows), NO_LABEL, np.int32))
    return paths, np.stack(columns)


def _split_spans(lines: pa.Array, layout: RowLayout) -> tuple[pa.Array, NDArray[np.float64] | None]:
    """Cut the spans off the ends of lines.

    Returns:
        The lines without their spans, and the spans of shape (L, 2), NaN for a line without one.
        The spans are None if no line has one.
    """
    gap = field_gap(layout.separator)
    ending = rf'{gap}"?{_SECONDS}"?{gap}"?{_SECONDS}"?$'  # fast, as it matches from the end
    if not pc.any(pc.match_substring_regex(lines, ending)).as_py():
        return lines, None

    row = spanned_row(layout.separator, has_label=layout.has_labels)
    found = pc.extract_regex(lines, f"^{row}$")
    spans = []
    for name in ("start", "end"):
        seconds = pc.replace_substring(pc.struct_field(found, name), '"', "")
        spans.append(seconds.cast(pa.float64()).to_numpy(zero_copy_only=False))

    if np.isnan(spans[0]).all():
        return lines, None
    return pc.coalesce(pc.struct_field(found, "row"), lines), np.stack(spans, axis=1)


def _split_quotes(lines: pa.Array, layout: RowLayout) -> tuple[pa.Array, pa.Array | None]:
    """Replace quoted paths by a placeholder, and remove the quotes of the numbers behind them.

    Returns:
        The lines, and the unquoted paths, null for a line without quotes. The paths are None if no
        line has quotes.
    """
    if not pc.any(pc.starts_with(lines, '"')).as_py():
        return lines, None

    number = rf'{field_gap(layout.separator)}(?:-?\d+|"-?\d+")'
    row = rf'^"(?P<path>(?:[^"]|"")+)"(?P<numbers>(?:{number}){{{layout.num_numbers}}})$'
    found = pc.extract_regex(lines, row)
    numbers = pc.replace_substring(pc.struct_field(found, "numbers"), '"', "")
    paths = pc.replace_substring(pc.struct_field(found, "path"), '""', '"')

    return pc.coalesce(pc.binary_join_element_wise(_PLACEHOLDER, numbers, ""), lines), paths


def _find_invalid(block: _Block, *, num_classes: int) -> NDArray[np.int64]:
    """Return the indices of the lines that are neither blank nor a valid row."""
    is_invalid = ~block.is_row & (pc.binary_length(block.lines).to_numpy() > 0)
    labels = block.rows.numbers[-1]
    is_invalid[block.is_row] = labels >= num_classes
    return np.flatnonzero(is_invalid | _is_backward(block))


def _is_backward(block: _Block) -> NDArray[np.bool_]:
    """Return which lines are rows with a span that does not end after its start."""
    if block.spans is None:
        return np.zeros(len(block.lines), bool)
    start, end = block.spans.T
    return block.is_row & (start >= end)


def _describe_invalid(block: _Block, index: int, *, layout: RowLayout, num_classes: int) -> str:
    text = block.lines[index].as_py()
    if block.spans is not None and _is_backward(block)[index]:
        start, end = block.spans[index].tolist()
        return f"has the span {start:g} to {end:g} s, which does not end after its start"

    if block.is_row[index]:
        label = int(re.split(r"\D", text)[-1])
        return f"has the label {label}, but MODEL.NUM_CLASSES={num_classes} counts from 0"

    problem = f"is {text[:200]!r}. Expected {layout.expected}"
    if re.fullmatch(r'"([^"]|"")*', text):
        problem += ". Its quote is not closed: a path cannot hold a line break"
    return problem


def _concatenate(blocks: Sequence[Columns]) -> Columns:
    paths = pa.chunked_array([block.paths for block in blocks])
    numbers = np.concatenate([block.numbers for block in blocks], axis=1)
    if all(block.spans is None for block in blocks):
        return Columns(paths, numbers, None)

    spans = []
    for block in blocks:
        whole_files = np.full((len(block.paths), 2), np.nan)
        spans.append(whole_files if block.spans is None else block.spans)
    return Columns(paths, numbers, np.concatenate(spans))
