"""What the page asks of the running server, sent without a browser."""

import json
import secrets
import threading
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import slowfast
from slowfast.serving.analysis import StoppedError, analyze
from slowfast.serving.recordings import drop_cut_packet
from tests.serving.running_server import RunningServer, memory_growth, wait_until_clean

pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")


def ask(server: RunningServer, path: str, body: bytes, kind: str) -> Any:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", path, body, {"Content-Type": kind})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    assert response.status == 200, answer
    return answer


def classify(server: RunningServer, content: bytes, *, name: str = "video.mp4") -> str:
    """Upload a video, press Classify, and return the HTML of the result."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    form = head.encode() + content + b"\r\n--x--\r\n"
    (path,) = ask(server, "/gradio_api/upload", form, "multipart/form-data; boundary=x")

    session = secrets.token_hex(8)
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    event = {"data": [file, None, ["uniformer"], True], "fn_index": 0, "session_hash": session}
    ask(server, "/gradio_api/queue/join", json.dumps(event).encode(), "application/json")

    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", f"/gradio_api/queue/data?session_hash={session}")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    messages = [json.loads(line.removeprefix("data:")) for line in lines if line]
    (completed,) = [m for m in messages if m["msg"] == "process_completed"]
    return completed["output"]["data"][2]


@pytest.fixture
def recording() -> bytes:
    """What a camera records: 30 frames of noise in a WebM file of unknown length."""
    pieces: list[bytes] = []

    class Pipe:
        def write(self, data: bytes) -> int:
            pieces.append(bytes(data))
            return len(data)

    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), np.uint8)
    with av.open(Pipe(), "w", format="webm", options={"live": "1"}) as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for image in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return b"".join(pieces)


def test_a_recording_cut_in_a_packet_is_classified(server: RunningServer, recording: bytes) -> None:
    html = classify(server, recording[:-20], name="sample.webm")
    assert 'class="scores"' in html, html
    wait_until_clean(server)


def test_only_the_cut_packet_is_dropped(recording: bytes, tmp_path: Path) -> None:
    path = tmp_path / "video.webm"
    path.write_bytes(recording[:-20])
    drop_cut_packet(path)
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 29
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("length", [0, 50, 200])
def test_a_recording_without_a_frame_is_left_as_it_is(
    recording: bytes, tmp_path: Path, length: int
) -> None:
    path = tmp_path / "video.webm"
    path.write_bytes(recording[:length])
    drop_cut_packet(path)
    assert path.read_bytes() == recording[:length]
    assert list(tmp_path.iterdir()) == [path]


class StopsLater(threading.Event):
    """An event that sets itself after it was looked at some times."""

    num_looks = 0

    def __init__(self, after: float) -> None:
        super().__init__()
        self.after = after

    def is_set(self) -> bool:
        self.num_looks += 1
        return self.num_looks > self.after


def test_an_overlay_is_given_up_at_any_frame(models: list[Path], motion_folder: Path) -> None:
    path = motion_folder / "test/left_0000.mp4"
    classifiers = {"uniformer": slowfast.load(models[0])}

    def look(stopped: StopsLater, *, with_overlay: bool) -> int:
        analyze(path, classifiers, name="x", stopped=stopped, with_overlay=with_overlay)
        return stopped.num_looks

    with av.open(str(path)) as container:
        num_frames = sum(1 for _ in container.decode(video=0))
    before = look(StopsLater(float("inf")), with_overlay=False)
    assert look(StopsLater(float("inf")), with_overlay=True) == before + num_frames
    with pytest.raises(StoppedError):
        look(StopsLater(before + num_frames // 2), with_overlay=True)


@pytest.mark.soak
def test_memory_is_constant_over_200_pages(server: RunningServer, motion_folder: Path) -> None:
    video = (motion_folder / "test/left_0000.mp4").read_bytes()

    def request() -> None:
        assert 'class="overlay"' in classify(server, video)

    assert memory_growth(server, request) < 8e6
    wait_until_clean(server)
