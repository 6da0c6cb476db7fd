"""Activation checkpointing: how many blocks the backward pass must recompute to fit into memory."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from slowfast.distributed.collectives import device, from_main
from slowfast.inference.precision import autocast
from slowfast.models.training_loss import TrainingLoss, loss_of_logits
from slowfast.models.uniformer_config import AnyUniFormer

logger = logging.getLogger(__name__)

MARGIN = 0.2  # fraction of the free GPU memory that is left to the kernels themselves


def choose_recomputed(
    model: AnyUniFormer,
    *,
    shape: tuple[int, ...],
    training_loss: TrainingLoss = loss_of_logits,
    amp: torch.dtype | None,
    budget: float,
    remedy: str = "",
) -> None:
    """Let a model recompute as few blocks as make the activations of a training step fit.

    Nothing is computed to find out. The forward pass runs on tensors that have shapes but no
    content. Blocks of the stage with the largest activations are recomputed first.

    Args:
        model: Model on its device. Its `recomputed` changes.
        shape: Shape (B, C, T, H, W) of the frames of one forward pass of this process.
        training_loss: Function from the outputs of the model to its loss.
        amp: Autocast dtype, or None for float32.
        budget: Bytes that the activations may take.
        remedy: What to do if they do not fit, for the message.

    Raises:
        ValueError: If they do not fit even with all blocks recomputed.
    """
    stages = (model.blocks1, model.blocks2, model.blocks3, model.blocks4)
    measure = partial(activation_bytes, model, shape=shape, training_loss=training_loss, amp=amp)
    with_none = measure((0, 0, 0, 0))

    def bytes_with_first(num_blocks: int, *, stage: int) -> int:
        if num_blocks == 0:
            return with_none
        return measure(_counts([stage] * num_blocks))

    saved = [0, 0, 0, 0]  # largest number of bytes that one block of each stage saves
    for index, stage in enumerate(stages):
        for block in {0, _first_trained(stage)} if len(stage) else ():
            before, after = (bytes_with_first(block + more, stage=index) for more in (0, 1))
            saved[index] = max(saved[index], before - after)
    order = [
        index for index in sorted(range(4), key=lambda index: -saved[index]) for _ in stages[index]
    ]

    inputs = measure(_counts(order))

    def bytes_with(num_blocks: int) -> int:
        if num_blocks == 0:
            return with_none
        # While a block is recomputed, its own activations are in memory again, and at the end about
        # as many gradients of them. By then, only inputs of blocks are left of the others.
        again = saved[order[0]]
        kept = measure(_counts(order[:num_blocks]))
        return max(kept + again, inputs + 2 * again)

    too_few, enough = -1, len(order)
    if with_none <= budget:
        enough = 0
    elif bytes_with(enough) > budget:
        raise ValueError(
            "MODEL.CHECKPOINT_AUTO: even with all blocks recomputed, the activations of "
            f"{shape[0]} clips take {_gib(bytes_with(enough))} of {_gib(budget)}. "
            f"To fix this, {remedy}"
        )
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if bytes_with(middle) <= budget:
            enough = middle
        else:
            too_few = middle

    model.recomputed = from_main(_counts(order[:enough]))
    logger.info(
        "activations of %d clips take %s of %s. With MODEL.CHECKPOINT_NUM %s they take %s",
        shape[0],
        _gib(with_none),
        _gib(budget),
        list(model.recomputed),
        _gib(bytes_with(enough)),
    )


def _first_trained(blocks: nn.ModuleList) -> int:
    """Return the index of the first block that is not frozen, or 0. It saves more than those."""
    for index, block in enumerate(blocks):
        if any(parameter.requires_grad for parameter in block.parameters()):
            return index
    return 0


def _counts(stage_indices: list[int]) -> tuple[int, ...]:
    return tuple(stage_indices.count(stage) for stage in range(4))


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"


def activation_bytes(
    model: AnyUniFormer,
    recomputed: tuple[int, ...],
    *,
    shape: tuple[int, ...],
    training_loss: TrainingLoss = loss_of_logits,
    amp: torch.dtype | None,
) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, without computing it.

    The weights do not count.

    Args:
        model: Model on its device.
        recomputed: Number of the first blocks of each stage that are recomputed.
        shape: Shape (B, C, T, H, W) of the frames.
        training_loss: Function from the outputs of the model to its loss.
        amp: Autocast dtype, or None for float32.
    """
    before, was_training = model.recomputed, model.training
    model.recomputed = recomputed
    model.train()
    try:
        with FakeTensorMode() as fake, torch.compiler.set_stance("force_eager"):
            state: dict[str, Tensor] = {
                name: fake.from_tensor(tensor)
                for name, tensor in model.state_dict(keep_vars=True).items()
            }
            frames = torch.empty(shape, device=device())
            with kept_tensors() as kept, autocast(amp, device()):
                outputs = torch.func.functional_call(model, state, frames)
                training_loss(outputs, frames, lambda logits, _: logits.logsumexp(dim=1).mean())
    finally:
        model.recomputed = before
        model.train(was_training)

    own = {tensor.untyped_storage()._cdata for tensor in state.values()}
    storages = {
        tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in kept
    }
    return sum(size for storage, size in storages.items() if storage not in own)


@contextmanager
def kept_tensors() -> Iterator[list[Tensor]]:
    """Collect the tensors that autograd keeps for the backward pass."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def activation_budget(
    model: nn.Module,
    *,
    num_moments: int,
    has_ema: bool,
    num_gradient_copies: float,
    input_bytes: int,
) -> float:
    """Return the bytes of a GPU that activations may take, next to what a training still allocates.

    Args:
        model: Model, already on the GPU.
        num_moments: Number of moments that the optimizer keeps of each weight that is not frozen.
        has_ema: Whether a moving average of the weights is kept.
        num_gradient_copies: Number of copies of all gradients in float32, those of DDP included.
        input_bytes: Bytes of all frames that are on the GPU at the same time.
    """
    free, _ = torch.cuda.mem_get_info(device())
    trained_bytes = sum(
        parameter.nbytes for parameter in model.parameters() if parameter.requires_grad
    )
    ema_bytes = sum(tensor.nbytes for tensor in model.state_dict().values()) if has_ema else 0
    to_come = (num_moments + num_gradient_copies) * trained_bytes + ema_bytes + input_bytes
    return (1 - MARGIN) * (free - to_come)
