"""Light UniFormers of the published experiments, and one small enough for quick tests."""

import json
from pathlib import Path
from typing import Any

from slowfast.models.uniformer_light import UniFormerLight

REFERENCE = Path(__file__).parents[1] / "reference"
EXPERIMENTS: dict[str, Any] = json.loads((REFERENCE / "light_experiments.json").read_text())
del EXPERIMENTS["_note"]

# Two of three blocks of stage 3 and one of stage 4 are pruned.
TINY: dict[str, Any] = {
    "num_classes": 5,
    "dims": (8, 8, 16, 16),
    "depths": (1, 1, 3, 1),
    "head_dim": 8,
}


def light_model(experiment: str, *, model_name: str, num_classes: int, **more: Any) -> Any:
    """Return the model of a published experiment, under another name."""
    settings = EXPERIMENTS[experiment]["UNIFORMER"]
    return UniFormerLight(
        num_classes=num_classes,
        dims=settings["EMBED_DIM"],
        depths=settings["DEPTH"],
        head_dim=settings["HEAD_DIM"],
        mlp_ratio=settings["MLP_RATIO"],
        keep_ratios=settings["PRUNE_RATIO"],
        trade_offs=settings["TRADE_OFF"],
        in_float32="fp32" in model_name,
        init_value=0.1 if "_ls_" in model_name else None,
        **more,
    )
