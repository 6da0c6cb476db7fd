"""The loader of one process: batches from worker processes, and errors that say which worker was at which file."""

import ctypes
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing.connection import wait

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from slowfast.datasets.dataset import VideoDataset
from slowfast.datasets.records import Batch
from slowfast.datasets.samplers import AllViews, RandomViews
from slowfast.distributed.collectives import rank
from slowfast.distributed.launch import find_started
from slowfast.utils.text import count

logger = logging.getLogger(__name__)

SHARED_MEMORY = "/dev/shm"  # through which workers hand over batches; torch takes no other
SECONDS_TO_DIE = 1.0  # of a worker whose connection was lost
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
            # Forked workers share the columns of the list.
            multiprocessing_context="fork" if num_workers else None,
        )

    def check_worker_number_rationality(self) -> None:
        """Say nothing, where torch would at each pass: `warn_about_many_workers` says it once, and in our words."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Iterate over the batches.

        Raises:
            LoaderError: a worker died, or gave no batch in time, or shared memory is too small.
        """
        self._check_shared_memory()
        batches = super().__iter__()
        with self.explained():  # around the ending as well: torch may notice the same death again
            try:
                yield from batches
            except (RuntimeError, ConnectionResetError, EOFError) as error:
                is_bus_error = _has_died_of_bus_error(batches)
                if self._is_about_workers(error) or _is_about_shared_memory(error):
                    _end_workers(batches)
                if is_bus_error:  # where the lost connection was noticed first
                    raise self._shared_memory_error() from None
                raise

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Say of which worker, and at which file, an error within tells; torch raises that of a death anywhere.

        Raises:
            LoaderError: a worker died, or gave no batch in time, or shared memory is too small.
        """
        try:
            yield
        except (RuntimeError, ConnectionResetError, EOFError) as error:
            if _is_about_shared_memory(error):
                # Torch's message is the traceback of the worker, which says no more.
                raise self._shared_memory_error() from None
            if not self._is_about_workers(error):
                raise
            message = (
                str(error) if isinstance(error, RuntimeError) else "DataLoader worker was killed"
            )
            raise LoaderError(f"rank {rank()}: {self._what_happened(message)}") from error

    def _is_about_workers(self, error: Exception) -> bool:
        """Torch says so; a connection is lost where a worker dies while it hands over a batch."""
        return (
            str(error).startswith("DataLoader ")
            if isinstance(error, RuntimeError)
            else self.num_workers > 0
        )

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
        assert isinstance(self.batch_sampler, RandomViews), (
            "only random views differ from epoch to epoch"
        )
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

    def _check_shared_memory(self) -> None:
        """Raise an error if there is no room for the locks of new workers, a page each."""
        if self.num_workers == 0 or self._iterator is not None:
            return
        num_locks = 3 * self.num_workers + 8  # in the queues and events of torch's loader
        if _free_bytes() < num_locks * os.sysconf("SC_PAGE_SIZE"):
            raise self._shared_memory_error()

    def _shared_memory_error(self) -> LoaderError:
        views = self.batch_sampler
        key = "TRAIN.BATCH_SIZE" if isinstance(views, RandomViews) else "TEST.BATCH_SIZE"
        num_batches = self.num_workers * (self.prefetch_factor or 1)
        return LoaderError(
            f"rank {rank()}: {SHARED_MEMORY} is too small for the batches of the loader workers: "
            f"{_mebibytes(_free_bytes())} of {_mebibytes(_total_bytes())} are free, and "
            f"{count(self.num_workers, 'worker')} may fill it with {count(num_batches, 'batch')} of "
            f"{_mebibytes(self._batch_bytes)}; enlarge it (docker run --shm-size=8g), lower "
            f"DATA_LOADER.NUM_WORKERS (0 needs none of it), or lower {key}"
        )

    @property
    def _batch_bytes(self) -> int:
        """Bytes of the frames of a whole batch."""
        dataset, views = self.dataset, self.batch_sampler
        num_values = 3 * dataset.clips.num_frames * dataset.transform.crop_size**2
        return views.batch_size * len(views.views) * num_values * dataset.dtype.itemsize

    def _what_happened(self, message: str) -> str:
        at_work = [
            f"worker {worker} at {video.path}" for worker, video in self.dataset.in_work().items()
        ]
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


def warn_about_many_workers(num_workers: int, *, num_processes: int) -> None:
    """Log one warning if the loader workers of this machine have to share cores.

    Args:
        num_workers: The number of workers per process, DATA_LOADER.NUM_WORKERS.
        num_processes: The number of processes on this machine.
    """
    num_cores = len(os.sched_getaffinity(0))
    started = find_started()
    if started and started.place.local_world_size > 1 and num_cores <= started.num_cores:
        num_processes = 1  # Slurm has given this process cores of its own

    if num_workers * num_processes > num_cores:
        logger.warning(
            "DATA_LOADER.NUM_WORKERS is %d: %s on %s; lower it to %d%s",
            num_workers,
            count(num_workers * num_processes, "loader worker"),
            count(num_cores, "core"),
            num_cores // num_processes,
            "" if num_cores >= num_processes else ", so that each process loads its own batches",
        )


def _has_died_of_bus_error(batches: Iterator[Batch]) -> bool:
    """Whether a worker of a pass was ended by writing to shared memory that is full."""
    workers = getattr(batches, "_workers", ())
    if workers:
        wait([worker.sentinel for worker in workers], timeout=SECONDS_TO_DIE)
    return any(worker.exitcode == -signal.SIGBUS for worker in workers)


def _is_about_shared_memory(error: BaseException | None) -> bool:
    """Whether torch reports that shared memory is full, or that writing to it killed a worker."""
    while error is not None:
        message = str(error)
        if "shared memory" in message and "No space left on device" in message:
            return True
        if "killed by signal: Bus error" in message:
            return True
        error = error.__cause__  # torch may report a death again, without the signal
    return False


def _total_bytes() -> int:
    facts = os.statvfs(SHARED_MEMORY)
    return facts.f_blocks * facts.f_frsize


def _free_bytes() -> int:
    facts = os.statvfs(SHARED_MEMORY)
    return facts.f_bavail * facts.f_frsize


def _mebibytes(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB"


def _end_workers(batches: Iterator[Batch]) -> None:
    """End the workers of a pass, also one that is stuck, which torch would leave alone."""
    workers = getattr(batches, "_workers", ())
    if workers:
        with suppress(
            RuntimeError
        ):  # at a death that torch notices meanwhile; it gives up its watch nevertheless
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
    for number in (signal.SIGINT, signal.SIGUSR2, signal.SIGHUP):
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
