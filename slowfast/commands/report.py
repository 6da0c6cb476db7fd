"""Write the report page of a finished test again.

The page is RESULT_DIR/report.html, one file that needs nothing else. It shows frames of the videos
with the most confident mistakes, or, without labels, with the least confident predictions, and the
gallery of the videos that you explained. Use --no-thumbnails if they must not leave your machines.

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

    from slowfast.evaluation.result import find_result

    if not args.no_thumbnails:
        plugins.import_plugins(args.imports)  # a dataset of your own may be in one
    path = write_page(find_result(args.result), with_frames=not args.no_thumbnails)
    print(f"report: {printable(str(path))}")
    return 0


def write_page(folder: Path, *, with_frames: bool) -> Path:
    """Write the report page of a finished test, and return its path.

    If the videos cannot be found, a warning says so, and the page has no thumbnails.

    Args:
        folder: Folder of the test.
        with_frames: Whether to show frames of videos: the thumbnails and the gallery.

    Raises:
        OSError: If a file of the result is missing, or the page cannot be written.
        ValueError: If a file of the result is damaged.
    """
    from slowfast.evaluation.report.content import read_content
    from slowfast.evaluation.report.gallery import read_gallery
    from slowfast.evaluation.report.page import write_report
    from slowfast.evaluation.report.training_log import read_training

    thumbnails, gallery = None, []
    if with_frames:
        content = read_content(folder)
        thumbnails = _read_thumbnails(folder / "config.yaml", content.highlights)
        gallery = read_gallery(folder, test_id=content.metrics.get("test_id"))

    training = read_training(folder.parent)
    return write_report(folder, training=training, thumbnails=thumbnails, gallery=gallery)


def _read_thumbnails(config: Path, predictions: Sequence["Prediction"]) -> list["Thumbnail"] | None:
    """Return the thumbnails, or None with a warning if the config or the list is missing."""
    if not predictions:
        return []

    from slowfast.config import load_cfg
    from slowfast.engine.report_thumbnails import build_thumbnails

    try:
        thumbnails = build_thumbnails(load_cfg(str(config)), predictions)
    except (ValueError, OSError) as error:
        print(f"warning: no thumbnails: {printable(str(error))}", file=sys.stderr)
        return None

    missing = [thumbnail for thumbnail in thumbnails if not thumbnail.image]
    if missing:
        number = f"{len(missing)} of {len(thumbnails)}"
        print(f"warning: no thumbnail of {number} videos: {missing[0].note}", file=sys.stderr)
    return thumbnails
