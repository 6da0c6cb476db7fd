"""Extract the features of videos.

WEIGHTS is a checkpoint or another file of weights, the OUTPUT_DIR of a run, an exported folder, a
published name, or hf:org/name. The views, the forward passes and the precision are those of the
test of the config, so the features are what the head sees in the test. The videos are those of a
split. Its folder gets safetensors shards and index.parquet, see docs/probes.md.

If the command is killed, the same command continues.

Exit status: 0 all videos have features, 1 failed, 2 wrong usage, 3 some videos are unreadable or
have features that are not finite.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slowfast.commands import cli
from slowfast.config import CfgNode, find_problems, load_cfg, parse_cfg
from slowfast.distributed import signals
from slowfast.preparation.splits import SPLITS
from slowfast.utils import plugins
from slowfast.utils.provenance import describe, provenance
from slowfast.utils.text import count

if TYPE_CHECKING:
    from slowfast.inference.feature_plan import Extraction, ExtractionCounts

INCOMPLETE_STATUS = 3  # exit status: some videos have no features
MAX_NAMED = 10  # videos without features that are named

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Extract the features and return the exit status."""
    with signals.stopping_on_signals():  # also during the slow imports
        words = cli.repeat_option(arguments, "--split", SPLITS)
        args = _make_parser().parse_intermixed_args(words)
        return cli.run(lambda: _start(args))


def _make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    parser.add_argument("weights", metavar="WEIGHTS", help="trained model")
    parser.add_argument(
        "--cfg",
        metavar="FILE",
        help="YAML file of the experiment (default: the config in the weights)",
    )
    parser.add_argument(
        "--split",
        action="append",
        choices=SPLITS,
        help="splits whose lists are read, one or more of train, val, test (default: test)",
    )
    parser.add_argument(
        "--stage",
        type=cli.number(int, least=1),
        metavar="N",
        help="stage of the model, from 1 (default: the input of the last layer)",
    )
    parser.add_argument(
        "--tokens",
        action="store_true",
        help="all tokens of a view, as attentive heads need them (default: one vector)",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--per-clip",
        dest="per",
        action="store_const",
        const="clip",
        help="one feature per temporal clip, the mean over its crops (default: one per view)",
    )
    group.add_argument(
        "--per-video",
        dest="per",
        action="store_const",
        const="video",
        help="one feature per video, the mean over its views",
    )
    parser.add_argument(
        "--out",
        type=cli.path,
        metavar="DIR",
        help="folder with a folder for each split (default: features, in the folder of the run or, "
        "with --cfg, in its OUTPUT_DIR)",
    )
    parser.add_argument(
        "--best", action="store_true", help="best.pyth of a run (default: its newest checkpoint)"
    )
    plugins.add_argument(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to override")
    return parser


def _start(args: argparse.Namespace) -> int:
    plugins.import_plugins(args.imports)

    from slowfast.distributed import launch, launchers
    from slowfast.inference.feature_plan import Extraction
    from slowfast.models import build as models
    from slowfast.trained import find_config, find_file

    def _find_machine_problems(cfg: CfgNode) -> list[str]:
        return launch.find_problems(
            num_processes=cfg.NUM_GPUS,
            num_shards=cfg.NUM_SHARDS,
            backend=cfg.DIST_BACKEND,
            init_method="",
            command=provenance()["command"],
        )

    overrides = [*launchers.launcher_settings(), *args.opts, "TRAIN.ENABLE", "False"]
    checks = [find_problems, models.find_problems, _find_machine_problems]
    if args.cfg:
        cfg = load_cfg(args.cfg, overrides, checks=checks)
    else:
        text = find_config(args.weights, best=args.best).dump()
        cfg = parse_cfg(text, overrides, origin=args.weights, checks=checks)

    weights = find_file(args.weights, best=args.best)
    out = _choose_folder(args, output_dir=cfg.OUTPUT_DIR)
    extractions = [
        Extraction(
            weights,
            out / split,
            split=split,
            stage=args.stage,
            tokens=args.tokens,
            per=args.per or "view",
        )
        for split in dict.fromkeys(args.split or ["test"])
    ]
    return launch.launch(
        _build_features,
        cfg,
        extractions,
        num_processes=cfg.NUM_GPUS,
        num_shards=cfg.NUM_SHARDS,
        shard_id=cfg.SHARD_ID,
        backend=cfg.DIST_BACKEND,
        num_helpers=cfg.DATA_LOADER.NUM_WORKERS,
        timeout=cfg.DIST_TIMEOUT,
    )


def _choose_folder(args: argparse.Namespace, *, output_dir: str) -> Path:
    """Return the folder of the features.

    The OUTPUT_DIR in weights may be a folder of somebody else, so it is never the default.
    """
    if args.out:
        return Path(args.out)
    if args.cfg:
        return Path(output_dir, "features")
    folder = Path(args.weights).expanduser()
    if not folder.is_dir():
        raise cli.UsageError(
            f"{args.weights}: is not the folder of a run. Name the folder of features with --out"
        )
    return folder / "features"


def _build_features(cfg: CfgNode, extractions: "Sequence[Extraction]") -> int:
    """Extract the features of each split, in each process, and return the exit status."""
    from slowfast.distributed.collectives import is_main
    from slowfast.inference.feature_extraction import build_features
    from slowfast.utils.progress import start_logging

    start_logging(is_main=is_main())
    if is_main():
        logger.info("%s", describe(provenance()))

    is_complete = True
    for extraction in extractions:
        counts = build_features(cfg, extraction)
        if is_main():
            _log(extraction, counts)
        is_readable = not counts.num_unreadable or cfg.TEST.ALLOW_UNSCORED
        is_complete &= is_readable and not counts.num_nonfinite
    return 0 if is_complete else INCOMPLETE_STATUS


def _log(extraction: "Extraction", counts: "ExtractionCounts") -> None:
    """Log what a folder holds, and why some videos have no features."""
    from slowfast.inference.feature_files import open_features, unread_reasons

    reasons = unread_reasons(extraction.folder, limit=MAX_NAMED)
    for reason in reasons:
        logger.warning("no features: %s", reason)
    num_left_out = counts.num_unreadable + counts.num_nonfinite
    if num_left_out > len(reasons):
        logger.warning("no features: %d more", num_left_out - len(reasons))

    features = open_features(extraction.folder)
    logger.info(
        "%s: %s of %s of %s, each %s",
        extraction.folder,
        count(len(features), "feature"),
        count(counts.num_videos - num_left_out, "video"),
        extraction.split,
        " x ".join(map(str, features.record.shape)),
    )
