"""What a test still has to score: all, what a killed test left, or nothing."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejson
from fvcore.common.config import CfgNode
from numpy.typing import NDArray

from slowfast.datasets.build import (
    VideoLoader,
    build_class_names,
    build_known_class_names,
    build_source,
)
from slowfast.distributed.collectives import device
from slowfast.evaluation.report.content import read_content
from slowfast.evaluation.result import METRICS_NAME
from slowfast.evaluation.result_record import FILE_NAME as RECORD_NAME
from slowfast.evaluation.result_record import (
    ResultRecord,
    differences,
    read_record,
    set_aside,
    write_record,
)
from slowfast.inference.clip_settings import build_scoring_settings
from slowfast.inference.precision import amp_dtype, dtype_name
from slowfast.models.weights import read_class_names
from slowfast.utils.checksum import sha256_of
from slowfast.utils.files import remove_unfinished
from slowfast.utils.paths import pathmgr
from slowfast.utils.text import count, some

logger = logging.getLogger(__name__)

# Entries of metrics.json about the last start that scored videos.
FACTS = ("device", "dtype", "num_processes", "seconds", "videos_per_second")


class ScoringPlan(NamedTuple):
    """What a test still has to score.

    Attributes:
        number: Number of this start of the test, from 1.
        groups: Groups of views that are still to be scored.
        is_finished: Whether all is scored, and the metrics are written.
        facts: How long scoring took and on what, if the metrics were written before.
    """

    number: int
    groups: NDArray[np.int64]
    is_finished: bool
    facts: dict[str, Any]


def build_result_record(cfg: CfgNode, loader: VideoLoader, *, weights: str) -> ResultRecord:
    """Return the record of the test of a config.

    Args:
        cfg: The config.
        loader: Loader of the test.
        weights: Path or address of the weights.
    """
    annotations, sampler = loader.dataset.annotations, loader.eval_sampler
    class_names = build_class_names(cfg)
    if not annotations.is_labeled:
        class_names = _build_predicted_names(cfg, weights)
    identity = {
        **build_scoring_settings(cfg),
        "weights_sha256": sha256_of(pathmgr.get_local_path(weights)),
        "paths_sha256": annotations.hash_paths(prefix=cfg.DATA.PATH_PREFIX),
        "labels_sha256": annotations.hash_labels(),
        "class_names": class_names,
        "dtype": dtype_name(amp_dtype(cfg.TRAIN.AMP, device())),
        "device": device().type,
        "num_clips": sampler.num_clips,
        "num_crops": sampler.num_crops,
    }
    if cfg.TEST.COMPILE:  # it changes the scores by rounding
        identity["is_compiled"] = True
    return ResultRecord(
        identity=simplejson.loads(simplejson.dumps(identity)),  # as it is read from the record
        class_names=class_names,
        num_videos=len(annotations),
        num_clips=sampler.num_clips,
        num_crops=sampler.num_crops,
        views_per_forward=cfg.TEST.VIEWS_PER_FORWARD,
        weights=weights,
        list_path=str(build_source(cfg, "test").list_path),
        is_labeled=annotations.is_labeled,
    )


def _build_predicted_names(cfg: CfgNode, weights: str) -> list[str]:
    """Return the names of the classes of a list without labels.

    Without labels, nothing can contradict the names in the file of the weights.
    """
    names = build_known_class_names(cfg) or read_class_names(weights)
    return names if len(names) == cfg.MODEL.NUM_CLASSES else build_class_names(cfg)


def plan_scoring(
    folder: Path, record: ResultRecord, *, fusion: str, temperature: float | None
) -> ScoringPlan:
    """Prepare the folder of a test, in the main process.

    A test with the same identity continues. Any other content of the folder is set aside.

    Args:
        folder: Folder of the test.
        record: What is to be scored and with what.
        fusion: How to combine the views of a video.
        temperature: Number that divides the logits, or None.
    """
    if folder.exists():
        remove_unfinished(folder)
        if reason := _why_set_aside(folder, record):
            logger.warning("%s: %s. It is set aside as %s", folder, reason, set_aside(folder))
    if not (folder / RECORD_NAME).exists():
        write_record(folder, record)

    shards = record.shards(folder)
    groups = shards.recover()
    number, metrics = shards.next_start(), _read_written(folder)
    same = metrics.get("fusion") == fusion and metrics.get("temperature") == temperature
    is_finished = not len(groups) and bool(metrics) and same
    num_left = shards.groups.num_videos_of(groups)
    if num_left < record.num_videos and not is_finished:
        logger.info(
            "continuing the test: %d of %s are scored already",
            record.num_videos - num_left,
            count(record.num_videos, "video"),
        )
    if len(groups):
        return ScoringPlan(number, groups, is_finished=False, facts={})
    facts = {name: metrics[name] for name in FACTS if name in metrics}
    return ScoringPlan(number, groups, is_finished=is_finished, facts=facts)


def _why_set_aside(folder: Path, record: ResultRecord) -> str:
    """Return why the content of a folder does not belong to a test, "" if it does."""
    try:
        found = read_record(folder)
    except FileNotFoundError:
        return "" if not any(folder.iterdir()) else "holds no test of this version"
    except ValueError as error:  # It ends with a remedy, which is what happens here.
        return str(error).removeprefix(f"{folder}/").rpartition(". ")[0]
    if changed := differences(record, found):
        return f"holds another test (other {some(changed)})"
    return ""


def _read_written(folder: Path) -> dict[str, Any]:
    """Return the metrics of a test. They are empty unless its files are written and whole."""
    if not (folder / METRICS_NAME).exists():
        return {}
    try:
        return read_content(folder).metrics
    except (ValueError, OSError) as error:
        logger.warning("%s. It is written anew", str(error).rpartition(". ")[0])
        return {}
