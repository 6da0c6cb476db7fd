"""Compare tests of the same list.

A, B and C are results: the OUTPUT_DIR of a test, or its folder test. Prints their accuracies side
by side. For B and every later one, it prints the difference from A with its interval, McNemar's
test, the classes that changed most, and the videos that changed.

Exit status: 0 compared, 1 a result is missing, damaged or of another list, 2 wrong usage.
"""

import argparse
from collections.abc import Sequence

from slowfast.commands import cli
from slowfast.utils.text import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison, write what is asked for, and return the exit status."""
    args = _make_parser().parse_args(arguments)
    return cli.run(lambda: _compare(args))


def _make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    cli.add_results(parser)
    parser.add_argument(
        "--rows",
        type=cli.number(int, least=0),
        default=10,
        metavar="N",
        help="rows to print of each list of classes or videos (default: 10)",
    )
    parser.add_argument(
        "--html", type=cli.path, metavar="FILE", help="page to write, a single HTML file"
    )
    parser.add_argument(
        "--csv", type=cli.path, metavar="FILE", help="table to write, with all changed videos"
    )
    return parser


def _compare(args: argparse.Namespace) -> int:
    if len(args.results) < 2:
        raise cli.UsageError("name at least two results to compare")

    from slowfast.evaluation.compare import LETTERS, compare, write_changed_videos
    from slowfast.evaluation.compare_page import write_page
    from slowfast.evaluation.compare_text import format_comparison
    from slowfast.evaluation.result import open_result

    if len(args.results) > len(LETTERS):
        raise cli.UsageError(f"name at most {len(LETTERS)} results to compare")

    comparison = compare([open_result(path) for path in args.results])
    print(format_comparison(comparison, max_rows=args.rows))
    if args.html is not None:
        write_page(args.html, comparison)
        print(printable(f"page: {args.html}"))
    if args.csv is not None:
        write_changed_videos(args.csv, comparison)
        print(printable(f"changed videos: {args.csv}"))
    return 0
