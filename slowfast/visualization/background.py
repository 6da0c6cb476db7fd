"""Trackers in threads of their own, so that a training never waits for one that fails or hangs."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from queue import Full, Queue
from threading import Event, Thread
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slowfast.visualization.trackers import Tracker

logger = logging.getLogger(__name__)

MAX_WAITING = 1000  # calls that wait for a tracker before it counts as too slow
# Time limits, in seconds, for all trackers together to write what is still waiting: at the end of a
# run, and when a signal stops it.
CLOSE_SECONDS, STOP_SECONDS = 60.0, 10.0
START_SECONDS = 10.0  # that the first checkpoint waits for the IDs of the records
QUIET_SECONDS = 2.0  # of waiting at the end that the log does not mention

Start = Callable[[], Tracker]


class Trackers:
    """The trackers of a run, as one. No method waits for a tracker except `close`.

    The first call starts the trackers. A tracker that fails is turned off with one warning.

    Args:
        starts: Function that starts each tracker, by its name. Empty in all processes but the main
            one.
        record_ids: IDs of the records by the name of their trackers. The trackers add theirs.
    """

    def __init__(self, starts: Mapping[str, Start], *, record_ids: dict[str, str]) -> None:
        self._starts = dict(starts)
        self._record_ids = record_ids
        self._running: list[_BackgroundTracker] = []
        self._was_waited_for = False

    def __bool__(self) -> bool:
        """Whether there are trackers."""
        return bool(self._starts)

    @property
    def are_running(self) -> bool:
        """Whether the trackers were started."""
        return bool(self._running)

    def wait_until_started(self) -> None:
        """Wait a few seconds, and once only, for the IDs of the records."""
        if self._was_waited_for:
            return
        self._was_waited_for = True
        give_up_at = monotonic() + START_SECONDS
        for tracker in self._running:
            if not tracker.has_started.wait(max(give_up_at - monotonic(), 0.0)):
                logger.info(
                    "the tracker %s has not started after %.0f s. The training does not wait",
                    tracker.name,
                    START_SECONDS,
                )

    def log_scalars(self, scalars: Mapping[str, float], *, step: int) -> None:
        """Add one point to the curve of each tag, see `Tracker.log_scalars`."""
        copied = dict(scalars)
        self._call(lambda tracker: tracker.log_scalars(copied, step=step))

    def log_image(self, tag: str, image: NDArray[np.uint8], *, step: int) -> None:
        """Show an image, see `Tracker.log_image`."""
        self._call(lambda tracker: tracker.log_image(tag, image, step=step))

    def log_histogram(self, tag: str, values: NDArray[np.float32], *, step: int) -> None:
        """Show how values are distributed, see `Tracker.log_histogram`."""
        self._call(lambda tracker: tracker.log_histogram(tag, values, step=step))

    def log_graph(self, graph: Any) -> None:
        """Show the graph of the model, see `Tracker.log_graph`."""
        self._call(lambda tracker: tracker.log_graph(graph))

    def log_results(self, results: Mapping[str, float], *, step: int) -> None:
        """Show final numbers of the run, see `Tracker.log_results`."""
        copied = dict(results)
        self._call(lambda tracker: tracker.log_results(copied, step=step))

    def close(self, *, is_finished: bool) -> None:
        """Wait until the trackers have written everything, but not forever.

        Args:
            is_finished: Whether the run is finished. Otherwise it will be resumed.
        """
        running, self._running = self._running, []
        for tracker in running:
            tracker.call(lambda tracker: tracker.close(is_finished=is_finished))
            tracker.end()
        limit = CLOSE_SECONDS if is_finished else STOP_SECONDS
        give_up_at = monotonic() + limit
        has_told = False
        for tracker in running:
            if not has_told and not tracker.has_ended(QUIET_SECONDS):
                logger.info("waiting up to %.0f s for the tracker %s", limit, tracker.name)
                has_told = True
            tracker.join(max(give_up_at - monotonic(), 0.0), limit=limit)

    def _call(self, call: Callable[[Tracker], None]) -> None:
        if self._starts and not self._running:
            self._running = [
                _BackgroundTracker(name, start, note_record=partial(self._note_record, name))
                for name, start in self._starts.items()
            ]
        for tracker in self._running:
            tracker.call(call)

    def _note_record(self, name: str, record_id: str) -> None:
        if record_id:
            self._record_ids[name] = record_id


class _BackgroundTracker:
    """A tracker whose methods run in a thread, in the order of their calls.

    Args:
        name: Name of the tracker, for messages.
        start: Function that starts it.
        note_record: Function that takes the ID of its record.
    """

    def __init__(self, name: str, start: Start, *, note_record: Callable[[str], None]) -> None:
        self.name = name
        self._start = start
        self._note_record = note_record
        self._is_off = False
        self.has_started = Event()  # or failed to
        self._calls: Queue[Callable[[Tracker], None] | None] = Queue(MAX_WAITING)
        # A thread that hangs must not keep the process alive.
        self._thread = Thread(target=self._run, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def call(self, call: Callable[[Tracker], None] | None) -> None:
        """Hand a call to the thread."""
        if self._is_off:
            return
        try:
            self._calls.put_nowait(call)
        except Full:
            self._turn_off(f"it is {MAX_WAITING} records behind")

    def end(self) -> None:
        """Let the thread end after the calls that it has."""
        self.call(None)

    def has_ended(self, seconds: float) -> bool:
        """Wait for the end of the thread, and return whether there is nothing more to wait for."""
        if not self._is_off:
            self._thread.join(seconds)
        return self._is_off or not self._thread.is_alive()

    def join(self, seconds: float, *, limit: float) -> None:
        """Wait for the end of the thread, and turn the tracker off if it does not come.

        Args:
            seconds: Seconds to wait.
            limit: Seconds for all trackers together, for the message.
        """
        if not self.has_ended(seconds):
            self._turn_off(f"it did not finish in time ({limit:.0f} s)")

    def _run(self) -> None:
        try:
            tracker = self._start()
            self._note_record(tracker.record_id)
            self.has_started.set()
            while not self._is_off and (call := self._calls.get()) is not None:
                call(tracker)
        except BaseException as error:  # whatever a library raises, the training goes on
            self._turn_off(f"{type(error).__name__}: {error}")

    def _turn_off(self, reason: str) -> None:
        if self._is_off:
            return
        self._is_off = True
        self.has_started.set()
        logger.warning(
            "the tracker %s is off from here on: %s. The training goes on without it",
            self.name,
            " ".join(reason.split())[:500],
        )
