"""Fit the temperature of a checkpoint to a test of it.

RESULT_DIR is the OUTPUT_DIR of a test, or its folder test. The temperature minimizes the negative
log-likelihood (NLL) of its videos. It is stored beside the weights that were tested, as <weights
file>.temperature.json, and TEST.CALIBRATED True uses it. Test on a list of its own for this, such
as that of the validation.

Exit status: 0 stored, 1 the result or the weights are missing, damaged or changed, 2 wrong usage.
"""

import argparse
from collections.abc import Sequence

from slowfast.commands import cli
from slowfast.utils.text import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Store the temperature, print what it changes, and return the exit status."""
    args = _make_parser().parse_args(arguments)
    return cli.run(lambda: _calibrate(args))


def _make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    cli.add_result(parser)
    parser.add_argument(
        "--output",
        type=cli.path,
        metavar="FILE",
        help="file to write (default: <weights file>.temperature.json). The weights may be gone",
    )
    return parser


def _calibrate(args: argparse.Namespace) -> int:
    from slowfast.evaluation.result import open_result
    from slowfast.evaluation.stored_temperature import (
        check_weights_file,
        fit_to_result,
        temperature_path,
        write_temperature,
    )

    result = open_result(args.result)
    path = args.output
    if path is None:
        check_weights_file(result)
        path = temperature_path(result.record.weights)

    stored = fit_to_result(result)
    write_temperature(path, stored, weights=result.record.weights)

    before, after = stored.before, stored.after
    print(f"{stored.num_videos} of {result.record.num_videos} videos have scores")
    print("          before     after")
    print(f"NLL     {before.nll:8.4f}  {after.nll:8.4f}")
    print(f"ECE (%) {before.ece:8.2f}  {after.ece:8.2f}")
    print(printable(f"temperature {stored.temperature:.4f}: {path}"))
    return 0
