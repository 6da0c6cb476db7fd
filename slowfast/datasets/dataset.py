"""The data set: requests for views of videos become a batch of clips, whatever the data and the purpose."""

import math
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
from slowfast.datasets.records import Batch, Request, Unfilled, UnreadableVideo, Video, View
from slowfast.datasets.resize import Placement
from slowfast.datasets.sampling import DenseClips, Indices, SegmentClips
from slowfast.datasets.transforms import Augmentation

MAX_REPLACEMENTS = 10  # videos that are tried in place of one that cannot be read
NOTHING = -1  # in the place of a video: a worker that reads none


class Transform(Protocol):
    """From the decoded frames of a temporal clip to what the model sees of it."""

    crop_size: int  # pixels, height and width of what it gives
    chunk_bytes: int  # of decoded frames that it takes at once; more of them are not in memory

    def draw(
        self, height: int, width: int, *, crop: int, rng: np.random.Generator | None
    ) -> Augmentation:
        """Return what is done to one view of frames of this size."""
        ...

    def apply(
        self,
        frames: NDArray[np.uint8],
        augmentation: Augmentation,
        *,
        out: Tensor,
        placement: Placement,
    ) -> None:
        """Write some frames (N, H, W, 3) of a view to their places in `out`.

        Args:
            frames: Decoded frames.
            augmentation: What is done to the view.
            out: The view, (3, T, crop_size, crop_size), float32 or uint8.
            placement: The frames that are written, and where.
        """
        ...

    def erase(self, augmentation: Augmentation, *, out: Tensor) -> None:
        """Erase what is to be erased in a view all of whose frames are there; nothing in uint8."""
        ...


