"""From downloaded videos to what training reads: `python tools/prepare_data.py COMMAND ...`.

COMMAND --help says more. What writes many files can be stopped at any moment: the same command goes on from there.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from slowfast.config import load_cfg
from slowfast.datasets import SPLITS
from slowfast.datasets.convert import Conversion, extract_frames, resize_videos
from slowfast.datasets.formats import DATASETS, build_annotations, build_class_names
from slowfast.datasets.prepare import write_folder_lists, write_found_lists
from slowfast.utils import plugins

RECIPE = Path(__file__).parents[1] / "configs/recipe.yaml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command says; return the exit status: 0 all is well, 1 some videos failed, 2 a mistake."""
    args = _parser().parse_args(arguments)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except (OSError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    split = commands.add_parser(
        "split", help="lists of own videos, from a folder per class", description=_split.__doc__
    )
    split.add_argument("videos", type=Path, help="folder with one folder of videos per class")
    split.add_argument("lists", type=Path, help="folder for train.csv, val.csv, test.csv and classes.txt")
    split.add_argument("--val", type=float, default=0.1, metavar="SHARE", help="of each class for validation")
    split.add_argument("--test", type=float, default=0.1, metavar="SHARE", help="of each class for the test")
    split.add_argument("--seed", type=int, default=0, help="of the split")
    split.set_defaults(run=_split)

    lists = commands.add_parser("lists", help="lists from official annotations", description=_lists.__doc__)
    lists.add_argument("--dataset", required=True, metavar="NAME", help=" | ".join(DATASETS))
    plugins.add_argument(lists)
    lists.add_argument("--annotations", required=True, metavar="FOLDER", help="of the annotations as distributed")
    lists.add_argument("--videos", required=True, type=Path, metavar="FOLDER", help="of the videos, or frame folders")
    lists.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, metavar="SPLIT", help=" | ".join(SPLITS))
    lists.add_argument("--test-from", choices=SPLITS, default="test", metavar="SPLIT", help="that the test list is of")
    lists.add_argument("--frames", action="store_true", help="VIDEOS holds what the command `frames` wrote")
    lists.add_argument("lists", type=Path, help="folder for the lists, classes.txt and missing_*.txt")
    lists.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="config keys, as MODEL.NUM_CLASSES or those of DATA"
    )
    lists.set_defaults(run=_lists)

    resize = commands.add_parser("resize", help="small videos, which decode fast", description=_resize.__doc__)
    resize.add_argument("--short-side", type=int, default=320, metavar="PIXELS", help="at most; default: 320")
    resize.add_argument("--crf", type=int, default=18, help="quality of x264, 0 to 51, lower is better; default: 18")
    resize.set_defaults(run=_resize)
    frames = commands.add_parser("frames", help="a folder of JPEG files per video", description=_frames.__doc__)
    frames.add_argument("--fps", type=float, default=30, help="frames per second, as ffmpeg -r; 0: all; default: 30")
    frames.add_argument("--quality", type=int, default=95, help="of JPEG; default: 95")
    frames.add_argument("--template", default="{:05d}.jpg", help="name of frame n, from 1; default: {:05d}.jpg")
    frames.set_defaults(run=_frames)
    for command in (resize, frames):
        command.add_argument("videos", type=Path, help="folder of videos, at any depth")
        command.add_argument("out", type=Path, help="folder for the results, at the same places")
        command.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="default: one per core")
    return parser


def _split(args: argparse.Namespace) -> int:
    """Split own videos into lists; paths in them are relative to VIDEOS."""
    shares = {"val": args.val, "test": args.test}
    counts = write_folder_lists(args.videos, args.lists, shares=shares, seed=args.seed)
    print(f"{args.lists}: {', '.join(f'{count} {split}' for split, count in counts.items())} videos")
    num_classes = len((args.lists / "classes.txt").read_text(encoding="utf-8").splitlines())
    print(f"train: python tools/run_net.py --cfg configs/own_videos.yaml {_settings(args, num_classes=num_classes)}")
    return 0


def _lists(args: argparse.Namespace) -> int:
    """Make lists of those videos of official annotations that are there.

    They may lie at any depth below the folder, and have another suffix. What is missing is listed in missing_*.txt.
    """
    plugins.import_plugins(args.imports)
    name = args.dataset
    if name not in DATASETS:
        raise ValueError(f"--dataset is {name!r}; choose from {', '.join(DATASETS)}")
    overrides = ["TRAIN.DATASET", name, "TEST.DATASET", name, "DATA.PATH_TO_DATA_DIR", args.annotations, *args.opts]
    cfg = load_cfg(str(RECIPE), overrides)
    as_frames = args.frames or DATASETS[name].is_frames
    dataset = name.removesuffix("_official") if as_frames else "kinetics"
    written = DATASETS[dataset]
    if written.is_frames != as_frames:
        raise ValueError(f"{name} is trained on video files; only Something-Something is trained on frame folders")
    sources = {split: args.test_from if split == "test" else split for split in args.splits}
    class_names = build_class_names(cfg)
    found = write_found_lists(
        {split: build_annotations(cfg, source) for split, source in sources.items()},
        args.lists,
        videos=args.videos,
        class_names=class_names,
        list_names={split: written.list_templates[0].format(written.split_names[split][0]) for split in sources},
        frame_template=cfg.DATA.IMAGE_TEMPLATE if as_frames else None,
    )
    for split, result in found.items():
        others = f"; the others are in missing_{split}.txt" if result.num_missing else ""
        num_found = result.num_listed - result.num_missing
        print(f"{split}: {result.list_path}, {num_found} of {result.num_listed} videos{others}")
    if DATASETS[name].is_segmented and not as_frames:
        print(f"for other programs; here, train with TRAIN.DATASET {name}, which knows how clips are to be taken")
    else:
        settings = _settings(args, num_classes=len(class_names))
        print(f"train with: TRAIN.DATASET {dataset} TEST.DATASET {dataset} {settings}")
    return 0


def _settings(args: argparse.Namespace, *, num_classes: int) -> str:
    return (
        f"MODEL.NUM_CLASSES {num_classes} DATA.PATH_TO_DATA_DIR '{args.lists}' DATA.PATH_PREFIX '{args.videos}' "
        f"DATA.CLASS_NAMES '{args.lists / 'classes.txt'}'"
    )


def _resize(args: argparse.Namespace) -> int:
    """Write all videos as H.264 files with a short side of at most so many pixels, without sound, frame by frame.

    The results keep frame times, stand upright and have a keyframe every 32 frames, so that clips decode fast. What is
    small and H.264 already is copied.
    """
    return _report(
        resize_videos(args.videos, args.out, short_side=args.short_side, crf=args.crf, num_workers=args.workers), args
    )


def _frames(args: argparse.Namespace) -> int:
    """Write the frames of each video as JPEG files, at a constant frame rate."""
    return _report(
        extract_frames(
            args.videos,
            args.out,
            fps=args.fps,
            quality=args.quality,
            template=args.template,
            num_workers=args.workers,
        ),
        args,
    )


def _report(conversion: Conversion, args: argparse.Namespace) -> int:
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(conversion.counts.items()) if count)
    print(f"{args.out}: {conversion.counts.total()} videos, {counts}")
    if conversion.failed_path:
        print(f"the videos that failed, with reasons: {conversion.failed_path}; the same command tries them again")
    return 1 if conversion.failed_path else 0


if __name__ == "__main__":
    sys.exit(main())
