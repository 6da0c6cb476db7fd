"""Training state: everything that a run depends on, as a checkpoint saves and restores it.

Random draws are functions of the seed, the epoch, the step and the micro-batch, never of what ran
before. There is no generator state to save, and what a run does next does not depend on the number
of processes that saved it.
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
from slowfast.models.freezing import frozen_parameters
from slowfast.models.weights import fill_weights, head_names
from slowfast.runs.position import Position
from slowfast.utils.text import count

logger = logging.getLogger(__name__)

FORMAT = 1  # Version of training checkpoints. Any other version is refused.
REQUIRED_KEYS = (
    "format",
    "run_id",
    "identity",
    "epoch",
    "step",
    "num_micro_batches",
    "counters",
    "validations",
    "model_state",
    "optimizer_state",
    "scaler_state",
)


@dataclass
class TrainingState:
    """A model, what trains it, and the position of the run."""

    model: nn.Module
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    ema: ModelEma | None = None
    run_id: str = ""  # see `slowfast.engine.run_folder`
    identity: dict[str, Any] = field(default_factory=dict)  # see `slowfast.engine.identity`
    class_names: list[str] = field(default_factory=list)  # empty if they are not known
    allowed_mismatch: list[str] = field(default_factory=list)  # see `fill_weights`
    cfg_text: str = ""
    num_micro_batches: int = 1  # per step, over all processes
    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the next epoch
    unreadable: set[int] = field(default_factory=set)  # rows of this epoch's unreadable videos
    num_skipped_steps: int = 0  # since the run began
    streak: Streak = field(default_factory=Streak)
    validations: list[dict[str, Any]] = field(default_factory=list)  # see `Validations`
    steps_per_epoch: int = 0
    tracker_records: dict[str, str] = field(default_factory=dict)  # their IDs, see `Trackers`

    @property
    def position(self) -> Position:
        """The finished epochs, and the finished steps of the next one."""
        return Position(self.epoch, self.step)

    @property
    def num_steps(self) -> int:
        """Finished steps since the run began."""
        return self.epoch * self.steps_per_epoch + self.step

    @property
    def models(self) -> list[nn.Module]:
        """The model in training and, if there is one, its moving average."""
        return [self.model] if self.ema is None else [self.model, self.ema.model]

    def evaluated_model(self, *, use_ema: bool) -> nn.Module:
        """Return the model to validate and test: the moving average if it is wanted and exists."""
        return self.models[-1] if use_ema else self.model

    def finish_epoch(self) -> None:
        """Move on to the first step of the next epoch."""
        self.epoch += 1
        self.step = 0
        self.unreadable = set()

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state as tensors and plain data, the content of a checkpoint."""
        ema = {} if self.ema is None else {"ema_state": self.ema.model.state_dict()}
        return {
            **ema,
            "format": FORMAT,
            "run_id": self.run_id,
            "identity": self.identity,
            "epoch": self.epoch,
            "step": self.step,
            "num_micro_batches": self.num_micro_batches,
            "counters": {
                "unreadable": sorted(self.unreadable),
                "num_skipped_steps": self.num_skipped_steps,
                "streak": asdict(self.streak),
            },
            "validations": self.validations,
            "steps_per_epoch": self.steps_per_epoch,
            "tracker_records": dict(self.tracker_records),
            "frozen": frozen_parameters(self.model),
            "model_state": self.model.state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "scaler_state": self.scaler.state_dict(),
            "class_names": self.class_names,
            "cfg": self.cfg_text,
        }

    def load_state_dict(self, state: dict[str, Any], *, path: str) -> None:
        """Restore what `state_dict` returned, in this process or another one.

        Args:
            state: Content of a checkpoint.
            path: Path of the checkpoint, for messages.

        Raises:
            ValueError: If the checkpoint cannot be resumed, or has another model or optimizer.
        """
        check_state(state, path=path)
        self._check_frozen(state, path=path)
        class_order = self._load_models(state, path=path)

        try:
            self.optimizer.load_state_dict(self._with_own_options(state["optimizer_state"]))
            self._reorder_head(class_order)
        except ValueError as error:
            raise ValueError(
                f"{path}: was trained with another optimizer ({error}). Use another OUTPUT_DIR"
            ) from error

        if state["scaler_state"]:
            self.scaler.load_state_dict(state["scaler_state"])
        elif self.scaler.is_enabled():
            logger.warning("%s: was not trained in fp16. The loss scale starts afresh", path)

        counters = state["counters"]
        self.epoch, self.step = state["epoch"], state["step"]
        self.unreadable = set(counters["unreadable"])
        self.num_skipped_steps = counters["num_skipped_steps"]
        vars(self.streak).update(counters["streak"])
        self.validations[:] = state["validations"]
        self.tracker_records.update(state.get("tracker_records", {}))  # absent from older ones

    def _check_frozen(self, state: dict[str, Any], *, path: str) -> None:
        """Check that a checkpoint holds the optimizer's moments of the weights to train."""
        own = frozen_parameters(self.model)
        frozen = state.get("frozen", own)  # absent from older checkpoints
        if frozen != own:
            raise ValueError(
                f"{path}: was trained with {count(len(frozen), 'parameter')} frozen, but here "
                f"{len(own)} are, or others. MODEL.FREEZE stays the same within a run. To start "
                "from its weights alone, use TRAIN.CHECKPOINT_FILE_PATH and another OUTPUT_DIR"
            )

    def _load_models(self, state: dict[str, Any], *, path: str) -> Sequence[int]:
        """Load the weights of the model and its moving average. Return the order of the classes."""

        def fill(model: nn.Module, weights: dict[str, Any]) -> Sequence[int]:
            report = fill_weights(
                model,
                {**state, "model_state": weights},
                path=path,
                allowed=self.allowed_mismatch,
                class_names=self.class_names,
            )
            return report.class_order

        class_order = fill(self.model, state["model_state"])
        if self.ema is not None and "ema_state" in state:
            fill(self.ema.model, state["ema_state"])
        elif self.ema is not None:
            self.ema.reset(self.model)
        return class_order

    def _with_own_options(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return an optimizer state with the options of this optimizer, as the config decides."""
        own_groups = self.optimizer.state_dict()["param_groups"]
        saved_groups = state["param_groups"]
        if len(own_groups) != len(saved_groups):
            return state  # torch refuses it
        if ("betas" in own_groups[0]) != ("betas" in saved_groups[0]):
            # Torch would notice only in the next step.
            raise ValueError("SOLVER.OPTIMIZING_METHOD is of another kind")

        groups = [
            {**own, "params": saved["params"]}
            for own, saved in zip(own_groups, saved_groups, strict=True)
        ]
        return {**state, "param_groups": groups}

    def _reorder_head(self, class_order: Sequence[int]) -> None:
        """Reorder the optimizer's moments of the head as its classes were reordered."""
        if not class_order:
            return
        for name in head_names(self.model):
            parameter = self.model.get_parameter(name)
            for moment in self.optimizer.state.get(parameter, {}).values():  # none if frozen
                if isinstance(moment, Tensor) and moment.shape == parameter.shape:
                    moment.copy_(moment[[*class_order]])


def check_state(state: dict[str, Any], *, path: str) -> None:
    """Check that a run can be resumed from the content of a checkpoint.

    Raises:
        ValueError: If it cannot. The message names the missing keys or the version.
    """
    if "format" in state and state["format"] != FORMAT:
        raise ValueError(
            f"{path}: has checkpoint format {state['format']!r}, but this version reads format "
            f"{FORMAT}. Resume with the version that wrote it, or start from its weights with "
            "TRAIN.CHECKPOINT_FILE_PATH and another OUTPUT_DIR"
        )

    missing = [key for key in REQUIRED_KEYS if key not in state]
    if missing:
        raise ValueError(
            f"{path}: cannot be resumed: it has no {', '.join(missing)}. To start from its weights "
            "alone, use TRAIN.CHECKPOINT_FILE_PATH and another OUTPUT_DIR"
        )
