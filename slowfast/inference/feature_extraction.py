"""Feature extraction: features of the views of a test, for the videos of any split.

The views, the forward passes and the precision are those of the test, so a head gets from the files
what it gets in the test, to the bit. The features of each group of views are appended to a shard of
the process in the folder `unfinished` first, see `slowfast.evaluation.shards`. A killed extraction
continues from there. In the end, one process writes the files in the order of the list.
"""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
import simplejson
import torch
from fvcore.common.config import CfgNode
from numpy.typing import NDArray
from torch import Tensor, nn

from slowfast.datasets.build import (
    VideoLoader,
    build_class_names,
    build_known_class_names,
    build_loader,
    build_source,
)
from slowfast.datasets.records import Batch
from slowfast.datasets.view_groups import ViewGroups
from slowfast.distributed.collectives import (
    computed_by_main,
    device,
    is_main,
    rank,
    wait_for_all,
    world_size,
)
from slowfast.distributed.job_lock import locked
from slowfast.distributed.signals import phase
from slowfast.evaluation.shards import Shards
from slowfast.evaluation.summary import in_blocks
from slowfast.evaluation.view_scores import ViewScores
from slowfast.inference.clip_settings import build_scoring_settings
from slowfast.inference.evaluator import Evaluator, build_evaluator, build_memory_remedy
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
from slowfast.inference.feature_writer import FeatureBlock, write_features
from slowfast.inference.features import embed
from slowfast.inference.memory import explained_out_of_memory
from slowfast.inference.precision import amp_dtype, autocast, dtype_name, set_up_kernels
from slowfast.models.build import build_model
from slowfast.models.weights import load_weights
from slowfast.utils.checksum import sha256_of
from slowfast.utils.files import remove_unfinished
from slowfast.utils.paths import pathmgr
from slowfast.utils.text import count, some

logger = logging.getLogger(__name__)

PER = ("view", "clip", "video")  # what has a feature of its own
UNFINISHED_NAME = "unfinished"

_NUM_TIMES = 4  # float32 numbers behind each feature: the bits of two float64 numbers


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


def build_features(cfg: CfgNode, extraction: Extraction) -> ExtractionCounts:
    """Write the features of a split to a folder, and return the counts of its videos.

    It runs in every process of the job, and the processes share the videos. If it is killed, the
    next call continues, also with another number of processes. A finished folder stays as it is.

    Args:
        cfg: The config. Its test is what the model sees.
        extraction: What to extract, and where to.

    Raises:
        FileNotFoundError: If there are no weights or no list.
        FileExistsError: If the folder holds other features or other files.
        ValueError: If the weights do not fit the model, the list is malformed, or there is no such
            stage.
        FolderLockedError: If another process writes to this folder.
        OutOfMemoryError: If the device does not have enough memory.
    """
    set_up_kernels(tf32=cfg.TRAIN.TF32)
    cfg = _build_split_config(cfg, extraction.split)
    folder = extraction.folder
    outcome = "the features so far are saved. The same command continues"

    with (
        phase("the extraction", outcome=outcome, can_continue=True),
        explained_out_of_memory(build_memory_remedy(cfg)),
        locked(str(folder), purpose="extraction"),
    ):
        loader = build_loader(cfg, "test", list_split=extraction.split, notes_intervals=True)
        record = computed_by_main(lambda: _build_record(cfg, extraction, loader))
        if computed_by_main(lambda: _is_finished(folder, record)):
            logger.info("%s: is finished. Delete the folder to extract it again", folder)
            return computed_by_main(lambda: _read_counts(folder))

        model = _Embedder(_build_embedded_model(cfg, extraction), extraction)
        record = record._replace(shape=_build_shape(cfg, model, loader))
        shards = _shards_of(record, folder, groups=loader.eval_sampler.groups)
        missing, number = computed_by_main(lambda: _prepare(folder, record, shards))
        if len(missing):
            loader.eval_sampler.select(missing)
            with shards.writer(start=number, rank=rank()) as writer:
                _extract(build_evaluator(cfg), model, loader, record=record, take=writer.write)
            wait_for_all()

        if is_main():
            _finish(folder, record, shards, loader=loader)
        return computed_by_main(lambda: _read_counts(folder))


