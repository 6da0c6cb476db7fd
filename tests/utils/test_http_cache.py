"""The cache of files behind http addresses, filled by real servers of every kind."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import pytest

from slowfast.datasets.decode import DecodeError, FrameFolder, VideoFile
from slowfast.datasets.text_files import open_text, reject_invalid_rows
from slowfast.utils import download, http_cache
from slowfast.utils.checkpoint import load_checkpoint
from slowfast.utils.paths import forget, pathmgr

Reply = Callable[[str], bytes | Iterator[bytes]]  # from the requested path to the bytes to send
Serve = Callable[[Reply], str]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of an empty cache."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SLOWFAST_CACHE_GB", raising=False)
    return tmp_path / "cache"


class RawHandler(BaseHTTPRequestHandler):
    """Sends the bytes of a reply as they are, status line included."""

    reply: Reply

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        answer = type(self).reply(self.path)
        with suppress(OSError):  # the client may hang up
            for piece in [answer] if isinstance(answer, bytes) else answer:
                self.wfile.write(piece)
                self.wfile.flush()
        self.close_connection = True


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Function that starts a server with a reply of raw bytes, and returns its address."""
    servers = []

    def start(reply: Reply) -> str:
        handler = type("Handler", (RawHandler,), {"reply": staticmethod(reply)})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.socket.close()


def whole(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def files_in(folder: Path) -> list[Path]:
    """Return all files below a folder except the one with the sum of the sizes."""
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "size"]


def read(address: str) -> bytes:
    with pathmgr.open(address, "rb") as file:
        content: bytes = file.read()
    return content


# ---- Addresses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/../../evil",
        "/a/..",
        "/a/%2e%2e/%2E%2E/evil",
        "/a/.%2e/evil",
        "/..%2f..%2fevil",
        "/..%5c..%5cevil",
        "/a\\..\\evil",
        "/%252e%252e/%252e%252e/evil",
        "/%25252e%25252e%25252fevil",
    ],
)
def test_a_path_with_two_dots_is_refused(serve: Serve, tmp_path: Path, path: str) -> None:
    asked: list[str] = []

    def reply(path: str) -> bytes:
        asked.append(path)
        return whole(b"evil")

    url = serve(reply)
    with pytest.raises(OSError, match=r"a path with '\.\.' is refused"):
        pathmgr.get_local_path(f"{url}{path}")
    with pytest.raises(DecodeError, match=r"a path with '\.\.' is refused"):
        VideoFile(f"{url}{path}")
    assert (asked, files_in(tmp_path)) == ([], [])


@pytest.mark.parametrize(
    "path", ["/a..b.txt", "/...", "/~/%00/é/c", "//x//y", "/?file=../../evil", "/" + "n" * 300]
)
def test_any_other_path_stays_in_the_cache(
    serve: Serve, tmp_path: Path, cache: Path, path: str
) -> None:
    local = Path(pathmgr.get_local_path(serve(lambda path: whole(b"content")) + path))
    assert local.resolve().is_relative_to(cache)
    assert files_in(tmp_path) == [local]
    assert local.read_bytes() == b"content"


@pytest.mark.parametrize(
    "address",
    [
        "http://",
        "http:///a.mp4",
        "http://host:port/a.mp4",
        "http://host:99999/a.mp4",
        "http://[::1/a.mp4",
        "http://a..b/c.mp4",
        "http://../a.mp4",
        "http://" + "a" * 70 + ".invalid/c.mp4",
        "http://user:secret@127.0.0.1/a.mp4",
        "http://127.0.0.1:9/a\n.mp4",
        "http://127.0.0.1:9/\udcff.mp4",
    ],
)
def test_a_malformed_address_is_an_unreadable_video(tmp_path: Path, address: str) -> None:
    with pytest.raises(DecodeError, match=r"(?s)^http:.*: "):
        VideoFile(address)
    assert files_in(tmp_path) == []


def test_files_whose_names_differ_after_a_hash_sign_are_two(serve: Serve) -> None:
    url = serve(lambda path: whole(path.encode()))
    assert [read(f"{url}/clip #{number}.mp4") for number in (1, 2)] == [
        b"/clip%20%231.mp4",
        b"/clip%20%232.mp4",
    ]


# ---- Answers ---------------------------------------------------------------------------------

