"""Downloads over http(s): what a server may send, and how long it may take."""

import io
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import (
    BaseHandler,
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from slowfast.utils.file_type import HEAD_BYTES, is_web_page

TIMEOUT = (
    60.0  # seconds that a server may take, besides the time that its bytes need at SLOWEST_RATE
)
SLOWEST_RATE = 20_000  # bytes per second

_BLOCK_BYTES = 1 << 16
_MOST_CHARACTERS = 200  # of what a server says, in a message


def checked_address(address: str) -> str:
    """Return an address with its special characters escaped, as it is sent to a server.

    Args:
        address: An http(s) address. Characters such as spaces may stand in it as they are.

    Raises:
        OSError: It is no address of a file, or it has a `..` in its path, in whatever encoding.
    """
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port  # a port that is no number raises
        escaped = quote(address, safe="%/:=&?~+!$,;'@()*[]", errors="surrogateescape")
    except ValueError as error:
        raise OSError(f"{address!r}: not an address: {error}") from error

    if not host:
        raise OSError(f"{address!r}: not an address: it names no server")
    if parts.username is not None:
        raise OSError(f"{parts.scheme}://...@{host}: addresses with a user name are not supported")
    if any(ord(character) < 32 or ord(character) == 127 for character in address):
        raise OSError(f"{address!r}: not an address: it has a control character")
    if ".." in re.split(r"[/\\]", _fully_unquoted(parts.path)):
        raise OSError(f"{address}: a path with '..' is refused; write the path that it stands for")
    return escaped


class Download:
    """The answer of a server to a request for a file: its size, as far as announced, and its bytes.

    Attributes:
        num_bytes: Size of the file; None if the server does not announce it.
        last_modified: Header of this name; "" if there is none.

    Args:
        response: The answer.
        is_gzip: Whether the file itself is a gzip archive, which some servers call compressed.
    """

    def __init__(self, response: HTTPResponse, *, is_gzip: bool) -> None:
        if response.status != 200:
            raise OSError(f"HTTP status {response.status}, which is not that of a file")
        encoding = response.headers.get("Content-Encoding", "identity")
        expected = ("gzip", "x-gzip", "identity") if is_gzip else ("identity",)
        if encoding.strip().lower() not in expected:
            raise OSError(f"the file comes compressed (Content-Encoding {_printable(encoding)!r})")

        self._response = response
        self.num_bytes = _announced_bytes(response)
        self.last_modified = response.headers.get("Last-Modified", "")

    def blocks(self) -> Iterator[bytes]:
        """Give the bytes of the file, and raise OSError if they are not those of a whole file."""
        num_received = 0
        while block := self._response.read(_BLOCK_BYTES):
            if num_received == 0 and self._is_web_page(block[:HEAD_BYTES]):
                raise OSError("the server sent a web page (of a log-in, a search or an error)")
            num_received += len(block)
            yield block

        if self.num_bytes is not None and num_received != self.num_bytes:
            raise OSError(f"{num_received} bytes came of {self.num_bytes}")

    def _is_web_page(self, head: bytes) -> bool:
        claimed = self._response.headers.get_content_type() in (
            "text/html",
            "application/xhtml+xml",
        )
        return is_web_page(head) or (claimed and head.lstrip().startswith(b"<"))


@contextmanager
def open_address(address: str) -> Iterator[Download]:
    """Request a file. Everything that goes wrong on the way is an OSError that names the address.

    A download may take TIMEOUT seconds, and one more for every SLOWEST_RATE bytes that have come.

    Raises:
        FileNotFoundError: The server has no such file (404, 410).
        OSError: The server cannot be reached, is too slow, or sends something else than a file.
    """
    opener = OpenerDirector()
    handlers: list[BaseHandler] = [ProxyHandler(), UnknownHandler(), HTTPRedirectHandler()]
    handlers += [HTTPDefaultErrorHandler(), HTTPErrorProcessor(), _TimedHandler(_Clock())]
    for handler in handlers:
        opener.add_handler(handler)

    request = Request(checked_address(address), headers={"User-Agent": "slowfast"})
    try:
        with opener.open(request, timeout=TIMEOUT) as response:
            yield Download(response, is_gzip=urlsplit(address).path.endswith(".gz"))
    except HTTPError as error:
        error.close()
        reason = f"HTTP status {error.code}, {_printable(error.reason) or 'no reason given'}"
        if error.code in (404, 410):
            raise FileNotFoundError(f"{address}: no such file ({reason})") from error
        raise OSError(f"{address}: {reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise OSError(f"{address}: {_reason(error)}") from error


class _Clock:
    """The time that is left for a download."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.num_received = 0

    def seconds_left(self) -> float:
        allowed = TIMEOUT + self.num_received / SLOWEST_RATE
        return min(TIMEOUT, self._start + allowed - time.monotonic())


class _TimedReader(io.RawIOBase):
    """The bytes of a connection, headers included, within the time of a clock."""

    def __init__(self, raw: io.RawIOBase, connection: socket.socket, *, clock: _Clock) -> None:
        self._raw = raw
        self._connection = connection
        self._clock = clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        seconds = self._clock.seconds_left()
        try:
            if seconds <= 0:
                raise TimeoutError
            self._connection.settimeout(seconds)
            num_bytes: int | None = self._raw.readinto(buffer)
        except TimeoutError as error:
            num_received = self._clock.num_received
            raise TimeoutError(f"too slow, only {num_received} bytes came in time") from error
        self._clock.num_received += num_bytes or 0
        return num_bytes

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, clock: _Clock, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock, clock=clock))


class _TimedHandler(HTTPSHandler):
    """Opens http and https with responses that keep to a clock."""

    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._response_class = partial(_TimedResponse, clock=clock)

    def http_open(self, request: Request) -> HTTPResponse:
        return self.do_open(partial(self._connect, HTTPConnection), request)

    def https_open(self, request: Request) -> HTTPResponse:
        return self.do_open(partial(self._connect, HTTPSConnection), request)

    def _connect(self, kind: type[HTTPConnection], host: str, **kwargs: Any) -> HTTPConnection:
        connection = kind(host, **kwargs)
        connection.response_class = self._response_class  # type: ignore[assignment]
        return connection

    http_request = https_request = HTTPSHandler.do_request_


def _announced_bytes(response: HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length")
    if text is None or response.chunked:
        return None
    if not re.fullmatch("[0-9]{1,18}", text.strip()):
        raise OSError(f"Content-Length is {_printable(text)!r}, which is no size of a file")
    return int(text)


def _fully_unquoted(path: str) -> str:
    while (unquoted := unquote(path)) != path:
        path = unquoted
    return path


def _reason(error: BaseException) -> str:
    if isinstance(error, URLError) and isinstance(error.reason, BaseException):
        return _reason(error.reason)
    if isinstance(error, IncompleteRead):
        return "the connection ended before the file did"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return (
        f"not an answer in HTTP: {_printable(text)}" if isinstance(error, HTTPException) else text
    )


def _printable(text: str) -> str:
    """Return the start of what a server says, without characters that would change a terminal."""
    text = str(text)[:_MOST_CHARACTERS]
    return "".join(character if character.isprintable() else "?" for character in text)
