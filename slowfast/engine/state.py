"""A run: all that the rest of a training depends on, as it is saved and brought back.

Random draws are functions of seed, epoch, step and part of the step, never of what ran before: there is no generator
state to save, and what a run does next does not depend on the number of processes that saved it.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from slowfast.engine.ema import ModelEma
from slowfast.engine.skipped_steps import Streak
from slowfast.models.weights import fill_weights, head_names

logger = logging.getLogger(__name__)

FORMAT = 1  # of a checkpoint of a run; another number is refused
REQUIRED = (  # what a run cannot be resumed without
    *("format", "run_id", "identity", "epoch", "step", "num_parts", "counters", "validations"),
    *("model_state", "optimizer_state", "scaler_state"),
)


@dataclass
class TrainingState:
    """A model, what trains it, and how far it has come."""

    model: nn.Module
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    ema: ModelEma | None = None  # of the weights of the model
    identity: dict[str, Any] = field(default_factory=dict)  # see `identity_of`
    class_names: list[str] = field(default_factory=list)  # empty where they are not known
    allowed_mismatch: list[str] = field(default_factory=list)  # see `fill_weights`
    cfg_text: str = ""
    num_parts: int = 1  # batches into which all processes together divide a step
    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the next epoch
    unreadable: set[int] = field(
        default_factory=set
    )  # rows of the training videos that were unreadable in this epoch
    num_skipped_steps: int = 0  # skipped so far, because their numbers were not finite
    streak: Streak = field(default_factory=Streak)  # of skipped steps
    validations: list[dict[str, Any]] = field(default_factory=list)  # records, see `Validations`
    run_id: str = ""  # see `slowfast.engine.run_folder`

    @property
    def place(self) -> str:
        """How far it has come, for a reader."""
        return f"epoch {self.epoch + 1}, step {self.step + 1}"

    @property
    def models(self) -> list[nn.Module]:
        """The model that is trained and, last, the one with the averaged weights, if there is one."""
        return [self.model] if self.ema is None else [self.model, self.ema.model]

    def state(self) -> dict[str, Any]:
        """Return all of it as tensors and plain data."""
        average = {"ema_state": self.ema.model.state_dict()} if self.ema is not None else {}
        return {
            **average,
            "format": FORMAT,
            "run_id": self.run_id,
            "epoch": self.epoch,
            "step": self.step,
            "num_parts": self.num_parts,
            "counters": {
                "unreadable": sorted(self.unreadable),
                "num_skipped_steps": self.num_skipped_steps,
                "streak": asdict(self.streak),
            },
            "validations": self.validations,
            "model_state": self.model.state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "scaler_state": self.scaler.state_dict(),
            "identity": self.identity,
            "class_names": self.class_names,
            "cfg": self.cfg_text,
        }

    def load(self, state: dict[str, Any], *, path: str) -> None:
        """Bring back what `state` has returned, in this process or in another one.

        Args:
            state: The content of a checkpoint.
            path: The checkpoint, for messages.

        Raises:
            ValueError: It cannot be resumed from, or is of another model or optimizer.
        """
        check_state(state, path=path)
        report = fill_weights(
            self.model,
            state,
            path=path,
            allowed=self.allowed_mismatch,
            class_names=self.class_names,
        )
        if self.ema is not None and "ema_state" in state:
            averaged = {**state, "model_state": state["ema_state"]}
            fill_weights(
                self.ema.model,
                averaged,
                path=path,
                allowed=self.allowed_mismatch,
                class_names=self.class_names,
            )
        elif self.ema is not None:
            self.ema.begin_at(self.model)
        try:
            self.optimizer.load_state_dict(self._with_own_options(state["optimizer_state"]))
            self._reorder_head(report.class_order)
        except ValueError as error:
            raise ValueError(
                f"{path}: was trained with another optimizer ({error}); use another OUTPUT_DIR"
            ) from error
        if state["scaler_state"]:
            self.scaler.load_state_dict(state["scaler_state"])
        elif self.scaler.is_enabled():
            logger.warning("%s: was not trained in fp16; the loss scale begins anew", path)

        self.epoch, self.step = state["epoch"], state["step"]
        counters = state["counters"]
        self.unreadable, self.num_skipped_steps = (
            set(counters["unreadable"]),
            counters["num_skipped_steps"],
        )
        vars(self.streak).update(counters["streak"])
        self.validations[:] = state["validations"]

    def _with_own_options(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state of an optimizer, with the options of this one: the config decides, not the file."""
        own, saved = self.optimizer.state_dict()["param_groups"], state["param_groups"]
        if len(own) != len(saved):
            return state  # which torch refuses
        if ("betas" in own[0]) != ("betas" in saved[0]):  # torch would notice at the next step only
            raise ValueError("SOLVER.OPTIMIZING_METHOD is of another kind")
        groups = [
            {**mine, "params": theirs["params"]} for mine, theirs in zip(own, saved, strict=True)
        ]
        return {**state, "param_groups": groups}

    def _reorder_head(self, class_order: Sequence[int]) -> None:
        """Bring the rows of the optimizer's means into the order that those of the head were brought into, if any."""
        for parameter in map(
            self.model.get_parameter, head_names(self.model) if class_order else ()
        ):
            for mean in self.optimizer.state[parameter].values():
                if isinstance(mean, Tensor) and mean.shape == parameter.shape:
                    mean.copy_(mean[[*class_order]])


def check_state(state: dict[str, Any], *, path: str) -> None:
    """Check that the content of a file is all that a run needs to be resumed.

    Raises:
        ValueError: It is not; the message names what is missing, or the version.
    """
    missing = [key for key in REQUIRED if key not in state]
    if "format" in state and state["format"] != FORMAT:
        raise ValueError(
            f"{path}: has format {state['format']!r} of checkpoints, this version reads format {FORMAT}; resume with "
            "the version that wrote it, or start from its weights: TRAIN.CHECKPOINT_FILE_PATH, and another OUTPUT_DIR"
        )
    if missing:
        raise ValueError(
            f"{path}: cannot be resumed: it has no {', '.join(missing)}; to start from its weights alone, use "
            "TRAIN.CHECKPOINT_FILE_PATH and another OUTPUT_DIR"
        )
