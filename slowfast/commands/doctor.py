"""Check this machine: versions, devices, codecs, limits, disks, caches and what is missing.

Prints one line for each check: ok, warning or failed, what it means, and what to do about it. The
output holds no names of people and machines, so you can paste it into a bug report.

Exit status: 0 nothing failed, so training works here, 1 something failed, 2 wrong usage.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from slowfast.commands import cli
from slowfast.utils.text import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the checks, print the report and return the exit status."""
    args = _make_parser().parse_args(arguments)
    return cli.run(lambda: _diagnose(args))


def _make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON, for a bug report")
    parser.add_argument(
        "--output-dir",
        type=cli.path,
        default=Path(),
        metavar="DIR",
        help="folder to which runs will write (default: the current folder)",
    )
    return parser


def _diagnose(args: argparse.Namespace) -> int:
    from slowfast.diagnosis.checks import as_plain_data, diagnose, worst_status
    from slowfast.diagnosis.finding import FAILED
    from slowfast.diagnosis.report import format_finding, format_summary

    findings = {}
    for name, finding in diagnose(args.output_dir):
        findings[name] = finding
        if not args.json:
            print(printable(format_finding(name, finding)), flush=True)

    if args.json:
        print(json.dumps(as_plain_data(findings), indent=1, allow_nan=False))
    else:
        print(format_summary(findings))
    return cli.FAILED if worst_status(findings) == FAILED else 0
