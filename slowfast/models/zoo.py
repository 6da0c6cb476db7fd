"""Published weights by name, and files of weights by name, path or address."""

import difflib
import os
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from os.path import basename, expanduser, join
from typing import NamedTuple

import yaml

from slowfast.utils.checkpoint import local_file
from slowfast.utils.checksum import sha256_of
from slowfast.utils.exported_folder import CONFIG_NAME, WEIGHTS_NAME, exported_at, read_exported
from slowfast.utils.hub import (
    HUB_PREFIX,
    Repository,
    fetch_files,
    find_cached,
    parse_repository,
)
from slowfast.utils.paths import pathmgr
from slowfast.utils.published_classes import published_classes

WEIGHTS_DIR = "WEIGHTS_DIR"  # Environment variable that stands in for MODEL.WEIGHTS_DIR.


class Published(NamedTuple):
    """A published file of weights."""

    file: str  # Name of the file in the folder of weights.
    page: str  # Web page or address to download it from.
    dataset: str  # Dataset whose classes the head predicts.
    top1: float  # Published top-1 accuracy in percent.
    model: str = ""  # Name of the model for slowfast.create_model.
    num_frames: int = 0  # Frames of a clip. 0 for weights of images.
    sampling_rate: int = 0  # Frames of the video per frame of the clip. 0 for one of each segment.
    crop_size: int = 0  # Height and width of a clip in pixels. 0 for those of the model.
    experiment: str = ""  # Folder under exp/ with the config that trained it.
    sorted_classes: bool = False  # Whether the head orders the classes alphabetically.
    sha256: str = ""  # Hash of the file or its first digits. Empty if unknown.
    hub: str = ""  # Repository on the Hugging Face Hub that may have the file.


@cache
def published() -> Mapping[str, Published]:
    """Return all published files of weights by name."""
    text = (files("slowfast.models") / "zoo.yaml").read_text(encoding="utf-8")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast
    tree = yaml.load(text, Loader=loader)
    return {name: Published(**fields) for name, fields in tree.items()}


def find_published(weights: str) -> Published | None:
    """Return the published file of a name, path or address, or None if it is none of them."""
    return published().get(weights) or _find_entry(weights, published())


def published_class_names(path: str) -> list[str]:
    """Return the class names of the head of a published file, in order of its rows.

    Args:
        path: Path or address of the file. Only its base name is compared.

    Returns:
        Class names, or an empty list if the file or the order of its classes is unknown.
    """
    entry = _find_entry(path, published())
    if entry is None:
        return []
    names = published_classes(entry.dataset)
    return sorted(names) if entry.sorted_classes else names


def find_weights(
    weights: str,
    *,
    key: str,
    folder: str = "",
    zoo: Mapping[str, Published] | None = None,
    may_download: bool = True,
) -> str:
    """Return the path or address of an existing file of weights.

    A file that carries the name of a published file must be that file, and the weights of an
    exported folder must be those that its config.json names. A published name is looked
    up in the folder of weights, then in the cache of the Hugging Face Hub, then on its server. A
    download is logged. It happens once: the next call, of any process, finds the file in the cache
    and sends no request.

    Args:
        weights: Published name, path or address, or `hf:org/name`, optionally with `@revision`, an
            exported folder on the Hub.
        key: Config key that holds `weights`, for messages.
        folder: MODEL.WEIGHTS_DIR, the folder with published files. If it is empty, the environment
            variable WEIGHTS_DIR applies.
        zoo: Published files by name. None for those of this package.
        may_download: Whether to download a file from the Hub that is not in its cache.

    Raises:
        FileNotFoundError: If there is no such file. For a published name, the message says where
            to download it.
        OSError: If the server does not answer.
        ValueError: If it is not a file, or if its sha256 is not the right one.
    """
    zoo = published() if zoo is None else zoo
    if weights in zoo:
        return _find_published(
            weights, zoo[weights], key=key, folder=folder, may_download=may_download
        )

    path = expanduser(weights)
    if weights.startswith(HUB_PREFIX):
        files = [CONFIG_NAME, WEIGHTS_NAME]
        config, _ = fetch_files(parse_repository(weights), files, may_download=may_download)
        path = read_exported(os.path.dirname(config)).weights
    elif not _exists(path, key=key):
        near = [] if os.sep in weights else difflib.get_close_matches(weights, zoo, 1)
        hint = f". The nearest published name is {near[0]}." if near else ""
        raise FileNotFoundError(f"{key} is {weights!r}: no such file of weights{hint}")

    entry = _find_entry(path, zoo)
    if entry is not None:
        _verify(path, entry)
    if exported := exported_at(path):
        exported.check_weights()
    return path


def weights_folder(folder: str = "") -> str:
    """Return the folder with published files: `folder`, or else the variable WEIGHTS_DIR, or ""."""
    return expanduser(folder or os.environ.get(WEIGHTS_DIR, ""))


def _find_published(
    name: str, entry: Published, *, key: str, folder: str, may_download: bool
) -> str:
    folder = weights_folder(folder)
    path = join(folder, entry.file)
    if folder and _exists(path, key=key):
        _verify(path, entry)
        return path

    problem = f"{folder} has no file {entry.file}" if folder else "no folder of weights is set"
    try:
        found, reason = _find_on_hub(entry, may_download=may_download), ""
    except OSError as error:
        found, reason = "", f" The Hugging Face Hub does not give it either: {error}."
    if found:
        _verify(found, entry)
        return found
    raise FileNotFoundError(
        f"{key} is {name!r}, but {problem}. Download it from {entry.page}, and set "
        f"MODEL.WEIGHTS_DIR or the environment variable {WEIGHTS_DIR} to the folder that "
        f"holds {entry.file}.{reason}"
    )


def _find_on_hub(entry: Published, *, may_download: bool) -> str:
    """Return the path of a published file in the cache of the Hub, "" if the Hub never has it."""
    if not entry.hub:
        return ""
    repository = Repository(entry.hub)
    cached = find_cached(repository, entry.file)
    return cached or fetch_files(repository, [entry.file], may_download=may_download)[0]


def _find_entry(path: str, zoo: Mapping[str, Published]) -> Published | None:
    return next((entry for entry in zoo.values() if entry.file == basename(path)), None)


def _verify(path: str, entry: Published) -> None:
    """Raise ValueError if the sha256 of a file is not the published one."""
    if not entry.sha256:
        return

    local = local_file(path)
    found = sha256_of(local)
    if not found.startswith(entry.sha256):
        cached = f" (delete {local} first)" if local != path else ""
        raise ValueError(
            f"{path}: is not the published {entry.file}: its sha256 is {found}, but the published "
            f"one starts with {entry.sha256}. Download it again from {entry.page}{cached}, or "
            "rename it if it is another file."
        )


def _exists(path: str, *, key: str) -> bool:
    try:
        if os.path.lexists(path):
            local_file(path)  # Raises if the path is not a file.
            return True
        return pathmgr.isfile(path)
    except OSError as error:
        raise OSError(f"{key}: cannot reach {path}: {error}") from error
