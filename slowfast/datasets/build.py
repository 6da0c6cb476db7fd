"""From the config to a loader: which list, which reader, which frames, which transform, which views."""

import logging
from collections.abc import Callable
from functools import partial
from os.path import join
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode
from numpy.typing import NDArray

from slowfast.datasets.annotations import Annotations
from slowfast.datasets.catalog import (
    DATASETS,
    Format,
    Source,
    add_dataset,
    build_annotations,
    build_class_names,
    format_of,
    known_class_names,
    list_path,
)
from slowfast.datasets.dataset import Transform, VideoDataset
from slowfast.datasets.decode import FrameFolder, VideoFile
from slowfast.datasets.duplicates import describe_empty_classes, find_repeats
from slowfast.datasets.epoch_draws import BalancedDraws, UniformDraws
from slowfast.datasets.frame_table import table_folder, table_path
from slowfast.datasets.loader import VideoLoader, warn_about_many_workers
from slowfast.datasets.manifest import read_manifest
from slowfast.datasets.mixup import Mix
from slowfast.datasets.rand_augment import RandAugment
from slowfast.datasets.records import Video
from slowfast.datasets.samplers import AllViews, RandomViews
from slowfast.datasets.sampling import DenseClips, SegmentClips
from slowfast.datasets.transforms import EvalTransform, Normalize, TrainTransform
from slowfast.distributed.collectives import device, is_main, rank, share_of, world_size
from slowfast.utils.text import count

__all__ = [
    "DATASETS",
    "SPLITS",
    "Format",
    "Source",
    "VideoLoader",
    "add_dataset",
    "build_annotations",
    "build_class_names",
    "build_loader",
    "build_mix",
    "build_normalize",
    "build_opener",
    "find_problems",
    "forward_size",
    "known_class_names",
    "list_path",
]

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


def find_problems(cfg: CfgNode) -> list[str]:
    """Return what is wrong with the data of a config: names, policies, lists; an empty list if nothing is.

    It reads the lists whole, so that a bad line of the test list is found before the training, not after it.
    """
    problems = []
    for key, name in (("TRAIN.DATASET", cfg.TRAIN.DATASET), ("TEST.DATASET", cfg.TEST.DATASET)):
        if name not in DATASETS:
            problems.append(f"{key} is {name!r}; choose from {', '.join(DATASETS)}")
    if cfg.AUG.ENABLE and cfg.AUG.AA_TYPE:
        try:
            RandAugment(cfg.AUG.AA_TYPE, interpolation=cfg.AUG.INTERPOLATION)
        except ValueError as error:
            problems.append(f"AUG.AA_TYPE: {error}")
    if problems:
        return problems
    lists = {}
    needed = {"train": cfg.TRAIN.ENABLE, "val": cfg.TRAIN.ENABLE, "test": cfg.TEST.ENABLE}
    for split in [split for split in SPLITS if needed[split]]:
        if cfg.DATA.TARGET_FPS and format_of(cfg, split).is_frames:
            problems.append(
                f"DATA.TARGET_FPS is {cfg.DATA.TARGET_FPS}, but frame folders have no frame rate; use 0"
            )
        try:
            lists[split] = build_annotations(cfg, split)
        except (ValueError, OSError) as error:
            problems.append(str(error))
    for warning in find_repeats(lists):
        logger.warning("%s", warning)
    try:
        if cfg.DATA.MANIFEST:
            read_manifest(cfg.DATA.MANIFEST)
        build_class_names(cfg)
    except (ValueError, OSError) as error:
        problems.append(str(error))
    return list(dict.fromkeys(problems))  # a file that several splits need is one problem


