"""Rows: the training step and evaluation of UniFormer-S and -B, and what makes them fast or slow."""

import copy
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu_rows.depthwise import Convolve, runnable_variants, use_variant
from benchmarks.gpu_rows.plain import PlainUniFormer, fused, materialized
from benchmarks.gpu_rows.report import Result, verdict
from benchmarks.gpu_rows.setup import NUM_CLASSES, Setup
from benchmarks.gpu_rows.timing import median_seconds, shown
from benchmarks.gpu_rows.tracing import record
from benchmarks.gpu_rows.training import Training, batch
from slowfast.datasets.records import Batch
from slowfast.engine.ddp import compile_blocks
from slowfast.engine.recompute import activation_bytes
from slowfast.models.depthwise import can_use_triton

BF16 = torch.bfloat16
GIB = 2**30


# ---- Depthwise convolutions in the model -----------------------------------------------------------------------------


def step_by_depthwise(setup: Setup) -> Iterator[Result]:
    """Time forward and backward of UniFormer-S with each way to compute its depthwise convolutions."""
    model = setup.model("S").train()
    frames, labels = setup.frames(setup.clips["S"] // 2), setup.labels(setup.clips["S"] // 2)

    def compute(variant: Convolve | None) -> None:
        use_variant(model, variant)
        _forward_backward(model, frames, labels)

    own = (
        "the model's own, by Triton"
        if setup.is_gpu and can_use_triton()
        else "the model's own, without Triton"
    )
    kinds = {own: None, **runnable_variants(setup.device)}
    variants = {name: partial(compute, variant) for name, variant in kinds.items()}
    times = median_seconds(setup.device, variants, seconds=setup.seconds)
    best = min(times, key=times.__getitem__)
    title = f"UniFormer-S forward and backward, {len(frames)} clips, bf16, by depthwise convolution"
    yield Result(title, f"{shown(times)}; fastest: {best}")


def _forward_backward(model: nn.Module, frames: Tensor, labels: Tensor) -> None:
    model.zero_grad(set_to_none=True)
    with torch.autocast(frames.device.type, dtype=BF16):
        loss = F.cross_entropy(model(frames).float(), labels)
    loss.backward()


# ---- The step and its options ----------------------------------------------------------------------------------------


def step(setup: Setup) -> Iterator[Result]:
    """Time the training step, eager, with the fused optimizer and without, and its peak memory."""
    for letter in setup.models:
        clips = batch(setup, setup.clips[letter])
        model = setup.model(letter)
        training = {
            "fused AdamW": Training(setup, model, amp=BF16),
            "AdamW not fused": Training(setup, model, amp=BF16, fused=False),
            "with EMA": Training(setup, model, amp=BF16, ema_decay=0.999),
        }
        steps: dict[str, Callable[[], object]] = {
            name: partial(one.step, clips) for name, one in training.items()
        }
        times = median_seconds(setup.device, steps, seconds=setup.seconds, calls=2)
        num_clips = setup.clips[letter]
        rate = num_clips / times["fused AdamW"]
        title = f"step of UniFormer-{letter}, {num_clips} clips of {setup.num_frames} frames, {setup.size} px, bf16"
        yield Result(title, f"{rate:.0f} clips/s; {shown(times)}")
        del model, training, steps


def memory(setup: Setup) -> Iterator[Result]:
    """Measure the peak memory of a step, and of its activations against what MODEL.CHECKPOINT_AUTO expects."""
    for letter in setup.models:
        clips = batch(setup, setup.clips[letter])
        training = Training(setup, setup.model(letter), amp=BF16)
        training.step(clips)  # The optimizer's means are there from now on.
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
            f"peak {peak / GIB:.2f} GiB, of which the step {(peak - before) / GIB:.2f} GiB; activations by estimate "
            f"{expected / GIB:.2f} GiB: measured/estimate {ratio:.2f} (limit 1.25, the margin left)"
        )
        title = f"peak memory of a step of UniFormer-{letter}, {setup.clips[letter]} clips, bf16"
        yield Result(title, measured, verdict(ratio <= 1.25))
        del training


def against_plain(setup: Setup) -> Iterator[Result]:
    """Time forward and backward, and evaluation, against the plain formulation with the same weights."""
    for letter in setup.models:
        num_clips = setup.clips[letter] // 2
        frames, labels = setup.frames(num_clips), setup.labels(num_clips)
        models: dict[str, nn.Module] = {"ours": setup.model(letter)}
        for name, attend in (("contiguous, fused attention", fused), ("plain", materialized)):
            arguments = setup.models[letter]
            plain = PlainUniFormer(num_classes=NUM_CLASSES, attend=attend, **arguments).to(
                setup.device
            )
            plain.load_state_dict(models["ours"].state_dict())
            models[name] = plain

        compute = {
            name: partial(_forward_backward, model.train(), frames, labels)
            for name, model in models.items()
        }
        times = median_seconds(setup.device, compute, seconds=setup.seconds)
        yield _against_plain(
            f"forward and backward of UniFormer-{letter}, {num_clips} clips, bf16", times, num_clips
        )

        score = {name: partial(_score, model.eval(), frames) for name, model in models.items()}
        times = median_seconds(setup.device, score, seconds=setup.seconds)
        yield _against_plain(
            f"evaluation of UniFormer-{letter}, {num_clips} clips, bf16", times, num_clips
        )
        del models, compute, score


