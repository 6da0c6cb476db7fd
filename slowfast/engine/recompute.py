"""How many blocks must be recomputed in the backward pass for the activations of a step to fit into memory."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from slowfast.engine.optim import amp_dtype, autocast
from slowfast.models.uniformer import UniFormer
from slowfast.utils.distributed import device, from_main

logger = logging.getLogger(__name__)

MARGIN = 0.2  # share of the free memory of a GPU that is left for what the kernels themselves take


def choose_recomputed(cfg: CfgNode, model: UniFormer, *, num_clips: int) -> None:
    """Let a model recompute as few blocks as make the activations of a training step fit into memory.

    Nothing is computed to find out: the step is followed with tensors that have shapes but no content. Blocks of the
    stage with the largest activations are taken first.

    Args:
        cfg: the config.
        model: on its device, changed.
        num_clips: of one forward pass of this process.

    Raises:
        ValueError: not even all blocks are enough.
    """
    frames = (num_clips, 3, cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TRAIN_CROP_SIZE)
    amp = amp_dtype(cfg.TRAIN.AMP, device())
    limit = cfg.MODEL.CHECKPOINT_MEMORY * 2**30 or _free_bytes(model)
    depths = tuple(len(stage) for stage in (model.blocks1, model.blocks2, model.blocks3, model.blocks4))
    none = activation_bytes(model, (0, 0, 0, 0), shape=frames, amp=amp)
    saved = [
        none - activation_bytes(model, tuple(int(other == stage) for other in range(4)), shape=frames, amp=amp)
        if depths[stage]
        else 0
        for stage in range(4)
    ]  # by one block of each stage
    order = [stage for stage in sorted(range(4), key=lambda stage: -saved[stage]) for _ in range(depths[stage])]

    def bytes_with(count: int) -> int:
        # While a block is recomputed, its own activations are there as well.
        again = max((saved[stage] for stage in order[:count]), default=0)
        return activation_bytes(model, _first(order, count), shape=frames, amp=amp) + again

    too_few, enough = -1, len(order)
    if bytes_with(enough) > limit:
        raise ValueError(
            f"MODEL.CHECKPOINT_AUTO: even with all blocks recomputed, the activations of {num_clips} clips take "
            f"{bytes_with(enough) / 2**30:.2f} GiB, of {limit / 2**30:.2f} GiB; use more SOLVER.ACCUM_STEPS (now "
            f"{cfg.SOLVER.ACCUM_STEPS}), or a smaller TRAIN.BATCH_SIZE with SOLVER.BASE_LR in proportion"
        )
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if bytes_with(middle) <= limit else (middle, enough)
    model.recomputed = from_main(_first(order, enough))
    logger.info(
        "activations of %d clips take %.2f GiB, of %.2f GiB; with MODEL.CHECKPOINT_NUM %s, %.2f GiB",
        *(num_clips, none / 2**30, limit / 2**30, list(model.recomputed), bytes_with(enough) / 2**30),
    )


def _first(order: list[int], count: int) -> tuple[int, ...]:
    return tuple(order[:count].count(stage) for stage in range(4))


def activation_bytes(
    model: UniFormer, recomputed: tuple[int, ...], *, shape: tuple[int, ...], amp: torch.dtype | None
) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, besides the weights; nothing is computed.

    Args:
        model: on its device.
        recomputed: first n blocks of each stage.
        shape: of the frames.
        amp: number format of the forward pass.
    """
    before, was_training = model.recomputed, model.training
    model.recomputed = recomputed
    model.train()
    try:
        with FakeTensorMode() as fake, torch.compiler.set_stance("force_eager"):
            state: dict[str, Tensor] = {
                name: fake.from_tensor(tensor) for name, tensor in model.state_dict(keep_vars=True).items()
            }
            with kept_tensors() as kept, autocast(amp, device()):
                logits = torch.func.functional_call(model, state, torch.empty(shape, device=device()))
                logits.float().logsumexp(dim=1).mean()
    finally:
        model.recomputed = before
        model.train(was_training)
    own = {tensor.untyped_storage()._cdata for tensor in state.values()}
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in kept}
    return sum(size for storage, size in storages.items() if storage not in own)


@contextmanager
def kept_tensors() -> Iterator[list[Tensor]]:
    """Collect the tensors that are kept for the backward pass."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def _free_bytes(model: nn.Module) -> float:
    """What a GPU has left, less the gradients and the two means of the optimizer that are still to come."""
    free, _ = torch.cuda.mem_get_info(device())
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return (1 - MARGIN) * (free - 3 * weights)
