"""Rows: speed and memory of training steps and evaluation of UniFormer-S and -B."""

import copy
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu_rows.depthwise import Convolve, runnable_variants, use_variant
from benchmarks.gpu_rows.gpu_trace import record
from benchmarks.gpu_rows.report import Result, verdict
from benchmarks.gpu_rows.synthetic_training import Training, batch
from benchmarks.gpu_rows.timing import format_times, median_seconds
from benchmarks.gpu_rows.workload import NUM_CLASSES, Workload
from benchmarks.plain_uniformer import PlainUniFormer, attend_fused, attend_materialized
from slowfast.datasets.records import Batch
from slowfast.engine.compile import compile_blocks
from slowfast.engine.recompute import activation_bytes
from slowfast.models.depthwise import can_use_triton

BF16 = torch.bfloat16
GIB = 2**30


# ---- Depthwise convolution -------------------------------------------------------------------


def compare_depthwise(workload: Workload) -> Iterator[Result]:
    """Time training UniFormer-S with each implementation of its depthwise convolutions."""
    model = workload.model("S").train()
    num_clips = workload.clips["S"] // 2
    frames, labels = workload.frames(num_clips), workload.labels(num_clips)

    def compute(variant: Convolve | None) -> None:
        use_variant(model, variant)
        _forward_backward(model, frames, labels)

    uses_triton = workload.is_gpu and can_use_triton()
    own = "the model's own, by Triton" if uses_triton else "the model's own, without Triton"
    variants: dict[str, Convolve | None] = {own: None, **runnable_variants(workload.device)}
    calls = {name: partial(compute, variant) for name, variant in variants.items()}
    times = median_seconds(workload.device, calls, seconds=workload.seconds)

    best = min(times, key=times.__getitem__)
    title = f"UniFormer-S forward and backward, {num_clips} clips, bf16, by depthwise convolution"
    yield Result(title, f"{format_times(times)}; fastest: {best}")


def _forward_backward(model: nn.Module, frames: Tensor, labels: Tensor) -> None:
    model.zero_grad(set_to_none=True)
    with torch.autocast(frames.device.type, dtype=BF16):
        loss = F.cross_entropy(model(frames).float(), labels)
    loss.backward()


# ---- Training step ---------------------------------------------------------------------------


def measure_step(workload: Workload) -> Iterator[Result]:
    """Time the eager training step with and without the fused optimizer and with an EMA."""
    for letter in workload.models:
        clips = batch(workload, workload.clips[letter])
        model = workload.model(letter)
        trainings = {
            "fused AdamW": Training(workload, model, amp=BF16),
            "AdamW not fused": Training(workload, model, amp=BF16, fused=False),
            "with EMA": Training(workload, model, amp=BF16, ema_decay=0.999),
        }
        steps = {name: partial(training.step, clips) for name, training in trainings.items()}
        times = median_seconds(workload.device, steps, seconds=workload.seconds, calls=2)

        num_clips = workload.clips[letter]
        rate = num_clips / times["fused AdamW"]
        clip_size = f"{workload.num_frames} frames, {workload.size} px"
        title = f"step of UniFormer-{letter}, {num_clips} clips of {clip_size}, bf16"
        yield Result(title, f"{rate:.0f} clips/s; {format_times(times)}")
        del model, trainings, steps


def measure_memory(workload: Workload) -> Iterator[Result]:
    """Measure the peak memory of a step and compare it with the estimate of its activations.

    MODEL.CHECKPOINT_AUTO relies on the estimate.
    """
    for letter in workload.models:
        clips = batch(workload, workload.clips[letter])
        training = Training(workload, workload.model(letter), amp=BF16)
        training.step(clips)  # Allocates the moments of the optimizer.
        training.settle()
        training.model.zero_grad(set_to_none=True)

        expected = activation_bytes(
            training.model,  # type: ignore[arg-type]
            (0, 0, 0, 0),
            shape=tuple(clips.frames.shape),
            amp=BF16,
        )
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        training.step(clips)
        training.settle()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()

        ratio = (peak - before) / expected
        measured = (
            f"peak {peak / GIB:.2f} GiB, {(peak - before) / GIB:.2f} GiB of it for the step; "
            f"estimate of activations {expected / GIB:.2f} GiB; measured/estimate {ratio:.2f} "
            "(limit 1.25, the safety margin)"
        )
        title = f"peak memory of a step of UniFormer-{letter}, {workload.clips[letter]} clips, bf16"
        yield Result(title, measured, verdict(ratio <= 1.25))
        del training


def compare_with_plain(workload: Workload) -> Iterator[Result]:
    """Time training and evaluation against the plain formulation with the same weights."""
    for letter in workload.models:
        num_clips = workload.clips[letter] // 2
        frames, labels = workload.frames(num_clips), workload.labels(num_clips)
        models: dict[str, nn.Module] = {"ours": workload.model(letter)}
        attentions = {"contiguous, fused attention": attend_fused, "plain": attend_materialized}
        for name, attend in attentions.items():
            arguments = workload.models[letter]
            plain = PlainUniFormer(num_classes=NUM_CLASSES, attend=attend, **arguments)
            models[name] = plain.to(workload.device)
            plain.load_state_dict(models["ours"].state_dict())

        compute = {
            name: partial(_forward_backward, model.train(), frames, labels)
            for name, model in models.items()
        }
        times = median_seconds(workload.device, compute, seconds=workload.seconds)
        yield _rates(
            f"forward and backward of UniFormer-{letter}, {num_clips} clips, bf16", times, num_clips
        )

        score = {name: partial(_evaluate, model.eval(), frames) for name, model in models.items()}
        times = median_seconds(workload.device, score, seconds=workload.seconds)
        yield _rates(f"evaluation of UniFormer-{letter}, {num_clips} clips, bf16", times, num_clips)
        del models, compute, score


