"""Classify videos with a trained model.

WEIGHTS is a checkpoint, the OUTPUT_DIR of a run, an exported folder, a published name or
hf:org/name. PATH is a video, an address, a folder, a pattern, or - for a list of paths on standard
input. A folder stands for the videos below it, and a folder of numbered images is one video.

A path is predicted as often as you name it. Results appear as they come. With --out they appear at
the end, whole or not at all, and Ctrl-C keeps what is done.

Exit status: 0 all inputs are predicted, 1 the work failed, 2 wrong usage, 3 some inputs are not
predicted or a stream was lost, 130 Ctrl-C or SIGTERM. A stream ends with 0 on Ctrl-C or SIGTERM.
"""

import argparse
import contextlib
import io
import math
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from types import FrameType
from typing import TYPE_CHECKING

from slowfast.commands import cli
from slowfast.utils import plugins
from slowfast.utils.text import count, printable

if TYPE_CHECKING:
    from tqdm import tqdm  # type: ignore[import-untyped]

    from slowfast.commands.prediction_output import Output, Record
    from slowfast.inference.classifier import Classifier
    from slowfast.inference.predictions import Unreadable
    from slowfast.inference.streams import StreamWindow
    from slowfast.inference.windows import Window

INCOMPLETE_STATUS = 3  # exit status: some inputs have no prediction
BROKEN_PIPE_STATUS = 141  # exit status: the reader of the results went away, as a shell reports it

STREAM_SCHEMES = ("rtsp://", "rtsps://", "rtmp://", "rtp://", "srt://", "tcp://", "udp://")
CLIP = "clip"  # --window clip

_BATCH = 64  # inputs that are read ahead of a GPU


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict, write the results, and return the exit status."""
    parser = _make_parser()
    args = parser.parse_args(arguments)
    _check_usage(parser, args)
    with _stopping_on_sigterm():
        return cli.run(lambda: _run(args))


def _make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    parser.add_argument("weights", metavar="WEIGHTS", help="the trained model")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="the videos")

    at_least_1 = cli.number(int, least=1)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--top", type=at_least_1, default=5, metavar="N", help="classes to name (default: 5)"
    )
    formats = output.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_true", help="write one JSON object per line")
    formats.add_argument("--csv", action="store_true", help="write a table")
    output.add_argument(
        "--out", type=cli.path, metavar="FILE", help="file to write (default: standard output)"
    )
    output.add_argument(
        "--annotate",
        type=cli.path,
        metavar="FILE.mp4",
        help="video to write, a copy of the input with labels and a score curve, without sound",
    )

    model = parser.add_argument_group("model")
    model.add_argument("--clips", type=at_least_1, metavar="N", help="clips (default: as its test)")
    model.add_argument("--crops", type=int, choices=(1, 3), help="crops (default: as its test)")
    model.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    model.add_argument(
        "--precision", choices=("off", "bf16", "fp16", "auto"), help="(default: as its test)"
    )
    cli.add_model_options(model)
    model.add_argument(
        "--calibrated", action="store_true", help="use the temperature of the weights"
    )
    plugins.add_argument(parser)
    _add_windows(parser)
    return parser


def _add_windows(parser: argparse.ArgumentParser) -> None:
    windows = parser.add_argument_group(
        "long videos and streams", "lengths are seconds, or end with ms, s, min or h"
    )
    windows.add_argument(
        "--window",
        type=_window,
        metavar="T",
        help="predict each section of this length, or `clip` for the span of a clip",
    )
    windows.add_argument(
        "--stride",
        type=cli.seconds,
        metavar="T",
        help="length from one window to the next (default: the window)",
    )
    windows.add_argument(
        "--segments", action="store_true", help="merge windows of the same class into segments"
    )
    windows.add_argument(
        "--smooth",
        type=cli.number(int, least=1),
        metavar="N",
        help="odd number of windows whose mean decides the class of a segment (default: 1)",
    )
    windows.add_argument(
        "--min-length", type=cli.seconds, metavar="T", help="minimum length of a segment"
    )
    windows.add_argument(
        "--fps",
        type=cli.number(float, least=0.001),
        metavar="N",
        help="frames per second of folders of images",
    )
    windows.add_argument(
        "--stream",
        action="store_true",
        help="read the input as a stream, such as /dev/video0. RTSP, TCP, UDP, RTMP, RTP and SRT "
        "addresses always are",
    )
    windows.add_argument(
        "--retries",
        type=cli.number(int, least=0),
        default=5,
        metavar="N",
        help="attempts to connect to a stream again (default: 5)",
    )


def _window(text: str) -> float | str:
    return CLIP if text == CLIP else cli.seconds(text)


_window.__name__ = "length"


def _check_usage(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with an error if options do not fit together, and complete them."""
    streams = [path for path in args.paths if path.startswith(STREAM_SCHEMES)]
    args.stream = args.stream or bool(streams) or args.paths[0].startswith("/dev/video")
    if args.stream and len(args.paths) > 1:
        parser.error("name a single stream")
    if args.stream and args.paths == ["-"]:
        parser.error("argument --stream: standard input is a list of paths. Name an address")

    if args.min_length is not None or args.smooth is not None:
        if not args.segments:
            parser.error("--smooth and --min-length need --segments")
        if (args.smooth or 1) % 2 == 0:
            parser.error(f"argument --smooth: {args.smooth} is even. Use an odd number, such as 3")
    args.windows = args.stream or args.segments or bool(args.window or args.stride)

    if args.annotate is not None:
        if args.annotate.suffix.lower() != ".mp4":
            parser.error(f"argument --annotate: {args.annotate} does not end with .mp4")
        if args.annotate.is_dir():
            parser.error(f"argument --annotate: {args.annotate} is a directory")
        if len(args.paths) > 1 or args.paths == ["-"] or args.stream:
            parser.error("argument --annotate: name a single video")
    if args.paths.count("-") > 1:
        parser.error("- can be named once")
    inputs = {os.path.realpath(path) for path in [args.weights, *args.paths]}
    for option, path in (("--out", args.out), ("--annotate", args.annotate)):
        if path is not None and os.path.realpath(path) in inputs:
            parser.error(f"argument {option}: {path} is an input. Name another file")


