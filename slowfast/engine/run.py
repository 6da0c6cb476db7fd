"""A run: all that the rest of a training depends on, as it is saved and brought back.

Random draws are functions of seed, epoch, step and part of the step, never of what ran before: there is no generator
state to save, and what a run does next does not depend on the number of processes that saved it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.optim import Optimizer

from slowfast.datasets.build import known_class_names
from slowfast.engine.averaging import Average
from slowfast.engine.bad_steps import Streak
from slowfast.engine.optim import amp_dtype, build_optimizer
from slowfast.engine.parallel import compile_blocks
from slowfast.engine.recompute import choose_recomputed
from slowfast.models.build import build_model
from slowfast.models.uniformer import UniFormer
from slowfast.models.weights import fill_weights, head_names
from slowfast.utils.distributed import device

FORMAT = 1  # of a checkpoint of a run; another number is refused
REQUIRED = (  # what a run cannot be resumed without
    *("format", "run_id", "identity", "epoch", "step", "num_parts", "counters", "validations"),
    *("model_state", "optimizer_state", "scaler_state"),
)


@dataclass
class Run:
    """A model, what trains it, and how far it has come."""

    model: nn.Module
    average: Average | None  # of the weights of the model
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    identity: dict[str, Any]  # see `identity_of`
    class_names: list[str]  # empty where they are not known
    allowed_mismatch: list[str]  # see `fill_weights`
    cfg_text: str
    num_parts: int  # batches into which all processes together divide a step
    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the next epoch
    unread: set[int] = field(default_factory=set)  # rows of the training videos that were unreadable in this epoch
    num_bad_steps: int = 0  # skipped so far, because their numbers were not finite
    streak: Streak = field(default_factory=Streak)  # of skipped steps
    validations: list[dict[str, Any]] = field(default_factory=list)  # records, see `Validations`
    run_id: str = ""  # see `slowfast.utils.run_folder`

    @classmethod
    def build(cls, cfg: CfgNode, *, identity: dict[str, Any], num_parts: int) -> "Run":
        """Return a run of random weights at its beginning.

        Args:
            cfg: The config.
            identity: What makes it this run, see `identity_of`.
            num_parts: Number of batches into which all processes together divide a step.
        """
        torch.manual_seed(cfg.RNG_SEED)
        model = build_model(cfg).to(device())
        if cfg.MODEL.CHECKPOINT_AUTO and isinstance(model, UniFormer):
            clips_per_step = cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS * (cfg.AUG.NUM_SAMPLE if cfg.AUG.ENABLE else 1)
            choose_recomputed(cfg, model, num_clips=-(-clips_per_step // num_parts))
        if cfg.TRAIN.COMPILE:
            compile_blocks(model)
        uses_fp16 = amp_dtype(cfg.TRAIN.AMP, device()) is torch.float16
        return cls(
            model=model,
            average=Average(model, decay=cfg.TRAIN.EMA_DECAY) if cfg.TRAIN.EMA_DECAY else None,
            optimizer=build_optimizer(cfg, model),
            scaler=torch.amp.GradScaler(device().type, enabled=uses_fp16),
            identity=identity,
            class_names=known_class_names(cfg),
            allowed_mismatch=cfg.MODEL.ALLOWED_MISMATCH,
            cfg_text=cfg.dump(),
            num_parts=num_parts,
        )

    @property
    def place(self) -> str:
        """How far it has come, for a reader."""
        return f"epoch {self.epoch + 1}, step {self.step + 1}"

    @property
    def models(self) -> list[nn.Module]:
        """The model that is trained and, last, the one with the averaged weights, if there is one."""
        return [self.model] if self.average is None else [self.model, self.average.model]

    def state(self) -> dict[str, Any]:
        """Return all of it as tensors and plain data."""
        average = {"ema_state": self.average.model.state_dict()} if self.average is not None else {}
        return {
            **average,
            "format": FORMAT,
            "run_id": self.run_id,
            "epoch": self.epoch,
            "step": self.step,
            "num_parts": self.num_parts,
            "counters": {
                "unread": sorted(self.unread),
                "num_bad_steps": self.num_bad_steps,
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
        report = fill_weights(self.model, state, path=path, allowed=self.allowed_mismatch, class_names=self.class_names)
        if self.average is not None and "ema_state" in state:
            averaged = {**state, "model_state": state["ema_state"]}
            fill_weights(
                self.average.model, averaged, path=path, allowed=self.allowed_mismatch, class_names=self.class_names
            )
        elif self.average is not None:
            self.average.begin_at(self.model)
        try:
            self.optimizer.load_state_dict(state["optimizer_state"])
            self._reorder_head(report.class_order)
        except ValueError as error:
            raise ValueError(f"{path}: was trained with another optimizer ({error}); use another OUTPUT_DIR") from error
        self.scaler.load_state_dict(state["scaler_state"])

        self.epoch, self.step = state["epoch"], state["step"]
        counters = state["counters"]
        self.unread, self.num_bad_steps = set(counters["unread"]), counters["num_bad_steps"]
        vars(self.streak).update(counters["streak"])
        self.validations[:] = state["validations"]

    def _reorder_head(self, class_order: Sequence[int]) -> None:
        """Bring the rows of the optimizer's means into the order that those of the head were brought into, if any."""
        for parameter in map(self.model.get_parameter, head_names(self.model) if class_order else ()):
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
