"""Data loader of one process. Its errors name the worker and the file it was reading."""

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

from slowfast.datasets import shared_memory
from slowfast.datasets.dataset import VideoDataset
from slowfast.datasets.records import Batch
from slowfast.datasets.resize import compile_resize
from slowfast.datasets.samplers import EvalSampler, TrainSampler
from slowfast.distributed.collectives import rank
from slowfast.distributed.launchers import find_launched
from slowfast.utils.command_names import command_name
from slowfast.utils.text import count

logger = logging.getLogger(__name__)

DEATH_SECONDS = 1.0  # time for a worker to die after its connection is lost
GRACE_SECONDS = 20  # time for the main process to finish its step after a worker gets SIGTERM
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # constants of malloc.h


class LoaderError(OSError):
    """Raised if a worker dies or hangs. The message names the rank, the worker and the file."""


class VideoLoader(DataLoader[Batch]):
    """Loads the batches that a sampler requests.

    Args:
        dataset: Dataset that makes the batches.
        sampler: Sampler of batches of requests.
        num_workers: Number of worker processes. With 0, this process loads the batches.
        timeout: Seconds to wait for a batch of a worker, 0 to wait forever.
        pin_memory: Whether to place batches in page-locked memory.
        keep_workers: Whether the workers outlive a pass over the data.
    """

    dataset: VideoDataset
    batch_sampler: TrainSampler | EvalSampler

    def __init__(
        self,
        dataset: VideoDataset,
        sampler: TrainSampler | EvalSampler,
        *,
        num_workers: int,
        timeout: float,
        pin_memory: bool,
        keep_workers: bool,
    ) -> None:
        if num_workers:
            compile_resize()  # before the workers are forked

        super().__init__(
            dataset,
            batch_sampler=sampler,
            collate_fn=_identity,  # type: ignore[arg-type]  # the dataset returns whole batches
            num_workers=num_workers,
            timeout=timeout if num_workers else 0,
            pin_memory=pin_memory,
            worker_init_fn=lambda worker: _set_up_worker(),
            persistent_workers=keep_workers and num_workers > 0,
            # Forked workers share the memory of the annotations.
            multiprocessing_context="fork" if num_workers else None,
        )

    def check_worker_number_rationality(self) -> None:
        """Silence the warning that torch repeats for each pass, see `warn_about_many_workers`."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Iterate over the batches.

        Raises:
            LoaderError: If a worker dies or hangs, or shared memory is too small.
        """
        self._check_shared_memory()
        batches = super().__iter__()

        # This includes the end of the pass, where torch may notice the same death again.
        with self.explain_worker_errors():
            try:
                yield from batches
            except (RuntimeError, ConnectionResetError, EOFError) as error:
                is_bus_error = _has_bus_error(batches)
                if self._concerns_workers(error) or shared_memory.is_out_of_memory(error):
                    _kill_workers(batches)
                if is_bus_error:  # torch noticed the lost connection first
                    raise self._shared_memory_error() from None
                raise

    def steps(self) -> Iterator[tuple[Batch, ...]]:
        """Iterate over the steps of a pass over training data, one tuple of micro-batches per step.

        Raises:
            LoaderError: If a worker dies or hangs, or shared memory is too small.
        """
        batches = iter(self)
        num_micro_batches = self._train_sampler.micro_batches_per_step
        while micro_batches := tuple(islice(batches, num_micro_batches)):
            yield micro_batches

    def set_epoch(self, epoch: int, *, first_step: int = 0, end_step: int | None = None) -> None:
        """Set the epoch and the steps of the next pass, see `TrainSampler.set_epoch`.

        The workers read ahead, but not beyond `end_step`. Set it for a pass over a few steps.
        """
        self._train_sampler.set_epoch(epoch, first_step=first_step, end_step=end_step)

    @property
    def num_steps(self) -> int:
        """Number of steps in a whole training epoch."""
        return self._train_sampler.num_steps

    @property
    def num_views(self) -> int:
        """Number of views of each video."""
        return len(self.batch_sampler.views)

    @property
    def labels(self) -> Tensor:
        """Labels of all videos of the list, shape (N,), int64."""
        return torch.from_numpy(self.dataset.annotations.labels).long()

    @contextmanager
    def explain_worker_errors(self) -> Iterator[None]:
        """Turn torch's errors about workers into errors that name the worker and its file.

        Torch may raise the death of a worker anywhere in the main process.

        Raises:
            LoaderError: If a worker dies or hangs, or shared memory is too small.
        """
        try:
            yield
        except (RuntimeError, ConnectionResetError, EOFError) as error:
            if shared_memory.is_out_of_memory(error):
                # The message of torch is only the traceback of the worker.
                raise self._shared_memory_error() from None
            if not self._concerns_workers(error):
                raise

            message = "DataLoader worker was killed"
            if isinstance(error, RuntimeError):
                message = str(error)
            raise LoaderError(f"rank {rank()}: {self._explain(message)}") from error

    @property
    def eval_sampler(self) -> EvalSampler:
        """The sampler of validation or testing data."""
        assert isinstance(self.batch_sampler, EvalSampler), "training has no groups of views"
        return self.batch_sampler

    @property
    def _train_sampler(self) -> TrainSampler:
        assert isinstance(self.batch_sampler, TrainSampler), "only training has epochs and steps"
        return self.batch_sampler

    def _concerns_workers(self, error: Exception) -> bool:
        if isinstance(error, RuntimeError):
            return str(error).startswith("DataLoader ")
        return self.num_workers > 0  # the connection to a worker that died was lost

    def _explain(self, message: str) -> str:
        workers = []
        for worker, video in self.dataset.current_videos().items():
            workers.append(f"worker {worker} at {video.path}")
        where = f"; {', '.join(workers)}" if workers else ""

        if "timed out" in message:
            return (
                f"no batch came within {self.timeout:.0f} s{where}. If the storage is slow, raise "
                f"DATA_LOADER.TIMEOUT, otherwise check that file with {command_name('check_data')}"
            )
        return (
            f"{message.strip()}{where}. Workers are usually killed because memory runs out: lower "
            "DATA_LOADER.NUM_WORKERS or TRAIN.BATCH_SIZE, or give the job more memory"
        )

    def _check_shared_memory(self) -> None:
        """Raise an error if there is no room for the locks of new workers, a page each."""
        if self.num_workers == 0 or self._iterator is not None:
            return

        num_locks = 3 * self.num_workers + 8  # in the queues and events of torch's loader
        if shared_memory.free_bytes() < num_locks * os.sysconf("SC_PAGE_SIZE"):
            raise self._shared_memory_error()

    def _shared_memory_error(self) -> LoaderError:
        is_training = isinstance(self.batch_sampler, TrainSampler)
        key = "TRAIN.BATCH_SIZE" if is_training else "TEST.BATCH_SIZE"
        num_batches = self.num_workers * (self.prefetch_factor or 1)
        free = _format_mebibytes(shared_memory.free_bytes())
        total = _format_mebibytes(shared_memory.total_bytes())

        return LoaderError(
            f"rank {rank()}: {shared_memory.SHARED_MEMORY} is too small for the batches of the "
            f"loader workers: {free} of {total} are free, and {count(self.num_workers, 'worker')} "
            f"may fill it with {count(num_batches, 'batch')} of "
            f"{_format_mebibytes(self._batch_bytes)}. Enlarge it (docker run --shm-size=8g), lower "
            f"DATA_LOADER.NUM_WORKERS (0 needs none of it), or lower {key}"
        )

    @property
    def _batch_bytes(self) -> int:
        """Bytes of the frames of a full batch."""
        num_clips = self.batch_sampler.batch_size * self.num_views
        clip_values = torch.Size(self.dataset.reader.clip_shape).numel()
        return num_clips * clip_values * self.dataset.dtype.itemsize


