"""The gradient of the first training step of a config."""

import torch
from torch import Tensor

from slowfast.config import CfgNode
from slowfast.datasets.build import build_loader
from slowfast.distributed.collectives import world_size
from slowfast.engine.build import build_state, build_train_step


def first_gradient(cfg: CfgNode, *, num_micro_batches: int) -> Tensor:
    """Return the gradient over all micro-batches of all processes, with BatchNorm in evaluation.

    Args:
        cfg: The config.
        num_micro_batches: Number of micro-batches of this process.
    """
    loader = build_loader(cfg, "train", micro_batches_per_step=num_micro_batches)
    loader.set_epoch(0)
    state = build_state(cfg, num_micro_batches=num_micro_batches * world_size())
    state.model.eval()
    build_train_step(cfg, state, num_videos=32).run(next(loader.steps()), lr=0.0)

    gradients = [parameter.grad for parameter in state.model.parameters()]
    return torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])
