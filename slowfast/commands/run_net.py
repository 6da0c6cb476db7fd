"""Train and test a video classifier."""

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from slowfast.commands import cli
from slowfast.config import CfgNode, find_problems, load_cfg
from slowfast.distributed import signals
from slowfast.distributed.signals import INTERRUPTED_STATUS
from slowfast.utils import plugins
from slowfast.utils.garbage import postponed_collection
from slowfast.utils.provenance import describe, provenance

UNSCORED_STATUS = 3  # exit status: the test is complete, but some videos have no scores

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the config, start the processes, and return the exit status."""
    with signals.stopping_on_signals():  # also during the slow imports
        args = _make_parser().parse_intermixed_args(arguments)
        return cli.run(lambda: _start(args))


def _make_parser() -> argparse.ArgumentParser:
    parser = cli.make_experiment_parser(__doc__)
    parser.add_argument(
        "--print-config", action="store_true", help="print the effective config and exit"
    )
    parser.add_argument(
        "--init_method",
        default="",
        metavar="URL",
        help="tcp://host:port of shard 0, if NUM_SHARDS is above 1 and no launcher sets it",
    )
    parser.add_argument("--num_shards", type=int, metavar="N", help="same as NUM_SHARDS N")
    parser.add_argument("--shard_id", type=int, metavar="N", help="same as SHARD_ID N")
    return parser


def _start(args: argparse.Namespace) -> int:
    plugins.import_plugins(args.imports)
    overrides = list(args.opts)
    for key, value in (("NUM_SHARDS", args.num_shards), ("SHARD_ID", args.shard_id)):
        overrides += [] if value is None else [key, str(value)]
    if args.print_config:
        print(load_cfg(args.cfg, overrides).dump(), end="")
        return 0

    with postponed_collection():
        from slowfast.datasets import build as datasets
        from slowfast.distributed import launch, launchers
        from slowfast.engine import build_tracking, choose_weights
        from slowfast.engine import compile as compilation
        from slowfast.models import build as models
        from slowfast.models import freezing
        from slowfast.visualization import trackers

    def _find_machine_problems(cfg: CfgNode) -> list[str]:
        return launch.find_problems(
            num_processes=cfg.NUM_GPUS,
            num_shards=cfg.NUM_SHARDS,
            backend=cfg.DIST_BACKEND,
            init_method=args.init_method,
            command=provenance()["command"],
        )

    checks = [
        find_problems,
        compilation.find_problems,
        models.find_problems,
        choose_weights.find_problems,
        datasets.find_problems,
        trackers.find_problems,
        _find_machine_problems,
        _find_output_problems,
    ]
    cfg = load_cfg(
        args.cfg,
        [*launchers.launcher_settings(), *overrides],
        checks=checks,
        final_checks=[freezing.find_problems, build_tracking.find_problems],
    )
    return launch.launch(
        run,
        cfg,
        num_processes=cfg.NUM_GPUS,
        num_shards=cfg.NUM_SHARDS,
        shard_id=cfg.SHARD_ID,
        backend=cfg.DIST_BACKEND,
        init_method=args.init_method,
        num_helpers=cfg.DATA_LOADER.NUM_WORKERS,
        timeout=cfg.DIST_TIMEOUT,
    )


def _find_output_problems(cfg: CfgNode) -> list[str]:
    """Return why the output folder cannot be created or written to, without creating it."""
    path = Path(cfg.OUTPUT_DIR).absolute()
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return []
    reason = "cannot be written to" if nearest.is_dir() else "is a file"
    return [f"OUTPUT_DIR is {cfg.OUTPUT_DIR!r}, but {nearest} {reason}. Choose another folder"]


def run(cfg: CfgNode) -> int:
    """Train, test, or both, in each process of the job, and return the exit status."""
    with postponed_collection():
        from slowfast.distributed.collectives import is_main
        from slowfast.distributed.network_test import check_network
        from slowfast.engine.evaluate import evaluate
        from slowfast.engine.train import train
        from slowfast.utils.progress import start_logging

    start_logging(is_main=is_main())
    if is_main():
        logger.info("%s", describe(provenance()))
    check_network()

    if cfg.TRAIN.ENABLE and not train(cfg):
        return INTERRUPTED_STATUS
    if not cfg.TEST.ENABLE:
        return 0

    result = evaluate(cfg)
    is_readable = not result.num_unreadable or cfg.TEST.ALLOW_UNSCORED
    is_complete = is_readable and not result.num_nonfinite
    return 0 if is_complete else UNSCORED_STATUS
