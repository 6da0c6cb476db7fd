"""The embedded data set: small labeled videos, made on the spot, whose classes differ only in how something moves.

Classes come in opposite pairs, and each video has a twin in the opposite class: the same scene, its motion reversed. So
neither a single frame nor an unordered set of frames tells `left` from `right`, and no scene gives its class away.
"""

import math
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from slowfast.utils.files import read_json, write_file, write_json

CLASSES = (
    "left",
    "right",
    "up",
    "down",
    "clockwise",
    "anticlockwise",
    "growing",
    "shrinking",
)  # opposites adjoin
NUM_FRAMES = 32
FPS = 25
HEIGHT, WIDTH = 64, 80  # pixels
LEAST_CONTRAST = (
    0.5  # distance of two colors, of at most sqrt(3): shape from background, and within a texture
)

VIDEOS_PER_CLASS = {"train": 200, "val": 10, "test": 24}
_LIST_NAMES = {"train": "train", "val": "validation", "test": "test"}


class Task(NamedTuple):
    """One video to make."""

    split: str
    label: int
    number: int  # among those of its split and class

    @property
    def name(self) -> str:
        """File or folder name, without suffix."""
        return f"{self.split}/{CLASSES[self.label]}_{self.number:04d}"


def make_motion(
    folder: Path,
    *,
    seed: int = 0,
    videos_per_class: Mapping[str, int] = VIDEOS_PER_CLASS,
    as_frames: bool = False,
    num_processes: int = 1,
) -> bool:
    """Write the data set into a folder: H.264 files and Kinetics lists, or JPEG folders and Something-Something lists.

    Lists and `classes.txt` are written last, so that an interrupted call leaves a folder without lists.

    Args:
        folder: made where it is missing.
        seed: of all videos; the same seed gives the same videos.
        videos_per_class: for each of train, val and test.
        as_frames: folders of JPEG files instead of video files.
        num_processes: that share the work.

    Returns:
        False if the folder held this very data set already, and nothing was written.

    Raises:
        FileExistsError: the folder holds a data set of other settings.
        ValueError: the record of its settings is damaged.
    """
    settings = {"seed": seed, "videos_per_class": dict(videos_per_class), "as_frames": as_frames}
    record = folder / "motion.json"
    if record.exists():
        found = read_json(record, remedy="delete it, and the videos are made anew")
        if found == settings:
            return False
        raise FileExistsError(
            f"{folder} holds motion videos of other settings, {found}; choose another"
        )
    tasks = [
        Task(split, label, number)
        for split, count in videos_per_class.items()
        for number in range(count)
        for label in range(len(CLASSES))
    ]
    for split in videos_per_class:
        (folder / split).mkdir(parents=True, exist_ok=True)
    write = partial(_write_task, folder=folder, seed=seed, as_frames=as_frames)
    if num_processes > 1:
        with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
            list(pool.map(write, tasks, chunksize=16))
    else:
        list(map(write, tasks))
    for split in videos_per_class:
        _write_list(
            folder, split, [task for task in tasks if task.split == split], as_frames=as_frames
        )
    write_file(folder / "classes.txt", "".join(f"{name}\n" for name in CLASSES))
    write_json(record, settings)
    return True


def _write_list(folder: Path, split: str, tasks: list[Task], *, as_frames: bool) -> None:
    if as_frames:
        lines = [f"{task.name} {NUM_FRAMES} {task.label}\n" for task in tasks]
        write_file(folder / f"{_LIST_NAMES[split]}.txt", "".join(lines))
    else:
        write_file(
            folder / f"{split}.csv", "".join(f"{task.name}.mp4,{task.label}\n" for task in tasks)
        )


def _write_task(task: Task, *, folder: Path, seed: int, as_frames: bool) -> None:
    torch.set_num_threads(1)
    # One stream of draws per pair of twins: no two splits share a scene, and more videos leave the others as they are.
    split, pair = list(VIDEOS_PER_CLASS).index(task.split), task.label // 2
    frames = draw_video(task.label, np.random.default_rng((seed, split, pair, task.number)))
    if as_frames:
        target = folder / task.name
        target.mkdir(exist_ok=True)
        for number, frame in enumerate(frames, start=1):
            Image.fromarray(frame).save(target / f"{number:05d}.jpg", quality=92)
    else:
        write_video(folder / f"{task.name}.mp4", frames)


