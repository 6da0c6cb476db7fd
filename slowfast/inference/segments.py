"""Segments: consecutive windows of a video with the same class, merged as they come."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from slowfast.datasets.sampling import TIME_TOLERANCE
from slowfast.evaluation.metric_counts import top_classes
from slowfast.inference.predictions import Unreadable
from slowfast.inference.streams import StreamWindow
from slowfast.inference.windows import Window

AnyWindow: TypeAlias = Window | StreamWindow


class Segment(NamedTuple):
    """A section of a video with one class."""

    path: str
    start: float  # seconds from the first frame
    end: float
    label: str  # "" for unreadable windows
    class_id: int  # row of the head, -1 for unreadable windows
    probability: float  # mean over its windows
    num_windows: int
    reason: str = ""  # why windows are unreadable

    def as_json(self) -> dict[str, object]:
        """Return the fields as plain data. Unreadable windows have a reason and no class."""
        fields = self._asdict()
        unused = ("label", "class_id", "probability") if self.reason else ("reason",)
        for name in unused:
            del fields[name]
        return fields


def merge_windows(
    windows: Iterable[AnyWindow],
    class_names: list[str],
    *,
    smooth: int = 1,
    min_seconds: float = 0.0,
) -> Iterator[Segment]:
    """Iterate over the segments of a video, each as soon as it is complete.

    Segments lie side by side. Their border is in the middle of what two windows share. The class
    of a window is the most probable one in the mean of `smooth` windows, as many before it
    as after it. Unreadable windows are segments of their own.

    Args:
        windows: Windows of one video, in order.
        class_names: Names of the classes, in the order of the head.
        smooth: Odd number of windows whose probabilities are averaged, 1 for none.
        min_seconds: A shorter segment becomes part of the segment before it, or of the one after it
            at the start of the video.

    Raises:
        ValueError: If `smooth` is no odd number from 1 on, or `min_seconds` is negative.
    """
    if smooth < 1 or smooth % 2 == 0:
        raise ValueError(f"smooth is {smooth!r}. Use an odd number of windows, such as 3")
    if not 0 <= min_seconds < float("inf"):
        raise ValueError(f"min_seconds is {min_seconds!r}. Use a number of seconds from 0 on")

    segments = _merge(_cut(_smooth(windows, smooth), class_names))
    return _absorb_short(segments, min_seconds=min_seconds) if min_seconds else segments


def _smooth(
    windows: Iterable[AnyWindow], length: int
) -> Iterator[tuple[AnyWindow, NDArray[np.float64] | None]]:
    """Yield each window with the mean of the probabilities around it, None if it is unreadable."""
    reach = length // 2
    around: deque[AnyWindow] = deque(maxlen=length)
    for window in windows:
        around.append(window)
        if len(around) > reach:
            yield _with_mean(around[-1 - reach], around)

    last = list(around)
    for due in range(max(len(last) - reach, 0), len(last)):
        yield _with_mean(last[due], last[max(due - reach, 0) :])


def _with_mean(
    window: AnyWindow, around: Iterable[AnyWindow]
) -> tuple[AnyWindow, NDArray[np.float64] | None]:
    if isinstance(window.prediction, Unreadable):
        return window, None
    found = [w.prediction.probabilities for w in around if not isinstance(w.prediction, Unreadable)]
    return window, np.mean(found, axis=0)


def _cut(
    windows: Iterable[tuple[AnyWindow, NDArray[np.float64] | None]], class_names: list[str]
) -> Iterator[Segment]:
    """Yield one segment per window. They lie side by side."""
    segment: Segment | None = None
    for window, probabilities in windows:
        start = window.start
        if segment is not None:
            start = round((segment.end + window.start) / 2, 9)
            yield segment._replace(end=start)

        if isinstance(window.prediction, Unreadable):
            reason = window.prediction.reason
            segment = Segment(window.path, start, window.end, "", -1, 0.0, 1, reason)
        else:
            assert probabilities is not None
            best = int(top_classes(probabilities[None], 1)[0, 0])
            probability = float(probabilities[best])
            label = class_names[best]
            segment = Segment(window.path, start, window.end, label, best, probability, 1)
    if segment is not None:
        yield segment


def _merge(segments: Iterable[Segment]) -> Iterator[Segment]:
    """Merge neighbors of the same class."""
    current: Segment | None = None
    for segment in segments:
        if current is None:
            current = segment
        elif segment.class_id == current.class_id:
            current = _join(current, segment)
        else:
            yield current
            current = segment
    if current is not None:
        yield current


def _join(first: Segment, second: Segment) -> Segment:
    num_windows = first.num_windows + second.num_windows
    total = first.probability * first.num_windows + second.probability * second.num_windows
    return first._replace(end=second.end, probability=total / num_windows, num_windows=num_windows)


def _absorb_short(segments: Iterable[Segment], *, min_seconds: float) -> Iterator[Segment]:
    """Give the time of short segments to their neighbors, and merge what then lies side by side."""

    def is_short(segment: Segment) -> bool:
        return not segment.reason and segment.end - segment.start < min_seconds - TIME_TOLERANCE

    current: Segment | None = None
    for segment in segments:
        if current is None:
            current = segment
        elif segment.class_id == current.class_id:
            current = _join(current, segment)
        elif is_short(segment) and not current.reason:
            current = current._replace(end=segment.end)
        elif is_short(current) and not segment.reason:
            current = segment._replace(start=current.start)
        else:
            yield current
            current = segment
    if current is not None:
        yield current
