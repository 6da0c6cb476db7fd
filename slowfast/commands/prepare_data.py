"""Prepare videos for training.

Use COMMAND --help for details. If you stop a command that writes many files, the same command
resumes it.

Exit status: 0 done, 1 some videos failed or the command failed, 2 wrong usage, 130 Ctrl-C.
"""

import argparse
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slowfast.commands import cli
from slowfast.commands.prepare_data_arguments import (
    DEFAULT_SHARE,
    add_frames_arguments,
    add_lists_arguments,
    add_resize_arguments,
    add_split_arguments,
)
from slowfast.config import load_cfg
from slowfast.config.shipped import shipped_file
from slowfast.preparation.splits import SPLITS
from slowfast.utils import plugins
from slowfast.utils.command_names import command_line
from slowfast.utils.text import count

if TYPE_CHECKING:
    from slowfast.datasets.catalog import Format
    from slowfast.preparation.available_lists import AvailableList
    from slowfast.preparation.folder_conversion import Conversion

RECIPE = "configs/recipe.yaml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    args = _make_parser().parse_args(cli.repeat_option(arguments, "--splits", SPLITS))
    return cli.run(lambda: args.run(args), interrupted="stopped. The same command resumes the work")


def _make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add_command(run: Callable[[argparse.Namespace], int], help_text: str) -> Any:
        command = commands.add_parser(
            run.__name__.removeprefix("_"),
            help=help_text,
            description=inspect.getdoc(run),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        return command

    add_split_arguments(add_command(_split, "write lists of your own videos, a folder per class"))
    add_lists_arguments(add_command(_lists, "write lists from the annotations of a dataset"))
    add_resize_arguments(add_command(_resize, "write smaller videos, which decode faster"))
    add_frames_arguments(add_command(_frames, "write a folder of JPEG files for each video"))
    return parser


# ---- Commands, whose docstrings are their help ---------------------------------------------------


def _split(args: argparse.Namespace) -> int:
    """Split your own videos into lists. Paths in the lists are relative to VIDEOS.

    Each class is split by itself. Validation and test get their share of its videos, and at least
    3 each, so that their accuracies are meaningful. A class of fewer than 15 videos gives each of
    them a fifth, and at least 1, so that most of it is left to train on: 10 videos become 6, 2 and
    2, and 3 videos become 1, 1 and 1. Of 2 videos, one is for training and one for validation. A
    single video is for training. A warning names these classes.

    The lists depend only on the names of the videos, the shares and the seed. If you add videos and
    repeat the command, listed videos stay in their lists, new ones fill up the lists, and a new
    class gets the next label.

    --group-by keeps all videos of one patient, match or camera in one list. --folds K puts each
    video into val.csv of one fold and into train.csv of the others.
    """
    from slowfast.preparation.fold_lists import write_fold_lists
    from slowfast.preparation.lists import describe_small_classes, write_folder_lists

    chosen = {"seed": args.seed, "pattern": args.group_by, "force": args.force}
    if args.folds:
        if args.val is not None:
            raise cli.UsageError("--val has no effect with --folds, which set the share. Omit it")
        test_share = args.test or 0.0
        split = write_fold_lists(
            args.videos, args.lists, num_folds=args.folds, test_share=test_share, **chosen
        )
        _print_sizes(args.lists, split.sizes, prefixes=[f"fold{k + 1}/" for k in range(args.folds)])
        first_lists = args.lists / "fold1"
    else:
        shares = {"val": args.val, "test": args.test}
        for name in shares:
            if shares[name] is None:
                shares[name] = DEFAULT_SHARE
        split = write_folder_lists(args.videos, args.lists, shares=shares, **chosen)
        _print_sizes(args.lists, split.sizes, prefixes=[""])
        first_lists = args.lists

    if split.num_kept:
        print(f"{count(split.num_kept, 'video')} stayed in their lists, {split.num_added} added")
    if not args.folds:
        for warning in describe_small_classes(split.sizes):
            print(f"warning: {warning}", file=sys.stderr)
        if not any(split.sizes["val"].values()):
            print("warning: there is no val.csv, which training needs", file=sys.stderr)

    num_classes = len(next(iter(split.sizes.values())))
    settings = _format_settings(first_lists, args.videos, num_classes=num_classes)
    print(f"train: {command_line('run_net')} --cfg configs/own_videos.yaml {settings}")
    return 0


def _print_sizes(
    lists: Path, sizes: Mapping[str, Mapping[str, int]], *, prefixes: Sequence[str]
) -> None:
    for prefix in prefixes:
        numbers = {name: sum(sizes.get(f"{prefix}{name}", {}).values()) for name in SPLITS}
        print(
            f"{lists / prefix}: {count(numbers['train'], 'video')} for training, "
            f"{numbers['val']} for validation, {numbers['test']} for the test"
        )


def _lists(args: argparse.Namespace) -> int:
    """Write lists of the annotated videos that you have.

    The videos may be at any depth below the folder and have another suffix. Videos that are not
    found are listed in missing_*.txt.
    """
    from slowfast.datasets.catalog import DATASETS, build_annotations, build_class_names
    from slowfast.preparation.available_lists import write_available_lists

    plugins.import_plugins(args.imports)
    name = args.dataset
    if name not in DATASETS:
        raise cli.UsageError(f"--dataset is {name!r}. Choose from {', '.join(DATASETS)}")
    overrides = ["TRAIN.DATASET", name, "TEST.DATASET", name]
    overrides += ["DATA.PATH_TO_DATA_DIR", args.annotations, *args.opts]
    cfg = load_cfg(shipped_file(RECIPE), overrides)

    as_frames = args.frames or DATASETS[name].is_frames
    target = name.removesuffix("_official") if as_frames else "kinetics"
    if DATASETS[target].is_frames != as_frames:
        raise ValueError(
            f"{name} is trained on video files. Only Something-Something is trained on frame "
            "folders"
        )

    source_of = {split: split for split in args.splits or SPLITS}
    if "test" in source_of:
        source_of["test"] = args.test_from
    class_names = build_class_names(cfg)
    written = write_available_lists(
        {split: build_annotations(cfg, source) for split, source in source_of.items()},
        args.lists,
        videos=args.videos,
        class_names=class_names,
        list_names={split: _list_name(DATASETS[target], split) for split in source_of},
        frame_template=cfg.DATA.IMAGE_TEMPLATE if as_frames else None,
    )

    for split, result in written.items():
        print(f"{split}: {_format_available(result, split)}")
    if DATASETS[name].is_segmented and not as_frames:
        print(
            f"these lists are for other programs. Here, train with TRAIN.DATASET {name}, which "
            "samples clips as published"
        )
    else:
        settings = _format_settings(args.lists, args.videos, num_classes=len(class_names))
        print(f"train with: TRAIN.DATASET {target} TEST.DATASET {target} {settings}")
    return 0


def _format_available(result: "AvailableList", split: str) -> str:
    num_found = result.num_listed - result.num_missing
    text = f"{result.path}, {num_found} of {count(result.num_listed, 'video')}"
    if not result.num_missing:
        return text
    verb = "other is" if result.num_missing == 1 else "others are"
    return f"{text}. The {verb} in missing_{split}.txt"


def _resize(args: argparse.Namespace) -> int:
    """Write each video as an H.264 file of limited size, without sound, frame by frame.

    The results keep frame times, colors and the shape of pixels. Frames are upright, with a
    keyframe at least every 32 frames, so clips decode fast. Videos that are small and H.264 already
    are copied.
    """
    from slowfast.preparation.convert import resize_videos

    conversion = resize_videos(
        args.videos,
        args.out,
        short_side=args.short_side,
        crf=args.crf,
        num_workers=args.workers,
    )
    return _report(conversion, args.out)


def _frames(args: argparse.Namespace) -> int:
    """Write the frames of each video as JPEG files, at a constant frame rate."""
    from slowfast.preparation.convert import extract_frames

    conversion = extract_frames(
        args.videos,
        args.out,
        fps=args.fps,
        quality=args.quality,
        template=args.template,
        num_workers=args.workers,
    )
    return _report(conversion, args.out)


def _list_name(list_format: "Format", split: str) -> str:
    return list_format.list_templates[0].format(list_format.split_names[split][0])


def _format_settings(lists: Path, videos: Path, *, num_classes: int) -> str:
    """Return the config keys that train on lists, for a command line."""
    return (
        f"MODEL.NUM_CLASSES {num_classes} DATA.PATH_TO_DATA_DIR '{lists}' "
        f"DATA.PATH_PREFIX '{videos}' DATA.CLASS_NAMES '{lists / 'classes.txt'}'"
    )


def _report(conversion: "Conversion", out: Path) -> int:
    outcomes = [
        f"{number} {outcome}" for outcome, number in sorted(conversion.counts.items()) if number
    ]
    print(f"{out}: {count(conversion.counts.total(), 'video')}, {', '.join(outcomes)}")
    if not conversion.failed_path:
        return 0
    print(f"failures, with reasons: {conversion.failed_path}. The same command tries them again")
    return cli.FAILED
