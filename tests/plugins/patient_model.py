"""A UniFormer whose steps take as long as PACE says, so that a signal comes in the middle of an epoch.

PACE: seconds of a step after the first start of a job, after the second, ...; the last holds for all further ones.
"""

import os
import time

from fvcore.common.config import CfgNode
from torch import nn

from slowfast.models.build import Model, add_model
from slowfast.models.uniformer import build_uniformer


def build(cfg: CfgNode) -> nn.Module:
    """Return a UniFormer that rests before each step."""
    paces = [float(seconds) for seconds in os.environ.get("PACE", "0").split(",")]
    start = min(int(os.environ.get("SLURM_RESTART_COUNT", 0)), len(paces) - 1)

    def rest(model: nn.Module, inputs: object) -> None:
        if model.training:
            time.sleep(paces[start])

    model = build_uniformer(cfg)
    model.register_forward_pre_hook(rest)
    return model


add_model("Patient", Model(build))
