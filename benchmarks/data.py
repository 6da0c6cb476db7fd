"""Clips per second, seconds per stage and memory of the data pipeline on one core, against the plain published way.

`python benchmarks/data.py [--repeats N] [--step-seconds S --batch B]` makes ten-second videos of 340x256 pixels (H.264
with B-frames) and loads training samples and test videos from them, in turns with a baseline that opens the video for
each view, decodes the span of the clip, converts every decoded frame, augments whole frames with Pillow, and normalizes
before it crops. Where decord is installed, the baseline is run with its decoder as well.
"""

import argparse
import cProfile
import math
import os
import pstats
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import _cli  # noqa: F401  the package of this checkout
import av
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor

from slowfast.config import load_cfg
from slowfast.datasets.boxes import random_resized_box
from slowfast.datasets.build import VideoLoader, build_loader
from slowfast.datasets.dataset import _allocate
from slowfast.datasets.decode import VideoFile
from slowfast.datasets.loader import set_up_loading
from slowfast.datasets.rand_augment import RandAugment
from slowfast.datasets.resize import resize_into
from slowfast.datasets.sampling import DenseClips
from slowfast.preparation.motion import write_video

REPOSITORY = Path(__file__).parents[1]
HEIGHT, WIDTH, FPS, SECONDS = 256, 340, 30, 10
MEAN, STD, SIZE = [0.45] * 3, [0.225] * 3, 224
Frames = NDArray[np.uint8]


class Setting(NamedTuple):
    """One way of loading, and by how much it must beat the baseline."""

    title: str
    split: str
    num_clips: int
    num_crops: int
    target: float

    @property
    def overrides(self) -> list[str]:
        """KEY VALUE pairs on top of the Kinetics recipe."""
        views = [
            "TEST.NUM_ENSEMBLE_VIEWS",
            str(self.num_clips),
            "TEST.NUM_SPATIAL_CROPS",
            str(self.num_crops),
        ]
        return [
            "DATA.NUM_FRAMES",
            "16",
            "DATA.SAMPLING_RATE",
            "4",
            "DATA_LOADER.NUM_WORKERS",
            "0",
            *views,
        ]


SETTINGS = (
    Setting("train 16x4, 2 samples", "train", num_clips=1, num_crops=1, target=2.5),
    Setting("test 16x4, 4 clips x 1 crop", "test", num_clips=4, num_crops=1, target=4),
    Setting("test 16x4, 10 clips x 3 crops", "test", num_clips=10, num_crops=3, target=8),
)

# ---- The videos ------------------------------------------------------------------------------------------------------


def write_videos(folder: Path, *, count: int) -> None:
    """Write videos, and lists of them for all splits: a camera over a scene, an object, and the noise of a sensor."""
    for number in range(count):
        rng = np.random.default_rng(number)
        scene = _texture(rng, 2 * HEIGHT, 2 * WIDTH)
        thing = _texture(rng, 90, 90)
        frames = np.empty((FPS * SECONDS, HEIGHT, WIDTH, 3), dtype=np.uint8)
        for t in range(len(frames)):
            top, left = (
                round((1 + math.sin(t / 90 + phase)) / 2 * size)
                for phase, size in ((0, 255), (1, 339))
            )
            image = scene[top : top + HEIGHT, left : left + WIDTH].copy()
            y, x = (
                round((1 + math.sin(t / 23 + phase)) / 2 * size)
                for phase, size in ((2, 165), (4, 249))
            )
            image[y : y + 90, x : x + 90] = thing
            frames[t] = (image + rng.normal(0, 3, image.shape)).clip(0, 255)
        write_video(
            folder / f"{number}.mp4", frames, fps=FPS, codec_options={"crf": "23", "bf": "3"}
        )
    for split in ("train", "val", "test"):
        (folder / f"{split}.csv").write_text(
            "".join(f"{number}.mp4,{number}\n" for number in range(count))
        )


