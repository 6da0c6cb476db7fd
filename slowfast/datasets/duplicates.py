"""Checks of annotation lists: repeated videos, and classes without videos."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slowfast.datasets.annotations import Annotations, system_memory_pool
from slowfast.utils.text import count, some

MAX_NAMED = 5  # videos that a warning names, the others are counted


def find_repeats(
    lists: Mapping[str, Annotations], *, checksums: Mapping[int, int] | None = None
) -> list[str]:
    """Return one sentence for each kind of repeated video that puts an accuracy in doubt.

    These are training videos that are also in val or test, and videos with two labels in the same
    list. Two videos are the same if they have the same path or, as far as checksums are given, the
    same content.

    Args:
        lists: Annotations by split.
        checksums: Hash of a file's checksum by the hash of the video's name, see
            `slowfast.datasets.manifest.read_checksums`.
    """
    if not lists:
        return []

    videos = _number_videos(lists, checksums=checksums or {})
    warnings = []
    for split in ("val", "test"):
        if "train" in lists and split in lists:
            rows = np.flatnonzero(np.isin(videos[split], videos["train"]))
            warnings += _describe_shared(lists, videos, rows, split=split)
    for split, annotations in lists.items():
        warnings += _describe_two_labels(annotations, videos[split], split=split)
    return warnings


def describe_empty_classes(
    labels: NDArray[np.int32], class_names: Sequence[str], *, purpose: str
) -> str:
    """Return one sentence about the classes without videos, "" if every class has some.

    Args:
        labels: Labels of the videos, shape (N,).
        class_names: Class names in the order of the labels.
        purpose: Purpose of the videos: training | validation.
    """
    empty = np.flatnonzero(np.bincount(labels, minlength=len(class_names)) == 0)
    if not len(empty):
        return ""

    verb = "has" if len(empty) == 1 else "have"
    names = some([class_names[label] for label in empty.tolist()])
    return f"{len(empty)} of {count(len(class_names), 'class')} {verb} no {purpose} videos: {names}"


def _number_videos(
    lists: Mapping[str, Annotations], *, checksums: Mapping[int, int]
) -> dict[str, NDArray[np.int64]]:
    """Return a number for each row of each list, equal for equal videos."""
    chunks = [chunk for annotations in lists.values() for chunk in annotations.names.chunks]
    with system_memory_pool():
        names = pa.chunked_array(chunks, pa.string()).cast(pa.large_string())
        encoded = names.dictionary_encode().combine_chunks()
        codes = encoded.indices.to_numpy().astype(np.int64)

    if checksums:
        codes = _merge_equal_content(encoded.dictionary, checksums)[codes]
    ends = np.cumsum([len(annotations) for annotations in lists.values()])
    return dict(zip(lists, np.split(codes, ends[:-1]), strict=True))


def _merge_equal_content(names: pa.Array, checksums: Mapping[int, int]) -> NDArray[np.int64]:
    """Return a number for each name, equal for names with the same content and the same span."""
    first_with: dict[tuple[int, str], int] = {}
    numbers = np.arange(len(names))
    for index, scalar in enumerate(names):
        name = scalar.as_py()
        content = checksums.get(hash(name))
        if content is not None:
            _, marker, span = name.rpartition("#t=")
            key = (content, span if marker else "")
            numbers[index] = first_with.setdefault(key, index)
    return numbers


def _describe_shared(
    lists: Mapping[str, Annotations],
    videos: Mapping[str, NDArray[np.int64]],
    rows: NDArray[np.int64],
    *,
    split: str,
) -> list[str]:
    """Return the videos of train in a split as one sentence, if there are any."""
    if not len(rows):
        return []

    names = []
    for row in rows[:MAX_NAMED]:
        name = lists[split][row].name
        train_row = int(np.argmax(videos["train"] == videos[split][row]))
        train_name = lists["train"][train_row].name
        names.append(name if name == train_name else f"{name} (as {train_name})")

    verb = "is" if len(rows) == 1 else "are"
    listed = count(len(lists[split]), "video")
    shown = _name_some(names, total=len(rows))
    return [f"{len(rows)} of {listed} of {split} {verb} also in train: {shown}"]


def _describe_two_labels(
    annotations: Annotations, videos: NDArray[np.int64], *, split: str
) -> list[str]:
    """Return the videos of a list with two labels as one sentence, if there are any."""
    order = np.lexsort((annotations.labels, videos))
    is_same = videos[order[1:]] == videos[order[:-1]]
    differs = annotations.labels[order[1:]] != annotations.labels[order[:-1]]
    pairs = np.flatnonzero(is_same & differs)
    if not len(pairs):
        return []

    names = []
    for pair in pairs[:MAX_NAMED]:
        one, other = annotations[order[pair]], annotations[order[pair + 1]]
        alias = "" if one.name == other.name else f" as {other.name}"
        names.append(f"{one.name} ({one.label} and {other.label}{alias})")

    verb = "has" if len(pairs) == 1 else "have"
    shown = _name_some(names, total=len(pairs))
    return [f"{count(len(pairs), 'video')} of {split} {verb} two labels: {shown}"]


def _name_some(names: Sequence[str], *, total: int) -> str:
    """Return the first of `total` names as a list that counts the others."""
    return some([*names, *[""] * (total - len(names))], most=MAX_NAMED)
