"""Probe the videos of a config's lists: `python tools/check_data.py --cfg X [KEY VALUE ...]`.

Opens each video and decodes its first, middle and last frame. The results are added to a manifest,
which training and testing read with DATA.MANIFEST. Frame tables of long videos, with which a sample
reads only its own part of the file, are stored in a folder beside it. If you stop the check, the
same command resumes it.

Exit status: 0 all videos are ok, 1 some are not or the check failed, 2 wrong usage, 130 Ctrl-C.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # as Python does, unless told not to
import _cli

from slowfast.config import load_cfg
from slowfast.datasets.annotations import Annotations
from slowfast.datasets.build import SPLITS, build_opener
from slowfast.datasets.formats import build_annotations
from slowfast.datasets.manifest import (
    STATUSES,
    Manifest,
    check_videos,
    count_unusual,
    read_manifest,
)
from slowfast.utils import plugins

NUM_EXAMPLES = 10  # bad videos that are named


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the videos, print what is wrong with them, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", required=True, help="YAML file of the experiment")
    plugins.add_argument(parser)
    parser.add_argument(
        "--splits",
        nargs="+",
        choices=SPLITS,
        default=SPLITS,
        metavar="SPLIT",
        help=f"splits to check: {', '.join(SPLITS)} (default: all)",
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        help="manifest to add to (default: DATA.PATH_TO_DATA_DIR/manifest.csv)",
    )
    parser.add_argument(
        "--workers",
        type=_cli.number(int, least=1),
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="number of processes (default: one per core)",
    )
    parser.add_argument(
        "--timeout",
        type=_cli.number(float, least=0.001),
        default=60,
        metavar="SECONDS",
        help="time limit for one video (default: 60)",
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to override")
    args = parser.parse_intermixed_args(arguments)
    try:
        plugins.import_plugins(args.imports)
        cfg = load_cfg(args.cfg, args.opts)
        lists = {split: build_annotations(cfg, split) for split in args.splits}
        if not args.manifest and "://" in cfg.DATA.PATH_TO_DATA_DIR:
            raise ValueError(f"{cfg.DATA.PATH_TO_DATA_DIR} cannot hold the manifest; name a local file with --manifest")
        manifest_path = args.manifest or Path(cfg.DATA.PATH_TO_DATA_DIR, "manifest.csv")
        for split, annotations in lists.items():
            check_videos(
                annotations,
                manifest_path,
                open_video=build_opener(cfg, split),
                folder=cfg.DATA.PATH_PREFIX,
                num_workers=args.workers,
                timeout=args.timeout,
                title=split,
            )
        manifest = read_manifest(str(manifest_path))
        unusual = count_unusual(str(manifest_path), lists)
    except KeyboardInterrupt:
        print("\nstopped; the same command resumes the check", file=sys.stderr)
        return _cli.INTERRUPTED
    except (ValueError, OSError) as error:
        return _cli.report(error)
    num_bad = _print_summary(lists, manifest, unusual)
    print(f"manifest: {manifest_path}")
    if num_bad:
        print(f"to train and test without these videos, add: DATA.MANIFEST {manifest_path}")
    return 1 if num_bad else 0


def _print_summary(
    lists: Mapping[str, Annotations], manifest: Manifest, unusual: Mapping[str, Mapping[str, int]]
) -> int:
    """Print how many videos of each split are in what state, and the first bad ones; return the number of bad ones."""
    bad = {split: _bad_paths(annotations, manifest) for split, annotations in lists.items()}
    counts = {split: Counter(manifest.bad[path].split(":")[0] for path in paths) for split, paths in bad.items()}
    print("".join(f"{title:>12}" for title in ("split", "listed", "ok", *STATUSES)))
    for split, annotations in lists.items():
        numbers = [
            len(annotations),
            len(annotations) - len(bad[split]),
            *(counts[split][status] for status in STATUSES),
        ]
        print(f"{split:>12}" + "".join(f"{number:12}" for number in numbers))
    for split, counts_by_kind in unusual.items():
        if counts_by_kind:
            kinds = ", ".join(f"{kind}: {number}" for kind, number in sorted(counts_by_kind.items()))
            print(f"{split:>12}  {kinds} (read as stored)")
    examples = [f"  {split}  {path}: {manifest.bad[path]}" for split, paths in bad.items() for path in paths]
    print("\n".join(examples[:NUM_EXAMPLES]))
    if len(examples) > NUM_EXAMPLES:
        print(f"  ... and {len(examples) - NUM_EXAMPLES} more in the manifest")
    return len(examples)


def _bad_paths(annotations: Annotations, manifest: Manifest) -> list[str]:
    return [annotations[row].path for row in annotations.rows_of(list(manifest.bad))]


if __name__ == "__main__":
    sys.exit(main())
