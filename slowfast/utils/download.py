"""Downloads over http(s), with limits on what a server may send and how long it may take."""

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

# A download of n bytes may take TIMEOUT + n / SLOWEST_RATE seconds.
TIMEOUT = 60.0  # seconds
SLOWEST_RATE = 20_000  # bytes per second

_BLOCK_BYTES = 1 << 16
_MAX_CHARACTERS = 200  # length of a server's own words in a message


def checked_address(address: str) -> str:
    """Return an address with its special characters escaped, ready to send to a server.

    Args:
        address: An http(s) address. It may contain spaces and other special characters.

    Raises:
        OSError: If it is not the address of a file, or has a `..` in its path in any encoding.
    """
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port  # an invalid port raises an error
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
        raise OSError(f"{address}: a path with '..' is refused. Write the path that it stands for")
    return escaped


class Download:
    """A file that a server sends.

    Attributes:
        num_bytes: Size of the file, None if the server does not announce it.
        last_modified: The Last-Modified header, "" if there is none.

    Args:
        response: The response to the request for the file.
        is_gzip: Whether the file is a gzip archive. Some servers declare such a file as compressed.

    Raises:
        OSError: If the response is not a file as it is.
    """

    def __init__(self, response: HTTPResponse, *, is_gzip: bool) -> None:
        if response.status != 200:
            raise OSError(f"HTTP status {response.status} instead of a file")
        encoding = response.headers.get("Content-Encoding", "identity")
        expected = ("gzip", "x-gzip", "identity") if is_gzip else ("identity",)
        if encoding.strip().lower() not in expected:
            raise OSError(
                f"the file is sent compressed (Content-Encoding {_printable(encoding)!r})"
            )

        self._response = response
        self.num_bytes = _announced_bytes(response)
        self.last_modified = response.headers.get("Last-Modified", "")

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes of the file.

        Raises:
            OSError: If the server sends a web page or only a part of the file.
        """
        num_received = 0
        while block := self._response.read(_BLOCK_BYTES):
            if num_received == 0 and self._is_web_page(block[:HEAD_BYTES]):
                raise OSError("the server sent a web page (a log-in, a search or an error)")
            num_received += len(block)
            yield block

        if self.num_bytes is not None and num_received != self.num_bytes:
            raise OSError(f"only {num_received} of {self.num_bytes} bytes arrived")

    def _is_web_page(self, head: bytes) -> bool:
        content_type = self._response.headers.get_content_type()
        is_declared = content_type in ("text/html", "application/xhtml+xml")
        return is_web_page(head) or (is_declared and head.lstrip().startswith(b"<"))


@contextmanager
def open_address(address: str) -> Iterator[Download]:
    """Request a file. Every failure on the way is an OSError that names the address.

    The time limit is TIMEOUT seconds plus one second per SLOWEST_RATE bytes received.

    Raises:
        FileNotFoundError: If the server has no such file (404, 410).
        OSError: If the server is unreachable, too slow, or sends something other than a file.
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
    """Time left for a download."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.num_received = 0

    def seconds_left(self) -> float:
        allowed = TIMEOUT + self.num_received / SLOWEST_RATE
        return min(TIMEOUT, self._start + allowed - time.monotonic())


class _TimedReader(io.RawIOBase):
    """Reads from a connection, headers included, until the time of a clock is up."""

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
            raise TimeoutError(f"too slow, only {num_received} bytes arrived in time") from error
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
    """Opens http and https addresses within the time of a clock."""

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
        raise OSError(f"Content-Length is {_printable(text)!r}, which is not a file size")
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
    if isinstance(error, HTTPException):
        return f"not an HTTP response: {_printable(text)}"
    return text


def _printable(text: str) -> str:
    """Return the start of a server's own words, safe to print on a terminal."""
    text = str(text)[:_MAX_CHARACTERS]
    return "".join(character if character.isprintable() else "?" for character in text)
