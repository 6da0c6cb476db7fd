"""From the config to what trains: the run, its optimizer, and what takes its steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.optim import Optimizer

from slowfast.datasets.build import build_mix, build_normalize, known_class_names
from slowfast.distributed.collectives import device, world_size
from slowfast.engine.ddp import compile_blocks, wrap_ddp
from slowfast.engine.ema import ModelEma
from slowfast.engine.optim import LOSSES, amp_dtype, make_optimizer, parameter_groups
from slowfast.engine.recompute import choose_recomputed, free_bytes
from slowfast.engine.skipped_steps import SkippedSteps
from slowfast.engine.state import TrainingState
from slowfast.engine.step import TrainStep
from slowfast.engine.unreadable_videos import UnreadableVideos
from slowfast.models.build import build_model, lr_scales
from slowfast.models.uniformer import UniFormer

STEPS_ON_GPU = (
    3  # with prefetching: the step before, which is not judged yet, this one, and the next
)


def build_state(cfg: CfgNode, *, identity: dict[str, Any], num_parts: int) -> TrainingState:
    """Return a run of random weights at its beginning.

    Args:
        cfg: The config.
        identity: What makes it this run, see `identity_of`.
        num_parts: Number of batches into which all processes together divide a step.
    """
    torch.manual_seed(cfg.RNG_SEED)
    model = build_model(cfg).to(device())
    if cfg.MODEL.CHECKPOINT_AUTO and isinstance(model, UniFormer):
        _choose_recomputed(cfg, model, num_parts=num_parts)
    if cfg.TRAIN.COMPILE:
        compile_blocks(model)

    uses_fp16 = amp_dtype(cfg.TRAIN.AMP, device()) is torch.float16
    return TrainingState(
        model=model,
        ema=ModelEma(model, decay=cfg.TRAIN.EMA_DECAY) if cfg.TRAIN.EMA_DECAY else None,
        optimizer=build_optimizer(cfg, model),
        scaler=torch.amp.GradScaler(device().type, enabled=uses_fp16),
        identity=identity,
        class_names=known_class_names(cfg),
        allowed_mismatch=cfg.MODEL.ALLOWED_MISMATCH,
        cfg_text=cfg.dump(),
        num_parts=num_parts,
    )


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """Return the optimizer of a config, in groups of equal weight decay and learning rate."""
    groups = parameter_groups(
        model,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        norm_weight_decay=cfg.BN.WEIGHT_DECAY,
        decay_1d=not cfg.SOLVER.ZERO_WD_1D_PARAM,
        lr_scales=lr_scales(cfg, model),
    )
    return make_optimizer(
        cfg.SOLVER.OPTIMIZING_METHOD,
        groups,
        lr=cfg.SOLVER.BASE_LR,
        fused=cfg.SOLVER.FUSED,
        momentum=cfg.SOLVER.MOMENTUM,
        dampening=cfg.SOLVER.DAMPENING,
        nesterov=cfg.SOLVER.NESTEROV,
    )


def build_train_step(
    cfg: CfgNode,
    run: TrainingState,
    *,
    unreadable: UnreadableVideos,
    video_name: Callable[[int], str] = str,
) -> TrainStep:
    """Return what takes the steps of a run.

    Args:
        cfg: The config.
        run: The run, changed by each step.
        unreadable: The videos that could not be read, counted.
        video_name: Function from a row of the training list to its path.
    """
    skipped_steps = SkippedSteps(
        run.streak,
        max_in_row=cfg.SOLVER.MAX_BAD_STEPS,
        video_name=video_name,
        folder=Path(cfg.OUTPUT_DIR, "skipped_steps"),
    )
    return TrainStep(
        run,
        loss=LOSSES[cfg.MODEL.LOSS_FUNC],
        normalize=build_normalize(cfg),
        skipped_steps=skipped_steps,
        unreadable=unreadable,
        mix=build_mix(cfg),
        amp=amp_dtype(cfg.TRAIN.AMP, device()),
        max_norm=cfg.SOLVER.CLIP_GRADIENT,
        seed=cfg.RNG_SEED,
        parallel=build_ddp(cfg, run.model, parts_per_step=run.num_parts // world_size()),
    )


def build_ddp(cfg: CfgNode, model: nn.Module, *, parts_per_step: int) -> nn.Module:
    """Return what brings the gradients of all processes together as it is run.

    Args:
        cfg: The config.
        model: The model, on its device.
        parts_per_step: Number of parts of this process. Gradients travel with the last one.
    """
    return wrap_ddp(
        model,
        # A graph that is the same in each pass: parts that are not synchronized make it two.
        static_graph=cfg.TRAIN.STATIC_GRAPH and parts_per_step == 1,
        bucket_view=cfg.TRAIN.GRADIENT_BUCKET_VIEW,
        gradient_dtype=cfg.TRAIN.GRADIENT_DTYPE,
    )


def _choose_recomputed(cfg: CfgNode, model: UniFormer, *, num_parts: int) -> None:
    num_copies = cfg.AUG.NUM_SAMPLE if cfg.AUG.ENABLE else 1
    num_clips = -(-cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS * num_copies // num_parts)
    side = cfg.DATA.TRAIN_CROP_SIZE
    shape = (num_clips, 3, cfg.DATA.NUM_FRAMES, side, side)

    limit = build_memory_limit(cfg, model, shape=shape, parts_per_step=num_parts // world_size())
    remedy = (
        f"use more SOLVER.ACCUM_STEPS (now {cfg.SOLVER.ACCUM_STEPS}), or a smaller TRAIN.BATCH_SIZE with "
        "SOLVER.BASE_LR in proportion"
    )
    amp = amp_dtype(cfg.TRAIN.AMP, device())
    choose_recomputed(model, shape=shape, amp=amp, limit=limit, remedy=remedy)


def build_memory_limit(
    cfg: CfgNode, model: nn.Module, *, shape: tuple[int, ...], parts_per_step: int
) -> float:
    """Return the bytes that the activations of a forward pass may take.

    Args:
        cfg: The config.
        model: The model, on its device. All else that a training keeps there is still to come.
        shape: Shape (B, C, T, H, W) of the frames of one forward pass of this process.
        parts_per_step: Number of parts of this process.
    """
    if cfg.MODEL.CHECKPOINT_MEMORY:
        return cfg.MODEL.CHECKPOINT_MEMORY * 2**30
    return free_bytes(
        model,
        num_moments=1 if cfg.SOLVER.OPTIMIZING_METHOD == "sgd" else 2,
        has_average=cfg.TRAIN.EMA_DECAY > 0,
        num_gradient_copies=_num_gradient_copies(cfg),
        input_bytes=_input_bytes(cfg, shape=shape, parts_per_step=parts_per_step),
    )


def _num_gradient_copies(cfg: CfgNode) -> float:
    """The copies of all gradients: their own, and those that DDP sends, which may be the same memory."""
    if world_size() == 1:
        return 1.0
    num_copies = 1.0 if cfg.TRAIN.GRADIENT_BUCKET_VIEW else 2.0
    return num_copies + 0.5 if cfg.TRAIN.GRADIENT_DTYPE == "bf16" else num_copies


def _input_bytes(cfg: CfgNode, *, shape: tuple[int, ...], parts_per_step: int) -> int:
    """The bytes of the frames that are on a GPU at the same time."""
    pixels = torch.Size(shape).numel()
    num_batches = STEPS_ON_GPU * parts_per_step if cfg.TRAIN.PREFETCH else 1
    waiting = num_batches * pixels * (1 if cfg.DATA.UINT8 else 4)
    normalized = 4 * pixels if cfg.DATA.UINT8 else 0
    mixed = 4 * pixels if cfg.MIXUP.ENABLE else 0
    return waiting + normalized + mixed
