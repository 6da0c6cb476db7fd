"""Folders of empty video files, and the lists written for them."""

from pathlib import Path


def touch(folder: Path, *paths: str) -> Path:
    """Create empty files in a folder, which is returned."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


def make_classes(folder: Path, **num_videos: int) -> Path:
    """Create a folder per class with a number of videos, at two depths, and a text file."""
    for name, number in num_videos.items():
        (folder / name / "more videos").mkdir(parents=True)
        for index in range(number):
            subfolder = "more videos/" if index % 2 else ""
            touch(folder / name, f"{subfolder}video {index}.mp4")
        touch(folder / name, "notes.txt")
    return folder


def make_patients(folder: Path) -> Path:
    """Create 2 to 7 videos of each of 12 patients in each of two classes."""
    for patient in range(12):
        names = [f"p{patient:02d} {index}.mp4" for index in range(2 + patient % 6)]
        for class_name in ("fall", "walk"):
            touch(folder / class_name, *names)
    return folder


def read_splits(lists: Path) -> dict[str, tuple[str, int]]:
    """Return the split and the label of each video in the lists of a folder."""
    splits = {}
    for path in lists.glob("*.csv"):
        for line in path.read_text().splitlines():
            video, label = line.rsplit(",", 1)
            splits[video] = (path.stem, int(label))
    return splits
