"""The loader of one process: batches from worker processes, and errors that say which worker was at which file."""

import ctypes
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from slowfast.datasets.records import Batch
from slowfast.datasets.video import VideoDataset
from slowfast.datasets.views import AllViews, RandomViews
from slowfast.utils.distributed import rank

SECONDS_TO_LIVE = 20  # of a worker that was told to end, while the main process ends its step
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names in malloc.h


class LoaderError(OSError):
    """A worker that died or got stuck; the message names rank, worker and file."""


class VideoLoader(DataLoader[Batch]):
    """Batches of the views that a sampler asks for.

    Args:
        dataset: where clips come from.
        views: which are asked for, batch by batch.
        num_workers: loader processes; 0: load in this process.
        timeout: seconds to wait for a batch of a worker; 0: forever.
        pin_memory: whether batches lie in page-locked memory.
        keep_workers: whether the workers outlive a pass over the data.
    """

    dataset: VideoDataset
    batch_sampler: RandomViews | AllViews

    def __init__(
        self,
        dataset: VideoDataset,
        views: RandomViews | AllViews,
        *,
        num_workers: int,
        timeout: float,
        pin_memory: bool,
        keep_workers: bool,
    ) -> None:
        super().__init__(
            dataset,
            batch_sampler=views,
            collate_fn=_as_it_is,  # type: ignore[arg-type]  # the data set makes whole batches
            num_workers=num_workers,
            timeout=timeout if num_workers else 0,
            pin_memory=pin_memory,
            worker_init_fn=lambda worker: _set_up_worker(),
            persistent_workers=keep_workers and num_workers > 0,
            multiprocessing_context="fork" if num_workers else None,  # forked workers share the columns of the list
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Iterate over the batches.

        Raises:
            LoaderError: a worker died, or gave no batch in time.
        """
        batches = super().__iter__()
        with self.explained():  # around the ending as well: torch may notice the same death again
            try:
                yield from batches
            except (RuntimeError, ConnectionResetError, EOFError) as error:
                if self._is_about_workers(error):
                    _end_workers(batches)
                raise

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Say of which worker, and at which file, an error within tells; torch raises that of a death anywhere.

        Raises:
            LoaderError: a worker died, or gave no batch in time.
        """
        try:
            yield
        except (RuntimeError, ConnectionResetError, EOFError) as error:
            if not self._is_about_workers(error):
                raise
            message = str(error) if isinstance(error, RuntimeError) else "DataLoader worker was killed"
            raise LoaderError(f"rank {rank()}: {self._what_happened(message)}") from error

    def _is_about_workers(self, error: Exception) -> bool:
        """Torch says so; a connection is lost where a worker dies while it hands over a batch."""
        return str(error).startswith("DataLoader ") if isinstance(error, RuntimeError) else self.num_workers > 0

    @property
    def num_views(self) -> int:
        """Views asked for of each video."""
        return len(self.batch_sampler.views)

    @property
    def labels(self) -> Tensor:
        """The labels of all videos of the list, (N,), int64."""
        return torch.from_numpy(self.dataset.annotations.labels).long()

    def set_epoch(self, epoch: int, *, first_step: int = 0) -> None:
        """Choose the epoch, from 0, of the next pass over training views, and the step with which it begins."""
        assert isinstance(self.batch_sampler, RandomViews), "only random views differ from epoch to epoch"
        self.batch_sampler.set_epoch(epoch, first_step=first_step)

    @property
    def num_steps(self) -> int:
        """Steps of a whole training epoch."""
        assert isinstance(self.batch_sampler, RandomViews), "only training goes by steps"
        return self.batch_sampler.num_steps

    def steps(self) -> Iterator[tuple[Batch, ...]]:
        """Iterate over the rest of a training epoch, step by step: the batches that this process takes for each."""
        assert isinstance(self.batch_sampler, RandomViews), "only training goes by steps"
        batches = iter(self)
        while parts := tuple(islice(batches, self.batch_sampler.parts_per_step)):
            yield parts

    def _what_happened(self, message: str) -> str:
        at_work = [f"worker {worker} at {video.path}" for worker, video in self.dataset.in_work().items()]
        where = f"; {', '.join(at_work)}" if at_work else ""
        if "timed out" in message:
            return (
                f"no batch came within {self.timeout:.0f} s{where}; if the storage is slow, raise DATA_LOADER.TIMEOUT, "
                "else look at that file with tools/check_data.py"
            )
        return (
            f"{message.strip()}{where}; a worker that is killed has mostly run out of memory: lower "
            "DATA_LOADER.NUM_WORKERS or TRAIN.BATCH_SIZE, or give the job more"
        )


def _end_workers(batches: Iterator[Batch]) -> None:
    """End the workers of a pass, also one that is stuck, which torch would leave alone."""
    workers = getattr(batches, "_workers", ())
    if workers:
        with suppress(RuntimeError):  # at a death that torch notices meanwhile; it gives up its watch nevertheless
            batches._shutdown_workers()  # type: ignore[attr-defined]
    for worker in workers:
        worker.kill()


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _set_up_worker() -> None:
    """Set up loading, and leave signals that all processes of a job get (Ctrl-C, a scheduler's) to the main process.

    That one may need further batches to end its step. It ends its workers itself; if it does not, they end by alarm.
    """
    set_up_loading()
    for number in (signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_soon)


def _end_soon(number: int, frame: object) -> None:
    signal.alarm(SECONDS_TO_LIVE)


def set_up_loading() -> None:
    """Make this process one that does nothing but load: one thread, and memory that is used again.

    Other workers are the parallelism, so more threads would only get in their way. A C library that gives large blocks
    back to the system, to be asked for them again at the next clip, costs a tenth of the time.
    """
    torch.set_num_threads(1)
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # of glibc
        library.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # bytes, the most that it takes
        library.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
