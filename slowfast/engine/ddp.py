"""DistributedDataParallel: how the gradients of all processes are averaged."""

import warnings

from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from slowfast.distributed.collectives import world_size


def wrap_ddp(
    model: nn.Module,
    *,
    static_graph: bool = False,
    bucket_view: bool = True,
    gradient_dtype: str = "fp32",
) -> nn.Module:
    """Wrap a model in DDP. With one process, return the model itself.

    Args:
        model: Model on its device.
        static_graph: Whether every forward pass uses the same parameters.
        bucket_view: Whether gradients are views of the buckets that DDP sends.
        gradient_dtype: Dtype of the gradients on the network: fp32 | bf16.
    """
    if world_size() == 1:
        return model

    # The strides differ only where an axis has one element, as in 1x1x1 convolutions.
    warnings.filterwarnings(
        "ignore", message="Grad strides do not match bucket view strides", category=UserWarning
    )
    wrapped = DistributedDataParallel(
        model, static_graph=static_graph, gradient_as_bucket_view=bucket_view
    )
    if gradient_dtype == "bf16":
        wrapped.register_comm_hook(state=None, hook=bf16_compress_hook)
    return wrapped
