"""Builders of what turns a video into clips: the opener, the frame sampler and the transforms."""

from pathlib import Path

from fvcore.common.config import CfgNode

from slowfast.datasets.catalog import build_format
from slowfast.datasets.clip_reader import ClipReader
from slowfast.datasets.decoding.frame_table import table_folder
from slowfast.datasets.normalization import ClipFormat, Float32Clips, Uint8Clips
from slowfast.datasets.openers import FrameFolderOpener, VideoFileOpener
from slowfast.datasets.rand_augment import RandAugment
from slowfast.datasets.sampling import DenseClips, SegmentClips
from slowfast.datasets.transforms import EvalTransform, TrainTransform, Transform


def build_clip_reader(cfg: CfgNode, split: str) -> ClipReader:
    """Return the reader of the clips of a split (train | val | test)."""
    dataset_format = build_format(cfg, split)
    transform = _build_train_transform(cfg) if split == "train" else _build_eval_transform(cfg)
    return ClipReader(
        build_opener(cfg, split),
        clips=_build_clips(cfg, split, is_segmented=dataset_format.is_segmented),
        transform=transform,
        target_fps=cfg.DATA.TARGET_FPS or dataset_format.target_fps,
        refuse_short=cfg.DATA.SHORT_CLIP == "error",
    )


def build_opener(
    cfg: CfgNode, split: str, *, allow_truncated: bool | None = None
) -> VideoFileOpener | FrameFolderOpener:
    """Return the picklable function that opens the videos of a split.

    Args:
        cfg: The config.
        split: Name of the split: train | val | test.
        allow_truncated: Value to use instead of DATA.ALLOW_TRUNCATED.
    """
    dataset_format = build_format(cfg, split)
    prefix = cfg.DATA.PATH_PREFIX
    bgr = dataset_format.is_bgr != cfg.DATA.REVERSE_INPUT_CHANNEL
    if dataset_format.is_frames:
        return FrameFolderOpener(prefix, bgr=bgr, template=cfg.DATA.IMAGE_TEMPLATE)

    if allow_truncated is None:
        allow_truncated = cfg.DATA.ALLOW_TRUNCATED
    tables = table_folder(Path(cfg.DATA.MANIFEST)) if cfg.DATA.MANIFEST else None
    return VideoFileOpener(
        prefix,
        bgr=bgr,
        allow_truncated=allow_truncated,
        max_pixels=cfg.DATA.MAX_FRAME_PIXELS,
        tables=tables if tables and tables.is_dir() else None,
    )


def build_view_counts(cfg: CfgNode, split: str) -> tuple[int, int]:
    """Return the number of temporal clips per video, and of spatial crops per clip."""
    if split == "test":
        return cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS
    return 1, 1


def _build_clips(cfg: CfgNode, split: str, *, is_segmented: bool) -> DenseClips | SegmentClips:
    num_clips, _ = build_view_counts(cfg, split)
    if is_segmented:
        return SegmentClips(cfg.DATA.NUM_FRAMES, num_clips)

    # The single clip of validation is centered, however clips are sampled for testing.
    use_offset = cfg.DATA.USE_OFFSET_SAMPLING or split == "val"
    loop = cfg.DATA.SHORT_CLIP == "loop"
    return DenseClips(cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, num_clips, use_offset, loop)


def _build_train_transform(cfg: CfgNode) -> Transform:
    rand_augment = None
    if cfg.AUG.ENABLE and cfg.AUG.AA_TYPE:
        rand_augment = RandAugment(cfg.AUG.AA_TYPE, interpolation=cfg.AUG.INTERPOLATION)

    return TrainTransform(
        crop_size=cfg.DATA.TRAIN_CROP_SIZE,
        clip_format=_build_clip_format(cfg),
        scale=cfg.DATA.TRAIN_JITTER_SCALES_RELATIVE,
        aspect=cfg.DATA.TRAIN_JITTER_ASPECT_RELATIVE,
        short_sides=cfg.DATA.TRAIN_JITTER_SCALES,
        flip=cfg.DATA.RANDOM_FLIP,
        rand_augment=rand_augment,
        erase_probability=cfg.AUG.RE_PROB if cfg.AUG.ENABLE else 0.0,
        erase_count=cfg.AUG.RE_COUNT,
    )


def _build_eval_transform(cfg: CfgNode) -> Transform:
    return EvalTransform(
        short_side=cfg.DATA.TEST_SHORT_SIDE or cfg.DATA.TEST_CROP_SIZE,
        crop_size=cfg.DATA.TEST_CROP_SIZE,
        clip_format=_build_clip_format(cfg),
    )


def _build_clip_format(cfg: CfgNode) -> ClipFormat:
    if cfg.DATA.UINT8:
        return Uint8Clips()
    return Float32Clips(mean=cfg.DATA.MEAN, std=cfg.DATA.STD, erase_mode=cfg.AUG.RE_MODE)
