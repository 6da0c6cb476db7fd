"""Live streams from another process: exact windows, stalls, lost connections, a slow model."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from slowfast.datasets.decode import VideoFile
from slowfast.datasets.records import Span
from slowfast.inference import streams
from slowfast.inference.classifier import Classifier
from slowfast.inference.predictions import Prediction
from slowfast.inference.streams import StreamLostError, StreamWindow
from slowfast.trained import load
from tests.ports import free_port

Run = Callable[..., Path]
Serve = Callable[..., str]

SERVER = Path(__file__).with_name("stream_server.py")
WINDOW = 0.48  # seconds, 12 frames


@pytest.fixture
def classifier(new_run: Run) -> Classifier:
    """A classifier whose clips have 4 frames and span 12, with random weights."""
    return load(new_run())


@pytest.fixture(scope="module")
def video(write_painted: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 200 frames, 8 s, with a keyframe every 10 frames."""
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    return write_painted(path, 200, g="10", bf="0")


@pytest.fixture
def serve(video: Path) -> Iterator[Serve]:
    """Function that starts a server of the video in another process and returns its address."""
    servers = []

    def start(*plan: str) -> str:
        server = subprocess.Popen(
            [sys.executable, str(SERVER), str(video), *plan], stdout=subprocess.PIPE, text=True
        )
        servers.append(server)
        assert server.stdout is not None
        return f"tcp://127.0.0.1:{server.stdout.readline().strip()}"

    yield start
    for server in servers:
        server.kill()
        server.communicate()


def collect(found: Iterator[StreamWindow]) -> list[StreamWindow]:
    """Return all windows of a stream that is lost in the end."""
    windows = []
    try:
        for window in found:
            windows.append(window)
    except StreamLostError:
        return windows
    raise AssertionError("the stream has no end")


def predict_span(classifier: Classifier, path: Path, start: float) -> Prediction:
    with VideoFile(str(path)) as opened:
        opened.span = Span(start, start + WINDOW)
        prediction = classifier.predict(opened, clips=1)
    assert isinstance(prediction, Prediction)
    return prediction


def test_a_stalled_and_dropped_stream_goes_on(
    classifier: Classifier, serve: Serve, video: Path
) -> None:
    address = serve("40", "stall=3", "40", "drop", "60")
    reports: list[str] = []
    found = collect(
        classifier.predict_stream(address, window=WINDOW, retries=1, report=reports.append)
    )

    text = "\n".join(reports)
    assert f"{address}: no frames for " in text
    assert f"{address}: frames again after " in text
    assert f"{address}: the connection was closed. Connecting again in 0.5 s" in text

    before = [window for window in found if window.start < 80 / 25]
    after = [window for window in found if window.start > 80 / 25 + 3]
    assert len(before) >= 4
    assert len(after) >= 3
    assert len(before) + len(after) == len(found)
    for window in before:
        expected = predict_span(classifier, video, window.start)
        assert np.array_equal(window.prediction.logits, expected.logits)
    for window in after:  # the first frame after the drop is frame 80
        at = 80 / 25 + window.start - after[0].start
        expected = predict_span(classifier, video, at)
        assert np.array_equal(window.prediction.logits, expected.logits)


def test_a_slow_model_drops_the_oldest_frames(
    classifier: Classifier, serve: Serve, video: Path, tmp_path: Path
) -> None:
    # The other frames come after the first window, or it could be the last one on a busy machine.
    is_first_there = tmp_path / "first"
    address = serve("fast", "40", f"until={is_first_there}", "160", "stall=60")
    windows = classifier.predict_stream(address, window=WINDOW, report=print)
    first = next(windows)
    is_first_there.touch()
    time.sleep(1.5)  # the other frames arrive
    second = next(windows)
    windows.close()  # type: ignore[attr-defined]

    assert second.end > 7  # of the 8 s
    num_between = round((second.start - first.end) * 25)
    assert second.num_dropped == num_between > 0
    expected = predict_span(classifier, video, second.start)
    assert np.array_equal(second.prediction.logits, expected.logits)


def test_overlapping_windows_share_the_ring(
    classifier: Classifier, serve: Serve, video: Path
) -> None:
    found = collect(
        classifier.predict_stream(serve("50"), window=WINDOW, stride=0.2, retries=0, report=print)
    )
    starts = [window.start for window in found]
    assert len(starts) >= 5
    for window in found:
        assert window.start == pytest.approx(0.2 * round(window.start / 0.2))
        expected = predict_span(classifier, video, window.start)
        assert np.array_equal(window.prediction.logits, expected.logits)


def test_the_latency_includes_the_model(classifier: Classifier, serve: Serve) -> None:
    def wait(module: torch.nn.Module, inputs: object) -> None:
        time.sleep(0.3)

    classifier.model.register_forward_pre_hook(wait)
    windows = classifier.predict_stream(serve("30", "stall=60"), window=WINDOW)
    window = next(windows)
    windows.close()  # type: ignore[attr-defined]
    assert window.latency > 0.3
    assert window.as_json()["latency"] == window.latency


def test_a_silent_stream_counts_as_lost(
    classifier: Classifier, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "READ_SECONDS", 1.0)
    address = serve("40", "stall=60")
    with pytest.raises(StreamLostError, match=r"tcp://.*: no data for 1 s"):
        list(classifier.predict_stream(address, window=WINDOW, retries=0))


def test_a_stream_with_delayed_frames_ends_with_all_of_them(
    classifier: Classifier, write_painted: Callable[..., Path], tmp_path: Path
) -> None:
    # The decoder holds the last frames until the end, because of the B-frames.
    path = write_painted(tmp_path / "b.mp4", 24, g="24", bf="3")
    found = collect(classifier.predict_stream(str(path), window=WINDOW, retries=0))
    assert found[-1][1:3] == (pytest.approx(WINDOW), pytest.approx(2 * WINDOW))
    expected = predict_span(classifier, path, WINDOW)
    assert np.array_equal(found[-1].prediction.logits, expected.logits)


def test_an_address_without_an_answer_is_an_error(classifier: Classifier) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(StreamLostError, match=rf"{address}: connection refused"):
        next(classifier.predict_stream(address, retries=0))


@pytest.mark.parametrize("plan", [("200",), ("40", "stall=3")])
def test_a_program_that_leaves_a_stream_open_ends(
    plan: tuple[str, ...], serve: Serve, new_run: Run
) -> None:
    program = (
        "import sys, slowfast\n"
        "windows = slowfast.load(sys.argv[1]).predict_stream(sys.argv[2], window=0.48)\n"
        "print(next(windows).prediction.label)\n"
    )
    command = [sys.executable, "-c", program, str(new_run()), serve(*plan)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
