"""Write the report page of a finished test again.

The page is RESULT_DIR/report.html, one file that needs nothing else. It shows frames of the videos
with the most confident mistakes, or, without labels, with the least confident predictions. Use
--no-thumbnails if they must not leave your machines.

Exit status: 0 the page is written, 1 the result is missing or damaged, 2 wrong usage.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slowfast.commands import cli
from slowfast.utils import plugins
from slowfast.utils.text import printable

if TYPE_CHECKING:
    from slowfast.evaluation.report.content import Prediction
    from slowfast.evaluation.report.thumbnails import Thumbnail


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, print its path, and return the exit status."""
    args = _make_parser().parse_args(arguments)
    return cli.run(lambda: _write(args))


def _make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    cli.add_result(parser)
    parser.add_argument(
        "--no-thumbnails", action="store_true", help="write the page without frames of videos"
    )
    plugins.add_argument(parser)
    return parser


def _write(args: argparse.Namespace) -> int:
    if not args.result.is_dir():
        raise cli.UsageError(f"{args.result}: there is no such directory")

    from slowfast.evaluation.report.content import read_content
    from slowfast.evaluation.report.page import write_report
    from slowfast.evaluation.report.training_log import read_training
    from slowfast.evaluation.result import find_result

    folder = find_result(args.result)
    thumbnails = None
    if not args.no_thumbnails:
        highlights = read_content(folder).highlights
        thumbnails = _read_thumbnails(folder / "config.yaml", highlights, imports=args.imports)

    training = read_training(folder.parent)
    path = write_report(folder, training=training, thumbnails=thumbnails)
    print(f"report: {printable(str(path))}")
    return 0


def _read_thumbnails(
    config: Path, predictions: Sequence["Prediction"], *, imports: Sequence[str]
) -> list["Thumbnail"] | None:
    """Return the thumbnails, or None with a warning if the config or the list is missing."""
    if not predictions:
        return []

    from slowfast.config import load_cfg
    from slowfast.engine.report_thumbnails import build_thumbnails

    try:
        plugins.import_plugins(imports)
        thumbnails = build_thumbnails(load_cfg(str(config)), predictions)
    except (ValueError, OSError) as error:
        print(f"warning: no thumbnails: {printable(str(error))}", file=sys.stderr)
        return None

    missing = [thumbnail for thumbnail in thumbnails if not thumbnail.image]
    if missing:
        number = f"{len(missing)} of {len(thumbnails)}"
        print(f"warning: no thumbnail of {number} videos: {missing[0].note}", file=sys.stderr)
    return thumbnails