def _texture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """A picture with detail at all scales, (H, W, 3), from 0 to 255."""
    layers = [
        F.interpolate(
            torch.from_numpy(rng.uniform(-1, 1, (1, 3, cells, cells))).float(),
            (height, width),
            mode="bicubic",
        )
        / math.sqrt(cells)
        for cells in (4, 8, 16, 32, 64)
    ]
    return ((sum(layers) + 1).clamp(0, 2) * 127)[0].permute(1, 2, 0).numpy()  # type: ignore[union-attr]


# ---- The baseline ----------------------------------------------------------------------------------------------------


def plain_train_sample(
    path: str, seed: int, decode: Callable[[str, Sequence[int]], Frames]
) -> list[Tensor]:
    """Two augmented samples of a random clip, the plain way."""
    rng = np.random.default_rng(seed)
    random.seed(seed)
    clips = DenseClips(num_frames=16, sampling_rate=4, num_clips=1, use_offset=True)
    frames = decode(path, clips.random(FPS * SECONDS, rng).tolist())
    samples = []
    for _ in range(2):
        clip = plain_normalize(np.stack([np.asarray(image) for image in plain_augment(frames)]))
        box = random_resized_box(HEIGHT, WIDTH, scale=(0.08, 1), aspect=(0.75, 1.3333), rng=rng)
        clip = clip[:, :, box.top : box.top + box.height, box.left : box.left + box.width]
        clip = plain_resize(clip, SIZE, SIZE)
        if rng.random() < 0.5:
            clip = clip.flip(3)
        if rng.random() < 0.25:
            clip[:, :, 60:130, 60:130] = torch.randn(3, 16, 70, 70)
        samples.append(clip)
    return samples


