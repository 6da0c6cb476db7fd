"""Time of a training step with one key changed, over the same step without the change.

`python benchmarks/training.py [--rounds N] [--compile]` runs steps of a small UniFormer on the
device of this machine, in turns in one run. Times on a CPU say little about a GPU, and nothing
about communication between processes.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import _checkout  # noqa: F401  the package of this checkout
import torch

from slowfast.config import load_cfg
from slowfast.datasets.build import build_loader
from slowfast.distributed.collectives import device
from slowfast.engine.build import build_state, build_train_step
from slowfast.preparation.motion import make_motion

REPOSITORY = Path(__file__).parents[1]
WARM_UP_ROUNDS = 2
BASELINE = "nothing changed"
CHANGES = {
    BASELINE: [],
    "again, nothing changed": [],
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


class Variant:
    """A training with some keys changed, and a batch to run its steps on.

    Args:
        folder: Folder with the dataset.
        overrides: Config keys and their values.
    """

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        paths = {
            "DATA.PATH_TO_DATA_DIR": folder,
            "DATA.PATH_PREFIX": folder,
            "DATA.CLASS_NAMES": folder / "classes.txt",
            "OUTPUT_DIR": folder,
        }
        fixed = ["DATA_LOADER.NUM_WORKERS", "0"]
        for key, path in paths.items():
            fixed += [key, str(path)]
        cfg = load_cfg(str(REPOSITORY / "exp/quickstart/config.yaml"), [*fixed, *overrides])

        loader = build_loader(cfg, "train")
        self._batches = next(loader.steps())
        state = build_state(cfg)
        state.model.train()
        self._train_step = build_train_step(cfg, state, num_videos=len(loader.dataset))

    @property
    def batch_megabytes(self) -> float:
        """Size of the frames of a step in MB."""
        return sum(batch.frames.nbytes for batch in self._batches) / 1e6

    def step(self) -> float:
        """Run a step and return its seconds."""
        start = time.perf_counter()
        self._train_step.run(self._batches, lr=1e-4)
        if device().type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def main() -> None:
    """Print a table of ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=9, help="steps of each variant (default: %(default)s)"
    )
    parser.add_argument(
        "--compile", action="store_true", help="add TRAIN.COMPILE, which takes minutes to compile"
    )
    args = parser.parse_args()

    changes = CHANGES | COMPILED if args.compile else CHANGES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_motion(folder, seed=0, videos_per_class={"train": 4, "val": 1, "test": 1})
        variants = {title: Variant(folder, overrides) for title, overrides in changes.items()}

        seconds: dict[str, list[float]] = {title: [] for title in variants}
        for index in range(args.rounds + WARM_UP_ROUNDS):
            for title, variant in variants.items():
                taken = variant.step()
                if index >= WARM_UP_ROUNDS:
                    seconds[title].append(taken)

    print(f"{'':<36}{'step':>9}{'ratio':>8}{'MB a batch':>12}")
    for title, variant in variants.items():
        pairs = zip(seconds[title], seconds[BASELINE], strict=True)
        ratio = statistics.median(one / other for one, other in pairs)
        median = statistics.median(seconds[title])
        print(f"{title:<36}{median:>8.3f}s{ratio:>8.2f}{variant.batch_megabytes:>12.2f}")


if __name__ == "__main__":
    main()