PAGE = b"\n<!DOCTYPE html><html><title>Log in</title></html>"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BAD_ANSWERS = {
    "half": (whole(bytes(1000))[:-500], "only 500 of 1000 bytes arrived"),
    "half_chunked": (
        CHUNKED + b"10\r\n" + bytes(16) + b"\r\n10\r\n123",
        "the connection ended before the file did",
    ),
    "bad_chunk": (CHUNKED + b"zz\r\n123\r\n", "the connection ended|not an HTTP response"),
    "negative": (
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabcde",
        "Content-Length is '-5', which is not a file size",
    ),
    "word": (b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nabcde", "Content-Length is 'five'"),
    "digits": (
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nabcde",
        "Content-Length is '999",
    ),
    "huge": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999999\r\n\r\nabcde",
        "set SLOWFAST_CACHE_GB to more",
    ),
    "no_http": (b"SSH-2.0-OpenSSH_9.6\r\n\x1b[31m", "not an HTTP response: SSH"),
    "nothing": (b"", "closed connection without response"),
    "long_line": (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, "not an HTTP response"),
    "headers": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "not an HTTP response"),
    "page": (whole(PAGE), "the server sent a web page"),
    "bare_page": (whole(b"<h1>Gone</h1>", "Content-Type: text/html"), "the server sent a web page"),
    "no_content": (b"HTTP/1.1 204 No Content\r\n\r\n", "HTTP status 204"),
    "partial": (whole(bytes(5), status="206 Partial Content"), "HTTP status 206"),
    "forbidden": (whole(b"", status="403 \x1b[31mNo"), "HTTP status 403, .*No"),
    "loop": (whole(b"", "Location: /loop", status="302 Found"), "HTTP status 302"),
    "to_a_file": (
        whole(b"", "Location: file:///etc/passwd", status="302 Found"),
        "HTTP status 302",
    ),
    "to_ftp": (
        whole(b"", "Location: ftp://127.0.0.1/x", status="302 Found"),
        "unknown url type: ftp",
    ),
    "bad_target": (whole(b"", "Location: http://[x/", status="302 Found"), "IPv6"),
    "gzip": (whole(b"\x1f\x8b", "Content-Encoding: gzip"), "compressed"),
}


@pytest.mark.parametrize("kind", BAD_ANSWERS)
def test_an_incomplete_answer_is_an_unreadable_video(
    serve: Serve, tmp_path: Path, kind: str
) -> None:
    answer, reason = BAD_ANSWERS[kind]
    url = serve(lambda path: answer)
    with pytest.raises(DecodeError, match=rf"^{url}/{kind}: (?!http)(?i:.*{reason})") as caught:
        VideoFile(f"{url}/{kind}")
    assert "\x1b" not in str(caught.value)
    assert files_in(tmp_path) == []


def test_a_frame_folder_on_a_failing_server_is_unreadable(serve: Serve) -> None:
    with pytest.raises(DecodeError, match="HTTP status 500, Oops"):
        FrameFolder(serve(lambda path: whole(b"", status="500 Oops")), template="{:d}.jpg")


def drip(start: bytes, *, piece: bytes, times: int) -> Iterator[bytes]:
    yield start
    for _ in range(times):
        time.sleep(0.05)
        yield piece


@pytest.mark.parametrize(
    "start",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: ", CHUNKED],
)
def test_a_server_that_sends_too_slowly_is_given_up(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.4)
    piece = b"1\r\nx\r\n" if start == CHUNKED else b"x"
    url = serve(lambda path: drip(start, piece=piece, times=100))
    started = time.monotonic()
    with pytest.raises(DecodeError, match=r"a\.mp4: too slow, only \d+ bytes arrived in time"):
        VideoFile(f"{url}/a.mp4")
    assert time.monotonic() - started < 4  # all pieces take 5 s, and each less than 0.4 s
    assert files_in(tmp_path) == []


def test_a_slow_download_gets_the_time_that_its_bytes_need(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.4)
    monkeypatch.setattr(download, "SLOWEST_RATE", 1000)
    start = b"HTTP/1.1 200 OK\r\nContent-Length: 16000\r\n\r\n"
    content = read(serve(lambda path: drip(start, piece=bytes(1000), times=16)))  # 0.8 s
    assert content == bytes(16_000)