class VideoDataset(Dataset[Batch]):
    """Clips of annotated videos. Each request opens and decodes its video once, however many views it asks for.

    Args:
        annotations: the list.
        open_video: the frames of one video.
        clips: which frames make up a clip.
        transform: see Transform.
        target_fps: frame rate at which clips are taken; 0 for each video's own.
        refuse_short: whether a video with fewer frames than a clip spans cannot be read.
        as_uint8: whether clips are left in uint8, to be normalized on the device.
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
        as_uint8: bool = False,
        known_bad: dict[int, str] | None = None,
        num_workers: int = 0,
    ) -> None:
        self.annotations = annotations
        self.open_video = open_video
        self.clips = clips
        self.transform = transform
        self.target_fps = target_fps
        self.refuse_short = refuse_short
        self.dtype = torch.uint8 if as_uint8 else torch.float32
        self.known_bad = known_bad or {}
        self._in_work = RawArray(
            "q", [NOTHING] * num_workers
        )  # shared with the workers: the row that each one reads

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, request: Request) -> Batch:
        """Return the views of one request, see `__getitems__`."""
        return self.__getitems__([request])

    def __getitems__(self, requests: Sequence[Request]) -> Batch:
        """Return the views of several requests, in their order; each clip is written once, to its place in the batch.

        A video that cannot be read is reported as UnreadableVideo. Where the request carries a seed, another video, which
        depends on that seed alone, takes its place; where it does not, in validation and test, none does.

        Raises:
            DecodeError: none of the videos that were tried in place of one can be read.
        """
        num_views = sum(len(request.views) for request in requests)
        size = self.transform.crop_size
        frames = _allocate(num_views, 3, self.clips.num_frames, size, size, dtype=self.dtype)
        done: list[tuple[int, View]] = []  # row and view of each clip so far
        unreadable: list[UnreadableVideo] = []
        unfilled: list[Unfilled] = []
        for request in requests:
            out = frames[len(done) : len(done) + len(request.views)]
            try:
                row, drawn = self._read(request, out=out)
            except DecodeError as error:
                unreadable.append(UnreadableVideo(request.video, str(error)))
                if request.seed is None:
                    continue
                row, drawn = self._read_another(request, out=out)
            if self.dtype == torch.uint8:
                unfilled += [
                    Unfilled(len(done) + place, clip.erased, clip.noise_seed)
                    for place, clip in enumerate(drawn)
                    if clip.erased
                ]
            done += [(row, view) for view in request.views]
        rows = [row for row, _ in done]
        return Batch(
            frames[: len(done)],
            label=_integers([int(self.annotations.labels[row]) for row in rows]),
            video=_integers(rows),
            view=_integers([view.number for _, view in done]),
            unreadable=tuple(unreadable),
            unfilled=tuple(unfilled),
        )

    def in_work(self) -> dict[int, Video]:
        """Return the video that each worker is reading just now, by the number of the worker."""
        return {
            worker: self.annotations[row]
            for worker, row in enumerate(self._in_work)
            if row != NOTHING
        }

    def _read_another(self, request: Request, *, out: Tensor) -> tuple[int, list[Augmentation]]:
        """Write the clips of a video that takes the place of that of a training request; returns as `_read`."""
        assert request.seed is not None
        for attempt in range(MAX_REPLACEMENTS):
            seed = (*request.seed, attempt)
            row = int(np.random.default_rng(seed).integers(len(self)))
            try:
                return self._read(request._replace(video=row, seed=seed), out=out)
            except DecodeError as error:
                last = error
        raise DecodeError(
            f"{MAX_REPLACEMENTS} videos in a row cannot be read, the last because of {last}; check DATA.PATH_PREFIX, "
            "or the videos with tools/check_data.py"
        ) from last

    def _read(self, request: Request, *, out: Tensor) -> tuple[int, list[Augmentation]]:
        """Write the clips of a request to `out`; returns the row of the video, and what was done to each clip."""
        if request.video in self.known_bad:
            raise DecodeError(self.known_bad[request.video])
        worker = get_worker_info()
        if worker is not None:
            self._in_work[worker.id] = request.video
        try:
            drawn = self._read_views(request, out=out)
        finally:
            if worker is not None:
                self._in_work[worker.id] = NOTHING
        return request.video, drawn

    def _read_views(self, request: Request, *, out: Tensor) -> list[Augmentation]:
        rng = None if request.seed is None else np.random.default_rng(request.seed)
        with self.open_video(self.annotations[request.video]) as source:
            # One draw per temporal clip: augmented copies of a video show the same frames.
            clips = sorted({view.clip for view in request.views})
            numbers = self.frame_numbers(source, clips=clips, rng=rng)
            clip_numbers = dict(zip(clips, numbers, strict=True))
            numbers = [clip_numbers[view.clip] for view in request.views]
            return self._write_views(source, request.views, numbers=numbers, rng=rng, out=out)

    def _write_views(
        self,
        source: VideoFile | FrameFolder,
        views: Sequence[View],
        *,
        numbers: Sequence[Indices],
        rng: np.random.Generator | None,
        out: Tensor,
    ) -> list[Augmentation]:
        """Write each frame to all views that show it before the next frames are decoded.

        So, what is in memory does not grow with the number of clips, nor with their length.
        """
        drawn: list[Augmentation] = []
        wanted = np.unique(np.concatenate(numbers))
        max_bytes = self.transform.chunk_bytes
        for frames in source.read_in_chunks(wanted.tolist(), max_bytes=max_bytes):
            if not drawn:
                height, width = frames.shape[1:3]
                drawn = [
                    self.transform.draw(height, width, crop=view.crop, rng=rng) for view in views
                ]

            chunk, wanted = wanted[: len(frames)], wanted[len(frames) :]
            for view_numbers, augmentation, clip in zip(numbers, drawn, out, strict=True):
                targets = np.flatnonzero((chunk[0] <= view_numbers) & (view_numbers <= chunk[-1]))
                if len(targets):
                    placement = Placement(np.searchsorted(chunk, view_numbers[targets]), targets)
                    self.transform.apply(frames, augmentation, out=clip, placement=placement)
            del frames  # before the next chunk is decoded

        for augmentation, clip in zip(drawn, out, strict=True):
            self.transform.erase(augmentation, out=clip)
        return drawn

    def frame_numbers(
        self,
        source: VideoFile | FrameFolder,
        *,
        clips: Sequence[int],
        rng: np.random.Generator | None,
    ) -> list[Indices]:
        """Return the frames of temporal clips of an open video, (T,) each; at random where there is a generator.

        Raises:
            DecodeError: the video is shorter than a clip, and that is refused; or it is resampled, and
                a time stamp must be wrong.
        """
        shown, resampled = source.shown, None
        first, total = int(shown[0]), len(shown)
        if self.target_fps and isinstance(source, VideoFile):
            resampled = source.at_rate(self.target_fps)
            first, total = resampled.ticks_between(int(shown[0]), int(shown[-1]))
            if not total:  # a span so short that it lies between two ticks
                first, total, resampled = int(shown[0]), 1, None
        if self.refuse_short and total < self.clips.span:
            raise DecodeError(
                f"{source.path}: has {total} frames, but a clip spans {self.clips.span} (DATA.SHORT_CLIP error)"
            )

        if rng is not None:
            numbers = [first + self.clips.random(total, rng) for _ in clips]
        else:
            numbers = [first + self.clips.numbered(total, clip) for clip in clips]
        return numbers if resampled is None else [resampled.frames_at(ticks) for ticks in numbers]


def _integers(values: Sequence[int]) -> Tensor:
    """A tensor of int64 for a batch, (len(values),)."""
    tensor = torch.tensor(values, dtype=torch.int64)
    if get_worker_info() is not None:
        # Here, since torch would only print an error that it meets later, for lack of room.
        tensor.share_memory_()
    return tensor


def _allocate(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An empty tensor for a batch."""
    if get_worker_info() is None:
        empty = np.empty(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
        return (
            torch.from_numpy(empty).view(dtype).view(shape)
        )  # in huge pages, where the system has them
    # A worker's batch is made where the main process can see it, so that it is not copied once more.
    storage = torch.UntypedStorage._new_shared(dtype.itemsize * math.prod(shape))
    return torch.empty(0, dtype=dtype).set_(storage).view(shape)
