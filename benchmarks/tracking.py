"""Cost of TensorBoard and other trackers per training step, against a training without any.

`python benchmarks/tracking.py DATA [--runs N] [--epochs N] [--only VARIANT ...]` trains the
quickstart on the embedded dataset in DATA (`slowfast make-motion DATA`), with a record every 10
steps, and lets the variants take turns: scalars in TensorBoard alone, with its figures, with
histograms of weights and activations, and its figures with all other trackers. The table gives
the seconds of a step, the median of each run, and the CPU time of the whole command with its loader
workers. The ratios are of the minima of the runs.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "exp/quickstart/config.yaml"
WARM_UP_EPOCHS = 1  # whose steps are not counted

ON = {"TENSORBOARD.ENABLE": "True"}
VARIANTS: dict[str, dict[str, str]] = {
    "none": {},
    "scalars": {
        **ON,
        "TENSORBOARD.TRAIN_CLIPS": "0",
        "TENSORBOARD.CONFUSION_MATRIX.ENABLE": "False",
        "TENSORBOARD.WRONG_PRED_VIS.ENABLE": "False",
    },
    "figures": ON,  # the default of TensorBoard
    "histograms": {
        **ON,
        "TENSORBOARD.HISTOGRAM.ENABLE": "True",
        "TENSORBOARD.MODEL_VIS.ENABLE": "True",
        "TENSORBOARD.MODEL_VIS.MODEL_WEIGHTS": "True",
        "TENSORBOARD.MODEL_VIS.ACTIVATIONS": "True",
    },
    "trackers": {**ON, "TRACKERS.NAMES": "[jsonl,mlflow,trackio,wandb]"},
}


class Cost(NamedTuple):
    """Seconds of a training."""

    step: float  # median of the steps
    cpu: float  # of the command and its children


def measure(variant: dict[str, str], data: Path, *, num_epochs: int) -> Cost:
    """Train once, and return what it takes.

    Raises:
        subprocess.CalledProcessError: If the training fails.
    """
    with tempfile.TemporaryDirectory(prefix="tracking_") as folder:
        settings = {
            "DATA.PATH_TO_DATA_DIR": str(data),
            "DATA.PATH_PREFIX": str(data),
            "DATA.CLASS_NAMES": str(data / "classes.txt"),
            "OUTPUT_DIR": folder,
            "LOG_PERIOD": "10",
            "SOLVER.MAX_EPOCH": str(num_epochs),
            "TRAIN.EVAL_PERIOD": str(num_epochs),
            "TRAIN.CHECKPOINT_PERIOD": str(num_epochs),
            "TRAIN.REHEARSE": "False",
            "TEST.ENABLE": "False",
            **variant,
        }
        command = [sys.executable, "tools/run_net.py", "--cfg", CONFIG]
        command += [word for pair in settings.items() for word in pair]
        before = os.times()
        subprocess.run(
            command,
            cwd=ROOT,
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"},
            stdout=subprocess.DEVNULL,
        )
        after = os.times()
        cpu = after.children_user - before.children_user
        cpu += after.children_system - before.children_system
        return Cost(median(_read_steps(Path(folder, "stdout.log"))), cpu)


def _read_steps(log: Path) -> list[float]:
    records = [json.loads(text) for text in re.findall(r"json_stats: (\{.*\})", log.read_text())]
    return [
        record["step_seconds"]
        for record in records
        if record["_type"] == "train_step" and record["epoch"] > WARM_UP_EPOCHS
    ]


def print_table(measured: dict[str, list[Cost]]) -> None:
    """Print the minima and the medians of the runs, and the ratios of the minima."""
    print(
        f"{'variant':12}{'ms/step min':>12}{'median':>8}{'ratio':>7}{'CPU s min':>11}{'ratio':>7}"
    )
    plain = [min(values) for values in zip(*measured["none"], strict=True)]
    for name, costs in measured.items():
        steps, cpus = zip(*costs, strict=True)
        ratios = min(steps) / plain[0], min(cpus) / plain[1]
        print(
            f"{name:12}{1e3 * min(steps):12.1f}{1e3 * median(steps):8.1f}{ratios[0]:7.3f}"
            f"{min(cpus):11.1f}{ratios[1]:7.3f}"
        )


def main() -> None:
    """Measure interleaved runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the embedded dataset")
    parser.add_argument("--runs", type=int, default=3, help="runs of each variant (default: 3)")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of a run (default: 4)")
    parser.add_argument(
        "--only", nargs="+", choices=[*VARIANTS][1:], default=[*VARIANTS][1:], help="variants"
    )
    args = parser.parse_args()
    if args.epochs <= WARM_UP_EPOCHS:
        parser.error(f"argument --epochs: use more than {WARM_UP_EPOCHS}")

    measured: dict[str, list[Cost]] = {name: [] for name in ("none", *args.only)}
    for _ in range(args.runs):
        for name in measured:
            cost = measure(VARIANTS[name], args.data.resolve(), num_epochs=args.epochs)
            measured[name].append(cost)
    print_table(measured)


if __name__ == "__main__":
    main()
