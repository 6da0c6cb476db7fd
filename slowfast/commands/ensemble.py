"""Combine tests of several checkpoints on the same list into a result of its own.

A, B and C are results: the OUTPUT_DIR of a test, or its folder test. Their scores are averaged, and
nothing is decoded or computed again. The result in DIR has the files of a test, so it can be
compared and combined in turn.

Exit status: 0 written, or finished before, 1 a result is missing, damaged or of another list, 2
wrong usage, 3 written, but some videos have no scores (0 with --allow-unscored).
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from slowfast.commands import cli
from slowfast.utils.text import count, printable

if TYPE_CHECKING:
    from slowfast.evaluation.result import Result

UNSCORED_STATUS = 3  # as that of run_net.py
MAX_REASONS = 10  # videos without scores that are printed, predictions.parquet lists all of them


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the ensemble, print its metrics, and return the exit status."""
    args = _make_parser().parse_args(arguments)
    return cli.run(
        lambda: _combine(args), interrupted="stopped. The same command continues the ensemble"
    )


def _make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    cli.add_results(parser)
    parser.add_argument(
        "--output",
        required=True,
        type=cli.path,
        metavar="DIR",
        help="folder of the result, a new or empty one",
    )
    parser.add_argument(
        "--combine",
        choices=("logits", "probabilities"),
        default="logits",
        help="what is averaged, over the views and then over the results (default: logits)",
    )

    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--weights",
        nargs="+",
        type=float,
        metavar="W",
        help="weight of each result, 0 or more (default: equal ones)",
    )
    weights.add_argument(
        "--tune",
        nargs="+",
        type=cli.path,
        metavar="RESULT_DIR",
        help="tests of the same checkpoints on another list, in the same order: choose the weights "
        "that minimize the NLL there",
    )
    parser.add_argument(
        "--allow-unscored",
        action="store_true",
        help="exit with status 0 although some videos have no scores",
    )
    return parser


def _combine(args: argparse.Namespace) -> int:
    from slowfast.evaluation.console_table import format_table
    from slowfast.evaluation.ensemble import make_ensemble, normalize_weights, write_ensemble
    from slowfast.evaluation.report.page import write_report
    from slowfast.evaluation.result import REPORT_NAME, open_result, parse_metrics

    num_members = len(args.results)
    given = [1.0] * num_members if args.weights is None else args.weights
    try:
        weights = normalize_weights(given, num_members=num_members)
    except ValueError as error:
        raise cli.UsageError(f"argument --weights: {error}") from error

    members = [open_result(path) for path in args.results]
    if args.tune is not None:
        weights = _tune(members, [open_result(path) for path in args.tune], combine=args.combine)
    ensemble = make_ensemble(members, weights=weights, combine=args.combine)
    is_new = write_ensemble(ensemble, args.output)

    result = open_result(args.output)
    metrics = parse_metrics(result.metrics)
    title = f"ensemble of {count(num_members, 'result')}, {args.combine}"
    print(format_table(metrics, title=title))
    print(printable(f"scores, predictions and metrics: {args.output}"))
    report = args.output / REPORT_NAME
    if not report.exists():
        write_report(args.output, training=None, thumbnails=None)
    print(printable(f"report: {report}"))
    if not is_new:
        print("this ensemble was finished before")

    _print_unscored(result)
    is_complete = args.allow_unscored or metrics.num_scored == metrics.num_videos
    return 0 if is_complete else UNSCORED_STATUS


def _tune(
    members: Sequence["Result"], tuning: Sequence["Result"], *, combine: str
) -> tuple[float, ...]:
    from slowfast.evaluation.ensemble_weights import check_same_members, choose_weights

    check_same_members(members, tuning)
    tuned = choose_weights(tuning, combine=combine)
    weights = " ".join(f"{weight:g}" for weight in tuned.weights)
    print(
        f"weights: {weights}, chosen on {count(tuned.num_videos, 'video')}, where the NLL is "
        f"{tuned.nll:.4f} (with equal weights {tuned.equal_nll:.4f})"
    )
    return tuned.weights


def _print_unscored(result: "Result") -> None:
    import pyarrow.compute as pc

    from slowfast.evaluation.predictions import SCORED

    videos = result.predictions("status", "reason")
    reasons = videos.filter(pc.not_equal(videos["status"], SCORED))["reason"]
    for reason in reasons.slice(0, MAX_REASONS).to_pylist():
        print(printable(f"not scored: {reason}"), file=sys.stderr)
    if len(reasons) > MAX_REASONS:
        print(f"not scored: {len(reasons) - MAX_REASONS} more", file=sys.stderr)