def warn_about_many_workers(num_workers: int, *, num_processes: int) -> None:
    """Log one warning if the loader workers of this machine have to share cores.

    Args:
        num_workers: Number of workers per process, DATA_LOADER.NUM_WORKERS.
        num_processes: Number of processes on this machine.
    """
    num_cores = len(os.sched_getaffinity(0))
    started = find_launched()
    if started and started.ranks.local_world_size > 1 and num_cores <= started.num_cores:
        num_processes = 1  # Slurm has given this process cores of its own
    if num_workers * num_processes <= num_cores:
        return

    remedy = f"Lower it to {num_cores // num_processes}"
    if num_cores < num_processes:
        remedy += ", which lets each process load its own batches"
    logger.warning(
        "DATA_LOADER.NUM_WORKERS is %d: %s on %s. %s",
        num_workers,
        count(num_workers * num_processes, "loader worker"),
        count(num_cores, "core"),
        remedy,
    )


def set_up_loading() -> None:
    """Tune this process for nothing but loading: one thread, and memory that is reused.

    The workers are the parallelism already, so more threads would only compete with them. By
    default, the C library returns large blocks to the system and asks for them again for the next
    clip, which costs a tenth of the time.
    """
    torch.set_num_threads(1)

    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # glibc only
        library.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # bytes, the maximum
        library.mallopt(_M_TRIM_THRESHOLD, 1 << 30)  # bytes


def _set_up_worker() -> None:
    """Set up loading, and ignore the signals that all processes of a job get.

    Ctrl-C and the signals of a scheduler are for the main process. It may need more batches to
    finish its step, and ends its workers itself. If it does not, an alarm ends them.
    """
    set_up_loading()
    for number in (signal.SIGINT, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _exit_after_grace)


def _exit_after_grace(number: int, frame: object) -> None:
    signal.alarm(GRACE_SECONDS)


def _has_bus_error(batches: Iterator[Batch]) -> bool:
    """Return whether a worker died from writing to full shared memory."""
    workers = getattr(batches, "_workers", ())
    dead = wait([worker.sentinel for worker in workers], timeout=DEATH_SECONDS)
    for worker in workers:
        if worker.sentinel in dead:  # as soon as its files are closed, just before its status
            worker.join(DEATH_SECONDS)
    return any(worker.exitcode == -signal.SIGBUS for worker in workers)


def _kill_workers(batches: Iterator[Batch]) -> None:
    """End the workers of a pass, including one that hangs, which torch would leave running."""
    workers = getattr(batches, "_workers", ())
    if workers:
        # Torch may raise another death here. It stops watching the workers nevertheless.
        with suppress(RuntimeError):
            batches._shutdown_workers()  # type: ignore[attr-defined]
    for worker in workers:
        worker.kill()


def _identity(batch: Batch) -> Batch:
    return batch


def _format_mebibytes(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB"
