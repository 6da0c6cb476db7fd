"""The tracker TensorBoard: event files with everything that a run shows."""

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from slowfast.utils.files import write_file
from slowfast.visualization.trackers import TrackedRun, Tracker

FINAL_TAGS = ("final/top1", "final/top5", "final/mean_class_accuracy", "final/loss")
TEST_TAGS = ("test/top1", "test/top5", "test/mean_class_accuracy", "test/nll")

_NUM_BINS = 64


class TensorBoardTracker(Tracker):
    """Writes event files to a folder. Every call is flushed, so that a kill loses nothing.

    Args:
        run: The run. Points of its record beyond its finished steps are removed.
    """

    def __init__(self, run: TrackedRun) -> None:
        earlier = sorted(run.folder.glob("events.out.tfevents.*"))
        if run.num_steps == 0:  # Everything will come again, also what has no step.
            for path in earlier:
                path.unlink()
            earlier = []
        purge_step = None
        if earlier and run.num_steps is not None:
            for path in earlier:
                remove_later_events(path, num_steps=run.num_steps)
            purge_step = run.num_steps + 1  # for a TensorBoard that has read the events already

        self._writer = SummaryWriter(str(run.folder), purge_step=purge_step)
        if not earlier:
            self._describe(run)
        self._writer.flush()

    def log_scalars(self, scalars: Mapping[str, float], *, step: int) -> None:
        """Add one point to the curve of each tag."""
        for tag, value in scalars.items():
            self._writer.add_scalar(tag, value, step)
        self._writer.flush()

    def log_image(self, tag: str, image: NDArray[np.uint8], *, step: int) -> None:
        """Show an image, RGB of shape (H, W, 3)."""
        self._writer.add_image(tag, image, step, dataformats="HWC")
        self._writer.flush()

    def log_histogram(self, tag: str, values: NDArray[np.float32], *, step: int) -> None:
        """Show how values of shape (N,) are distributed."""
        finite = values[np.isfinite(values)]
        if finite.size:
            self._writer.add_histogram(tag, finite, step, bins=_NUM_BINS)
            self._writer.flush()

    def log_graph(self, graph: Any) -> None:
        """Show the graph of the model."""
        self._writer._get_file_writer().add_graph(graph)
        self._writer.flush()

    def close(self, *, is_finished: bool) -> None:
        """Flush the event file and close it."""
        self._writer.close()

    def _describe(self, run: TrackedRun) -> None:
        """Show the config, the code and the hyper-parameters of a run, once."""
        settings = yaml.safe_dump(dict(run.config), sort_keys=False, default_flow_style=None)
        self._writer.add_text("config", _as_code(settings), 0)
        source = {"run": run.run_id, **run.source}
        self._writer.add_text("code", _as_code(yaml.safe_dump(source, sort_keys=False)), 0)

        values = {
            name: str(value) if isinstance(value, bool) else value  # not 0.0000
            for name, value in run.hyper_parameters.items()
        }
        # The values of these tags come as scalars, at the end of the run and after its test.
        for summary in hparams(values, dict.fromkeys((*FINAL_TAGS, *TEST_TAGS), 0.0)):
            self._writer._get_file_writer().add_summary(summary, 0)


def remove_later_events(path: Path, *, num_steps: int) -> None:
    """Remove the events beyond a step from an event file, and what a kill tore at its end.

    A run that was killed has written steps that its newest checkpoint does not have. It runs them
    again.

    Args:
        path: The event file.
        num_steps: Last step to keep.
    """
    kept, num_removed = io.BytesIO(), 0
    records = RecordWriter(kept)
    for content in _read_events(path):
        event = Event.FromString(content)
        is_start = event.session_log.status == SessionLog.START
        if event.step > num_steps and not is_start:
            num_removed += 1
        else:
            records.write(content)
    if num_removed or len(kept.getvalue()) < os.path.getsize(path):
        write_file(path, kept.getvalue())


def _read_events(path: Path) -> Iterator[bytes]:
    yield from RawEventFileLoader(str(path)).Load()


def _as_code(text: str) -> str:
    """Return text as a block of code in Markdown."""
    return "".join(f"    {line}\n" for line in text.splitlines())
