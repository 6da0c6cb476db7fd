"""Forward pass of views: normalized, in the precision of the evaluation, with float32 output."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slowfast.datasets.normalization import Normalize
from slowfast.datasets.records import Batch, Interval
from slowfast.datasets.view_groups import ViewGroups, group_views
from slowfast.inference.precision import amp_dtype, autocast
from slowfast.inference.view_reader import VideoViews

Result = TypeVar("Result")


def forward_views(
    forward: Callable[[Tensor], Tensor],
    frames: Tensor,
    *,
    normalize: Normalize,
    amp: torch.dtype | None,
    device: torch.device,
) -> Tensor:
    """Return what a model computes from views, in one forward pass.

    Tests, validations, predictions and features all take this path, so that the same frames in the
    same number give the same bits.

    Args:
        forward: The model, or a part of it.
        frames: Views as a batch holds them, shape (B, C, T, H, W), on any device.
        normalize: Function that turns the frames into the input of the model.
        amp: Autocast dtype, or None for float32.
        device: Device of the model.

    Returns:
        Float32 output on the device.
    """
    frames = frames.to(device, non_blocking=True)
    with autocast(amp, device):
        return forward(normalize(frames)).float()


class ForwardPasses:
    """Forward passes of a model that several threads use. They take turns.

    Args:
        normalize: Function that turns the frames of a batch into the input of the model.
        device: Device of the model.
        precision: off | bf16 | fp16 | auto, see TRAIN.AMP.

    Attributes:
        lock: Lock that a forward pass holds.
    """

    def __init__(self, normalize: Normalize, *, device: torch.device, precision: str) -> None:
        self.device = device
        self.precision = precision
        self.lock = threading.Lock()
        self._normalize = normalize

    @torch.inference_mode()
    def run(self, forward: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
        """Return what a model computes from views, as float32 on the CPU."""
        with self.lock:
            output = forward_views(
                forward,
                frames,
                normalize=self._normalize,
                amp=amp_dtype(self.precision, self.device),
                device=self.device,
            )
            return output.cpu()

    def normalize(self, frames: Tensor) -> Tensor:
        """Return the input of the model for views, as float32 on the CPU."""
        return self._normalize(frames).cpu()

    def run_with_gradient(self, function: Callable[[Tensor], Result], frames: Tensor) -> Result:
        """Return what a function computes from the input of the model, in float32.

        Args:
            function: Function of the input of the model. It may compute gradients.
            frames: Views as a batch holds them, shape (B, C, T, H, W).
        """
        with (
            self.lock,
            torch.inference_mode(False),
            torch.autocast(self.device.type, enabled=False),
        ):
            # A copy, because the frames may come from an inference mode of the caller.
            return function(self._normalize(frames.clone().to(self.device)))

    def run_groups(
        self,
        forward: Callable[[Tensor], Tensor],
        videos: Iterable[VideoViews],
        groups: ViewGroups,
    ) -> Iterator[tuple[int, list[Interval], NDArray[np.float32] | str]]:
        """Iterate over the row, the intervals of the clips, and the outputs of each video.

        Args:
            forward: The model, or a part of it.
            videos: Views of all videos of a list, in order.
            groups: How the list is cut into forward passes.

        Yields:
            Outputs of shape (V, ...), or the reason if the video is unreadable.
        """
        intervals: dict[int, list[Interval]] = {}

        def batches() -> Iterator[Batch]:
            for row, video in enumerate(videos):
                intervals[row] = video.intervals
                yield video.as_batch(row)

        for group in group_views(batches(), groups):
            outputs = torch.cat([self.run(forward, frames) for frames in group.frames])
            by_video = outputs.split(groups.num_views)
            for row, output in zip(group.videos.tolist(), by_video, strict=False):
                yield row, intervals.pop(row), group.unreadable.get(row, output.numpy())
