"""The embedded dataset: what its classes mean, and the files and lists that are written."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from slowfast.datasets.decode import FrameFolder, VideoFile
from slowfast.preparation.motion import make_motion
from slowfast.preparation.motion_classes import CLASSES, HEIGHT, NUM_FRAMES, WIDTH
from slowfast.preparation.motion_scenes import draw_scene, draw_trajectory

COUNTS = {"train": 2, "val": 1, "test": 1}
OPPOSITES = [
    ("left", "right"),
    ("up", "down"),
    ("clockwise", "anticlockwise"),
    ("growing", "shrinking"),
]


@pytest.mark.parametrize(("first", "second"), OPPOSITES)
def test_opposite_classes_are_each_other_backwards(first: str, second: str) -> None:
    # The same draws give the same path in the other direction: as sets of frames, they are equal.
    one, other = (draw_trajectory(name, np.random.default_rng(3)) for name in (first, second))
    for forwards, backwards in zip(one, other, strict=True):
        np.testing.assert_allclose(forwards, backwards[::-1])
    assert not all(
        np.allclose(forwards, backwards) for forwards, backwards in zip(one, other, strict=True)
    )


def center_of_change(frames: np.ndarray) -> np.ndarray:
    """Return the mean position (x, y) of what differs from the median image, per frame."""
    change = np.abs(frames.astype(float) - np.median(frames, axis=0)).sum(axis=-1)
    change = np.where(change > 60, change, 0)
    weights = change.sum(axis=(1, 2)) + 1e-9
    x = (change.sum(axis=1) * np.arange(frames.shape[2])).sum(axis=1) / weights
    y = (change.sum(axis=2) * np.arange(frames.shape[1])).sum(axis=1) / weights
    return np.stack([x, y], axis=1)


@pytest.mark.parametrize(
    ("name", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)]
)
def test_shapes_move_in_the_direction_of_their_class(name: str, axis: int, sign: int) -> None:
    moves = []
    for seed in range(10):
        center = center_of_change(
            draw_scene(CLASSES.index(name), np.random.default_rng(seed)).frames
        )
        moves.append(center[-6:, axis].mean() - center[:6, axis].mean())
    assert np.median(moves) * sign > 5


def test_the_usual_readers_read_the_files_and_lists(tmp_path: Path) -> None:
    assert make_motion(tmp_path, videos_per_class=COUNTS)
    lines = (tmp_path / "train.csv").read_text().splitlines()
    assert len(lines) == 2 * len(CLASSES)
    path, label = lines[0].split(",")
    assert CLASSES[int(label)] in path
    with VideoFile(str(tmp_path / path)) as video:
        assert video.read(range(video.num_frames)).shape == (NUM_FRAMES, HEIGHT, WIDTH, 3)
    assert (tmp_path / "classes.txt").read_text().split() == list(CLASSES)


def test_frame_folders_hold_the_same_clips(tmp_path: Path) -> None:
    make_motion(tmp_path / "video", videos_per_class=COUNTS)
    make_motion(tmp_path / "frames", videos_per_class=COUNTS, as_frames=True)
    name, count, label = (tmp_path / "frames/train.txt").read_text().split()[:3]
    assert (int(count), CLASSES[int(label)]) == (NUM_FRAMES, name.split("/")[1][:-5])
    with FrameFolder(
        str(tmp_path / "frames" / name), template="{:05d}.jpg", num_frames=NUM_FRAMES
    ) as folder:
        images = folder.read(range(NUM_FRAMES)).astype(float)
    with VideoFile(str(tmp_path / "video" / f"{name}.mp4")) as video:
        frames = video.read(range(NUM_FRAMES)).astype(float)
    assert np.abs(images - frames).mean() < 8  # both are lossy


def test_a_seed_gives_the_same_videos_and_another_seed_others(tmp_path: Path) -> None:
    def digests(folder: Path) -> list[str]:
        return [
            hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.mp4"))
        ]

    make_motion(tmp_path / "a", seed=1, videos_per_class=COUNTS)
    make_motion(tmp_path / "b", seed=1, videos_per_class=COUNTS)
    make_motion(tmp_path / "c", seed=2, videos_per_class=COUNTS)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    # No video is written twice, in one split or in two.
    assert len(set(digests(tmp_path / "a")) | set(digests(tmp_path / "c"))) == 2 * 4 * len(CLASSES)


def test_an_existing_dataset_is_never_overwritten(tmp_path: Path) -> None:
    assert make_motion(tmp_path, videos_per_class=COUNTS)
    assert not make_motion(tmp_path, videos_per_class=COUNTS)
    with pytest.raises(FileExistsError, match="holds motion videos with other settings"):
        make_motion(tmp_path, seed=9, videos_per_class=COUNTS)


@pytest.mark.parametrize("content", ["", '{"seed": 0'])
def test_a_damaged_record_names_the_remedy(tmp_path: Path, content: str) -> None:
    (tmp_path / "motion.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"motion\.json: is .*. Delete it to make the videos again$"
    ):
        make_motion(tmp_path, videos_per_class=COUNTS)


def test_boxes_enclose_what_moves(tmp_path: Path) -> None:
    make_motion(tmp_path, videos_per_class=COUNTS)
    lines = (tmp_path / "test.csv").read_text().splitlines()
    boxes = np.load(tmp_path / "boxes_test.npy")
    assert boxes.shape == (len(lines), NUM_FRAMES, 4)

    row = next(row for row, line in enumerate(lines) if "/right_" in line)
    with VideoFile(str(tmp_path / lines[row].split(",")[0])) as video:
        frames = video.read([0, NUM_FRAMES - 1]).astype(float)
    change = np.abs(frames[1] - frames[0]).sum(axis=-1) > 100
    outside = np.ones_like(change)
    for top, left, bottom, right in boxes[row][[0, -1]]:
        outside[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = False
    assert change.sum() > 100
    assert (change & outside).sum() < 0.02 * change.sum()
    assert boxes[row, -1, 1] > boxes[row, 0, 1]  # it moved to the right