def write_video(
    path: Path,
    frames: NDArray[np.uint8],
    *,
    fps: int = FPS,
    codec_options: Mapping[str, str] | None = None,
) -> None:
    """Write frames (T, H, W, 3), RGB, even height and width, as an H.264 file: the same frames give the same file.

    Args:
        path: its suffix chooses the container.
        frames: uint8.
        fps: frames per second.
        codec_options: of libx264, such as crf, g (frames between keyframes) or bf (B-frames).
    """
    # With macroblock trees, x264 writes another file at each run on processors with AVX-512.
    options = {"crf": "18", "threads": "1", "mbtree": "0", **(codec_options or {})}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


# ---- Drawing ---------------------------------------------------------------------------------------------------------


def draw_video(label: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return one random video of a class, (NUM_FRAMES, HEIGHT, WIDTH, 3), RGB; its twin for the opposite class."""
    shake = _smooth_walk(rng, amplitude=rng.uniform(0, 0.5), dims=2)  # (T, 2), pixels
    ground = _ground(rng, shake)
    texture, outline = _texture(rng, cells=int(rng.integers(3, 7))), _outline(rng)
    while torch.dist(texture.mean(dim=(2, 3)), ground.mean(dim=(2, 3))[:1]) < LEAST_CONTRAST:
        texture = _texture(rng, cells=int(rng.integers(3, 7)))
    x, y, angle, log_scale = _motion(CLASSES[label], rng)
    radius = rng.uniform(20, 27) * np.exp(log_scale)
    inside, color = _shape_pixels(
        texture, outline, x=x + shake[:, 0], y=y + shake[:, 1], angle=angle, radius=radius
    )
    frames = ground + inside * (color - ground)
    light = 1 + _smooth_walk(rng, amplitude=rng.uniform(0, 0.02), dims=1)[:, :, None, None]
    frames = frames * torch.from_numpy(light * rng.uniform(0.6, 1.1)).float()
    return (
        (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    )  # (T, C, H, W) -> (T, H, W, C)


def _motion(name: str, rng: np.random.Generator) -> tuple[NDArray[np.float64], ...]:
    """Center x and y (pixels), angle (radians) and log of the scale over time: (T,) each, odd in time about the middle.

    All that is drawn is drawn alike for a class and its opposite; the class only sets the sign of time.
    """
    time = np.linspace(-1, 1, NUM_FRAMES)
    still = np.zeros(NUM_FRAMES)
    x = WIDTH / 2 + rng.uniform(-8, 8) + still
    y = HEIGHT / 2 + rng.uniform(-6, 6) + still
    angle, log_scale = rng.uniform(0, 2 * math.pi) + still, still
    travel, turn, growth = (
        rng.uniform(10, 18),
        math.radians(rng.uniform(60, 120)),
        rng.uniform(0.35, 0.6),
    )
    if name in ("left", "right"):
        x = x + travel * time * (1 if name == "right" else -1)
    elif name in ("up", "down"):
        y = y + travel * time * (1 if name == "down" else -1)
    elif name in ("clockwise", "anticlockwise"):
        angle = angle + turn * time * (1 if name == "clockwise" else -1)
    else:
        log_scale = growth * time * (1 if name == "growing" else -1)
    return x, y, angle, log_scale


def _smooth_walk(rng: np.random.Generator, *, amplitude: float, dims: int) -> NDArray[np.float64]:
    """Random slow movements about 0, (T, dims): sines of random phase, so alike in both directions of time."""
    time = np.arange(NUM_FRAMES)[:, None, None] / NUM_FRAMES
    frequency, phase = rng.uniform(0.5, 4, (1, dims, 3)), rng.uniform(0, 2 * math.pi, (1, dims, 3))
    return amplitude / 3 * np.sin(2 * math.pi * (frequency * time + phase)).sum(axis=2)


def _texture(rng: np.random.Generator, *, cells: int) -> Tensor:
    """A random smooth pattern of two colors, (1, 3, 64, 64)."""
    pattern = torch.from_numpy(rng.uniform(0, 1, (1, 1, cells + 2, cells + 2))).float()
    pattern = F.interpolate(pattern, size=(64, 64), mode="bicubic", align_corners=True)
    pattern = torch.sigmoid((pattern - 0.5) * rng.uniform(6, 20))
    first, second = _contrasting_colors(rng)
    return first + pattern * (second - first)


def _contrasting_colors(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Two random colors, (1, 3, 1, 1) each."""
    while True:
        first, second = (
            torch.from_numpy(rng.uniform(0, 1, (1, 3, 1, 1))).float() for _ in range(2)
        )
        if torch.dist(first, second) > LEAST_CONTRAST:
            return first, second


def _outline(rng: np.random.Generator) -> Tensor:
    """The distance of a shape's edge from its center in 64 directions, at most 1: a slim ellipse, polygon or star."""
    direction = np.linspace(0, 2 * math.pi, 64, endpoint=False)
    ratio = rng.uniform(0.5, 0.8)  # width over length, so that a turn shows
    stretched = np.arctan2(np.sin(direction), ratio * np.cos(direction)) % (2 * math.pi)
    stretch = ratio / np.sqrt((ratio * np.cos(direction)) ** 2 + np.sin(direction) ** 2)
    kind, corners = rng.integers(3), int(rng.integers(3, 6))
    if kind == 0:
        edge = np.ones(64)
    elif kind == 1:
        edge = math.cos(math.pi / corners) / np.cos(
            stretched % (2 * math.pi / corners) - math.pi / corners
        )
    else:
        edge = 0.75 + 0.25 * np.cos(corners * stretched)
    edge = edge * stretch
    return torch.from_numpy(edge / edge.max()).float()


def _pixel_centres() -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    return x, y


def _ground(rng: np.random.Generator, shake: NDArray[np.float64]) -> Tensor:
    """The background under a shaking camera, (T, 3, H, W)."""
    texture = _texture(rng, cells=int(rng.integers(2, 6)))
    texture = texture.mean(dim=(2, 3), keepdim=True).lerp(
        texture, rng.uniform(0.1, 0.4)
    )  # paler than the shape
    x, y = _pixel_centres()
    offset = torch.from_numpy(shake).float()[:, :, None, None]
    grid = torch.stack(
        [(x - offset[:, 0]) / WIDTH, (y - offset[:, 1]) / HEIGHT], dim=-1
    )  # (T, H, W, 2)
    return _look_up(texture, 1.8 * grid - 0.9)


def _shape_pixels(
    texture: Tensor,
    outline: Tensor,
    *,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    angle: NDArray[np.float64],
    radius: NDArray[np.float64],
) -> tuple[Tensor, Tensor]:
    """How far each pixel lies inside the shape, (T, 1, H, W) from 0 to 1, and its color there, (T, 3, H, W)."""
    centre_x, centre_y, angle_, radius_ = (
        torch.from_numpy(values).float()[:, None, None] for values in (x, y, angle, radius)
    )
    pixel_x, pixel_y = _pixel_centres()
    dx, dy = pixel_x - centre_x, pixel_y - centre_y
    # Rows count downwards, so a positive angle turns clockwise for the viewer.
    u = (torch.cos(angle_) * dx + torch.sin(angle_) * dy) / radius_
    v = (torch.cos(angle_) * dy - torch.sin(angle_) * dx) / radius_
    direction = (torch.atan2(v, u) / (2 * math.pi) * len(outline)).floor().long() % len(outline)
    distance = (outline[direction] - torch.sqrt(u**2 + v**2)) * radius_  # to the edge, in pixels
    inside = (distance + 0.5).clamp(0, 1)[:, None]
    return inside, _look_up(texture, torch.stack([u, v], dim=-1).clamp(-1, 1))


def _look_up(texture: Tensor, grid: Tensor) -> Tensor:
    """The colors of a texture (1, 3, h, w) at places (T, H, W, 2) in [-1, 1]: (T, 3, H, W)."""
    return F.grid_sample(
        texture.expand(len(grid), -1, -1, -1), grid, padding_mode="reflection", align_corners=False
    )
