"""A run: all that the rest of a training depends on, saved, found again, and refused where it is another run's.

Random draws are functions of seed, epoch, step and part of the step, never of what ran before: there is no generator
state to save, and what a run does next does not depend on the number of processes that saved it.
"""

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import simplejson
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.optim import Optimizer

from slowfast.datasets import known_class_names
from slowfast.engine.averaging import Average
from slowfast.engine.optim import amp_dtype, build_optimizer, lr_at
from slowfast.engine.parallel import compile_blocks
from slowfast.engine.recompute import choose_recomputed
from slowfast.models import build_model
from slowfast.models.uniformer import UniFormer
from slowfast.models.weights import fill_weights, head_names
from slowfast.utils.checkpoint import (
    BEST_NAME,
    checkpoint_path,
    checkpoints_of,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from slowfast.utils.distributed import device, from_main, is_main

logger = logging.getLogger(__name__)

# Keys that say where and how fast a run computes, what it shows and when it saves: not what it is.
FREE_KEYS = (
    *("NUM_GPUS", "SHARD_ID", "DIST_BACKEND", "DIST_TIMEOUT", "OUTPUT_DIR", "LOG_PERIOD"),
    *("TRAIN.ENABLE", "TRAIN.EVAL_PERIOD", "TRAIN.AUTO_RESUME", "TRAIN.REHEARSE", "TRAIN.RESUME_WITH_CHANGES"),
    *("TRAIN.STATIC_GRAPH", "TRAIN.GRADIENT_BUCKET_VIEW", "TRAIN.PREFETCH"),
    *("TRAIN.CHECKPOINT_", "TRAIN.SAVE_LATEST", "TRAIN.KEEP_", "TEST.", "TENSORBOARD.", "DATA_LOADER."),
    *("DATA.PATH_", "DATA.LABEL_PATH_TEMPLATE", "DATA.CLASS_NAMES", "DATA.TEST_", "DATA.ENSEMBLE_METHOD"),
    *("DATA.MANIFEST", "DATA.MAX_BAD_FRACTION"),  # what the manifest leaves out shows in the number of videos
    *("MODEL.USE_CHECKPOINT", "MODEL.CHECKPOINT_", "MODEL.WEIGHTS_DIR", "MODEL.ALLOWED_MISMATCH"),
    *("UNIFORMER.PRETRAIN_NAME", "SOLVER.ACCUM_STEPS", "SOLVER.MAX_BAD_STEPS", "SOLVER.FUSED"),
    # What these make together, the batch of a step and its learning rate, is compared instead.
    *("NUM_SHARDS", "TRAIN.BATCH_SIZE", "SOLVER.BASE_LR"),
)


@dataclass
class Run:
    """A model, what trains it, and how far it has come."""

    model: nn.Module
    average: Average | None  # of the weights of the model
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    identity: dict[str, Any]  # what another run would differ in
    class_names: list[str]  # empty where they are not known
    allowed_mismatch: list[str]  # see `fill_weights`
    cfg_text: str
    num_parts: int  # batches into which all processes together divide a step
    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the next epoch
    num_unread: int = 0  # training videos that could not be read in this epoch, over all processes
    num_bad_steps: int = 0  # left out so far, because their numbers were not finite

    @classmethod
    def build(cls, cfg: CfgNode, *, labels: Tensor, num_parts: int) -> "Run":
        """Return a run of random weights at its beginning.

        Args:
            cfg: the config.
            labels: of the training videos, (N,).
            num_parts: of a step, see below.
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
            identity=identity_of(cfg, labels=labels),
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
            "epoch": self.epoch,
            "step": self.step,
            "num_parts": self.num_parts,
            "meters": {"num_unread": self.num_unread, "num_bad_steps": self.num_bad_steps},
            "model_state": self.model.state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "scaler_state": self.scaler.state_dict(),
            "identity": self.identity,
            "class_names": self.class_names,
            "cfg": self.cfg_text,
        }

    def load(self, state: dict[str, Any], *, path: str, may_differ: bool = False) -> None:
        """Go on where a checkpoint is.

        Args:
            state: its content.
            path: of its file, for messages.
            may_differ: go on although it is of another run, with a warning.

        Raises:
            ValueError: it is the checkpoint of another run, or no checkpoint of a training.
        """
        missing = [name for name in ("epoch", "optimizer_state", "scaler_state") if name not in state]
        if missing:
            raise ValueError(f"{path}: cannot be resumed from, it has no {', '.join(missing)}; use another OUTPUT_DIR")
        self._compare(state.get("identity", {}), path=path, may_differ=may_differ)
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
        self.epoch, self.step = int(state["epoch"]), int(state.get("step", 0))
        meters = state.get("meters", {})
        self.num_unread, self.num_bad_steps = meters.get("num_unread", 0), meters.get("num_bad_steps", 0)

    def _reorder_head(self, class_order: Sequence[int]) -> None:
        """Bring the rows of the optimizer's means into the order that those of the head were brought into, if any."""
        for parameter in map(self.model.get_parameter, head_names(self.model) if class_order else ()):
            for mean in self.optimizer.state[parameter].values():
                if isinstance(mean, Tensor) and mean.shape == parameter.shape:
                    mean.copy_(mean[[*class_order]])

    def _compare(self, other: dict[str, Any], *, path: str, may_differ: bool) -> None:
        changed = [key for key in self.identity if key in other and self.identity[key] != other[key]]
        if not changed:
            return
        differences = [f"{key}: {other[key]!r} there, {self.identity[key]!r} here" for key in changed]
        if not may_differ:
            raise ValueError(
                "\n    ".join([f"{path} is of another run:", *differences])
                + "\n    use another OUTPUT_DIR to begin anew, the same settings to go on, or "
                "TRAIN.RESUME_WITH_CHANGES True to go on with the new ones"
            )
        logger.warning("%s", "\n    ".join([f"going on from {path} with changes:", *differences]))


def identity_of(cfg: CfgNode, *, labels: Tensor) -> dict[str, Any]:
    """Return what makes a run the one it is: its settings but FREE_KEYS, its list, its batch and its learning rate."""
    settings = {key: value for key, value in _flatten(cfg) if not key.startswith(FREE_KEYS)}
    return settings | {
        "training videos": len(labels),
        "checksum of their labels": zlib.crc32(labels.numpy().tobytes()),
        "videos per step (TRAIN.BATCH_SIZE * NUM_SHARDS)": cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS,
        "learning rate at first and after the warm-up (SOLVER.BASE_LR, NUM_SHARDS)": [
            lr_at(cfg, epoch) for epoch in (0, cfg.SOLVER.WARMUP_EPOCHS)
        ],
    }


def _flatten(tree: CfgNode, prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in tree.items():
        pairs += _flatten(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else [(f"{prefix}{name}", value)]
    return pairs


def newest_state(output_dir: str) -> tuple[dict[str, Any], Path] | None:
    """Return the content and the path of a run's newest checkpoint that is whole; None if it has none at all.

    All processes take the same one. A damaged checkpoint is named, and the one before it is taken.

    Raises:
        ValueError: there are checkpoints, but all of them are damaged.
    """
    path, state, damage = None, None, ""
    for path in checkpoints_of(output_dir) if is_main() else []:
        try:
            state = load_checkpoint(path)
            break
        except ValueError as error:
            damage = str(error)
            logger.warning("%s; going back to the checkpoint before it", error)
    path, damage = from_main((path if state is not None else None, damage))
    if path is None:
        if damage:
            raise ValueError(f"{output_dir}/checkpoints: no checkpoint is whole; {damage}")
        return None
    return (state if state is not None else load_checkpoint(path)), path


class Saver:
    """Writes the checkpoints of a run, and deletes old ones.

    Args:
        output_dir: of the run.
        minutes: between two checkpoints within an epoch; 0: none.
        keep_last: see `prune_checkpoints`.
        keep_every: see `prune_checkpoints`.
    """

    def __init__(self, output_dir: str, *, minutes: float, keep_last: int, keep_every: int) -> None:
        self._output_dir = output_dir
        self._seconds = 60 * minutes
        self._keep_last = keep_last
        self._keep_every = keep_every
        self._saved_at = monotonic()

    def is_due(self) -> bool:
        """Whether so much time has passed that the main process saves; in the others, never."""
        return is_main() and self._seconds > 0 and monotonic() - self._saved_at >= self._seconds

    def save(self, run: Run) -> None:
        """Write a checkpoint of a run, if this is the main process.

        Raises:
            OSError: it cannot be written.
        """
        if not is_main():
            return
        path = checkpoint_path(self._output_dir, epoch=run.epoch, step=run.step)
        save_checkpoint(path, run.state())
        self._saved_at = monotonic()
        prune_checkpoints(self._output_dir, keep_last=self._keep_last, keep_every=self._keep_every)
        logger.info("saved %s", path)

    def save_best(self, run: Run) -> None:
        """Write best.pyth, if this is the main process."""
        if is_main():
            save_checkpoint(Path(self._output_dir, BEST_NAME), run.state())


class Validations:
    """The accuracies of a run after some of its epochs: OUTPUT_DIR/validation.json, a list of records.

    Args:
        output_dir: of the run.
    """

    def __init__(self, output_dir: str) -> None:
        self._path = Path(output_dir, "validation.json")
        records = simplejson.loads(self._path.read_text()) if is_main() and self._path.exists() else []
        self.records: list[dict[str, float]] = from_main(records)

    def has(self, epoch: int) -> bool:
        """Whether there is a record after so many finished epochs."""
        return any(record["epoch"] == epoch for record in self.records)

    def forget_after(self, epoch: int) -> None:
        """Drop the records of epochs that a run that goes on after `epoch` finished epochs will do again."""
        self.records = [record for record in self.records if record["epoch"] <= epoch]

    def is_best(self, top1: float) -> bool:
        """Whether a top-1 is higher than all of the records."""
        return all(top1 > record["top1"] for record in self.records)

    def add(self, **record: float) -> None:
        """Add a record: epoch (how many are finished), top1, top5."""
        self.records.append(record)
        if is_main():
            unfinished = self._path.with_suffix(".unfinished")
            unfinished.write_text(simplejson.dumps(self.records, indent=1) + "\n")
            unfinished.replace(self._path)
