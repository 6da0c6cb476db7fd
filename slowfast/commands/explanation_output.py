"""What `slowfast explain` writes of an explanation: files, a line of text, and the gallery."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slowfast.commands import cli

if TYPE_CHECKING:
    from slowfast.commands.run_gallery import RunGallery
    from slowfast.datasets.decode import FrameSource
    from slowfast.evaluation.listed_videos import ListedVideo
    from slowfast.explanation.explanation import Explanation
    from slowfast.inference.classifier import Classifier
    from slowfast.visualization.explanation_pictures import Explained

FILE_KINDS = ("mp4", "png", "npz")
KINDS = (*FILE_KINDS, "gallery")

_GALLERY_FRAMES = 4  # of a video in the gallery
_GALLERY_HEIGHT = 112  # pixels, of a frame


class ExplanationWriter:
    """Writes the files of explanations.

    Args:
        folder: The folder of the files.
        kinds: Some of KINDS.
        classifier: The model.
        fps: Frames per second of folders of images.
    """

    def __init__(
        self,
        folder: Path,
        *,
        kinds: Collection[str],
        classifier: "Classifier",
        fps: float | None,
    ) -> None:
        self._folder = folder
        self._kinds = kinds
        self._settings = classifier.settings
        self._fps = fps

    def check(self, names: Sequence[str], *, inputs: Sequence[str]) -> None:
        """Raise UsageError if a file would replace one that is read.

        Args:
            names: Names of the files without suffix.
            inputs: Paths of what is read.
        """
        read = {os.path.realpath(path) for path in inputs}
        for name in names:
            for path in self._paths(name).values():
                if os.path.realpath(path) in read:
                    raise cli.UsageError(f"argument --out: {path} is an input. Name another folder")

    def write(
        self,
        explanation: "Explanation",
        path: str,
        *,
        name: str,
        listed: "ListedVideo | None",
        gallery: "RunGallery | None",
    ) -> None:
        """Write what is wanted of an explanation.

        Args:
            explanation: The explanation.
            path: Path of the video.
            name: Name of the files without suffix.
            listed: The video in the list of the test, None if it is not there.
            gallery: Gallery of the test.

        Raises:
            DecodeError: If a frame of the video is damaged.
            OSError: If a file cannot be written.
        """
        from slowfast.visualization.explanation_pictures import (
            write_explained_sheet,
            write_explained_video,
        )

        paths, explained = self._paths(name), _to_pictures(explanation)
        with self._open(path) as source:
            if "mp4" in paths:
                write_explained_video(source, paths["mp4"], explained, fps=self._fps)
            if "png" in paths:
                write_explained_sheet(source, paths["png"], explained)
            if gallery and listed and "gallery" in self._kinds:
                _add(gallery, listed, explanation, source=source)
        if "npz" in paths:
            explanation.save(paths["npz"])

    def _paths(self, name: str) -> dict[str, Path]:
        """Return the path of each file by its kind."""
        kinds = [kind for kind in FILE_KINDS if kind in self._kinds]
        return {kind: self._folder / f"{name}.{kind}" for kind in kinds}

    def _open(self, path: str) -> "FrameSource":
        from slowfast.inference.inputs import open_input

        return open_input(
            path,
            bgr=False,
            template=self._settings.image_template,
            allow_truncated=self._settings.allow_truncated,
            max_pixels=self._settings.max_frame_pixels,
        )


def describe(explanation: "Explanation") -> str:
    """Return an explanation as a line of text."""
    return (
        f"{explanation.path}: {explanation.label} {explanation.probability:.1%}, "
        f"{_note(explanation)}"
    )


def _to_pictures(explanation: "Explanation") -> "Explained":
    from slowfast.visualization.explanation_pictures import Explained

    return Explained(
        f"{explanation.label} {explanation.probability:.1%}",
        _note(explanation),
        explanation.frame,
        explanation.maps.seen_numbers,
        explanation.maps.max_step,
    )


def _add(
    gallery: "RunGallery",
    listed: "ListedVideo",
    explanation: "Explanation",
    *,
    source: "FrameSource",
) -> None:
    from slowfast.evaluation.report.gallery import GalleryVideo
    from slowfast.evaluation.report.thumbnails import to_data_uri
    from slowfast.visualization.explanation_pictures import draw_explained_strip

    explained = _to_pictures(explanation)
    strip = draw_explained_strip(
        source, explained, num_frames=_GALLERY_FRAMES, height=_GALLERY_HEIGHT
    )
    gallery.add(
        GalleryVideo(
            row=listed.row,
            path=listed.name,
            label=listed.label,
            target=explanation.label,
            probability=explanation.probability,
            method=_method(explanation),
            check=_check(explanation),
            image=to_data_uri(strip),
        )
    )


def _note(explanation: "Explanation") -> str:
    return ". ".join(filter(None, (_method(explanation), _check(explanation))))


def _method(explanation: "Explanation") -> str:
    if explanation.stage is None:
        return explanation.method
    return f"{explanation.method} of stage {explanation.stage}"


def _check(explanation: "Explanation") -> str:
    """Return what the curves say about the map, "" without curves."""
    if explanation.curves is None:
        return ""
    parts = []
    for kind, better in (("deletion", "lower"), ("insertion", "higher")):
        areas = {name: explanation.curves.area(kind, name) for name in explanation.curves.deletion}
        parts.append(
            f"{kind} {areas['map']:.3f} (random {areas['random']:.3f}, gaussian "
            f"{areas['gaussian']:.3f}, {better} is better)"
        )
    return ", ".join(parts)
