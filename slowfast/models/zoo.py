"""Where weights lie: the published ones by name, in the folder of weights, and any others by path or address."""

import difflib
import os
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from os.path import basename, expanduser, join
from pathlib import Path
from typing import NamedTuple

import yaml
from fvcore.common.config import CfgNode

from slowfast.engine.run_folder import checkpoint_to_test, is_resumable
from slowfast.utils.checkpoint import BEST_NAME, local_file
from slowfast.utils.checksum import sha256_of
from slowfast.utils.paths import pathmgr

WEIGHTS_DIR = "WEIGHTS_DIR"  # environment variable, in place of MODEL.WEIGHTS_DIR


class Published(NamedTuple):
    """A published file of weights."""

    file: str  # its name in the folder of weights
    page: str  # where it is downloaded
    dataset: str  # whose classes its head tells apart
    top1: float  # published, percent
    experiment: str = ""  # that made it, under exp/
    sorted_classes: bool = (
        False  # its head has the classes in alphabetical order, not in that of the published table
    )
    sha256: str = ""  # of the file, or its first digits; "": not known


@cache
def published() -> Mapping[str, Published]:
    """Return the published files of weights by name."""
    tree = yaml.safe_load((files("slowfast.models") / "zoo.yaml").read_text(encoding="utf-8"))
    return {name: Published(**fields) for name, fields in tree.items()}


def published_class_names(path: str) -> list[str]:
    """Return the classes that the head of a published file, known by its name, stands for, in order; [] if unknown."""
    entry = _entry_of(path, published())
    table = (
        entry
        and files("slowfast.datasets")
        / "class_names"
        / f"{entry.dataset.replace('-', '').lower()}.txt"
    )
    if entry is None or table is None or not table.is_file():
        return []
    names = table.read_text(encoding="utf-8").splitlines()
    return sorted(names) if entry.sorted_classes else names


def find_weights(
    weights: str, *, key: str, folder: str = "", zoo: Mapping[str, Published] | None = None
) -> str:
    """Return the path or address of a file of weights, which is there.

    Args:
        weights: A published name, a path, or an address. Under its published file name, too, a file must be that one.
        key: Config key that names them, for messages.
        folder: MODEL.WEIGHTS_DIR, where published files lie. "": that of the environment variable WEIGHTS_DIR.
        zoo: Published files by name. None: those of this package.

    Raises:
        FileNotFoundError: There is no such file. For a published one, the message says where to get it.
        OSError: Its server does not answer.
        ValueError: What is there is no file, or not the published one, by its sha256.
    """
    zoo = published() if zoo is None else zoo
    if weights not in zoo:
        path = expanduser(weights)
        if _is_there(path, key=key):
            if entry := _entry_of(path, zoo):
                _check_published(path, entry)
            return path
        near = [] if os.sep in weights else difflib.get_close_matches(weights, zoo, 1)
        hint = f"; the nearest published name is {near[0]}" if near else ""
        raise FileNotFoundError(f"{key} is {weights!r}: no such file of weights{hint}")
    entry = zoo[weights]
    folder = expanduser(folder or os.environ.get(WEIGHTS_DIR, ""))
    path = join(folder, entry.file)
    if not folder or not _is_there(path, key=key):
        problem = (
            f"{folder} has no file {entry.file}" if folder else "no folder of weights is given"
        )
        raise FileNotFoundError(
            f"{key} is {weights!r}, but {problem}; download it from {entry.page}, and set MODEL.WEIGHTS_DIR or the "
            f"environment variable {WEIGHTS_DIR} to the folder that holds {entry.file}"
        )
    _check_published(path, entry)
    return path


def _entry_of(path: str, zoo: Mapping[str, Published]) -> Published | None:
    """The published file that a path names."""
    return next((entry for entry in zoo.values() if entry.file == basename(path)), None)


def _check_published(path: str, entry: Published) -> None:
    if not entry.sha256:
        return
    local = local_file(path)
    found = sha256_of(local)
    if not found.startswith(entry.sha256):
        kept = f" (delete {local} first)" if local != path else ""
        raise ValueError(
            f"{path}: is not the published {entry.file}: its sha256 is {found}, but that of the published file starts "
            f"with {entry.sha256}; download it again from {entry.page}{kept}, or rename it if it is another file"
        )


def name_of_start_weights(cfg: CfgNode) -> str:
    """Return what a config calls the weights to start from: a path, an address or a published name; "" for none.

    TRAIN.CHECKPOINT_FILE_PATH comes before UNIFORMER.PRETRAIN_NAME, which is for that model alone.
    """
    pretrained: str = cfg.UNIFORMER.PRETRAIN_NAME if cfg.MODEL.MODEL_NAME == "Uniformer" else ""
    return cfg.TRAIN.CHECKPOINT_FILE_PATH or pretrained


def weights_to_start(cfg: CfgNode) -> str:
    """Return the file whose weights a new training starts from, "" for random weights.

    Raises:
        FileNotFoundError, ValueError: as `find_weights`.
    """
    name = name_of_start_weights(cfg)
    key = (
        "TRAIN.CHECKPOINT_FILE_PATH"
        if cfg.TRAIN.CHECKPOINT_FILE_PATH
        else "UNIFORMER.PRETRAIN_NAME"
    )
    return find_weights(name, key=key, folder=cfg.MODEL.WEIGHTS_DIR) if name else ""


def weights_to_test(cfg: CfgNode) -> str:
    """Return the file whose weights are tested.

    Raises:
        FileNotFoundError: there is none; random weights are never tested.
        ValueError: as `find_weights`.
    """
    if cfg.TEST.CHECKPOINT_FILE_PATH:
        key = "TEST.CHECKPOINT_FILE_PATH"
        return find_weights(cfg.TEST.CHECKPOINT_FILE_PATH, key=key, folder=cfg.MODEL.WEIGHTS_DIR)
    return str(checkpoint_to_test(cfg.OUTPUT_DIR, best=cfg.TEST.TEST_BEST))


def find_problems(cfg: CfgNode) -> list[str]:
    """Return what is wrong with the weights that a run will need; an empty list if nothing is."""
    needed = []
    if cfg.TRAIN.ENABLE and not is_resumable(cfg.OUTPUT_DIR, auto_resume=cfg.TRAIN.AUTO_RESUME):
        needed.append(weights_to_start)
    if cfg.TEST.ENABLE and not (cfg.TRAIN.ENABLE and _is_written_by_training(cfg)):
        needed.append(weights_to_test)
    problems = []
    for find in needed:
        try:
            find(cfg)
        except (OSError, ValueError) as error:
            problems.append(str(error))
    return problems


def _is_written_by_training(cfg: CfgNode) -> bool:
    """Whether the weights to test are, or will be, a checkpoint of the same run."""
    if not cfg.TEST.CHECKPOINT_FILE_PATH:
        return True
    path, output_dir = Path(cfg.TEST.CHECKPOINT_FILE_PATH).resolve(), Path(cfg.OUTPUT_DIR).resolve()
    return path == output_dir / BEST_NAME or path.parent == output_dir / "checkpoints"


def _is_there(path: str, *, key: str) -> bool:
    try:
        if os.path.lexists(path):
            local_file(path)  # raises if it is something else
            return True
        return pathmgr.isfile(path)
    except OSError as error:  # of a server
        raise OSError(f"{key}: {path} cannot be had: {error}") from error
