"""Whether tools other than plain autograd run a model, which know only operators of torch."""

import torch
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Return whether torch.func or forward-mode differentiation runs the current call."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_exported_or_traced() -> bool:
    """Return whether torch.export or torch.jit.trace records the current call."""
    # In torch 2.11, torch.compiler.is_exporting is True while torch.compile traces as well.
    is_exported = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
    return is_exported or torch.jit.is_tracing()
