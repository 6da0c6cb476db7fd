"""Clips per second, seconds per stage and memory of the data pipeline on one core, against the plain published way.

`python benchmarks/data.py [--repeats N] [--step-seconds S --batch B]` makes ten-second videos of 340x256 pixels (H.264
with B-frames) and loads training samples and test videos from them, in turns with a baseline that opens the video for
each view, decodes up to the end of the clip, converts every decoded frame, augments whole frames with Pillow, and normalises
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
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor

from slowfast.config import load_cfg
from slowfast.datasets import VideoLoader, build_loader
from slowfast.datasets.motion import write_video
from slowfast.datasets.sampling import DenseClips
from slowfast.datasets.transforms import random_resized_box

REPOSITORY = Path(__file__).parents[1]
HEIGHT, WIDTH, FPS, SECONDS = 256, 340, 30, 10
MEAN, STD, SIZE = 0.45, 0.225, 224
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
        views = ["TEST.NUM_ENSEMBLE_VIEWS", str(self.num_clips), "TEST.NUM_SPATIAL_CROPS", str(self.num_crops)]
        return ["DATA.NUM_FRAMES", "16", "DATA.SAMPLING_RATE", "4", "DATA_LOADER.NUM_WORKERS", "0", *views]


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
            top, left = (round((1 + math.sin(t / 90 + phase)) / 2 * size) for phase, size in ((0, 255), (1, 339)))
            image = scene[top : top + HEIGHT, left : left + WIDTH].copy()
            y, x = (round((1 + math.sin(t / 23 + phase)) / 2 * size) for phase, size in ((2, 165), (4, 249)))
            image[y : y + 90, x : x + 90] = thing
            frames[t] = (image + rng.normal(0, 3, image.shape)).clip(0, 255)
        write_video(folder / f"{number}.mp4", frames, fps=FPS, codec_options={"crf": "23", "bf": "3"})
    for split in ("train", "val", "test"):
        (folder / f"{split}.csv").write_text("".join(f"{number}.mp4,{number}\n" for number in range(count)))


def _texture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """A picture with detail at all scales, (H, W, 3), from 0 to 255."""
    layers = [
        F.interpolate(
            torch.from_numpy(rng.uniform(-1, 1, (1, 3, cells, cells))).float(), (height, width), mode="bicubic"
        )
        / math.sqrt(cells)
        for cells in (4, 8, 16, 32, 64)
    ]
    return ((sum(layers) + 1).clamp(0, 2) * 127)[0].permute(1, 2, 0).numpy()  # type: ignore[union-attr]


# ---- The baseline ----------------------------------------------------------------------------------------------------


def plain_train_sample(path: str, seed: int, decode: Callable[[str, Sequence[int]], Frames]) -> list[Tensor]:
    """Two augmented samples of a random clip, the plain way."""
    rng = np.random.default_rng(seed)
    random.seed(seed)
    clips = DenseClips(num_frames=16, sampling_rate=4, num_clips=1, use_offset=True)
    frames = decode(path, clips.random(FPS * SECONDS, rng).tolist())
    samples = []
    for _ in range(2):
        images = plain_augment(frames)
        clip = plain_normalise(images)
        box = random_resized_box(HEIGHT, WIDTH, scale=(0.08, 1), aspect=(0.75, 1.3333), rng=rng)
        clip = clip[:, :, box.top : box.top + box.height, box.left : box.left + box.width]
        clip = plain_resize(clip, SIZE, SIZE)
        if rng.random() < 0.5:
            clip = clip.flip(3)
        if rng.random() < 0.25:
            clip[:, :, 60:130, 60:130] = torch.randn(3, 16, 70, 70)
        samples.append(clip)
    return samples


def plain_test_view(path: str, clip: int, crop: int, *, num_clips: int, decode: Callable[..., Frames]) -> Tensor:
    """One view of a test, the plain way."""
    clips = DenseClips(num_frames=16, sampling_rate=4, num_clips=num_clips, use_offset=True)
    frames = plain_normalise(decode(path, clips.numbered(FPS * SECONDS, clip).tolist()))
    frames = plain_resize(frames, SIZE, WIDTH * SIZE // HEIGHT)
    left = (0, (frames.shape[3] - SIZE) // 2, frames.shape[3] - SIZE)[crop]
    return frames[:, :, :, left : left + SIZE]


def plain_decode(path: str, numbers: Sequence[int]) -> Frames:
    """The wanted frames: seek, decode to the end of the clip's span, convert each frame, take what is wanted."""
    with plain_open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        assert stream.time_base is not None
        per_frame = int(1 / (FPS * stream.time_base))
        container.seek(numbers[0] * per_frame, stream=stream)
        span = {}
        for frame in plain_decode_next(container):
            assert frame.pts is not None
            number = frame.pts // per_frame
            image = plain_convert(frame)
            if number >= numbers[0]:
                span[number] = image
            if number >= numbers[-1]:
                break
    return np.stack([span[number] for number in numbers])


def plain_open(path: str) -> av.container.InputContainer:
    """Open a video."""
    return av.open(path)


def plain_decode_next(container: av.container.InputContainer) -> "Iterator[av.VideoFrame]":  # type: ignore[name-defined] # noqa: F821
    """Decode frame by frame."""
    yield from container.decode(video=0)


def plain_convert(frame: av.VideoFrame) -> Frames:
    """Convert to RGB."""
    return frame.to_rgb().to_ndarray()  # type: ignore[return-value]


def plain_augment(frames: Frames) -> list[Image.Image]:
    """RandAugment on whole frames, all with the same draws."""
    augment = rand_augment_transform("rand-m7-n4-mstd0.5-inc1", {"interpolation": Image.Resampling.BICUBIC})
    seed = random.randrange(2**32)
    images = []
    for frame in frames:
        random.seed(seed)
        np.random.seed(seed)
        images.append(augment(Image.fromarray(frame)))
    return images


