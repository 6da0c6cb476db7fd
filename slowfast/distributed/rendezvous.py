"""How the processes of a job find each other, know that all are still there, and part.

All of it goes through one store (torch.distributed.TCPStore), which rank 0, a parent process or torchrun holds. Each
process has a watch, a thread that ends it when another one has failed or vanished, even in the middle of a collective.
"""

import contextlib
import logging
import os
import random
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple, NoReturn
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from torch.distributed.rendezvous import rendezvous

from slowfast.distributed import collectives, signals
from slowfast.distributed.signals import FAILED_STATUS
from slowfast.utils.provenance import host_name
from slowfast.utils.text import count

logger = logging.getLogger(__name__)

BEAT_SECONDS = 1.0  # between two signs of life of a process
SILENT_SECONDS = 60.0  # without one, a process is taken for lost
LEAVE_SECONDS = 5.0  # for the others to leave before the process that failed has the last word
_PORTS = range(20000, 32768)  # below those that systems give to clients
_NUM_PORTS = 8  # that a job may use, in its own order
_CHECKED_NUMBERS = 1 << 22  # of the all-reduce that is checked and timed: 16 MiB


class Place(NamedTuple):
    """Where a process stands among all processes of the job."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    address: str  # of the store: tcp://host:port[/attempt], or job://host/name, whose port follows from the name


class Meeting:
    """The processes that came together, from the first to the last word between them.

    Args:
        place: of this process.
        store: where it lies already; None: at the address of the place.
        timeout: seconds that all have to come.
        hosts: that the machines are expected to be, by number; empty: not known.

    Raises:
        ConnectionError: the address cannot be reached.
        TimeoutError: some did not come; names them.
    """

    def __init__(
        self, place: Place, *, store: dist.Store | None, timeout: float, hosts: Sequence[str] = ()
    ) -> None:
        self.place = place
        self.timeout = timeout
        self.store = open_store(place, timeout=timeout) if store is None else store
        self.store.set(f"host/{place.rank}", host_name())
        if place.rank == 0:
            self._wait_for_all(hosts)
            self.store.set("complete", "")
        else:
            self._wait_for_rank_0()
        keys = [f"host/{rank}" for rank in range(place.world_size)]
        self.hosts = [name.decode() for name in self.store.multi_get(keys)]
        self._own_words = threading.Lock()  # whoever takes it ends this process, and nobody else
        self._is_interrupted = False
        self._watch = _Watch(self)
        self._watch.start()

    @property
    def is_ending(self) -> bool:
        """Whether this process ends because one has failed."""
        return self._own_words.locked()

    def _wait_for_all(self, hosts: Sequence[str]) -> None:
        deadline = time.monotonic() + self.timeout
        missing = list(range(1, self.place.world_size))
        while missing := [rank for rank in missing if not self.store.check([f"host/{rank}"])]:
            if time.monotonic() > deadline:
                machines = {rank: rank // self.place.local_world_size for rank in missing}
                names = [
                    f"rank {rank} ({hosts[machine] if machine < len(hosts) else f'machine {machine}'})"
                    for rank, machine in machines.items()
                ]
                processes = count(self.place.world_size, "process")
                message = (
                    f"after {self.timeout:.0f} s, DIST_TIMEOUT, {len(missing)} of {processes} "
                    f"did not join: {_short(names)}; see their logs, or whether the machines can reach "
                    f"{self.place.address}"
                )
                self.store.set("failure", message)
                time.sleep(BEAT_SECONDS)  # for the others to read it
                raise TimeoutError(message)
            time.sleep(0.05)

    def _wait_for_rank_0(self) -> None:
        """Rank 0 speaks first when somebody is missing."""
        deadline = time.monotonic() + self.timeout + LEAVE_SECONDS
        while not self.store.check(["complete"]):
            if self.store.check(["failure"]):
                raise TimeoutError(self.store.get("failure").decode())
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"rank 0 did not join at {self.place.address} within {self.timeout:.0f} s"
                )
            time.sleep(0.05)

    def describe(self) -> str:
        """Return which ranks run on which machines, in one line."""
        ranks_of: dict[str, list[int]] = {}
        for rank, host in enumerate(self.hosts):
            ranks_of.setdefault(host, []).append(rank)
        parts = [f"{host} ({_span(ranks)})" for host, ranks in ranks_of.items()]
        processes, machines = count(len(self.hosts), "process"), count(len(ranks_of), "machine")
        return f"{processes} on {machines}: {', '.join(parts)}"

    def check_network(self) -> None:
        """Log who is there, check that numbers are summed right, and log how fast.

        Raises:
            RuntimeError: a sum is wrong.
        """
        logger.info("%s", self.describe())
        world_size = self.place.world_size
        numbers = torch.empty(_CHECKED_NUMBERS, device=collectives.device())
        seconds = []
        for _ in range(3):
            numbers.fill_(self.place.rank + 1)
            collectives.wait_for_all()
            start = time.perf_counter()
            collectives.sum_over_ranks(numbers)
            right = bool(
                (numbers == world_size * (world_size + 1) // 2).all()
            )  # waits for a GPU, too
            seconds.append(time.perf_counter() - start)
            if not right:
                raise RuntimeError(
                    f"{self.describe()}: an all-reduce gives wrong sums on rank {self.place.rank}; "
                    "look at the network, the drivers and the versions of NCCL on all machines"
                )
        gigabytes = (
            2 * (world_size - 1) / world_size * 4 * _CHECKED_NUMBERS / 1e9
        )  # that each process sends
        logger.info(
            "all-reduce of %d MiB: right sums, %.1f ms, %.2f GB/s per process",
            *(4 * _CHECKED_NUMBERS >> 20, 1e3 * min(seconds), gigabytes / min(seconds)),
        )

    def part(self) -> None:
        """Return when it is safe to end this process: rank 0, which may hold the store, goes last."""
        self._watch.stop()
        self.store.set(f"finished/{self.place.rank}", "")
        deadline = time.monotonic() + self.timeout
        others = list(range(1, self.place.world_size)) if self.place.rank == 0 else []
        while others and time.monotonic() < deadline:
            if self.store.check(["failure"]):
                self._own_words.acquire()
                self.leave()
            others = [rank for rank in others if not self.store.check([f"finished/{rank}"])]
            time.sleep(0.02)

    def fail(self, error: Exception) -> NoReturn:
        """End this process and all others; this one has the last word, the traceback, unless another failed before."""
        self.stop_if_interrupted()
        self._own_words.acquire()
        handler = (
            get_error_handler()
        )  # torchrun shows in its summary what lies in the file that it names
        handler.initialize()
        handler.record_exception(error)
        signal.signal(
            signal.SIGTERM, signal.SIG_IGN
        )  # torchrun and Slurm end all others when the first one leaves
        lines = [f"{self._name(self.place.rank)} failed:"]
        try:
            if not self._is_first("failure", self._name(self.place.rank)):
                self.leave()
            silent = self._wait_until_left()
            lines[:0] = [
                f"{self._name(rank)} stopped without a word; look there first" for rank in silent
            ]
        except (dist.DistError, RuntimeError):
            lines.insert(0, f"{self._name(0)} cannot be reached any more")
        lines.append("".join(traceback.format_exception(error)).rstrip())
        if isinstance(error, ValueError | OSError | FloatingPointError):  # what a user can mend
            lines.append(f"error: {error}")
        _end("\n".join(lines) + "\n")

    def interrupt(self, name: str) -> bool:
        """Have all processes stop because this one was sent a signal.

        Args:
            name: The name of the signal.

        Returns:
            Whether this process may stop now; False if it is about to end because a process has failed.
        """
        with contextlib.suppress(dist.DistError, RuntimeError):
            if self.store.check(["failure"]):  # a launcher ends all processes when one has failed
                return False
        if not self._own_words.acquire(blocking=False) and not self._is_interrupted:
            return False
        self._is_interrupted = True
        try:
            self._is_first("interrupted", name)
            self.store.set(f"left/{self.place.rank}", "")
            if self.place.rank == 0:  # whose store the others need
                self._wait_until_left()
        except (dist.DistError, RuntimeError):
            pass  # the store is gone, and with it the process that held it
        return True

    def stop_if_interrupted(self) -> None:
        """Stop this process if another one was sent a signal, which made a collective of this one fail."""
        try:
            name = (
                self.store.get("interrupted").decode() if self.store.check(["interrupted"]) else ""
            )
        except (dist.DistError, RuntimeError):
            return
        if name:
            signals.stop(signal.Signals[name])

    def leave(self) -> NoReturn:
        """End this process because another one failed, which says why."""
        try:
            cause = self.store.get("failure").decode()
            if self.place.rank == 0:  # whose store the others need
                self._wait_until_left(spared=1)
                _say(
                    f"{self._name(0)} ends: {cause} failed; see there\n"
                )  # before that one has the last word
            self.store.set(f"left/{self.place.rank}", "")
            time.sleep(
                BEAT_SECONDS
            )  # Slurm and torchrun may kill the one that has the last word when this one is gone
        except (dist.DistError, RuntimeError):
            _end(
                f"{self._name(self.place.rank)} ends: {self._name(0)} cannot be reached any more\n"
            )
        _end()

    def _is_first(self, key: str, value: str) -> bool:
        return self.store.compare_set(key, "", value).decode() == value

    def _wait_until_left(self, *, spared: int = 0) -> list[int]:
        """Return the ranks that neither left nor gave a sign of life, having waited for all but `spared`."""
        others = [rank for rank in range(self.place.world_size) if rank != self.place.rank]
        before = _beats(self.store, self.place.world_size)
        deadline = time.monotonic() + LEAVE_SECONDS
        while len(others) > spared and time.monotonic() < deadline:
            time.sleep(0.1)
            others = [rank for rank in others if not self.store.check([f"left/{rank}"])]
        after = _beats(self.store, self.place.world_size)
        return [rank for rank in others if after[rank] == before[rank]]

    def _name(self, rank: int) -> str:
        return f"rank {rank} on {self.hosts[rank]}"


class _Watch(threading.Thread):
    """Gives a sign of life each second, looks for those of the others, and ends this process when it must."""

    def __init__(self, meeting: Meeting) -> None:
        super().__init__(name="watch over the other processes", daemon=True)
        self.meeting = meeting
        self.store = meeting.store.clone()  # a connection of its own: the other one may be busy
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def run(self) -> None:
        rank = self.meeting.place.rank
        last_seen = dict.fromkeys(range(self.meeting.place.world_size), (0, time.monotonic()))
        while not self._stopped.wait(BEAT_SECONDS):
            try:
                self.store.add(f"beat/{rank}", 1)
                failed = self.store.check(["failure"])
                interrupted = self.store.check(["interrupted"])
                silent = self._silent(last_seen) if rank == 0 and not failed else []
            except (dist.DistError, RuntimeError):
                self._end_with(
                    f"rank {rank} ends: the store at {self.meeting.place.address} cannot be reached any more"
                )
                return
            if interrupted and self.meeting._own_words.acquire(blocking=False):
                self.meeting._is_interrupted = True
                self.meeting.store = self.store  # the main thread may hold the other connection
                signals.stop_from_thread(signal.Signals[self.store.get("interrupted").decode()])
            elif silent:
                names = ", ".join(self.meeting._name(number) for number in silent)
                self.store.set("failure", names)
                self._end_with(
                    f"no sign of life for {SILENT_SECONDS:.0f} s from {names}; look there for the reason"
                )
            elif failed and self.meeting._own_words.acquire(blocking=False):
                self.meeting.store = self.store
                self.meeting.leave()

    def _silent(self, last_seen: dict[int, tuple[int, float]]) -> list[int]:
        now = time.monotonic()
        for rank, beats in enumerate(_beats(self.store, len(last_seen))):
            if beats != last_seen[rank][0]:
                last_seen[rank] = (beats, now)
        late = [rank for rank, (_, seen) in last_seen.items() if now - seen > SILENT_SECONDS]
        return [rank for rank in late if not self.store.check([f"finished/{rank}"])]

    def _end_with(self, text: str) -> None:
        if self.meeting._own_words.acquire(blocking=False):
            _end(f"{text}\n")


def open_store(place: Place, *, timeout: float) -> dist.Store:
    """Return the store of the job: rank 0 holds it, unless torchrun does.

    Raises:
        ConnectionError: it cannot be reached, or no port is free.
    """
    address = urlsplit(place.address)
    host, name, limit = str(address.hostname), address.path.strip("/"), timedelta(seconds=timeout)
    try:
        if address.scheme == "job":
            return (
                _hold_store(host, name)
                if place.rank == 0
                else _reach_store(host, name, timeout=timeout)
            )
        if name:  # an attempt of torchrun, whose store outlives it
            url = f"tcp://{address.netloc}?rank={place.rank}&world_size={place.world_size}"
            return dist.PrefixStore(name, next(rendezvous(url, timeout=limit))[0])
        is_here = place.rank == 0
        return dist.TCPStore(
            host, int(address.port or 0), is_master=is_here, wait_for_workers=False, timeout=limit
        )
    except (dist.DistError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ConnectionError(
            f"rank {place.rank} on {host_name()} found no meeting point at {place.address}, "
            f"DIST_TIMEOUT {timeout:.0f} s ({reason}); see the log of rank 0, "
            "or whether this machine can reach that address"
        ) from error


def ports_of(name: str) -> list[int]:
    """Return the ports that a job of this name tries, in order: the same in all of its processes."""
    return random.Random(name).sample(_PORTS, _NUM_PORTS)


def _hold_store(host: str, name: str) -> dist.Store:
    for port in ports_of(name):
        try:
            store = dist.TCPStore(host, port, is_master=True, wait_for_workers=False)
        except dist.DistNetworkError as error:
            reason = error
            continue
        store.set("job", name)
        return store
    raise ConnectionError(f"{host}: all ports of job {name} are taken: {ports_of(name)} ({reason})")


def _reach_store(host: str, name: str, *, timeout: float) -> dist.Store:
    """Look behind the ports of the job until one has the job's own store: another's may be behind some."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for port in ports_of(name):
            if _is_open(host, port) and (store := _store_of(name, host=host, port=port)):
                return store
        time.sleep(0.2 + 0.8 * random.random())
    raise ConnectionError(
        f"{host_name()} found no store of job {name} at {host} within {timeout:.0f} s, DIST_TIMEOUT; see the log of "
        f"rank 0, or whether this machine can reach {host}"
    )


