"""The data set: a request for views of a video becomes a list of clips, whatever the data and the purpose."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from slowfast.datasets.annotations import Annotations
from slowfast.datasets.decode import DecodeError, FrameFolder, VideoFile
from slowfast.datasets.records import Batch, Clip, Request, Video, View
from slowfast.datasets.sampling import DenseClips, Indices, SegmentClips, resampled_length, to_native


class Transform(Protocol):
    """From the decoded frames of a temporal clip to what the model sees of it."""

    def __call__(
        self, frames: NDArray[np.uint8], *, crops: Sequence[int], rng: np.random.Generator | None
    ) -> list[Tensor]:
        """Return one (3, T, H', W') float32 per crop of frames (T, H, W, 3); draws only where there is a generator."""
        ...


class VideoDataset(Dataset[list[Clip]]):
    """Clips of annotated videos. Each request opens and decodes its video once, however many views it asks for.

    Args:
        annotations: the list.
        open_video: the frames of one video.
        clips: which frames make up a clip.
        transform: see Transform.
        bgr: reverse the channels of the decoded frames.
        target_fps: frame rate at which clips are taken; 0 for each video's own.
    """

    def __init__(
        self,
        annotations: Annotations,
        *,
        open_video: Callable[[Video], VideoFile | FrameFolder],
        clips: DenseClips | SegmentClips,
        transform: Transform,
        bgr: bool = False,
        target_fps: float = 0.0,
    ) -> None:
        self.annotations = annotations
        self.open_video = open_video
        self.clips = clips
        self.transform = transform
        self.bgr = bgr
        self.target_fps = Fraction(target_fps).limit_denominator(1001)

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, request: Request) -> list[Clip]:
        """Return the clips of the views of a request, in its order.

        Raises:
            DecodeError: the video cannot be read.
        """
        video = self.annotations[request.video]
        rng = None if request.seed is None else np.random.default_rng(request.seed)
        with self.open_video(video) as source:
            # One draw per temporal clip: augmented copies of a video show the same frames.
            clips = sorted({view.clip for view in request.views})
            numbers = {clip: self._frame_numbers(source, clip=clip, rng=rng) for clip in clips}
            wanted = np.unique(np.concatenate(list(numbers.values())))
            frames = source.read(wanted.tolist())
        if self.bgr:
            frames = frames[..., ::-1]
        result: dict[View, Clip] = {}
        for clip in clips:
            taken = np.ascontiguousarray(frames[np.searchsorted(wanted, numbers[clip])])
            views = [view for view in request.views if view.clip == clip]
            seen = self.transform(taken, crops=[view.crop for view in views], rng=rng)
            for view, tensor in zip(views, seen, strict=True):
                result[view] = Clip(tensor, video.label, request.video, view.number)
        return [result[view] for view in request.views]

    def _frame_numbers(self, source: VideoFile | FrameFolder, *, clip: int, rng: np.random.Generator | None) -> Indices:
        length = source.num_frames
        if self.target_fps:
            if not source.fps:
                raise DecodeError(f"{source.path}: no frame rate, which DATA.TARGET_FPS needs")
            length = resampled_length(source.num_frames, fps=source.fps, target_fps=self.target_fps)
        indices = self.clips.numbered(length, clip) if rng is None else self.clips.random(length, rng)
        if self.target_fps:
            indices = to_native(indices, source.num_frames, fps=source.fps, target_fps=self.target_fps)
        return indices


def collate(requests: Sequence[list[Clip]]) -> Batch:
    """Return the clips of several requests as one batch, in order."""
    clips = [clip for request in requests for clip in request]
    return Batch(
        frames=torch.stack([clip.frames for clip in clips]),
        label=torch.tensor([clip.label for clip in clips]),
        video=torch.tensor([clip.video for clip in clips]),
        view=torch.tensor([clip.view for clip in clips]),
    )
