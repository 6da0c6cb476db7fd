"""Show what a trained model looks at in videos.

WEIGHTS is a checkpoint, the OUTPUT_DIR of a run, an exported folder, a published name or
hf:org/name. VIDEO is a video, an address, a folder of videos, a folder of numbered images, or a
pattern.

For each video, OUT gets NAME.mp4 (the video with its heat map on top), NAME.png (a contact sheet)
and NAME.npz (the map and all numbers). A line on standard output says how fast the probability
falls as the hottest pixels are blurred, beside a random order and a centered Gaussian. The lower,
the better.

Exit status: 0 all videos are explained, 1 the work failed, 2 wrong usage, 3 some videos are
unreadable, 130 Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from slowfast.commands import cli
from slowfast.utils import plugins
from slowfast.utils.text import count, printable

if TYPE_CHECKING:
    from slowfast.explanation.explanation import Explanation
    from slowfast.inference.classifier import Classifier

INCOMPLETE_STATUS = 3  # exit status: some videos are unreadable
OUTPUTS = ("mp4", "png", "npz")


def main(arguments: Sequence[str] | None = None) -> int:
    """Explain, write the files, and return the exit status."""
    args = _make_parser().parse_args(arguments)
    return cli.run(lambda: _run(args))


def _make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    parser.add_argument("weights", metavar="WEIGHTS", help="the trained model")
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="the videos")

    parser.add_argument(
        "--target", metavar="CLASS", help="name or number of a class (default: the predicted one)"
    )
    parser.add_argument(
        "--method",
        choices=("auto", "grad-cam", "rollout", "scores"),
        default="auto",
        help="(default: the one that suits the model)",
    )
    parser.add_argument(
        "--stage",
        type=cli.number(int, least=1),
        metavar="N",
        help="stage of Grad-CAM (default: the last one that is not too coarse)",
    )
    parser.add_argument(
        "--steps",
        type=cli.number(int, least=0),
        default=10,
        metavar="N",
        help="steps of the deletion and insertion curves, 0 for none (default: 10)",
    )
    parser.add_argument(
        "--order",
        choices=("clip", "frame"),
        default="clip",
        help="take the hottest pixels of each clip first, or the same share of each frame "
        "(default: clip)",
    )

    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        type=cli.path,
        default=Path("explanations"),
        metavar="OUT",
        help="folder of the files (default: explanations)",
    )
    output.add_argument(
        "--only",
        action="append",
        choices=OUTPUTS,
        help="kind of file to write, may be repeated (default: all)",
    )

    at_least_1 = cli.number(int, least=1)
    model = parser.add_argument_group("model")
    model.add_argument("--clips", type=at_least_1, metavar="N", help="clips (default: as its test)")
    model.add_argument("--crops", type=int, choices=(1, 3), help="crops (default: as its test)")
    model.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    model.add_argument(
        "--fps",
        type=cli.number(float, least=0.001),
        metavar="N",
        help="frames per second of folders of images",
    )
    cli.add_model_options(model)
    plugins.add_argument(parser)
    return parser


def _run(args: argparse.Namespace) -> int:
    from slowfast.datasets.decode import DecodeError
    from slowfast.inference.input_paths import find_inputs
    from slowfast.inference.predictions import Unreadable

    plugins.import_plugins(args.imports)
    classifier = cli.load_classifier(args.weights, args)
    target = _find_target(args.target, classifier)
    inputs = list(chain.from_iterable(map(find_inputs, args.videos)))
    paths = [x.path if isinstance(x, Unreadable) else x for x in inputs]
    names = _names(paths)

    _check_outputs([args.out / name for name in names], [args.weights, *paths], args)

    num_unreadable = 0
    for x, name in zip(inputs, names, strict=True):
        try:
            if isinstance(x, Unreadable):
                raise DecodeError(x.reason)
            explanation = _explain(classifier, x, target, args)
            _write(classifier, explanation, args.out / name, args)
        except DecodeError as error:
            print(f"unreadable: {printable(str(error))}", file=sys.stderr)
            num_unreadable += 1
            continue
        print(printable(_describe(explanation)), flush=True)

    if not num_unreadable:
        return 0
    print(f"not explained: {num_unreadable} of {count(len(inputs), 'video')}", file=sys.stderr)
    return cli.FAILED if num_unreadable == len(inputs) else INCOMPLETE_STATUS


def _find_target(target: str | None, classifier: "Classifier") -> int | None:
    """Return the number of the class that is given by its name or its number."""
    from slowfast.inference.explaining import find_class

    if target is None:
        return None
    try:
        names = classifier.class_names
        return find_class(
            int(target) if target.isdigit() and target not in names else target, names
        )
    except ValueError as error:
        raise cli.UsageError(f"argument --target: {error}") from error


def _names(paths: Sequence[str]) -> list[str]:
    """Return the name of the files of each video. Equal names get a number."""
    names: list[str] = []
    for path in paths:
        stem = name = Path(path.rstrip("/")).stem or "video"
        number = 2
        while name in names:
            name = f"{stem}_{number}"
            number += 1
        names.append(name)
    return names


def _check_outputs(stems: Sequence[Path], paths: Sequence[str], args: argparse.Namespace) -> None:
    """Raise an error if a file would replace one of the paths that are read."""
    inputs = {os.path.realpath(path) for path in paths}
    for stem in stems:
        for suffix in args.only or OUTPUTS:
            path = _with(stem, suffix)
            if os.path.realpath(path) in inputs:
                raise cli.UsageError(f"argument --out: {path} is an input. Name another folder")


def _explain(
    classifier: "Classifier", x: str, target: int | None, args: argparse.Namespace
) -> "Explanation":
    return classifier.explain(
        x,
        target=target,
        method=args.method,
        stage=args.stage,
        clips=args.clips,
        crops=args.crops,
        fps=args.fps,
        num_steps=args.steps,
        order=args.order,
    )


def _write(
    classifier: "Classifier", explanation: "Explanation", stem: Path, args: argparse.Namespace
) -> None:
    """Write the files of an explanation. `stem` is their path without a suffix."""
    from slowfast.inference.inputs import open_input
    from slowfast.visualization.explanation_pictures import (
        Explained,
        write_explained_sheet,
        write_explained_video,
    )

    wanted = args.only or OUTPUTS
    explained = Explained(
        f"{explanation.label} {explanation.probability:.1%}",
        _note(explanation),
        explanation.frame,
        explanation.maps.seen_numbers,
        explanation.maps.max_step,
    )
    settings = classifier.settings
    source = open_input(
        explanation.path,
        bgr=False,
        template=settings.image_template,
        allow_truncated=settings.allow_truncated,
        max_pixels=settings.max_frame_pixels,
    )
    with source:
        if "mp4" in wanted:
            write_explained_video(source, _with(stem, "mp4"), explained, fps=args.fps)
        if "png" in wanted:
            write_explained_sheet(source, _with(stem, "png"), explained)
    if "npz" in wanted:
        explanation.save(_with(stem, "npz"))


def _with(stem: Path, suffix: str) -> Path:
    return stem.with_name(f"{stem.name}.{suffix}")  # not with_suffix: a name may have dots


def _note(explanation: "Explanation") -> str:
    method = explanation.method
    if explanation.stage is not None:
        method += f" of stage {explanation.stage}"
    if explanation.curves is None:
        return method
    return f"{method}. {_areas(explanation)}"


def _areas(explanation: "Explanation") -> str:
    assert explanation.curves is not None
    parts = []
    for kind, better in (("deletion", "lower"), ("insertion", "higher")):
        areas = {name: explanation.curves.area(kind, name) for name in explanation.curves.deletion}
        parts.append(
            f"{kind} {areas['map']:.3f} (random {areas['random']:.3f}, gaussian "
            f"{areas['gaussian']:.3f}, {better} is better)"
        )
    return ", ".join(parts)


def _describe(explanation: "Explanation") -> str:
    return (
        f"{explanation.path}: {explanation.label} {explanation.probability:.1%}, "
        f"{_note(explanation)}"
    )
