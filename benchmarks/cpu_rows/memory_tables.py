"""Tables of benchmarks/memory.py: what a training step keeps, and what recomputation saves."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch

from benchmarks.cpu_rows.peak_memory import (
    GIB,
    Memory,
    find_memory_problem,
    kept_by_module,
    measure_growth,
    resident_bytes_with_kernels,
    run_alone,
)
from benchmarks.cpu_rows.timing import take_turns
from benchmarks.cpu_rows.workload import (
    NUM_CLASSES,
    OURS,
    STEP,
    Row,
    Sizes,
    TrainingStep,
    describe_threads,
    shape_of,
)
from slowfast.engine.build import STEPS_ON_GPU
from slowfast.engine.recompute import MARGIN, activation_bytes
from slowfast.models.uniformer import UniFormer

MIB = 2**20
MODULES = ("patch_embed1", "patch_embed2", "patch_embed3", "patch_embed4", "norm")
PARTS = ("stage 1", "stage 2", "stage 3", "stage 4", "norm and head")
CARDS_GIB = (16, 24, 40, 80)
CONTEXT_BYTES = 0.5 * GIB  # What the driver and the libraries take of a GPU.
NUM_WEIGHT_COPIES = 4  # Weights, gradients and two moments. An EMA is a fifth.
RECOMPUTED_STAGES = (0, 1, 2, 4)  # Numbers of leading stages whose blocks are recomputed.
DTYPES = {"fp32": None, "bf16": torch.bfloat16}


class MemoryTable(NamedTuple):
    """A table with a sentence about it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join([self.title, "", *(f"| {' | '.join(cells)} |" for cells in lines)]) + "\n"


