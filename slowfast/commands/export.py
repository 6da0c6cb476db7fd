"""Export a trained model for programs without this package, and compare the file with the model.

WEIGHTS is a checkpoint or another file of weights, the OUTPUT_DIR of a run, an exported folder, a
published name or hf:org/name. The file takes batches of any size. Class names, clip settings and
normalization are in its metadata. It is written if its scores equal those of the model.

Exit status: 0 the file is written, 1 it is not, 2 wrong usage.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from slowfast.commands import cli
from slowfast.utils import plugins
from slowfast.utils.text import count, printable

if TYPE_CHECKING:
    from torch import Tensor

    from slowfast.exporting.capture import ExportOptions
    from slowfast.exporting.formats import Session
    from slowfast.inference.classifier import Classifier

FORMATS = ("pt2", "onnx")

_NUM_CLIPS = 12  # one batch of each size: 1, 3 and 8
_NUM_OTHER_CLIPS = 3  # of the second frame size
_EXTRA_WIDTH = 32  # pixels by which the second frame size is wider


def main(arguments: Sequence[str] | None = None) -> int:
    """Export the model, compare it, write the file, and return the exit status."""
    args = _make_parser().parse_args(arguments)
    return cli.run(lambda: _export(args))


def _make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    parser.add_argument("weights", metavar="WEIGHTS", help="trained model")
    parser.add_argument(
        "--format",
        required=True,
        choices=FORMATS,
        help="pt2 for torch, or onnx for ONNX Runtime and others (extra [export])",
    )
    parser.add_argument(
        "--out",
        type=cli.path,
        metavar="FILE",
        help="new file (default: the name of WEIGHTS with .pt2 or .onnx, in the current folder)",
    )

    graph = parser.add_argument_group("what the exported model takes and returns")
    graph.add_argument(
        "--uint8",
        action="store_true",
        help="take uint8 pixels and normalize them (default: take normalized float32 frames)",
    )
    graph.add_argument(
        "--softmax", action="store_true", help="return probabilities (default: logits)"
    )
    graph.add_argument(
        "--any-size",
        action="store_true",
        help="take frames of any height and width (default: of the size of the test)",
    )

    check = parser.add_argument_group("comparison with the model")
    check.add_argument(
        "--videos",
        nargs="+",
        metavar="PATH",
        help="videos, folders or patterns to take clips from (default: clips of noise)",
    )
    check.add_argument(
        "--clips",
        type=cli.number(int, least=1),
        default=_NUM_CLIPS,
        metavar="N",
        help=f"clips to compare (default: {_NUM_CLIPS}, batches of 1, 3 and 8)",
    )
    check.add_argument(
        "--tolerance",
        type=cli.number(float, least=0),
        default=1e-4,
        metavar="X",
        help="largest difference of a logit (default: 1e-4)",
    )

    model = parser.add_argument_group("model")
    cli.add_model_options(model)
    plugins.add_argument(parser)
    return parser


def _export(args: argparse.Namespace) -> int:
    suffix = f".{args.format}"
    out = args.out or Path(_name_of(args.weights) + suffix)
    _check_out(out, suffix=suffix)
    videos = _find_videos(args.videos or ())

    from slowfast.exporting.capture import ExportOptions
    from slowfast.exporting.formats import FORMATS, check_installed, export_model
    from slowfast.trained import load
    from slowfast.utils.files import format_bytes, write_file

    check_installed(args.format)
    plugins.import_plugins(args.imports)
    classifier = load(
        args.weights,
        precision="off",
        class_names=args.class_names,
        config=args.cfg,
        best=args.best,
    )
    options = ExportOptions(uint8=args.uint8, softmax=args.softmax, any_size=args.any_size)
    content = export_model(classifier, args.format, options)
    file_format = FORMATS[args.format]
    model = _Pair(classifier, file_format.open(content), options)
    _compare(model, videos, runtime=file_format.runtime, args=args)
    write_file(out, content)
    print(f"{out}: {format_bytes(len(content))}, {_signature(classifier, options)}")
    return 0


class _Pair(NamedTuple):
    """A classifier and the model that was exported from it."""

    classifier: "Classifier"
    session: "Session"
    options: "ExportOptions"


# ---- Arguments -------------------------------------------------------------------------------


def _name_of(weights: str) -> str:
    """Return the name of a file, a folder or a repository without its suffix."""
    path = Path(weights.partition("@")[0] if weights.startswith("hf:") else weights)
    known_suffixes = (".pyth", ".pth", ".pt", ".safetensors")
    return path.stem if path.suffix in known_suffixes else path.absolute().name


def _check_out(out: Path, *, suffix: str) -> None:
    if out.suffix != suffix:
        raise cli.UsageError(f"argument --out: {out} does not end with {suffix}")
    if out.exists():
        raise FileExistsError(f"{out}: exists already. Delete it, or choose another name: --out")


def _find_videos(names: Sequence[str]) -> list[str]:
    """Return the videos that names stand for.

    Raises:
        ValueError: If a name stands for none.
    """
    if not names:
        return []
    from slowfast.inference.input_paths import find_inputs

    videos = []
    for x in chain.from_iterable(map(find_inputs, names)):
        if not isinstance(x, str):
            raise ValueError(x.reason)
        videos.append(x)
    return videos


# ---- Comparison ------------------------------------------------------------------------------


def _compare(
    model: _Pair, videos: Sequence[str], *, runtime: str, args: argparse.Namespace
) -> None:
    """Compare the scores and the times of both models, and print them.

    Raises:
        ValueError: If the scores differ by more than the tolerance.
    """
    import torch

    from slowfast.exporting.parity import measure_latency

    clips = _clips(model, videos, num_clips=args.clips)
    first = next(clips, None)
    if first is None:
        raise ValueError(f"--videos: none of {count(len(videos), 'video')} is readable")
    _check_parity(model, chain([first], clips), is_noise=not videos, tolerance=args.tolerance)
    if model.options.any_size:
        others = _clips(model, videos, num_clips=_NUM_OTHER_CLIPS, extra=_EXTRA_WIDTH)
        _check_parity(model, others, is_noise=not videos, tolerance=args.tolerance)

    latency = measure_latency(model.classifier, model.session, first)
    threads = count(torch.get_num_threads(), "thread")
    print(
        f"time of one clip, {threads}: eager {latency.eager:.1f} ms, "
        f"{runtime} {latency.exported:.1f} ms"
    )


def _clips(
    model: _Pair, videos: Sequence[str], *, num_clips: int, extra: int = 0
) -> Iterator["Tensor"]:
    from slowfast.exporting.clips import noise_clips, read_clips

    classifier, _, options = model
    if not videos:
        return noise_clips(classifier.settings, options, num_clips=num_clips, extra=extra)
    return read_clips(
        classifier,
        options,
        videos,
        num_clips=num_clips,
        report=lambda reason: print(f"unreadable: {printable(reason)}", file=sys.stderr),
        extra=extra,
    )


def _check_parity(
    model: _Pair, clips: Iterator["Tensor"], *, is_noise: bool, tolerance: float
) -> None:
    from slowfast.exporting.parity import compare

    first = next(clips)
    height, width = first.shape[2:]
    parity = compare(model.classifier, model.session, model.options, chain([first], clips))

    origin = "of noise (no --videos)" if is_noise else "of the videos"
    batches = ", ".join(map(str, parity.batch_sizes))
    print(
        f"parity on {count(parity.num_clips, 'clip')} {origin}, {height}x{width}, in batches of "
        f"{batches}: largest difference of a logit {parity.max_difference:.1e}, same top-1 "
        f"{parity.num_same_top1}/{parity.num_clips}"
    )
    if not parity.max_difference <= tolerance:  # it may be NaN
        raise ValueError(
            f"the exported model differs from the trained one by {parity.max_difference:.1e}, more "
            f"than the tolerance {tolerance:.1e}, so no file is written. If that is close enough, "
            "raise --tolerance"
        )


def _signature(classifier: "Classifier", options: "ExportOptions") -> str:
    """Return what an exported model takes and returns: `uint8 frames (...) -> logits (...)`."""
    from slowfast.exporting.description import describe

    description = describe(classifier, options)
    shapes = [", ".join(map(str, description[side]["shape"])) for side in ("input", "output")]
    dtype, name = description["input"]["dtype"], description["output"]["name"]
    return f"{dtype} frames ({shapes[0]}) -> {name} ({shapes[1]})"
