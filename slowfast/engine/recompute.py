"""How many blocks must be recomputed in the backward pass for the activations of a step to fit into memory."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from slowfast.distributed.collectives import device, from_main
from slowfast.engine.optim import autocast
from slowfast.models.uniformer import UniFormer

logger = logging.getLogger(__name__)

MARGIN = 0.2  # share of the free memory of a GPU that is left for what the kernels themselves take


def choose_recomputed(
    model: UniFormer,
    *,
    shape: tuple[int, ...],
    amp: torch.dtype | None,
    limit: float,
    remedy: str = "",
) -> None:
    """Let a model recompute as few blocks as make the activations of a training step fit into memory.

    Nothing is computed to find out: the step is followed with tensors that have shapes but no content. Blocks of the
    stage with the largest activations are taken first.

    Args:
        model: The model, on its device, changed.
        shape: Shape (B, C, T, H, W) of the frames of one forward pass of this process.
        amp: Number format of the forward pass; None for float32.
        limit: Bytes that the activations may take.
        remedy: What to do if that is too little, for the message.

    Raises:
        ValueError: not even all blocks are enough.
    """
    num_clips = shape[0]
    depths = tuple(
        len(stage) for stage in (model.blocks1, model.blocks2, model.blocks3, model.blocks4)
    )
    none = activation_bytes(model, (0, 0, 0, 0), shape=shape, amp=amp)
    saved = [
        none
        - activation_bytes(
            model, tuple(int(other == stage) for other in range(4)), shape=shape, amp=amp
        )
        if depths[stage]
        else 0
        for stage in range(4)
    ]  # by one block of each stage
    order = [
        stage
        for stage in sorted(range(4), key=lambda stage: -saved[stage])
        for _ in range(depths[stage])
    ]

    def bytes_with(count: int) -> int:
        # While a block is recomputed, its own activations are there as well.
        again = max((saved[stage] for stage in order[:count]), default=0)
        return activation_bytes(model, _first(order, count), shape=shape, amp=amp) + again

    too_few, enough = -1, len(order)
    if bytes_with(enough) > limit:
        raise ValueError(
            f"MODEL.CHECKPOINT_AUTO: even with all blocks recomputed, the activations of {num_clips} clips take "
            f"{bytes_with(enough) / 2**30:.2f} GiB, of {limit / 2**30:.2f} GiB; {remedy}"
        )
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if bytes_with(middle) <= limit else (middle, enough)
    model.recomputed = from_main(_first(order, enough))
    logger.info(
        "activations of %d clips take %.2f GiB, of %.2f GiB; with MODEL.CHECKPOINT_NUM %s, %.2f GiB",
        *(
            num_clips,
            none / 2**30,
            limit / 2**30,
            list(model.recomputed),
            bytes_with(enough) / 2**30,
        ),
    )


def _first(order: list[int], count: int) -> tuple[int, ...]:
    return tuple(order[:count].count(stage) for stage in range(4))


def activation_bytes(
    model: UniFormer,
    recomputed: tuple[int, ...],
    *,
    shape: tuple[int, ...],
    amp: torch.dtype | None,
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
                name: fake.from_tensor(tensor)
                for name, tensor in model.state_dict(keep_vars=True).items()
            }
            with kept_tensors() as kept, autocast(amp, device()):
                logits = torch.func.functional_call(
                    model, state, torch.empty(shape, device=device())
                )
                logits.float().logsumexp(dim=1).mean()
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
    """Collect the tensors that are kept for the backward pass."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def free_bytes(
    model: nn.Module,
    *,
    num_moments: int,
    has_average: bool,
    num_gradient_copies: float,
    input_bytes: int,
) -> float:
    """Return the bytes of a GPU that are left for activations, with what is still to come taken off.

    Args:
        model: The model, on the GPU already.
        num_moments: Number of moments of each weight that the optimizer keeps.
        has_average: Whether a moving average of the weights is kept (EMA).
        num_gradient_copies: Number of copies of all gradients, those of DDP included, in float32.
        input_bytes: Bytes of all batches that are on the GPU at the same time.
    """
    free, _ = torch.cuda.mem_get_info(device())
    weights = sum(parameter.nbytes for parameter in model.parameters())
    average = sum(tensor.nbytes for tensor in model.state_dict().values()) if has_average else 0
    to_come = (num_moments + num_gradient_copies) * weights + average + input_bytes
    return (1 - MARGIN) * (free - to_come)
