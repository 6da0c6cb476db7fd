"""A UniFormer that fails at a step: `--import faulty_model MODEL.MODEL_NAME Faulty`."""

import hashlib
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from slowfast.config import add_section
from slowfast.distributed.collectives import rank
from slowfast.models.build import Model, add_model
from slowfast.models.uniformer_config import build_uniformer

# KIND: none | nan | nan_in_evaluation | raise | memory | kill_worker. The model fails from step
# FIRST to step LAST of epoch 0, in process RANK.
add_section("FAULTY", {"KIND": "nan", "RANK": 0, "FIRST": 1, "LAST": 1, "FOLDER": ""})


class Faulty(nn.Module):
    """A UniFormer that recognizes its step by the seed.

    In evaluation, it writes a checksum of its weights to FOLDER.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.model = build_uniformer(cfg)
        self.fault = cfg.FAULTY
        steps = range(cfg.FAULTY.FIRST, cfg.FAULTY.LAST + 1)
        keys = [(cfg.RNG_SEED, 0, step, cfg.FAULTY.RANK) for step in steps]
        self.seeds = {int(np.random.SeedSequence(key).generate_state(1)[0]) for key in keys}

    def forward(self, frames: Tensor) -> Tensor:
        logits: Tensor = self.model(frames)
        if not self.training and self.fault.FOLDER and logits.device.type == "cpu":
            weights = b"".join(value.numpy().tobytes() for value in self.state_dict().values())
            Path(self.fault.FOLDER, f"rank_{rank()}").write_text(
                hashlib.sha256(weights).hexdigest()
            )
        if not self.training and self.fault.KIND == "nan_in_evaluation":
            logits[::4] = torch.nan
        if self.training and torch.initial_seed() in self.seeds and rank() == self.fault.RANK:
            return self.fail(logits)
        return logits

    def fail(self, logits: Tensor) -> Tensor:
        kind = self.fault.KIND
        if kind == "nan":
            return logits * float("nan")
        if kind == "raise":
            raise ArithmeticError("a fault on purpose")
        if kind == "memory":
            torch.empty(2**50)
        if kind == "kill_worker":
            os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
        return logits


add_model("Faulty", Model(Faulty))
