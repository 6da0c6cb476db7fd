"""Baselines from a config: the video models of torchvision, and the clips that they can take.

The names of models and weights are those of torchvision, so that its files load.
"""

from typing import TYPE_CHECKING

from torch import nn

from slowfast.models.uniformer_config import find_problems_of_unread_keys

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

# Importing torchvision takes seconds, so the functions that need it import it.
NAMES = (
    "mc3_18",
    "mvit_v1_b",
    "mvit_v2_s",
    "r2plus1d_18",
    "r3d_18",
    "s3d",
    "swin3d_b",
    "swin3d_s",
    "swin3d_t",
)


def build_torchvision_model(cfg: "CfgNode", *, in_chans: int = 3) -> nn.Module:
    """Return the torchvision model of a config with random weights."""
    from slowfast.models.torchvision_models import MODELS

    name = cfg.MODEL.MODEL_NAME
    clip_size = {}
    if _has_fixed_clip_size(name):
        clip_size = {"num_frames": cfg.DATA.NUM_FRAMES, "crop_size": cfg.DATA.TRAIN_CROP_SIZE}
    return MODELS[name](num_classes=cfg.MODEL.NUM_CLASSES, in_chans=in_chans, **clip_size)


def find_problems(cfg: "CfgNode") -> list[str]:
    """Return one sentence for each clip size the model cannot take or key it does not read."""
    name = cfg.MODEL.MODEL_NAME
    sizes = {
        "DATA.TRAIN_CROP_SIZE": cfg.DATA.TRAIN_CROP_SIZE,
        "DATA.TEST_CROP_SIZE": cfg.DATA.TEST_CROP_SIZE,
    }
    find = _find_mvit_problems if _has_fixed_clip_size(name) else _find_clip_problems
    problems = find(name, num_frames=cfg.DATA.NUM_FRAMES, crop_sizes=sizes)
    return problems + find_problems_of_unread_keys(cfg)


def _find_mvit_problems(name: str, *, num_frames: int, crop_sizes: dict[str, int]) -> list[str]:
    problems = []
    if len(set(crop_sizes.values())) > 1:
        found = " and ".join(f"{key} is {size}" for key, size in crop_sizes.items())
        problems.append(
            f"{found}, but {name} learns an embedding for each position. Use one size for both."
        )
    for key, size in crop_sizes.items():
        if size % 32:
            problems.append(f"{key} is {size}, but {name} takes multiples of 32")
    if num_frames % 2:
        problems.append(f"DATA.NUM_FRAMES is {num_frames}, but {name} takes an even number")
    return problems


def _find_clip_problems(name: str, *, num_frames: int, crop_sizes: dict[str, int]) -> list[str]:
    from torchvision.models import get_model_weights

    meta = get_model_weights(name).DEFAULT.meta
    min_size, min_frames = meta["min_size"][0], meta.get("min_temporal_size", 1)

    problems = []
    for key, size in crop_sizes.items():
        if size < min_size:
            problems.append(f"{key} is {size}, but {name} takes {min_size} or more")
    if num_frames < min_frames:
        problems.append(f"DATA.NUM_FRAMES is {num_frames}, but {name} takes {min_frames} or more")
    return problems


def _has_fixed_clip_size(name: str) -> bool:
    return name.startswith("mvit")