def _is_open(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def _store_of(name: str, *, host: str, port: int) -> dist.Store | None:
    """The store behind a port if it is that of the job; a stranger that says nothing is waited for in vain."""
    found: list[dist.Store] = []

    def look() -> None:
        try:
            store = dist.TCPStore(
                host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=5)
            )
            found.extend([store] if store.get("job").decode() == name else [])
        except (dist.DistError, RuntimeError):
            pass

    looker = threading.Thread(target=look, daemon=True)
    looker.start()
    looker.join(timeout=LEAVE_SECONDS)
    return found[0] if found else None


def _beats(store: dist.Store, world_size: int) -> list[int]:
    """How many signs of life each process has given."""
    return [store.add(f"beat/{rank}", 0) for rank in range(world_size)]


def _span(ranks: list[int]) -> str:
    if len(ranks) > 2 and ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"ranks {ranks[0]}-{ranks[-1]}"
    return f"{'ranks' if len(ranks) > 1 else 'rank'} {', '.join(map(str, ranks))}"


def _short(names: list[str], *, most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _say(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(text)
    sys.stderr.flush()


def _end(text: str = "") -> NoReturn:
    """End this process now: threads of the process group may be stuck, and would keep it from ending."""
    _say(text)
    os._exit(FAILED_STATUS)
