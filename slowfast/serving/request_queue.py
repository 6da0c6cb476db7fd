"""The queue of requests: one is computed at a time, and only so many may wait."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from slowfast.serving.refusal import RefusedError

Value = TypeVar("Value")


class RequestQueue:
    """Computes one request at a time in a thread, in the order in which they came.

    Args:
        max_waiting: Number of requests that may wait beside the one that is computed.
    """

    def __init__(self, *, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._num_requests = 0
        self._turn = asyncio.Lock()  # it wakes those that wait in order
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="request")

    @property
    def num_requests(self) -> int:
        """Number of requests that wait or are computed."""
        return self._num_requests

    async def run(self, work: Callable[[threading.Event], Value]) -> Value:
        """Wait for the turn of a request, and return its result.

        Args:
            work: Function that takes the event that stops it. The event is set if the caller is
                cancelled, who then waits for the function to end.

        Raises:
            RefusedError: If too many requests wait.
        """
        if self._num_requests > self.max_waiting:
            raise RefusedError(
                f"{self._num_requests} requests are waiting already. Try again in a minute",
                status=503,
            )
        self._num_requests += 1
        try:
            async with self._turn:
                return await self._compute(work)
        finally:
            self._num_requests -= 1

    async def _compute(self, work: Callable[[threading.Event], Value]) -> Value:
        stopped = threading.Event()
        future = asyncio.get_running_loop().run_in_executor(self._thread, work, stopped)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            stopped.set()
            await asyncio.wait([future])
            future.exception()  # it is the one of the stop
            raise
