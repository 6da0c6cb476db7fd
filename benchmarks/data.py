"""Clips per second, time per stage and memory of the data pipeline on one core, against a baseline.

`python benchmarks/data.py [--repeats N] [--step-seconds S --batch B]` writes ten-second videos of
340x256 pixels (H.264 with B-frames), and loads training samples and test videos from them, in turns
with the published way: it opens the video for each view, decodes the span of the clip, converts
every decoded frame, augments whole frames with Pillow and normalizes before it crops. If decord is
installed, the baseline also runs with its decoder.
"""

import argparse
import importlib.util
import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import _checkout  # noqa: F401  the package of this checkout
import numpy as np
import torch
from torch import Tensor

from benchmarks.data_pipeline import plain_loading
from benchmarks.data_pipeline.loading_process import STAGES, Load, LoadingProcess
from benchmarks.data_pipeline.synthetic_videos import write_videos
from slowfast.config import load_cfg
from slowfast.datasets.build import VideoLoader, build_loader
from slowfast.datasets.loader import set_up_loading

REPOSITORY = Path(__file__).parents[1]


class Setting(NamedTuple):
    """A kind of loading and the least ratio of the baseline's time to ours."""

    title: str
    split: str
    num_clips: int
    num_crops: int
    min_ratio: float


SETTINGS = (
    Setting("train 16x4, 2 samples", "train", num_clips=1, num_crops=1, min_ratio=2.5),
    Setting("test 16x4, 4 clips x 1 crop", "test", num_clips=4, num_crops=1, min_ratio=4),
    Setting("test 16x4, 10 clips x 3 crops", "test", num_clips=10, num_crops=3, min_ratio=8),
)


def main() -> int:
    """Print the tables and return 1 if a ratio misses its aim."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repeats", type=int, default=24, help="videos per way of loading (default: %(default)s)"
    )
    parser.add_argument(
        "--step-seconds",
        type=float,
        default=0.5,
        help="duration of a training step, for the number of workers (default: %(default)s)",
    )
    parser.add_argument(
        "--batch", type=int, default=8, help="videos per step and process (default: %(default)s)"
    )
    args = parser.parse_args()

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # One core.
    is_reached = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_videos(folder, count=8)
        for setting in SETTINGS:
            repeats = args.repeats if setting.num_crops == 1 else max(args.repeats // 4, 3)
            median, ratio = compare(setting, _ways(setting, folder), repeats=repeats)
            is_reached &= ratio >= setting.min_ratio
            if setting.split == "train":
                num_workers = math.ceil(args.batch * median / args.step_seconds)
                print(
                    f"  steps of {args.step_seconds} s with {args.batch} videos need "
                    f"DATA_LOADER.NUM_WORKERS {num_workers}"
                )
    return 0 if is_reached else 1


def compare(setting: Setting, ways: Mapping[str, Load], *, repeats: int) -> tuple[float, float]:
    """Load videos in all ways, print a table, and return our median seconds and the ratio."""
    processes = {}
    for name, load in ways.items():
        set_up = set_up_loading if name == "ours" else partial(torch.set_num_threads, 1)
        processes[name] = LoadingProcess(load, set_up=set_up)

    # In turns, because on a noisy machine only neighbors in time are comparable.
    seconds: dict[str, list[float]] = {name: [] for name in processes}
    for index in range(repeats + 1):
        for name, process in processes.items():
            taken = process.seconds(index)
            if index > 0:  # The first round warms up.
                seconds[name].append(taken)

    num_samples = 2 if setting.split == "train" else setting.num_clips
    num_clips = num_samples * setting.num_crops
    header = "".join(f"{stage:>9}" for stage in [*STAGES, "rest"])
    print(f"\n{setting.title}: ms per video, median of {repeats}")
    print(f"  {'':<14}{'total':>9}{header}  clips/s  peak MB")
    for name, process in processes.items():
        stages, growth = process.end(num_videos=max(repeats // 3, 2))
        median = float(np.median(seconds[name]))
        numbers = "".join(f"{1000 * value:9.1f}" for value in [median, *stages.values()])
        print(f"  {name:<14}{numbers}{num_clips / median:9.1f}{growth:9.0f}")

    ratio = float(np.median(np.divide(seconds["plain"], seconds["ours"])))
    print(f"  plain / ours: {ratio:.2f} (aim: {setting.min_ratio})", flush=True)
    return float(np.median(seconds["ours"])), ratio


def _ways(setting: Setting, folder: Path) -> dict[str, Load]:
    """Return the ways to load a video of a folder by its index."""
    loader = _our_loader(setting, folder)
    requests = {}
    for batch in loader.batch_sampler:
        requests.update({request.video_index: request for request in batch})

    def load_ours(index: int) -> Tensor:
        request = requests[index % len(requests)]
        seed = None if request.seed is None else (*request.seed, index)
        return loader.dataset[request._replace(seed=seed)].frames

    def load_plain(index: int, decode: Callable[..., plain_loading.Frames]) -> Tensor:
        path = str(folder / f"{index % len(requests)}.mp4")
        if setting.split == "train":
            return plain_loading.train_samples(path, seed=index, decode=decode)
        return plain_loading.test_views(
            path, num_clips=setting.num_clips, num_crops=setting.num_crops, decode=decode
        )

    ways: dict[str, Load] = {
        "ours": load_ours,
        "plain": partial(load_plain, decode=plain_loading.decode_by_pyav),
    }
    if importlib.util.find_spec("decord") is not None:
        ways["plain, decord"] = partial(load_plain, decode=plain_loading.decode_by_decord)
    return ways


def _our_loader(setting: Setting, folder: Path) -> VideoLoader:
    """Return the loader of the Kinetics recipe, as training and testing build it."""
    settings = {
        "DATA.PATH_TO_DATA_DIR": folder,
        "DATA.PATH_PREFIX": folder,
        "DATA.NUM_FRAMES": 16,
        "DATA.SAMPLING_RATE": 4,
        "TRAIN.BATCH_SIZE": 1,
        "TEST.NUM_ENSEMBLE_VIEWS": setting.num_clips,
        "TEST.NUM_SPATIAL_CROPS": setting.num_crops,
        "DATA_LOADER.NUM_WORKERS": 0,
        "NUM_GPUS": 0,
    }
    overrides = []
    for key, value in settings.items():
        overrides += [key, str(value)]
    cfg = load_cfg(str(REPOSITORY / "configs/kinetics.yaml"), overrides)
    return build_loader(cfg, setting.split)


if __name__ == "__main__":
    sys.exit(main())
