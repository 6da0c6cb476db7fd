"""The command `slowfast`: each of its sub-commands is a command of `tools/`."""

import argparse
import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple, NoReturn

from slowfast import __version__
from slowfast.commands import cli
from slowfast.utils.threads import leave


class Command(NamedTuple):
    """A sub-command."""

    module: str  # name of the module in slowfast.commands
    summary: str
    arguments: tuple[str, ...] = ()  # arguments that come before those of the user


COMMANDS = {
    "doctor": Command("doctor", "check this machine and what is missing"),
    "make-motion": Command("make_motion", "write the small dataset of the quickstart"),
    "prepare-data": Command("prepare_data", "make lists, splits and small copies of videos"),
    "check-data": Command("check_data", "read all videos of an experiment once"),
    "show-views": Command("show_views", "show what the model sees of a video"),
    "train": Command("run_net", "train a classifier and test it"),
    "test": Command("run_net", "test a classifier", ("TRAIN.ENABLE", "False")),
    "submit": Command("submit", "train and test as a Slurm job"),
    "predict": Command("predict", "classify videos, cameras and streams"),
    "explain": Command("explain", "show what a classifier looks at"),
    "features": Command("features", "extract the features of videos"),
    "probe": Command("probe", "train heads on extracted features"),
    "report": Command("report", "write the page of a test result"),
    "compare": Command("compare", "compare test results"),
    "ensemble": Command("ensemble", "combine test results"),
    "calibrate": Command("calibrate", "fit the temperature of a classifier"),
    "serve": Command("serve", "serve a page to try classifiers"),
    "export": Command("export", "export a classifier to pt2 or ONNX"),
    "export-weights": Command("export_weights", "write a classifier to share"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0].startswith("-"):
        _make_parser().parse_args(words or ["--help"])

    name, *rest = words
    if name not in COMMANDS:
        _make_parser().error(f"there is no command {name!r}. {_suggest(name)}")
    command = COMMANDS[name]
    module = import_module(f"slowfast.commands.{command.module}")
    status: int = module.main([*command.arguments, *rest])
    return status


def run() -> NoReturn:
    """Run the installed command `slowfast`."""
    leave(main())


def _suggest(name: str) -> str:
    close = difflib.get_close_matches(name.replace("_", "-"), COMMANDS, n=1)
    return f"The nearest is {close[0]}" if close else f"Choose from {', '.join(COMMANDS)}"


def _make_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    parser = cli.make_parser(
        "\n".join(
            [
                "Train, test and use UniFormer video classifiers.",
                "",
                "commands:",
                *lines,
                "",
                "`slowfast COMMAND --help` describes a command.",
            ]
        )
    )
    parser.prog = "slowfast"
    parser.usage = "slowfast COMMAND [ARGUMENT ...]"
    parser.add_argument("--version", action="version", version=f"slowfast {__version__}")
    return parser
