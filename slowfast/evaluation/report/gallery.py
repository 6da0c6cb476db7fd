"""Gallery of a test: videos with what the model looked at, kept beside the report that shows them.

It is one file, `gallery.json`, with the pictures inside. It belongs to one test: the gallery of
another one is left alone when it is read, and replaced when videos are added.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slowfast.evaluation.result import GALLERY_NAME
from slowfast.utils.files import read_json, write_json

MAX_VIDEOS = 24  # the newest ones

_VERSION = 1
_REMEDY = "Delete it, and explain the videos again"


class GalleryVideo(NamedTuple):
    """A video of a test with the explanation of a class.

    Attributes:
        row: Row of the list, from 0.
        path: Name in the list.
        label: Name of its class, "" in a list without labels.
        target: Name of the class that is explained.
        probability: Probability of this class.
        method: How it was explained, such as "rollout" or "grad-cam of stage 4".
        check: What the deletion and insertion curves say, "" without curves.
        image: Frames above the same frames with their heat, as the data URI of a JPEG file.
    """

    row: int
    path: str
    label: str
    target: str
    probability: float
    method: str
    check: str
    image: str


def read_gallery(folder: Path, *, test_id: str | None) -> list[GalleryVideo]:
    """Return the gallery of a test, in the order of the list. It is empty if there is none.

    Args:
        folder: Folder of the test.
        test_id: Entry `test_id` of its metrics.json. The gallery of another test counts as none.

    Raises:
        ValueError: If the file is damaged or of another version.
    """
    videos = _read(folder / GALLERY_NAME, test_id=test_id)
    return sorted(videos, key=lambda video: (video.row, video.target))


def add_to_gallery(folder: Path, videos: Sequence[GalleryVideo], *, test_id: str) -> None:
    """Add videos to the gallery of a test. They replace those with the same row and target.

    Args:
        folder: Folder of the test.
        videos: The videos. If the gallery has more than MAX_VIDEOS then, the oldest ones go.
        test_id: Entry `test_id` of its metrics.json.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If the file is damaged or of another version.
    """
    path = folder / GALLERY_NAME
    new = {(video.row, video.target) for video in videos}
    kept = [x for x in _read(path, test_id=test_id) if (x.row, x.target) not in new]
    newest = [*kept, *videos][-MAX_VIDEOS:]
    content = [video._asdict() for video in newest]
    write_json(path, {"version": _VERSION, "test_id": test_id, "videos": content})


def _read(path: Path, *, test_id: str | None) -> list[GalleryVideo]:
    if not path.exists():
        return []

    content = read_json(path, remedy=_REMEDY)
    version = content.get("version") if isinstance(content, dict) else None
    if version != _VERSION:
        raise ValueError(
            f"{path}: has version {version}, but this code reads version {_VERSION}. {_REMEDY}"
        )
    if content.get("test_id") != test_id:
        return []
    videos = content.get("videos")
    if not isinstance(videos, list) or not all(map(_is_video, videos)):
        raise ValueError(f"{path}: is damaged. {_REMEDY}")
    return [GalleryVideo(**video) for video in videos]


def _is_video(entry: Any) -> bool:
    """Return whether plain data has the fields of a `GalleryVideo`, with a picture and no more."""
    fields = GalleryVideo.__annotations__
    return (
        isinstance(entry, dict)
        and entry.keys() == fields.keys()
        and all(isinstance(entry[name], kind) for name, kind in fields.items())
        and entry["image"].startswith("data:image/jpeg;base64,")
    )
