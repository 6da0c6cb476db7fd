"""Thumbnails of the frames that a model saw in a test, for the report page."""

from collections.abc import Sequence

import torch
from fvcore.common.config import CfgNode

from slowfast.datasets.annotations import Annotations
from slowfast.datasets.build_clips import build_clip_reader, build_view_counts
from slowfast.datasets.catalog import build_annotations, build_format
from slowfast.datasets.clip_reader import ClipReader
from slowfast.datasets.decode import DecodeError
from slowfast.datasets.normalization import to_pixels
from slowfast.datasets.records import View
from slowfast.datasets.samplers import CENTER_CROP
from slowfast.evaluation.report.content import Prediction
from slowfast.evaluation.report.thumbnails import Thumbnail, draw_thumbnail


def build_thumbnails(
    cfg: CfgNode, predictions: Sequence[Prediction], *, annotations: Annotations | None = None
) -> list[Thumbnail]:
    """Return the thumbnails of some videos of the test list: the center crop of the middle clip.

    A video that is unreadable gets a note instead of a thumbnail, and so does a video whose row of
    the list holds another video today.

    Args:
        cfg: Config of the test.
        predictions: Predictions for the videos.
        annotations: The test list. It is read if it is not given.

    Raises:
        FileNotFoundError: If the list does not exist.
        ValueError: If the list is invalid.
    """
    if annotations is None:
        annotations = build_annotations(cfg, "test")
    reader = build_clip_reader(cfg, "test")
    num_clips, _ = build_view_counts(cfg, "test")
    view = View(number=0, clip=num_clips // 2, crop=CENTER_CROP)
    is_bgr = build_format(cfg, "test").is_bgr != cfg.DATA.REVERSE_INPUT_CHANNEL

    thumbnails = []
    for prediction in predictions:
        try:
            clip = _read_clip(reader, view, annotations=annotations, prediction=prediction)
        except DecodeError as error:
            thumbnails.append(Thumbnail(prediction.row, "", note=str(error)))
            continue
        frames = to_pixels(clip, mean=cfg.DATA.MEAN, std=cfg.DATA.STD)
        image = draw_thumbnail(frames[..., ::-1] if is_bgr else frames)
        thumbnails.append(Thumbnail(prediction.row, image))
    return thumbnails


def _read_clip(
    reader: ClipReader, view: View, *, annotations: Annotations, prediction: Prediction
) -> torch.Tensor:
    """Return one view of a video, shape (3, T, size, size)."""
    row = prediction.row
    if row >= len(annotations) or annotations[row].name != prediction.path:
        raise DecodeError("this row of the list holds another video now")

    out = torch.empty((1, *reader.clip_shape), dtype=reader.transform.clip_format.dtype)
    reader.read(annotations[row], [view], rng=None, out=out)
    return out[0]
