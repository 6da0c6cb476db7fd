"""Check of distributed training: an all-reduce over two processes of this machine."""

import os
import signal
import socket
import time
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection, Pipe

from slowfast.diagnosis.finding import Finding, failed, ok

_HOST = "127.0.0.1"
_CONNECT_SECONDS = 2.0
_SECONDS = 10.0  # Time limit of the all-reduce.

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
    import torch

    # Asking for the number of GPUs must not initialize CUDA, because a fork does not survive it.
    if backend == "nccl" and (num_gpus := torch.cuda.device_count()) < 2:
        return ok(f"not needed with {num_gpus} GPU{'' if num_gpus == 1 else 's'}")

    started = time.monotonic()
    reason = _reduce_over_two(backend)
    seconds = time.monotonic() - started
    if reason:
        return failed(
            f"two processes cannot sum a tensor with {backend}: {reason}",
            _REMEDIES[backend],
        )
    return ok(f"two processes sum tensors with {backend}, ready after {seconds:.1f} s")


def _reduce_over_two(backend: str) -> str:
    """Return why an all-reduce over two processes fails, "" if it works."""
    import torch.distributed as dist

    if problem := _find_loopback_problem():
        return problem
    limit = timedelta(seconds=_SECONDS)
    try:
        store = dist.TCPStore(_HOST, 0, is_master=True, wait_for_workers=False, timeout=limit)
    except (dist.DistError, RuntimeError) as error:
        return _first_line(error)

    pids, answers = [], []
    for rank in range(2):
        answer, connection = Pipe(duplex=False)
        pid = os.fork()
        if pid == 0:
            _reduce(rank, connection, backend=backend, port=store.port)
        connection.close()
        pids.append(pid)
        answers.append(answer)

    try:
        return _collect(answers)
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


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


def _collect(answers: list[Connection]) -> str:
    """Return the first reason that a process sends, "" if all report success."""
    deadline = time.monotonic() + _SECONDS
    for answer in answers:
        if not answer.poll(max(deadline - time.monotonic(), 0)):
            return f"no answer within {_SECONDS:.0f} s"
        try:
            reason = answer.recv()
        except EOFError:
            return "a process crashed"
        if reason:
            return str(reason)
    return ""


def _reduce(rank: int, connection: Connection, *, backend: str, port: int) -> None:
    """Take part in the all-reduce as a forked process, and send why it failed."""
    import torch
    import torch.distributed as dist

    from slowfast.distributed.collectives import device, use_device
    from slowfast.distributed.network_test import check_network

    try:
        torch.set_num_threads(1)
        limit = timedelta(seconds=_SECONDS)
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
        connection.send("")
        dist.barrier()  # The other one may still need this process.
    except BaseException as error:
        with suppress(OSError):
            connection.send(_first_line(error))
    finally:
        os._exit(0)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