def _rates(title: str, times: dict[str, float], num_clips: int) -> Result:
    rates = {name: num_clips / seconds for name, seconds in times.items()}
    listed = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
    ratio = rates["ours"] / rates["plain"]
    return Result(title, f"clips/s: {listed}; {ratio:.2f}x the plain formulation")


def _evaluate(model: nn.Module, frames: Tensor) -> None:
    with torch.no_grad(), torch.autocast(frames.device.type, dtype=BF16):
        model(frames)


# ---- Attention -------------------------------------------------------------------------------


def check_flash_attention(workload: Workload) -> Iterator[Result]:
    """Check that a forward and backward pass runs flash attention and no other kernel for it."""
    model = workload.model("S").train()
    frames, labels = workload.frames(2), workload.labels(2)
    _forward_backward(model, frames, labels)
    activities = record(partial(_forward_backward, model, frames, labels))
    names = {activity.name for activity in activities}
    found = sorted({_shorten(name) for name in names if _is_attention(name)})
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        _forward_backward(model, frames, labels)

    has_forward = any(re.search("fwd|fprop", name) for name in found)
    has_backward = any(re.search("bwd|bprop", name) for name in found)
    is_flash = has_forward and has_backward
    num_kernels = sum(not activity.is_copy for activity in activities)
    measured = f"{', '.join(found) or 'none'}; {num_kernels} kernels in a forward and backward pass"
    yield Result("flash attention in UniFormer-S, bf16", measured, verdict(is_flash))


def _is_attention(name: str) -> bool:
    return any(word in name.lower() for word in ("flash", "fmha", "sdpa", "attention"))


def _shorten(name: str) -> str:
    """Return the name of a kernel without its template arguments."""
    return name.replace("void ", "").split("<")[0].split("(")[0][:60]


# ---- Compilation -----------------------------------------------------------------------------


def compare_compiled(
    workload: Workload, *, letter: str, drop_path: float | None = None
) -> Iterator[Result]:
    """Time compiled steps and evaluation against eager ones, and the compilation itself.

    The compilation is timed with an empty and with a full cache.

    Args:
        workload: Device and sizes.
        letter: S or B.
        drop_path: Drop path rate. None for the published one. With 0, the blocks of a stage share
            one compiled graph, which saves minutes.
    """
    num_clips = workload.clips[letter]
    clips = batch(workload, num_clips)
    eager = Training(workload, workload.model(letter, drop_path=drop_path), amp=BF16)
    eager.step(clips)
    with _empty_cache():
        counters.clear()
        training, cold = _compile(workload, eager.model, clips)
        breaks = sum(counters["graph_break"].values())
        graphs = counters["stats"]["unique_graphs"]
        steps = {"eager": partial(eager.step, clips), "compiled": partial(training.step, clips)}
        times = median_seconds(workload.device, steps, seconds=workload.seconds, calls=2)
        subject = f"UniFormer-{letter}, {num_clips} clips, bf16"
        if drop_path is not None:
            subject += f", drop path {drop_path:g}"
        title = f"compiled step of {subject}"
        yield Result(title, f"{num_clips / times['compiled']:.0f} clips/s; {format_times(times)}")

        start = time.perf_counter()
        models = {"eager": eager.model.eval(), "compiled": training.model.eval()}
        _evaluate(models["compiled"], clips.frames)
        seconds = time.perf_counter() - start
        times = median_seconds(
            workload.device,
            {name: partial(_evaluate, model, clips.frames) for name, model in models.items()},
            seconds=workload.seconds,
        )
        title = f"compiled evaluation of {subject}"
        rate = num_clips / times["compiled"]
        measured = f"{rate:.0f} clips/s; {format_times(times)}; compiled in {seconds:.0f} s"
        yield Result(title, measured)

        torch._dynamo.reset()
        _, warm = _compile(workload, eager.model, clips)
        measured = (
            f"{cold:.0f} s with an empty cache, {warm:.0f} s with a full one; {graphs} graphs, "
            f"{breaks} breaks"
        )
        yield Result(f"compiling a step of {subject}", measured, verdict(breaks == 0))


def _compile(workload: Workload, model: nn.Module, clips: Batch) -> tuple[Training, float]:
    """Return the training of a compiled copy of a model, and the seconds of its first step."""
    model = copy.deepcopy(model)
    compile_blocks(model)
    training = Training(workload, model, amp=BF16)
    start = time.perf_counter()
    training.step(clips)
    training.settle()
    if workload.is_gpu:
        torch.cuda.synchronize()
    return training, time.perf_counter() - start


@contextmanager
def _empty_cache() -> Iterator[None]:
    """Give torch.compile an empty cache."""
    names = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ.update({name: os.path.join(folder, name) for name in names})
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value
