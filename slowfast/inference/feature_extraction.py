"""Feature extraction: features of the views of a test, for the videos of any split.

The views, the forward passes and the precision are those of the test, so a head gets from the files
what it gets in the test, to the bit. The features of each group of views are appended to a shard of
the process in the folder `unfinished` first, see `slowfast.evaluation.shards`. A killed extraction
continues from there. In the end, one process writes the files in the order of the list.
"""

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from slowfast.datasets.build import VideoLoader, build_known_class_names, build_loader
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
from slowfast.inference.evaluator import Evaluator, build_evaluator, build_memory_remedy
from slowfast.inference.feature_files import FeatureRecord
from slowfast.inference.feature_packing import NUM_TIMES, NotedIntervals, pack, unpack
from slowfast.inference.feature_plan import (
    UNFINISHED_NAME,
    Extraction,
    ExtractionCounts,
    build_record,
    is_finished,
    prepare,
    read_counts,
)
from slowfast.inference.feature_writer import FeatureBlock, write_features
from slowfast.inference.features import embed
from slowfast.inference.memory import explained_out_of_memory
from slowfast.inference.precision import set_up_kernels
from slowfast.inference.view_forward import forward_views
from slowfast.models.build import build_model
from slowfast.models.weights import load_weights
from slowfast.utils.text import count

logger = logging.getLogger(__name__)


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
        record = computed_by_main(lambda: build_record(cfg, extraction, loader))
        if computed_by_main(lambda: is_finished(folder, record)):
            logger.info("%s: is finished. Delete the folder to extract it again", folder)
            return computed_by_main(lambda: read_counts(folder))

        model = _Embedder(_build_embedded_model(cfg, extraction), extraction)
        record = record._replace(shape=_build_shape(cfg, model, loader))
        shards = _shards_of(record, folder, groups=loader.eval_sampler.groups)
        missing, number = computed_by_main(lambda: prepare(folder, record, shards))
        if len(missing):
            loader.eval_sampler.select(missing)
            with shards.writer(start=number, rank=rank()) as writer:
                _extract(build_evaluator(cfg), model, loader, record=record, take=writer.write)
            wait_for_all()

        if is_main():
            _finish(folder, record, shards, loader=loader)
        return computed_by_main(lambda: read_counts(folder))


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
    features = forward_views(
        model.embed,
        frames,
        normalize=evaluator.normalize,
        amp=evaluator.amp,
        device=device(),
    )
    return tuple(features.shape[1:])


def _shards_of(record: FeatureRecord, folder: Path, *, groups: ViewGroups) -> Shards:
    """Return the shards of an unfinished extraction, with the groups of the test."""
    num_features = record.features_per_video
    # A video has another number of features than views, but a group has the same videos.
    same_groups = ViewGroups(
        groups.num_videos, num_features, num_features * groups.videos_per_group
    )
    size = int(np.prod(record.shape)) + NUM_TIMES
    return Shards(folder / UNFINISHED_NAME, "features", same_groups, size)


# ---- Extraction ------------------------------------------------------------------------------


def _extract(
    evaluator: Evaluator,
    model: _Embedder,
    loader: VideoLoader,
    *,
    record: FeatureRecord,
    take: Callable[[ViewScores], None],
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
    intervals = NotedIntervals(loader.num_views)

    def take_packed(scores: ViewScores) -> None:
        times = intervals.take(scores.videos)
        take(pack(scores, times, num_crops=sampler.num_crops, per=record.identity["per"]))

    is_complete = evaluator.score(
        model, loader, title="features", take=take_packed, watch=intervals.note
    )
    assert is_complete, "a signal stops an extraction at once"


def _finish(folder: Path, record: FeatureRecord, shards: Shards, *, loader: VideoLoader) -> None:
    """Write the files in the order of the list, and delete the unfinished shards."""

    def blocks() -> Iterator[FeatureBlock]:
        for scores in in_blocks(shards.read()):
            yield unpack(scores, shape=record.shape)

    annotations = loader.dataset.annotations
    logger.info("writing the features to %s", folder)
    write_features(folder, record, blocks(), names=annotations.names, labels=annotations.labels)
    shutil.rmtree(shards.folder)