def plain_test_view(
    path: str, clip: int, crop: int, *, num_clips: int, decode: Callable[..., Frames]
) -> Tensor:
    """One view of a test, the plain way."""
    clips = DenseClips(num_frames=16, sampling_rate=4, num_clips=num_clips, use_offset=True)
    frames = plain_normalize(decode(path, clips.numbered(FPS * SECONDS, clip).tolist()))
    frames = plain_resize(frames, SIZE, WIDTH * SIZE // HEIGHT)
    left = (0, (frames.shape[3] - SIZE) // 2, frames.shape[3] - SIZE)[crop]
    return frames[:, :, :, left : left + SIZE]


def plain_decode(path: str, numbers: Sequence[int]) -> Frames:
    """The wanted frames: seek, decode and convert to the end of the span, stack it, take what is wanted."""
    with plain_open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        assert stream.time_base is not None
        per_frame = int(1 / (FPS * stream.time_base))
        container.seek(numbers[0] * per_frame, stream=stream)
        span: dict[int, Frames] = {}
        for frame in plain_decode_next(container):
            assert frame.pts is not None
            number = frame.pts // per_frame
            image = plain_convert(frame)
            if number >= numbers[0]:
                span[number] = image
            if number >= numbers[-1]:
                break
    return np.stack([span[number] for number in sorted(span)])[np.array(numbers) - min(span)]


def plain_open(path: str) -> av.container.InputContainer:
    """Open a video."""
    return av.open(path)


def plain_decode_next(container: av.container.InputContainer) -> Iterator[av.VideoFrame]:
    """Decode frame by frame."""
    yield from container.decode(video=0)


def plain_convert(frame: av.VideoFrame) -> Frames:
    """Convert to RGB."""
    return frame.to_rgb().to_ndarray()  # type: ignore[return-value]


def plain_augment(frames: Frames) -> list[Image.Image]:
    """RandAugment on whole frames, all with the same draws."""
    augment = rand_augment_transform(
        "rand-m7-n4-mstd0.5-inc1", {"interpolation": Image.Resampling.BICUBIC}
    )
    seed = random.randrange(2**32)
    images = []
    for frame in frames:
        random.seed(seed)
        np.random.seed(seed)
        images.append(augment(Image.fromarray(frame)))
    return images


def plain_normalize(frames: Frames) -> Tensor:
    """Convert whole frames (T, H, W, 3) to float, (3, T, H, W), zero mean and unit deviation of each channel."""
    return (
        (torch.from_numpy(frames).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    ).permute(3, 0, 1, 2)


def plain_resize(clip: Tensor, height: int, width: int) -> Tensor:
    """Resize (3, T, H, W)."""
    return F.interpolate(clip, size=(height, width), mode="bilinear", align_corners=False)


def decord_decode(path: str, numbers: Sequence[int]) -> Frames:
    """The wanted frames by decord."""
    from decord import VideoReader, cpu

    return VideoReader(path, ctx=cpu(0), num_threads=1).get_batch(numbers).asnumpy()


def plain_item(setting: Setting, path: str, number: int, decode: Callable[..., Frames]) -> Tensor:
    """All that a model sees of one video, the plain way, collated."""
    if setting.split == "train":
        return stack_views(plain_train_sample(path, number, decode))
    return stack_views(
        [
            plain_test_view(path, clip, crop, num_clips=setting.num_clips, decode=decode)
            for clip in range(setting.num_clips)
            for crop in (range(3) if setting.num_crops == 3 else (1,))
        ]
    )


def stack_views(clips: Sequence[Tensor]) -> Tensor:
    """Collate."""
    return torch.stack(list(clips))


# ---- Measuring -------------------------------------------------------------------------------------------------------

STAGES: dict[
    str, tuple[Callable[..., object], ...]
] = {  # what is done in each, by us and by the baseline
    "open": (VideoFile.__init__, plain_open),
    "decode": (VideoFile._decode_from, plain_decode_next),
    "convert": (VideoFile._to_image, plain_convert),
    "augment": (RandAugment.apply, plain_augment),
    "resize": (resize_into, plain_normalize, plain_resize),
    "collate": (_allocate, stack_views),
}


def our_loader(setting: Setting, folder: Path) -> VideoLoader:
    """The loader of the Kinetics recipe, as training and testing build it."""
    paths = [
        "DATA.PATH_TO_DATA_DIR",
        str(folder),
        "DATA.PATH_PREFIX",
        str(folder),
        "TRAIN.BATCH_SIZE",
        "1",
        "NUM_GPUS",
        "0",
    ]
    return build_loader(
        load_cfg(str(REPOSITORY / "configs/kinetics.yaml"), [*paths, *setting.overrides]),
        setting.split,
    )


def ways(setting: Setting, folder: Path) -> dict[str, Callable[[int], object]]:
    """Ways to load video number n of the folder."""
    loader = our_loader(setting, folder)
    requests = {request.video: request for batch in loader.batch_sampler for request in batch}

    def ours(number: int) -> Tensor:
        request = requests[number % len(requests)]
        seed = None if request.seed is None else (*request.seed, number)
        return loader.dataset[request._replace(seed=seed)].frames

    def plain(number: int) -> Tensor:
        return plain_item(
            setting, str(folder / f"{number % len(requests)}.mp4"), number, plain_decode
        )

    def with_decord(number: int) -> Tensor:
        return plain_item(
            setting, str(folder / f"{number % len(requests)}.mp4"), number, decord_decode
        )

    found: dict[str, Callable[[int], object]] = {"ours": ours, "plain": plain}
    try:
        import decord  # noqa: F401

        found["plain, decord"] = with_decord
    except ImportError:
        pass
    return found


class Runner:
    """A process of its own that loads videos one way and measures itself, so that no way profits from another.

    Args:
        load: video number n.
        set_up: run first in the process.
    """

    def __init__(self, load: Callable[[int], object], *, set_up: Callable[[], None]) -> None:
        self._load = load
        self._pipe, there = get_context("fork").Pipe()
        self._process = get_context("fork").Process(
            target=self._serve, args=(there, set_up), daemon=True
        )
        self._process.start()

    def seconds(self, number: int) -> float:
        """Return the time that a video takes."""
        self._pipe.send(("seconds", number))
        return self._pipe.recv()

    def end(self, *, repeats: int) -> tuple[dict[str, float], float]:
        """Return the mean seconds of each stage over some videos, and the growth of the process at its peak in MB."""
        self._pipe.send(("end", repeats))
        answer = self._pipe.recv()
        self._process.join()
        return answer

    def _serve(self, pipe: Connection, set_up: Callable[[], None]) -> None:
        set_up()
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is resident now
        before = _memory("VmRSS")
        while True:
            command, number = pipe.recv()
            if command == "end":
                growth = _memory("VmHWM") - before
                pipe.send((stage_seconds(self._load, repeats=number), growth))
                return
            start = time.perf_counter()
            self._load(number)
            pipe.send(time.perf_counter() - start)


def stage_seconds(load: Callable[[int], object], *, repeats: int) -> dict[str, float]:
    """Return the mean seconds per call in each stage, and in the rest."""
    profile = cProfile.Profile()
    profile.enable()
    for number in range(1, repeats + 1):
        load(number)
    profile.disable()
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(own for _, _, own, _, _ in stats.values())
    found = {}
    for stage, functions in STAGES.items():
        codes = [function.__code__ for function in functions]
        keys = [(code.co_filename, code.co_firstlineno, code.co_name) for code in codes]
        found[stage] = sum(
            stats[key][3] for key in keys if key in stats
        )  # with all that these functions call
    return {
        stage: value / repeats
        for stage, value in (found | {"rest": total - sum(found.values())}).items()
    }


def _memory(name: str) -> float:
    return int(re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024


def main() -> int:
    """Print the tables; the exit status says whether every ratio reaches its target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=24, help="videos per way of loading")
    parser.add_argument(
        "--step-seconds",
        type=float,
        default=0.5,
        help="of a training step, for the number of workers",
    )
    parser.add_argument("--batch", type=int, default=8, help="videos per step and process")
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core
    reached = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_videos(folder, count=8)
        for setting in SETTINGS:
            repeats = args.repeats if setting.num_crops == 1 else max(args.repeats // 4, 3)
            median, ratio = report(setting, ways(setting, folder), repeats=repeats)
            reached &= ratio >= setting.target
            if setting.split == "train":
                workers = math.ceil(args.batch * median / args.step_seconds)
                print(
                    f"  steps of {args.step_seconds} s with {args.batch} videos need DATA_LOADER.NUM_WORKERS {workers}"
                )
    return 0 if reached else 1


def report(
    setting: Setting, loads: dict[str, Callable[[int], object]], *, repeats: int
) -> tuple[float, float]:
    """Print one table; returns our median seconds and the ratio of the baseline's to ours."""
    runners = {
        name: Runner(
            load, set_up=set_up_loading if name == "ours" else lambda: torch.set_num_threads(1)
        )
        for name, load in loads.items()
    }
    # In turns: neighbors in time are comparable on a noisy machine. The first round warms up.
    rounds = [
        {name: runner.seconds(number) for name, runner in runners.items()}
        for number in range(repeats + 1)
    ][1:]
    seconds = {name: np.array([one[name] for one in rounds]) for name in runners}
    clips = (2 if setting.split == "train" else setting.num_clips) * setting.num_crops
    print(f"\n{setting.title}: ms per video, median of {repeats}")
    print(
        f"  {'':<14}{'total':>9}"
        + "".join(f"{stage:>9}" for stage in [*STAGES, "rest"])
        + "  clips/s  peak MB"
    )
    for name, runner in runners.items():
        stages, growth = runner.end(repeats=max(repeats // 3, 2))
        median = float(np.median(seconds[name]))
        numbers = "".join(f"{1000 * value:9.1f}" for value in [median, *stages.values()])
        print(f"  {name:<14}{numbers}{clips / median:9.1f}{growth:9.0f}")
    ratio = float(np.median(seconds["plain"] / seconds["ours"]))
    print(f"  plain / ours: {ratio:.2f} (aim: {setting.target})", flush=True)
    return float(np.median(seconds["ours"])), ratio


if __name__ == "__main__":
    sys.exit(main())
