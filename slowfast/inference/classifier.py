"""The classifier: a trained model with the decoding, sampling and transforms of its test."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slowfast.datasets.normalization import Normalize
from slowfast.datasets.records import DecodeError, Interval
from slowfast.datasets.view_groups import ViewGroups
from slowfast.explanation.explanation import Explanation
from slowfast.explanation.methods import suiting_methods
from slowfast.inference.clip_settings import ClipSettings
from slowfast.inference.explaining import explain_input
from slowfast.inference.exported import FoundMetrics, FoundTest, Origin, write_exported
from slowfast.inference.features import embed
from slowfast.inference.inputs import Input, input_name
from slowfast.inference.predictions import Features, Prediction, Unreadable, make_prediction
from slowfast.inference.streams import LiveStream, StreamWindow
from slowfast.inference.view_forward import ForwardPasses
from slowfast.inference.view_reader import ViewReader
from slowfast.inference.windows import Window, WindowReader, check_seconds, make_grid, timing_of
from slowfast.utils.command_names import command_name

NUM_READERS = 4  # threads that read videos ahead of a GPU

_NUM_CROPS = (1, 3)

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class Classifier:
    """A trained model that classifies videos exactly as its test does.

    You get one from `slowfast.load`. It may be used from several threads: they read videos side by
    side, and their forward passes take turns.

    Args:
        model: Model that takes frames (B, C, T, H, W) to logits (B, K). It is put into evaluation
            mode.
        reader: Reader of the views of inputs.
        normalize: Function that turns the frames of a batch into the input of the model.
        class_names: Names of the K classes, in the order of the head.
        settings: How the reader looks at a video.
        precision: Autocast of the forward pass: off | bf16 | fp16 | auto, see TRAIN.AMP.
        temperature: Number that divides the logits of calibrated probabilities. None if unknown.
        config: Config keys and values that the scores depend on, for an export.
        origin: What the config does not tell about the model, for an export.

    Attributes:
        model: The model.
        class_names: Names of the classes, in the order of the head.
        settings: How the classifier looks at a video, see `ClipSettings`.
        reader: Reader of the views of inputs.
    """

    def __init__(
        self,
        model: nn.Module,
        reader: ViewReader,
        normalize: Normalize,
        *,
        class_names: Sequence[str],
        settings: ClipSettings,
        precision: str = "off",
        temperature: float | None = None,
        config: dict[str, object] | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.model = model.eval()
        self.class_names = list(class_names)
        self.settings = settings
        self.temperature = temperature
        self.config = config or {}
        self.origin = origin or _unknown_origin(model)
        self.reader = reader
        self._passes = ForwardPasses(
            normalize, device=next(model.parameters()).device, precision=precision
        )

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self._passes.device

    def to(
        self, device: str | torch.device | None = None, *, precision: str | None = None
    ) -> "Classifier":
        """Move the model to a device, choose the precision of its forward pass, and return it.

        Args:
            device: Device such as "cuda" or "cuda:1". None keeps the device.
            precision: off | bf16 | fp16 | auto. None keeps it.

        Raises:
            ValueError: If the precision is unknown, or there is no such device.
        """
        if precision is not None:
            check_precision(precision)
            self._passes.precision = precision
        if device is not None:
            with self._passes.lock:
                self._passes.device = usable_device(device)
                self.model.to(self._passes.device)
        return self

    def save(self, folder: str | Path) -> None:
        """Write the model to a new folder that `slowfast.load` opens, here or elsewhere.

        The folder has `config.json`, `model.safetensors` and a model card, `README.md`, and nothing
        about this machine. If the run of the weights has a test result of them, it is in the card.

        Raises:
            FileExistsError: If there is anything at the path of the folder.
            OSError: If a file cannot be written.
            ValueError: If a config key that you added holds a path of this machine.
        """
        write_exported(Path(folder), self)

    # ---- Predictions ------------------------------------------------------------------------

    @overload
    def predict(self, x: list[Any] | tuple[Any, ...], **options: Any) -> list[Prediction]: ...
    @overload
    def predict(self, x: Input, **options: Any) -> Prediction: ...
    def predict(  # type: ignore[misc]  # the options are the keywords below
        self,
        x: Input | Sequence[Input],
        *,
        top: int = 5,
        clips: int | None = None,
        crops: int | None = None,
        fps: float | None = None,
        calibrated: bool = False,
        fills_passes: bool = False,
    ) -> Prediction | list[Prediction]:
        """Classify a video, or each video of a list.

        Args:
            x: Path or address of a video file, folder of images, frames of shape (T, H, W, 3) uint8
                in RGB, or an open decoder. A list of these is read ahead and classified in batches.
            top: Number of the most probable classes to name.
            clips: Temporal clips per video, None for those of the test.
            crops: Spatial crops per clip, 1 for the center or 3, None for those of the test.
            fps: Frames per second of an array. Without it, clips of arrays have no times.
            calibrated: Whether to divide the logits by the temperature of the weights.
            fills_passes: Whether every forward pass has as many views as in the test of a long
                list. The logits are then those of that test to the bit. Otherwise they are those of
                a test of this list, and equal to about 1e-5.

        Returns:
            A prediction, or a list of them for a list.

        Raises:
            DecodeError: If a video is unreadable. Use `predict_each` to keep the others.
            FloatingPointError: If the scores of a video are not finite.
            ValueError: If an argument is out of range, or an array has another shape or dtype.
        """
        predict = partial(
            self.predict_each,
            top=top,
            clips=clips,
            crops=crops,
            fps=fps,
            calibrated=calibrated,
            fills_passes=fills_passes,
        )
        return _one_or_all(x, predict)

    def predict_each(
        self,
        inputs: Sequence[Input],
        *,
        top: int = 5,
        clips: int | None = None,
        crops: int | None = None,
        fps: float | None = None,
        calibrated: bool = False,
        fills_passes: bool = False,
    ) -> Iterator[Prediction | Unreadable]:
        """Iterate over the predictions of many videos, in order, with little memory.

        An unreadable video gives a `Unreadable` with the reason. See `predict` for the arguments.
        """
        _check_number("top", top)
        temperature = self._chosen_temperature(calibrated=calibrated)
        clips, crops = self._view_counts(clips, crops)

        for path, intervals, logits in self._run(
            inputs, self.model, clips=clips, crops=crops, fps=fps, fills_passes=fills_passes
        ):
            yield self._make_prediction(
                path, logits, intervals=intervals, top=top, temperature=temperature
            )

    def predict_windows(
        self,
        x: Input,
        *,
        window: float | None = None,
        stride: float | None = None,
        top: int = 5,
        clips: int = 1,
        crops: int | None = None,
        fps: float | None = None,
        calibrated: bool = False,
        fills_passes: bool = False,
    ) -> Iterator[Window]:
        """Iterate over predictions of the windows of a long video, with little memory.

        The prediction of a window is that of a video of which an annotation list gives this
        section. Overlapping windows share their frames, which are decoded once.

        Args:
            x: A single input, see `predict`.
            window: Seconds of a window. None for the span of a clip.
            stride: Seconds from the start of a window to that of the next. None for the window. A
                longer stride leaves gaps.
            top: Number of the most probable classes to name.
            clips: Temporal clips per window.
            crops: Spatial crops per clip, None for those of the test.
            fps: Frames per second of an array or of a folder of images.
            calibrated: Whether to divide the logits by the temperature of the weights.
            fills_passes: See `predict`.

        Yields:
            A `Window` with its start and end in seconds. If a frame in it is damaged, its
            prediction is a `Unreadable`.

        Raises:
            DecodeError: If the video is unreadable.
            FloatingPointError: If the scores of a window are not finite.
            ValueError: If an argument is out of range, or if the times of the frames are unknown.
        """
        _check_windows(window, stride)
        _check_number("top", top)
        temperature = self._chosen_temperature(calibrated=calibrated)
        clips, crops = self._view_counts(clips, crops)

        def predict() -> Iterator[Window]:
            with self.reader.open(x, fps=fps) as source:
                timing = timing_of(source, fps=fps)
                grid = make_grid(timing, self.settings, window=window, stride=stride)
                views = WindowReader(
                    self.reader, source, timing=timing, grid=grid, num_clips=clips, num_crops=crops
                )
                groups = ViewGroups(
                    len(grid),
                    clips * crops,
                    self.settings.views_per_forward,
                    fills_passes=fills_passes,
                )
                path = input_name(x)
                for row, intervals, logits in self._passes.run_groups(self.model, views, groups):
                    prediction = self._make_prediction(
                        path, logits, intervals=intervals, top=top, temperature=temperature
                    )
                    yield Window(path, *grid.shown_span(row), prediction)

        return predict()

    def predict_stream(
        self,
        address: str,
        *,
        window: float | None = None,
        stride: float | None = None,
        top: int = 5,
        clips: int = 1,
        crops: int | None = None,
        calibrated: bool = False,
        retries: int = 5,
        report: Callable[[str], None] = logger.warning,
    ) -> Iterator[StreamWindow]:
        """Iterate over predictions of the newest frames of a live stream, without an end.

        A thread reads the stream. If the model is slower, the oldest frames are dropped.

        Args:
            address: Address or device, such as rtsp://camera/1, tcp://host:port or /dev/video0.
            window: Seconds of a window. None for the span of a clip.
            stride: Seconds from the start of a window to that of the next. None for the window.
            top: Number of the most probable classes to name.
            clips: Temporal clips per window.
            crops: Spatial crops per clip, None for those of the test.
            calibrated: Whether to divide the logits by the temperature of the weights.
            retries: Number of attempts to connect again before the stream counts as lost.
            report: Function that takes what happens to the connection, as a sentence.

        Raises:
            FloatingPointError: If the scores of a window are not finite.
            StreamLostError: If the stream is lost, or cannot be opened at all.
            ValueError: If an argument is out of range.
        """
        _check_windows(window, stride)
        _check_number("top", top)
        temperature = self._chosen_temperature(calibrated=calibrated)
        clips, crops = self._view_counts(clips, crops)

        def predict() -> Iterator[StreamWindow]:
            stream = LiveStream(
                address,
                self.reader.clip_reader,
                self.settings,
                window=window,
                stride=stride,
                num_clips=clips,
                num_crops=crops,
                retries=retries,
                report=report,
            )
            with stream:
                for views in stream:
                    prediction = self._make_prediction(
                        address,
                        self.score(views.frames),
                        intervals=views.intervals,
                        top=top,
                        temperature=temperature,
                    )
                    assert isinstance(prediction, Prediction)
                    latency = time.monotonic() - views.arrival
                    interval = views.start, views.end
                    yield StreamWindow(address, *interval, prediction, latency, views.num_dropped)

        return predict()

    def _make_prediction(
        self,
        path: str,
        logits: NDArray[np.float32] | str,
        *,
        intervals: Sequence[Interval],
        top: int,
        temperature: float,
    ) -> Prediction | Unreadable:
        """Return the prediction of a video from its logits (num_views, K) or a reason."""
        if isinstance(logits, str):
            return Unreadable(path, logits)
        if not np.isfinite(logits).all():
            raise FloatingPointError(
                f"{path}: its scores are not finite. The weights or the precision "
                f"{self._passes.precision!r} do not suit this video"
            )
        return make_prediction(
            path,
            logits,
            intervals=intervals,
            class_names=self.class_names,
            top=min(top, len(self.class_names)),
            fusion=self.settings.fusion,
            temperature=temperature,
        )

    # ---- Features ---------------------------------------------------------------------------

    @overload
    def features(self, x: list[Any] | tuple[Any, ...], **options: Any) -> list[Features]: ...
    @overload
    def features(self, x: Input, **options: Any) -> Features: ...
    def features(  # type: ignore[misc]  # the options are the keywords below
        self,
        x: Input | Sequence[Input],
        *,
        clips: int | None = None,
        crops: int | None = None,
        stage: int | None = None,
        tokens: bool = False,
        fps: float | None = None,
        fills_passes: bool = False,
    ) -> Features | list[Features]:
        """Return the features of a video, or of each video of a list.

        Args:
            x: See `predict`.
            clips: Temporal clips per video, None for those of the test.
            crops: Spatial crops per clip, None for those of the test.
            stage: Stage of the model from 1, whose mean over time and space is returned. None for
                the input of the last layer.
            tokens: Whether to return all tokens of a view instead of one vector.
            fps: Frames per second of an array.
            fills_passes: See `predict`.

        Raises:
            DecodeError: If a video is unreadable. Use `features_each` to keep the others.
            ValueError: If an argument is out of range, or an array has another shape or dtype.
        """
        embed_each = partial(
            self.features_each,
            clips=clips,
            crops=crops,
            stage=stage,
            tokens=tokens,
            fps=fps,
            fills_passes=fills_passes,
        )
        return _one_or_all(x, embed_each)

    def features_each(
        self,
        inputs: Sequence[Input],
        *,
        clips: int | None = None,
        crops: int | None = None,
        stage: int | None = None,
        tokens: bool = False,
        fps: float | None = None,
        fills_passes: bool = False,
    ) -> Iterator[Features | Unreadable]:
        """Iterate over the features of many videos, in order. See `features`."""
        clips, crops = self._view_counts(clips, crops)
        forward = partial(embed, self.model, stage=stage, tokens=tokens)

        for path, intervals, values in self._run(
            inputs, forward, clips=clips, crops=crops, fps=fps, fills_passes=fills_passes
        ):
            if isinstance(values, str):
                yield Unreadable(path, values)
                continue
            axes = (0, 1) if tokens else 0
            per_view = [interval for interval in intervals for _ in range(crops)]
            yield Features(path, values.mean(axis=axes), values, per_view)

    def score(self, views: Tensor) -> NDArray[np.float32]:
        """Return the logits of views in one forward pass, shape (V, K).

        Args:
            views: Views of shape (V, 3, T, H, W) from the `reader`.
        """
        return self._passes.run(self.model, views).numpy()

    def _run(
        self,
        inputs: Sequence[Input],
        forward: Callable[[Tensor], Tensor],
        *,
        clips: int,
        crops: int,
        fps: float | None,
        fills_passes: bool,
    ) -> Iterator[tuple[str, list[Interval], NDArray[np.float32] | str]]:
        """Iterate over the name, the intervals of the clips, and the outputs of each input.

        The outputs have shape (V, ...). An unreadable input has a reason instead.
        """
        if not inputs:
            return
        num_views = clips * crops
        groups = ViewGroups(
            len(inputs), num_views, self.settings.views_per_forward, fills_passes=fills_passes
        )
        num_ahead = 0 if self.device.type == "cpu" else NUM_READERS  # a CPU has no core to spare
        videos = self.reader.read_each(
            inputs, num_clips=clips, num_crops=crops, fps=fps, num_ahead=num_ahead
        )
        for row, intervals, values in self._passes.run_groups(forward, videos, groups):
            yield input_name(inputs[row]), intervals, values

    # ---- Explanations -----------------------------------------------------------------------

    @property
    def can_explain(self) -> bool:
        """Whether a method of `explain` suits the model."""
        return bool(suiting_methods(self.model))

    def explain(
        self,
        x: Input,
        *,
        target: int | str | None = None,
        method: str = "auto",
        stage: int | None = None,
        clips: int | None = None,
        crops: int | None = None,
        fps: float | None = None,
        span: tuple[float, float] | None = None,
        num_steps: int = 10,
        order: str = "clip",
    ) -> Explanation:
        """Return where in a video the model sees evidence for a class.

        The model stays as it is: no weight gets a gradient. Views are explained one by one, in
        float32.

        Args:
            x: A single input, see `predict`.
            target: Name or number of the class. None for the predicted class.
            method: auto | grad-cam | rollout | scores. Auto is the one that suits the model.
            stage: Stage of Grad-CAM from 1. None for the last one that is not too coarse.
            clips: Temporal clips per video, None for those of the test.
            crops: Spatial crops per clip, None for those of the test.
            fps: Frames per second of an array.
            span: Start and end of a section of a video file, in seconds. None for all of it.
            num_steps: Number of steps of the deletion and insertion curves. 0 for no curves.
            order: Which pixels the curves take first: the hottest of each clip, or the same share
                of each frame ("frame").

        Raises:
            DecodeError: If the video is unreadable.
            FloatingPointError: If the scores are not finite.
            ValueError: If an argument is out of range, there is no such class, or the model lacks
                what the method needs.
        """
        num_clips, num_crops = self._view_counts(clips, crops)
        return explain_input(
            self,
            x,
            target=target,
            method=method,
            stage=stage,
            num_clips=num_clips,
            num_crops=num_crops,
            fps=fps,
            span=span,
            num_steps=num_steps,
            order=order,
        )

    def normalized(self, views: Tensor) -> Tensor:
        """Return the input of the model for views from the `reader`, as float32 on the CPU."""
        return self._passes.normalize(views)

    def apply_with_gradient(
        self, function: Callable[[nn.Module, Tensor], Result], views: Tensor
    ) -> Result:
        """Return what a function computes from the model and its input, which may be gradients.

        Args:
            function: Function of the model and its input.
            views: Views of shape (V, 3, T, H, W) from the `reader`.
        """
        return self._passes.run_with_gradient(partial(function, self.model), views)

    # ---- Arguments --------------------------------------------------------------------------

    def _view_counts(self, clips: int | None, crops: int | None) -> tuple[int, int]:
        clips = self.settings.num_clips if clips is None else clips
        crops = self.settings.num_crops if crops is None else crops
        _check_number("clips", clips)
        if crops not in _NUM_CROPS:
            raise ValueError(f"crops is {crops!r}. Use 1 for the center, or 3")
        return clips, crops

    def _chosen_temperature(self, *, calibrated: bool) -> float:
        if not calibrated:
            return 1.0
        if self.temperature is None:
            raise ValueError(
                "there is no temperature of these weights. Test them, run "
                f"{command_name('calibrate')} on the result, and load them again"
            )
        return self.temperature


def _one_or_all(x: Any, iterate: Callable[[Sequence[Any]], Iterator[Result | Unreadable]]) -> Any:
    """Return the result of an input, or a list of the results of a list of inputs.

    Raises:
        DecodeError: If an input is unreadable.
    """
    is_list = isinstance(x, list | tuple)
    results = []
    for result in iterate(x if is_list else [x]):
        if isinstance(result, Unreadable):
            raise DecodeError(result.reason)
        results.append(result)
    return results if is_list else results[0]


def usable_device(device: str | torch.device) -> torch.device:
    """Return a device that this process can compute on.

    Raises:
        ValueError: If there is no such device.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the device {str(device)!r} cannot be used: {reason}") from error


def check_precision(precision: str) -> None:
    """Raise ValueError if a precision is unknown."""
    known = ("off", "bf16", "fp16", "auto")
    if precision not in known:
        raise ValueError(f"the precision is {precision!r}. Choose one of: {', '.join(known)}")


def _unknown_origin(model: nn.Module) -> Origin:
    problem = "it is not known whether the weights were tested"
    return Origin(
        type(model).__name__,
        None,
        find_metrics=lambda model: FoundMetrics(None, problem),
        find_test=lambda model: FoundTest(None, problem),
    )


def _check_windows(window: float | None, stride: float | None) -> None:
    for name, seconds in (("window", window), ("stride", stride)):
        if seconds is not None:
            check_seconds(name, seconds)


def _check_number(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}. Use a whole number from 1 on")
