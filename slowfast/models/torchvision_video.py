"""Video models of torchvision as baselines, with the training and the test of UniFormer.

The names of models and weights are those of torchvision, so that its files load.
"""

from typing import TYPE_CHECKING

from torch import nn

from slowfast.models.uniformer import find_problems_of_other_model

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode
    from torchvision.models.video.mvit import MSBlockConfig, MViT

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
_MVIT_DEPTHS = (1, 2, 11, 2)  # Number of blocks in each of the four stages.


def build_torchvision_model(cfg: "CfgNode") -> nn.Module:
    """Return the torchvision model of a config with random weights."""
    from torchvision.models import get_model

    name, num_classes = cfg.MODEL.MODEL_NAME, cfg.MODEL.NUM_CLASSES
    if not _has_fixed_clip_size(name):
        return get_model(name, weights=None, num_classes=num_classes)
    return build_mvit(
        name,
        num_classes=num_classes,
        num_frames=cfg.DATA.NUM_FRAMES,
        crop_size=cfg.DATA.TRAIN_CROP_SIZE,
    )


def find_problems(cfg: "CfgNode") -> list[str]:
    """Return one sentence for each clip size the model cannot take or key it does not read."""
    name = cfg.MODEL.MODEL_NAME
    sizes = {
        "DATA.TRAIN_CROP_SIZE": cfg.DATA.TRAIN_CROP_SIZE,
        "DATA.TEST_CROP_SIZE": cfg.DATA.TEST_CROP_SIZE,
    }
    find = _find_mvit_problems if _has_fixed_clip_size(name) else _find_clip_problems
    problems = find(name, num_frames=cfg.DATA.NUM_FRAMES, crop_sizes=sizes)
    return problems + find_problems_of_other_model(cfg)


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


def build_mvit(name: str, *, num_classes: int, num_frames: int, crop_size: int) -> "MViT":
    """Return mvit_v1_b or mvit_v2_s of torchvision with random weights, for clips of any size.

    The builders of torchvision support only 16 frames of 224x224 pixels.

    Args:
        name: mvit_v1_b or mvit_v2_s.
        num_classes: Number of classes.
        num_frames: Number of frames in a clip, an even number.
        crop_size: Height and width of a clip in pixels, a multiple of 32.

    Source: Fan et al., Multiscale Vision Transformers, arXiv:2104.11227. Li et al., MViTv2,
    arXiv:2112.01526.
    """
    from torchvision.models.video.mvit import MViT

    is_v2 = name == "mvit_v2_s"
    return MViT(
        spatial_size=(crop_size, crop_size),
        temporal_size=num_frames,
        block_setting=_mvit_blocks(is_v2=is_v2),
        residual_pool=is_v2,
        residual_with_cls_embed=False,
        rel_pos_embed=is_v2,
        proj_after_attn=is_v2,
        stochastic_depth_prob=0.2,
        num_classes=num_classes,
    )


def _mvit_blocks(*, is_v2: bool) -> "list[MSBlockConfig]":
    from torchvision.models.video.mvit import MSBlockConfig

    stages: list[int] = []
    for stage, depth in enumerate(_MVIT_DEPTHS):
        stages += [stage] * depth

    blocks = []
    for before, stage, after in zip([0, *stages], stages, [*stages[1:], 3], strict=False):
        # V2 widens at the start of a stage, V1 at its end.
        narrow, wide = (before, stage) if is_v2 else (stage, after)
        is_first = stage > before  # The first block of a stage halves height and width.
        kernel_q, stride_q = [], []
        if is_v2 or is_first:
            kernel_q = [3, 3, 3]
            stride_q = [1, 2, 2] if is_first else [1, 1, 1]

        blocks.append(
            MSBlockConfig(
                num_heads=2**stage,
                input_channels=96 * 2**narrow,
                output_channels=96 * 2**wide,
                kernel_q=kernel_q,
                kernel_kv=[3, 3, 3],
                stride_q=stride_q,
                stride_kv=[1, 8 >> stage, 8 >> stage],
            )
        )
    return blocks
