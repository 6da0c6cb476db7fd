"""Thumbnails of videos: the frames that the model saw, as JPEG files inside the page."""

import base64
import io
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from slowfast.config import CfgNode
from slowfast.datasets.annotations import Annotations
from slowfast.datasets.build import build_loader
from slowfast.datasets.normalization import to_pixels
from slowfast.engine.report_thumbnails import build_thumbnails
from slowfast.evaluation.report.content import Prediction
from slowfast.evaluation.report.thumbnails import SIDE, draw_thumbnail


def to_image(uri: str) -> NDArray[np.uint8]:
    kind, _, data = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def predict(row: int, path: str) -> Prediction:
    return Prediction(row, path, 0, 1, 2, 1.5, [1, 0], [0.75, 0.25], "scored", "")


def test_a_strip_shows_four_frames_from_left_to_right() -> None:
    frames = np.zeros((8, 60, 80, 3), np.uint8)
    frames[:] = (np.arange(8) * 30)[:, None, None, None]
    for layout in (frames, frames.transpose(3, 0, 1, 2)):
        strip = to_image(draw_thumbnail(layout))
        width = round(SIDE * 80 / 60)
        assert strip.shape == (SIDE, 4 * width, 3)
        levels = strip[SIDE // 2, width // 2 :: width, 0].astype(int)
        assert np.abs(levels - [0, 60, 150, 210]).max() <= 3  # frames 0, 2, 5 and 7


def test_colors_keep_their_order() -> None:
    frames = np.zeros((1, 32, 32, 3), np.uint8)
    frames[..., 0] = 255
    red, green, blue = to_image(draw_thumbnail(frames))[50, 50].tolist()
    assert red > 240
    assert max(green, blue) < 15


def test_frames_of_another_shape_are_refused() -> None:
    for shape in ((8, 60, 80), (8, 60, 80, 4), (0, 60, 80, 3)):
        with pytest.raises(ValueError, match=r"frames have shape"):
            draw_thumbnail(np.zeros(shape, np.uint8))


def test_a_long_frame_is_not_wider_than_the_page() -> None:
    assert to_image(draw_thumbnail(np.zeros((4, 8, 800, 3), np.uint8))).shape == (SIDE, 1120, 3)


@pytest.mark.parametrize("uint8", [False, True])
def test_thumbnails_show_what_the_loader_gives(
    tiny_cfg: Callable[..., CfgNode], uint8: bool
) -> None:
    cfg = tiny_cfg(TEST__NUM_ENSEMBLE_VIEWS=3, TEST__NUM_SPATIAL_CROPS=3, DATA__UINT8=uint8)
    loader = build_loader(cfg, "test")
    row = 5
    batch = loader.dataset[loader.batch_sampler.request(row)]
    seen = batch.frames[4]  # the middle clip of 3, the center crop of 3
    values = seen.float() if uint8 else (seen * 0.225 + 0.45) * 255
    frames = values.clamp(0, 255).round().byte().permute(1, 2, 3, 0).numpy()

    path = loader.dataset.annotations[row].name
    (thumbnail,) = build_thumbnails(cfg, [predict(row, path)])

    pixels = to_pixels(seen, mean=[0.45] * 3, std=[0.225] * 3)
    assert np.abs(pixels.astype(int) - frames).max() <= (0 if uint8 else 1)  # of rounding
    assert thumbnail.image == draw_thumbnail(pixels)


def test_bgr_clips_are_shown_in_rgb(tiny_cfg: Callable[..., CfgNode]) -> None:
    path = build_loader(tiny_cfg(), "test").dataset.annotations[0].name
    (rgb,) = build_thumbnails(tiny_cfg(), [predict(0, path)])
    (bgr,) = build_thumbnails(tiny_cfg(DATA__REVERSE_INPUT_CHANNEL=True), [predict(0, path)])
    assert rgb.image == bgr.image


def test_missing_and_moved_videos_have_a_note(tiny_cfg: Callable[..., CfgNode]) -> None:
    annotations = Annotations(["nowhere.mp4", "other.mp4"], [0, 1])
    predictions = [predict(0, "nowhere.mp4"), predict(1, "renamed.mp4"), predict(2, "new.mp4")]
    missing, moved, beyond = build_thumbnails(tiny_cfg(), predictions, annotations=annotations)
    assert missing.image == moved.image == beyond.image == ""
    assert "nowhere.mp4" in missing.note
    assert moved.note == beyond.note == "this row of the list holds another video now"
