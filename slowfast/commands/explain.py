"""Show what a trained model looks at in videos.

WEIGHTS is a checkpoint, the OUTPUT_DIR of a run, an exported folder, a published name or
hf:org/name. VIDEO is a video, an address, a folder of videos, a folder of numbered images, or a
pattern. Without VIDEO, WEIGHTS is a run that was tested, and --num-videos videos of its test are
explained: the most confident mistakes, and right predictions of many classes.

For each video, OUT gets NAME.mp4 (the video with its heat map on top), NAME.png (a contact sheet)
and NAME.npz (the map and all numbers). A line on standard output says how fast the probability
falls as the hottest pixels are blurred, beside a random order and a centered Gaussian. The lower,
the better.

A video of the test of WEIGHTS is also added to the gallery in the report of the test, report.html,
unless this page shows no frames of videos.

Exit status: 0 all videos are explained, 1 the work failed, 2 wrong usage, 3 some videos are
unreadable, 130 Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from slowfast.commands import cli
from slowfast.commands.explanation_output import KINDS, ExplanationWriter, describe
from slowfast.utils import plugins
from slowfast.utils.text import count, printable

if TYPE_CHECKING:
    from slowfast.commands.run_gallery import RunGallery
    from slowfast.datasets.records import Span
    from slowfast.evaluation.listed_videos import ListedVideo
    from slowfast.explanation.explanation import Explanation
    from slowfast.inference.classifier import Classifier

INCOMPLETE_STATUS = 3  # exit status: some videos are unreadable
NUM_VIDEOS = 8  # videos of the test that are explained if none is named


class _Item(NamedTuple):
    """A video to explain."""

    path: str
    span: "Span | None" = None
    listed: "ListedVideo | None" = None  # the video in the list of the test
    problem: str = ""  # why it is unreadable


def main(arguments: Sequence[str] | None = None) -> int:
    """Explain, write the files, and return the exit status."""
    args = _make_parser().parse_args(arguments)
    return cli.run(lambda: _run(args))


def _make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    parser.add_argument("weights", metavar="WEIGHTS", help="the trained model")
    parser.add_argument("videos", nargs="*", metavar="VIDEO", help="the videos")

    parser.add_argument(
        "--num-videos",
        type=cli.number(int, least=1),
        metavar="N",
        help=f"videos of the test to explain if you name none (default: {NUM_VIDEOS})",
    )
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
        choices=KINDS,
        help="kind of output to write, may be repeated (default: all)",
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

    if args.videos and args.num_videos:
        raise cli.UsageError(
            "argument --num-videos: it is for videos of the test, but you name some"
        )
    plugins.import_plugins(args.imports)
    classifier = cli.load_classifier(args.weights, args)
    target = _find_target(args.target, classifier)
    gallery, items = _find_items(classifier, args)
    names = _names([item.path for item in items])

    kinds = args.only or KINDS
    writer = ExplanationWriter(args.out, kinds=kinds, classifier=classifier, fps=args.fps)
    writer.check(names, inputs=[args.weights, *(item.path for item in items)])

    num_unreadable = 0
    for item, name in zip(items, names, strict=True):
        try:
            if item.problem:
                raise DecodeError(item.problem)
            explanation = _explain(classifier, item, target, args)
            writer.write(explanation, item.path, name=name, listed=item.listed, gallery=gallery)
        except DecodeError as error:
            print(f"unreadable: {printable(str(error))}", file=sys.stderr)
            num_unreadable += 1
            continue
        print(printable(describe(explanation)), flush=True)

    if gallery:
        gallery.show()
    if not num_unreadable:
        return 0
    print(f"not explained: {num_unreadable} of {count(len(items), 'video')}", file=sys.stderr)
    return cli.FAILED if num_unreadable == len(items) else INCOMPLETE_STATUS


def _find_items(
    classifier: "Classifier", args: argparse.Namespace
) -> "tuple[RunGallery | None, list[_Item]]":
    """Return the gallery of the test, if it is wanted and there is one, and what to explain."""
    from slowfast.commands.run_gallery import open_gallery

    gallery, problem = None, ""
    adds = "gallery" in (args.only or KINDS)
    if adds or not args.videos:
        try:
            gallery, problem = open_gallery(classifier, adds=adds)
        except (OSError, ValueError) as error:
            if not args.videos or args.only:
                raise
            print(f"note: no gallery: {printable(str(error))}", file=sys.stderr)

    if args.videos:
        return gallery, _find_named(gallery, problem, args)
    if gallery is None:
        raise cli.UsageError(
            f"name a VIDEO. Without one, videos of the test are explained, but {problem}"
        )

    chosen = gallery.choose(args.num_videos or NUM_VIDEOS)
    return gallery, [_Item(video.path, video.span, video) for video in chosen]


def _find_named(
    gallery: "RunGallery | None", problem: str, args: argparse.Namespace
) -> list[_Item]:
    """Return the videos that the user names.

    Raises:
        UsageError: If the user asks for the gallery, and a video cannot be there.
    """
    from slowfast.inference.input_paths import find_inputs
    from slowfast.inference.predictions import Unreadable

    items = []
    inputs = list(chain.from_iterable(map(find_inputs, args.videos)))
    paths = [x for x in inputs if isinstance(x, str)]
    listed = gallery.find(paths) if gallery else {}
    for x in inputs:
        if isinstance(x, Unreadable):
            items.append(_Item(x.path, problem=x.reason))
        else:
            items.append(_Item(x, listed=listed.get(x)))

    if "gallery" in (args.only or ()):
        if gallery is None:
            raise cli.UsageError(f"argument --only: there is no gallery, since {problem}")
        for item in items:
            if not item.listed and not item.problem:
                raise cli.UsageError(f"argument --only: the test has no video {item.path}")
    return items


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


def _explain(
    classifier: "Classifier", item: _Item, target: int | None, args: argparse.Namespace
) -> "Explanation":
    return classifier.explain(
        item.path,
        target=target,
        method=args.method,
        stage=args.stage,
        clips=args.clips,
        crops=args.crops,
        fps=args.fps,
        span=item.span,
        num_steps=args.steps,
        order=args.order,
    )
