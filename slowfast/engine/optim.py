"""The optimizer, its learning rate as a function of time, the loss, and the number format of the forward pass."""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode


def _bce_logit(logits: Tensor, target: Tensor) -> Tensor:
    if target.ndim == 1:
        target = F.one_hot(target, logits.shape[1])  # (B,) -> (B, K)
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))


# From logits (B, K) and class numbers (B,) or, but for the first, soft labels (B, K), to the mean loss of the batch.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "soft_cross_entropy": F.cross_entropy,  # torch's takes soft labels as well
    "bce_logit": _bce_logit,
}


def make_optimizer(
    method: str,
    groups: Iterable[dict[str, Any]],
    *,
    lr: float,
    fused: bool = True,
    momentum: float = 0.9,
    dampening: float = 0.0,
    nesterov: bool = True,
) -> Optimizer:
    """Return an optimizer over groups of parameters.

    Args:
        method: adamw | adam | sgd.
        groups: Groups of parameters, see `parameter_groups`.
        lr: Learning rate before the first `set_lr`.
        fused: Whether one kernel updates all weights (adamw, adam).
        momentum: Momentum of sgd.
        dampening: Dampening of the momentum of sgd.
        nesterov: Whether the momentum of sgd is Nesterov's.
    """
    if method == "sgd":
        # Not fused: after a first step that is left out, torch's fused SGD goes on from momentum that was never set.
        # Without momentum there is nothing to look ahead with, and torch refuses to.
        nesterov = nesterov and momentum > 0
        return SGD(groups, lr=lr, momentum=momentum, dampening=dampening, nesterov=nesterov)
    kind = {"adamw": AdamW, "adam": Adam}[method]
    return kind(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8, fused=fused)


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    norm_weight_decay: float,
    decay_1d: bool,
    lr_scales: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Return optimizer groups: BatchNorm, the rest of the 1-D parameters, all others; empty ones left out.

    With `lr_scales`, each of them once for every scale, which `set_lr` heeds.

    Args:
        model: its trainable parameters.
        weight_decay: of all but BatchNorm.
        norm_weight_decay: of BatchNorm.
        decay_1d: whether biases and other 1-D parameters decay as well.
        lr_scales: learning rate of a parameter, by name, over that of `set_lr`; None: 1 for all.
    """
    decays = {
        "batch_norm": norm_weight_decay,
        "one_d": weight_decay if decay_1d else 0.0,
        "others": weight_decay,
    }
    scales = sorted({*lr_scales.values()}) if lr_scales else [1.0]
    members: dict[tuple[float, str], list[nn.Parameter]] = {
        (scale, kind): [] for scale in scales for kind in decays
    }
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if isinstance(module, nn.modules.batchnorm._NormBase):
                kind = "batch_norm"
            elif parameter.dim() == 1 or name == "bias":
                kind = "one_d"
            else:
                kind = "others"
            scale = lr_scales[f"{prefix}.{name}" if prefix else name] if lr_scales else 1.0
            members[scale, kind].append(parameter)
    return [
        {"params": parameters, "weight_decay": decays[kind], "lr_scale": scale}
        for (scale, kind), parameters in members.items()
        if parameters
    ]


def lr_at(cfg: "CfgNode", epoch: float) -> float:
    """Return the learning rate at a time in epochs, such as 2.5 in the middle of the third.

    It rises linearly over SOLVER.WARMUP_EPOCHS to the value that the policy has at their end.
    """
    scale = cfg.NUM_SHARDS if cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS else 1
    warmup = cfg.SOLVER.WARMUP_EPOCHS
    if epoch < warmup:
        start = cfg.SOLVER.WARMUP_START_LR * scale
        return start + (_policy_lr_at(cfg, warmup) * scale - start) * epoch / warmup
    return _policy_lr_at(cfg, epoch) * scale


def _policy_lr_at(cfg: "CfgNode", epoch: float) -> float:
    if cfg.SOLVER.LR_POLICY == "steps_with_relative_lrs":
        reached = sum(1 for step in cfg.SOLVER.STEPS if step <= epoch)
        return cfg.SOLVER.BASE_LR * cfg.SOLVER.LRS[reached - 1]
    start = cfg.SOLVER.WARMUP_EPOCHS if cfg.SOLVER.COSINE_AFTER_WARMUP else 0.0
    # A warm-up as long as the run leaves no time for a cosine.
    progress = (
        (epoch - start) / (cfg.SOLVER.MAX_EPOCH - start) if start < cfg.SOLVER.MAX_EPOCH else 0.0
    )
    half_height = (cfg.SOLVER.BASE_LR - cfg.SOLVER.COSINE_END_LR) / 2
    return cfg.SOLVER.COSINE_END_LR + half_height * (math.cos(math.pi * progress) + 1)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give all groups of an optimizer a learning rate, times the scale of the group."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)  # checkpoints of old have no scales


def apply_gradients(optimizer: Optimizer, scaler: torch.amp.GradScaler, *, is_bad: Tensor) -> None:
    """Change the weights by their gradients, unless these are bad.

    A fused optimizer decides that on the device. For any other one, the host waits for the device: torch gives it no
    way to skip a step by itself.

    Args:
        optimizer: with unscaled gradients.
        scaler: of fp16; enabled, it decides by itself.
        is_bad: whether some gradient is not finite, one bool.
    """
    if scaler.is_enabled():
        scaler.step(optimizer)
        scaler.update()
    elif optimizer.defaults.get("fused"):
        optimizer.grad_scale, optimizer.found_inf = None, is_bad.float()  # type: ignore[attr-defined]
        optimizer.step()
    elif not is_bad:
        optimizer.step()


def amp_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """Return the number format that TRAIN.AMP means on a device; None for float32 throughout.

    Args:
        amp: off | bf16 | fp16 | auto.
        device: where the model runs.
    """
    if amp == "auto" and device.type == "cuda":
        # Older GPUs accept bfloat16 but emulate it slowly.
        amp = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(amp)


def dtype_name(amp: torch.dtype | None) -> str:
    """Return the name of the number format of a forward pass: float32 for None."""
    return str(amp or torch.float32).removeprefix("torch.")


def autocast(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[object]:
    """Return the context of a forward pass in a number format; without effect for None."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
