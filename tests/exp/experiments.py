"""The published experiments: the table of their settings, and their configs."""

import json
import os
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from slowfast.config import CfgNode, load_cfg

ROOT = Path(__file__).parents[2]

_REFERENCE = ROOT / "tests/reference"
_CASES = json.loads((_REFERENCE / "experiments.json").read_text())
# Published settings by experiment: of UniFormer-S and -B, and of the light models.
TABLE: dict[str, Any] = {case["exp"]: case for case in _CASES}
LIGHT_TABLE: dict[str, Any] = {
    exp: case
    for exp, case in json.loads((_REFERENCE / "light_experiments.json").read_text()).items()
    if exp != "_note"
}


class Experiment(NamedTuple):
    """What runs of an experiment need to know."""

    lists: str  # folder of the lists in the repository
    separator: str  # between path and label in a list
    start_weights: str  # published name
    num_classes: int
    num_clips: int  # in a test
    num_crops: int
    is_light: bool


def _describe(case: Mapping[str, Any]) -> Experiment:
    data, train, protocol = case["data"], case["train"], case["test_protocol"]
    return Experiment(
        lists=data["path_to_data_dir"].removeprefix("./"),
        separator=data["label_separator"],
        start_weights=train["pretrain_name"],
        num_classes=train["num_classes_effective"],
        num_clips=protocol["clips"],
        num_crops=protocol["crops"],
        is_light=False,
    )


def _describe_light(case: Mapping[str, Any]) -> Experiment:
    return Experiment(
        lists="data_list/k400",
        separator=",",
        start_weights=case["UNIFORMER"]["PRETRAIN_NAME"],
        num_classes=case["MODEL"]["NUM_CLASSES"],
        num_clips=int(case["overrides"]["TEST.NUM_ENSEMBLE_VIEWS"]),
        num_crops=int(case["overrides"]["TEST.NUM_SPATIAL_CROPS"]),
        is_light=True,
    )


EXPERIMENTS = {exp: _describe(case) for exp, case in TABLE.items()}
EXPERIMENTS |= {exp: _describe_light(case) for exp, case in LIGHT_TABLE.items()}

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
