"""The embedded dataset: small labeled videos whose classes differ only in how something moves.

Classes come in opposite pairs, and each video has a twin in the opposite class: the same scene with
its motion reversed. So neither a single frame nor an unordered set of frames tells `left` from
`right`, and no scene gives its class away.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from slowfast.preparation.encode import write_video
from slowfast.preparation.motion_classes import CLASSES, FPS, NUM_FRAMES, VIDEOS_PER_CLASS
from slowfast.preparation.motion_scenes import draw_scene
from slowfast.utils.files import read_json, write_file, write_json

JPEG_QUALITY = 92
_FRAME_LIST_NAMES = {"train": "train", "val": "validation", "test": "test"}


class _Video(NamedTuple):
    split: str
    label: int
    number: int  # within its split and class, from 0

    @property
    def name(self) -> str:
        """The path of the file or folder, without suffix."""
        return f"{self.split}/{CLASSES[self.label]}_{self.number:04d}"


def make_motion(
    folder: Path,
    *,
    seed: int = 0,
    videos_per_class: Mapping[str, int] = VIDEOS_PER_CLASS,
    as_frames: bool = False,
    num_processes: int = 1,
) -> bool:
    """Write the dataset: H.264 files with Kinetics lists, or JPEG folders with frame lists.

    For each split, `boxes_<split>.npy` says where the shape is: an array of shape (videos of the
    list, NUM_FRAMES, 4) with its top, left, bottom and right edge in pixels.

    The lists and `classes.txt` are written last, so a call that is interrupted leaves no lists.

    Args:
        folder: The folder of the dataset, created if it is missing.
        seed: The seed of all videos. The same seed gives the same videos.
        videos_per_class: The number of videos of each class in train, val and test.
        as_frames: Whether to write folders of JPEG files, as Something-Something is read.
        num_processes: The number of processes.

    Returns:
        False if the folder already holds this dataset and nothing was written.

    Raises:
        FileExistsError: If the folder holds a dataset with other settings.
        ValueError: If the record of the settings is damaged.
    """
    settings = {"seed": seed, "videos_per_class": dict(videos_per_class), "as_frames": as_frames}
    record = folder / "motion.json"
    if record.exists():
        found = read_json(record, remedy="Delete it to make the videos again")
        if found == settings:
            return False
        raise FileExistsError(
            f"{folder} holds motion videos with other settings, {found}. Choose another folder"
        )

    for split in videos_per_class:
        (folder / split).mkdir(parents=True, exist_ok=True)
    videos = _list_videos(videos_per_class)
    write = partial(_write_motion_video, folder=folder, seed=seed, as_frames=as_frames)
    if num_processes > 1:
        with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
            boxes = list(pool.map(write, videos, chunksize=16))
    else:
        boxes = list(map(write, videos))

    for split in videos_per_class:
        in_split = [video for video in videos if video.split == split]
        _write_list(folder, in_split, split=split, as_frames=as_frames)
        boxes_in_split = [
            box for video, box in zip(videos, boxes, strict=True) if video.split == split
        ]
        _write_array(folder / f"boxes_{split}.npy", np.stack(boxes_in_split))
    write_file(folder / "classes.txt", "".join(f"{name}\n" for name in CLASSES))
    write_json(record, settings)
    return True


def _list_videos(videos_per_class: Mapping[str, int]) -> list[_Video]:
    videos = []
    for split, num_videos in videos_per_class.items():
        for number in range(num_videos):
            videos += [_Video(split, label, number) for label in range(len(CLASSES))]
    return videos


def _write_list(folder: Path, videos: Iterable[_Video], *, split: str, as_frames: bool) -> None:
    if as_frames:
        path = folder / f"{_FRAME_LIST_NAMES[split]}.txt"
        lines = [f"{video.name} {NUM_FRAMES} {video.label}\n" for video in videos]
    else:
        path = folder / f"{split}.csv"
        lines = [f"{video.name}.mp4,{video.label}\n" for video in videos]
    write_file(path, "".join(lines))


def _write_array(path: Path, array: NDArray) -> None:
    write_file(path, lambda file: np.save(file, array))


def _write_motion_video(
    video: _Video, *, folder: Path, seed: int, as_frames: bool
) -> NDArray[np.int16]:
    """Write a video and return the boxes of its shape, see `Scene`."""
    torch.set_num_threads(1)

    # One random stream per pair of twins: splits share no scene, and more videos change no others.
    split_index, pair = list(VIDEOS_PER_CLASS).index(video.split), video.label // 2
    rng = np.random.default_rng((seed, split_index, pair, video.number))
    frames, boxes = draw_scene(video.label, rng)

    if not as_frames:
        write_video(folder / f"{video.name}.mp4", frames, fps=FPS)
        return boxes
    target = folder / video.name
    target.mkdir(exist_ok=True)
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(target / f"{number:05d}.jpg", quality=JPEG_QUALITY)
    return boxes
