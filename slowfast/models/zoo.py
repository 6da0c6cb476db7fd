"""Where weights lie: the published ones by name, in the folder of weights, and any others by path or address."""

import difflib
import hashlib
import os
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from os.path import basename, expanduser, join
from pathlib import Path
from typing import NamedTuple

import yaml
from fvcore.common.config import CfgNode

from slowfast.utils.checkpoint import BEST_NAME, checkpoint_path, newest_checkpoint
from slowfast.utils.paths import pathmgr

WEIGHTS_DIR = "WEIGHTS_DIR"  # environment variable, in place of MODEL.WEIGHTS_DIR


class Published(NamedTuple):
    """A published file of weights."""

    file: str  # its name in the folder of weights
    page: str  # where it is downloaded
    dataset: str  # whose classes its head tells apart
    top1: float  # published, percent
    experiment: str = ""  # that made it, under exp/
    sorted_classes: bool = False  # its head has the classes in alphabetical order, not in that of the published table
    sha256: str = ""  # of the file, or its first digits; "": not known


@cache
def published() -> Mapping[str, Published]:
    """Return the published files of weights by name."""
    tree = yaml.safe_load((files("slowfast.models") / "zoo.yaml").read_text(encoding="utf-8"))
    return {name: Published(**fields) for name, fields in tree.items()}


def published_class_names(path: str) -> list[str]:
    """Return the classes that the head of a published file, known by its name, stands for, in order; [] if unknown."""
    entry = next((entry for entry in published().values() if entry.file == basename(path)), None)
    table = entry and files("slowfast.datasets") / "class_names" / f"{entry.dataset.replace('-', '').lower()}.txt"
    if entry is None or table is None or not table.is_file():
        return []
    names = table.read_text(encoding="utf-8").splitlines()
    return sorted(names) if entry.sorted_classes else names


def find_weights(weights: str, *, key: str, folder: str = "", zoo: Mapping[str, Published] | None = None) -> str:
    """Return the path or address of a file of weights, which is there.

    Args:
        weights: a published name, a path, or an address.
        key: of the config that names them, for messages.
        folder: MODEL.WEIGHTS_DIR, where published files lie; "": that of the environment variable WEIGHTS_DIR.
        zoo: the published files by name; None: those of this package.

    Raises:
        FileNotFoundError: there is no such file; for a published one, the message says where to get it.
        OSError: its server does not answer.
        ValueError: the file is not the published one, by its sha256.
    """
    zoo = published() if zoo is None else zoo
    if weights not in zoo:
        path = expanduser(weights)
        if _is_there(path, key=key):
            return path
        near = [] if os.sep in weights else difflib.get_close_matches(weights, zoo, 1)
        hint = f"; the nearest published name is {near[0]}" if near else ""
        raise FileNotFoundError(f"{key} is {weights!r}: no such file of weights{hint}")
    entry = zoo[weights]
    folder = expanduser(folder or os.environ.get(WEIGHTS_DIR, ""))
    path = join(folder, entry.file)
    if not folder or not _is_there(path, key=key):
        problem = f"{folder} has no file {entry.file}" if folder else "no folder of weights is given"
        raise FileNotFoundError(
            f"{key} is {weights!r}, but {problem}; download it from {entry.page}, and set MODEL.WEIGHTS_DIR or the "
            f"environment variable {WEIGHTS_DIR} to the folder that holds {entry.file}"
        )
    if entry.sha256 and not _sha256(path).startswith(entry.sha256):
        raise ValueError(
            f"{path}: is not the published {weights}, whose sha256 starts with {entry.sha256}; "
            f"download it again from {entry.page}"
        )
    return path


def weights_to_start(cfg: CfgNode) -> str:
    """Return the file whose weights a new training starts from, "" for random weights; one that is resumed needs none.

    TRAIN.CHECKPOINT_FILE_PATH comes before UNIFORMER.PRETRAIN_NAME, which is for that model alone.

    Raises:
        FileNotFoundError, ValueError: as `find_weights`.
    """
    folder = cfg.MODEL.WEIGHTS_DIR
    if cfg.TRAIN.CHECKPOINT_FILE_PATH:
        return find_weights(cfg.TRAIN.CHECKPOINT_FILE_PATH, key="TRAIN.CHECKPOINT_FILE_PATH", folder=folder)
    if cfg.UNIFORMER.PRETRAIN_NAME and cfg.MODEL.MODEL_NAME == "Uniformer":
        return find_weights(cfg.UNIFORMER.PRETRAIN_NAME, key="UNIFORMER.PRETRAIN_NAME", folder=folder)
    return ""


def weights_to_test(cfg: CfgNode) -> str:
    """Return the file whose weights are tested.

    Raises:
        FileNotFoundError: there is none; random weights are never tested.
        ValueError: as `find_weights`.
    """
    if cfg.TEST.CHECKPOINT_FILE_PATH:
        key = "TEST.CHECKPOINT_FILE_PATH"
        return find_weights(cfg.TEST.CHECKPOINT_FILE_PATH, key=key, folder=cfg.MODEL.WEIGHTS_DIR)
    best = Path(cfg.OUTPUT_DIR, BEST_NAME)
    if cfg.TEST.TEST_BEST and not best.exists():
        raise FileNotFoundError(f"{best}: no such file, but TEST.TEST_BEST is True; train first, or set it False")
    newest = best if cfg.TEST.TEST_BEST else newest_checkpoint(cfg.OUTPUT_DIR)
    if newest is None:
        raise FileNotFoundError(
            f"there are no weights to test: TEST.CHECKPOINT_FILE_PATH is empty and {cfg.OUTPUT_DIR}/checkpoints holds "
            "no checkpoint; train first, or name a file"
        )
    return str(newest)


def find_problems(cfg: CfgNode) -> list[str]:
    """Return what is wrong with the weights that a run will need; an empty list if nothing is."""
    needed = []
    if cfg.TRAIN.ENABLE and not (cfg.TRAIN.AUTO_RESUME and newest_checkpoint(cfg.OUTPUT_DIR)):
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
    folder = checkpoint_path(cfg.OUTPUT_DIR, epoch=0).parent.resolve()
    return not cfg.TEST.CHECKPOINT_FILE_PATH or Path(cfg.TEST.CHECKPOINT_FILE_PATH).resolve().parent == folder


def _is_there(path: str, *, key: str) -> bool:
    try:
        return pathmgr.isfile(path)
    except OSError as error:  # of a server
        raise OSError(f"{key}: {path} cannot be had: {error}") from error


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with pathmgr.open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
