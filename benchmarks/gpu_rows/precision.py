"""Rows: logits and gradients of UniFormer against a CPU's in float64."""

from collections.abc import Iterator
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu_rows.numbers import flat, relative_error
from benchmarks.gpu_rows.plain import PlainUniFormer, fused, materialized
from benchmarks.gpu_rows.report import Result, verdict
from benchmarks.gpu_rows.setup import NUM_CLASSES, Setup

LIMITS = {  # The largest relative error of logits and of gradients.
    "fp32": (1e-4, 1e-3),
    "bf16": (0.05, 0.1),
    "fp16": (0.01, 0.05),
}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def against_float64(setup: Setup) -> Iterator[Result]:
    """Compare UniFormer-S in float32 without TF32, bf16 and fp16 with a CPU's float64."""
    cpu = torch.device("cpu")
    generator = torch.Generator().manual_seed(2)
    frames = torch.randn(setup.reference_shape, generator=generator)
    labels = torch.arange(len(frames))

    model = setup.model("S", drop_path=0.0)
    reference = setup.model("S", drop_path=0.0).to(cpu).double()
    reference.load_state_dict(model.state_dict())
    logits64, gradients64 = _logits_and_gradients(reference, frames.double(), labels)

    for name, (logits_limit, gradients_limit) in LIMITS.items():
        if name == "fp16" and not setup.is_gpu:
            continue  # Its gradients are not what a CPU is used for.
        dtype = DTYPES.get(name)
        logits, gradients = _logits_and_gradients(
            model, frames.to(setup.device), labels.to(setup.device), dtype=dtype
        )
        of_logits, of_gradients = (
            relative_error(logits, logits64),
            relative_error(gradients, gradients64),
        )
        is_right = of_logits <= logits_limit and of_gradients <= gradients_limit
        measured = (
            f"relative error of logits {of_logits:.1e} (limit {logits_limit:g}), "
            f"of gradients {of_gradients:.1e} (limit {gradients_limit:g})"
        )
        yield Result(f"UniFormer-S in {name} against float64 on a CPU", measured, verdict(is_right))


def _logits_and_gradients(
    model: nn.Module, frames: Tensor, labels: Tensor, *, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    model.train()
    model.zero_grad()
    autocast = nullcontext() if dtype is None else torch.autocast(frames.device.type, dtype=dtype)
    with without_tf32():
        with autocast:
            logits = model(frames)
        loss = F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), labels)
        # As a loss scaler would: small gradients are no fault of the model.
        (loss * 1024).backward()
    gradients = flat(
        parameter.grad for parameter in model.parameters() if parameter.grad is not None
    )
    return logits, gradients / 1024


class without_tf32:  # noqa: N801  a context manager
    """Switches TF32 off for products of matrices and convolutions."""

    def __enter__(self) -> None:
        self._before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def __exit__(self, *_: object) -> None:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = self._before


def against_plain(setup: Setup) -> Iterator[Result]:
    """Compare the logits with those of the plain formulation, which is the baseline of later rows."""
    model = setup.model("S").eval()
    frames = setup.frames(2)
    for name, attend in (("materialized attention", materialized), ("fused attention", fused)):
        plain = (
            PlainUniFormer(num_classes=NUM_CLASSES, attend=attend, **setup.models["S"])
            .to(setup.device)
            .eval()
        )
        plain.load_state_dict(model.state_dict())
        with torch.no_grad(), without_tf32():
            error = relative_error(plain(frames), model(frames))
        measured = f"relative difference of logits {error:.1e} (limit 1e-4)"
        yield Result(
            f"plain formulation, {name}, the same logits", measured, verdict(error <= 1e-4)
        )
