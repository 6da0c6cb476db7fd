"""Seconds of a training step with one key changed, over those of the same step without, in turns in one run.

`python benchmarks/training.py [--rounds N] [--compile]` takes steps of a small UniFormer on this machine's device. What
is measured on a CPU says little of a GPU, and nothing of what travels between processes.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import _cli  # noqa: F401  the package of this checkout
import torch

from slowfast.config import load_cfg
from slowfast.datasets.build import build_loader
from slowfast.distributed.collectives import device
from slowfast.engine.build import build_state, build_train_step
from slowfast.engine.unreadable_videos import UnreadableVideos
from slowfast.preparation.motion import make_motion

REPOSITORY = Path(__file__).parents[1]
CHANGES = {
    "TRAIN.EMA_DECAY 0.999": ["TRAIN.EMA_DECAY", "0.999"],
    "SOLVER.LAYER_DECAY 0.8": ["SOLVER.LAYER_DECAY", "0.8"],
    "SOLVER.FUSED False": ["SOLVER.FUSED", "False"],
    "DATA.UINT8 True": ["DATA.UINT8", "True"],
    "MODEL.CHECKPOINT_NUM, all blocks": [
        "MODEL.USE_CHECKPOINT",
        "True",
        "MODEL.CHECKPOINT_NUM",
        "[1,1,2,1]",
    ],
    "TRAIN.AMP bf16": ["TRAIN.AMP", "bf16"],
}
COMPILED = {"TRAIN.COMPILE True": ["TRAIN.COMPILE", "True"]}


class Way:
    """A run with some settings, and a batch on which it takes steps."""

    def __init__(self, folder: Path, settings: list[str]) -> None:
        place = [
            "DATA.PATH_TO_DATA_DIR",
            str(folder),
            "DATA.PATH_PREFIX",
            str(folder),
            "OUTPUT_DIR",
            str(folder),
        ]
        fixed = [
            *place,
            "DATA.CLASS_NAMES",
            str(folder / "classes.txt"),
            "DATA_LOADER.NUM_WORKERS",
            "0",
        ]
        cfg = load_cfg(str(REPOSITORY / "exp/quickstart/config.yaml"), [*fixed, *settings])
        loader = build_loader(cfg, "train")
        self.parts = next(loader.steps())
        run = build_state(cfg, identity={}, num_parts=1)
        run.model.train()
        unreadable = UnreadableVideos(len(loader.dataset), max_fraction=0)
        self.taker = build_train_step(cfg, run, unreadable=unreadable)

    def step(self) -> float:
        """Take a step; returns its seconds."""
        start = time.perf_counter()
        self.taker.take(self.parts, lr=1e-4)
        if device().type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def main() -> None:
    """Print a table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="steps of each way, in turns")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="TRAIN.COMPILE as well, which takes minutes to compile",
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_motion(folder, seed=0, videos_per_class={"train": 4, "val": 1, "test": 1})
        changes = CHANGES | (COMPILED if args.compile else {})
        ways = {"nothing changed": Way(folder, []), "again, nothing changed": Way(folder, [])}
        ways |= {title: Way(folder, settings) for title, settings in changes.items()}
        seconds: dict[str, list[float]] = {title: [] for title in ways}
        for number in range(args.rounds + 2):
            for title, way in ways.items():
                taken = way.step()
                if number >= 2:  # warm
                    seconds[title].append(taken)
        print(f"{'':<36}{'step':>9}{'ratio':>8}{'MB a batch':>12}")
        for title, way in ways.items():
            pairs = zip(seconds[title], seconds["nothing changed"], strict=True)
            ratio = statistics.median(one / other for one, other in pairs)
            megabytes = sum(part.frames.nbytes for part in way.parts) / 1e6
            print(
                f"{title:<36}{statistics.median(seconds[title]):>8.3f}s{ratio:>8.2f}{megabytes:>12.2f}"
            )


if __name__ == "__main__":
    main()
