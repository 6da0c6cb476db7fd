"""Builders of the data pipeline: datasets, samplers, transforms and loaders from a config."""

import logging

import numpy as np
from fvcore.common.config import CfgNode
from numpy.typing import NDArray

from slowfast.datasets.annotation_lists import Source
from slowfast.datasets.annotations import Annotations
from slowfast.datasets.batch_sizes import BatchSizes
from slowfast.datasets.build_clips import build_clip_reader, build_opener, build_view_counts
from slowfast.datasets.catalog import (
    DATASETS,
    Format,
    add_dataset,
    build_annotations,
    build_class_names,
    build_format,
    build_known_class_names,
    build_source,
)
from slowfast.datasets.dataset import VideoDataset
from slowfast.datasets.duplicates import describe_empty_classes, find_repeats
from slowfast.datasets.epoch_order import BalancedOrder, UniformOrder
from slowfast.datasets.loader import VideoLoader, warn_about_many_workers
from slowfast.datasets.manifest import find_unreadable, read_manifest
from slowfast.datasets.mixup import Mix
from slowfast.datasets.normalization import Normalize
from slowfast.datasets.rand_augment import RandAugment
from slowfast.datasets.samplers import EvalSampler, TrainSampler
from slowfast.datasets.view_groups import ViewGroups
from slowfast.distributed.collectives import device, is_main, rank, world_size
from slowfast.utils.text import count

__all__ = [
    "DATASETS",
    "SPLITS",
    "BatchSizes",
    "Format",
    "Source",
    "VideoLoader",
    "add_dataset",
    "build_annotations",
    "build_batch_sizes",
    "build_class_names",
    "build_format",
    "build_known_class_names",
    "build_loader",
    "build_mix",
    "build_normalize",
    "build_opener",
    "build_source",
    "build_view_counts",
    "find_problems",
]

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


def find_problems(cfg: CfgNode) -> list[str]:
    """Return the problems of the data settings of a config: names, policies and lists.

    This reads the lists completely, so an invalid row of the test list is found before training.
    """
    problems = _find_invalid_values(cfg)
    if problems:
        return problems

    needed = {"train": cfg.TRAIN.ENABLE, "val": cfg.TRAIN.ENABLE, "test": cfg.TEST.ENABLE}
    lists = {}
    for split in SPLITS:
        if not needed[split]:
            continue
        if cfg.DATA.TARGET_FPS and build_format(cfg, split).is_frames:
            problems.append(
                f"DATA.TARGET_FPS is {cfg.DATA.TARGET_FPS}, but frame folders have no frame rate. "
                "Use 0"
            )
        try:
            lists[split] = build_annotations(cfg, split)
        except (ValueError, OSError) as error:
            problems.append(str(error))

    for warning in find_repeats(lists):
        logger.warning("%s", warning)
    if "test" in lists and not lists["test"].is_labeled:
        list_path = build_source(cfg, "test").list_path
        logger.warning("%s has no labels: the test predicts its videos, and scores none", list_path)

    try:
        if cfg.DATA.MANIFEST:
            read_manifest(cfg.DATA.MANIFEST)
        build_class_names(cfg)
    except (ValueError, OSError) as error:
        problems.append(str(error))
    return list(dict.fromkeys(problems))  # a file that several splits need is one problem