class Setting(NamedTuple):
    """A UniFormer and its clips.

    Attributes:
        letter: UniFormer-S or -B.
        num_frames: Number of frames in a clip at the published size.
        sizes: Sizes of models and clips.
    """

    letter: str
    num_frames: int
    sizes: Sizes

    @property
    def row(self) -> Row:
        """The training step on one clip."""
        return Row(
            self.letter, STEP, self.num_frames, num_clips=1, num_threads=torch.get_num_threads()
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (1, C, T, H, W) of the frames of one clip."""
        return shape_of(OURS, self.row, self.sizes)

    def build(self, recomputed: tuple[int, ...] = (0, 0, 0, 0)) -> UniFormer:
        """Return the model, whose first blocks of each stage are recomputed."""
        torch.manual_seed(0)
        arguments = self.sizes.models[self.letter]
        return UniFormer(num_classes=NUM_CLASSES, recomputed=recomputed, **arguments)


# ---- Stages ----------------------------------------------------------------------------------


def tabulate_stages(sizes: Sizes) -> MemoryTable:
    """Return the activations that each stage of UniFormer-S keeps, by length of the clip."""
    columns = []
    for num_frames in sizes.num_frames:
        setting = Setting("S", num_frames, sizes)
        kept = kept_by_module(setting.build(), MODULES, shape=setting.shape, amp=None)
        columns.append([*kept, sum(kept)])

    rows = []
    for index, part in enumerate((*PARTS, "all")):
        cells = [f"{kept[index] / MIB:.1f} MiB ({kept[index] / kept[-1]:.0%})" for kept in columns]
        rows.append([part, *cells])
    title = "Activations that UniFormer-S keeps of one clip for the backward pass, fp32, by stage."
    return MemoryTable(title, ["", *(f"{count} frames" for count in sizes.num_frames)], rows)


# ---- Recomputation ---------------------------------------------------------------------------


def tabulate_recomputation(settings: Sequence[Setting], *, rounds: int) -> Iterator[MemoryTable]:
    """Yield time and memory of a step by MODEL.CHECKPOINT_NUM, one table for each setting.

    Args:
        settings: Models and clips.
        rounds: Number of steps of each row, in turns.
    """
    columns = ("CHECKPOINT_NUM", "step", "over none", "peak", "of the step", "estimate", "ratio")
    for setting in settings:
        title = (
            f"Recomputation in UniFormer-{setting.letter}, 1 clip of {setting.num_frames} frames, "
            f"fp32, {describe_threads(torch.get_num_threads())}. The estimate is that of "
            "MODEL.CHECKPOINT_AUTO for the activations. The last column compares what the step "
            "adds to weights and moments with the estimate and the gradients."
        )
        problem = find_memory_problem(OURS, setting.row, setting.sizes)
        if problem:
            yield MemoryTable(title, columns, [["all", problem, *[""] * (len(columns) - 2)]])
            continue
        yield MemoryTable(title, columns, _measure_recomputation(setting, rounds=rounds))


def _measure_recomputation(setting: Setting, *, rounds: int) -> list[list[str]]:
    model = setting.build()
    step = TrainingStep(model, shape=setting.shape, amp=None)

    def run(recomputed: tuple[int, ...]) -> None:
        model.recomputed = recomputed
        step()

    choices = [_leading(model, count) for count in RECOMPUTED_STAGES]
    memory = [run_alone(measure_recomputed, setting, choice) for choice in choices]
    works = {str(list(choice)): partial(run, choice) for choice in choices}
    times = take_turns(works, rounds=rounds)
    estimates = [_estimate(setting, model, choice, amp=None) for choice in choices]

    rows = []
    gradients = sum(parameter.nbytes for parameter in model.parameters())
    none = next(iter(times.values())).fastest
    for (name, seconds), growth, estimate in zip(times.items(), memory, estimates, strict=True):
        of_step = growth.peak - growth.before
        rows.append(
            [
                name,
                f"{seconds.fastest:.4g} s",
                f"{seconds.fastest / none:.3f}",
                f"{growth.peak / GIB:.3f} GiB",
                f"{of_step / GIB:.3f} GiB",
                f"{estimate / GIB:.3f} GiB",
                f"{of_step / (estimate + gradients):.2f}",
            ]
        )
    return rows


def measure_recomputed(setting: Setting, recomputed: tuple[int, ...]) -> Memory:
    """Return the memory of a step with recomputation. Call it in a new process."""
    torch.set_num_threads(setting.row.num_threads)
    start = resident_bytes_with_kernels()
    step = TrainingStep(setting.build(recomputed), shape=setting.shape, amp=None)
    return measure_growth(step, start=start)


def _leading(model: UniFormer, num_stages: int) -> tuple[int, ...]:
    """Return MODEL.CHECKPOINT_NUM for all blocks of the first stages."""
    stages = (model.blocks1, model.blocks2, model.blocks3, model.blocks4)
    return tuple(len(stage) if index < num_stages else 0 for index, stage in enumerate(stages))


def _estimate(
    setting: Setting,
    model: UniFormer,
    recomputed: tuple[int, ...],
    *,
    amp: torch.dtype | None,
    num_clips: int = 1,
) -> int:
    """Return the bytes that MODEL.CHECKPOINT_AUTO expects of the activations of clips.

    It is calculated as `slowfast.engine.recompute.choose_recomputed` does.
    """
    shape = (num_clips, *setting.shape[1:])
    measure = partial(activation_bytes, model, shape=shape, amp=amp)
    none, again = measure((0, 0, 0, 0)), 0
    for stage, count in enumerate(recomputed):
        if count:
            one_block = tuple(int(index == stage) for index in range(4))
            again = max(again, none - measure(one_block))
    inputs = measure(_leading(model, 4))
    return max(measure(recomputed) + again, inputs + 2 * again)


# ---- Cards -----------------------------------------------------------------------------------


def tabulate_fit(settings: Sequence[Setting]) -> MemoryTable:
    """Return the clips that fit on a GPU by its memory, without running a step.

    Args:
        settings: Models and clips.
    """
    rows = []
    for setting in settings:
        model = setting.build()
        for name, amp in DTYPES.items():
            for title, num_stages in (("none", 0), ("all blocks", 4)):
                estimate = partial(_estimate, setting, model, _leading(model, num_stages), amp=amp)
                one_clip, two_clips = estimate(num_clips=1), estimate(num_clips=2)
                clip_bytes = two_clips - one_clip
                # Autocast keeps copies of the weights, whatever the number of clips.
                count = partial(_count_clips, setting, model, clip_bytes, one_clip - clip_bytes)
                clips = [count(card_gib=gib) for gib in CARDS_GIB]
                subject = f"{setting.letter}, {setting.num_frames} frames, {name}"
                rows.append([subject, title, f"{clip_bytes / MIB:.0f} MiB", *map(str, clips)])

    title = (
        "Clips per device by the estimate of MODEL.CHECKPOINT_AUTO, next to weights, gradients, "
        f"two moments, an EMA, {STEPS_ON_GPU} batches of float32 frames, mixed frames and "
        f"{CONTEXT_BYTES / GIB:g} GiB for the driver, with {MARGIN:.0%} of the rest left to the "
        "kernels. The estimate is traced on a CPU, where depthwise convolutions are in float32 "
        "under bf16 too, so a GPU needs less in bf16."
    )
    columns = ["", "recomputed", "activations of a clip", *(f"{gib} GiB" for gib in CARDS_GIB)]
    return MemoryTable(title, columns, rows)


def _count_clips(
    setting: Setting, model: UniFormer, clip_bytes: int, fixed_bytes: int, *, card_gib: int
) -> int:
    """Return the largest number of clips whose activations fit the budget of a card.

    Args:
        setting: Model and clips.
        model: The model.
        clip_bytes: Activations of each clip.
        fixed_bytes: Activations whatever the number of clips.
        card_gib: Memory of the card in GiB.
    """
    weights = sum(parameter.nbytes for parameter in model.parameters())
    ema = sum(tensor.nbytes for tensor in model.state_dict().values())
    free = card_gib * GIB - CONTEXT_BYTES - NUM_WEIGHT_COPIES * weights - ema
    frames = (STEPS_ON_GPU + 1) * 4 * math.prod(setting.shape)
    num_clips = ((1 - MARGIN) * free - fixed_bytes) / (clip_bytes + (1 - MARGIN) * frames)
    return max(int(num_clips), 0)
