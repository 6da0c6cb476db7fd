"""Windows of long videos: exact, each frame decoded about once, in the memory of one window."""

import resource
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from slowfast.datasets.decode import DecodeError, VideoFile
from slowfast.datasets.decoding.decoder import PacketDecoder
from slowfast.datasets.records import Span
from slowfast.inference import windows
from slowfast.inference.classifier import Classifier
from slowfast.inference.predictions import Prediction, Unreadable
from slowfast.inference.windows import WindowGrid
from slowfast.preparation.encode import write_video
from slowfast.trained import load

Run = Callable[..., Path]
WritePainted = Callable[..., Path]


@pytest.fixture
def classifier(new_run: Run) -> Classifier:
    """A classifier whose clips have 4 frames and span 12, with random weights."""
    return load(new_run())


@pytest.fixture(scope="module")
def long_video(write_painted: WritePainted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 200 frames, 8 s, with B-frames and a keyframe every 60 frames."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    return write_painted(path, 200, g="60", bf="2")


def predict_span(classifier: Classifier, path: Path, span: Span, *, clips: int = 1) -> Prediction:
    """Predict a section as a row of an annotation list gives it."""
    with VideoFile(str(path)) as video:
        video.span = span
        prediction = classifier.predict(video, clips=clips, fills_passes=True)
    assert isinstance(prediction, Prediction)
    return prediction


# ---- Exactness -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "window", "stride", "clips"),
    [
        ({}, 0.48, 0.48, 1),
        ({}, 2.0, 0.5, 3),
        ({"TEST__NUM_SPATIAL_CROPS": 3, "DATA__USE_OFFSET_SAMPLING": False}, 1.0, 0.3, 2),
        ({"DATA__UINT8": True, "DATA__REVERSE_INPUT_CHANNEL": True}, 0.2, 1.7, 1),
        ({"DATA__TARGET_FPS": 15, "DATA__SHORT_CLIP": "loop"}, 0.7, 0.25, 2),
        ({"TEST__DATASET": "kinetics_sparse"}, 3.0, 1.0, 2),
    ],
)
def test_a_window_is_predicted_as_its_section(
    settings: dict[str, object],
    window: float,
    stride: float,
    clips: int,
    new_run: Run,
    long_video: Path,
) -> None:
    classifier = load(new_run(**settings))
    found = list(
        classifier.predict_windows(
            str(long_video), window=window, stride=stride, clips=clips, fills_passes=True
        )
    )
    assert len(found) > 4
    for number in (0, 1, len(found) // 2, len(found) - 1):
        span = Span(number * stride, number * stride + window)
        expected = predict_span(classifier, long_video, span, clips=clips)
        assert found[number].start == pytest.approx(span.start)
        prediction = found[number].prediction
        assert isinstance(prediction, Prediction)
        assert np.array_equal(prediction.logits, expected.logits)
        assert [clip[:2] for clip in prediction.clips] == [clip[:2] for clip in expected.clips]


def test_the_default_window_is_the_span_of_a_clip(classifier: Classifier, long_video: Path) -> None:
    # 4 frames * 3 = 12 frames, 0.48 s at 25 fps. 8 s are 16 windows and a rest of 0.32 s.
    found = list(classifier.predict_windows(long_video))
    assert [(window.start, window.end) for window in found[:2]] == [(0, 0.48), (0.48, 0.96)]
    assert len(found) == 17
    assert found[-1][1:3] == (7.68, 8.0)


@pytest.mark.parametrize(
    ("window", "stride", "duration", "starts"),
    [
        (2, 2, 6, [0, 2, 4]),
        (2, 2, 6.5, [0, 2, 4, 6]),
        (2, 1, 4, [0, 1, 2]),
        (2, 1, 4.5, [0, 1, 2, 3]),
        (1, 3, 6, [0, 3]),
        (1, 3, 6.1, [0, 3, 6]),
        (5, 1, 3, [0]),
        (1, 1, 0, [0]),
        (0.1, 0.1, 0.3, [0, 0.1, 0.2]),  # 0.1 + 0.2 > 0.3 in floats
    ],
)
def test_windows_reach_the_end_once(
    window: float, stride: float, duration: float, starts: list[float]
) -> None:
    grid = WindowGrid(window, stride, duration)
    assert [grid.span(number).start for number in range(len(grid))] == pytest.approx(starts)


def test_windows_that_share_too_many_frames_are_equal(
    classifier: Classifier, long_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_ring = list(classifier.predict_windows(long_video, window=1.0, stride=0.2))
    monkeypatch.setattr(windows, "MAX_RING_BYTES", 5 * 3 * 32 * 32 * 4)
    alone = list(classifier.predict_windows(long_video, window=1.0, stride=0.2))
    assert len(alone) == len(from_ring)
    for first, second in zip(from_ring, alone, strict=True):
        assert isinstance(first.prediction, Prediction)
        assert isinstance(second.prediction, Prediction)
        assert np.array_equal(first.prediction.logits, second.prediction.logits)


# ---- Time and memory -------------------------------------------------------------------------


@pytest.mark.parametrize("keyframe_interval", [60, 5000])
def test_every_frame_is_decoded_about_once(
    keyframe_interval: int,
    classifier: Classifier,
    write_painted: WritePainted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_painted(tmp_path / "a.mp4", 1500, g=str(keyframe_interval), bf="0")
    num_decoded = 0
    decode = PacketDecoder.decode

    def count(self: PacketDecoder, packet: av.Packet | None) -> tuple[list[av.VideoFrame], str]:
        nonlocal num_decoded
        num_decoded += packet is not None
        return decode(self, packet)

    monkeypatch.setattr(PacketDecoder, "decode", count)
    found = list(classifier.predict_windows(path, window=2.0, stride=0.5))
    assert len(found) == 117  # 2 s windows of 60 s, whose frames are shared four times
    assert num_decoded < 1.3 * 1500


def test_the_ring_holds_one_window(
    classifier: Classifier, long_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    clips = windows.FrameRing.clips

    def measure(self: windows.FrameRing, *args: object) -> object:
        sizes.append(len(self))
        return clips(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(windows.FrameRing, "clips", measure)
    found = list(classifier.predict_windows(long_video, window=1.0, stride=0.12, clips=8))
    assert len(found) == len(sizes) == 60
    assert max(sizes) <= 25


@pytest.mark.soak
def test_memory_stays_the_same_for_three_hours(
    classifier: Classifier, motion_folder: Path, tmp_path: Path
) -> None:
    with VideoFile(str(next((motion_folder / "test").glob("*.mp4")))) as video:
        frames = video.read(range(video.num_frames))
    path = tmp_path / "3 hours.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        for frame in islice(cycle(frames), 3 * 3600 * 25):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))

    resident = {}
    for window in classifier.predict_windows(path, window=10.0, clips=2):
        resident[window.end] = _resident_bytes()
    assert max(resident) == pytest.approx(3 * 3600, abs=10)
    half_an_hour = resident[1800.0]
    assert resident[max(resident)] < 1.05 * half_an_hour


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


# ---- What cannot be read ---------------------------------------------------------------------


def test_only_windows_with_a_damaged_frame_are_lost(classifier: Classifier, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (100, 4, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    path = tmp_path / "damaged.mp4"
    write_video(path, frames, codec_options={"g": "10", "bf": "0", "x264-params": "scenecut=0"})
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for packet in packets[44:48]:  # 1.76 s to 1.92 s, and what refers to them until 2 s
        assert packet.pos is not None
        content[packet.pos + 8 : packet.pos + packet.size] = bytes(packet.size - 8)
    path.write_bytes(content)

    found = list(classifier.predict_windows(path, window=0.4, stride=0.4))
    lost = [window for window in found if isinstance(window.prediction, Unreadable)]
    assert len(found) == 10
    assert [window.start for window in lost] == [1.6]
    assert isinstance(lost[0].prediction, Unreadable)
    assert str(path) in lost[0].prediction.reason
    assert lost[0].as_json().keys() == {"path", "start", "end", "reason"}


def test_a_short_last_window_is_refused_as_in_a_list(new_run: Run, long_video: Path) -> None:
    classifier = load(new_run(DATA__SHORT_CLIP="error"))
    found = list(classifier.predict_windows(long_video, window=0.6))
    lost_at = [window.start for window in found if isinstance(window.prediction, Unreadable)]
    assert lost_at == [pytest.approx(7.8)]


def test_images_need_a_frame_rate(classifier: Classifier, tmp_path: Path) -> None:
    for number in range(1, 31):
        Image.new("RGB", (40, 32), (8 * number, 0, 0)).save(tmp_path / f"{number:05d}.jpg")
    with pytest.raises(DecodeError, match=r"times of its frames are unknown.*fps"):
        list(classifier.predict_windows(tmp_path, window=1.0))
    found = list(classifier.predict_windows(tmp_path, window=1.0, fps=10))
    assert [window[1:3] for window in found] == [(0, 1), (1, 2), (2, 3)]


def test_a_single_frame_is_one_window(classifier: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "one.gif"
    Image.new("RGB", (40, 32), (200, 0, 0)).save(path)
    (window,) = classifier.predict_windows(path)
    assert isinstance(window.prediction, Prediction)
    assert window.start == 0


@pytest.mark.parametrize("seconds", [0, -1.0, 1e-9, float("nan"), float("inf")])
def test_a_length_is_at_least_a_millisecond(seconds: float, classifier: Classifier) -> None:
    for name in ("window", "stride"):
        with pytest.raises(ValueError, match=rf"{name} is .*seconds from 0.001 on"):
            classifier.predict_windows("a.mp4", **{name: seconds})  # type: ignore[arg-type]


def test_a_model_of_whole_videos_has_no_default_window(new_run: Run, long_video: Path) -> None:
    classifier = load(new_run(TEST__DATASET="kinetics_sparse"))
    with pytest.raises(ValueError, match="no default window"):
        list(classifier.predict_windows(long_video))
