"""Compilation with torch.compile: of the blocks of a model in training, or of a tested model."""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from slowfast.models.linear import make_weights_constant
from slowfast.utils.compilers import find_cpu_problems, find_gpu_problems

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode


def find_problems(cfg: "CfgNode") -> list[str]:
    """Return the reasons why this machine cannot compile a model, if the config asks for it."""
    wanted = {
        "TRAIN.COMPILE": cfg.TRAIN.ENABLE and cfg.TRAIN.COMPILE,
        "TEST.COMPILE": cfg.TEST.ENABLE and cfg.TEST.COMPILE,
    }
    if not any(wanted.values()):
        return []

    is_for_gpu = cfg.NUM_GPUS > 0 and cfg.DIST_BACKEND == "nccl"
    problems = find_gpu_problems() if is_for_gpu else find_cpu_problems()
    return [
        f"{key} is True, but {problem}, or set {key} False"
        for key in wanted
        if wanted[key]
        for problem in problems
    ]


def compile_blocks(model: nn.Module) -> None:
    """Compile the blocks of a model in place, so that the names of its weights stay.

    A model without blocks is compiled as a whole. Each block compiles when it first runs, and once
    more for validation.
    """
    # DDP would cut the graph of a block at every boundary of its buckets. Blocks are already as
    # small as the buckets.
    torch._dynamo.config.optimize_ddp = False
    blocks = [
        block
        for name, stage in model.named_children()
        if name.startswith("blocks") and isinstance(stage, nn.ModuleList)
        for block in stage
    ] or [model]

    # Blocks share their code. Counted together, their compiled variants would exceed the limit.
    options = {"isolate_recompiles": True}
    if not options.keys() <= signature(torch.compile).parameters.keys():  # before torch 2.14
        options = {}
        has_new_name = hasattr(torch._dynamo.config, "recompile_limit")  # newer than torch 2.6
        limit = "recompile_limit" if has_new_name else "cache_size_limit"
        setattr(torch._dynamo.config, limit, 4 * len(blocks))
    for block in blocks:
        block.compile(**options)


def compile_for_inference(model: nn.Module) -> None:
    """Compile a model in place whose weights no longer change.

    The weights become constants of its graph (freezing), so BatchNorms are folded into convolutions
    and matrices are packed in advance. It compiles when it first runs without gradients, and anew
    for other shapes of the frames.

    Args:
        model: Model in evaluation mode, on its device.
    """
    make_weights_constant(model)
    model.compile()
    compiled = model._compiled_call_impl
    assert compiled is not None
    vars(model)["_compiled_call_impl"] = partial(_call_frozen, compiled)


def _call_frozen(call: Callable[..., Any], *inputs: Any) -> Any:
    # Only here: in a model that is still trained, constant weights would be those of the past.
    with torch._inductor.config.patch(freezing=True):
        return call(*inputs)
