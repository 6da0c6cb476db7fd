"""How a trained model looks at videos, as plain values."""

from collections.abc import Sequence
from dataclasses import dataclass

from fvcore.common.config import CfgNode

from slowfast.datasets.build import build_format, build_view_counts

# Keys that change what is trained, and never what given weights score.
_TRAINING_SECTIONS = {"TRAIN", "SOLVER", "AUG", "MIXUP", "BN"}
_TRAINING_KEYS = {"DATA.RANDOM_FLIP", "MODEL.FREEZE", "MODEL.LOSS_FUNC", "RNG_SEED"}


@dataclass(frozen=True)
class ClipSettings:
    """How a classifier looks at a video.

    Attributes:
        num_frames: Frames of a clip.
        sampling_rate: Frames of the video from one frame of a clip to the next.
        sampling: "dense" for evenly spaced clips of neighboring frames, or "segments" for clips of
            one frame from each segment of the whole video.
        target_fps: Frame rate at which clips are taken, 0 for the frame rate of each video.
        short_side: Short side of the resized frames in pixels.
        crop_size: Side of the square crops in pixels.
        mean: Mean of each channel, in the range [0, 1].
        std: Standard deviation of each channel, in the range [0, 1].
        channel_order: "RGB" or "BGR", as the model sees the channels.
        num_clips: Temporal clips of a test.
        num_crops: Spatial crops of each clip in a test, 1 for the center or 3.
        fusion: How to combine the views of a video: sum | probabilities | max.
        views_per_forward: Largest number of views in a forward pass.
        image_template: File name of a frame in a folder of images.
        allow_truncated: Whether to read video files without their end.
        max_frame_pixels: Maximum number of pixels of a frame.
    """

    num_frames: int
    sampling_rate: int
    sampling: str
    target_fps: float
    short_side: int
    crop_size: int
    mean: Sequence[float]
    std: Sequence[float]
    channel_order: str
    num_clips: int
    num_crops: int
    fusion: str
    views_per_forward: int
    image_template: str
    allow_truncated: bool
    max_frame_pixels: int


def build_clip_settings(cfg: CfgNode) -> ClipSettings:
    """Return how the test of a config looks at videos."""
    dataset_format = build_format(cfg, "test")
    num_clips, num_crops = build_view_counts(cfg, "test")
    is_bgr = dataset_format.is_bgr != cfg.DATA.REVERSE_INPUT_CHANNEL
    return ClipSettings(
        num_frames=cfg.DATA.NUM_FRAMES,
        sampling_rate=cfg.DATA.SAMPLING_RATE,
        sampling="segments" if dataset_format.is_segmented else "dense",
        target_fps=cfg.DATA.TARGET_FPS or dataset_format.target_fps,
        short_side=cfg.DATA.TEST_SHORT_SIDE or cfg.DATA.TEST_CROP_SIZE,
        crop_size=cfg.DATA.TEST_CROP_SIZE,
        mean=tuple(cfg.DATA.MEAN),
        std=tuple(cfg.DATA.STD),
        channel_order="BGR" if is_bgr else "RGB",
        num_clips=num_clips,
        num_crops=num_crops,
        fusion=cfg.DATA.ENSEMBLE_METHOD,
        views_per_forward=cfg.TEST.VIEWS_PER_FORWARD,
        image_template=cfg.DATA.IMAGE_TEMPLATE,
        allow_truncated=cfg.DATA.ALLOW_TRUNCATED,
        max_frame_pixels=cfg.DATA.MAX_FRAME_PIXELS,
    )


def build_scoring_settings(cfg: CfgNode) -> dict[str, object]:
    """Return the settings that the scores depend on, by key."""
    settings = {
        key: value
        for key, value in cfg.identity_settings().items()
        if key.split(".")[0] not in _TRAINING_SECTIONS
        and key not in _TRAINING_KEYS
        and not key.startswith("DATA.TRAIN_")
    }
    return settings | {
        "TEST.DATASET": cfg.TEST.DATASET,
        "TEST.EMA": cfg.TEST.EMA,
        "MODEL.ALLOWED_MISMATCH": cfg.MODEL.ALLOWED_MISMATCH,
        "TEST.VIEWS_PER_FORWARD": cfg.TEST.VIEWS_PER_FORWARD,
        "DATA.TEST_CROP_SIZE": cfg.DATA.TEST_CROP_SIZE,
        "DATA.TEST_SHORT_SIDE": cfg.DATA.TEST_SHORT_SIDE or cfg.DATA.TEST_CROP_SIZE,
        "TRAIN.TF32": cfg.TRAIN.TF32,
    }


def build_exported_settings(cfg: CfgNode) -> dict[str, object]:
    """Return the settings that rebuild the model of a config and its test, by key."""
    settings = build_scoring_settings(cfg)
    del settings["MODEL.ALLOWED_MISMATCH"]  # the exported weights are whole
    del settings["DATA.VIDEO_TEMPLATE"]  # a path, for lists alone
    return settings | {
        "TRAIN.AMP": cfg.TRAIN.AMP,
        "TEST.NUM_ENSEMBLE_VIEWS": cfg.TEST.NUM_ENSEMBLE_VIEWS,
        "TEST.NUM_SPATIAL_CROPS": cfg.TEST.NUM_SPATIAL_CROPS,
        "DATA.ENSEMBLE_METHOD": cfg.DATA.ENSEMBLE_METHOD,
        "DATA.TRAIN_CROP_SIZE": cfg.DATA.TRAIN_CROP_SIZE,  # MViT is built for it
        "DATA.MAX_FRAME_PIXELS": cfg.DATA.MAX_FRAME_PIXELS,
    }


def build_training_settings(cfg: CfgNode) -> dict[str, object]:
    """Return the settings that say how weights were trained, by key, without paths."""
    settings = {
        key: value
        for key, value in cfg.identity_settings().items()
        if key.split(".")[0] in _TRAINING_SECTIONS
        or key in _TRAINING_KEYS
        or key.startswith(("DATA.TRAIN_", "UNIFORMER.DROP"))
    }
    return settings | {
        "TRAIN.BATCH_SIZE": cfg.TRAIN.BATCH_SIZE,
        "NUM_SHARDS": cfg.NUM_SHARDS,
        "SOLVER.BASE_LR": cfg.SOLVER.BASE_LR,
        "SOLVER.BASE_LR_SCALE_NUM_SHARDS": cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS,
    }
