"""Builders: from the config to the training state, its optimizer and its training step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.optim import Optimizer

from slowfast.datasets.build import (
    build_batch_sizes,
    build_known_class_names,
    build_mix,
    build_normalize,
)
from slowfast.distributed.collectives import device, world_size
from slowfast.engine.compile import compile_blocks
from slowfast.engine.ddp import wrap_ddp
from slowfast.engine.ema import ModelEma
from slowfast.engine.forward import ForwardPass
from slowfast.engine.losses import LOSSES
from slowfast.engine.lr_schedule import LrSchedule
from slowfast.engine.optim import make_optimizer, parameter_groups
from slowfast.engine.recompute import activation_budget, choose_recomputed
from slowfast.engine.skipped_steps import FOLDER_NAME, SkippedSteps
from slowfast.engine.state import TrainingState
from slowfast.engine.step import TrainStep
from slowfast.engine.unreadable_videos import UnreadableVideos
from slowfast.inference.precision import amp_dtype
from slowfast.models.build import MODELS, build_model, lr_scales
from slowfast.models.freezing import find_pattern_problems, freeze
from slowfast.models.uniformer_config import AnyUniFormer

STEPS_ON_GPU = 3  # With prefetching: the unsettled step, the running one, and the next one.


def build_state(
    cfg: CfgNode,
    *,
    num_micro_batches: int = 1,
    run_id: str = "",
    identity: dict[str, Any] | None = None,
) -> TrainingState:
    """Return the state of a new run, with random weights.

    Args:
        cfg: The config.
        num_micro_batches: Number of micro-batches of a step, over all processes.
        run_id: ID of the run.
        identity: Identity of the run, see `slowfast.engine.identity`.

    Raises:
        ValueError: If MODEL.FREEZE has a pattern that matches nothing, or leaves nothing to train.
    """
    torch.manual_seed(cfg.RNG_SEED)
    model = build_model(cfg).to(device())
    _build_frozen_parts(cfg, model)
    if cfg.MODEL.CHECKPOINT_AUTO and isinstance(model, AnyUniFormer):
        _build_recomputation(cfg, model, num_micro_batches=num_micro_batches)
    if cfg.TRAIN.COMPILE:
        compile_blocks(model)

    uses_fp16 = amp_dtype(cfg.TRAIN.AMP, device()) is torch.float16
    return TrainingState(
        model=model,
        optimizer=build_optimizer(cfg, model),
        scaler=torch.amp.GradScaler(device().type, enabled=uses_fp16),
        ema=ModelEma(model, decay=cfg.TRAIN.EMA_DECAY) if cfg.TRAIN.EMA_DECAY else None,
        run_id=run_id,
        identity=identity or {},
        class_names=build_known_class_names(cfg),
        allowed_mismatch=cfg.MODEL.ALLOWED_MISMATCH,
        cfg_text=cfg.dump(),
        num_micro_batches=num_micro_batches,
    )


def _build_frozen_parts(cfg: CfgNode, model: nn.Module) -> None:
    """Freeze what MODEL.FREEZE names."""
    problems = find_pattern_problems(model, cfg.MODEL.FREEZE)
    if problems:
        raise ValueError("\n  ".join(problems))
    freeze(model, cfg.MODEL.FREEZE)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """Return the optimizer, with parameters grouped by weight decay and learning rate."""
    groups = parameter_groups(
        model,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        norm_weight_decay=cfg.BN.WEIGHT_DECAY,
        decay_1d=not cfg.SOLVER.ZERO_WD_1D_PARAM,
        lr_scales=lr_scales(
            model, model_name=cfg.MODEL.MODEL_NAME, layer_decay=cfg.SOLVER.LAYER_DECAY
        ),
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


def build_lr_schedule(cfg: CfgNode) -> LrSchedule:
    """Return the learning-rate schedule."""
    return LrSchedule(
        policy=cfg.SOLVER.LR_POLICY,
        num_epochs=cfg.SOLVER.MAX_EPOCH,
        base_lr=cfg.SOLVER.BASE_LR,
        scale=cfg.NUM_SHARDS if cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS else 1,
        warmup_epochs=cfg.SOLVER.WARMUP_EPOCHS,
        warmup_start_lr=cfg.SOLVER.WARMUP_START_LR,
        cosine_end_lr=cfg.SOLVER.COSINE_END_LR,
        cosine_after_warmup=cfg.SOLVER.COSINE_AFTER_WARMUP,
        steps=cfg.SOLVER.STEPS,
        relative_lrs=cfg.SOLVER.LRS,
    )


def build_train_step(
    cfg: CfgNode,
    state: TrainingState,
    *,
    num_videos: int,
    video_name: Callable[[int], str] = str,
) -> TrainStep:
    """Return the training step of a run.

    Args:
        cfg: The config.
        state: Training state. Every step changes it.
        num_videos: Number of training videos.
        video_name: Function from a row of the training list to the path of its video.
    """
    forward = ForwardPass(
        loss_fn=LOSSES[cfg.MODEL.LOSS_FUNC],
        normalize=build_normalize(cfg),
        training_loss=MODELS[cfg.MODEL.MODEL_NAME].training_loss,
        mix=build_mix(cfg),
        amp=amp_dtype(cfg.TRAIN.AMP, device()),
        seed=cfg.RNG_SEED,
    )
    skipped_steps = SkippedSteps(
        state.streak,
        max_in_row=cfg.SOLVER.MAX_BAD_STEPS,
        video_name=video_name,
        folder=Path(cfg.OUTPUT_DIR, FOLDER_NAME),
    )
    return TrainStep(
        state,
        forward=forward,
        skipped_steps=skipped_steps,
        unreadable_videos=UnreadableVideos(num_videos, max_fraction=cfg.DATA.MAX_BAD_FRACTION),
        max_norm=cfg.SOLVER.CLIP_GRADIENT,
        ddp=build_ddp(cfg, state.model, num_micro_batches=state.num_micro_batches // world_size()),
    )


def build_ddp(cfg: CfgNode, model: nn.Module, *, num_micro_batches: int) -> nn.Module:
    """Return a model wrapped in DDP, or the model itself with one process.

    Args:
        cfg: The config.
        model: Model on its device.
        num_micro_batches: Number of micro-batches of this process in a step.
    """
    return wrap_ddp(
        model,
        # Micro-batches that send no gradients would be a second graph.
        static_graph=cfg.TRAIN.STATIC_GRAPH and num_micro_batches == 1,
        bucket_view=cfg.TRAIN.GRADIENT_BUCKET_VIEW,
        gradient_dtype=cfg.TRAIN.GRADIENT_DTYPE,
    )


def _build_recomputation(cfg: CfgNode, model: AnyUniFormer, *, num_micro_batches: int) -> None:
    """Let a model recompute as few blocks as fit into memory, see MODEL.CHECKPOINT_AUTO."""
    num_clips = -(-build_batch_sizes(cfg).clips_per_step // num_micro_batches)
    side = cfg.DATA.TRAIN_CROP_SIZE
    shape = (num_clips, 3, cfg.DATA.NUM_FRAMES, side, side)
    budget = build_activation_budget(
        cfg, model, shape=shape, num_micro_batches=num_micro_batches // world_size()
    )
    choose_recomputed(
        model,
        shape=shape,
        training_loss=MODELS[cfg.MODEL.MODEL_NAME].training_loss,
        amp=amp_dtype(cfg.TRAIN.AMP, device()),
        budget=budget,
        remedy=(
            f"use more SOLVER.ACCUM_STEPS (now {cfg.SOLVER.ACCUM_STEPS}), or a smaller "
            "TRAIN.BATCH_SIZE with SOLVER.BASE_LR in proportion"
        ),
    )


def build_activation_budget(
    cfg: CfgNode, model: nn.Module, *, shape: tuple[int, ...], num_micro_batches: int
) -> float:
    """Return the number of bytes that the activations of a forward pass may take.

    Args:
        cfg: The config.
        model: Model on its device. Nothing else of the training is on the device yet.
        shape: Shape (B, C, T, H, W) of the frames of one micro-batch of this process.
        num_micro_batches: Number of micro-batches of this process in a step.
    """
    if cfg.MODEL.CHECKPOINT_MEMORY:
        return cfg.MODEL.CHECKPOINT_MEMORY * 2**30

    return activation_budget(
        model,
        num_moments=1 if cfg.SOLVER.OPTIMIZING_METHOD == "sgd" else 2,
        has_ema=cfg.TRAIN.EMA_DECAY > 0,
        num_gradient_copies=_build_num_gradient_copies(cfg),
        input_bytes=_build_input_bytes(cfg, shape=shape, num_micro_batches=num_micro_batches),
    )


def _build_num_gradient_copies(cfg: CfgNode) -> float:
    """Return the copies of all gradients in float32: the gradients, and what DDP sends of them."""
    if world_size() == 1:
        return 1.0
    num_copies = 1.0 if cfg.TRAIN.GRADIENT_BUCKET_VIEW else 2.0
    if cfg.TRAIN.GRADIENT_DTYPE == "bf16":
        num_copies += 0.5
    return num_copies


def _build_input_bytes(cfg: CfgNode, *, shape: tuple[int, ...], num_micro_batches: int) -> int:
    """Return the bytes of all frames that are on a GPU at the same time."""
    num_values = torch.Size(shape).numel()
    num_batches = STEPS_ON_GPU * num_micro_batches if cfg.TRAIN.PREFETCH else 1
    loaded = num_batches * num_values * (1 if cfg.DATA.UINT8 else 4)
    normalized = 4 * num_values if cfg.DATA.UINT8 else 0
    mixed = 4 * num_values if cfg.MIXUP.ENABLE else 0
    return loaded + normalized + mixed
