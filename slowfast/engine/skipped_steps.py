"""Steps whose numbers are not finite: counted, told apart, written down, and not too many in a row."""

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
from slowfast.utils.text import count, some

logger = logging.getLogger(__name__)

MOST_DUMPS = 20  # of a run: the first steps tell the cause


class SkippedStepsError(FloatingPointError):
    """SOLVER.MAX_BAD_STEPS steps in a row were skipped."""


class Step(NamedTuple):
    """A step that was taken, as far as it is needed to look into it."""

    epoch: int  # from 0
    step: int  # of the epoch, from 0
    parts: tuple[Batch, ...]  # of this process
    lr: float
    loss: Tensor  # of this process
    grad_norm: Tensor


@dataclass
class Streak:
    """The steps that were skipped one after another up to now; part of a checkpoint, so that a restart counts on."""

    length: int = 0
    epoch: int = 0  # of its first step, from 0
    step: int = 0  # of its first step, from 0


class SkippedSteps:
    """The steps of a run that were skipped.

    Args:
        streak: The steps skipped in a row, counted here.
        max_in_row: Number of steps in a row that ends the run.
        video_name: Function from a row of the training list to its path.
        folder: Folder for what is found out about skipped steps; None: only the log names the module.
    """

    def __init__(
        self,
        streak: Streak,
        *,
        max_in_row: int,
        video_name: Callable[[int], str] = str,
        folder: Path | None = None,
    ) -> None:
        self._folder = folder
        self._streak = streak
        self._max_in_row = max_in_row
        self._video_name = video_name
        self._num_dumps = 0

    def note_good(self) -> None:
        """Begin to count anew."""
        self._streak.length = 0

    def note_bad(
        self, step: Step, *, loss_scale: float, is_normal: bool, find_module: Callable[[Step], str]
    ) -> None:
        """Count a step that was skipped, and write down what is known of it; all processes call it together.

        Args:
            step: The step.
            loss_scale: Loss scale of fp16 after the step.
            is_normal: Whether it was skipped to find a loss scale, which is normal for fp16.
            find_module: Repeats the step and names the first module with numbers that are not finite.

        Raises:
            SkippedStepsError: There were too many in a row.
        """
        if self._streak.length == 0:
            self._streak.epoch, self._streak.step = step.epoch, step.step
        self._streak.length += 1
        place = f"epoch {step.epoch + 1}, step {step.step + 1}"
        is_last = self._streak.length >= self._max_in_row
        if is_last or (not is_normal and self._num_dumps < MOST_DUMPS):
            self._num_dumps += 1
            told = self._tell(step, loss_scale=loss_scale, module=find_module(step))
            logger.warning("%s: numbers that are not finite; the step is skipped, %s", place, told)
        if is_last:
            where = self._folder or "the log"
            raise SkippedStepsError(
                f"{count(self._streak.length, 'step')} in a row up to {place} had numbers that are not finite "
                f"(SOLVER.MAX_BAD_STEPS); {where} tells their videos and the first module with such numbers"
            )

    def _tell(self, step: Step, *, loss_scale: float, module: str) -> str:
        """Write down what is known of a step; return where, or the little that the log can hold."""
        here: dict[str, Any] = {
            "rank": rank(),
            "loss": _shown(step.loss),
            "first_module_not_finite": module,
            "videos": [
                self._video_name(row)
                for part in step.parts
                for row in dict.fromkeys(part.video.tolist())
            ],
        }
        content: dict[str, Any] = {
            "epoch": step.epoch + 1,
            "step": step.step + 1,
            "lr": step.lr,
            "loss_scale": loss_scale,
            "grad_norm": _shown(step.grad_norm),
            "processes": gather_over_ranks([here]),
        }
        if self._folder is None:
            return f"first in {module}, videos {some(here['videos'])}"

        from slowfast.utils.files import (
            write_json,
        )  # needs simplejson, which training without a folder can do without

        path = self._folder / f"epoch_{step.epoch + 1:05d}_step_{step.step + 1:07d}.json"
        if is_main():
            write_json(path, content)
        return f"see {path}"


def _shown(value: Tensor) -> float | str:
    """A number as JSON has it, which knows no nan."""
    number = value.item()
    return number if math.isfinite(number) else str(number)


def first_module_not_finite(model: nn.Module, losses: Callable[[], Sequence[Tensor]]) -> str:
    """Return the name of the first module, innermost first, whose output is not finite, or else of a gradient.

    Args:
        model: without gradients afterwards.
        losses: runs it forward.
    """
    names = {module: name for name, module in model.named_modules()}
    found: list[str] = []

    def look(module: nn.Module, inputs: object, output: object) -> None:
        if (
            isinstance(output, Tensor)
            and output.is_floating_point()
            and not output.isfinite().all()
        ):
            found.append(names[module] or "the model")

    hooks = [module.register_forward_hook(look) for module in names]
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
    bad = [name for name, parameter in model.named_parameters() if not _is_finite(parameter.grad)]
    model.zero_grad(set_to_none=True)
    return (
        f"the gradient of {bad[-1]}" if bad else "none in this process, when the step was repeated"
    )


def _is_finite(gradient: Tensor | None) -> bool:
    return gradient is None or bool(gradient.isfinite().all())
