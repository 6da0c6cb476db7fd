"""Arguments of the commands of prepare_data.py."""

import argparse
import re

from slowfast.commands import cli
from slowfast.preparation.splits import SPLITS
from slowfast.utils import plugins

DEFAULT_SHARE = 0.15
# Named in the help, which does not import the table of all formats.
EXAMPLE_FORMATS = ("kinetics_official", "ssv2_official")


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `split`, which writes the lists of your own videos."""
    parser.add_argument("videos", type=cli.path, help="folder with one folder of videos per class")
    parser.add_argument(
        "lists", type=cli.path, help="folder for train.csv, val.csv, test.csv and classes.txt"
    )

    for name in ("val", "test"):
        parser.add_argument(
            f"--{name}",
            type=cli.number(float, least=0, most=1),
            metavar="SHARE",
            help=f"share of each class in {name}.csv, 0 to 1, or 0 for no {name}.csv "
            f"(default: {DEFAULT_SHARE}, with --folds 0)",
        )

    parser.add_argument(
        "--seed",
        type=cli.number(int, least=0),
        default=0,
        metavar="N",
        help="seed of the split (default: 0)",
    )
    parser.add_argument(
        "--group-by",
        type=_pattern,
        default="",
        metavar="PATTERN",
        help="regular expression, such as 'patient[0-9]+': videos stay together if it finds the "
        "same text in their paths without suffix (default: no groups)",
    )
    parser.add_argument(
        "--folds",
        type=cli.number(int, least=2),
        metavar="K",
        help="write lists for a K-fold cross-validation to fold1, fold2 ... (default: one split)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="assign all videos anew (default: listed videos stay in their lists)",
    )


def add_lists_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lists`, which writes the lists of a published dataset."""
    parser.add_argument(
        "--dataset",
        required=True,
        metavar="NAME",
        help=f"format of the annotations, such as {' or '.join(EXAMPLE_FORMATS)}. A wrong name "
        "lists all formats",
    )
    plugins.add_argument(parser)

    parser.add_argument(
        "--annotations", required=True, metavar="FOLDER", help="folder of the annotations"
    )
    parser.add_argument(
        "--videos",
        required=True,
        type=cli.path,
        metavar="FOLDER",
        help="folder of the videos or of the frame folders",
    )
    cli.add_splits(parser, purpose="write lists for")
    parser.add_argument(
        "--test-from",
        choices=SPLITS,
        default="test",
        metavar="SPLIT",
        help="split to take the test list from (default: test)",
    )
    parser.add_argument(
        "--frames",
        action="store_true",
        help="list frame folders, as the command `frames` writes them (default: video files)",
    )

    parser.add_argument(
        "lists", type=cli.path, help="folder for the lists, classes.txt and missing_*.txt"
    )
    parser.add_argument(
        "opts",
        nargs="*",
        metavar="KEY VALUE",
        help="config keys to override, such as MODEL.NUM_CLASSES or those of DATA",
    )


def add_resize_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `resize`, which writes smaller videos."""
    parser.add_argument(
        "--short-side",
        type=cli.number(int, least=2),
        default=320,
        metavar="PIXELS",
        help="largest short side of a frame, an even number (default: 320)",
    )
    parser.add_argument(
        "--crf",
        type=cli.number(int, least=0, most=51),
        default=18,
        metavar="N",
        help="quality of x264, 0 to 51, lower is better (default: 18)",
    )
    _add_conversion_arguments(parser)


def add_frames_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `frames`, which writes folders of frames."""
    parser.add_argument(
        "--fps",
        type=cli.number(float, least=0),
        default=30,
        metavar="N",
        help="frames per second, as in ffmpeg -r, or 0 for all frames (default: 30)",
    )
    parser.add_argument(
        "--quality",
        type=cli.number(int, least=1, most=100),
        default=95,
        metavar="N",
        help="quality of the JPEG files, 1 to 100 (default: 95)",
    )
    parser.add_argument(
        "--template",
        default="{:05d}.jpg",
        help="file name of a frame, with its number from 1 (default: {:05d}.jpg)",
    )
    _add_conversion_arguments(parser)


def _add_conversion_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("videos", type=cli.path, help="folder of the videos, at any depth")
    parser.add_argument("out", type=cli.path, help="folder of the results, with same subfolders")
    cli.add_workers(parser)


def _pattern(text: str) -> str:
    """Return a regular expression, as a type for argparse."""
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from error
    return text