@contextlib.contextmanager
def _stopping_on_sigterm() -> Iterator[None]:
    """Make SIGTERM what Ctrl-C is, if this is the main thread."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # another thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# ---- Work ------------------------------------------------------------------------------------


def _run(args: argparse.Namespace) -> int:
    from slowfast.commands.prediction_output import Output, open_output

    plugins.import_plugins(args.imports)
    for file in (sys.stdin, sys.stdout):
        if isinstance(file, io.TextIOWrapper):
            file.reconfigure(errors="surrogateescape")  # names of files may not be UTF-8
    classifier = cli.load_classifier(args.weights, args, precision=args.precision)
    if args.windows and args.window in (None, CLIP) and classifier.settings.sampling != "dense":
        raise cli.UsageError(
            "the clips of this model span whole videos. Give --window the length of an action"
        )

    kind = "video"
    if args.windows:
        kind = "stream" if args.stream else "window"
    if args.segments:
        kind = "segment"
    output_format = "json" if args.json else "csv" if args.csv else "text"
    try:
        with open_output(args.out) as write:
            top = min(args.top, len(classifier.class_names))
            output = Output(output_format, kind=kind, top=top, write=write)
            if args.stream:
                return _predict_stream(classifier, output, args)
            return _predict_inputs(classifier, output, args)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE_STATUS


def _predict_inputs(classifier: "Classifier", output: "Output", args: argparse.Namespace) -> int:
    """Predict all inputs, write the records, and return the exit status."""
    from slowfast.inference.input_paths import batches_as_they_come

    inputs, total = _find_inputs(args.paths)
    if args.annotate is not None and total != 1:
        raise cli.UsageError(f"--annotate: {args.paths[0]} holds {total} videos. Name one")
    most = 1 if classifier.device.type == "cpu" else _BATCH
    num_inputs = num_unreadable = 0
    kept: list[Record] = []  # for the annotated video

    with _progress(total) as bar:
        for batch in batches_as_they_come(inputs, most=most):
            for records in _predict_batch(classifier, batch, args):
                is_read = True
                for record in records:
                    fields = record.as_json()
                    if bar is not None and "end" in fields:
                        bar.set_postfix_str(f"at {fields['end']:.0f} s")
                    if reason := fields.get("reason"):
                        print(f"unreadable: {printable(reason)}", file=sys.stderr)
                        is_read = False
                    elif args.annotate is not None:
                        kept.append(record)
                    output.write(record)
                num_inputs += 1
                num_unreadable += not is_read
                if bar is not None:
                    bar.update()

    if not num_inputs:
        raise ValueError("standard input names no videos. Give one path per line")
    if kept:
        _annotate(classifier, kept, args)
    if not num_unreadable:
        return 0
    number = f"{num_unreadable} of {count(num_inputs, 'input')}"
    print(f"not predicted, or not as a whole: {number}", file=sys.stderr)
    return INCOMPLETE_STATUS


def _find_inputs(paths: Sequence[str]) -> tuple[Iterable["str | Unreadable"], int | None]:
    """Return the videos that paths stand for, and their number if it is known."""
    from slowfast.inference.input_paths import find_inputs, read_names

    names: Iterable[str] = paths
    if "-" in paths:
        names = chain.from_iterable(
            read_names(sys.stdin) if path == "-" else [path] for path in paths
        )
    inputs = chain.from_iterable(map(find_inputs, names))
    if "-" in paths:
        return inputs, None
    found = list(inputs)
    return found, len(found)


def _predict_batch(
    classifier: "Classifier", batch: Sequence["str | Unreadable"], args: argparse.Namespace
) -> Iterator[Iterable["Record"]]:
    """Iterate over the records of each input."""
    named = [x for x in batch if isinstance(x, str)]
    if args.windows:
        predicted = (_predict_windows(classifier, path, args) for path in named)
    else:
        predictions = classifier.predict_each(
            named,
            top=args.top,
            clips=args.clips,
            crops=args.crops,
            fps=args.fps,
            calibrated=args.calibrated,
            # The scores of a video then do not depend on the others.
            fills_passes=classifier.device.type != "cpu",
        )
        predicted = (iter([prediction]) for prediction in predictions)
    for x in batch:
        yield next(predicted) if isinstance(x, str) else [x]


def _predict_windows(
    classifier: "Classifier", path: str, args: argparse.Namespace
) -> Iterator["Record"]:
    """Iterate over the windows or the segments of a video."""
    from slowfast.datasets.decode import DecodeError
    from slowfast.inference.predictions import Unreadable

    windows = classifier.predict_windows(
        path,
        window=None if args.window == CLIP else args.window,
        stride=args.stride,
        top=args.top,
        clips=args.clips or 1,
        crops=args.crops,
        fps=args.fps,
        calibrated=args.calibrated,
    )
    try:
        yield from _merge(windows, classifier, args)
    except DecodeError as error:
        yield Unreadable(path, str(error))


def _predict_stream(classifier: "Classifier", output: "Output", args: argparse.Namespace) -> int:
    """Predict a stream until it is lost or the user stops it, and return the exit status."""
    from slowfast.inference.streams import StreamLostError

    num_windows = num_dropped = 0

    def counted() -> Iterator["StreamWindow"]:
        nonlocal num_windows, num_dropped
        for window in classifier.predict_stream(
            args.paths[0],
            window=None if args.window == CLIP else args.window,
            stride=args.stride,
            top=args.top,
            clips=args.clips or 1,
            crops=args.crops,
            calibrated=args.calibrated,
            retries=args.retries,
            report=lambda text: print(printable(text), file=sys.stderr, flush=True),
        ):
            num_windows += 1
            num_dropped += window.num_dropped
            yield window

    status = 0
    try:
        for record in _merge(counted(), classifier, args):
            output.write(record)
    except KeyboardInterrupt:
        pass
    except StreamLostError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        status = INCOMPLETE_STATUS if num_windows else cli.FAILED

    numbers = f"{count(num_windows, 'window')}, {count(num_dropped, 'frame')} dropped"
    print(f"the stream has ended: {numbers}", file=sys.stderr)
    return status


def _merge(
    windows: Iterator["Window"] | Iterator["StreamWindow"],
    classifier: "Classifier",
    args: argparse.Namespace,
) -> Iterator["Record"]:
    """Return the windows, or the segments with --segments."""
    from slowfast.inference.segments import merge_windows

    if not args.segments:
        return windows
    return merge_windows(
        windows,
        classifier.class_names,
        smooth=args.smooth or 1,
        min_seconds=args.min_length or 0.0,
    )


def _annotate(
    classifier: "Classifier", records: Sequence["Record"], args: argparse.Namespace
) -> None:
    """Write the annotated video of a single input."""
    from slowfast.inference.inputs import open_input
    from slowfast.visualization.annotated_video import Mark, write_annotated_video

    marks, curve = [], []
    for fields in (record.as_json() for record in records):
        best = fields["top"][0] if "top" in fields else fields
        start, end = fields.get("start", 0.0), fields.get("end", math.inf)
        marks.append(Mark(start, end, best["label"], best["probability"]))
        for clip in fields.get("clips", ()):
            if clip["start"] is not None:
                curve.append(Mark(clip["start"], clip["end"], best["label"], clip["probability"]))

    settings = classifier.settings
    source = open_input(
        records[0].as_json()["path"],
        bgr=False,
        template=settings.image_template,
        allow_truncated=settings.allow_truncated,
        max_pixels=settings.max_frame_pixels,
    )
    with source:
        write_annotated_video(source, args.annotate, marks, curve=curve, fps=args.fps)


@contextlib.contextmanager
def _progress(total: int | None) -> Iterator["tqdm | None"]:
    """Show a progress bar if standard error is a terminal, and yield it."""
    if not sys.stderr.isatty():
        yield None
        return

    from slowfast.utils.progress_bar import progress_bar

    with progress_bar("predict", total=total, unit="video") as bar:
        yield bar
