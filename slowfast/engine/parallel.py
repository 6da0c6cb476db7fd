"""How gradients travel between processes, and which parts of a model are compiled."""

import os
import shutil
import warnings

from fvcore.common.config import CfgNode
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from slowfast.utils.distributed import world_size

COMPILERS = ("g++", "clang++", "c++")  # any of them, or what CXX names, compiles for a CPU


def find_problems(cfg: CfgNode) -> list[str]:
    """Return why this machine cannot compile the blocks of a config; an empty list if it can or need not."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else list(COMPILERS)
    on_gpu = cfg.NUM_GPUS > 0 and cfg.DIST_BACKEND == "nccl"
    if not (cfg.TRAIN.ENABLE and cfg.TRAIN.COMPILE) or on_gpu or any(map(shutil.which, names)):
        return []
    return [
        f"TRAIN.COMPILE is True, but there is no C++ compiler here ({', '.join(names)}); install g++, or name one "
        "in the environment variable CXX, or set TRAIN.COMPILE False"
    ]


def compile_blocks(model: nn.Module) -> None:
    """Compile the blocks of a model in place, so that its names stay; a model without blocks is compiled whole.

    Each is compiled at its first use, and once more for validation.
    """
    blocks = [
        block
        for name, stage in model.named_children()
        if name.startswith("blocks") and isinstance(stage, nn.ModuleList)
        for block in stage
    ]
    for block in blocks or [model]:
        # Blocks share their code, not what is compiled of it: together they would be too many variants.
        block.compile(isolate_recompiles=True)


def build_parallel(cfg: CfgNode, model: nn.Module, *, parts_per_step: int) -> nn.Module:
    """Return what brings the gradients of all processes together as it is run; the model itself for one process.

    Args:
        cfg: the config.
        model: on its device.
        parts_per_step: of this process; gradients travel with the last one.
    """
    if world_size() == 1:
        return model
    # They differ where an axis has one element, as those of 1x1x1 convolutions: no number lies elsewhere.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides", category=UserWarning)
    parallel = DistributedDataParallel(
        model,
        # A graph that is the same in each pass: parts that are not synchronised make it two.
        static_graph=cfg.TRAIN.STATIC_GRAPH and parts_per_step == 1,
        gradient_as_bucket_view=cfg.TRAIN.GRADIENT_BUCKET_VIEW,
    )
    if cfg.TRAIN.GRADIENT_DTYPE == "bf16":
        parallel.register_comm_hook(state=None, hook=bf16_compress_hook)
    return parallel