def _against_plain(title: str, times: dict[str, float], num_clips: int) -> Result:
    rates = {name: num_clips / seconds for name, seconds in times.items()}
    shown_rates = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
    return Result(
        title,
        f"clips/s: {shown_rates}; {rates['ours'] / rates['plain']:.2f}x the plain formulation",
    )


def _score(model: nn.Module, frames: Tensor) -> None:
    with torch.no_grad(), torch.autocast(frames.device.type, dtype=BF16):
        model(frames)


# ---- Attention -------------------------------------------------------------------------------------------------------


def flash_attention(setup: Setup) -> Iterator[Result]:
    """Look for kernels of flash attention in a forward and backward pass, and forbid all others."""
    model = setup.model("S").train()
    frames, labels = setup.frames(2), setup.labels(2)
    _forward_backward(model, frames, labels)
    activities = record(partial(_forward_backward, model, frames, labels))
    names = {activity.name for activity in activities}
    found = sorted({_short(name) for name in names if _is_attention(name)})
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        _forward_backward(model, frames, labels)
    is_flash = all(
        any(re.search(words, name) for name in found) for words in ("fwd|fprop", "bwd|bprop")
    )
    kernels = sum(not activity.is_copy for activity in activities)
    measured = f"{', '.join(found) or 'none'}; {kernels} kernels in a forward and backward pass"
    yield Result("flash attention in UniFormer-S, bf16", measured, verdict(is_flash))


def _is_attention(name: str) -> bool:
    return any(word in name.lower() for word in ("flash", "fmha", "sdpa", "attention"))


def _short(name: str) -> str:
    """The name of a kernel without its template arguments."""
    return name.replace("void ", "").split("<")[0].split("(")[0][:60]


# ---- Compilation -----------------------------------------------------------------------------------------------------


def compiled(setup: Setup, *, letter: str, drop_path: float | None = None) -> Iterator[Result]:
    """Time compiled steps and evaluation against eager ones, and compiling them, with an empty cache and a full one.

    Args:
        setup: The device and the sizes.
        letter: S or B.
        drop_path: Another rate than that of the published model. With 0, the blocks of a stage are
            equal and share what is compiled, which saves minutes.
    """
    num_clips = setup.clips[letter]
    clips = batch(setup, num_clips)
    eager = Training(setup, setup.model(letter, drop_path=drop_path), amp=BF16)
    eager.step(clips)
    with _empty_cache():
        counters.clear()
        training, cold = _compile(setup, eager.model, clips)
        breaks = sum(counters["graph_break"].values())
        graphs = counters["stats"]["unique_graphs"]
        steps = {"eager": partial(eager.step, clips), "compiled": partial(training.step, clips)}
        times = median_seconds(setup.device, steps, seconds=setup.seconds, calls=2)
        subject = f"UniFormer-{letter}, {num_clips} clips, bf16"
        if drop_path is not None:
            subject += f", drop path {drop_path:g}"
        title = f"compiled step of {subject}"
        yield Result(title, f"{num_clips / times['compiled']:.0f} clips/s; {shown(times)}")

        start = time.perf_counter()
        models = {"eager": eager.model.eval(), "compiled": training.model.eval()}
        _score(models["compiled"], clips.frames)
        seconds = time.perf_counter() - start
        times = median_seconds(
            setup.device,
            {name: partial(_score, model, clips.frames) for name, model in models.items()},
            seconds=setup.seconds,
        )
        title = f"compiled evaluation of {subject}"
        measured = f"{num_clips / times['compiled']:.0f} clips/s; {shown(times)}; compiled in {seconds:.0f} s"
        yield Result(title, measured)

        torch._dynamo.reset()
        _, warm = _compile(setup, eager.model, clips)
        measured = f"{cold:.0f} s with an empty cache, {warm:.0f} s with a full one; {graphs} graphs, {breaks} breaks"
        yield Result(f"compiling a step of {subject}", measured, verdict(breaks == 0))


def _compile(setup: Setup, model: nn.Module, clips: Batch) -> tuple[Training, float]:
    """A training of a copy of a model whose blocks are compiled, and the seconds of its first step."""
    model = copy.deepcopy(model)
    compile_blocks(model)
    training = Training(setup, model, amp=BF16)
    start = time.perf_counter()
    training.step(clips)
    training.settle()
    if setup.is_gpu:
        torch.cuda.synchronize()
    return training, time.perf_counter() - start


@contextmanager
def _empty_cache() -> Iterator[None]:
    """Have torch.compile begin with a cache of its own, which is empty."""
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
