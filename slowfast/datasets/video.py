"""The data set: a request for views of a video becomes a list of clips, whatever the data and the purpose."""

from collections.abc import Callable, Sequence
from multiprocessing.sharedctypes import RawArray
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from slowfast.datasets.annotations import Annotations
from slowfast.datasets.decode import DecodeError, FrameFolder, VideoFile
from slowfast.datasets.records import Batch, Clip, Request, Unread, Video, View
from slowfast.datasets.sampling import DenseClips, Indices, SegmentClips, constant_rate

MAX_REPLACEMENTS = 10  # videos that are tried in place of one that cannot be read
NOTHING = -1  # in the place of a video: a worker that reads none


class Transform(Protocol):
    """From the decoded frames of a temporal clip to what the model sees of it."""

    def __call__(
        self, frames: NDArray[np.uint8], *, crops: Sequence[int], rng: np.random.Generator | None
    ) -> list[Tensor]:
        """Return one (3, T, H', W') float32 per crop of frames (T, H, W, 3); draws only where there is a generator."""
        ...


class VideoDataset(Dataset[list[Clip | Unread]]):
    """Clips of annotated videos. Each request opens and decodes its video once, however many views it asks for.

    Args:
        annotations: the list.
        open_video: the frames of one video.
        clips: which frames make up a clip.
        transform: see Transform.
        target_fps: frame rate at which clips are taken; 0 for each video's own.
        refuse_short: whether a video with fewer frames than a clip spans cannot be read.
        known_bad: videos, by row, that are not even tried, and why.
        num_workers: processes that will share this data set.
    """

    def __init__(
        self,
        annotations: Annotations,
        *,
        open_video: Callable[[Video], VideoFile | FrameFolder],
        clips: DenseClips | SegmentClips,
        transform: Transform,
        target_fps: float = 0.0,
        refuse_short: bool = False,
        known_bad: dict[int, str] | None = None,
        num_workers: int = 0,
    ) -> None:
        self.annotations = annotations
        self.open_video = open_video
        self.clips = clips
        self.transform = transform
        self.target_fps = target_fps
        self.refuse_short = refuse_short
        self.known_bad = known_bad or {}
        self._in_work = RawArray("q", [NOTHING] * num_workers)  # shared with the workers: the row that each one reads

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, request: Request) -> list[Clip | Unread]:
        """Return the clips of the views of a request, in its order.

        A video that cannot be read is reported as Unread. Where the request carries a seed, clips of another video,
        which depends on that seed alone, follow in its place; where it does not, in validation and test, nothing does.

        Raises:
            DecodeError: none of the videos that were tried in place of one can be read.
        """
        try:
            return list(self._read(request))
        except DecodeError as error:
            unread = Unread(request.video, str(error))
        return [unread] if request.seed is None else [unread, *self._read_another(request)]

    def in_work(self) -> dict[int, Video]:
        """Return the video that each worker is reading just now, by the number of the worker."""
        return {worker: self.annotations[row] for worker, row in enumerate(self._in_work) if row != NOTHING}

    def _read_another(self, request: Request) -> list[Clip]:
        """The clips of a video that takes the place of that of a training request."""
        assert request.seed is not None
        for attempt in range(MAX_REPLACEMENTS):
            seed = (*request.seed, attempt)
            row = int(np.random.default_rng(seed).integers(len(self)))
            try:
                return self._read(request._replace(video=row, seed=seed))
            except DecodeError as error:
                last = error
        raise DecodeError(
            f"{MAX_REPLACEMENTS} videos in a row cannot be read, the last because of {last}; check the videos with "
            "tools/check_data.py"
        ) from last

    def _read(self, request: Request) -> list[Clip]:
        if request.video in self.known_bad:
            raise DecodeError(self.known_bad[request.video])
        worker = get_worker_info()
        if worker is not None:
            self._in_work[worker.id] = request.video
        try:
            return self._read_views(self.annotations[request.video], request)
        finally:
            if worker is not None:
                self._in_work[worker.id] = NOTHING

    def _read_views(self, video: Video, request: Request) -> list[Clip]:
        rng = None if request.seed is None else np.random.default_rng(request.seed)
        with self.open_video(video) as source:
            # One draw per temporal clip: augmented copies of a video show the same frames.
            clips = sorted({view.clip for view in request.views})
            numbers = self.frame_numbers(source, clips=clips, rng=rng)
            wanted = np.unique(np.concatenate(numbers))
            frames = source.read(wanted.tolist())
        result: dict[View, Clip] = {}
        for clip, clip_numbers in zip(clips, numbers, strict=True):
            places = np.searchsorted(wanted, clip_numbers)
            taken = frames if np.array_equal(places, np.arange(len(frames))) else frames[places]
            views = [view for view in request.views if view.clip == clip]
            seen = self.transform(taken, crops=[view.crop for view in views], rng=rng)
            for view, tensor in zip(views, seen, strict=True):
                result[view] = Clip(tensor, video.label, request.video, view.number)
        return [result[view] for view in request.views]

    def frame_numbers(
        self, source: VideoFile | FrameFolder, *, clips: Sequence[int], rng: np.random.Generator | None
    ) -> list[Indices]:
        """Return the frames of temporal clips of an open video, (T,) each; at random where there is a generator.

        Raises:
            DecodeError: the video is shorter than a clip, and that is refused.
        """
        shown = np.arange(source.num_frames)
        if self.target_fps and isinstance(source, VideoFile):
            shown = constant_rate(source.times, source.durations, fps=self.target_fps)
        if self.refuse_short and len(shown) < self.clips.span:
            raise DecodeError(
                f"{source.path}: has {len(shown)} frames, but a clip spans {self.clips.span} (DATA.SHORT_CLIP error)"
            )
        if rng is not None:
            return [shown[self.clips.random(len(shown), rng)] for _ in clips]
        return [shown[self.clips.numbered(len(shown), clip)] for clip in clips]


def collate(items: Sequence[list[Clip | Unread]]) -> Batch:
    """Return the clips of several requests as one batch, in order; without any clip, its tensors are empty."""
    clips = [part for item in items for part in item if isinstance(part, Clip)]
    return Batch(
        frames=torch.stack([clip.frames for clip in clips]) if clips else torch.empty(0),
        label=torch.tensor([clip.label for clip in clips], dtype=torch.int64),
        video=torch.tensor([clip.video for clip in clips], dtype=torch.int64),
        view=torch.tensor([clip.view for clip in clips], dtype=torch.int64),
        unread=tuple(part for item in items for part in item if isinstance(part, Unread)),
    )
