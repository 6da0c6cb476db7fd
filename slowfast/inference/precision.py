"""Mixed precision: the autocast dtype of TRAIN.AMP, and how a GPU computes in float32."""

from contextlib import AbstractContextManager, nullcontext

import torch


def amp_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """Return the autocast dtype of a device, or None for float32 throughout.

    Args:
        amp: off | bf16 | fp16 | auto. On a GPU, auto is bf16 if the GPU computes it natively, and
            fp16 otherwise. On a CPU, auto is off.
        device: Device of the model.
    """
    if amp == "auto" and device.type == "cuda":
        # Older GPUs accept bfloat16 but emulate it slowly.
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        amp = "bf16" if has_bf16 else "fp16"
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(amp)


def dtype_name(amp: torch.dtype | None) -> str:
    """Return the name of an autocast dtype. None is float32."""
    return str(amp or torch.float32).removeprefix("torch.")


def autocast(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[object]:
    """Return the autocast context of a forward pass. It does nothing if the dtype is None."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def set_up_kernels(*, tf32: bool) -> None:
    """Choose how a GPU computes in float32, and let cuDNN benchmark its kernels.

    By default, torch computes convolutions in TF32 (10 bits of mantissa) but matrix products in
    float32. This function sets both alike. cuDNN benchmarks its kernels once per shape of a
    convolution, which pays off because clips keep their shape.

    Args:
        tf32: Whether to compute float32 in TF32. It changes nothing in bf16, in fp16 or on a CPU.
    """
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
