"""Annotated videos: what is drawn where, and the frames and times of the copy."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageColor

from slowfast.datasets.decode import DecodeError, FrameArray, FrameFolder, VideoFile
from slowfast.visualization.annotated_video import Mark, Overlay, Pixels, write_annotated_video
from slowfast.visualization.contact_sheet import COLORS

MARKS = [Mark(0, 6, "high", 1.0), Mark(4, 10, "low", 0.0)]


def draw(height: int, width: int, *, time: float, marks: list[Mark] = MARKS) -> Pixels:
    frame = np.full((height, width, 3), 200, np.uint8)
    overlay = Overlay(height, width, marks=marks, curve=marks, duration=10.0)
    overlay.draw(frame, time=time)
    return frame


def color(number: int) -> list[int]:
    return list(ImageColor.getrgb(COLORS[number]))


def test_the_curve_shows_probabilities_over_time() -> None:
    frame = draw(240, 320, time=8.0)
    top, bottom = 240 - 40, 240 - 1  # the curve takes a sixth of the height
    assert frame[top, 80].tolist() == color(0)  # probability 1 until 5 s, the middle of both
    assert frame[bottom, 240].tolist() == color(1)  # probability 0
    assert frame[top : top + 40, 256].min() == 255  # the line of the present, at 8 of 10 s
    assert frame[bottom, 80].max() < 80
    assert (frame[100:199] == 200).all()  # nothing else is drawn


def test_the_label_changes_in_the_middle_of_an_overlap() -> None:
    before, at, later = (draw(240, 320, time=time)[:30] for time in (4.9, 5.0, 9.0))
    assert before[5, 0].tolist() == color(0)
    assert at[5, 0].tolist() == later[5, 0].tolist() == color(1)
    assert np.array_equal(at, later)
    assert before.max() == 255  # white letters
    assert (before[:, 200:] == 200).all()


@pytest.mark.parametrize("size", [(2, 2), (16, 16), (32, 400), (400, 32), (64, 80), (2160, 3840)])
def test_text_fits_any_frame(size: tuple[int, int]) -> None:
    long_name = [Mark(0, 10, "a very long name of a class " * 4, 0.5)]
    frame = draw(*size, time=1.0, marks=long_name)
    assert frame.shape == (*size, 3)
    if min(size) >= 32:
        assert (frame[:12, 8:] > 150).any()
        assert (frame[0] < 100).any()


def test_the_probability_stays_when_the_name_is_cut() -> None:
    name = "a very long name of a class"
    marks = [[Mark(0, 10, name, probability)] for probability in (0.5, 0.99)]
    first, second = (draw(64, 80, time=1.0, marks=found)[:16] for found in marks)
    differ = np.flatnonzero((first != second).any(axis=(0, 2)))
    assert 40 < differ.min() < differ.max() < 80


def test_a_copy_has_the_frames_and_times_of_the_video(tmp_path: Path) -> None:
    times = [0, 1, 2, 4, 8, 9]  # twelfths of a second
    path = tmp_path / "uneven.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=12)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = 45, 81, "bgr0"
        stream.codec_context.time_base = Fraction(1, 12)
        for number, time in enumerate(times):
            pixels = np.zeros((45, 81, 3), np.uint8)
            pixels[..., number % 3] = 220
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 12)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

    out = tmp_path / "new/copy.mp4"
    with VideoFile(str(path)) as source:
        write_annotated_video(source, out, [Mark(0, float("inf"), "name", 0.75)])
    with VideoFile(str(out)) as copy:
        frames = copy.read(range(copy.num_frames))
        assert copy.times == pytest.approx([time / 12 for time in times], abs=1e-3)
    assert frames.shape == (6, 46, 82, 3)
    middles = frames[:, 28, 40].astype(int)
    assert (middles.argmax(axis=1) == np.arange(6) % 3).all()
    assert (middles.max(axis=1) > 180).all()


def test_a_damaged_video_leaves_no_copy(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(1, 5):
        Image.new("RGB", (32, 32)).save(folder / f"{number:05d}.png")
    path = folder / "00003.png"
    path.write_bytes(path.read_bytes()[:40])

    with FrameFolder(str(folder), template="{:05d}.png") as source, pytest.raises(DecodeError):
        write_annotated_video(source, tmp_path / "copies/copy.mp4", MARKS, fps=4)
    assert list(tmp_path.glob("copies/*")) == []


def test_an_array_without_times_gets_a_rate(tmp_path: Path) -> None:
    source = FrameArray(np.zeros((6, 32, 32, 3), np.uint8))
    write_annotated_video(source, tmp_path / "copy.mp4", MARKS, fps=3)
    with VideoFile(str(tmp_path / "copy.mp4")) as copy:
        assert copy.times == pytest.approx(np.arange(6) / 3, abs=1e-3)
