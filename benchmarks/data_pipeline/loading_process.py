"""A process that loads videos one way and measures its time, stages and memory."""

import cProfile
import pstats
import re
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.data_pipeline import plain_loading
from slowfast.datasets.decode import VideoFile
from slowfast.datasets.decoding.frame_reader import FrameReader
from slowfast.datasets.decoding.images import FrameConverter
from slowfast.datasets.rand_augment import RandAugment
from slowfast.datasets.resize import resize_into
from slowfast.datasets.shared_memory import allocate

Load = Callable[[int], object]  # Takes the index of a video.

# The functions of each stage, ours and those of the baseline.
STAGES: dict[str, tuple[Callable[..., object], ...]] = {
    "open": (VideoFile.__init__, plain_loading.open_video),
    "decode": (FrameReader.read_from, plain_loading.decode_frames),
    "convert": (FrameConverter.to_image, plain_loading.convert),
    "augment": (RandAugment.apply, plain_loading.augment),
    "resize": (resize_into, plain_loading.normalize, plain_loading.resize),
    "collate": (allocate, plain_loading.stack_views),
}


class LoadingProcess:
    """A process of its own for one way of loading, so that no way benefits from another.

    Args:
        load: Function that loads a video.
        set_up: Function that the process calls first.
    """

    def __init__(self, load: Load, *, set_up: Callable[[], None]) -> None:
        self._load = load
        self._pipe, there = get_context("fork").Pipe()
        self._process = get_context("fork").Process(
            target=self._serve, args=(there, set_up), daemon=True
        )
        self._process.start()

    def seconds(self, index: int) -> float:
        """Return the time to load a video."""
        self._pipe.send(("seconds", index))
        return self._pipe.recv()

    def end(self, *, num_videos: int) -> tuple[dict[str, float], float]:
        """End the process.

        Args:
            num_videos: Number of videos to profile first.

        Returns:
            Mean seconds of each stage, and the peak growth of the process in MB.
        """
        self._pipe.send(("end", num_videos))
        answer = self._pipe.recv()
        self._process.join()
        return answer

    def _serve(self, pipe: Connection, set_up: Callable[[], None]) -> None:
        set_up()
        Path("/proc/self/clear_refs").write_text("5")  # Resets the peak to the current size.
        before = _megabytes("VmRSS")
        while True:
            command, number = pipe.recv()
            if command == "end":
                growth = _megabytes("VmHWM") - before
                pipe.send((_profile_stages(self._load, num_videos=number), growth))
                return
            start = time.perf_counter()
            self._load(number)
            pipe.send(time.perf_counter() - start)


def _profile_stages(load: Load, *, num_videos: int) -> dict[str, float]:
    """Return the mean seconds per video in each stage and in the rest."""
    profile = cProfile.Profile()
    profile.enable()
    for index in range(1, num_videos + 1):
        load(index)
    profile.disable()

    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(own for _, _, own, _, _ in stats.values())
    seconds = {}
    for stage, functions in STAGES.items():
        codes = [function.__code__ for function in functions]
        keys = [(code.co_filename, code.co_firstlineno, code.co_name) for code in codes]
        # The cumulative time, which includes all functions that these call.
        seconds[stage] = sum(stats[key][3] for key in keys if key in stats)
    seconds["rest"] = total - sum(seconds.values())
    return {stage: value / num_videos for stage, value in seconds.items()}


def _megabytes(field: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.findall(rf"{field}:\s+(\d+) kB", status)[0]) / 1024
