"""Rows: logits and gradients of UniFormer against float64 on a CPU and the plain formulation."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu_rows.relative_error import flatten, relative_error
from benchmarks.gpu_rows.report import Result, verdict
from benchmarks.gpu_rows.workload import NUM_CLASSES, Workload
from benchmarks.plain_uniformer import (
    PlainUniFormer,
    attend_fused,
    attend_materialized,
)

LIMITS = {  # Largest relative errors of logits and of gradients.
    "fp32": (1e-4, 1e-3),
    "bf16": (0.05, 0.1),
    "fp16": (0.01, 0.05),
}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
LOSS_SCALE = 1024  # Keeps small fp16 gradients from underflowing, as a GradScaler does.


def compare_with_float64(workload: Workload) -> Iterator[Result]:
    """Compare UniFormer-S in fp32 without TF32, bf16 and fp16 with float64 on a CPU."""
    generator = torch.Generator().manual_seed(2)
    frames = torch.randn(workload.reference_shape, generator=generator)
    labels = torch.arange(len(frames))

    model = workload.model("S", drop_path=0.0)
    reference = workload.model("S", drop_path=0.0).to(torch.device("cpu")).double()
    reference.load_state_dict(model.state_dict())
    logits64, gradients64 = _logits_and_gradients(reference, frames.double(), labels)

    frames, labels = frames.to(workload.device), labels.to(workload.device)
    for name, (logits_limit, gradients_limit) in LIMITS.items():
        if name == "fp16" and not workload.is_gpu:
            continue  # Nobody trains in fp16 on a CPU.
        logits, gradients = _logits_and_gradients(model, frames, labels, dtype=DTYPES.get(name))
        logits_error = relative_error(logits, logits64)
        gradients_error = relative_error(gradients, gradients64)

        is_right = logits_error <= logits_limit and gradients_error <= gradients_limit
        measured = (
            f"relative error of logits {logits_error:.1e} (limit {logits_limit:g}), "
            f"of gradients {gradients_error:.1e} (limit {gradients_limit:g})"
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
        if logits.dtype != torch.float64:
            logits = logits.float()
        (F.cross_entropy(logits, labels) * LOSS_SCALE).backward()

    gradients = flatten(p.grad for p in model.parameters() if p.grad is not None)
    return logits, gradients / LOSS_SCALE


@contextmanager
def without_tf32() -> Iterator[None]:
    """Disable TF32 for matrix products and convolutions."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def compare_with_plain(workload: Workload) -> Iterator[Result]:
    """Compare the logits with those of the plain formulation, the baseline of later rows."""
    model = workload.model("S").eval()
    frames = workload.frames(2)
    variants = {
        "materialized attention": attend_materialized,
        "fused attention": attend_fused,
    }
    for name, attend in variants.items():
        plain = PlainUniFormer(num_classes=NUM_CLASSES, attend=attend, **workload.models["S"])
        plain = plain.to(workload.device).eval()
        plain.load_state_dict(model.state_dict())

        with torch.no_grad(), without_tf32():
            error = relative_error(plain(frames), model(frames))
        title = f"plain formulation, {name}, the same logits"
        measured = f"relative difference of logits {error:.1e} (limit 1e-4)"
        yield Result(title, measured, verdict(error <= 1e-4))
