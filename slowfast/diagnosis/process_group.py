"""Check of distributed training: an all-reduce over two processes of this machine."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection, Pipe

from slowfast.diagnosis.finding import Finding, failed, ok
from slowfast.utils.text import count

_HOST = "127.0.0.1"
_CONNECT_SECONDS = 2.0
_SECONDS = {"gloo": 10.0, "nccl": 40.0}  # Time limit of the all-reduce.

_REMEDIES = {
    "gloo": (
        "Check that the loopback network is up and allows connections, and that GLOO_SOCKET_IFNAME "
        "names an interface. NUM_GPUS 0 or 1 needs no network"
    ),
    "nccl": (
        "See NCCL_DEBUG=INFO. NCCL_P2P_DISABLE=1 helps on some boards. DIST_BACKEND gloo works "
        "without NCCL"
    ),
}


def check_all_reduce(backend: str) -> Finding:
    """Check an all-reduce over two processes.

    Args:
        backend: gloo on the CPU, or nccl on two GPUs.
    """
    if backend == "nccl" and (num_gpus := _count_gpus()) < 2:
        return ok(f"not needed with {count(num_gpus, 'GPU')}")

    started = time.monotonic()
    reason = _reduce_over_two(backend)
    seconds = time.monotonic() - started
    if reason:
        return failed(
            f"two processes cannot sum a tensor with {backend}: {reason}",
            _REMEDIES[backend],
        )
    return ok(f"two processes sum tensors with {backend} in {seconds:.1f} s")


def _count_gpus() -> int:
    """Return the number of GPUs that torch can use.

    Another process asks, because CUDA may be initialized by it and does not survive a fork.
    """

    def ask() -> int:
        import torch

        return torch.cuda.device_count()

    with _forked(ask) as answer:
        return int(answer.recv())


def _reduce_over_two(backend: str) -> str:
    """Return why an all-reduce over two processes fails, "" if it works."""
    import torch.distributed as dist

    if problem := _find_loopback_problem():
        return problem
    seconds = _SECONDS[backend]
    limit = timedelta(seconds=seconds)
    try:
        store = dist.TCPStore(_HOST, 0, is_master=True, wait_for_workers=False, timeout=limit)
    except (dist.DistError, RuntimeError) as error:
        return _first_line(error)

    work = partial(_reduce, backend=backend, port=store.port, limit=limit)
    with _forked(partial(work, 0)) as first, _forked(partial(work, 1)) as second:
        deadline = time.monotonic() + seconds
        for answer in (first, second):
            if not answer.poll(max(deadline - time.monotonic(), 0)):
                return f"no answer within {seconds:.0f} s"
            try:
                reason = answer.recv()
            except EOFError:
                return "a process crashed"
            if reason:
                return str(reason)
    return ""


def _find_loopback_problem() -> str:
    """Return why no process reaches a port of another one, "" if it does.

    The store of torch would keep trying.
    """
    try:
        with socket.create_server((_HOST, 0)) as server:
            port = server.getsockname()[1]
            socket.create_connection((_HOST, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        return f"{_HOST} cannot be reached: {error.strerror or error}"
    return ""


def _reduce(rank: int, *, backend: str, port: int, limit: timedelta) -> str:
    """Take part in the all-reduce as a forked process, and return why it fails, "" if it works."""
    import torch
    import torch.distributed as dist

    from slowfast.distributed.collectives import device, use_device
    from slowfast.distributed.network_test import check_network

    torch.set_num_threads(1)  # The threads of the parent do not exist here.
    try:
        use_device(rank, on_gpu=backend == "nccl")
        store = dist.TCPStore(_HOST, port, is_master=False, wait_for_workers=False, timeout=limit)
        dist.init_process_group(
            backend,
            store=store,
            rank=rank,
            world_size=2,
            timeout=limit,
            device_id=device() if backend == "nccl" else None,
        )
        check_network()
        dist.barrier()  # The other one may still need this process.
    except (RuntimeError, ValueError, OSError) as error:
        return _first_line(error)
    return ""


@contextmanager
def _forked(function: Callable[[], object]) -> Iterator[Connection]:
    """Call a function in a forked process, which ends with the block at the latest.

    Yields:
        The connection over which the process sends the result.
    """
    answer, connection = Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        try:
            connection.send(function())
        finally:
            os._exit(0)

    connection.close()
    try:
        yield answer
    finally:
        answer.close()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