def test_a_redirect_leads_to_the_file(serve: Serve) -> None:
    there = whole(b"", "Location: /new", status="302 Found")
    assert read(serve(lambda path: whole(b"new") if path == "/new" else there) + "/old") == b"new"


def test_a_gzip_archive_may_be_called_compressed(serve: Serve) -> None:
    url = serve(lambda path: whole(b"\x1f\x8b", "Content-Encoding: x-gzip"))
    assert read(f"{url}/train.csv.gz") == b"\x1f\x8b"


# ---- Unreadable files leave the cache --------------------------------------------------------


def test_a_video_that_cannot_be_opened_leaves_the_cache(
    serve: Serve, write_painted: Callable[..., Path], tmp_path: Path, cache: Path
) -> None:
    answers = [
        whole(b'{"error": "try again"}'),
        whole(write_painted(tmp_path / "a.mp4", 3).read_bytes()),
    ]
    url = serve(lambda path: answers.pop(0)) + "/a.mp4"
    local = http_cache.cache_path(url)
    with pytest.raises(DecodeError, match=rf"invalid data.* \(its copy {local} was deleted\)$"):
        VideoFile(url)
    assert files_in(cache) == []
    with VideoFile(url) as video:
        assert video.num_frames == 3
    assert files_in(cache) == [Path(local)]


