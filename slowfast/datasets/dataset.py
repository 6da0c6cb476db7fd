"""Video dataset: turns requests for views of videos into batches of clips."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.sharedctypes import RawArray

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from slowfast.datasets.annotations import Annotations
from slowfast.datasets.clip_reader import ClipReader
from slowfast.datasets.decode import DecodeError
from slowfast.datasets.records import (
    Batch,
    Interval,
    Request,
    Unfilled,
    UnreadableVideo,
    Video,
    View,
)
from slowfast.datasets.shared_memory import allocate, to_tensor
from slowfast.datasets.transforms import Augmentation
from slowfast.utils.command_names import command_name

MAX_REPLACEMENTS = 10  # attempts to replace an unreadable training video by another one
_IDLE = -1  # row of a worker that is not reading a video


class VideoDataset(Dataset[Batch]):
    """Clips of annotated videos.

    Args:
        annotations: The videos and their labels.
        reader: Reader of the clips of a video.
        known_unreadable: Reason by row for videos that are reported as unreadable without trying.
        num_workers: Number of loader workers that share this dataset.
        notes_intervals: Whether batches say when each clip begins and ends.
    """

    def __init__(
        self,
        annotations: Annotations,
        reader: ClipReader,
        *,
        known_unreadable: dict[int, str] | None = None,
        num_workers: int = 0,
        notes_intervals: bool = False,
    ) -> None:
        self.annotations = annotations
        self.reader = reader
        self.dtype = reader.transform.clip_format.dtype
        self.known_unreadable = known_unreadable or {}
        self._notes_intervals = notes_intervals

        # The row that each worker is reading, in memory that all of them share.
        self._current_rows = RawArray("q", [_IDLE] * num_workers)

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, request: Request) -> Batch:
        """Return the views of one request, see `__getitems__`."""
        return self.__getitems__([request])

    def __getitems__(self, requests: Sequence[Request]) -> Batch:
        """Return the views of several requests in their order.

        Each video is decoded once and each clip is written directly into the batch. An unreadable
        video is reported as an UnreadableVideo. If its request has a seed, another video replaces
        it, chosen by this seed alone. Requests of validation and testing have no seed, so nothing
        replaces their videos.

        Raises:
            DecodeError: If no replacement for an unreadable video can be read either.
        """
        num_views = sum(len(request.views) for request in requests)
        frames = allocate(num_views, *self.reader.clip_shape, dtype=self.dtype)
        clips: list[tuple[int, View]] = []  # row and view of each clip
        unreadable: list[UnreadableVideo] = []
        unfilled: list[Unfilled] = []
        intervals: list[Interval] | None = [] if self._notes_intervals else None

        for request in requests:
            out = frames[len(clips) : len(clips) + len(request.views)]
            try:
                row, augmentations = self._read(request, out=out, intervals=intervals)
            except DecodeError as error:
                unreadable.append(UnreadableVideo(request.video_index, str(error)))
                if request.seed is None:
                    continue
                row, augmentations = self._read_replacement(request, out=out, intervals=intervals)

            unfilled += self.reader.transform.find_unfilled(augmentations, first_clip=len(clips))
            clips += [(row, view) for view in request.views]

        rows = [row for row, _ in clips]
        return Batch(
            frames[: len(clips)],
            labels=to_tensor([int(self.annotations.labels[row]) for row in rows]),
            video_indices=to_tensor(rows),
            view_indices=to_tensor([view.number for _, view in clips]),
            unreadable=tuple(unreadable),
            unfilled=tuple(unfilled),
            intervals=tuple(intervals or ()),
        )

    def current_videos(self) -> dict[int, Video]:
        """Return the videos that loader workers are reading right now, by worker."""
        videos = {}
        for worker, row in enumerate(self._current_rows):
            if row != _IDLE:
                videos[worker] = self.annotations[row]
        return videos

    def _read_replacement(
        self, request: Request, *, out: Tensor, intervals: list[Interval] | None
    ) -> tuple[int, list[Augmentation]]:
        """Write the clips of a video that replaces the one of a training request, see `_read`."""
        assert request.seed is not None
        for attempt in range(MAX_REPLACEMENTS):
            seed = (*request.seed, attempt)
            row = int(np.random.default_rng(seed).integers(len(self)))
            try:
                replacement = request._replace(video_index=row, seed=seed)
                return self._read(replacement, out=out, intervals=intervals)
            except DecodeError as error:
                last = error

        raise DecodeError(
            f"{MAX_REPLACEMENTS} videos in a row are unreadable, the last because of {last}. "
            f"Check DATA.PATH_PREFIX, or the videos with {command_name('check_data')}"
        ) from last

    def _read(
        self, request: Request, *, out: Tensor, intervals: list[Interval] | None
    ) -> tuple[int, list[Augmentation]]:
        """Write the clips of a request to `out`. Return the row and the augmentation of each."""
        row = request.video_index
        if row in self.known_unreadable:
            raise DecodeError(self.known_unreadable[row])

        rng = None if request.seed is None else np.random.default_rng(request.seed)
        with self._noted(row):
            video = self.annotations[row]
            return row, self.reader.read(
                video, request.views, rng=rng, out=out, intervals=intervals
            )

    @contextmanager
    def _noted(self, row: int) -> Iterator[None]:
        """Note the row that this worker is reading, for errors about a worker that dies."""
        worker = get_worker_info()
        if worker is None:
            yield
            return

        self._current_rows[worker.id] = row
        try:
            yield
        finally:
            self._current_rows[worker.id] = _IDLE
