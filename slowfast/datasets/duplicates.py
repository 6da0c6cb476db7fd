"""Videos that are listed more than once: in two splits, or in one with two labels."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slowfast.datasets.annotations import Annotations
from slowfast.utils.text import count, some


def find_repeats(
    lists: Mapping[str, Annotations], *, checksums: Mapping[int, int] | None = None
) -> list[str]:
    """Return a sentence for each kind of repeat that makes a training or its accuracies doubtful.

    These are videos of train that are in val or test, too, and videos with two labels in one list.
    Videos are the same if they have the same path or, where checksums are given, the same content.

    Args:
        lists: The lists by split.
        checksums: From the hash of a name to that of the checksum of its file, see
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
    """Return which classes have no videos, as a sentence; "" if all have some.

    Args:
        labels: The labels of the videos.
        class_names: The names of the classes, in the order of the labels.
        purpose: What the videos are for: training | validation.
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
    """A number for each row of each list, the same for the same video."""
    chunks = [chunk for annotations in lists.values() for chunk in annotations.names.chunks]
    names = pa.chunked_array(chunks, pa.string()).cast(pa.large_string())
    encoded = names.dictionary_encode().combine_chunks()
    codes = encoded.indices.to_numpy().astype(np.int64)
    if checksums:
        # From the content of a file, and the span of it, to the first video that has it.
        first_with: dict[tuple[int, str], int] = {}
        number_of = np.arange(len(encoded.dictionary))
        for code, name in enumerate(encoded.dictionary):
            content = checksums.get(hash(name.as_py()))
            if content is not None:
                span = name.as_py().rpartition("#t=")[2] if "#t=" in name.as_py() else ""
                number_of[code] = first_with.setdefault((content, span), code)
        codes = number_of[codes]
    ends = np.cumsum([len(annotations) for annotations in lists.values()])
    return dict(zip(lists, np.split(codes, ends[:-1]), strict=True))


def _describe_shared(
    lists: Mapping[str, Annotations],
    videos: Mapping[str, NDArray[np.int64]],
    rows: NDArray[np.int64],
    *,
    split: str,
) -> list[str]:
    if not len(rows):
        return []
    names = []
    for row in rows[:5]:
        name = lists[split][row].name
        twin = lists["train"][int(np.argmax(videos["train"] == videos[split][row]))].name
        names.append(name if name == twin else f"{name} (there {twin})")
    names += [""] * (len(rows) - len(names))  # only counted
    verb = "is" if len(rows) == 1 else "are"
    number = count(len(lists[split]), "video")
    return [f"{len(rows)} of {number} of {split} {verb} in train, too: {some(names)}"]


def _describe_two_labels(
    annotations: Annotations, videos: NDArray[np.int64], *, split: str
) -> list[str]:
    """The videos of a list with two labels, as one sentence, if there are any."""
    order = np.lexsort((annotations.labels, videos))
    is_same = videos[order[1:]] == videos[order[:-1]]
    differs = annotations.labels[order[1:]] != annotations.labels[order[:-1]]
    pairs = np.flatnonzero(is_same & differs)
    if not len(pairs):
        return []
    names = []
    for pair in pairs[:5]:
        one, other = annotations[order[pair]], annotations[order[pair + 1]]
        twin = "" if one.name == other.name else f" as {other.name}"
        names.append(f"{one.name} ({one.label}, and{twin} {other.label})")
    names += [""] * (len(pairs) - len(names))  # only counted
    verb = "has" if len(pairs) == 1 else "have"
    return [f"{count(len(pairs), 'video')} of {split} {verb} two labels: {some(names)}"]
