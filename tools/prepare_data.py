"""Prepare videos for training: `python tools/prepare_data.py COMMAND ...`.

COMMAND --help says more. If you stop one that writes many files, the same command resumes it.

Exit status: 0 done, 1 some videos failed or the command failed, 2 wrong usage, 130 Ctrl-C.
"""

import argparse
import inspect
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # as Python does, unless told not to
import _cli

from slowfast.config import load_cfg
from slowfast.datasets.build import SPLITS
from slowfast.datasets.catalog import DATASETS, build_annotations, build_class_names
from slowfast.preparation.convert import Conversion, extract_frames, resize_videos
from slowfast.preparation.lists import write_fold_lists, write_folder_lists, write_found_lists
from slowfast.preparation.splits import FEWEST_HELD_OUT
from slowfast.utils import plugins
from slowfast.utils.text import count, some

RECIPE = Path(__file__).parents[1] / "configs/recipe.yaml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command says, and return the exit status."""
    args = _parser().parse_args(_cli.repeat_option(arguments, "--splits", SPLITS))
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("\nstopped; the same command resumes the work", file=sys.stderr)
        return _cli.INTERRUPTED
    except (OSError, ValueError) as error:
        return _cli.report(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    split = commands.add_parser(
        "split",
        help="write lists of your own videos, from a folder per class",
        description=inspect.getdoc(_split),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    split.add_argument("videos", type=_cli.path, help="folder with one folder of videos per class")
    split.add_argument(
        "lists",
        type=_cli.path,
        help="folder for train.csv, val.csv, test.csv and classes.txt",
    )
    for name in ("val", "test"):
        split.add_argument(
            f"--{name}",
            type=_cli.number(float, least=0, most=1),
            metavar="SHARE",
            help=f"share of each class in {name}.csv, 0 to 1, if it is more than the least; 0: no {name}.csv "
            "(default: 0.15; with --folds: 0)",
        )
    split.add_argument(
        "--seed",
        type=_cli.number(int, least=0),
        default=0,
        help="seed of the split (default: 0)",
    )
    split.add_argument(
        "--group-by",
        type=_pattern,
        default="",
        metavar="PATTERN",
        help="regular expression: videos in whose paths, without suffix, it finds the same text stay together, as "
        "'patient[0-9]+' (default: no groups)",
    )
    split.add_argument(
        "--folds",
        type=_cli.number(int, least=2),
        metavar="K",
        help="write lists for a K-fold cross-validation to fold1, fold2 ... (default: one split)",
    )
    split.add_argument(
        "--force",
        action="store_true",
        help="assign all videos anew (default: videos that are listed already stay where they are)",
    )
    split.set_defaults(run=_split)

    lists = commands.add_parser(
        "lists",
        help="write lists from official annotations",
        description=_lists.__doc__,
    )
    lists.add_argument(
        "--dataset",
        required=True,
        metavar="NAME",
        help=f"format of the annotations: {', '.join(DATASETS)}",
    )
    plugins.add_argument(lists)
    lists.add_argument(
        "--annotations",
        required=True,
        metavar="FOLDER",
        help="folder of the annotations as distributed",
    )
    lists.add_argument(
        "--videos",
        required=True,
        type=_cli.path,
        metavar="FOLDER",
        help="folder of the videos or of the frame folders",
    )
    lists.add_argument(
        "--splits",
        action="append",
        choices=SPLITS,
        metavar="SPLIT",
        help=f"lists to write, one or more: {', '.join(SPLITS)} (default: all)",
    )
    lists.add_argument(
        "--test-from",
        choices=SPLITS,
        default="test",
        metavar="SPLIT",
        help="split that the test list is taken from (default: test)",
    )
    lists.add_argument(
        "--frames",
        action="store_true",
        help="read frame folders, as the command `frames` writes them (default: video files)",
    )
    lists.add_argument(
        "lists",
        type=_cli.path,
        help="folder for the lists, classes.txt and missing_*.txt",
    )
    lists.add_argument(
        "opts",
        nargs="*",
        metavar="KEY VALUE",
        help="config keys to override, such as MODEL.NUM_CLASSES or those of DATA",
    )
    lists.set_defaults(run=_lists)

    resize = commands.add_parser(
        "resize",
        help="write small videos, which decode fast",
        description=_resize.__doc__,
    )
    resize.add_argument(
        "--short-side",
        type=_cli.number(int, least=2),
        default=320,
        metavar="PIXELS",
        help="largest short side of a frame, an even number (default: 320)",
    )
    resize.add_argument(
        "--crf",
        type=_cli.number(int, least=0, most=51),
        default=18,
        help="quality of x264, 0 to 51, lower is better (default: 18)",
    )
    resize.set_defaults(run=_resize)

    frames = commands.add_parser(
        "frames",
        help="write a folder of JPEG files per video",
        description=_frames.__doc__,
    )
    frames.add_argument(
        "--fps",
        type=_cli.number(float, least=0),
        default=30,
        help="frames per second, as ffmpeg -r, or 0 for all frames (default: 30)",
    )
    frames.add_argument(
        "--quality",
        type=_cli.number(int, least=1, most=100),
        default=95,
        help="quality of the JPEG files, 1 to 100 (default: 95)",
    )
    frames.add_argument(
        "--template",
        default="{:05d}.jpg",
        help="file name of frame n, from 1 (default: {:05d}.jpg)",
    )
    frames.set_defaults(run=_frames)

    for command in (resize, frames):
        command.add_argument("videos", type=_cli.path, help="folder of videos, at any depth")
        command.add_argument("out", type=_cli.path, help="folder for the results, same subfolders")
        command.add_argument(
            "--workers",
            type=_cli.number(int, least=1),
            default=len(os.sched_getaffinity(0)),
            metavar="N",
            help="number of processes (default: one per core)",
        )
    return parser


def _pattern(text: str) -> str:
    """A regular expression, as argparse's `type`."""
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from error
    return text


def _split(args: argparse.Namespace) -> int:
    """Split your own videos into lists; paths in them are relative to VIDEOS.

    Each class is split by itself. Validation and test get their share of its videos, and at least
    3 each, so that their accuracies mean something. A class of fewer than 15 videos gives a fifth
    to each of them, and at least 1, so that most of it is left to train on: 10 videos become 6, 2
    and 2; 3 videos become 1, 1 and 1. Of 2 videos, one is for training and one for validation; a
    single one is for training. A warning names these classes. A share of 0 means no list.

    The lists are a function of the names of the videos, the shares and the seed. If you add videos
    and repeat the command, those that are listed already stay in their lists, new ones fill the
    lists up, and a new class gets the next label.

    --group-by keeps all videos of one patient, match or camera in one list. --folds K puts each
    video into val.csv of one fold and into train.csv of the others.
    """
    chosen = {"seed": args.seed, "pattern": args.group_by, "force": args.force}
    if args.folds:
        if args.val is not None:
            raise _cli.UsageError("--val is of no use with --folds, each of which is a share")
        split = write_fold_lists(
            args.videos, args.lists, num_folds=args.folds, test_share=args.test or 0.0, **chosen
        )
        prefixes = [f"fold{fold}/" for fold in range(1, args.folds + 1)]
    else:
        shares = {
            "val": 0.15 if args.val is None else args.val,
            "test": 0.15 if args.test is None else args.test,
        }
        split = write_folder_lists(args.videos, args.lists, shares=shares, **chosen)
        prefixes = [""]

    for prefix in prefixes:
        numbers = {name: sum(split.sizes.get(f"{prefix}{name}", {}).values()) for name in SPLITS}
        print(
            f"{args.lists / prefix}: {count(numbers['train'], 'video')} for training, "
            f"{numbers['val']} for validation, {numbers['test']} for the test"
        )
    if split.num_kept:
        print(f"{count(split.num_kept, 'video')} stayed in their lists, {split.num_added} added")
    if not args.folds:
        _warn_about_small_classes(split.sizes)
        if not any(split.sizes["val"].values()):
            print("warning: there is no val.csv, which training needs", file=sys.stderr)
    num_classes = len(split.sizes[f"{prefixes[0]}train"])
    args.lists /= prefixes[0]
    settings = _settings(args, num_classes=num_classes)
    print(f"train: python tools/run_net.py --cfg configs/own_videos.yaml {settings}")
    return 0


def _warn_about_small_classes(sizes: Mapping[str, Mapping[str, int]]) -> None:
    """Name the classes that a list lacks, and those with few videos for validation or test."""
    lists = [split for split in SPLITS if any(sizes[split].values())]
    absent = [name for name in sizes["train"] if not all(sizes[split][name] for split in lists)]
    held_out = {
        name: min(
            (sizes[split][name] for split in lists if split != "train"), default=FEWEST_HELD_OUT
        )
        for name in sizes["train"]
    }
    few = [name for name, size in held_out.items() if 0 < size < FEWEST_HELD_OUT]
    problems = {
        "too few videos to be in all lists": absent,
        f"fewer than {FEWEST_HELD_OUT} videos for validation or the test, too few for a sure accuracy": few,
    }
    for problem, names in problems.items():
        if names:
            verb = "has" if len(names) == 1 else "have"
            print(
                f"warning: {count(len(names), 'class')} {verb} {problem}: {some(names)}",
                file=sys.stderr,
            )


def _lists(args: argparse.Namespace) -> int:
    """Make lists of those videos of official annotations that are there.

    They may lie at any depth below the folder, and have another suffix. What is missing is listed in missing_*.txt.
    """
    plugins.import_plugins(args.imports)
    name = args.dataset
    if name not in DATASETS:
        raise _cli.UsageError(f"--dataset is {name!r}; choose from {', '.join(DATASETS)}")
    overrides = [
        "TRAIN.DATASET",
        name,
        "TEST.DATASET",
        name,
        "DATA.PATH_TO_DATA_DIR",
        args.annotations,
        *args.opts,
    ]
    cfg = load_cfg(str(RECIPE), overrides)
    as_frames = args.frames or DATASETS[name].is_frames
    dataset = name.removesuffix("_official") if as_frames else "kinetics"
    written = DATASETS[dataset]
    if written.is_frames != as_frames:
        raise ValueError(
            f"{name} is trained on video files; only Something-Something is trained on frame folders"
        )
    sources = {
        split: args.test_from if split == "test" else split for split in args.splits or SPLITS
    }
    class_names = build_class_names(cfg)
    found = write_found_lists(
        {split: build_annotations(cfg, source) for split, source in sources.items()},
        args.lists,
        videos=args.videos,
        class_names=class_names,
        list_names={
            split: written.list_templates[0].format(written.split_names[split][0])
            for split in sources
        },
        frame_template=cfg.DATA.IMAGE_TEMPLATE if as_frames else None,
    )
    for split, result in found.items():
        num_found = result.num_listed - result.num_missing
        verb = "other is" if result.num_missing == 1 else "others are"
        others = f"; the {verb} in missing_{split}.txt" if result.num_missing else ""
        print(
            f"{split}: {result.list_path}, {num_found} of {count(result.num_listed, 'video')}{others}"
        )
    if DATASETS[name].is_segmented and not as_frames:
        print(
            f"for other programs; here, train with TRAIN.DATASET {name}, which knows how clips are to be taken"
        )
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

    The results keep frame times, colors and the shape of pixels, stand upright and have a keyframe every 32 frames, so
    that clips decode fast. What is small and H.264 already is copied.
    """
    return _report(
        resize_videos(
            args.videos,
            args.out,
            short_side=args.short_side,
            crf=args.crf,
            num_workers=args.workers,
        ),
        args,
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
    outcomes = ", ".join(
        f"{number} {outcome}" for outcome, number in sorted(conversion.counts.items()) if number
    )
    print(f"{args.out}: {count(conversion.counts.total(), 'video')}, {outcomes}")
    if conversion.failed_path:
        print(
            f"what failed, with reasons: {conversion.failed_path}; the same command tries it again"
        )
    return 1 if conversion.failed_path else 0


if __name__ == "__main__":
    sys.exit(main())
