"""The published experiments: the table of their settings, and their configs."""

import json
import os
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from slowfast.config import CfgNode, load_cfg

ROOT = Path(__file__).parents[2]

_CASES = json.loads((ROOT / "tests/reference/experiments.json").read_text())
TABLE: dict[str, Any] = {case["exp"]: case for case in _CASES}

# What a user of the scripts may set in the environment.
SCRIPT_VARIABLES = {
    "DATA_DIR",
    "OUTPUT_DIR",
    "PARTITION",
    "SUBMIT",
    "SUBMIT_ARGS",
    "VIDEO_DIR",
    "WEIGHTS",
    "WEIGHTS_DIR",
}


@cache
def load_experiment(exp: str, *overrides: str) -> CfgNode:
    """Return the frozen config of an experiment with some overrides."""
    return load_cfg(str(ROOT / "exp" / exp / "config.yaml"), overrides)


def run_script(
    exp: str, name: str, *overrides: str, folder: Path, environment: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    """Run `run.sh` or `test.sh` of an experiment.

    Args:
        exp: Name of the experiment.
        name: Name of the script.
        overrides: Arguments of the script.
        folder: Working directory, outside the repository.
        environment: Environment variables to set. No other variables of the scripts are set.
    """
    others = {key: value for key, value in os.environ.items() if key not in SCRIPT_VARIABLES}
    return subprocess.run(
        ["bash", str(ROOT / "exp" / exp / name), *overrides],
        env={**others, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
