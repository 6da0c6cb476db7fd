"""Settings of a run with frozen parts, and a check of its end."""

from typing import Any

import torch

from slowfast.config import CfgNode
from slowfast.engine.build import build_state

# A frozen start, a block and a BatchNorm among trained ones, and single parameters.
PATTERNS = ["patch_embed1", "blocks1", "blocks3.0", "blocks2.0.norm1", "norm", "head.bias"]

# Everything that could change a weight without a gradient.
SETTINGS: dict[str, Any] = {
    "MODEL__FREEZE": PATTERNS,
    "UNIFORMER__DEPTH": "[1,1,2,1]",
    "UNIFORMER__DROPOUT_RATE": 0.1,
    "SOLVER__BASE_LR": 0.05,
    "SOLVER__WEIGHT_DECAY": 0.5,
    "SOLVER__LAYER_DECAY": 0.8,
    "BN__WEIGHT_DECAY": 0.5,
    "BN__USE_PRECISE_STATS": True,
    "BN__NUM_BATCHES_PRECISE": 2,
    "TRAIN__EMA_DECAY": 0.9,
    "TRAIN__EVAL_PERIOD": 1,
}


def is_frozen_name(name: str) -> bool:
    return name == "head.bias" or any(name.startswith(f"{pattern}.") for pattern in PATTERNS)


def check_end(cfg: CfgNode, state: dict[str, Any]) -> None:
    """Check the end of a run against the random weights that it starts from."""
    start = build_state(cfg).model.state_dict()
    weights, ema = state["model_state"], state["ema_state"]
    assert any(name.endswith("running_var") for name in filter(is_frozen_name, start))
    for name, tensor in start.items():
        is_equal = torch.equal(weights[name], tensor)
        assert is_equal == is_frozen_name(name), name
        assert torch.equal(ema[name], weights[name]) == (
            is_frozen_name(name) or name.endswith("num_batches_tracked")
        ), name
