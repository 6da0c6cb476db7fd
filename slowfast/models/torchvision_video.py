"""The video models of torchvision, by their names there, on the same data and with the same test as UniFormer.

Names of weights are torchvision's own, so that its files load.
"""

from fvcore.common.config import CfgNode
from torch import nn
from torchvision.models import get_model, get_model_weights, list_models, video
from torchvision.models.video.mvit import MSBlockConfig, MViT

from slowfast.models.uniformer import changed_keys

NAMES = tuple(list_models(video))
_MVIT_DEPTHS = (1, 2, 11, 2)  # blocks of the four stages


def build_torchvision_model(cfg: CfgNode) -> nn.Module:
    """Return the model of torchvision that a config names, with random weights."""
    name, num_classes = cfg.MODEL.MODEL_NAME, cfg.MODEL.NUM_CLASSES
    if _has_fixed_clip(name):
        return build_mvit(
            name,
            num_classes=num_classes,
            num_frames=cfg.DATA.NUM_FRAMES,
            crop_size=cfg.DATA.TRAIN_CROP_SIZE,
        )
    return get_model(name, weights=None, num_classes=num_classes)


def find_problems(cfg: CfgNode) -> list[str]:
    """Return what is wrong with the keys of one of these models: clips it cannot take, keys it would not heed."""
    name, num_frames = cfg.MODEL.MODEL_NAME, cfg.DATA.NUM_FRAMES
    sizes = {
        "DATA.TRAIN_CROP_SIZE": cfg.DATA.TRAIN_CROP_SIZE,
        "DATA.TEST_CROP_SIZE": cfg.DATA.TEST_CROP_SIZE,
    }
    problems = []
    if _has_fixed_clip(name):
        if len(set(sizes.values())) > 1:
            places = " and ".join(f"{key} is {size}" for key, size in sizes.items())
            problems.append(
                f"{places}, but {name} learns a position for each place; use one size for both"
            )
        problems += [
            f"{key} is {size}; {name} takes multiples of 32"
            for key, size in sizes.items()
            if size % 32
        ]
        if num_frames % 2:
            problems.append(f"DATA.NUM_FRAMES is {num_frames}; {name} takes an even number")
    else:
        meta = get_model_weights(name).DEFAULT.meta
        smallest, fewest = meta["min_size"][0], meta.get("min_temporal_size", 1)
        problems += [
            f"{key} is {size}; {name} takes {smallest} or more"
            for key, size in sizes.items()
            if size < smallest
        ]
        if num_frames < fewest:
            problems.append(f"DATA.NUM_FRAMES is {num_frames}; {name} takes {fewest} or more")
    unused = [
        f"{key} is {value}, which {name} does not read" for key, value in changed_keys(cfg).items()
    ]
    return problems + [
        f"{problem}; leave it out, or choose MODEL.MODEL_NAME Uniformer" for problem in unused
    ]


def build_mvit(name: str, *, num_classes: int, num_frames: int, crop_size: int) -> MViT:
    """Return torchvision's mvit_v1_b or mvit_v2_s, with random weights, for clips of any size.

    torchvision's own builders make them for 16 frames of 224 x 224 pixels alone.

    Args:
        name: mvit_v1_b or mvit_v2_s.
        num_classes: width of the head.
        num_frames: of a clip, an even number.
        crop_size: pixels, height and width of a clip, a multiple of 32.

    Source: Fan et al., Multiscale Vision Transformers, arXiv:2104.11227; Li et al., MViTv2, arXiv:2112.01526.
    """
    is_v2 = name == "mvit_v2_s"
    stages = [stage for stage, depth in enumerate(_MVIT_DEPTHS) for _ in range(depth)]
    blocks = []
    for before, stage, after in zip([0, *stages], stages, [*stages[1:], 3], strict=False):
        narrow, wide = (
            (before, stage) if is_v2 else (stage, after)
        )  # V2 widens as a stage starts, V1 as it ends
        is_first = stage > before  # it halves height and width
        blocks.append(
            MSBlockConfig(
                num_heads=2**stage,
                input_channels=96 * 2**narrow,
                output_channels=96 * 2**wide,
                kernel_q=[3, 3, 3] if is_v2 or is_first else [],
                kernel_kv=[3, 3, 3],
                stride_q=[1, 2, 2] if is_first else [1, 1, 1] if is_v2 else [],
                stride_kv=[1, 8 >> stage, 8 >> stage],
            )
        )
    return MViT(
        spatial_size=(crop_size, crop_size),
        temporal_size=num_frames,
        block_setting=blocks,
        residual_pool=is_v2,
        residual_with_cls_embed=False,
        rel_pos_embed=is_v2,
        proj_after_attn=is_v2,
        stochastic_depth_prob=0.2,
        num_classes=num_classes,
    )


def _has_fixed_clip(name: str) -> bool:
    return name.startswith("mvit")
