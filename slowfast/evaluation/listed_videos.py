"""Videos of a finished test: where they lie, which row a path is, and which are worth a look."""

from collections.abc import Sequence
from os.path import basename, join, realpath
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from slowfast.datasets.records import Span, split_video_name
from slowfast.evaluation.predictions import SCORED, first_probabilities
from slowfast.evaluation.result import Result


class ListedVideo(NamedTuple):
    """A video of the list of a test.

    Attributes:
        row: Row of the list, from 0.
        name: Name in the list, see `Video.name`.
        path: Path or address of the file, or of the folder of images.
        span: Section of the file, None for all of it.
        label: Name of its class, "" in a list without labels.
    """

    row: int
    name: str
    path: str
    span: Span | None
    label: str


def choose_videos(result: Result, *, num: int, prefix: str) -> list[ListedVideo]:
    """Return scored videos that are worth a look.

    Half of them are the most confident mistakes, or without labels the least confident predictions.
    The others are confident right predictions of as many classes as possible. If there are too few
    of one kind, there are more of the other.

    Args:
        result: The test.
        num: Number of videos. A smaller test has fewer.
        prefix: Folder that the paths of the list are relative to.
    """
    columns = ("row", "label", "prediction", "top_probabilities", "status")
    table = result.predictions(*columns)
    scored = table.filter(pc.equal(table["status"], SCORED))
    confidences = first_probabilities(scored)
    predictions = scored["prediction"].to_numpy()

    if result.record.is_labeled:
        is_mistake = predictions != scored["label"].to_numpy()
        doubtful = _by(-confidences, among=is_mistake)
        clear = _in_turn(confidences, predictions, among=~is_mistake)
    else:
        everything = np.ones(len(scored), bool)
        doubtful = _by(confidences, among=everything)[: len(scored) // 2]
        everything[doubtful] = False
        clear = _in_turn(confidences, predictions, among=everything)

    num_clear = min(num // 2, len(clear))
    chosen = doubtful[: num - num_clear]
    chosen = np.concatenate([chosen, clear[: num - len(chosen)]])
    rows = scored["row"].to_numpy()[chosen]
    return _listed(result, rows, prefix=prefix)


def find_videos(result: Result, paths: Sequence[str], *, prefix: str) -> dict[str, ListedVideo]:
    """Return the videos of a test that lie at some paths. Sections of files are left out.

    Args:
        result: The test.
        paths: Paths or addresses.
        prefix: Folder that the paths of the list are relative to.
    """
    names = result.predictions("path")["path"]
    rows: dict[str, int] = {}
    for path in paths:
        # A list may be long, and a real path costs system calls, so the file name comes first.
        candidates = pc.ends_with(names, basename(path.rstrip("/"))).to_numpy()
        for row in np.flatnonzero(candidates):
            if _is_same(join(prefix, names[int(row)].as_py()), path):
                rows[path] = int(row)
                break

    listed = _listed(result, np.array([*rows.values()], np.int64), prefix=prefix)
    return dict(zip(rows, listed, strict=True))


def _is_same(path: str, other: str) -> bool:
    return path == other or ("://" not in path and realpath(path) == realpath(other))


def _listed(result: Result, rows: NDArray[np.int64], *, prefix: str) -> list[ListedVideo]:
    table = result.predictions("path", "class_name").take(pa.array(rows))
    videos = []
    for row, entry in zip(rows.tolist(), table.to_pylist(), strict=True):
        path, span = split_video_name(entry["path"])
        label = entry["class_name"] or ""
        videos.append(ListedVideo(row, entry["path"], join(prefix, path), span, label))
    return videos


def _by(keys: NDArray[np.float32], *, among: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the indices of some entries, in ascending order of their keys."""
    indices = np.flatnonzero(among)
    return indices[np.argsort(keys[indices], kind="stable")]


def _in_turn(
    confidences: NDArray[np.float32], predictions: NDArray[np.int32], *, among: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the indices of some predictions: the best one of each class, the second best..."""
    indices = _by(-confidences, among=among)
    indices = indices[np.argsort(predictions[indices], kind="stable")]  # by class, best first
    classes = predictions[indices]
    starts = np.searchsorted(classes, classes)  # where the class of each one begins
    ranks = np.arange(len(indices)) - starts
    return indices[np.lexsort((classes, ranks))]
