"""Ten-second H.264 videos with B-frames, detail at all scales, motion and sensor noise."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from slowfast.preparation.motion import write_video

HEIGHT, WIDTH, FPS, SECONDS = 256, 340, 30, 10
_OBJECT_SIDE = 90  # Pixels.


def write_videos(folder: Path, *, count: int) -> None:
    """Write videos to a folder, with a list of all of them for each split."""
    for index in range(count):
        path = folder / f"{index}.mp4"
        write_video(path, _render(index), fps=FPS, codec_options={"crf": "23", "bf": "3"})
    for split in ("train", "val", "test"):
        lines = [f"{index}.mp4,{index}\n" for index in range(count)]
        (folder / f"{split}.csv").write_text("".join(lines))


def _render(seed: int) -> NDArray[np.uint8]:
    """Return the frames (T, H, W, 3) of a camera panning over a scene with a moving object."""
    rng = np.random.default_rng(seed)
    scene = _texture(rng, 2 * HEIGHT, 2 * WIDTH)
    moving_object = _texture(rng, _OBJECT_SIDE, _OBJECT_SIDE)

    frames = np.empty((FPS * SECONDS, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for t in range(len(frames)):
        top, left = _oscillate(t / 90, 255), _oscillate(t / 90 + 1, 339)
        image = scene[top : top + HEIGHT, left : left + WIDTH].copy()
        y, x = _oscillate(t / 23 + 2, 165), _oscillate(t / 23 + 4, 249)
        image[y : y + _OBJECT_SIDE, x : x + _OBJECT_SIDE] = moving_object
        frames[t] = (image + rng.normal(0, 3, image.shape)).clip(0, 255)
    return frames


def _oscillate(phase: float, size: int) -> int:
    return round((1 + math.sin(phase)) / 2 * size)


def _texture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Return an image (H, W, 3) from 0 to 255 with detail at all scales."""
    image = torch.zeros(1, 3, height, width)
    for cells in (4, 8, 16, 32, 64):
        noise = torch.from_numpy(rng.uniform(-1, 1, (1, 3, cells, cells))).float()
        image += F.interpolate(noise, (height, width), mode="bicubic") / math.sqrt(cells)
    return ((image + 1).clamp(0, 2) * 127)[0].permute(1, 2, 0).numpy()