def build_loader(
    cfg: CfgNode,
    split: str,
    *,
    annotations: Annotations | None = None,
    micro_batches_per_step: int = 1,
    list_split: str = "",
    notes_intervals: bool = False,
) -> VideoLoader:
    """Return the loader of this process for a split.

    Training loads random views, validation one centered view per video, testing all views.

    Args:
        cfg: The config.
        split: Name of the split: train | val | test.
        annotations: Videos to load instead of the list of the split.
        micro_batches_per_step: Number of micro-batches of this process in a training step.
        list_split: Split whose list is loaded, if it is another one.
        notes_intervals: Whether batches say when each clip begins and ends.

    Raises:
        FileNotFoundError: If the list does not exist.
        ValueError: If the list is invalid, or has too few videos for one training step.
    """
    is_whole_list = annotations is None
    known_unreadable: dict[int, str] = {}
    if annotations is None:
        annotations, known_unreadable = _build_readable_annotations(
            cfg, list_split or split, may_drop=split == "train"
        )

    sampler: TrainSampler | EvalSampler
    if split == "train":
        sampler = _build_train_sampler(
            cfg, labels=annotations.labels, micro_batches_per_step=micro_batches_per_step
        )
    else:
        sampler = _build_eval_sampler(cfg, split, num_videos=len(annotations))

    dataset = VideoDataset(
        annotations,
        build_clip_reader(cfg, split),
        known_unreadable=known_unreadable,
        num_workers=cfg.DATA_LOADER.NUM_WORKERS,
        notes_intervals=notes_intervals,
    )

    if is_whole_list and is_main():
        if split != "test":
            _warn_about_empty_classes(dataset, class_names=build_class_names(cfg), split=split)
        _log_dropped_videos(sampler)
        if split == ("train" if cfg.TRAIN.ENABLE else "test"):  # once per run
            num_processes = max(world_size() // cfg.NUM_SHARDS, 1)
            warn_about_many_workers(cfg.DATA_LOADER.NUM_WORKERS, num_processes=num_processes)

    return VideoLoader(
        dataset,
        sampler,
        num_workers=cfg.DATA_LOADER.NUM_WORKERS,
        timeout=cfg.DATA_LOADER.TIMEOUT,
        pin_memory=cfg.DATA_LOADER.PIN_MEMORY and device().type == "cuda",
        keep_workers=split == "train",
    )


def build_batch_sizes(cfg: CfgNode) -> BatchSizes:
    """Return the batch sizes of a run. The config gives them per machine (NUM_SHARDS)."""
    return BatchSizes(
        videos_per_step=cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS,
        copies_per_video=cfg.AUG.NUM_SAMPLE if cfg.AUG.ENABLE else 1,
        views_per_test_batch=cfg.TEST.BATCH_SIZE * cfg.NUM_SHARDS,
    )


def build_mix(cfg: CfgNode) -> Mix | None:
    """Return the MixUp and CutMix of training batches, or None if MIXUP.ENABLE is off."""
    if not cfg.MIXUP.ENABLE:
        return None
    return Mix(
        num_classes=cfg.MODEL.NUM_CLASSES,
        mixup_alpha=cfg.MIXUP.ALPHA,
        cutmix_alpha=cfg.MIXUP.CUTMIX_ALPHA,
        probability=cfg.MIXUP.PROB,
        switch_probability=cfg.MIXUP.SWITCH_PROB,
        smoothing=cfg.MIXUP.LABEL_SMOOTH_VALUE,
    )


def build_normalize(cfg: CfgNode) -> Normalize:
    """Return the transform from the frames of a batch to the input of the model (DATA.UINT8)."""
    return Normalize(mean=cfg.DATA.MEAN, std=cfg.DATA.STD, erase_mode=cfg.AUG.RE_MODE)


def _find_invalid_values(cfg: CfgNode) -> list[str]:
    problems = []
    for key, name in (("TRAIN.DATASET", cfg.TRAIN.DATASET), ("TEST.DATASET", cfg.TEST.DATASET)):
        if name not in DATASETS:
            problems.append(f"{key} is {name!r}. Choose from {', '.join(DATASETS)}")

    if cfg.AUG.ENABLE and cfg.AUG.AA_TYPE:
        try:
            RandAugment(cfg.AUG.AA_TYPE, interpolation=cfg.AUG.INTERPOLATION)
        except ValueError as error:
            problems.append(f"AUG.AA_TYPE: {error}")
    return problems


def _build_readable_annotations(
    cfg: CfgNode, split: str, *, may_drop: bool
) -> tuple[Annotations, dict[int, str]]:
    """Apply DATA.MANIFEST to the list of a split.

    Args:
        cfg: The config.
        split: Name of the split.
        may_drop: Whether to drop the unreadable videos, for training.

    Returns:
        For training, the list without the unreadable videos. For validation and testing, the whole
        list, and the reasons of the unreadable videos by row.
    """
    annotations = build_annotations(cfg, split)
    if not cfg.DATA.MANIFEST:
        return annotations, {}

    manifest = read_manifest(cfg.DATA.MANIFEST, allow_truncated=cfg.DATA.ALLOW_TRUNCATED)
    unreadable = find_unreadable(annotations, manifest)
    listed = f"{count(len(annotations), 'video')} of {split}"
    if not unreadable:
        logger.info("all %s are readable according to %s", listed, cfg.DATA.MANIFEST)
        return annotations, {}

    if not may_drop:
        logger.info(
            "%d of the %s will not be scored: unreadable according to %s",
            len(unreadable),
            listed,
            cfg.DATA.MANIFEST,
        )
        return annotations, unreadable

    if len(unreadable) == len(annotations):
        list_path = build_source(cfg, split).list_path
        raise ValueError(
            f"{cfg.DATA.MANIFEST}: all {len(annotations)} videos of {list_path} are unreadable"
        )
    logger.info(
        "skipping %d of the %s: unreadable according to %s",
        len(unreadable),
        listed,
        cfg.DATA.MANIFEST,
    )
    readable = np.setdiff1d(np.arange(len(annotations)), list(unreadable))
    return annotations.select(readable), {}


def _build_train_sampler(
    cfg: CfgNode, *, labels: NDArray[np.int32], micro_batches_per_step: int
) -> TrainSampler:
    batch_sizes = build_batch_sizes(cfg)
    num_videos = batch_sizes.videos_per_process
    if num_videos % micro_batches_per_step:
        raise ValueError(
            f"SOLVER.ACCUM_STEPS is {micro_batches_per_step}, but a process takes {num_videos} "
            "videos per step. Use a divisor"
        )

    is_balanced = cfg.TRAIN.SAMPLING == "balanced"
    return TrainSampler(
        BalancedOrder(labels) if is_balanced else UniformOrder(len(labels)),
        batch_size=num_videos // micro_batches_per_step,
        micro_batches_per_step=micro_batches_per_step,
        views_per_video=batch_sizes.copies_per_video,
        seed=cfg.RNG_SEED,
        rank=rank(),
        world_size=world_size(),
        drop_last=cfg.TRAIN.DROP_LAST,
    )


def _build_eval_sampler(cfg: CfgNode, split: str, *, num_videos: int) -> EvalSampler:
    num_clips, num_crops = build_view_counts(cfg, split)
    num_views = num_clips * num_crops
    return EvalSampler(
        ViewGroups(num_videos, num_views, cfg.TEST.VIEWS_PER_FORWARD),
        num_clips=num_clips,
        num_crops=num_crops,
        videos_per_batch=build_batch_sizes(cfg).eval_videos_per_process(num_views),
        rank=rank(),
        world_size=world_size(),
    )


def _warn_about_empty_classes(dataset: VideoDataset, *, class_names: list[str], split: str) -> None:
    """Name the classes that training cannot learn or validation cannot judge, if there are any."""
    purpose = {"train": "training", "val": "validation"}[split]
    readable = np.delete(dataset.annotations.labels, list(dataset.known_unreadable))
    if warning := describe_empty_classes(readable, class_names, purpose=purpose):
        logger.warning("%s", warning)


def _log_dropped_videos(sampler: TrainSampler | EvalSampler) -> None:
    """Log how many videos each training epoch drops, if it drops any."""
    if isinstance(sampler, EvalSampler) or not sampler.num_dropped:
        return

    noun = "video" if isinstance(sampler.order, UniformOrder) else "draw"
    logger.info(
        "each epoch drops %d of %s, chosen at random, as an incomplete step of %d; "
        "TRAIN.DROP_LAST False keeps it",
        sampler.num_dropped,
        count(sampler.order.num_videos, noun),
        sampler.videos_per_step,
    )