class _Embedder(nn.Module):
    """A model whose output is flat features instead of logits."""

    def __init__(self, model: nn.Module, extraction: Extraction) -> None:
        super().__init__()
        self.model = model
        self._stage = extraction.stage
        self._tokens = extraction.tokens

    def embed(self, frames: Tensor) -> Tensor:
        """Return features (B, C), or (B, N, C) for tokens."""
        return embed(self.model, frames, stage=self._stage, tokens=self._tokens)

    def forward(self, frames: Tensor) -> Tensor:
        """Return features (B, D)."""
        return self.embed(frames).flatten(1)


class _NotedIntervals:
    """Times of the views of each video, from its batch until its features are there."""

    def __init__(self, num_views: int) -> None:
        self._num_views = num_views
        self._by_row: dict[int, NDArray[np.float64]] = {}

    def note(self, batch: Batch) -> None:
        """Note the times of the videos of a batch."""
        times = [interval or (np.nan, np.nan) for interval in batch.intervals]
        array = np.array(times, np.float64).reshape(-1, self._num_views, 2)
        rows = batch.video_indices[:: self._num_views].tolist()
        self._by_row.update(zip(rows, array, strict=True))

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the times of some videos, shape (N, V, 2) with NaN for unknown, and drop them."""
        unknown = np.full((self._num_views, 2), np.nan)
        return np.stack([self._by_row.pop(row, unknown) for row in rows.tolist()])


# ---- What is extracted -----------------------------------------------------------------------


def _build_split_config(cfg: CfgNode, split: str) -> CfgNode:
    """Return a config whose test reads videos of the format of a split."""
    if split != "train" or cfg.TEST.DATASET == cfg.TRAIN.DATASET:
        return cfg
    changed = cfg.clone()
    changed.defrost()
    changed.TEST.DATASET = cfg.TRAIN.DATASET
    changed.freeze()
    return changed


def _build_record(cfg: CfgNode, extraction: Extraction, loader: VideoLoader) -> FeatureRecord:
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


def _build_embedded_model(cfg: CfgNode, extraction: Extraction) -> nn.Module:
    """Return the model with the weights. Its head may be one for other classes, and random."""
    model = build_model(cfg)
    report = load_weights(
        model,
        extraction.weights,
        use_ema=cfg.TEST.EMA,
        may_replace_head=True,
        allowed=cfg.MODEL.ALLOWED_MISMATCH,
        class_names=build_known_class_names(cfg),
    )
    pooling = [name for name in (*report.missing, *report.dropped) if name.startswith("pool.")]
    if pooling and extraction.stage is None and not extraction.tokens:
        raise ValueError(
            f"{extraction.weights}: has no attentive pooling, but MODEL.HEAD is "
            f"{cfg.MODEL.HEAD!r}. Set MODEL.HEAD linear, or extract the tokens"
        )
    return model.to(device()).eval()


@torch.inference_mode()
def _build_shape(cfg: CfgNode, model: _Embedder, loader: VideoLoader) -> tuple[int, ...]:
    """Return the shape of a feature, from a forward pass of one black clip."""
    evaluator = build_evaluator(cfg)
    dataset = loader.dataset
    frames = torch.zeros(1, *dataset.reader.clip_shape, dtype=dataset.dtype, device=device())
    with autocast(evaluator.amp, device()):
        return tuple(model.embed(evaluator.normalize(frames)).shape[1:])


def _shards_of(record: FeatureRecord, folder: Path, *, groups: ViewGroups) -> Shards:
    """Return the shards of an unfinished extraction, with the groups of the test."""
    num_features = record.features_per_video
    # A video has another number of features than views, but a group has the same videos.
    same_groups = ViewGroups(
        groups.num_videos, num_features, num_features * groups.videos_per_group
    )
    size = int(np.prod(record.shape)) + _NUM_TIMES
    return Shards(folder / UNFINISHED_NAME, "features", same_groups, size)


# ---- State of the folder ---------------------------------------------------------------------


def _is_finished(folder: Path, record: FeatureRecord) -> bool:
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


def _prepare(folder: Path, record: FeatureRecord, shards: Shards) -> tuple[NDArray[np.int64], int]:
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


def _read_counts(folder: Path) -> ExtractionCounts:
    table = read_index(folder, columns=["row", "status"])
    left_out = table.filter(pc.not_equal(table["status"], READ))
    num_unreadable = pc.sum(pc.equal(left_out["status"], UNREADABLE)).as_py() or 0
    num_videos = int(table["row"][-1].as_py()) + 1
    return ExtractionCounts(num_videos, num_unreadable, len(left_out) - num_unreadable)


# ---- Extraction ------------------------------------------------------------------------------


def _extract(
    evaluator: Evaluator,
    model: _Embedder,
    loader: VideoLoader,
    *,
    record: FeatureRecord,
    take: Any,
) -> None:
    """Pass the features of all videos of this process to a function, group by group."""
    sampler = loader.eval_sampler
    logger.info(
        "extracting features %s per %s of %s, with %s",
        " x ".join(map(str, record.shape)),
        record.identity["per"],
        count(sampler.groups.num_videos_of(sampler.own_groups), "video"),
        count(world_size(), "process"),
    )
    intervals = _NotedIntervals(loader.num_views)

    def take_packed(scores: ViewScores) -> None:
        times = intervals.take(scores.videos)
        take(_pack(scores, times, num_crops=sampler.num_crops, per=record.identity["per"]))

    is_complete = evaluator.score(
        model, loader, title="features", take=take_packed, watch=intervals.note
    )
    assert is_complete, "a signal stops an extraction at once"


def _pack(
    scores: ViewScores, times: NDArray[np.float64], *, num_crops: int, per: str
) -> ViewScores:
    """Reduce the features (N, V, D) of views, and append the bits of their times."""
    features = scores.logits
    if per == "clip":
        by_clip = features.reshape(len(features), -1, num_crops, features.shape[-1])
        features, times = by_clip.mean(axis=2), times[:, ::num_crops]
    elif per == "video":
        features = features.mean(axis=1, keepdims=True)
        first, last = times[:, :, 0].min(axis=1), times[:, :, 1].max(axis=1)
        times = np.stack([first, last], axis=-1)[:, None]

    bits = np.ascontiguousarray(times).view(np.float32)  # (N, F, 2) -> (N, F, 4)
    return scores._replace(logits=np.concatenate([features, bits], axis=2))


def _unpack(scores: ViewScores, *, shape: tuple[int, ...]) -> FeatureBlock:
    features, bits = np.split(scores.logits, [-_NUM_TIMES], axis=2)
    times = np.ascontiguousarray(bits).view(np.float64)
    features = features.reshape(*features.shape[:2], *shape)
    return FeatureBlock(scores.videos, features, times, dict(scores.unreadable))


def _finish(folder: Path, record: FeatureRecord, shards: Shards, *, loader: VideoLoader) -> None:
    """Write the files in the order of the list, and delete the unfinished shards."""

    def blocks() -> Iterator[FeatureBlock]:
        for scores in in_blocks(shards.read()):
            yield _unpack(scores, shape=record.shape)

    annotations = loader.dataset.annotations
    logger.info("writing the features to %s", folder)
    write_features(folder, record, blocks(), names=annotations.names, labels=annotations.labels)
    shutil.rmtree(shards.folder)
