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

from slowfast.config import CfgNode, load_cfg
from slowfast.datasets.annotations import Annotations
from slowfast.datasets.build import SPLITS, build_opener
from slowfast.datasets.catalog import build_annotations, build_class_names
from slowfast.datasets.duplicates import describe_empty_classes, find_repeats
from slowfast.datasets.manifest import (
    STATUSES,
    Manifest,
    check_videos,
    count_unusual,
    read_checksums,
    read_manifest,
)
from slowfast.utils import plugins
from slowfast.utils.text import count, printable

NUM_EXAMPLES = 10  # bad videos that are named

_REPLACED = "training takes another video in its place, the test does not score it"
# What a run does with a video of each status.
OUTCOMES = {
    "missing": _REPLACED,
    "empty": _REPLACED,
    "unreadable": _REPLACED,
    "damaged": _REPLACED,
    "truncated": f"{_REPLACED}; DATA.ALLOW_TRUNCATED True reads what is there",
    "timeout": "a run waits for it, and stops with an error after DATA_LOADER.TIMEOUT seconds",
    "crashed": "a run stops with an error, as it ends the loader worker",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the videos, print what is wrong with them, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cfg", required=True, help="YAML file of the experiment")
    plugins.add_argument(parser)
    parser.add_argument(
        "--splits",
        action="append",
        choices=SPLITS,
        metavar="SPLIT",
        help=f"splits to check, one or more: {', '.join(SPLITS)} (default: all)",
    )
    parser.add_argument(
        "--manifest",
        type=_cli.path,
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
    args = parser.parse_intermixed_args(_cli.repeat_option(arguments, "--splits", SPLITS))
    try:
        plugins.import_plugins(args.imports)
        cfg = load_cfg(args.cfg, args.opts)
        lists = {
            split: build_annotations(cfg, split) for split in dict.fromkeys(args.splits or SPLITS)
        }
        if not args.manifest and "://" in cfg.DATA.PATH_TO_DATA_DIR:
            raise ValueError(
                f"{cfg.DATA.PATH_TO_DATA_DIR} cannot hold the manifest; name a local file with --manifest"
            )
        manifest_path = args.manifest or Path(cfg.DATA.PATH_TO_DATA_DIR, "manifest.csv")
        for split, annotations in lists.items():
            check_videos(
                annotations,
                manifest_path,
                open_video=build_opener(
                    cfg, split, allow_truncated=True
                ),  # the manifest says which
                folder=cfg.DATA.PATH_PREFIX,
                num_workers=args.workers,
                timeout=args.timeout,
                title=split,
            )
        manifest = read_manifest(str(manifest_path))
        unusual = count_unusual(str(manifest_path), lists)
        warnings = _find_warnings(cfg, lists, manifest_path)
        refusing = read_manifest(str(manifest_path), allow_truncated=cfg.DATA.ALLOW_TRUNCATED)
    except KeyboardInterrupt:
        print("\nstopped; the same command resumes the check", file=sys.stderr)
        return _cli.INTERRUPTED
    except (ValueError, OSError) as error:
        return _cli.report(error)
    bad = {split: _bad_names(annotations, manifest) for split, annotations in lists.items()}
    refused = {split: _bad_names(annotations, refusing) for split, annotations in lists.items()}
    _print_summary(lists, manifest, bad=bad, unusual=unusual)
    if any(refused.values()):
        _print_outcomes(cfg, lists, manifest, bad=refused)
    for warning in warnings:
        print(f"warning: {printable(warning)}", file=sys.stderr)
    print(f"manifest: {manifest_path}")
    if not any(refused.values()):
        return 0
    print(f"to train and test without these videos, add: DATA.MANIFEST {manifest_path}")
    return 1


def _find_warnings(
    cfg: CfgNode, lists: Mapping[str, Annotations], manifest_path: Path
) -> list[str]:
    """What is doubtful about lists whose videos are all good."""
    warnings = find_repeats(lists, checksums=read_checksums(str(manifest_path)))
    if "train" in lists:
        try:
            names = build_class_names(cfg)
        except (ValueError, OSError) as error:
            return [*warnings, str(error)]
        empty = describe_empty_classes(lists["train"].labels, names, purpose="training")
        warnings += [empty] if empty else []
    return warnings


def _print_summary(
    lists: Mapping[str, Annotations],
    manifest: Manifest,
    *,
    bad: Mapping[str, Sequence[str]],
    unusual: Mapping[str, Mapping[str, int]],
) -> None:
    """Print how many videos of each split are in what state, and the first bad ones."""
    print("".join(f"{title:>12}" for title in ("split", "listed", "ok", *STATUSES)))
    for split, annotations in lists.items():
        counts = Counter(_status_of(name, manifest) for name in bad[split])
        numbers = [
            len(annotations),
            len(annotations) - len(bad[split]),
            *(counts[status] for status in STATUSES),
        ]
        print(f"{split:>12}" + "".join(f"{number:12}" for number in numbers))
    for split, counts_by_kind in unusual.items():
        if counts_by_kind:
            kinds = ", ".join(
                f"{kind}: {number}" for kind, number in sorted(counts_by_kind.items())
            )
            print(f"{split:>12}  {kinds} (read as stored)")
    examples = [f"  {split}  {name}: {manifest.bad[name]}" for split in bad for name in bad[split]]
    print(printable("\n".join(examples[:NUM_EXAMPLES])))
    if len(examples) > NUM_EXAMPLES:
        print(f"  ... and {len(examples) - NUM_EXAMPLES} more in the manifest")


def _print_outcomes(
    cfg: CfgNode,
    lists: Mapping[str, Annotations],
    manifest: Manifest,
    *,
    bad: Mapping[str, Sequence[str]],
) -> None:
    """Print where missing videos were looked for, and what a run does with each kind of bad one."""
    found = {_status_of(name, manifest) for names in bad.values() for name in names}
    if "missing" in found:
        folder = cfg.DATA.PATH_PREFIX or f"{os.getcwd()}, the current folder, as it is empty"
        print(f"missing videos were looked for in DATA.PATH_PREFIX: {folder}")

    print("without DATA.MANIFEST:")
    for outcome in dict.fromkeys(OUTCOMES.values()):
        kinds = [status for status in STATUSES if OUTCOMES[status] == outcome and status in found]
        if kinds:
            print(f"  {', '.join(kinds)}: {outcome}")
    num_bad, num_listed = len(bad.get("train", ())), len(lists.get("train", ()))
    if num_bad > cfg.DATA.MAX_BAD_FRACTION * num_listed:
        print(
            f"  {num_bad} of {count(num_listed, 'training video')} is more than DATA.MAX_BAD_FRACTION, "
            f"{cfg.DATA.MAX_BAD_FRACTION:g}: training stops with an error"
        )


def _status_of(name: str, manifest: Manifest) -> str:
    return manifest.bad[name].split(":")[0]


def _bad_names(annotations: Annotations, manifest: Manifest) -> list[str]:
    return [annotations[row].name for row in annotations.rows_of(list(manifest.bad))]


if __name__ == "__main__":
    sys.exit(main())
