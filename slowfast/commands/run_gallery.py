"""Gallery of the test of a run: its videos, and the report page that shows their explanations."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from slowfast.commands.report import write_page
from slowfast.config import parse_cfg
from slowfast.evaluation.listed_videos import ListedVideo, choose_videos, find_videos
from slowfast.evaluation.report.gallery import GalleryVideo, add_to_gallery, read_gallery
from slowfast.evaluation.report.page import shows_frames
from slowfast.evaluation.result import GALLERY_NAME, REPORT_NAME, Result
from slowfast.utils.command_names import command_name
from slowfast.utils.text import count, printable

if TYPE_CHECKING:
    from slowfast.inference.classifier import Classifier


class RunGallery:
    """Gallery of a finished test.

    Args:
        result: The test.
        prefix: Folder that the paths of its list are relative to.
    """

    def __init__(self, result: Result, *, prefix: str) -> None:
        self._result = result
        self._prefix = prefix
        self._num_added = 0

    def choose(self, num: int) -> list[ListedVideo]:
        """Return videos of the test that are worth a look, see `choose_videos`."""
        return choose_videos(self._result, num=num, prefix=self._prefix)

    def find(self, paths: Sequence[str]) -> dict[str, ListedVideo]:
        """Return the videos of the test that lie at some paths."""
        return find_videos(self._result, paths, prefix=self._prefix)

    def add(self, video: GalleryVideo) -> None:
        """Add a video to the file of the gallery."""
        add_to_gallery(self._result.folder, [video], test_id=self._result.record.test_id)
        self._num_added += 1

    def show(self) -> None:
        """Write the report page with the gallery, unless the page shows no frames of videos."""
        folder = self._result.folder
        if not self._num_added:
            return
        if shows_frames(folder):
            path = write_page(folder, with_frames=True)
            videos = count(self._num_added, "video")
            print(f"report: {printable(str(path))}, with {videos} added to its gallery")
            return

        page = folder / REPORT_NAME
        problem = f"{page} shows no frames of videos" if page.exists() else f"there is no {page}"
        print(
            f"note: {problem}, so the gallery is in {folder / GALLERY_NAME} alone. "
            f"`{command_name('report')} {folder}` writes a page with it",
            file=sys.stderr,
        )


def open_gallery(classifier: "Classifier", *, adds: bool) -> tuple[RunGallery | None, str]:
    """Return the gallery of the test of a classifier, or None and why there is no such test.

    Args:
        classifier: The model.
        adds: Whether videos will be added, and not only chosen.

    Raises:
        OSError: If a file of the test cannot be read, or videos cannot be added.
        ValueError: If a file of the test is damaged.
    """
    found = classifier.origin.find_test(classifier.model)
    if found.result is None:
        return None, found.problem

    folder = found.result.folder
    if adds and not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder}: you may not write there. Leave out the gallery: --only")
    if adds:
        read_gallery(folder, test_id=found.result.record.test_id)
    found.result.predictions("row")

    config = folder / "config.yaml"
    cfg = parse_cfg(config.read_text(encoding="utf-8"), origin=str(config))
    return RunGallery(found.result, prefix=cfg.DATA.PATH_PREFIX), ""
