"""Comparison of tests: their accuracies, the classes and the videos that they disagree on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from slowfast.evaluation.intervals import Interval, difference_interval, mcnemar
from slowfast.evaluation.metrics import Metrics
from slowfast.evaluation.result import METRICS_NAME, Result, require_labels
from slowfast.evaluation.same_list import check_same_list
from slowfast.utils.files import write_file

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # names of the results in tables
RIGHT_TO_WRONG, WRONG_TO_RIGHT = "right -> wrong", "wrong -> right"

_COLUMNS = ("prediction", "label_rank", "nll")


@dataclass(frozen=True)
class ComparedResult:
    """A result with its name in tables.

    Args:
        letter: Its name, "A" for the first result.
        result: The result.
        metrics: Its metrics, over the videos that it scored.
    """

    letter: str
    result: Result
    metrics: Metrics

    @property
    def temperature(self) -> float | None:
        """Number that divided the logits, None if there was none."""
        temperature: float | None = self.result.metrics.get("temperature")
        return temperature


class ClassChange(NamedTuple):
    """Accuracies of a class, over the videos that both results scored."""

    label: int
    name: str
    support: int  # videos of the class
    before: float  # percent, of the first result
    after: float  # percent, of the other result

    @property
    def difference(self) -> float:
        """The accuracy of the other result minus that of the first one, in percent."""
        return self.after - self.before


@dataclass(frozen=True)
class Difference:
    """A result against the first one, over the videos that both scored.

    Attributes:
        letter: Name of the result in tables.
        num_videos: Number of videos that both scored.
        before: Top-1 accuracy of the first result on these videos, in percent.
        after: That of the result.
        interval: Paired bootstrap interval of `after - before`, in percent.
        only_before: Number of videos that only the first result classifies correctly.
        only_after: Number of videos that only the other result classifies correctly.
        p_value: McNemar's exact test that both are equally accurate.
        classes: Classes whose accuracy differs, the largest difference first.
        videos: Videos that changed, the largest change of the label's NLL first. Columns: row,
            path, label, class_name, change, prediction_before, name_before, prediction_after,
            name_after.
    """

    letter: str
    num_videos: int
    before: float
    after: float
    interval: Interval
    only_before: int
    only_after: int
    p_value: float
    classes: tuple[ClassChange, ...]
    videos: pa.Table


@dataclass(frozen=True)
class Comparison:
    """Results of the same list, side by side.

    Args:
        results: The results.
        differences: Every result but the first one, against the first one.
    """

    results: tuple[ComparedResult, ...]
    differences: tuple[Difference, ...]

    @property
    def num_listed(self) -> int:
        """Number of videos of the list."""
        return self.results[0].result.record.num_videos


def compare(results: Sequence[Result]) -> Comparison:
    """Compare results of the same list. Each of them is compared with the first one.

    Args:
        results: Two results or more.

    Raises:
        ValueError: If they are of different lists or classes, the list has no labels, no video was
            scored by two of them, or a file is damaged.
    """
    if not 2 <= len(results) <= len(LETTERS):
        raise ValueError(f"cannot compare {len(results)} results. Name 2 to {len(LETTERS)}")
    require_labels(results, purpose="compare results")
    check_same_list(results)

    compared = tuple(
        ComparedResult(letter, result, _read_metrics(result))
        for letter, result in zip(LETTERS, results, strict=False)
    )
    first, *others = compared
    return Comparison(compared, tuple(_difference(first, other) for other in others))


def write_changed_videos(path: Path, comparison: Comparison) -> None:
    """Write the videos that changed as a CSV file, one row for each and each result.

    The columns are those of `Difference.videos`, after a column `result` with the letter.

    Raises:
        OSError: If the file cannot be written.
    """
    tables = [
        difference.videos.add_column(
            0, "result", pa.array([difference.letter] * len(difference.videos), pa.string())
        )
        for difference in comparison.differences
    ]
    table = pa.concat_tables(tables)
    write_file(path, lambda file: pyarrow.csv.write_csv(table, file))


def _read_metrics(result: Result) -> Metrics:
    try:
        return Metrics.from_json(result.metrics)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{result.folder / METRICS_NAME}: lacks {error}, or has other fields. Run the test "
            "again"
        ) from error


def _difference(first: ComparedResult, other: ComparedResult) -> Difference:
    before, after = (compared.result.predictions(*_COLUMNS) for compared in (first, other))
    ranks = np.stack([_numbers(before, "label_rank"), _numbers(after, "label_rank")])
    is_in_both = (ranks[0] > 0) & (ranks[1] > 0)
    num_videos = int(is_in_both.sum())
    if not num_videos:
        raise ValueError(
            f"no video was scored both by {first.result.folder} and by {other.result.folder}"
        )

    is_right = ranks == 1
    is_lost = is_in_both & is_right[0] & ~is_right[1]
    is_gained = is_in_both & ~is_right[0] & is_right[1]
    num_right = is_right[:, is_in_both].sum(axis=1).tolist()
    only_before, only_after = int(is_lost.sum()), int(is_gained.sum())

    return Difference(
        letter=other.letter,
        num_videos=num_videos,
        before=100 * num_right[0] / num_videos,
        after=100 * num_right[1] / num_videos,
        interval=difference_interval(
            both=num_right[0] - only_before,
            only_a=only_after,
            only_b=only_before,
            neither=num_videos - num_right[0] - only_after,
        ),
        only_before=only_before,
        only_after=only_after,
        p_value=mcnemar(only_after, only_before),
        classes=_class_changes(first.result, is_right[:, is_in_both], is_in_both),
        videos=_changed_videos(
            first.result, before, after, is_lost=is_lost, is_changed=is_lost | is_gained
        ),
    )


def _numbers(predictions: pa.Table, column: str) -> NDArray:
    """Return a column as a numpy array, with 0 for what is null."""
    return predictions[column].combine_chunks().fill_null(0).to_numpy(zero_copy_only=False)


def _class_changes(
    result: Result, is_right: NDArray[np.bool_], is_in_both: NDArray[np.bool_]
) -> tuple[ClassChange, ...]:
    names = result.record.class_names
    labels = _numbers(result.predictions("label"), "label")[is_in_both]
    support = np.bincount(labels, minlength=len(names))
    before, after = (np.bincount(labels[right], minlength=len(names)) for right in is_right)

    changed = np.flatnonzero(before != after)
    changes = [
        ClassChange(
            label=label,
            name=names[label],
            support=int(support[label]),
            before=100 * int(before[label]) / int(support[label]),
            after=100 * int(after[label]) / int(support[label]),
        )
        for label in changed.tolist()
    ]
    return tuple(sorted(changes, key=lambda change: (-abs(change.difference), -change.support)))


def _changed_videos(
    result: Result,
    before: pa.Table,
    after: pa.Table,
    *,
    is_lost: NDArray[np.bool_],
    is_changed: NDArray[np.bool_],
) -> pa.Table:
    rows = np.flatnonzero(is_changed)
    nll_changes = np.abs(_numbers(after, "nll")[rows] - _numbers(before, "nll")[rows])
    order = np.argsort(-nll_changes, kind="stable")
    rows = rows[order]

    # Filtering the columns keeps their blocks. All paths of a long list do not fit into one array.
    table = result.predictions("path", "label", "class_name").filter(pa.array(is_changed))
    table = table.take(pa.array(order))
    names = pa.array(result.record.class_names, pa.string())
    changes = np.where(is_lost[rows], RIGHT_TO_WRONG, WRONG_TO_RIGHT).tolist()
    table = table.add_column(0, "row", pa.array(rows))
    table = table.append_column("change", pa.array(changes, pa.string()))

    for suffix, predictions in (("before", before), ("after", after)):
        predicted = predictions["prediction"].take(pa.array(rows))
        table = table.append_column(f"prediction_{suffix}", predicted)
        table = table.append_column(f"name_{suffix}", names.take(predicted.combine_chunks()))
    return table
