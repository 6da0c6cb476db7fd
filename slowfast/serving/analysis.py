"""What the demo finds out about a video: predictions, scores over time, and the frames seen."""

import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slowfast.datasets.decode import DecodeError
from slowfast.datasets.normalization import to_pixels
from slowfast.inference.classifier import Classifier
from slowfast.inference.inputs import open_input
from slowfast.inference.predictions import Prediction, Unreadable
from slowfast.inference.windows import Window, clip_seconds, timing_of
from slowfast.serving.refusal import RefusedError
from slowfast.visualization.explanation_pictures import Explained, write_explained_video

TOP = 5  # classes to name

_MAX_WINDOWS = 48
_NUM_SECTIONS = 12  # windows of a model whose clips span whole videos
_MIN_SECONDS = 0.2  # shortest window of such a model
_MAX_SHOWN_CLIPS = 4
_MAX_SHOWN_FRAMES = 8  # of a clip

Frames = NDArray[np.uint8]


class StoppedError(Exception):
    """The client has left, so nobody waits for the result."""


class SeenClip(NamedTuple):
    """The frames that a model saw of a temporal clip."""

    start: float | None  # seconds from the first frame of the video, None if times are unknown
    end: float | None
    frames: list[Frames]  # evenly spaced ones of the center crop, each (H, W, 3), RGB


class Result(NamedTuple):
    """What a model says about a video."""

    model: str
    prediction: Prediction
    class_names: Sequence[str]
    windows: list[Window]  # empty for a video of a single window
    clips: list[SeenClip]  # empty unless they are wanted
    overlay: bytes  # MP4 file of the explanation, empty if there is none

    def as_json(self) -> dict[str, Any]:
        """Return the scores as plain data."""
        prediction = self.prediction.as_json()
        windows = [window.as_json() for window in self.windows]
        return {
            "model": self.model,
            "top": prediction["top"],
            "clips": prediction["clips"],
            "windows": [{k: v for k, v in window.items() if k != "path"} for window in windows],
        }


def analyze(
    path: Path,
    classifiers: Mapping[str, Classifier],
    *,
    name: str,
    stopped: threading.Event,
    with_frames: bool = False,
    with_overlay: bool = False,
) -> list[Result]:
    """Return what some models say about a video.

    Args:
        path: The video.
        classifiers: The models by name.
        name: Name of the video in messages.
        stopped: Set to give up before the next step.
        with_frames: Whether to return the frames that the models saw.
        with_overlay: Whether to return the explanation of each model that has one.

    Raises:
        RefusedError: If the video is unreadable.
        StoppedError: If it was stopped.
    """

    def check() -> None:
        if stopped.is_set():
            raise StoppedError

    results = []
    try:
        for model, classifier in classifiers.items():
            check()
            prediction = classifier.predict(str(path), top=TOP)
            windows = []
            for window in _windows(classifier, path):
                check()
                windows.append(_renamed(window, path, name=name))

            check()
            clips = _seen_clips(classifier, path) if with_frames else []
            check()
            overlay = _overlay(classifier, path, check=check) if with_overlay else b""
            results.append(
                Result(model, prediction, classifier.class_names, windows, clips, overlay)
            )
    except (DecodeError, FloatingPointError) as error:
        reason = _without_path(str(error), path, name=name)
        raise RefusedError(reason, status=422) from error
    return results


def _windows(classifier: Classifier, path: Path) -> Iterator[Window]:
    """Iterate over the windows of a video, none if it has only one."""
    with classifier.reader.open(str(path)) as source:
        timing = timing_of(source)
        num_frames = len(timing.starts)
        duration = timing.interval([0, num_frames - 1])[1]
        if classifier.settings.sampling == "dense":
            window = clip_seconds(classifier.settings, fps=num_frames / (duration or num_frames))
        else:
            window = max(duration / _NUM_SECTIONS, _MIN_SECONDS)
    if duration < window * 1.25:
        return

    stride = max(window / 2, (duration - window) / (_MAX_WINDOWS - 1))
    yield from classifier.predict_windows(str(path), window=window, stride=stride, top=TOP)


def _renamed(window: Window, path: Path, *, name: str) -> Window:
    """Return a window whose reason names the video as its owner does."""
    if isinstance(window.prediction, Unreadable):
        reason = _without_path(window.prediction.reason, path, name=name)
        return window._replace(path=name, prediction=Unreadable(name, reason))
    return window._replace(path=name)


def _seen_clips(classifier: Classifier, path: Path) -> list[SeenClip]:
    """Return up to _MAX_SHOWN_CLIPS clips as the model saw them. Equal ones are shown once."""
    settings = classifier.settings
    views = classifier.reader.read(str(path), num_clips=settings.num_clips, num_crops=1)
    if views.reason:
        raise DecodeError(views.reason)

    # The clips of a video that is shorter than one are the same.
    distinct = [
        index
        for index, frames in enumerate(views.frames)
        if index == 0 or not frames.equal(views.frames[index - 1])
    ]
    shown = np.linspace(0, len(distinct) - 1, min(len(distinct), _MAX_SHOWN_CLIPS))
    clips = []
    for index in (distinct[number] for number in shown.round().astype(int)):
        pixels = to_pixels(views.frames[index], mean=settings.mean, std=settings.std)
        if settings.channel_order == "BGR":
            pixels = pixels[..., ::-1]
        columns = np.linspace(0, len(pixels) - 1, min(len(pixels), _MAX_SHOWN_FRAMES))
        start, end = views.intervals[index] or (None, None)
        frames = [np.ascontiguousarray(pixels[column]) for column in columns.round().astype(int)]
        clips.append(SeenClip(start, end, frames))
    return clips


def _overlay(classifier: Classifier, path: Path, *, check: Callable[[], None]) -> bytes:
    """Return the video of the explanation, empty if no method suits the model.

    Args:
        classifier: The model.
        path: The video.
        check: Called before each frame. It raises StoppedError to give up.
    """
    if not classifier.can_explain:
        return b""
    explanation = classifier.explain(str(path), crops=1, num_steps=0)

    def heat(number: int) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
        check()
        return explanation.frame(number)

    explained = Explained(
        f"{explanation.label} {explanation.probability:.1%}",
        explanation.method,
        heat,
        explanation.maps.seen_numbers,
        explanation.maps.max_step,
    )
    settings = classifier.settings
    source = open_input(
        str(path),
        bgr=False,
        template=settings.image_template,
        allow_truncated=settings.allow_truncated,
        max_pixels=settings.max_frame_pixels,
    )
    with source, tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "overlay.mp4")
        write_explained_video(source, file, explained)
        return file.read_bytes()


def _without_path(text: str, path: Path, *, name: str) -> str:
    return text.replace(str(path), name)