def plain_normalise(images: Sequence[Image.Image] | Frames) -> Tensor:
    """Convert whole frames to float, (3, T, H, W)."""
    frames = torch.stack([torch.from_numpy(np.array(image)) for image in images])
    return ((frames.float() / 255 - MEAN) / STD).permute(3, 0, 1, 2)


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

STAGES = {  # function -> stage, ours and the baseline's
    "open": ("__init__ (decode.py)", "plain_open"),
    "decode": ("_decode_from", "plain_decode_next"),
    "convert": ("_to_image", "plain_convert"),
    "augment": ("apply (rand_augment.py)", "plain_augment"),
    "resize": ("resize", "plain_resize", "to_float", "normalise", "plain_normalise"),
    "collate": ("_allocate", "stack_views"),
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
        load_cfg(str(REPOSITORY / "configs/kinetics.yaml"), [*paths, *setting.overrides]), setting.split
    )


def runners(setting: Setting, folder: Path) -> dict[str, Callable[[int], object]]:
    """Ways to load video number n of the folder."""
    loader = our_loader(setting, folder)
    requests = {request.video: request for batch in loader.batch_sampler for request in batch}

    def ours(number: int) -> Tensor:
        request = requests[number % len(requests)]
        seed = None if request.seed is None else (*request.seed, number)
        return loader.dataset[request._replace(seed=seed)].frames

    def plain(number: int) -> Tensor:
        return plain_item(setting, str(folder / f"{number % len(requests)}.mp4"), number, plain_decode)

    def with_decord(number: int) -> Tensor:
        return plain_item(setting, str(folder / f"{number % len(requests)}.mp4"), number, decord_decode)

    found: dict[str, Callable[[int], object]] = {"ours": ours, "plain": plain}
    try:
        import decord  # noqa: F401

        found["plain, decord"] = with_decord
    except ImportError:
        pass
    return found


def time_in_turns(ways: dict[str, Callable[[int], object]], *, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each way, repeat by repeat: neighbours in time are comparable on a noisy machine."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats + 1):
        for name, load in ways.items():
            start = time.perf_counter()
            load(number)
            if number:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    return seconds


def stage_seconds(load: Callable[[int], object], *, repeats: int) -> dict[str, float]:
    """Return the mean seconds per call in each stage, and in the rest."""
    profile = cProfile.Profile()
    profile.enable()
    for number in range(1, repeats + 1):
        load(number)
    profile.disable()
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    found = dict.fromkeys(STAGES, 0.0)
    total = sum(own for _, _, own, _, _ in stats.values())
    for (path, _, name), (_, _, _, cumulative, _) in stats.items():
        for stage, names in STAGES.items():
            if name in names or f"{name} ({Path(path).name})" in names:
                found[stage] += cumulative
    return {stage: value / repeats for stage, value in (found | {"rest": total - sum(found.values())}).items()}


def peak_growth(load: Callable[[int], object], *, repeats: int) -> float:
    """Return by how many MB a process of its own grows, at its peak, while it loads."""
    answers = get_context("fork").SimpleQueue()

    def measure() -> None:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is resident now
        before = _memory("VmRSS")
        for number in range(repeats):
            load(number)
        answers.put(_memory("VmHWM") - before)

    process = get_context("fork").Process(target=measure)
    process.start()
    growth = answers.get()
    process.join()
    return growth


def _memory(name: str) -> float:
    return int(re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024


def main() -> int:
    """Print the tables; the exit status says whether every ratio reaches its target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=24, help="videos per way of loading")
    parser.add_argument("--step-seconds", type=float, default=0.5, help="of a training step, for the number of workers")
    parser.add_argument("--batch", type=int, default=8, help="videos per step and process")
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core
    torch.set_num_threads(1)
    reached = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_videos(folder, count=8)
        for setting in SETTINGS:
            repeats = args.repeats if setting.num_crops == 1 else max(args.repeats // 4, 3)
            reached &= report(setting, runners(setting, folder), repeats=repeats)
            if setting.split == "train":
                seconds = min(time_in_turns({"ours": runners(setting, folder)["ours"]}, repeats=8)["ours"])
                workers = math.ceil(args.batch * seconds / args.step_seconds)
                print(
                    f"  steps of {args.step_seconds} s with {args.batch} videos need {workers} workers per process "
                    "(DATA_LOADER.NUM_WORKERS) of this speed"
                )
    return 0 if reached else 1


def report(setting: Setting, ways: dict[str, Callable[[int], object]], *, repeats: int) -> bool:
    """Print one table; returns whether the ratio reaches its target."""
    seconds = time_in_turns(ways, repeats=repeats)
    clips = (2 if setting.split == "train" else setting.num_clips) * setting.num_crops
    print(f"\n{setting.title}: ms per video, median of {repeats}")
    print(f"  {'':<14}{'total':>9}" + "".join(f"{stage:>9}" for stage in [*STAGES, "rest"]) + "  clips/s  peak MB")
    for name, load in ways.items():
        stages = stage_seconds(load, repeats=max(repeats // 3, 2))
        median = float(np.median(seconds[name]))
        numbers = "".join(f"{1000 * value:9.1f}" for value in [median, *stages.values()])
        print(f"  {name:<14}{numbers}{clips / median:9.1f}{peak_growth(load, repeats=4):9.0f}")
    ratio = float(np.median(np.array(seconds["plain"]) / np.array(seconds["ours"])))
    print(f"  plain / ours: {ratio:.2f} (aim: {setting.target})", flush=True)
    return ratio >= setting.target


if __name__ == "__main__":
    sys.exit(main())
