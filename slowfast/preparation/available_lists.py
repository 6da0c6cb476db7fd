"""Lists of the videos of a published dataset that you have."""

from collections.abc import Iterable, Mapping, Sequence
from os.path import basename, splitext
from pathlib import Path
from typing import NamedTuple

from slowfast.datasets.annotation_lists import format_row
from slowfast.datasets.annotations import Annotations
from slowfast.datasets.class_name_files import format_class_names
from slowfast.datasets.decode import FrameFolder
from slowfast.datasets.folders import is_video_name
from slowfast.datasets.records import Video
from slowfast.preparation.lists import write_texts
from slowfast.preparation.video_files import find_frame_folder_paths, find_video_paths
from slowfast.utils.text import count


class AvailableList(NamedTuple):
    """The list that was written for a split."""

    path: Path
    num_listed: int  # videos of the published list
    num_missing: int


def write_available_lists(
    annotations: Mapping[str, Annotations],
    lists: Path,
    *,
    videos: Path,
    class_names: Sequence[str],
    list_names: Mapping[str, str],
    frame_template: str | None = None,
) -> dict[str, AvailableList]:
    """Write lists of the annotated videos that are below a folder, at any depth.

    A video is found by its path, whatever its suffix, or else by its name alone. Videos that are
    not found are named in missing_<split>.txt.

    Args:
        annotations: The published lists, by split.
        lists: The folder of the new lists, missing_<split>.txt and classes.txt.
        videos: The folder of the videos. Paths in the new lists are relative to it.
        class_names: The names of the classes, in the order of the labels.
        list_names: The file name of each new list, by split.
        frame_template: The template of the names of frame files, to write
            `folder num_frames label` lists of frame folders, or None for `path,label` lists of
            video files.

    Returns:
        The new lists, by split.

    Raises:
        FileNotFoundError: If there are no videos, or none of a list.
        FileExistsError: If a list exists with other content.
        ValueError: If several files match a listed video.
    """
    if frame_template is None:
        index = _VideoIndex(find_video_paths(videos), videos)
    else:
        index = _VideoIndex(find_frame_folder_paths(videos), videos)

    texts = {"classes.txt": format_class_names(class_names)}
    available = {}
    for split, rows in annotations.items():
        lines, missing = [], []
        for row in range(len(rows)):
            video = rows[row]
            path = index.find(video.path)
            if path is None:
                missing.append(f"{video.path}\n")
            elif frame_template is None:
                lines.append(format_row(path, video.label, *(video.span or ()), separator=","))
            else:
                lines.append(
                    _format_frame_row(videos / path, path, video=video, template=frame_template)
                )

        if not lines:
            number = count(len(rows), "video")
            raise FileNotFoundError(
                f"{videos}: has none of the {number} of {split}. The first is {rows[0].path}"
            )
        texts[list_names[split]] = "".join(lines)
        if missing:
            texts[f"missing_{split}.txt"] = "".join(missing)
        available[split] = AvailableList(lists / list_names[split], len(rows), len(missing))

    _check_unchanged(lists, texts)
    write_texts(lists, texts)
    return available


def _format_frame_row(folder: Path, path: str, *, video: Video, template: str) -> str:
    num_frames = FrameFolder(str(folder), template=template).num_frames
    return format_row(path, num_frames, video.label, separator=" ")


class _VideoIndex:
    """The videos below a folder by name, without suffix."""

    def __init__(self, paths: Iterable[Path], folder: Path) -> None:
        self._folder = folder
        self._paths_by_name: dict[str, list[str]] = {}
        for path in paths:
            relative = path.relative_to(folder).as_posix()
            name = basename(_without_suffix(relative))
            self._paths_by_name.setdefault(name, []).append(relative)

        if not self._paths_by_name:
            raise FileNotFoundError(f"{folder}: no such folder, or no videos in it")

    def find(self, listed: str) -> str | None:
        """Return the path of a listed video, relative to the folder, or None."""
        stem = _without_suffix(listed)
        same_name = self._paths_by_name.get(basename(stem), [])
        exact = [path for path in same_name if path == listed]
        same_stem = [path for path in same_name if _without_suffix(path) == stem]

        candidates = exact or same_stem or same_name
        if len(candidates) > 1:
            raise ValueError(
                f"{self._folder}: {listed} matches {' and '.join(candidates)}. Remove all but one"
            )
        return candidates[0] if candidates else None


def _without_suffix(path: str) -> str:
    return splitext(path)[0] if is_video_name(path) else path


def _check_unchanged(lists: Path, texts: Mapping[str, str]) -> None:
    """Raise an error if a file exists with other content."""
    for name, text in texts.items():
        path = lists / name
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise FileExistsError(
                f"{path} exists with other rows. Remove it or choose another folder"
            )
