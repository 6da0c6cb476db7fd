"""Rows: what a training step must do on any device, against the same steps on a CPU or against arithmetic by hand."""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu_rows.numbers import flat, relative_error
from benchmarks.gpu_rows.precision import without_tf32
from benchmarks.gpu_rows.report import Result, verdict
from benchmarks.gpu_rows.setup import NUM_CLASSES, Setup, cpu_setup
from benchmarks.gpu_rows.training import MEAN, STD, Training, batch_of, published_mix
from slowfast.datasets.boxes import Box
from slowfast.datasets.records import Batch, Unfilled
from slowfast.datasets.transforms import Normalize
from slowfast.models.uniformer import UniFormer

NUM_CLIPS = 8
SMALL = {"dims": (16, 32, 64, 128), "depths": (1, 1, 1, 1), "head_dim": 16, "drop_path": 0.0}
LR = 1e-3


def losses_fall(setup: Setup) -> Iterator[Result]:
    """Train a small model for some steps, here and on a CPU."""
    here = _losses(setup)
    on_cpu = _losses(cpu_setup()) if setup.is_gpu else here
    difference = float((here - on_cpu).abs().max())
    is_right = bool(here[-1] < 0.5 * here[0]) and difference < 0.01
    measured = f"loss {here[0]:.4f} -> {here[-1]:.4f}, largest difference from a CPU {difference:.1e} (limits: half, 0.01)"
    yield Result(f"{setup.num_steps} steps of a small model in fp32", measured, verdict(is_right))

    if setup.is_gpu:
        for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
            losses = _losses(setup, amp=dtype)
            difference = float((losses - on_cpu).abs().max())
            measured = f"loss {losses[0]:.4f} -> {losses[-1]:.4f}, largest difference from a CPU {difference:.1e}"
            is_right = bool(losses[-1] < 0.5 * losses[0])
            yield Result(
                f"{setup.num_steps} steps of a small model in {name}", measured, verdict(is_right)
            )


def _losses(setup: Setup, *, amp: torch.dtype | None = None) -> Tensor:
    training = Training(setup, small_model(setup), amp=amp)
    with without_tf32():
        losses = [training.step(small_batch(), lr=LR).loss for _ in range(setup.num_steps)]
        training.settle()
    return torch.stack(losses).cpu()


def small_model(setup: Setup) -> UniFormer:
    """Return a small model whose weights are the same on each device."""
    torch.manual_seed(0)
    return UniFormer(num_classes=NUM_CLASSES, **SMALL).to(setup.device)  # type: ignore[arg-type]


