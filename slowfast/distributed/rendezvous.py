"""Rendezvous: how the processes of a job meet, watch each other, fail together and leave.

Everything goes through one store, see `slowfast.distributed.store`. Each process has a watchdog, a
thread that ends the process when another one fails or vanishes, even in the middle of a collective.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from typing import NoReturn

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from slowfast.distributed import signals
from slowfast.distributed.heartbeat import (
    SilenceDetector,
    count_heartbeats,
    create_heartbeats,
    send_heartbeat,
)
from slowfast.distributed.launchers import RankInfo
from slowfast.distributed.signals import FAILED_STATUS
from slowfast.distributed.store import connect_again, open_store
from slowfast.utils import terminal
from slowfast.utils.provenance import host_name
from slowfast.utils.text import count, some

HEARTBEAT_SECONDS = 1.0
SILENT_SECONDS = 60.0  # A rank without a heartbeat for so long counts as lost.
LEAVE_SECONDS = 5.0  # Time for the other ranks to leave before the failed one reports its error.
_POLL_SECONDS = 0.05

_STORE_ERRORS = (dist.DistError, RuntimeError)


class Rendezvous:
    """The processes of a job, from the moment they meet until they leave.

    Args:
        ranks: Rank of this process and the address of the store.
        store: Store to use. None opens the one at the address.
        timeout: Seconds that each process has to join.
        hosts: Expected host of each machine. Empty if unknown.

    Raises:
        ConnectionError: If the store cannot be reached.
        TimeoutError: If processes do not join in time. The message names them.
    """

    def __init__(
        self,
        ranks: RankInfo,
        *,
        store: dist.Store | None = None,
        timeout: float,
        hosts: Sequence[str] = (),
    ) -> None:
        self._rank = ranks.rank
        self._world_size = ranks.world_size
        self._address = ranks.store_address
        self._timeout = timeout
        self.store = open_store(ranks, timeout=timeout) if store is None else store
        self.store.set(f"host/{self._rank}", host_name())

        if self._rank == 0:
            self._wait_for_all(hosts, local_world_size=ranks.local_world_size)
            create_heartbeats(self.store, world_size=self._world_size)
            self.store.set("complete", "")
        else:
            self._wait_for_rank_0()
        self._hosts = [name.decode() for name in self.store.multi_get(self._keys("host"))]

        self._exit_lock = threading.Lock()  # The one thread that takes it ends this process.
        self._is_interrupted = False
        self._has_left = threading.Event()
        self._watchdog_store = connect_again(self.store, ranks, timeout=timeout)
        self._watchdog = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._watchdog.start()

    def leave(self) -> None:
        """Wait until it is safe to end this process. Rank 0 may serve the store and leaves last."""
        self._has_left.set()
        self._watchdog.join()
        self.store.set(f"finished/{self._rank}", "")
        if self._rank > 0:
            return

        deadline = time.monotonic() + self._timeout
        while not self.store.check(self._keys("finished")) and time.monotonic() < deadline:
            if self.store.check(["failure"]):
                self._exit_lock.acquire()
                self._end_after_failure()
            time.sleep(_POLL_SECONDS)

    def fail(self, error: Exception) -> NoReturn:
        """End all processes because this one failed.

        The first process that fails prints its traceback when the others have left, so it is the
        last thing that you see. A later one ends silently.
        """
        self.stop_if_interrupted()
        self._exit_lock.acquire()

        # torchrun shows the recorded exception in its summary.
        handler = get_error_handler()
        handler.initialize()
        handler.record_exception(error)

        # torchrun and Slurm end all processes when the first one leaves.
        signals.ignore(signal.SIGTERM)

        notes: list[str] = []
        try:
            if not self._set_first("failure", self._describe(self._rank)):
                self._end_after_failure()
            for rank in self._wait_until_left():
                notes.append(f"{self._describe(rank)} stopped without a word. Look there first")
        except _STORE_ERRORS:
            notes.append(f"{self._describe(0)} can no longer be reached")

        lines = [*notes, f"{self._describe(self._rank)} failed:"]
        lines.append("".join(traceback.format_exception(error)).rstrip())
        if isinstance(error, ValueError | OSError | FloatingPointError):  # The user can mend it.
            lines.append(f"error: {error}")
        _end("\n".join(lines) + "\n")

    def interrupt(self, signal_name: str) -> bool:
        """Have all processes stop because this one received a signal.

        Returns:
            Whether this process may stop now. False if it is about to end because of a failure.
        """
        with contextlib.suppress(*_STORE_ERRORS):
            if self.store.check(["failure"]):  # A launcher ends all processes after a failure.
                return False

        if not self._exit_lock.acquire(blocking=False) and not self._is_interrupted:
            return False

        self._is_interrupted = True
        # Without the store, the process that served it is gone, and there is nobody to tell.
        with contextlib.suppress(*_STORE_ERRORS):
            self._set_first("interrupted", signal_name)
            self.store.set(f"left/{self._rank}", "")
            if self._rank == 0:  # The others still need its store.
                self._wait_until_left()
        return True

    def stop_if_interrupted(self) -> None:
        """Stop this process if a signal to another one made a collective of this one fail."""
        name = ""
        with contextlib.suppress(*_STORE_ERRORS):
            if self.store.check(["interrupted"]):
                name = self.store.get("interrupted").decode()
        if name:
            signals.stop(signal.Signals[name])

    # ---- Joining -----------------------------------------------------------------------------

    def _wait_for_all(self, hosts: Sequence[str], *, local_world_size: int) -> None:
        deadline = time.monotonic() + self._timeout
        while not self.store.check(self._keys("host")):
            if time.monotonic() > deadline:
                message = self._describe_missing(hosts, local_world_size=local_world_size)
                self.store.set("failure", message)
                time.sleep(HEARTBEAT_SECONDS)  # Time for the others to read it.
                raise TimeoutError(message)
            time.sleep(_POLL_SECONDS)

    def _describe_missing(self, hosts: Sequence[str], *, local_world_size: int) -> str:
        names = []
        for rank, key in enumerate(self._keys("host")):
            if not self.store.check([key]):
                machine = rank // local_world_size
                host = hosts[machine] if machine < len(hosts) else f"machine {machine}"
                names.append(f"rank {rank} ({host})")

        processes = count(self._world_size, "process")
        return (
            f"after {self._timeout:.0f} s, DIST_TIMEOUT, {len(names)} of {processes} did not join: "
            f"{some(names, most=8)}. See their logs, and check that the machines can reach "
            f"{self._address}"
        )

    def _wait_for_rank_0(self) -> None:
        # Rank 0 names the missing processes, so the others give it time to speak first.
        deadline = time.monotonic() + self._timeout + LEAVE_SECONDS
        while not self.store.check(["complete"]):
            if self.store.check(["failure"]):
                raise TimeoutError(self.store.get("failure").decode())
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"rank 0 did not join at {self._address} within {self._timeout:.0f} s"
                )
            time.sleep(_POLL_SECONDS)

    # ---- Watching ----------------------------------------------------------------------------

    def _watch(self) -> None:
        """Send a heartbeat each second, and end this process when it must."""
        detector = SilenceDetector(world_size=self._world_size, silent_seconds=SILENT_SECONDS)
        while not self._has_left.wait(HEARTBEAT_SECONDS):
            try:
                self._send_and_check(detector)
            except _STORE_ERRORS:
                self._end_from_watchdog(
                    f"rank {self._rank} ends: the store at {self._address} can no longer be reached"
                )
                return

    def _send_and_check(self, detector: SilenceDetector) -> None:
        store = self._watchdog_store
        send_heartbeat(store, rank=self._rank)

        if store.check(["interrupted"]):
            if self._exit_lock.acquire(blocking=False):
                self._is_interrupted = True
                self.store = store  # The main thread may hold the other connection.
                signals.stop_from_thread(signal.Signals[store.get("interrupted").decode()])
        elif store.check(["failure"]):
            if self._exit_lock.acquire(blocking=False):
                self.store = store
                self._end_after_failure()
        elif self._rank == 0 and (silent := self._find_silent(detector)):
            names = ", ".join(map(self._describe, silent))
            store.set("failure", names)
            self._end_from_watchdog(
                f"no heartbeat for {SILENT_SECONDS:.0f} s from {names}. Look there for the reason"
            )

    def _find_silent(self, detector: SilenceDetector) -> list[int]:
        store = self._watchdog_store
        silent = detector.update(count_heartbeats(store, world_size=self._world_size))
        return [rank for rank in silent if not store.check([f"finished/{rank}"])]

    def _end_from_watchdog(self, text: str) -> None:
        if self._exit_lock.acquire(blocking=False):
            _end(f"{text}\n")

    # ---- Ending ------------------------------------------------------------------------------

    def _end_after_failure(self) -> NoReturn:
        """End this process because another one failed and prints the reason."""
        try:
            failed = self.store.get("failure").decode()
            if self._rank == 0:  # The others still need its store.
                self._wait_until_left(spared=1)
                _write(f"{self._describe(0)} ends: {failed} failed. See there\n")
            self.store.set(f"left/{self._rank}", "")

            # When this process is gone, Slurm and torchrun may kill the one that still has to
            # print its traceback.
            time.sleep(HEARTBEAT_SECONDS)
        except _STORE_ERRORS:
            name = self._describe(self._rank)
            _end(f"{name} ends: {self._describe(0)} can no longer be reached\n")
        _end()

    def _wait_until_left(self, *, spared: int = 0) -> list[int]:
        """Wait for the other ranks to leave.

        Args:
            spared: Number of ranks that need not leave.

        Returns:
            Ranks that neither left nor sent a heartbeat.
        """
        before = count_heartbeats(self.store, world_size=self._world_size)
        others = [rank for rank in range(self._world_size) if rank != self._rank]
        deadline = time.monotonic() + LEAVE_SECONDS
        while len(others) > spared and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            others = [rank for rank in others if not self.store.check([f"left/{rank}"])]

        after = count_heartbeats(self.store, world_size=self._world_size)
        return [rank for rank in others if after[rank] == before[rank]]

    def _set_first(self, key: str, value: str) -> bool:
        """Set a key that has no value yet. Return whether this process was the first."""
        return self.store.compare_set(key, "", value).decode() == value

    def _keys(self, name: str) -> list[str]:
        return [f"{name}/{rank}" for rank in range(self._world_size)]

    def _describe(self, rank: int) -> str:
        return f"rank {rank} on {self._hosts[rank]}"


def _write(text: str) -> None:
    terminal.close_bar()
    sys.stdout.flush()
    sys.stderr.write(terminal.new_line(sys.stderr) + text)
    sys.stderr.flush()


def _end(text: str = "") -> NoReturn:
    """End this process now. Threads of the process group may be stuck and would keep it alive."""
    _write(text)
    os._exit(FAILED_STATUS)
