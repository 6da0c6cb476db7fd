"""A UniFormer with slow steps, so that a signal arrives in the middle of an epoch.

The environment variable PACE lists the seconds of a step, one number per start of the job. The last
number holds for all later starts.
"""

import os
import time

from fvcore.common.config import CfgNode
from torch import nn

from slowfast.models.build import Model, add_model
from slowfast.models.uniformer_config import build_uniformer


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
