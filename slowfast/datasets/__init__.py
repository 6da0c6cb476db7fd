"""From the config to a loader: which list, which reader, which frames, which transform, which views."""

from collections.abc import Callable
from functools import partial
from os.path import join
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.utils.data import DataLoader

from slowfast.datasets.decode import FrameFolder, VideoFile
from slowfast.datasets.formats import DATASETS, build_annotations, build_class_names, format_of, list_path
from slowfast.datasets.mixup import Mix
from slowfast.datasets.records import Batch, Video
from slowfast.datasets.sampling import DenseClips, SegmentClips
from slowfast.datasets.transforms import RandAugment, TestTransform, TrainTransform
from slowfast.datasets.video import Transform, VideoDataset, collate
from slowfast.datasets.views import AllViews, RandomViews
from slowfast.utils.distributed import rank, share_of, world_size

__all__ = [
    "DATASETS",
    "SPLITS",
    "VideoLoader",
    "build_annotations",
    "build_class_names",
    "build_loader",
    "build_mix",
    "find_problems",
    "forward_size",
    "list_path",
]

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
        except (ValueError, KeyError) as error:
            problems.append(f"AUG.AA_TYPE: {error}")
    if problems:
        return problems
    needed = {"train": cfg.TRAIN.ENABLE, "val": cfg.TRAIN.ENABLE, "test": cfg.TEST.ENABLE}
    for split in [split for split in SPLITS if needed[split]]:
        try:
            build_annotations(cfg, split)
        except (ValueError, OSError) as error:
            problems.append(str(error))
    try:
        build_class_names(cfg)
    except (ValueError, OSError) as error:
        problems.append(str(error))
    return problems


class VideoLoader(DataLoader[Batch]):
    """A loader that knows its list and its views."""

    dataset: VideoDataset  # type: ignore[assignment]  # of lists of Clips, which collate makes a Batch
    batch_sampler: RandomViews | AllViews

    @property
    def num_views(self) -> int:
        """Views asked for of each video."""
        return len(self.batch_sampler.views)

    @property
    def labels(self) -> Tensor:
        """The labels of all videos of the list, (N,), int64."""
        return torch.from_numpy(self.dataset.annotations.labels)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, of the next pass over training views."""
        assert isinstance(self.batch_sampler, RandomViews), "only random views differ from epoch to epoch"
        self.batch_sampler.set_epoch(epoch)


def build_loader(cfg: CfgNode, split: str) -> VideoLoader:
    """Return the loader of this process for a split: random views to train, one centred view to validate, all to test.

    Args:
        cfg: the config.
        split: train | val | test.

    Raises:
        FileNotFoundError, ValueError: the list is missing or bad, or has too few videos for one training step.
    """
    form = format_of(cfg, split)
    annotations = build_annotations(cfg, split)
    dataset = VideoDataset(
        annotations,
        open_video=_build_opener(cfg, is_frames=form.is_frames),
        clips=_build_clips(cfg, split, is_segmented=form.is_segmented),
        transform=_build_train_transform(cfg) if split == "train" else _build_test_transform(cfg),
        bgr=form.is_frames != cfg.DATA.REVERSE_INPUT_CHANNEL,
        target_fps=cfg.DATA.TARGET_FPS,
    )
    workers = cfg.DATA_LOADER.NUM_WORKERS
    return VideoLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=_build_views(cfg, split, num_videos=len(annotations)),
        collate_fn=collate,
        num_workers=workers,
        pin_memory=cfg.DATA_LOADER.PIN_MEMORY and torch.cuda.is_available(),
        worker_init_fn=_use_one_thread,
        persistent_workers=workers > 0 and split == "train",
        multiprocessing_context="fork" if workers else None,  # forked workers share the columns of the list
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


def _build_opener(cfg: CfgNode, *, is_frames: bool) -> Callable[[Video], VideoFile | FrameFolder]:
    if is_frames:
        return partial(_open_frames, prefix=cfg.DATA.PATH_PREFIX, template=cfg.DATA.IMAGE_TEMPLATE)
    return partial(_open_file, prefix=cfg.DATA.PATH_PREFIX)


def _open_file(video: Video, *, prefix: str) -> VideoFile:
    return VideoFile(join(prefix, video.path))


def _open_frames(video: Video, *, prefix: str, template: str) -> FrameFolder:
    assert video.num_frames is not None, "a frame list gives the number of frames"
    return FrameFolder(join(prefix, video.path), template=template, num_frames=video.num_frames)


def _use_one_thread(worker: int) -> None:
    torch.set_num_threads(1)  # the workers are the parallelism; more threads would only get in each other's way


def _build_views(cfg: CfgNode, split: str, *, num_videos: int) -> RandomViews | AllViews:
    place: dict[str, Any] = {"rank": rank(), "world_size": world_size()}
    if split == "train":
        return RandomViews(
            num_videos,
            batch_size=share_of(cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS, key="TRAIN.BATCH_SIZE"),
            views_per_video=cfg.AUG.NUM_SAMPLE if cfg.AUG.ENABLE else 1,
            seed=cfg.RNG_SEED,
            **place,
        )
    num_clips, num_crops = _test_views(cfg, split)
    videos_per_batch = max(forward_size(cfg) // (num_clips * num_crops), 1)
    return AllViews(num_videos, num_clips=num_clips, num_crops=num_crops, videos_per_batch=videos_per_batch, **place)


def _test_views(cfg: CfgNode, split: str) -> tuple[int, int]:
    """Temporal clips per video and spatial crops per clip."""
    return (cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS) if split == "test" else (1, 1)


def _build_clips(cfg: CfgNode, split: str, *, is_segmented: bool) -> DenseClips | SegmentClips:
    num_clips, _ = _test_views(cfg, split)
    if is_segmented:
        return SegmentClips(cfg.DATA.NUM_FRAMES, num_clips)
    # The one view of validation is centred, whatever the test does.
    use_offset = cfg.DATA.USE_OFFSET_SAMPLING or split == "val"
    return DenseClips(cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, num_clips, use_offset)


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
        rand_augment=RandAugment(cfg.AUG.AA_TYPE, interpolation=cfg.AUG.INTERPOLATION) if augment else None,
        erase_probability=cfg.AUG.RE_PROB if cfg.AUG.ENABLE else 0.0,
        erase_mode=cfg.AUG.RE_MODE,
        erase_count=cfg.AUG.RE_COUNT,
    )


def _build_test_transform(cfg: CfgNode) -> Transform:
    return TestTransform(
        short_side=cfg.DATA.TEST_SHORT_SIDE or cfg.DATA.TEST_CROP_SIZE,
        crop_size=cfg.DATA.TEST_CROP_SIZE,
        mean=cfg.DATA.MEAN,
        std=cfg.DATA.STD,
    )
