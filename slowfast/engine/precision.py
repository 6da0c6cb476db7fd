"""How a GPU computes what is computed in float32, and which kernels its convolutions take."""

import torch


def set_up_kernels(*, tf32: bool) -> None:
    """Choose the precision of float32 on a GPU, and let cuDNN try its kernels.

    By default torch computes convolutions in TF32 (10 bits of mantissa) and products of matrices in
    float32. Here both are the same. cuDNN tries its kernels once for each shape of a convolution,
    which pays off because the shapes of clips do not change.

    Args:
        tf32: Whether float32 is computed in TF32. It has no effect in bf16 and fp16, nor on a CPU.
    """
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
