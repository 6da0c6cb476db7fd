"""How gradients travel between processes, and which parts of a model are compiled."""

import warnings
from inspect import signature
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from slowfast.distributed.collectives import world_size
from slowfast.utils.compilers import find_cpu_problems, find_gpu_problems

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode


def find_problems(cfg: "CfgNode") -> list[str]:
    """Return why this machine cannot compile the blocks of a config; an empty list if it can or need not."""
    if not (cfg.TRAIN.ENABLE and cfg.TRAIN.COMPILE):
        return []
    is_for_gpu = cfg.NUM_GPUS > 0 and cfg.DIST_BACKEND == "nccl"
    problems = find_gpu_problems() if is_for_gpu else find_cpu_problems()
    return [
        f"TRAIN.COMPILE is True, but {problem}, or set TRAIN.COMPILE False" for problem in problems
    ]


def compile_blocks(model: nn.Module) -> None:
    """Compile the blocks of a model in place, so that its names stay; a model without blocks is compiled whole.

    Each is compiled at its first use, and once more for validation.
    """
    # DDP would cut the graph of a block where one of its buckets ends. Blocks are as small as its buckets already.
    torch._dynamo.config.optimize_ddp = False
    blocks = [
        block
        for name, stage in model.named_children()
        if name.startswith("blocks") and isinstance(stage, nn.ModuleList)
        for block in stage
    ]
    # Blocks share their code, not what is compiled of it: together they would be too many variants.
    options = {"isolate_recompiles": True}
    if not options.keys() <= signature(torch.compile).parameters.keys():  # before torch 2.14
        options = {}
        torch._dynamo.config.recompile_limit = 4 * len(blocks or [model])
    for block in blocks or [model]:
        block.compile(**options)


def wrap_ddp(
    model: nn.Module,
    *,
    static_graph: bool = False,
    bucket_view: bool = True,
    gradient_dtype: str = "fp32",
) -> nn.Module:
    """Return what brings the gradients of all processes together as it is run; the model itself for one process.

    Args:
        model: The model, on its device.
        static_graph: Whether all passes use the same parameters.
        bucket_view: Whether gradients lie in the buffers that are sent.
        gradient_dtype: Number format in which gradients travel: fp32 | bf16.
    """
    if world_size() == 1:
        return model
    # They differ where an axis has one element, as those of 1x1x1 convolutions: no number lies elsewhere.
    warnings.filterwarnings(
        "ignore", message="Grad strides do not match bucket view strides", category=UserWarning
    )
    parallel = DistributedDataParallel(
        model,
        static_graph=static_graph,
        gradient_as_bucket_view=bucket_view,
    )
    if gradient_dtype == "bf16":
        parallel.register_comm_hook(state=None, hook=bf16_compress_hook)
    return parallel