def small_batch(*, seed: int = 0) -> Batch:
    """Return a batch for it, in the memory of the host."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn((NUM_CLIPS, 3, 4, 32, 32), generator=generator)
    return batch_of(frames, torch.arange(NUM_CLIPS))


def skipped_steps(setup: Setup) -> Iterator[Result]:
    """A step whose frames are not finite changes nothing; the steps after it do."""
    for name, amp in (("fp32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        training = Training(setup, small_model(setup), amp=amp, ema_decay=0.9)
        for _ in range(4):
            training.step(small_batch(), lr=LR)
        training.settle()
        scale, counted_before = training.run.scaler.get_scale(), training.run.num_skipped_steps
        before = _everything(training)
        spoilt = small_batch()
        spoilt.frames[0, 0, 0, 0, 0] = float("inf")
        outcome = training.step(spoilt, lr=LR)
        training.settle()
        is_same = torch.equal(before, _everything(training)) and bool(outcome.is_bad)

        counted = training.run.num_skipped_steps - counted_before
        halved = (
            not training.run.scaler.is_enabled() or training.run.scaler.get_scale() == scale / 2
        )
        loss = training.step(small_batch(), lr=LR).loss
        training.settle()
        is_changed = not torch.equal(before, _everything(training)) and bool(loss.isfinite())
        is_right = is_same and halved and is_changed and counted == 1
        measured = (
            f"weights, statistics and average the same to the bit: {is_same}, steps counted: {counted}, "
            f"loss scale halved: {halved if amp is torch.float16 else 'none'}, the next step counts: {is_changed}"
        )
        yield Result(f"a step that is not finite is skipped, {name}", measured, verdict(is_right))


def _everything(training: Training) -> Tensor:
    """All numbers that a step changes, of the model, the average and the optimizer, but for counters of steps."""
    tensors = [tensor for model in training.run.models for tensor in model.state_dict().values()]
    for state in training.run.optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    return flat(tensors)


def _all_weights(training: Training) -> Tensor:
    """The weights of the model and of its average."""
    return flat(parameter for model in training.run.models for parameter in model.parameters())


def average_by_hand(setup: Setup) -> Iterator[Result]:
    """The moving average of the weights is what arithmetic on a CPU makes of the weights after each step."""
    training = Training(setup, small_model(setup), ema_decay=0.9)
    by_hand = _weights(training.model)
    for seed in range(4):
        training.step(small_batch(seed=seed), lr=LR)
        by_hand = 0.9 * by_hand + 0.1 * _weights(training.model)
    assert training.run.ema is not None
    error = relative_error(_weights(training.run.ema.model), by_hand)
    yield Result(
        "EMA against arithmetic by hand",
        f"relative error {error:.1e} (limit 1e-6)",
        verdict(error <= 1e-6),
    )


def _weights(model: nn.Module) -> Tensor:
    return flat(model.parameters())


def accumulated(setup: Setup) -> Iterator[Result]:
    """Two micro-batches give the gradients of the whole batch, where BatchNorm does not tell them apart."""
    whole = small_batch()
    halves = [
        batch_of(whole.frames[part], whole.label[part]) for part in (slice(0, 4), slice(4, 8))
    ]
    norms = []
    for batches in ([whole], halves):
        training = Training(setup, small_model(setup), micro_batches=len(batches))
        for module in training.model.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eval()  # Statistics of the batch would differ between its halves.
        with without_tf32():
            training.step(*batches, lr=LR)
        training.settle()
        norms.append(flat(p.grad for p in training.model.parameters() if p.grad is not None))
    error = relative_error(norms[1], norms[0])
    measured = f"relative difference of the gradients {error:.1e} (limit 1e-4)"
    yield Result("2 micro-batches against one batch", measured, verdict(error <= 1e-4))


def resumed(setup: Setup) -> Iterator[Result]:
    """A training that is resumed from a checkpoint goes on as the one that was not interrupted."""
    for name, amp in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        whole = Training(setup, small_model(setup), amp=amp, ema_decay=0.9, mixes=True)
        for seed in range(3):
            whole.step(small_batch(seed=seed), lr=LR)
        state = copy.deepcopy(whole.state())
        before = _all_weights(whole)
        for seed in range(3, 6):
            whole.step(small_batch(seed=seed), lr=LR)
        whole.settle()

        again = Training(setup, small_model(setup), amp=amp, ema_decay=0.9, mixes=True)
        again.resume(state)
        for seed in range(3, 6):
            again.step(small_batch(seed=seed), lr=LR)
        again.settle()
        error = relative_error(_all_weights(again) - before, _all_weights(whole) - before)
        same_scale = again.run.scaler.get_scale() == whole.run.scaler.get_scale()
        measured = (
            f"relative difference of what the last 3 have changed {error:.1e} (limit 0.1, for kernels that add in no "
            f"fixed order), same loss scale: {same_scale}"
        )
        yield Result(
            f"resumed after 3 of 6 steps, {name}", measured, verdict(error <= 0.1 and same_scale)
        )


def mixed(setup: Setup) -> Iterator[Result]:
    """MixUp and CutMix give the same frames and labels as on a CPU."""
    mix = published_mix()
    frames = torch.randn((NUM_CLIPS, 3, 4, 32, 32), generator=torch.Generator().manual_seed(4))
    labels = torch.arange(NUM_CLIPS)
    error = 0.0
    for seed in range(10):
        expected = mix(frames.clone(), labels, np.random.default_rng(seed))
        found = mix(
            frames.clone().to(setup.device), labels.to(setup.device), np.random.default_rng(seed)
        )
        error = max(
            error, *(relative_error(one, other) for one, other in zip(found, expected, strict=True))
        )
    yield Result(
        "MixUp and CutMix against a CPU",
        f"relative error {error:.1e} (limit 1e-6)",
        verdict(error <= 1e-6),
    )


def erased(setup: Setup) -> Iterator[Result]:
    """Frames of bytes are normalized as on a CPU, and erased boxes hold noise of mean 0 and deviation 1."""
    generator = torch.Generator().manual_seed(5)
    frames = torch.randint(0, 256, (2, 3, 8, 64, 64), generator=generator, dtype=torch.uint8)
    boxes = (Unfilled(0, [Box(8, 8, 48, 48)], 6),)
    normalize = Normalize(mean=MEAN, std=STD, erase_mode="pixel")
    clips = normalize(frames.to(setup.device), boxes).cpu()

    mean, std = torch.tensor(MEAN).view(-1, 1, 1, 1), torch.tensor(STD).view(-1, 1, 1, 1)
    expected = (frames.double() / 255 - mean) / std
    noise = clips[0, :, :, 8:56, 8:56].clone()
    clips[0, :, :, 8:56, 8:56] = expected[0, :, :, 8:56, 8:56].float()
    error = relative_error(clips, expected)
    is_right = (
        error <= 1e-6 and abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 1) < 0.02
    )
    measured = (
        f"relative error of pixels {error:.1e} (limit 1e-6), noise of mean {float(noise.mean()):.3f}, "
        f"deviation {float(noise.std()):.3f}"
    )
    yield Result("uint8 frames with random erasing", measured, verdict(is_right))
