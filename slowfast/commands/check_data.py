"""Check the videos of a config's lists.

Opens each video and decodes its first, middle and last frame. The results are added to a manifest,
which training and testing read with DATA.MANIFEST. Frame tables of long videos, which let a sample
read only its own range of the file, are written to a folder beside the manifest. If you stop the
check, the same command resumes it.

Exit status: 0 all videos are ok, 1 some are not or the check failed, 2 wrong usage, 130 Ctrl-C.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slowfast.commands import cli
from slowfast.config import CfgNode, load_cfg
from slowfast.preparation.splits import SPLITS
from slowfast.utils import plugins
from slowfast.utils.text import printable

if TYPE_CHECKING:
    from slowfast.datasets.annotations import Annotations


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the videos, print a summary, and return the exit status."""
    words = cli.repeat_option(arguments, "--splits", SPLITS)
    args = _make_parser().parse_intermixed_args(words)
    return cli.run(lambda: _check(args), interrupted="stopped. The same command resumes the check")


def _make_parser() -> argparse.ArgumentParser:
    parser = cli.make_experiment_parser(__doc__)
    cli.add_splits(parser, purpose="check")

    parser.add_argument(
        "--manifest",
        type=cli.path,
        metavar="FILE",
        help="manifest to add to (default: DATA.PATH_TO_DATA_DIR/manifest.csv)",
    )
    cli.add_workers(parser)
    parser.add_argument(
        "--timeout",
        type=cli.number(float, least=0.001),
        default=60,
        metavar="SECONDS",
        help="time limit for one video (default: 60)",
    )
    return parser


def _check(args: argparse.Namespace) -> int:
    from slowfast.datasets.build import build_opener
    from slowfast.datasets.catalog import build_annotations
    from slowfast.datasets.manifest import count_unusual
    from slowfast.preparation import check_report
    from slowfast.preparation.probe import check_videos

    plugins.import_plugins(args.imports)
    cfg = load_cfg(args.cfg, args.opts)
    lists = {split: build_annotations(cfg, split) for split in dict.fromkeys(args.splits or SPLITS)}
    path = _choose_manifest(args.manifest, cfg.DATA.PATH_TO_DATA_DIR)

    for split, annotations in lists.items():
        check_videos(
            annotations,
            path,
            open_video=build_opener(cfg, split, allow_truncated=True),  # the manifest names them
            folder=cfg.DATA.PATH_PREFIX,
            num_workers=args.workers,
            timeout=args.timeout,
            title=split,
        )

    unusual = count_unusual(str(path), lists)
    warnings = _find_warnings(cfg, lists, manifest_path=str(path))
    unreadable = check_report.find_unreadable(lists, str(path))
    refused = check_report.find_unreadable(
        lists, str(path), allow_truncated=cfg.DATA.ALLOW_TRUNCATED
    )
    print(check_report.format_summary(lists, unreadable, unusual=unusual))
    if any(refused.values()):
        outcomes = check_report.format_outcomes(
            refused,
            folder=cfg.DATA.PATH_PREFIX,
            num_training=len(lists.get("train", ())),
            max_fraction=cfg.DATA.MAX_BAD_FRACTION,
        )
        print(outcomes)
    for warning in warnings:
        print(f"warning: {printable(warning)}", file=sys.stderr)

    print(f"manifest: {path}")
    if not any(refused.values()):
        return 0
    print(f"to train and test without these videos, add: DATA.MANIFEST {path}")
    return cli.FAILED


def _choose_manifest(manifest: Path | None, data_dir: str) -> Path:
    if manifest:
        return manifest
    if "://" in data_dir:
        raise ValueError(f"{data_dir} cannot hold the manifest. Name a local file with --manifest")
    return Path(data_dir, "manifest.csv")


def _find_warnings(
    cfg: CfgNode, lists: Mapping[str, "Annotations"], *, manifest_path: str
) -> list[str]:
    """Return sentences about repeated videos and about classes without training videos."""
    from slowfast.datasets.catalog import build_class_names
    from slowfast.datasets.duplicates import describe_empty_classes, find_repeats
    from slowfast.datasets.manifest import read_checksums

    warnings = find_repeats(lists, checksums=read_checksums(manifest_path))
    if "train" not in lists:
        return warnings
    try:
        class_names = build_class_names(cfg)
    except (ValueError, OSError) as error:
        return [*warnings, str(error)]

    empty = describe_empty_classes(lists["train"].labels, class_names, purpose="training")
    return [*warnings, empty] if empty else warnings