def test_a_video_that_cannot_be_decoded_leaves_the_cache(
    serve: Serve, write_painted: Callable[..., Path], tmp_path: Path, cache: Path
) -> None:
    content = bytearray(write_painted(tmp_path / "a.mp4", 20).read_bytes())
    with av.open(str(tmp_path / "a.mp4")) as container:
        packets = [
            (packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size
        ]
    for position, size in packets[8:]:
        content[position + 8 : position + size] = bytes(size - 8)

    url = serve(lambda path: whole(bytes(content))) + "/a.mp4"
    video = VideoFile(url)
    assert len(files_in(cache)) == 1
    with pytest.raises(DecodeError, match=r"invalid data .*\(at frame \d+\)"), video:
        video.read(range(20))
    assert files_in(cache) == []


def test_unreadable_lists_and_weights_leave_the_cache(serve: Serve, cache: Path) -> None:
    url = serve(lambda path: whole(b"\xff not a text, nor weights"))
    with (
        pytest.raises(ValueError, match=r"UTF-8: .* \(its copy .* was deleted\)"),
        open_text(f"{url}/a.csv") as file,
    ):
        file.read()
    with pytest.raises(ValueError, match=r"\(its copy .* was deleted\)"):
        load_checkpoint(f"{url}/weights.pth")

    local = pathmgr.get_local_path(f"{url}/b.csv")
    with pytest.raises(
        ValueError, match=rf"b\.csv \(its copy {local} was deleted\) line 1: no label"
    ):
        reject_invalid_rows(f"{url}/b.csv", ["line 1: no label"], num_invalid=1)
    assert files_in(cache) == []


def test_a_local_file_is_never_deleted(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"no video")
    with pytest.raises(DecodeError):
        VideoFile(str(path))
    assert forget(str(path)) == ""
    assert path.exists()


# ---- The limit -------------------------------------------------------------------------------


def age(path: str, *, seconds: float) -> None:
    """Set the last use of a file to some seconds ago."""
    found = os.stat(path)
    os.utime(path, (time.time() - seconds, found.st_mtime))


@pytest.fixture
def kilobytes(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of a server of files of 1000 bytes, with a cache of 5000."""
    monkeypatch.setenv("SLOWFAST_CACHE_GB", "5e-6")
    return serve(lambda path: whole(bytes(1000)))


def test_the_least_recently_used_files_make_room(kilobytes: str, cache: Path) -> None:
    for number in range(5):
        age(pathmgr.get_local_path(f"{kilobytes}/{number}"), seconds=1000 - number)
    age(pathmgr.get_local_path(f"{kilobytes}/0"), seconds=100)  # used again
    pathmgr.get_local_path(f"{kilobytes}/5")
    # 6000 bytes are too many. 4500 may stay, including the 1000 of the new file.
    assert sorted(path.name[-1] for path in files_in(cache)) == ["0", "3", "4", "5"]
    assert int((cache / "http/size").read_text()) == 4000


def test_a_copy_that_is_fetched_again_counts_as_used(kilobytes: str) -> None:
    path = pathmgr.get_local_path(f"{kilobytes}/0")
    age(path, seconds=1000)
    assert pathmgr.get_local_path(f"{kilobytes}/0") == path
    assert time.time() - os.stat(path).st_atime < 500


def test_files_in_use_are_not_deleted(kilobytes: str, cache: Path) -> None:
    for number in range(8):
        pathmgr.get_local_path(f"{kilobytes}/{number}")
    assert len(files_in(cache)) == 8
    for path in files_in(cache):
        age(str(path), seconds=61)
    pathmgr.get_local_path(f"{kilobytes}/8")
    assert len(files_in(cache)) == 4


def test_a_file_larger_than_the_cache_is_refused(
    serve: Serve, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOWFAST_CACHE_GB", "5e-6")
    for answer in (whole(bytes(6000)), b"HTTP/1.0 200 OK\r\n\r\n" + bytes(6000)):
        with pytest.raises(
            OSError,
            match=r"6\.0 kB or more, but the cache holds 5\.0 kB at most. Set SLOWFAST_CACHE_GB",
        ):
            pathmgr.get_local_path(serve(lambda path, answer=answer: answer))  # type: ignore[misc]
    assert files_in(cache) == []


@pytest.mark.parametrize("content", ["", "many", "99999999999999", "-3"])
def test_a_wrong_sum_of_sizes_is_corrected(kilobytes: str, cache: Path, content: str) -> None:
    pathmgr.get_local_path(f"{kilobytes}/0")
    (cache / "http/size").write_text(content)
    pathmgr.get_local_path(f"{kilobytes}/1")
    assert int((cache / "http/size").read_text()) == 2000


def test_leftovers_of_killed_downloads_are_deleted(kilobytes: str, cache: Path) -> None:
    first = Path(pathmgr.get_local_path(f"{kilobytes}/0"))
    old, new = (first.with_name(f"{name}.unfinished") for name in ("old", "new"))
    for path, seconds in ((old, 7200), (new, 10)):
        path.write_bytes(bytes(10))
        os.utime(path, (time.time() - seconds, time.time() - seconds))
    (cache / "http/size").unlink()
    pathmgr.get_local_path(f"{kilobytes}/1")
    assert (old.exists(), new.exists(), first.exists()) == (False, True, True)


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "many", ""])
def test_an_invalid_limit_is_named(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setenv("SLOWFAST_CACHE_GB", limit)
    with pytest.raises(
        ValueError, match=f"SLOWFAST_CACHE_GB is '{limit}'. Use a number of GB above 0"
    ):
        pathmgr.get_local_path(serve(lambda path: whole(b"")))


def test_a_copy_is_as_old_as_the_file_on_the_server(serve: Serve) -> None:
    url = serve(lambda path: whole(b"x", "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT"))
    assert os.stat(pathmgr.get_local_path(url)).st_mtime == 1445412480
    assert os.stat(pathmgr.get_local_path(url)).st_mtime == 1445412480  # used again


def test_an_evicted_video_is_downloaded_again(
    serve: Serve,
    write_painted: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = write_painted(tmp_path / "a.mp4", 5).read_bytes()
    url = serve(lambda path: whole(content)) + "/a.mp4"
    # Reading opens the file once more.
    monkeypatch.setattr("slowfast.datasets.decoding.packets.MAX_KEPT_BYTES", 0)
    with VideoFile(url) as video:
        os.remove(http_cache.cache_path(url))
        assert len(video.read([0, 4])) == 2


def read_all(url: str) -> None:
    for number in [*range(8)] * 8:
        assert read(f"{url}/{number}") == b"%d" % number * 1000


def test_processes_share_a_cache_that_is_too_small(
    serve: Serve, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve(lambda path: whole(path[1:].encode() * 1000))
    monkeypatch.setenv("SLOWFAST_CACHE_GB", "5e-6")
    monkeypatch.setattr(http_cache, "RECENT_SECONDS", 0.1)

    context = multiprocessing.get_context("fork")
    readers = [context.Process(target=read_all, args=(url,)) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(30)
    assert [reader.exitcode for reader in readers] == [0, 0, 0, 0]

    time.sleep(0.1)
    read(f"{url}/last")
    assert sum(path.stat().st_size for path in files_in(cache)) <= 5000
