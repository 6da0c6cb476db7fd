"""Explaining a prediction: from an input to the map of each of its frames."""

import difflib
import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from slowfast.datasets.boxes import short_side_size
from slowfast.datasets.decode import FrameSource, VideoFile
from slowfast.datasets.records import Span, video_name
from slowfast.datasets.samplers import make_views
from slowfast.datasets.transforms import Augmentation
from slowfast.evaluation.fusion import fuse
from slowfast.explanation.curves import ORDERS, trace_curves
from slowfast.explanation.explanation import Explanation
from slowfast.explanation.frame_maps import FrameMaps, ViewMap
from slowfast.explanation.methods import Evidence, choose_method, find_evidence
from slowfast.inference.inputs import Input, input_name

if TYPE_CHECKING:
    from slowfast.inference.classifier import Classifier


def explain_input(
    classifier: "Classifier",
    x: Input,
    *,
    target: int | str | None,
    method: str,
    stage: int | None,
    num_clips: int,
    num_crops: int,
    fps: float | None,
    span: tuple[float, float] | None,
    num_steps: int,
    order: str,
) -> Explanation:
    """Return the explanation of an input, see `Classifier.explain`."""
    _check_curves(num_steps, order)
    section = None if span is None else _check_span(span)
    method = choose_method(classifier.model, method, stage=stage)
    wanted = None if target is None else find_class(target, classifier.class_names)

    views = make_views(num_clips, num_crops)
    reader = classifier.reader
    with reader.open(x, fps=fps) as source:
        if section is not None:
            _select(source, section)
        num_frames, height, width = _shape_of(source)
        clips = reader.clip_reader.with_clips(num_clips)
        numbers = clips.frame_numbers(source, clips=range(num_clips), rng=None)
        frames = reader.read_clips(source, numbers, views=views)

    # One view at a time, so that the memory does not depend on their number.
    logits = np.concatenate([classifier.score(view[None]) for view in frames])
    if not np.isfinite(logits).all():
        raise FloatingPointError(f"{input_name(x)}: its scores are not finite")
    probabilities = _probabilities(logits[None], classifier)[0]
    chosen = int(probabilities.argmax()) if wanted is None else wanted

    maps, found_stage = [], None
    for view, clip in zip(views, frames, strict=True):
        explain = partial(find_evidence, target=chosen, method=method, stage=stage)
        evidence = classifier.apply_with_gradient(explain, clip[None])
        found_stage = evidence.stage
        crop = clips.transform.draw(height, width, crop=view.crop, rng=None)
        maps.append(_locate(evidence, crop, numbers[view.clip], height=height, width=width))

    frame_maps = FrameMaps(maps, num_frames=num_frames, height=height, width=width)
    curves = None
    if num_steps:
        curves = trace_curves(
            classifier.normalized(frames),
            frame_maps,
            probability=lambda versions: _probability(versions, chosen, classifier),
            num_steps=num_steps,
            order=order,
        )
    return Explanation(
        path=video_name(input_name(x), section),
        target=chosen,
        label=classifier.class_names[chosen],
        class_names=classifier.class_names,
        probabilities=probabilities,
        logits=logits,
        method=method,
        stage=found_stage,
        maps=frame_maps,
        curves=curves,
    )


def find_class(target: int | str, class_names: Sequence[str]) -> int:
    """Return the number of a class that is given by its name or its number.

    Raises:
        ValueError: If there is no such class.
    """
    if isinstance(target, str) and target in class_names:
        return class_names.index(target)
    if isinstance(target, str):
        near = difflib.get_close_matches(target, class_names, 3, 0.5)
        remedy = f"The nearest are {', '.join(near)}" if near else "See classifier.class_names"
        raise ValueError(f"there is no class {target!r}. {remedy}")
    is_number = isinstance(target, int | np.integer) and not isinstance(target, bool)
    if not (is_number and 0 <= target < len(class_names)):
        raise ValueError(f"target is {target!r}. Use a class from 0 to {len(class_names) - 1}")
    return int(target)


def _check_curves(num_steps: int, order: str) -> None:
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 0:
        raise ValueError(f"num_steps is {num_steps!r}. Use a whole number, 0 for no curves")
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}. Choose one of: {', '.join(ORDERS)}")


def _check_span(span: tuple[float, float]) -> Span:
    section = Span(*map(float, span))
    if not 0 <= section.start < section.end < math.inf:
        raise ValueError(f"span is {span!r}. Use (start, end) in seconds, such as (2.5, 8)")
    return section


def _select(source: FrameSource, section: Span) -> None:
    """Restrict a source to a section of its video."""
    if not isinstance(source, VideoFile):
        raise ValueError(f"{source.path}: span is for video files. Pass the frames of the section")
    source.span = section


def _shape_of(source: FrameSource) -> tuple[int, int, int]:
    """Return the number, the height and the width of the frames of a video."""
    timing = source.timing
    num_frames = int(source.shown[-1]) + 1 if timing is None else len(timing.starts)
    height, width = source.read([int(source.shown[0])]).shape[1:3]
    return num_frames, height, width


def _locate(
    evidence: Evidence, crop: Augmentation, numbers: NDArray[np.int64], *, height: int, width: int
) -> ViewMap:
    """Return the evidence in a view with where the view comes from."""
    assert crop.short_side is not None  # A test resizes the short side.
    resized = short_side_size(height, width, short_side=crop.short_side)
    return ViewMap(evidence.values.float().cpu().numpy(), numbers, resized, crop.box)


def _probability(
    versions: Iterable[Tensor], target: int, classifier: "Classifier"
) -> NDArray[np.float64]:
    """Return the probability of a class for each version of a video."""
    most = classifier.settings.views_per_forward
    logits = [
        np.concatenate([classifier.score(part) for part in of_view.split(most)])
        for of_view in versions
    ]
    return _probabilities(np.stack(logits, axis=1), classifier)[:, target]


def _probabilities(logits: NDArray[np.float32], classifier: "Classifier") -> NDArray[np.float64]:
    """Return the probabilities (N, K) for logits (N, num_views, K)."""
    return np.exp(fuse(logits, classifier.settings.fusion))
