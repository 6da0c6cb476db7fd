"""The running server: its JSON endpoint, its limits, and what it refuses."""

import base64
import json
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

import slowfast
from tests.serving.running_server import (
    RunningServer,
    memory_growth,
    running_server,
    wait_until_clean,
    write_long_video,
)

pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")

BOUNDARY = "boundary"


def form(content: bytes, *, name: str = "video.mp4") -> bytes:
    field = f'form-data; name="video"; filename="{name}"'
    head = f"--{BOUNDARY}\r\nContent-Disposition: {field}\r\n\r\n"
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


def ask(
    server: RunningServer,
    method: str,
    path: str,
    body: bytes | None = None,
    **headers: str,
) -> tuple[int, Any]:
    """Return the status and the answer to a request."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    if body is not None:
        headers.setdefault("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    is_json = response.headers.get_content_type() == "application/json"
    return response.status, json.loads(content) if is_json else content


def predict(server: RunningServer, content: bytes, *, query: str = "", **options: str) -> Any:
    return ask(server, "POST", f"/api/predict{query}", form(content, **options))


@pytest.fixture
def video(motion_folder: Path) -> bytes:
    return (motion_folder / "test/left_0000.mp4").read_bytes()


def test_scores_are_those_of_the_loaded_models(
    server: RunningServer, models: list[Path], motion_folder: Path, video: bytes
) -> None:
    status, answer = predict(server, video)
    assert status == 200
    assert [result["model"] for result in answer["models"]] == [path.name for path in models]
    for path, result in zip(models, answer["models"], strict=True):
        expected = slowfast.load(path).predict(motion_folder / "test/left_0000.mp4").as_json()
        for found, wanted in zip(result["top"], expected["top"], strict=True):
            assert found["label"] == wanted["label"]
            assert found["probability"] == pytest.approx(wanted["probability"], abs=1e-4)
        assert result["windows"][0]["start"] == 0
    wait_until_clean(server)


def test_one_model_is_asked_by_its_name(server: RunningServer, video: bytes) -> None:
    status, answer = predict(server, video, query="?model=light")
    assert (status, [result["model"] for result in answer["models"]]) == (200, ["light"])

    status, answer = predict(server, video, query="?model=other")
    assert status == 400
    assert answer["error"].startswith("there is no model 'other'. Choose from uniformer, light")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "this is no video that can be read"),
        (b"no video" * 1000, "this is no video that can be read"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "this is no video that can be read"),
    ],
    ids=["empty", "text", "playlist"],
)
def test_a_file_that_is_no_video_is_refused(
    server: RunningServer, content: bytes, reason: str
) -> None:
    status, answer = predict(server, content, name="holiday.mp4")
    assert status == 422
    assert answer["error"].startswith(f"holiday.mp4: {reason}")
    wait_until_clean(server)


def test_a_truncated_video_is_refused_by_its_name(server: RunningServer, video: bytes) -> None:
    status, answer = predict(server, video[: len(video) // 2], name="../../half.mp4")
    assert status == 422
    assert answer["error"].startswith("half.mp4: ")
    assert str(server.temporary) not in answer["error"]
    wait_until_clean(server)


def test_three_hours_are_refused_by_their_length(server: RunningServer, tmp_path: Path) -> None:
    write_long_video(tmp_path / "long.mp4", hours=3)
    content = (tmp_path / "long.mp4").read_bytes()
    status, answer = predict(server, content, name="long.mp4")
    assert status == 413
    assert answer["error"].startswith("long.mp4: is 3:00:0")
    wait_until_clean(server)


def test_an_oversized_upload_is_refused_on_arrival(server: RunningServer) -> None:
    # It announces no length, and would never end.
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(
            b"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: multipart/form-data; boundary=boundary\r\n\r\n"
        )
        head = form(b"").partition(b"\r\n--boundary--")[0]
        client.sendall(b"%x\r\n%s\r\n" % (len(head), head))
        piece = bytes(1 << 16)
        sent = 0
        client.settimeout(0.05)
        answer = b""
        while not answer and sent < 64 << 20:
            try:
                answer = client.recv(4096)
            except TimeoutError:
                client.settimeout(5)
                client.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
                sent += len(piece)
                client.settimeout(0.05)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert sent < 4 << 20  # the limit is 1 MB
    wait_until_clean(server)


def test_an_announced_size_is_refused_at_once(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999\r\n"
            b"Content-Type: multipart/form-data; boundary=boundary\r\n\r\n"
        )
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/hostname",
        "/gradio_api/file=../../../../etc/hostname",
        "/gradio_api/file=%2e%2e%2f%2e%2e%2fetc%2fhostname",
        "/file=/etc/hostname",
        "/file//etc/hostname",
        "/assets/../../../../../../etc/hostname",
        "/assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/hostname",
        "/static/..%2f..%2f..%2f..%2f..%2f..%2fetc%2fhostname",
        "/svelte/..%2f..%2f..%2f..%2f..%2f..%2fetc%2fhostname",
        "/gradio_api/proxy=http://127.0.0.1:1/",
        "/gradio_api/monitoring",
        "/gradio_api/info",
        "/openapi.json",
        "/docs",
    ],
)
def test_nothing_but_the_page_is_served(server: RunningServer, path: str) -> None:
    status, answer = ask(server, "GET", path)
    assert status in (403, 404)
    assert Path("/etc/hostname").read_bytes() not in json.dumps(answer, default=repr).encode()


def test_no_component_takes_a_path_or_an_address(server: RunningServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.setblocking(False)
        for place in ("/etc/hostname", f"http://127.0.0.1:{trap.getsockname()[1]}/x.mp4"):
            file = {"path": place, "meta": {"_type": "gradio.FileData"}}
            inputs: list[list[Any]] = [[file, None, [], False], [None, file, [], False]]
            for data in inputs:
                event = {"data": data, "fn_index": 0, "session_hash": "abc"}
                body = json.dumps(event).encode()
                join = "/gradio_api/queue/join"
                ask(server, "POST", join, body, **{"Content-Type": "application/json"})
        time.sleep(1)
        with pytest.raises(BlockingIOError):
            trap.accept()
    wait_until_clean(server)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:7860"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_other_pages_cannot_use_the_server(
    server: RunningServer, video: bytes, headers: dict[str, str], status: int
) -> None:
    assert ask(server, "POST", "/api/predict", form(video), **headers)[0] == status


def test_ten_clients_are_served_at_once(server: RunningServer, video: bytes) -> None:
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: predict(server, video), range(10)))
    assert [status for status, _ in answers] == [200] * 10
    assert all(answer == answers[0][1] for _, answer in answers)
    wait_until_clean(server)


def test_a_client_that_leaves_leaves_nothing(server: RunningServer, video: bytes) -> None:
    body = form(video)
    for sent in (body[: len(body) // 2], body):  # during its upload, and while it waits
        client = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        client.sendall(
            b"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n"
            b"Content-Type: multipart/form-data; boundary=boundary\r\n\r\n" % len(body)
        )
        client.sendall(sent)
        time.sleep(0.1)
        client.close()
    wait_until_clean(server)
    assert predict(server, video)[0] == 200


def test_a_full_queue_and_a_password(models: list[Path], video: bytes, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("open sesame\n")
    options = ("--password-file", str(tmp_path / "password"), "--max-waiting", "0")
    with running_server(tmp_path / "server", models[0], models[2], *options) as server:
        for path in ("/", "/config", "/api/models", "/assets/x.js", "/gradio_api/file=/x"):
            assert ask(server, "GET", path)[0] == 401
        assert predict(server, video)[0] == 401

        def allowed(password: str) -> dict[str, str]:
            token = base64.b64encode(f"me:{password}".encode()).decode()
            return {"Authorization": f"Basic {token}"}

        assert ask(server, "GET", "/", None, **allowed("open says me"))[0] == 401
        assert ask(server, "GET", "/", None, **allowed("open sesame"))[0] == 200

        def send(_: int) -> int:
            headers = allowed("open sesame")
            return ask(server, "POST", "/api/predict", form(video), **headers)[0]

        with ThreadPoolExecutor(6) as pool:
            statuses = list(pool.map(send, range(6)))
        assert set(statuses) == {200, 503}
        wait_until_clean(server)

        assert server.stop(signal.SIGINT) == 0
    assert (tmp_path / "server/log").read_text() == ""
    assert list(server.temporary.iterdir()) == []


def test_wrong_usage_and_a_port_in_use(models: list[Path], tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "slowfast", "serve", str(models[0]), *arguments]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return result.returncode, result.stderr

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = f"error: port {port} is in use on 127.0.0.1. Choose another one with --port\n"
        assert run("--port", str(port)) == (1, message)

    (tmp_path / "empty").touch()
    assert run("--max-seconds", "0")[0] == 2
    assert run("--password-file", str(tmp_path / "empty"))[0] == 2


@pytest.mark.soak
def test_memory_is_constant_over_200_requests(server: RunningServer, video: bytes) -> None:
    def request() -> None:
        assert predict(server, video)[0] == 200

    assert memory_growth(server, request) < 8e6
    wait_until_clean(server)
