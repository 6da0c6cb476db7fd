"""Lists, videos and weights from a real HTTP server, and from a path handler of your own."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from iopath.common.file_io import PathHandler

from slowfast.config import CfgNode
from slowfast.datasets.build import build_loader
from slowfast.datasets.decode import DecodeError, VideoFile
from slowfast.engine.evaluate import evaluate
from slowfast.models.build import build_model
from slowfast.utils.checkpoint import save_checkpoint
from slowfast.utils.paths import pathmgr

Serve = Callable[[type[BaseHTTPRequestHandler]], str]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Function that starts a server with a request handler, and returns its address."""
    servers = []

    def start(handler: type[BaseHTTPRequestHandler]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def files_of(folder: Path) -> tuple[type[BaseHTTPRequestHandler], list[str]]:
    """Return a handler that serves a folder, and the list of the paths that clients request."""
    asked: list[str] = []

    class Files(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

    return Files, asked


def test_lists_videos_and_weights_come_over_http(
    serve: Serve, tiny_cfg: Callable[..., CfgNode], motion_folder: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.pyth"
    torch.manual_seed(3)
    save_checkpoint(weights, {"model_state": build_model(tiny_cfg()).state_dict()})
    data, models = (serve(files_of(folder)[0]) for folder in (motion_folder, tmp_path))
    remote = {
        "DATA__PATH_TO_DATA_DIR": data,
        "DATA__PATH_PREFIX": data,
        "DATA__CLASS_NAMES": f"{data}/classes.txt",
        "TEST__CHECKPOINT_FILE_PATH": f"{models}/weights.pyth",
    }

    over_http = evaluate(tiny_cfg(**remote, OUTPUT_DIR=tmp_path / "http"))
    assert over_http == evaluate(
        tiny_cfg(TEST__CHECKPOINT_FILE_PATH=weights, OUTPUT_DIR=tmp_path / "local")
    )
    first = next(iter(build_loader(tiny_cfg(**remote), "train"))).frames
    assert torch.equal(first, next(iter(build_loader(tiny_cfg(), "train"))).frames)


def test_a_file_is_downloaded_once_for_each_host(serve: Serve, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub folder").mkdir(parents=True)
        (tmp_path / name / "sub folder/a b, c.txt").write_text(name)
    handlers, asked = zip(*(files_of(tmp_path / name) for name in ("one", "two")), strict=True)
    urls = [f"{serve(handler)}/sub folder/a b, c.txt" for handler in handlers]
    for _ in range(2):
        for name, url in zip(("one", "two"), urls, strict=True):
            with pathmgr.open(url, "r", encoding="utf-8") as file:
                assert file.read() == name
    assert asked == (["/sub%20folder/a%20b,%20c.txt"],) * 2


def test_a_video_missing_on_the_server_is_unreadable(serve: Serve, tmp_path: Path) -> None:
    url = serve(files_of(tmp_path)[0])
    with pytest.raises(DecodeError, match=rf"{url}/none\.mp4: no such file"):
        VideoFile(f"{url}/none.mp4")


class Failing(BaseHTTPRequestHandler):
    """Sends half of the announced bytes, or an error."""

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(200 if "half" in self.path else 500)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(bytes(500))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("half", "only 500 of 1000 bytes arrived"),
        ("broken", "HTTP status 500, internal server error"),
    ],
)
def test_half_a_download_is_an_error_and_leaves_nothing(
    serve: Serve, tmp_path: Path, name: str, reason: str
) -> None:
    url = serve(Failing)
    with pytest.raises(DecodeError, match=rf"(?i){name}\.mp4: .*{reason}"):
        VideoFile(f"{url}/{name}.mp4")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_an_unreachable_server_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"a\.mp4: .*refused"):
        VideoFile("http://127.0.0.1:9/a.mp4")


class Store(PathHandler):
    """A storage that finds files by name."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def _get_supported_prefixes(self) -> list[str]:
        return ["store://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: object) -> str:
        return str(self.folder / path.removeprefix("store://"))

    def _isfile(self, path: str, **kwargs: object) -> bool:
        return Path(self._get_local_path(path)).is_file()


def test_a_registered_handler_serves_videos(motion_folder: Path) -> None:
    pathmgr.register_handler(Store(motion_folder), allow_override=True)
    with (
        VideoFile("store://test/left_0000.mp4") as there,
        VideoFile(f"{motion_folder}/test/left_0000.mp4") as here,
    ):
        assert np.array_equal(there.read([3, 30]), here.read([3, 30]))
