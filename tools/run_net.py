"""Train and test a video classifier: `python tools/run_net.py --cfg X [KEY VALUE ...]`."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # as Python does, unless told not to
import _cli

from slowfast.distributed import signals

if __name__ == "__main__":
    signals.listen()

from slowfast.config import CfgNode, find_problems, load_cfg
from slowfast.datasets import build as datasets
from slowfast.distributed import launch
from slowfast.distributed.collectives import is_main
from slowfast.distributed.signals import INTERRUPTED_STATUS
from slowfast.engine import ddp
from slowfast.engine.evaluate import evaluate
from slowfast.engine.train import train
from slowfast.models import build as models
from slowfast.utils import plugins
from slowfast.utils.progress import start_logging
from slowfast.utils.provenance import describe, provenance

UNSCORED_STATUS = 3  # exit status of a test that is done, but in which some videos have no scores

logger = logging.getLogger(__name__)


def run(cfg: CfgNode) -> int:
    """Do what the config says, in this process of the job: train, test, or both; return the exit status."""
    start_logging(is_main=is_main())
    if is_main():
        logger.info("%s", describe(provenance()))
    launch.check_network()
    if cfg.TRAIN.ENABLE and not train(cfg):
        return INTERRUPTED_STATUS
    if not cfg.TEST.ENABLE:
        return 0
    result = evaluate(cfg)
    num_unreadable = result.num_videos - result.num_scored - result.num_not_finite
    is_complete = not result.num_not_finite and (not num_unreadable or cfg.TEST.ALLOW_UNSCORED)
    return 0 if is_complete else UNSCORED_STATUS


def find_output_problems(cfg: CfgNode) -> list[str]:
    """Return why the output folder cannot be made or written to, without making it; an empty list if it can."""
    path = Path(cfg.OUTPUT_DIR).absolute()
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return []
    reason = "cannot be written to" if nearest.is_dir() else "is a file"
    return [f"OUTPUT_DIR is {cfg.OUTPUT_DIR!r}, but {nearest} {reason}; choose another folder"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the config, start the processes, and return the exit status."""
    with signals.stopping_on_signals():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cfg", required=True, help="YAML file of the experiment")
    plugins.add_argument(parser)
    parser.add_argument(
        "--print-config", action="store_true", help="print the effective config tree and stop"
    )
    parser.add_argument(
        "--init_method", default="", help="tcp://host:port of shard 0, with NUM_SHARDS above 1"
    )
    parser.add_argument("--num_shards", type=int, help="the same as NUM_SHARDS")
    parser.add_argument("--shard_id", type=int, help="the same as SHARD_ID")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="override config keys")
    args = parser.parse_intermixed_args(arguments)

    overrides = list(args.opts)
    for key, value in (("NUM_SHARDS", args.num_shards), ("SHARD_ID", args.shard_id)):
        overrides += [] if value is None else [key, str(value)]

    def find_machine_problems(cfg: CfgNode) -> list[str]:
        return launch.find_problems(
            num_processes=cfg.NUM_GPUS,
            num_shards=cfg.NUM_SHARDS,
            backend=cfg.DIST_BACKEND,
            init_method=args.init_method,
            command=provenance()["command"],
        )

    checks = [
        find_problems,
        ddp.find_problems,
        models.find_problems,
        datasets.find_problems,
        find_machine_problems,
        find_output_problems,
    ]
    try:
        plugins.import_plugins(args.imports)
        if args.print_config:
            print(load_cfg(args.cfg, overrides).dump(), end="")
            return 0
        cfg = load_cfg(args.cfg, [*launch.settings_of_launcher(), *overrides], checks=checks)
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
    except (ValueError, OSError, FloatingPointError) as error:
        return _cli.report(error)


if __name__ == "__main__":
    sys.exit(main())
