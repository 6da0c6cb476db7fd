"""Lists in the formats of this project: readers, and the writer of their rows."""

import re
from dataclasses import dataclass, replace

from slowfast.datasets.annotations import Annotations
from slowfast.datasets.list_columns import (
    FILE_SUFFIX,
    LABEL,
    Columns,
    RowLayout,
    field_gap,
    read_columns,
    spanned_row,
)
from slowfast.datasets.text_files import open_text

_NUM_FRAMES = r"0{0,8}[1-9]\d{0,8}"


@dataclass(frozen=True)
class Source:
    """Annotation list of one split, with everything a reader needs to parse it.

    Attributes:
        list_path: Path of the list: a file, a folder, or a pattern that matches several files.
        num_classes: Number of classes. Every label of the list is below it.
        split_name: Name of the split in the files of the dataset, such as `validation`.
        class_names: Class names in the order of the labels. Empty if the list holds the labels.
        separator: Text between the fields of a row (DATA.PATH_LABEL_SEPARATOR). "" detects it.
        video_template: Format string that turns the fields of a row into the path of the video.
        path_prefix: Folder that the paths of videos are relative to (DATA.PATH_PREFIX).
        may_lack_labels: Whether the rows may be without labels, as in a test.
    """

    list_path: str
    num_classes: int = 0
    split_name: str = ""
    class_names: tuple[str, ...] = ()
    separator: str = ""
    video_template: str = ""
    path_prefix: str = ""
    may_lack_labels: bool = False


def read_path_list(source: Source) -> Annotations:
    """Return the rows of a list of `path<separator>label` lines.

    The path may contain the separator. It may be quoted as in RFC 4180, which keeps leading and
    trailing blanks and doubles the quotes inside. The label of a quoted path may be quoted too.

    A line `path<separator>label<separator>start<separator>end` describes a span of a video file in
    seconds. Its path must end in a file suffix.

    In a list without labels, the label of all rows is -1. If the source says that labels may lack,
    it may also be empty or left out. Then a path ends in a file suffix or is quoted.

    Args:
        source: The list. Without a separator, the first row that ends in a number tells whether it
            is a comma, a semicolon, or white space.

    Raises:
        FileNotFoundError: If the list does not exist.
        ValueError: If the list is empty or has invalid rows, which the message names by line.
    """
    separator = source.separator or _detect_separator(source.list_path)
    between = repr(separator) if separator else "tabs or spaces"
    layout = RowLayout(
        separator=separator,
        num_numbers=1,
        ending=rf"\S{field_gap(separator)}{LABEL}",
        expected=f"a path and a class number with {between} between (DATA.PATH_LABEL_SEPARATOR)",
        may_have_spans=True,
    )
    unlabeled = replace(
        layout,
        num_numbers=0,
        ending=FILE_SUFFIX,
        expected="a path with a suffix or in quotes, since no line has a class number",
        has_labels=False,
    )

    columns = _read_columns(source, layout, unlabeled=unlabeled)
    return Annotations(columns.paths, columns.numbers[0], spans=columns.spans)


def read_frame_list(source: Source) -> Annotations:
    """Return the rows of a list of `folder num_frames label` lines.

    The folder may contain spaces, and may be quoted as in `read_path_list`. In a list without
    labels, the label of all rows is -1, or left out if the source says that labels may lack.

    Raises:
        FileNotFoundError: If the list does not exist.
        ValueError: If the list is empty or has invalid rows, which the message names by line.
    """
    layout = RowLayout(
        separator=None,
        num_numbers=2,
        ending=rf"\S\s+{_NUM_FRAMES}\s+{LABEL}",
        expected="a folder, its number of frames and a class number",
    )
    unlabeled = replace(
        layout,
        num_numbers=1,
        ending=rf"\S\s+{_NUM_FRAMES}",
        expected="a folder and its number of frames, since no line has a class number",
        has_labels=False,
    )

    columns = _read_columns(source, layout, unlabeled=unlabeled)
    num_frames, labels = columns.numbers
    return Annotations(columns.paths, labels, num_frames=num_frames)


def format_row(path: str, *numbers: float, separator: str) -> str:
    """Return the line of a list that is read back as this path and these numbers.

    The path is quoted if it would be misread otherwise.

    Raises:
        ValueError: If no list can hold the path because it has a line break or is not UTF-8.
    """
    _check_path(path)

    fields = [f"{number:.12g}" for number in numbers]
    row = separator.join([path, *fields])
    given = separator if separator.strip() else None
    is_misread = path.startswith(('"', "\ufeff")) or path != path.strip()
    is_misread |= bool(re.fullmatch(spanned_row(given), row))
    if len(numbers) == 1:  # The end of the path and the label could be a span without a label.
        is_misread |= bool(re.fullmatch(spanned_row(given, has_label=False), row))
    if is_misread:
        quoted = '"{}"'.format(path.replace('"', '""'))
        row = separator.join([quoted, *fields])
    return row + "\n"


def _read_columns(source: Source, layout: RowLayout, *, unlabeled: RowLayout) -> Columns:
    return read_columns(
        source.list_path,
        layout,
        unlabeled=unlabeled if source.may_lack_labels else None,
        num_classes=source.num_classes,
    )


def _check_path(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{path!r}: the name is not UTF-8, as a list must be. Rename the file"
        ) from error

    if "\n" in path or "\r" in path:
        raise ValueError(
            f"{path!r}: the name has a line break, which a list cannot hold. Rename it"
        )


def _detect_separator(list_path: str) -> str | None:
    """Return what precedes the label in the first row that has one, None for white space.

    If no row has one, it is what the first row with an empty label ends in, or a comma.
    """
    number = r"(?:-1|\d+\.?\d*)"
    default = ""
    with open_text(list_path) as file:
        for line in file:
            if found := re.search(rf'([,;\t ])[\t ]*({number}|"{number}")\s*$', line):
                return None if found[1].isspace() else found[1]
            if not default and (found := re.search(r"[,;](?=\s*$)", line)):
                default = found[0]
    return default or ","
