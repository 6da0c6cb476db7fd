"""A dress rehearsal: all that a run will do at its end is done once, on little data, before it begins."""

import copy
import logging
import shutil
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np
from fvcore.common.config import CfgNode

from slowfast.datasets import VideoLoader, build_annotations, build_loader
from slowfast.engine.evaluate import score_split, summarise, write_result
from slowfast.engine.optim import lr_at
from slowfast.engine.run import Run
from slowfast.engine.step import StepTaker
from slowfast.utils.checkpoint import load_checkpoint, save_checkpoint
from slowfast.utils.distributed import is_main, wait_for_all, world_size

logger = logging.getLogger(__name__)

NUM_STEPS = 2
VIDEOS_PER_PROCESS = 4  # of validation and test: one that cannot be read is no reason to stop


def rehearse(cfg: CfgNode, run: Run, taker: StepTaker, loader: VideoLoader) -> None:
    """Train two steps, save, load, validate, test and write the result, each as the run will; then forget it all.

    Args:
        cfg: the config.
        run: at its beginning, where it is again afterwards.
        taker: of its steps.
        loader: of the training videos.

    Raises:
        Exception: whatever the run would have raised, hours later.
    """
    start = perf_counter()
    beginning = copy.deepcopy(run.state())
    folder = Path(cfg.OUTPUT_DIR, "rehearsal")
    try:
        _train(cfg, run, taker, loader)
        path = folder / "checkpoint.pyth"
        if is_main():
            save_checkpoint(path, run.state())
        wait_for_all()
        run.load(load_checkpoint(path), path=str(path))
        for split in ["val", "test"] if cfg.TEST.ENABLE else ["val"]:
            _evaluate(cfg, run, split, folder=folder)
        wait_for_all()
    finally:
        if is_main():
            shutil.rmtree(folder, ignore_errors=True)
    run.load(beginning, path="the state before the rehearsal")
    logger.info("rehearsed training, checkpoint, validation and test in %.1f s", perf_counter() - start)


def _train(cfg: CfgNode, run: Run, taker: StepTaker, loader: VideoLoader) -> None:
    run.model.train()
    loader.set_epoch(0)
    for parts in islice(loader.steps(), NUM_STEPS):
        taker.take(parts, lr=lr_at(cfg, 0))
    taker.settle()


def _evaluate(cfg: CfgNode, run: Run, split: str, *, folder: Path) -> None:
    annotations = build_annotations(cfg, split)
    count = min(VIDEOS_PER_PROCESS * world_size(), len(annotations))
    some = annotations.select(np.linspace(0, len(annotations) - 1, count).astype(np.int64))
    loader = build_loader(cfg, split, annotations=some)
    table = score_split(cfg, run.models[-1] if cfg.TEST.EMA else run.model, loader, title=f"rehearse {split}")
    result = summarise(table, loader.labels)
    if is_main():
        write_result(folder / split, result, table=table, labels=loader.labels, weights="rehearsal")
