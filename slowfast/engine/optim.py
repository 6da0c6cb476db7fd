"""The optimizer, its parameter groups, and the update of the weights."""

from collections.abc import Iterable, Mapping
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

_GUARDED_METHODS = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


def _without_guards(optimizer_class: type[Optimizer]) -> Any:
    """Return an optimizer that does the same and that torch.compile must not trace.

    torch guards some methods of its optimizers against being traced. The guards import torch's
    whole compiler, even if nothing is compiled, and every training would wait for it.
    """
    methods = {name: unwrap(getattr(optimizer_class, name)) for name in _GUARDED_METHODS}
    methods["step"] = torch.no_grad()(unwrap(optimizer_class.step))
    return type(optimizer_class.__name__, (optimizer_class,), methods)


OPTIMIZERS = {
    "adamw": _without_guards(AdamW),
    "adam": _without_guards(Adam),
    "sgd": _without_guards(SGD),
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
        groups: Parameter groups, see `parameter_groups`.
        lr: Learning rate before the first `set_lr`.
        fused: Whether one kernel updates all weights (adamw and adam).
        momentum: Momentum of sgd.
        dampening: Dampening of the momentum of sgd.
        nesterov: Whether the momentum of sgd is Nesterov's.
    """
    if method == "sgd":
        # Never fused: if the first step is skipped, torch's fused SGD continues from a momentum
        # buffer that was never set. Without momentum, torch refuses Nesterov's.
        nesterov = nesterov and momentum > 0
        return OPTIMIZERS[method](
            groups, lr=lr, momentum=momentum, dampening=dampening, nesterov=nesterov
        )

    return OPTIMIZERS[method](groups, lr=lr, betas=(0.9, 0.999), eps=1e-8, fused=fused)


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    norm_weight_decay: float,
    decay_1d: bool,
    lr_scales: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Return parameter groups for BatchNorm, for other 1-D parameters, and for all the rest.

    With `lr_scales`, there is one such set of groups per scale. Empty groups are left out.

    Args:
        model: Model whose trainable parameters are grouped.
        weight_decay: Weight decay outside BatchNorm.
        norm_weight_decay: Weight decay of BatchNorm.
        decay_1d: Whether biases and other 1-D parameters decay too.
        lr_scales: Factor of the learning rate for each parameter, by name. None means 1 for all.
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
            if parameter.requires_grad:
                full_name = f"{prefix}.{name}" if prefix else name
                scale = lr_scales[full_name] if lr_scales else 1.0
                members[scale, _kind(module, name, parameter)].append(parameter)

    return [
        {"params": parameters, "weight_decay": decays[kind], "lr_scale": scale}
        for (scale, kind), parameters in members.items()
        if parameters
    ]


def _kind(module: nn.Module, name: str, parameter: nn.Parameter) -> str:
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return "batch_norm"
    return "one_d" if parameter.dim() == 1 or name == "bias" else "others"


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group, times the scale of the group."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def apply_gradients(
    optimizer: Optimizer, scaler: torch.amp.GradScaler, *, is_skipped: Tensor
) -> None:
    """Update the weights by their gradients, unless the step is skipped.

    A fused optimizer decides on the device whether to skip. For any other optimizer the host waits
    for the device, because torch gives it no way to skip a step by itself.

    Args:
        optimizer: Optimizer with unscaled gradients.
        scaler: Loss scaler of fp16. If it is enabled, it decides by itself.
        is_skipped: Whether some gradient is not finite, one bool on the device.
    """
    if scaler.is_enabled():
        scaler.step(optimizer)
        scaler.update()
    elif optimizer.defaults.get("fused"):
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        optimizer.found_inf = is_skipped.float()  # type: ignore[attr-defined]
        optimizer.step()
    elif not is_skipped:
        optimizer.step()
