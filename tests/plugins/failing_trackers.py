"""Trackers that fail: at the start, at the first scalar, and at the end."""

from collections.abc import Mapping

from slowfast.visualization.trackers import TrackedRun, Tracker, TrackerKind, add_tracker


class FailsAtStart(Tracker):
    """Fails in its constructor."""

    def __init__(self, run: TrackedRun) -> None:
        raise ConnectionError("no network")


class FailsLater(Tracker):
    """Fails at its first scalars."""

    def __init__(self, run: TrackedRun) -> None:
        self.record_id = f"record of {run.run_id}"

    def log_scalars(self, scalars: Mapping[str, float], *, step: int) -> None:
        """Fail."""
        raise OSError(28, "No space left on device")


class FailsAtEnd(Tracker):
    """Fails when it is closed."""

    def __init__(self, run: TrackedRun) -> None:
        pass

    def close(self, *, is_finished: bool) -> None:
        """Fail, with more than an Exception."""
        raise SystemExit("closed")


for kind in (FailsAtStart, FailsLater, FailsAtEnd):
    add_tracker(kind.__name__, TrackerKind(kind))
