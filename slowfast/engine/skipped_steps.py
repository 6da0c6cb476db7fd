"""Skipped steps: counting steps with non-finite numbers, and finding what caused them."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from slowfast.datasets.records import Batch
from slowfast.distributed.collectives import gather_over_ranks, is_main, rank
from slowfast.runs.position import Position
from slowfast.utils.text import count, some

logger = logging.getLogger(__name__)

FOLDER_NAME = "skipped_steps"  # in OUTPUT_DIR
MAX_DUMPS = 20  # per process start: the first skipped steps show the cause


class SkippedStepsError(FloatingPointError):
    """SOLVER.MAX_BAD_STEPS steps in a row were skipped."""


class StepRecord(NamedTuple):
    """A step that has run, with what is needed to look into it."""

    position: Position
    micro_batches: tuple[Batch, ...]  # of this process
    lr: float
    loss: Tensor  # of this process
    grad_norm: Tensor


@dataclass
class Streak:
    """Steps that were skipped in a row. Checkpoints hold it, so that a restart continues it."""

    length: int = 0
    epoch: int = 0  # Position of the first skipped step.
    step: int = 0

    @property
    def start(self) -> Position:
        """The position of its first step."""
        return Position(self.epoch, self.step)


class SkippedSteps:
    """Counts the skipped steps of a run and writes down what caused them.

    Args:
        streak: Steps skipped in a row. It changes with every step.
        max_in_row: Number of steps in a row that ends the run.
        video_name: Function from a row of the training list to the path of its video.
        folder: Directory for one JSON file per skipped step, or None for the log alone.
    """

    def __init__(
        self,
        streak: Streak,
        *,
        max_in_row: int,
        video_name: Callable[[int], str] = str,
        folder: Path | None = None,
    ) -> None:
        self._streak = streak
        self._max_in_row = max_in_row
        self._video_name = video_name
        self._folder = folder
        self._num_dumps = 0

    def end_streak(self) -> None:
        """Note a step that was not skipped."""
        self._streak.length = 0

    def add(
        self,
        step: StepRecord,
        *,
        loss_scale: float,
        is_expected: bool,
        find_module: Callable[[StepRecord], str],
    ) -> None:
        """Count a skipped step and write down its cause. All processes call it together.

        Args:
            step: The skipped step.
            loss_scale: Loss scale of fp16 after the step.
            is_expected: Whether fp16 skipped the step to find its loss scale, which is normal.
            find_module: Function that repeats the step and names the first non-finite module.

        Raises:
            SkippedStepsError: If too many steps in a row were skipped.
        """
        streak = self._streak
        if streak.length == 0:
            streak.epoch, streak.step = step.position
        streak.length += 1

        is_last = streak.length >= self._max_in_row
        if is_last or (not is_expected and self._num_dumps < MAX_DUMPS):
            self._num_dumps += 1
            cause = self._write_cause(step, loss_scale=loss_scale, module=find_module(step))
            logger.warning("%s: non-finite numbers, the step is skipped, %s", step.position, cause)
        if is_last:
            where = self._folder or "the log"
            raise SkippedStepsError(
                f"{count(streak.length, 'step')} in a row up to {step.position} had non-finite "
                f"numbers (SOLVER.MAX_BAD_STEPS). See {where} for their videos and the first "
                "non-finite module"
            )

    def _write_cause(self, step: StepRecord, *, loss_scale: float, module: str) -> str:
        """Write what is known of a step to a file. Return where it is, or a summary for the log."""
        videos = [
            self._video_name(row)
            for batch in step.micro_batches
            for row in dict.fromkeys(batch.video_indices.tolist())
        ]
        here: dict[str, Any] = {
            "rank": rank(),
            "loss": _to_json(step.loss),
            "first_nonfinite_module": module,
            "videos": videos,
        }
        content: dict[str, Any] = {
            "epoch": step.position.epoch + 1,
            "step": step.position.step + 1,
            "lr": step.lr,
            "loss_scale": loss_scale,
            "grad_norm": _to_json(step.grad_norm),
            "processes": gather_over_ranks([here]),
        }
        if self._folder is None:
            return f"first in {module}, videos {some(videos)}"

        from slowfast.utils.files import write_json  # imports simplejson, which training can miss

        number = f"epoch_{content['epoch']:05d}_step_{content['step']:07d}"
        path = self._folder / f"{number}.json"
        if is_main():
            write_json(path, content)
        return f"see {path}"


def _to_json(value: Tensor) -> float | str:
    """Return a number, as text if JSON has no such number."""
    number = value.item()
    return number if math.isfinite(number) else str(number)


def first_nonfinite_module(model: nn.Module, losses: Callable[[], Sequence[Tensor]]) -> str:
    """Return the name of the first module with a non-finite output, or else of a gradient.

    Inner modules come before those that contain them.

    Args:
        model: Model of the step. It has no gradients afterward.
        losses: Function that runs the model forward and returns the losses of its micro-batches.
    """
    names = {module: name for name, module in model.named_modules()}
    found: list[str] = []

    def check_output(module: nn.Module, inputs: object, output: object) -> None:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return
        if not output.isfinite().all():
            found.append(names[module] or "the model")

    hooks = [module.register_forward_hook(check_output) for module in names]
    try:
        values = losses()
    finally:
        for hook in hooks:
            hook.remove()
    if found:
        return found[0]
    if not all(value.isfinite() for value in values):
        return "the loss"

    torch.stack(list(values)).sum().backward()
    nonfinite = [
        name for name, parameter in model.named_parameters() if not _is_finite(parameter.grad)
    ]
    model.zero_grad(set_to_none=True)
    if nonfinite:
        return f"the gradient of {nonfinite[-1]}"
    return "none in this process when the step was repeated"


def _is_finite(gradient: Tensor | None) -> bool:
    return gradient is None or bool(gradient.isfinite().all())
