"""From one list file to compact columns: a list may have many millions of rows, and loader workers share them."""

from collections.abc import Iterator

import numpy as np

from slowfast.datasets.records import Video
from slowfast.utils.paths import pathmgr


class Annotations:
    """The rows of a list file: paths in one buffer, labels and frame counts in arrays."""

    def __init__(self, paths: list[str], labels: list[int], num_frames: list[int] | None = None) -> None:
        encoded = [path.encode() for path in paths]
        self._path_bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._path_ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        self.labels = np.array(labels, dtype=np.int64)
        self.num_frames = None if num_frames is None else np.array(num_frames, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> Video:
        start = self._path_ends[row - 1] if row else 0
        path = self._path_bytes[start : self._path_ends[row]].tobytes().decode()
        num_frames = None if self.num_frames is None else int(self.num_frames[row])
        return Video(path, int(self.labels[row]), num_frames)


def read_path_list(list_path: str, *, separator: str, num_classes: int) -> Annotations:
    """Return the rows of a list of `path<separator>label` lines; the path may contain the separator.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: the list is empty, or a line, named by its number, is not a path and a label below num_classes.
    """
    paths, labels = [], []
    for place, line in _lines(list_path):
        path, found, label = line.rpartition(separator)
        if not found or not path.strip():
            raise ValueError(
                f"{place} is {line!r}; expected a path and a label with {separator!r} between "
                "(DATA.PATH_LABEL_SEPARATOR)"
            )
        paths.append(path.strip())
        labels.append(_label(label, num_classes=num_classes, place=place))
    return Annotations(paths, labels)


def read_frame_list(list_path: str, *, num_classes: int) -> Annotations:
    """Return the rows of a list of `folder num_frames label` lines; the folder's name may contain spaces.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: the list is empty, or a line, named by its number, is not as above or has no frames.
    """
    paths, counts, labels = [], [], []
    for place, line in _lines(list_path):
        fields = line.rsplit(None, 2)
        if len(fields) != 3 or not fields[1].isdecimal() or int(fields[1]) < 1:
            raise ValueError(f"{place} is {line!r}; expected a folder, its number of frames and a label")
        paths.append(fields[0])
        counts.append(int(fields[1]))
        labels.append(_label(fields[2], num_classes=num_classes, place=place))
    return Annotations(paths, labels, counts)


def read_class_names(names_path: str) -> list[str]:
    """Return the names of a file with one class name per line, in the order of the labels."""
    return [line for _, line in _lines(names_path)]


def _lines(list_path: str) -> Iterator[tuple[str, str]]:
    """The lines that are not blank, each with its place for error messages."""
    if not pathmgr.isfile(list_path):
        raise FileNotFoundError(f"{list_path}: no such file; set DATA.PATH_TO_DATA_DIR to the folder of the lists")
    found = False
    with pathmgr.open(list_path, "r", encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                found = True
                yield f"{list_path} line {number}", line.strip()
    if not found:
        raise ValueError(f"{list_path}: the list is empty")


def _label(text: str, *, num_classes: int, place: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(f"{place} has the label {text.strip()!r}; expected a class number")
    label = int(text)
    if label >= num_classes:
        raise ValueError(f"{place} has the label {label}, but MODEL.NUM_CLASSES={num_classes} counts from 0")
    return label
