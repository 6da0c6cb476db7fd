"""Frames of videos for a model card: mistakes of the test, and its gallery of explanations."""

import base64
import sys
from typing import TYPE_CHECKING, NamedTuple

from slowfast.sharing.model_card import ExplainedFrames, MistakenFrames

if TYPE_CHECKING:
    from slowfast.evaluation.result import Result
    from slowfast.inference.classifier import Classifier

NUM_FRAMES_SHOWN = 8  # mistakes with frames


class CardFrames(NamedTuple):
    """Frames of videos for a model card.

    Attributes:
        mistakes: Frames of the most confident mistakes of the test.
        explained: Frames of the videos in the gallery of the test.
        images: Content of each image by its path in the exported folder.
    """

    mistakes: list[MistakenFrames]
    explained: list[ExplainedFrames]
    images: dict[str, bytes]


def draw_card_frames(classifier: "Classifier") -> CardFrames:
    """Return frames of the test of a classifier.

    Raises:
        OSError: If a file of the test, or its list, is missing.
        ValueError: If there is no test of these weights, or a file of it is damaged.
    """
    found = classifier.origin.find_test(classifier.model)
    if found.result is None:
        raise ValueError(f"--with-frames shows videos of the test, but {found.problem}")

    images: dict[str, bytes] = {}
    mistakes = _draw_mistakes(found.result, images) if found.result.record.is_labeled else []
    explained = _take_explained(found.result, images)
    if not images:
        print(
            "note: the test has no mistakes and no gallery, so there are no frames",
            file=sys.stderr,
        )
    return CardFrames(mistakes, explained, images)


def _draw_mistakes(result: "Result", images: dict[str, bytes]) -> list[MistakenFrames]:
    """Return the most confident mistakes, and add their images."""
    from slowfast.config import parse_cfg
    from slowfast.engine.report_thumbnails import build_thumbnails
    from slowfast.evaluation.report.content import read_content

    content = read_content(result.folder)
    mistakes = content.highlights[:NUM_FRAMES_SHOWN]
    cfg = parse_cfg(content.config, origin=f"{result.folder}/config.yaml")
    names = result.record.class_names

    frames: list[MistakenFrames] = []
    for thumbnail, mistake in zip(build_thumbnails(cfg, mistakes), mistakes, strict=True):
        if not thumbnail.image:
            print(f"note: no frames of a video: {thumbnail.note}", file=sys.stderr)
            continue
        assert mistake.label is not None
        assert mistake.prediction is not None
        assert mistake.top_probabilities is not None
        file = f"frames/{len(frames) + 1}.jpg"
        images[file] = _decode(thumbnail.image)
        label, prediction = names[mistake.label], names[mistake.prediction]
        frames.append(MistakenFrames(file, label, prediction, mistake.top_probabilities[0]))
    return frames


def _take_explained(result: "Result", images: dict[str, bytes]) -> list[ExplainedFrames]:
    """Return the videos of the gallery, and add their images."""
    from slowfast.evaluation.report.gallery import read_gallery

    frames: list[ExplainedFrames] = []
    for video in read_gallery(result.folder, test_id=result.record.test_id):
        file = f"frames/explained_{len(frames) + 1}.jpg"
        images[file] = _decode(video.image)
        frames.append(
            ExplainedFrames(file, video.label, video.target, video.probability, video.method)
        )
    return frames


def _decode(uri: str) -> bytes:
    return base64.b64decode(uri.partition(",")[2])
