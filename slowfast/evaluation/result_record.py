"""Record of a test, `test.json`: what it scores and with what. It precedes the first score."""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import simplejson

from slowfast.datasets.view_groups import ViewGroups
from slowfast.evaluation.shards import Shards
from slowfast.utils.files import read_json, write_json

FILE_NAME = "test.json"
SCORES_FOLDER = "scores"
ASIDE_NAME = "previous_tests"  # beside the folder of the test

_VERSION = 1
_REMEDY = "Move the folder away, and test again"


class ResultRecord(NamedTuple):
    """What a test scores and with what.

    Attributes:
        identity: Everything that the scores depend on, as plain data. A test with the same identity
            continues, see `differences`.
        class_names: Names of the classes, in the order of the head.
        num_videos: Number of videos of the list.
        num_clips: Number of temporal clips per video.
        num_crops: Number of spatial crops per clip.
        views_per_forward: Largest number of views in a forward pass.
        weights: Path of the weights when the test began.
        list_path: Path of the list when the test began, "" if it is not a file.
        is_labeled: Whether the videos of the list have labels.
    """

    identity: dict[str, Any]
    class_names: list[str]
    num_videos: int
    num_clips: int
    num_crops: int
    views_per_forward: int
    weights: str
    list_path: str
    is_labeled: bool = True

    @property
    def test_id(self) -> str:
        """A short ID that depends on the identity alone."""
        text = simplejson.dumps(self.identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def shards(self, folder: Path) -> Shards:
        """Return the score shards of the test in its folder."""
        num_views = self.num_clips * self.num_crops
        return Shards(
            folder / SCORES_FOLDER,
            self.test_id,
            ViewGroups(self.num_videos, num_views, self.views_per_forward),
            len(self.class_names),
        )


def write_record(folder: Path, record: ResultRecord) -> None:
    """Write `test.json` to the folder of a test."""
    write_json(folder / FILE_NAME, {"version": _VERSION, **record._asdict()})


def read_record(folder: Path) -> ResultRecord:
    """Return the record in the folder of a test.

    Raises:
        FileNotFoundError: If the folder holds no test.
        ValueError: If the record is damaged or has another version.
    """
    path = folder / FILE_NAME
    content = read_json(path, remedy=_REMEDY)
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        version = content.get("version") if isinstance(content, dict) else None
        raise ValueError(f"{path}: has version {version}, and not {_VERSION}. {_REMEDY}")
    try:
        defaults = ResultRecord._field_defaults
        values = {name: content[name] for name in ResultRecord._fields if name not in defaults}
        values |= {name: content.get(name, value) for name, value in defaults.items()}
        record = ResultRecord(**values)
    except KeyError as error:
        raise ValueError(f"{path}: lacks {error}. {_REMEDY}") from error
    return record


def differences(here: ResultRecord, there: ResultRecord) -> list[str]:
    """Return how the identities of two tests differ, one entry each, such as "dtype"."""
    names = sorted(here.identity.keys() | there.identity.keys())
    return [name for name in names if here.identity.get(name) != there.identity.get(name)]


def set_aside(folder: Path) -> Path:
    """Move the folder of a test among the previous tests beside it, and return its new path."""
    parent = folder.parent / ASIDE_NAME
    parent.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.name) for path in parent.iterdir() if path.name.isdecimal()]
    aside = parent / f"{max(numbers, default=0) + 1:03d}"
    os.rename(folder, aside)
    return aside
