"""Store: the key-value server (TCPStore) where the processes of a job meet."""

import random
import socket
import threading
import time
from datetime import timedelta
from urllib.parse import urlsplit

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from slowfast.distributed.launchers import RankInfo
from slowfast.utils.provenance import host_name

_PORTS = range(20000, 32768)  # Systems give higher ports to clients.
_NUM_PORTS = 8  # Candidate ports of one job.
_PROBE_SECONDS = 5.0


def open_store(ranks: RankInfo, *, timeout: float) -> dist.Store:
    """Return the store of the job. Rank 0 serves it, unless torchrun does.

    Args:
        ranks: Rank of this process and the address of the store.
        timeout: Seconds to keep trying.

    Raises:
        ConnectionError: If the store cannot be reached, or no port is free.
    """
    address = urlsplit(ranks.store_address)
    host, name = str(address.hostname), address.path.strip("/")
    limit = timedelta(seconds=timeout)
    try:
        if address.scheme == "job":
            if ranks.rank == 0:
                return _serve_job_store(host, name)
            return _reach_job_store(host, name, timeout=timeout)

        if name:  # An attempt of torchrun, which keeps one store for all attempts.
            query = f"rank={ranks.rank}&world_size={ranks.world_size}"
            store = next(rendezvous(f"tcp://{address.netloc}?{query}", timeout=limit))[0]
            return dist.PrefixStore(name, store)

        port, serves = int(address.port or 0), ranks.rank == 0
        return dist.TCPStore(host, port, is_master=serves, wait_for_workers=False, timeout=limit)
    except (dist.DistError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ConnectionError(
            f"rank {ranks.rank} on {host_name()} found no store at {ranks.store_address} within "
            f"DIST_TIMEOUT, {timeout:.0f} s ({reason}). See the log of rank 0, and check that this "
            "machine can reach that address"
        ) from error


def connect_again(store: dist.Store, ranks: RankInfo, *, timeout: float) -> dist.Store:
    """Return a connection of its own to the store of the job. The other one may be busy.

    Args:
        store: Result of `open_store`.
        ranks: Rank of this process and the address of the store.
        timeout: Seconds to keep trying.
    """
    if hasattr(store, "clone"):  # newer than torch 2.6
        return store.clone()
    if isinstance(store, dist.TCPStore):
        return dist.TCPStore(store.host, store.port, is_master=False, wait_for_workers=False)
    as_client = ranks._replace(rank=max(ranks.rank, 1))
    return open_store(as_client, timeout=timeout)


def candidate_ports(name: str) -> list[int]:
    """Return the ports that a job tries, in order. All of its processes get the same ones."""
    return random.Random(name).sample(_PORTS, _NUM_PORTS)


def _serve_job_store(host: str, name: str) -> dist.Store:
    for port in candidate_ports(name):
        try:
            store = dist.TCPStore(host, port, is_master=True, wait_for_workers=False)
        except dist.DistNetworkError as error:
            reason = error
            continue
        store.set("job", name)
        return store

    ports = candidate_ports(name)
    raise ConnectionError(f"{host}: all ports of job {name} are taken: {ports} ({reason})")


def _reach_job_store(host: str, name: str, *, timeout: float) -> dist.Store:
    """Try the ports of the job until one answers with its name. Others may serve other jobs."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for port in candidate_ports(name):
            if _is_open(host, port) and (store := _probe(name, host=host, port=port)):
                return store
        time.sleep(0.2 + 0.8 * random.random())

    raise ConnectionError(
        f"{host_name()} found no store of job {name} at {host} within DIST_TIMEOUT, "
        f"{timeout:.0f} s. See the log of rank 0, and check that this machine can reach {host}"
    )


def _is_open(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def _probe(name: str, *, host: str, port: int) -> dist.Store | None:
    """Return the store behind a port if it belongs to the job."""
    found: list[dist.Store] = []
    limit = timedelta(seconds=_PROBE_SECONDS)

    def connect() -> None:
        try:
            store = dist.TCPStore(
                host, port, is_master=False, wait_for_workers=False, timeout=limit
            )
            if store.get("job").decode() == name:
                found.append(store)
        except (dist.DistError, RuntimeError):
            pass

    # A server that is no store may never answer, and the client would wait for it.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout=_PROBE_SECONDS)
    return found[0] if found else None
