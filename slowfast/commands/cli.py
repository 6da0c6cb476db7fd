"""What all commands share: common options, exit statuses and errors.

A command parses its arguments before it imports anything slow, so `--help` and wrong usage take no
time.
"""

import argparse
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from slowfast.preparation.splits import SPLITS
from slowfast.utils import plugins
from slowfast.utils.command_names import is_slowfast_command
from slowfast.utils.text import printable

if TYPE_CHECKING:
    from slowfast.inference.classifier import Classifier

FAILED = 1  # exit status: the work failed
WRONG_USAGE = 2  # exit status: the arguments are wrong, as in argparse
INTERRUPTED = 130  # exit status: Ctrl-C

_RESULT_HELP = "OUTPUT_DIR of a test, or its folder test"

Number = TypeVar("Number", int, float)
Parser = argparse.ArgumentParser | argparse._ArgumentGroup


class UsageError(ValueError):
    """Wrong arguments that argparse cannot detect."""


def run(work: Callable[[], int], *, interrupted: str = "stopped") -> int:
    """Run the work of a command and return the exit status.

    Errors that the user can fix are printed. All others keep their traceback.

    Args:
        work: A function that returns the exit status.
        interrupted: The line to print after Ctrl-C.
    """
    try:
        return work()
    except KeyboardInterrupt:
        print(f"\n{interrupted}", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError, FloatingPointError) as error:
        return report(error)


def report(error: Exception) -> int:
    """Print an error that the user can fix and return the exit status of the command."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename and not error.filename2:
        message = f"{os.fsdecode(error.filename)}: {error.strerror}"  # not "[Errno 2] ...: 'name'"
    print(f"error: {printable(message or type(error).__name__)}", file=sys.stderr)
    return WRONG_USAGE if isinstance(error, UsageError) else FAILED


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that prints its description as it is written."""
    return argparse.ArgumentParser(
        prog=_program_name(),
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _program_name() -> str | None:
    """Return `slowfast COMMAND` in a sub-command of `slowfast`, otherwise None."""
    if len(sys.argv) > 1 and is_slowfast_command():
        return f"slowfast {sys.argv[1]}"
    return None


def make_experiment_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser for a command with a config: `--cfg FILE --import MODULE KEY VALUE ...`.

    Parse with `parse_intermixed_args`, so options may follow the config keys.
    """
    parser = make_parser(description)
    parser.add_argument("--cfg", required=True, help="YAML file of the experiment")
    plugins.add_argument(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to override")
    return parser


def add_splits(parser: argparse.ArgumentParser, *, purpose: str) -> None:
    """Add `--splits SPLIT ...`. Pass the command line through `repeat_option` before parsing it."""
    parser.add_argument(
        "--splits",
        action="append",
        choices=SPLITS,
        metavar="SPLIT",
        help=f"splits to {purpose}, one or more of {', '.join(SPLITS)} (default: all)",
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add `--workers N`."""
    parser.add_argument(
        "--workers",
        type=number(int, least=1),
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="number of processes (default: one per core)",
    )


def add_model_options(parser: Parser) -> None:
    """Add the options of a command that loads a trained model with `slowfast.load`."""
    parser.add_argument(
        "--best", action="store_true", help="best.pyth of a run (default: its newest checkpoint)"
    )
    parser.add_argument(
        "--cfg", metavar="FILE", help="YAML file of the experiment, for weights without a config"
    )
    parser.add_argument(
        "--class-names", metavar="FILE", help="names of the classes, for weights without them"
    )


def add_result(parser: argparse.ArgumentParser) -> None:
    """Add the argument `result`: a finished test."""
    parser.add_argument("result", type=path, metavar="RESULT_DIR", help=_RESULT_HELP)


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add the argument `results`: one finished test or more."""
    parser.add_argument("results", nargs="+", type=path, metavar="RESULT_DIR", help=_RESULT_HELP)


def path(text: str) -> Path:
    """Return a path for argparse and expand `~`, which the shell leaves in `--out=~/views.png`."""
    return Path(text).expanduser()


def number(
    kind: Callable[[str], Number],
    *,
    least: float,
    most: float = math.inf,
) -> Callable[[str], Number]:
    """Return a type for argparse: a number from `least` to `most`."""

    def parse(text: str) -> Number:
        value = kind(text)
        if not least <= value <= most:
            bounds = f"{least} or more" if most == math.inf else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"{text} is out of range. Use {bounds}")
        return value

    parse.__name__ = "number" if kind is float else "whole number"  # argparse uses it in messages
    return parse


def seconds(text: str) -> float:
    """Return a length of time for argparse, in seconds: `2`, `2s`, `500ms`, `1.5min` or `1h`."""
    units = {"": 1.0, "s": 1.0, "ms": 0.001, "min": 60.0, "h": 3600.0}
    match = re.fullmatch(r"([0-9.eE+-]+) *([a-z]*)", text)
    try:
        value = float(match[1]) * units[match[2]] if match else math.nan
    except (KeyError, ValueError):
        value = math.nan
    if not 0.001 <= value < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no length of 1 ms or more. Use seconds such as 2 or 0.5, or a unit: "
            "500ms, 2s, 1.5min, 1h"
        )
    return value


def repeat_option(
    arguments: Sequence[str] | None, option: str, values: Collection[str]
) -> list[str]:
    """Return a command line with an option in front of each of its values.

    `--splits train val KEY VALUE` becomes `--splits train --splits val KEY VALUE`. Otherwise,
    argparse takes all four words as values of the option.

    Args:
        arguments: The words after the name of the command, or None for those of this process.
        option: The name of an option with `action="append"`.
        values: The words that are its values.
    """
    words: list[str] = []
    is_after_value = False
    for word in sys.argv[1:] if arguments is None else arguments:
        if is_after_value and word in values:
            words.append(option)
        is_after_value = (bool(words) and words[-1] == option) or word.startswith(f"{option}=")
        words.append(word)
    return words


def load_classifier(
    weights: str, args: argparse.Namespace, *, precision: str | None = None
) -> "Classifier":
    """Return the classifier of some weights, on the device that a command names.

    Args:
        weights: What `slowfast.load` opens.
        args: Arguments `device` (None for a GPU if there is one), `class_names`, `cfg` and `best`.
        precision: Precision of the forward passes. None for that of the test.

    Raises:
        UsageError: If there is no such device.
        OSError, ValueError: If the weights cannot be loaded, see `slowfast.load`.
    """
    import torch

    from slowfast.inference.classifier import usable_device
    from slowfast.trained import load

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        usable_device(device)
    except ValueError as error:
        raise UsageError(f"argument --device: {error}") from error
    return load(
        weights,
        device=device,
        precision=precision,
        class_names=args.class_names,
        config=args.cfg,
        best=args.best,
    )
