"""Models, clips and work of a row, at the published sizes or at small ones."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slowfast
from benchmarks.plain_uniformer import PlainUniFormer, attend_materialized
from slowfast.engine.compile import compile_for_inference
from slowfast.engine.optim import make_optimizer, parameter_groups
from slowfast.inference.precision import autocast
from slowfast.models.recipes import MODEL_RECIPES
from slowfast.models.uniformer import UniFormer
from slowfast.models.zoo import published
from slowfast.utils.compilers import find_cpu_problems

CPU = torch.device("cpu")
NUM_CLASSES = 400
PLAIN, OURS, COMPILED = "plain", "ours", "ours, compiled"
PEERS = ("mvit_v2_s", "swin3d_t", "s3d")
STEP, EVALUATION = "step", "evaluation"
# Published light models by variant, each with the clips that it was trained for.
LIGHT = {
    name.removeprefix("uniformer_").removesuffix("_k400"): entry
    for name, entry in published().items()
    if entry.model.startswith("uniformer_x") and entry.num_frames
}


@dataclass(frozen=True)
class Sizes:
    """Sizes of the models and clips of all rows.

    Attributes:
        models: Arguments of UniFormer-S and -B by letter.
        num_frames: Number of frames that the clips of a row have, by the number in its name.
        side: Height and width of a clip in pixels.
        peak_side: Side of the square matrices of the product that measures the peak.
    """

    models: dict[str, dict[str, Any]]
    num_frames: dict[int, int]
    side: int
    peak_side: int


PUBLISHED = Sizes(
    models={"S": {}, "B": {"depths": (5, 8, 20, 7), "drop_path": 0.3}},
    num_frames={8: 8, 16: 16, 32: 32},
    side=224,
    peak_side=2048,
)
SMALL = Sizes(
    models={
        "S": {"dims": (8, 16, 32, 64), "depths": (1, 1, 1, 1), "head_dim": 16},
        "B": {"dims": (8, 16, 32, 64), "depths": (1, 1, 2, 1), "head_dim": 16},
    },
    num_frames={8: 2, 16: 4, 32: 8},
    side=64,
    peak_side=128,
)


@dataclass(frozen=True)
class Row:
    """What all variants of a row do.

    Attributes:
        letter: UniFormer-S or -B.
        work: A training step or an evaluation.
        num_frames: Number of frames in a clip at the published size.
        num_clips: Number of clips in a batch.
        variants: Names of the models, of which the plain formulation is the first one. Light models
            have their own clips.
        amp: Autocast dtype, or None for float32.
        num_threads: Number of threads.
        is_default: Whether the row runs if none is chosen.
    """

    letter: str
    work: str
    num_frames: int
    num_clips: int
    variants: tuple[str, ...] = (PLAIN, OURS)
    amp: torch.dtype | None = None
    num_threads: int = 1
    is_default: bool = False

    @property
    def name(self) -> str:
        """Name in the table."""
        clips = "clip" if self.num_clips == 1 else "clips"
        dtype = "fp32" if self.amp is None else "bf16"
        work = f"{self.letter} {self.work}"
        if COMPILED in self.variants:
            work += " compiled"
        if PEERS[0] in self.variants:
            work += " and torchvision"
        if any(variant in LIGHT for variant in self.variants):
            work += " and light models"
        return (
            f"{work}, {self.num_clips} {clips} of {self.num_frames} frames, {dtype}, "
            f"{describe_threads(self.num_threads)}"
        )


def build(variant: str, row: Row, sizes: Sizes) -> nn.Module:
    """Return a model with random weights.

    Raises:
        ValueError: If the model cannot take the clips of the row.
    """
    torch.manual_seed(0)
    arguments = sizes.models[row.letter]
    if variant == PLAIN:
        return PlainUniFormer(num_classes=NUM_CLASSES, attend=attend_materialized, **arguments)
    if variant in (OURS, COMPILED):
        return UniFormer(num_classes=NUM_CLASSES, **arguments)
    num_frames, side = clip_of(variant, row, sizes)
    return slowfast.create_model(
        LIGHT[variant].model if variant in LIGHT else variant,
        num_frames=num_frames,
        crop_size=side,
        num_classes=NUM_CLASSES,
    )


def clip_of(variant: str, row: Row, sizes: Sizes) -> tuple[int, int]:
    """Return the number of frames, and the height and width of the clips of a model."""
    if variant not in LIGHT or sizes is not PUBLISHED:
        return sizes.num_frames[row.num_frames], sizes.side
    entry = LIGHT[variant]
    return entry.num_frames, entry.crop_size or MODEL_RECIPES[entry.model]["DATA.TEST_CROP_SIZE"]


def find_problem(variant: str, row: Row, sizes: Sizes) -> str:
    """Return why a variant of a row cannot run on this machine, or nothing."""
    if row.amp is torch.bfloat16 and not computes_bf16():
        return "this CPU has no instructions for bf16 (avx512_bf16 or AMX)"
    if variant == COMPILED and find_cpu_problems():
        return "; ".join(find_cpu_problems())
    try:
        build(variant, row, sizes)
    except ValueError as error:
        lines = [line.strip() for line in str(error).removeprefix(f"{variant}: ").splitlines()]
        return "; ".join(dict.fromkeys(lines))
    return ""


def computes_bf16() -> bool:
    """Return whether this CPU has instructions for products in bf16."""
    return bool(bf16_instructions())


def bf16_instructions() -> list[str]:
    """Return the names of the instructions of this CPU for products in bf16."""
    checks = {"avx512_bf16": "_is_avx512_bf16_supported", "AMX": "_is_amx_tile_supported"}
    return [name for name, check in checks.items() if getattr(torch.cpu, check, lambda: False)()]


def describe_threads(num_threads: int) -> str:
    """Return a number of threads in words."""
    return "1 thread" if num_threads == 1 else f"{num_threads} threads"


def shape_of(variant: str, row: Row, sizes: Sizes) -> tuple[int, int, int, int, int]:
    """Return the shape (B, C, T, H, W) of the frames of a model."""
    num_frames, side = clip_of(variant, row, sizes)
    return (row.num_clips, 3, num_frames, side, side)


class TrainingStep:
    """A training step with the optimizer of the engine.

    Args:
        model: Model to train.
        shape: Shape (B, C, T, H, W) of the frames.
        amp: Autocast dtype, or None for float32.
    """

    def __init__(
        self, model: nn.Module, *, shape: tuple[int, ...], amp: torch.dtype | None
    ) -> None:
        self.model = model.train()
        self._frames, self._labels = _batch(shape)
        self._amp = amp
        groups = parameter_groups(model, weight_decay=0.05, norm_weight_decay=0.0, decay_1d=False)
        self._optimizer = make_optimizer("adamw", groups, lr=1e-4, fused=True)

    def __call__(self) -> None:
        """Run the step."""
        self._optimizer.zero_grad(set_to_none=True)
        with autocast(self._amp, CPU):
            logits = self.model(self._frames)
        F.cross_entropy(logits.float(), self._labels).backward()
        self._optimizer.step()

    def allocate_moments(self) -> None:
        """Allocate what the optimizer keeps, which otherwise happens at the end of a step."""
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


class Evaluation:
    """A forward pass without gradients.

    Args:
        model: Model to evaluate.
        shape: Shape (B, C, T, H, W) of the frames.
        amp: Autocast dtype, or None for float32.
    """

    def __init__(
        self, model: nn.Module, *, shape: tuple[int, ...], amp: torch.dtype | None
    ) -> None:
        self._model = model.eval()
        self._frames, _ = _batch(shape)
        self._amp = amp

    def __call__(self) -> None:
        """Run the forward pass."""
        with torch.inference_mode(), autocast(self._amp, CPU):
            self._model(self._frames)


def _batch(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return synthetic normalized frames (B, C, T, H, W) and labels (B,)."""
    frames = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return frames, torch.arange(shape[0]) % NUM_CLASSES


def make_work(variant: str, row: Row, sizes: Sizes) -> Callable[[], None]:
    """Return a function that does the work of a row once.

    Raises:
        ValueError: If the model cannot take the clips of the row.
    """
    model = build(variant, row, sizes)
    shape = shape_of(variant, row, sizes)
    if row.work == STEP:
        return TrainingStep(model, shape=shape, amp=row.amp)
    evaluation = Evaluation(model, shape=shape, amp=row.amp)
    if variant != COMPILED:
        return evaluation

    compile_for_inference(model)
    evaluation()  # The first call compiles.
    return evaluation
