"""The classifier: a trained model with the decoding, sampling and transforms of its test."""

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slowfast.datasets.normalization import Normalize
from slowfast.datasets.records import Batch, DecodeError, Interval
from slowfast.datasets.view_groups import ViewGroups, group_views
from slowfast.inference.clip_settings import ClipSettings
from slowfast.inference.exported import write_exported
from slowfast.inference.features import embed
from slowfast.inference.inputs import Input, input_name
from slowfast.inference.precision import amp_dtype
from slowfast.inference.predictions import Features, NotRead, Prediction, make_prediction
from slowfast.inference.view_forward import forward_views
from slowfast.inference.view_reader import ViewReader

NUM_READERS = 4  # threads that read videos ahead of a GPU

_NUM_CROPS = (1, 3)


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

    Attributes:
        model: The model.
        class_names: Names of the classes, in the order of the head.
        settings: How the classifier looks at a video, see `ClipSettings`.
        device: Device of the model.
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
    ) -> None:
        self.model = model.eval()
        self.class_names = list(class_names)
        self.settings = settings
        self.device = next(model.parameters()).device
        self.precision = precision
        self.temperature = temperature
        self.config = config or {}
        self.reader = reader
        self._normalize = normalize
        self._lock = threading.Lock()

    def to(
        self, device: str | torch.device | None = None, *, precision: str | None = None
    ) -> "Classifier":
        """Move the model to a device, choose the precision of its forward pass, and return it.

        Args:
            device: Device such as "cuda" or "cuda:1". None keeps the device.
            precision: off | bf16 | fp16 | auto. None keeps it.

        Raises:
            ValueError: If the precision is unknown.
        """
        if precision is not None:
            check_precision(precision)
            self.precision = precision
        if device is not None:
            with self._lock:
                self.model.to(device)
                self.device = torch.device(device)
        return self

    def save(self, folder: str | Path) -> None:
        """Write the model to a folder that `slowfast.load` opens, here or elsewhere.

        The folder has `config.json` and `model.safetensors`, and nothing about this machine.

        Raises:
            FileExistsError: If the folder holds an exported model.
            OSError: If a file cannot be written.
        """
        write_exported(
            Path(folder),
            self.model.state_dict(),
            settings=self.config,
            class_names=self.class_names,
        )

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
        is_list = isinstance(x, list | tuple)
        inputs: list[Any] = list(x) if is_list else [x]  # type: ignore[arg-type]
        results = []
        for result in self.predict_each(
            inputs,
            top=top,
            clips=clips,
            crops=crops,
            fps=fps,
            calibrated=calibrated,
            fills_passes=fills_passes,
        ):
            if isinstance(result, NotRead):
                raise DecodeError(result.reason)
            results.append(result)
        return results if is_list else results[0]

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
    ) -> Iterator[Prediction | NotRead]:
        """Iterate over the predictions of many videos, in order, with little memory.

        An unreadable video gives a `NotRead` with the reason. See `predict` for the arguments.
        """
        _check_number("top", top)
        temperature = self._chosen_temperature(calibrated=calibrated)
        clips, crops = self._view_counts(clips, crops)

        for path, intervals, logits in self._run(
            inputs, self.model, clips=clips, crops=crops, fps=fps, fills_passes=fills_passes
        ):
            if isinstance(logits, str):
                yield NotRead(path, logits)
                continue
            if not np.isfinite(logits).all():
                raise FloatingPointError(
                    f"{path}: its scores are not finite. The weights or the precision "
                    f"{self.precision!r} do not suit this video"
                )
            yield make_prediction(
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
        is_list = isinstance(x, list | tuple)
        inputs: list[Any] = list(x) if is_list else [x]  # type: ignore[arg-type]
        results = []
        for result in self.features_each(
            inputs,
            clips=clips,
            crops=crops,
            stage=stage,
            tokens=tokens,
            fps=fps,
            fills_passes=fills_passes,
        ):
            if isinstance(result, NotRead):
                raise DecodeError(result.reason)
            results.append(result)
        return results if is_list else results[0]

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
    ) -> Iterator[Features | NotRead]:
        """Iterate over the features of many videos, in order. See `features`."""
        clips, crops = self._view_counts(clips, crops)
        forward = partial(embed, self.model, stage=stage, tokens=tokens)

        for path, intervals, values in self._run(
            inputs, forward, clips=clips, crops=crops, fps=fps, fills_passes=fills_passes
        ):
            if isinstance(values, str):
                yield NotRead(path, values)
                continue
            axes = (0, 1) if tokens else 0
            per_view = [interval for interval in intervals for _ in range(crops)]
            yield Features(path, values.mean(axis=axes), values, per_view)

    # ---- Forward passes ---------------------------------------------------------------------

    def score(self, views: Tensor) -> NDArray[np.float32]:
        """Return the logits of views in one forward pass, shape (V, K).

        Args:
            views: Views of shape (V, 3, T, H, W) from the `reader`.
        """
        return self._forward(views, self.model).numpy()

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
        intervals: dict[int, list[Interval]] = {}

        def batches() -> Iterator[Batch]:
            read = self.reader.read_each(
                inputs, num_clips=clips, num_crops=crops, fps=fps, num_ahead=self._num_ahead
            )
            for row, video in enumerate(read):
                intervals[row] = video.intervals
                yield video.as_batch(row)

        for group in group_views(batches(), groups):
            outputs = torch.cat([self._forward(frames, forward) for frames in group.frames])
            for row, output in zip(group.videos.tolist(), outputs.split(num_views), strict=False):
                values = group.unreadable.get(row, output.numpy())
                yield input_name(inputs[row]), intervals.pop(row), values

    @torch.inference_mode()
    def _forward(self, frames: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the float32 output of one forward pass on the CPU."""
        with self._lock:
            output = forward_views(
                forward,
                frames,
                normalize=self._normalize,
                amp=amp_dtype(self.precision, self.device),
                device=self.device,
            )
            return output.cpu()

    @property
    def _num_ahead(self) -> int:
        """Number of inputs to read ahead of a GPU. On a CPU, the model needs all cores itself."""
        return 0 if self.device.type == "cpu" else NUM_READERS

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
                "there is no temperature of these weights. Test them, run tools/calibrate.py on "
                "the result, and load them again"
            )
        return self.temperature


def check_precision(precision: str) -> None:
    """Raise ValueError if a precision is unknown."""
    known = ("off", "bf16", "fp16", "auto")
    if precision not in known:
        raise ValueError(f"the precision is {precision!r}. Choose one of: {', '.join(known)}")


def _check_number(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}. Use a whole number from 1 on")
