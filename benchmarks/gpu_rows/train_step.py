"""Rows: properties of a training step, checked against a CPU or arithmetic by hand."""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu_rows.precision import without_tf32
from benchmarks.gpu_rows.relative_error import flatten, relative_error
from benchmarks.gpu_rows.report import Result, verdict
from benchmarks.gpu_rows.synthetic_training import MEAN, STD, Training, batch_of, published_mix
from benchmarks.gpu_rows.workload import NUM_CLASSES, Workload, cpu_workload
from slowfast.datasets.boxes import Box
from slowfast.datasets.normalization import Normalize
from slowfast.datasets.records import Batch, Unfilled
from slowfast.models.uniformer import UniFormer

NUM_CLIPS = 8
SMALL = {"dims": (16, 32, 64, 128), "depths": (1, 1, 1, 1), "head_dim": 16, "drop_path": 0.0}
LR = 1e-3


def small_model(workload: Workload) -> UniFormer:
    """Return a small model with the same weights on every device."""
    torch.manual_seed(0)
    return UniFormer(num_classes=NUM_CLASSES, **SMALL).to(workload.device)  # type: ignore[arg-type]


def small_batch(*, seed: int = 0) -> Batch:
    """Return a batch for the small model in the memory of the host."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn((NUM_CLIPS, 3, 4, 32, 32), generator=generator)
    return batch_of(frames, torch.arange(NUM_CLIPS))


def check_losses(workload: Workload) -> Iterator[Result]:
    """Train a small model and compare its losses with those on a CPU."""
    here = _losses(workload)
    on_cpu = _losses(cpu_workload()) if workload.is_gpu else here
    difference = float((here - on_cpu).abs().max())
    measured = (
        f"loss {here[0]:.4f} -> {here[-1]:.4f}, largest difference from a CPU {difference:.1e} "
        "(limits: half, 0.01)"
    )
    is_right = bool(here[-1] < 0.5 * here[0]) and difference < 0.01
    title = f"{workload.num_steps} steps of a small model in"
    yield Result(f"{title} fp32", measured, verdict(is_right))
    if not workload.is_gpu:
        return

    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        losses = _losses(workload, amp=dtype)
        difference = float((losses - on_cpu).abs().max())
        measured = (
            f"loss {losses[0]:.4f} -> {losses[-1]:.4f}, "
            f"largest difference from a CPU {difference:.1e}"
        )
        is_right = bool(losses[-1] < 0.5 * losses[0])
        yield Result(f"{title} {name}", measured, verdict(is_right))


def _losses(workload: Workload, *, amp: torch.dtype | None = None) -> Tensor:
    training = Training(workload, small_model(workload), amp=amp)
    with without_tf32():
        losses = [training.step(small_batch(), lr=LR).loss for _ in range(workload.num_steps)]
        training.settle()
    return torch.stack(losses).cpu()


def check_skipped_steps(workload: Workload) -> Iterator[Result]:
    """Check that a non-finite step changes nothing and the next one does."""
    for name, amp in (("fp32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        training = Training(workload, small_model(workload), amp=amp, ema_decay=0.9)
        for _ in range(4):
            training.step(small_batch(), lr=LR)
        training.settle()
        scaler = training.train_state.scaler
        scale, num_skipped = scaler.get_scale(), training.train_state.num_skipped_steps
        before = _all_values(training)

        non_finite = small_batch()
        non_finite.frames[0, 0, 0, 0, 0] = float("inf")
        outcome = training.step(non_finite, lr=LR)
        training.settle()
        is_same = torch.equal(before, _all_values(training)) and bool(outcome.is_skipped)
        num_skipped = training.train_state.num_skipped_steps - num_skipped
        is_halved = not scaler.is_enabled() or scaler.get_scale() == scale / 2

        loss = training.step(small_batch(), lr=LR).loss
        training.settle()
        is_changed = not torch.equal(before, _all_values(training)) and bool(loss.isfinite())

        halved = is_halved if amp is torch.float16 else "none"
        measured = (
            f"weights, statistics and EMA bit-identical: {is_same}, skipped steps: {num_skipped}, "
            f"loss scale halved: {halved}, the next step has an effect: {is_changed}"
        )
        is_right = is_same and is_halved and is_changed and num_skipped == 1
        yield Result(f"a non-finite step is skipped, {name}", measured, verdict(is_right))


def _all_values(training: Training) -> Tensor:
    """Return all values of the model, the EMA and the optimizer that a step changes."""
    tensors: list[Tensor] = []
    for model in training.train_state.models:
        tensors += model.state_dict().values()
    for state in training.train_state.optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    return flatten(tensors)


def check_ema(workload: Workload) -> Iterator[Result]:
    """Compare the EMA of the weights with arithmetic on a CPU."""
    training = Training(workload, small_model(workload), ema_decay=0.9)
    by_hand = flatten(training.model.parameters())
    for seed in range(4):
        training.step(small_batch(seed=seed), lr=LR)
        by_hand = 0.9 * by_hand + 0.1 * flatten(training.model.parameters())

    assert training.train_state.ema is not None
    error = relative_error(flatten(training.train_state.ema.model.parameters()), by_hand)
    measured = f"relative error {error:.1e} (limit 1e-6)"
    yield Result("EMA against arithmetic by hand", measured, verdict(error <= 1e-6))


def check_accumulation(workload: Workload) -> Iterator[Result]:
    """Compare the gradients of two micro-batches with those of the whole batch."""
    whole = small_batch()
    halves = [batch_of(whole.frames[:4], whole.labels[:4])]
    halves.append(batch_of(whole.frames[4:], whole.labels[4:]))

    gradients = []
    for batches in ([whole], halves):
        training = Training(workload, small_model(workload), micro_batches=len(batches))
        for module in training.model.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eval()  # The statistics of the halves differ from those of the batch.
        with without_tf32():
            training.step(*batches, lr=LR)
        training.settle()
        parameters = training.model.parameters()
        gradients.append(flatten(p.grad for p in parameters if p.grad is not None))

    error = relative_error(gradients[1], gradients[0])
    measured = f"relative difference of the gradients {error:.1e} (limit 1e-4)"
    yield Result("2 micro-batches against one batch", measured, verdict(error <= 1e-4))


def check_resume(workload: Workload) -> Iterator[Result]:
    """Compare a training resumed from a checkpoint with an uninterrupted one."""
    for name, amp in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        whole = Training(workload, small_model(workload), amp=amp, ema_decay=0.9, mixes=True)
        for seed in range(3):
            whole.step(small_batch(seed=seed), lr=LR)
        state = copy.deepcopy(whole.state())
        before = _all_weights(whole)
        for seed in range(3, 6):
            whole.step(small_batch(seed=seed), lr=LR)
        whole.settle()

        resumed = Training(workload, small_model(workload), amp=amp, ema_decay=0.9, mixes=True)
        resumed.resume(state)
        for seed in range(3, 6):
            resumed.step(small_batch(seed=seed), lr=LR)
        resumed.settle()

        error = relative_error(_all_weights(resumed) - before, _all_weights(whole) - before)
        is_same_scale = (
            resumed.train_state.scaler.get_scale() == whole.train_state.scaler.get_scale()
        )
        measured = (
            f"relative difference of the changes in the last 3 steps {error:.1e} (limit 0.1, "
            f"because some kernels add in no fixed order), same loss scale: {is_same_scale}"
        )
        is_right = error <= 0.1 and is_same_scale
        yield Result(f"resumed after 3 of 6 steps, {name}", measured, verdict(is_right))


def _all_weights(training: Training) -> Tensor:
    """Return the weights of the model and of its EMA."""
    parameters: list[Tensor] = []
    for model in training.train_state.models:
        parameters += model.parameters()
    return flatten(parameters)


def check_mixup(workload: Workload) -> Iterator[Result]:
    """Compare the frames and labels of MixUp and CutMix with those on a CPU."""
    mix = published_mix()
    frames = torch.randn((NUM_CLIPS, 3, 4, 32, 32), generator=torch.Generator().manual_seed(4))
    labels = torch.arange(NUM_CLIPS)
    device_frames, device_labels = frames.to(workload.device), labels.to(workload.device)

    error = 0.0
    for seed in range(10):
        expected = mix(frames.clone(), labels, np.random.default_rng(seed))
        found = mix(device_frames.clone(), device_labels, np.random.default_rng(seed))
        for one, other in zip(found, expected, strict=True):
            error = max(error, relative_error(one, other))
    measured = f"relative error {error:.1e} (limit 1e-6)"
    yield Result("MixUp and CutMix against a CPU", measured, verdict(error <= 1e-6))


def check_uint8(workload: Workload) -> Iterator[Result]:
    """Check that uint8 frames are normalized as on a CPU and erased boxes hold standard noise."""
    generator = torch.Generator().manual_seed(5)
    frames = torch.randint(0, 256, (2, 3, 8, 64, 64), generator=generator, dtype=torch.uint8)
    boxes = (Unfilled(0, [Box(8, 8, 48, 48)], 6),)
    normalize = Normalize(mean=MEAN, std=STD, erase_mode="pixel")
    clips = normalize(frames.to(workload.device), boxes).cpu()

    mean, std = torch.tensor(MEAN).view(-1, 1, 1, 1), torch.tensor(STD).view(-1, 1, 1, 1)
    expected = (frames.double() / 255 - mean) / std
    noise = clips[0, :, :, 8:56, 8:56].clone()
    clips[0, :, :, 8:56, 8:56] = expected[0, :, :, 8:56, 8:56].float()
    error = relative_error(clips, expected)
    noise_mean, noise_std = float(noise.mean()), float(noise.std())

    is_noise_right = abs(noise_mean) < 0.02 and abs(noise_std - 1) < 0.02
    measured = (
        f"relative error of pixels {error:.1e} (limit 1e-6), noise with mean {noise_mean:.3f} "
        f"and standard deviation {noise_std:.3f}"
    )
    is_right = error <= 1e-6 and is_noise_right
    yield Result("uint8 frames with random erasing", measured, verdict(is_right))