def build_loader(
    cfg: CfgNode, split: str, *, annotations: Annotations | None = None, parts_per_step: int = 1
) -> VideoLoader:
    """Return the loader of this process for a split: random views to train, one centered view to validate, all to test.

    Args:
        cfg: the config.
        split: train | val | test.
        annotations: in place of the list of the split.
        parts_per_step: batches into which this process divides its share of a training step.

    Raises:
        FileNotFoundError, ValueError: the list is missing or bad, or has too few videos for one training step.
    """
    form = format_of(cfg, split)
    is_whole_list = annotations is None
    annotations, known_bad = (
        _annotations_to_load(cfg, split) if annotations is None else (annotations, {})
    )
    views = _build_views(cfg, split, labels=annotations.labels, parts_per_step=parts_per_step)
    if is_whole_list and is_main():
        if split != "test":
            _warn_about_empty_classes(
                cfg, split, labels=np.delete(annotations.labels, list(known_bad))
            )
        if isinstance(views, RandomViews):
            _log_dropped_videos(cfg, views)
        if split == ("train" if cfg.TRAIN.ENABLE else "test"):  # once per run
            num_processes = max(world_size() // cfg.NUM_SHARDS, 1)
            warn_about_many_workers(cfg.DATA_LOADER.NUM_WORKERS, num_processes=num_processes)

    dataset = VideoDataset(
        annotations,
        open_video=build_opener(cfg, split),
        clips=_build_clips(cfg, split, is_segmented=form.is_segmented),
        transform=_build_train_transform(cfg) if split == "train" else _build_test_transform(cfg),
        target_fps=cfg.DATA.TARGET_FPS or form.target_fps,
        refuse_short=cfg.DATA.SHORT_CLIP == "error",
        as_uint8=cfg.DATA.UINT8,
        known_bad=known_bad,
        num_workers=cfg.DATA_LOADER.NUM_WORKERS,
    )
    return VideoLoader(
        dataset,
        views,
        num_workers=cfg.DATA_LOADER.NUM_WORKERS,
        timeout=cfg.DATA_LOADER.TIMEOUT,
        pin_memory=cfg.DATA_LOADER.PIN_MEMORY and device().type == "cuda",
        keep_workers=split == "train",
    )


def forward_size(cfg: CfgNode) -> int:
    """Return how many views, at most, this process scores in one forward pass."""
    return share_of(cfg.TEST.BATCH_SIZE * cfg.NUM_SHARDS, key="TEST.BATCH_SIZE")


def build_mix(cfg: CfgNode) -> Mix | None:
    """Return the mixing of training batches, or None where MIXUP.ENABLE is off."""
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
    """Return what turns the frames of a batch into what the model sees, see DATA.UINT8."""
    return Normalize(mean=cfg.DATA.MEAN, std=cfg.DATA.STD, erase_mode=cfg.AUG.RE_MODE)


def build_opener(
    cfg: CfgNode, split: str, *, allow_truncated: bool | None = None
) -> Callable[[Video], VideoFile | FrameFolder]:
    """Return what opens a video of a split; it can be sent to other processes.

    Args:
        cfg: The config.
        split: train | val | test.
        allow_truncated: In place of DATA.ALLOW_TRUNCATED.
    """
    form = format_of(cfg, split)
    place = {"prefix": cfg.DATA.PATH_PREFIX, "bgr": form.is_bgr != cfg.DATA.REVERSE_INPUT_CHANNEL}
    if form.is_frames:
        return partial(_open_frames, template=cfg.DATA.IMAGE_TEMPLATE, **place)
    if allow_truncated is None:
        allow_truncated = cfg.DATA.ALLOW_TRUNCATED
    limits = {"allow_truncated": allow_truncated, "max_pixels": cfg.DATA.MAX_FRAME_PIXELS}
    tables = table_folder(Path(cfg.DATA.MANIFEST)) if cfg.DATA.MANIFEST else None
    return partial(
        _open_file, tables=tables if tables and tables.is_dir() else None, **limits, **place
    )


def _open_file(video: Video, *, prefix: str, tables: Path | None, **options: Any) -> VideoFile:
    table = None if tables is None else table_path(tables, video.path)
    source = VideoFile(join(prefix, video.path), table_path=table, **options)
    source.span = video.span
    return source


def _open_frames(video: Video, *, prefix: str, bgr: bool, template: str) -> FrameFolder:
    return FrameFolder(
        join(prefix, video.path), template=template, num_frames=video.num_frames, bgr=bgr
    )


def _annotations_to_load(cfg: CfgNode, split: str) -> tuple[Annotations, dict[int, str]]:
    """The list without what DATA.MANIFEST calls bad, to train on; else the whole list and its bad rows with reasons."""
    annotations = build_annotations(cfg, split)
    if not cfg.DATA.MANIFEST:
        return annotations, {}
    manifest = read_manifest(cfg.DATA.MANIFEST, allow_truncated=cfg.DATA.ALLOW_TRUNCATED)
    rows = annotations.rows_of(list(manifest.bad))
    logger.info(
        "%s", _describe_manifest(cfg, split, num_listed=len(annotations), num_bad=len(rows))
    )
    if split != "train":
        names = {int(row): annotations[row].name for row in rows}
        return annotations, {
            row: f"{name}: {manifest.bad[name]} (in the manifest)" for row, name in names.items()
        }
    if len(rows) == len(annotations):
        raise ValueError(
            f"{cfg.DATA.MANIFEST}: calls all {len(rows)} videos of {list_path(cfg, split)} bad"
        )
    return annotations.select(np.setdiff1d(np.arange(len(annotations)), rows)), {}


def _describe_manifest(cfg: CfgNode, split: str, *, num_listed: int, num_bad: int) -> str:
    listed = count(num_listed, "video")
    if not num_bad:
        return f"none of the {listed} of {split} is bad in {cfg.DATA.MANIFEST}"
    outcome = "will not be scored"
    if split == "train":
        outcome = "is left out" if num_bad == 1 else "are left out"
    return f"{num_bad} of the {listed} of {split} {outcome}: bad in {cfg.DATA.MANIFEST}"


def _warn_about_empty_classes(cfg: CfgNode, split: str, *, labels: NDArray[np.int32]) -> None:
    """Name the classes that no training can learn, or no validation can judge, if there are any."""
    purpose = {"train": "training", "val": "validation"}[split]
    if warning := describe_empty_classes(labels, build_class_names(cfg), purpose=purpose):
        logger.warning("%s", warning)


def _log_dropped_videos(cfg: CfgNode, views: RandomViews) -> None:
    """Say how much of the list each epoch of training leaves out, if it leaves out anything."""
    if views.num_dropped:
        noun = "video" if cfg.TRAIN.SAMPLING == "uniform" else "draw"
        logger.info(
            "%d of %s %s left out of each epoch (different ones each time), since %s not fill a step of "
            "%d; TRAIN.DROP_LAST False keeps them",
            views.num_dropped,
            count(views.draws.num_videos, noun),
            "is" if views.num_dropped == 1 else "are",
            "it does" if views.num_dropped == 1 else "they do",
            views.videos_per_step,
        )


def _build_views(
    cfg: CfgNode,
    split: str,
    *,
    labels: NDArray[np.int32],
    parts_per_step: int,
) -> RandomViews | AllViews:
    place: dict[str, Any] = {"rank": rank(), "world_size": world_size()}
    if split == "train":
        share = share_of(cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS, key="TRAIN.BATCH_SIZE")
        if share % parts_per_step:
            raise ValueError(
                f"SOLVER.ACCUM_STEPS is {parts_per_step}, but a process takes {share} videos per step; use a divisor"
            )
        draws = (
            BalancedDraws(labels) if cfg.TRAIN.SAMPLING == "balanced" else UniformDraws(len(labels))
        )
        return RandomViews(
            draws,
            batch_size=share // parts_per_step,
            parts_per_step=parts_per_step,
            views_per_video=cfg.AUG.NUM_SAMPLE if cfg.AUG.ENABLE else 1,
            seed=cfg.RNG_SEED,
            drop_last=cfg.TRAIN.DROP_LAST,
            **place,
        )
    num_clips, num_crops = _test_views(cfg, split)
    videos_per_batch = max(forward_size(cfg) // (num_clips * num_crops), 1)
    return AllViews(
        len(labels),
        num_clips=num_clips,
        num_crops=num_crops,
        videos_per_batch=videos_per_batch,
        **place,
    )


def _test_views(cfg: CfgNode, split: str) -> tuple[int, int]:
    """Temporal clips per video and spatial crops per clip."""
    return (cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS) if split == "test" else (1, 1)


def _build_clips(cfg: CfgNode, split: str, *, is_segmented: bool) -> DenseClips | SegmentClips:
    num_clips, _ = _test_views(cfg, split)
    if is_segmented:
        return SegmentClips(cfg.DATA.NUM_FRAMES, num_clips)
    # The one view of validation is centered, whatever the test does.
    use_offset = cfg.DATA.USE_OFFSET_SAMPLING or split == "val"
    loop = cfg.DATA.SHORT_CLIP == "loop"
    return DenseClips(cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, num_clips, use_offset, loop)


def _build_train_transform(cfg: CfgNode) -> Transform:
    augment = cfg.AUG.ENABLE and cfg.AUG.AA_TYPE
    return TrainTransform(
        crop_size=cfg.DATA.TRAIN_CROP_SIZE,
        mean=cfg.DATA.MEAN,
        std=cfg.DATA.STD,
        scale=cfg.DATA.TRAIN_JITTER_SCALES_RELATIVE,
        aspect=cfg.DATA.TRAIN_JITTER_ASPECT_RELATIVE,
        short_sides=cfg.DATA.TRAIN_JITTER_SCALES,
        flip=cfg.DATA.RANDOM_FLIP,
        rand_augment=RandAugment(cfg.AUG.AA_TYPE, interpolation=cfg.AUG.INTERPOLATION)
        if augment
        else None,
        erase_probability=cfg.AUG.RE_PROB if cfg.AUG.ENABLE else 0.0,
        erase_mode=cfg.AUG.RE_MODE,
        erase_count=cfg.AUG.RE_COUNT,
    )


def _build_test_transform(cfg: CfgNode) -> Transform:
    return EvalTransform(
        short_side=cfg.DATA.TEST_SHORT_SIDE or cfg.DATA.TEST_CROP_SIZE,
        crop_size=cfg.DATA.TEST_CROP_SIZE,
        mean=cfg.DATA.MEAN,
        std=cfg.DATA.STD,
    )
