"""Plan of an extraction of features: what is extracted, and what a folder still lacks."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
import simplejson
from fvcore.common.config import CfgNode
from numpy.typing import NDArray

from slowfast.datasets.build import VideoLoader, build_class_names, build_source
from slowfast.distributed.collectives import device
from slowfast.evaluation.shards import Shards
from slowfast.inference.clip_settings import build_scoring_settings
from slowfast.inference.feature_files import (
    INDEX_NAME,
    READ,
    RECORD_NAME,
    UNREADABLE,
    FeatureRecord,
    open_features,
    read_index,
    read_record,
    write_record,
)
from slowfast.inference.precision import amp_dtype, dtype_name
from slowfast.utils.checksum import sha256_of
from slowfast.utils.files import remove_unfinished
from slowfast.utils.paths import pathmgr
from slowfast.utils.text import count, some

logger = logging.getLogger(__name__)

UNFINISHED_NAME = "unfinished"


@dataclass(frozen=True)
class Extraction:
    """What to extract.

    Args:
        weights: Path or address of the weights.
        folder: Folder of the feature files.
        split: Split whose list is read: train | val | test.
        stage: Stage of the model from 1, None for the input of the last layer.
        tokens: Whether a feature has all tokens of a view instead of their mean.
        per: view | clip (the mean over its crops) | video (the mean over its views).
    """

    weights: str
    folder: Path
    split: str
    stage: int | None = None
    tokens: bool = False
    per: str = "view"


class ExtractionCounts(NamedTuple):
    """Videos of an extraction."""

    num_videos: int
    num_unreadable: int
    num_nonfinite: int


def build_record(cfg: CfgNode, extraction: Extraction, loader: VideoLoader) -> FeatureRecord:
    """Return the record of an extraction, without the shape of a feature."""
    annotations, sampler = loader.dataset.annotations, loader.eval_sampler
    class_names = build_class_names(cfg)
    identity = {
        **build_scoring_settings(cfg),
        "weights_sha256": sha256_of(pathmgr.get_local_path(extraction.weights)),
        "paths_sha256": annotations.hash_paths(prefix=cfg.DATA.PATH_PREFIX),
        "labels_sha256": annotations.hash_labels(),
        "class_names": class_names,
        "dtype": dtype_name(amp_dtype(cfg.TRAIN.AMP, device())),
        "device": device().type,
        "num_clips": sampler.num_clips,
        "num_crops": sampler.num_crops,
        "split": extraction.split,
        "stage": extraction.stage,
        "tokens": extraction.tokens,
        "per": extraction.per,
    }
    numbers = {
        "view": sampler.num_clips * sampler.num_crops,
        "clip": sampler.num_clips,
        "video": 1,
    }
    return FeatureRecord(
        identity=simplejson.loads(simplejson.dumps(identity)),  # as it is read from the record
        class_names=class_names,
        num_videos=len(annotations),
        features_per_video=numbers[extraction.per],
        shape=(),
        fusion=cfg.DATA.ENSEMBLE_METHOD,
        weights=extraction.weights,
        list_path=str(build_source(cfg, extraction.split).list_path),
        config=cfg.dump(),
    )


def is_finished(folder: Path, record: FeatureRecord) -> bool:
    """Return whether a folder has all features of a record.

    Raises:
        FileExistsError: If it has others, or files of another kind.
    """
    try:
        found = read_record(folder)
    except FileNotFoundError:
        others = [path.name for path in folder.iterdir() if not _is_ours(path)]
        if others:
            raise FileExistsError(
                f"{folder}: holds other files ({some(sorted(others))}). Choose another folder"
            ) from None
        return False

    changed = [
        name
        for name in sorted(record.identity.keys() | found.identity.keys())
        if record.identity.get(name) != found.identity.get(name)
    ]
    if changed:
        raise FileExistsError(
            f"{folder}: holds other features (other {some(changed)}). Choose another folder, or "
            "delete this one"
        )
    try:
        open_features(folder)
    except FileNotFoundError:
        return False
    except ValueError as error:
        logger.warning("%s. They are extracted again", str(error).rpartition(". ")[0])
        (folder / INDEX_NAME).unlink()
        return False
    shutil.rmtree(folder / UNFINISHED_NAME, ignore_errors=True)
    return True


def _is_ours(path: Path) -> bool:
    """Return whether a file of a folder without a record may be the lock or a leftover of one."""
    return path.name.startswith((".", "extraction.lock", RECORD_NAME))


def prepare(folder: Path, record: FeatureRecord, shards: Shards) -> tuple[NDArray[np.int64], int]:
    """Return the groups that are still to be extracted, and the number of this start."""
    remove_unfinished(folder)
    if not (folder / RECORD_NAME).exists():
        write_record(folder, record)

    missing = shards.recover()
    num_left = shards.groups.num_videos_of(missing)
    if num_left < record.num_videos:
        done = record.num_videos - num_left
        logger.info("continuing: %d of %s are done", done, count(record.num_videos, "video"))
    return missing, shards.next_start()


def read_counts(folder: Path) -> ExtractionCounts:
    """Return the counts of the videos of a finished folder."""
    table = read_index(folder, columns=["row", "status"])
    left_out = table.filter(pc.not_equal(table["status"], READ))
    num_unreadable = pc.sum(pc.equal(left_out["status"], UNREADABLE)).as_py() or 0
    num_videos = int(table["row"][-1].as_py()) + 1
    return ExtractionCounts(num_videos, num_unreadable, len(left_out) - num_unreadable)
