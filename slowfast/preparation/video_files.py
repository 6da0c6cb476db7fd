"""Videos and frame folders below a local folder, as paths."""

from pathlib import Path

from slowfast.datasets.folders import find_frame_folders, find_videos, warn_about_other_files


def find_video_paths(folder: Path) -> list[Path]:
    """Return the videos at any depth below a folder, sorted, and warn about other files.

    The list is empty if there is no such folder.
    """
    if not folder.is_dir():
        return []
    found = find_videos(str(folder))
    warn_about_other_files(str(folder), found.other_files)
    return [folder / path for path in found.paths]


def find_frame_folder_paths(folder: Path) -> list[Path]:
    """Return the folders at any depth below a folder that hold files, sorted.

    The list is empty if there is no such folder.
    """
    if not folder.is_dir():
        return []
    return [folder / path for path in find_frame_folders(str(folder))]
