"""Export a trained model to a folder to share, and push it to the Hugging Face Hub.

RUN is the OUTPUT_DIR of a run, a checkpoint or another file of weights, an exported folder, a
published name, or hf:org/name. The new folder OUT has config.json, model.safetensors and a model
card, README.md. `slowfast.load` opens it. If OUT ends in .safetensors or .pth, it is a file with
the weights and the class names alone. See docs/share.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slowfast.commands import cli
from slowfast.distributed import signals
from slowfast.utils import plugins
from slowfast.utils.files import check_is_new
from slowfast.utils.text import count

if TYPE_CHECKING:
    from slowfast.inference.classifier import Classifier
    from slowfast.utils.hub import Repository

SUFFIXES = (".safetensors", ".pth")

_OTHER_SUFFIXES = (".pyth", ".pt", ".pt2", ".ckpt", ".bin", ".onnx")  # of files, not of folders


def main(arguments: Sequence[str] | None = None) -> int:
    """Export the model and return the exit status."""
    args = _make_parser().parse_args(arguments)
    with signals.stopping_on_signals():  # which deletes an unfinished folder
        return cli.run(lambda: _export(args))


def _make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    parser.add_argument("run", metavar="RUN", help="trained model")
    parser.add_argument(
        "output",
        type=cli.path,
        metavar="OUT",
        help="new folder, or a new .safetensors or .pth file",
    )
    cli.add_model_options(parser)
    parser.add_argument(
        "--trained",
        action="store_true",
        help="export the trained weights (default: the EMA weights, if the checkpoint has them)",
    )
    parser.add_argument("--license", default="", metavar="ID", help="license, such as apache-2.0")
    parser.add_argument(
        "--with-frames",
        action="store_true",
        help="show frames of the most confident mistakes of the test, and of the videos that you "
        "explained (default: no frames)",
    )
    parser.add_argument("--push", metavar="ORG/NAME", help="repository on the Hub to push OUT to")
    parser.add_argument(
        "--private",
        action="store_true",
        help="refuse to push to a public repository, and make a new one private",
    )
    parser.add_argument(
        "--revision", default="", metavar="BRANCH", help="branch to push to (default: main)"
    )
    plugins.add_argument(parser)
    return parser


def _export(args: argparse.Namespace) -> int:
    plugins.import_plugins(args.imports)
    is_file = args.output.suffix in SUFFIXES
    _check_usage(args, is_file=is_file)
    check_is_new(args.output)
    if is_file:
        return _export_file(args.run, args.output, best=args.best, trained=args.trained)
    return _export_folder(args)


def _check_usage(args: argparse.Namespace, *, is_file: bool) -> None:
    if args.output.suffix in _OTHER_SUFFIXES:
        raise ValueError(f"{args.output}: the suffix of a weights file is {' or '.join(SUFFIXES)}")
    if not args.push and (args.private or args.revision):
        option = "--private" if args.private else "--revision"
        raise cli.UsageError(f"{option} has no meaning without --push ORG/NAME")

    for name in ("push", "with_frames", "license", "cfg", "class_names"):
        if is_file and getattr(args, name):
            option = f"--{name.replace('_', '-')}"
            raise cli.UsageError(
                f"{option} is for a folder, but {args.output} is a file. Name a folder"
            )


# ---- A file ----------------------------------------------------------------------------------


def _export_file(run: str, output: Path, *, best: bool, trained: bool) -> int:
    from slowfast.models.weight_files import tensors_in
    from slowfast.trained import find_file
    from slowfast.utils.checkpoint import load_checkpoint, save_weights

    path = find_file(run, best=best)
    state = load_checkpoint(path)
    uses_ema = "ema_state" in state and not trained
    weights = tensors_in(state["ema_state"] if uses_ema else state)
    if not weights:
        raise ValueError(f"{path}: holds no weights")
    save_weights(output, weights, class_names=state.get("class_names") or [])

    millions = sum(tensor.numel() for tensor in weights.values()) / 1e6
    ema = ", EMA" if uses_ema else ""
    print(f"{output}: {count(len(weights), 'tensor')}, {millions:.2f} M numbers{ema}")
    return 0


# ---- A folder --------------------------------------------------------------------------------


def _export_folder(args: argparse.Namespace) -> int:
    from slowfast.commands.card_frames import CardFrames, draw_card_frames
    from slowfast.inference.exported import write_exported
    from slowfast.sharing.model_card import CardOptions
    from slowfast.sharing.push import prepare_repository
    from slowfast.trained import load

    repository = _parse_target(args)
    classifier = load(
        args.run,
        best=args.best,
        ema=False if args.trained else None,
        config=args.cfg,
        class_names=args.class_names,
    )
    frames = draw_card_frames(classifier) if args.with_frames else CardFrames([], [], {})
    if repository:
        prepare_repository(repository, private=args.private)

    options = CardOptions(
        repository=str(repository).removeprefix("hf:") if repository else "",
        license=args.license,
        mistakes=frames.mistakes,
        explained=frames.explained,
    )
    found = write_exported(args.output, classifier, options=options, images=frames.images)
    print(f"{args.output}: {_describe(classifier)}")
    if found.problem:
        print(f"note: the model card has no accuracy: {found.problem}", file=sys.stderr)
    if repository:
        _push(args.output, repository)
    return 0


def _parse_target(args: argparse.Namespace) -> "Repository | None":
    from slowfast.utils.hub import parse_repository

    if not args.push:
        return None
    repository = parse_repository(args.push)
    if repository.revision:
        raise cli.UsageError(f"--push is {args.push!r}. Name the branch with --revision")
    return repository._replace(revision=args.revision)


def _describe(classifier: "Classifier") -> str:
    state = classifier.model.state_dict()
    millions = sum(tensor.numel() for tensor in state.values()) / 1e6
    num_classes = count(len(classifier.class_names), "class")
    return f"{classifier.origin.model}, {num_classes}, {millions:.2f} M numbers"


def _push(folder: Path, repository: "Repository") -> None:
    from slowfast.sharing.push import page_address, push_folder

    try:
        commit = push_folder(folder, repository)
    except OSError as error:
        branch = f" --revision {repository.revision}" if repository.revision else ""
        command = f"hf upload {repository.name} {folder} .{branch}"
        raise OSError(f"{error}. {folder} is complete. Push it later with `{command}`") from None
    print(f"{page_address(repository)}: pushed. Load it with")
    print(f'    slowfast.load("hf:{repository.name}@{commit}")')
