"""Uploads: received in pieces up to a limit, kept in a private folder, and deleted after use."""

import asyncio
import contextlib
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from slowfast.serving.refusal import RefusedError
from slowfast.utils.text import printable

MAX_UPLOADS = 32  # files at a time, complete or not
UNUSED_SECONDS = 600.0  # after which an upload that nobody classifies is deleted

_SILENT_SECONDS = 30.0  # without data, after which an upload is given up
_MAX_FORM_BYTES = 1 << 16  # of a form beside its file
_MAX_NAME = 100  # characters
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,5}")


class Uploads:
    """The files that clients uploaded, each in a folder with a random name.

    Args:
        folder: Private folder for the files.
        max_bytes: Largest file to accept.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._names: dict[Path, str] = {}  # names that the clients gave, by path
        self._times: dict[Path, float] = {}  # when the files were complete
        self._used: set[Path] = set()
        self._num_receiving = 0

    async def receive(self, request: Request) -> Path:
        """Write the file of a multipart form, and return its path.

        Raises:
            ClientDisconnect: If the client leaves before the file is complete.
            RefusedError: If there is no file, it is too large, or there are too many.
        """
        boundary = _boundary_of(request)
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self.max_bytes + _MAX_FORM_BYTES:
            raise self._too_large()
        if len(self._names) + self._num_receiving >= MAX_UPLOADS:
            raise RefusedError("too many uploads are waiting. Try again in a minute", status=503)

        self._num_receiving += 1
        folder = self.folder / secrets.token_urlsafe(24)
        folder.mkdir(mode=0o700)
        path = folder / "video"
        try:
            with path.open("wb") as file:
                form = _FileForm(boundary, file)
                await self._read_body(request, form)
            name = form.complete()
            path = path.rename(path.with_suffix(_safe_suffix(name)))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            self._num_receiving -= 1

        self._names[path] = printable(re.split(r"[/\\]", name)[-1])[:_MAX_NAME] or "video"
        self._times[path] = time.monotonic()
        return path

    async def _read_body(self, request: Request, form: "_FileForm") -> None:
        num_bytes = 0
        chunks = request.stream()
        while True:
            try:
                chunk = await asyncio.wait_for(anext(chunks), _SILENT_SECONDS)
            except StopAsyncIteration:
                return
            except asyncio.TimeoutError as error:
                raise RefusedError("the upload has stalled. Try again", status=408) from error

            num_bytes += len(chunk)
            form.write(chunk)
            if form.num_bytes > self.max_bytes or num_bytes > self.max_bytes + _MAX_FORM_BYTES:
                raise self._too_large()

    def _too_large(self) -> RefusedError:
        megabytes = self.max_bytes / 1e6
        return RefusedError(
            f"the file is larger than {megabytes:g} MB, the limit here. Send a shorter or a "
            "smaller video",
            status=413,
        )

    def find(self, path: str | Path) -> Path:
        """Return the path of a complete upload.

        Raises:
            RefusedError: If there is none at this path.
        """
        found = Path(path)
        if found not in self._names:
            raise RefusedError("the upload is no longer here. Upload the video again", status=404)
        return found

    def name(self, path: Path) -> str:
        """Return the name that the client gave an upload, without control characters."""
        return self._names.get(path, path.name)

    @contextlib.contextmanager
    def using(self, path: Path) -> Iterator[None]:
        """Keep an upload while it is used, and delete it afterwards.

        Raises:
            RefusedError: If it is gone, or in use already.
        """
        self.find(path)
        if path in self._used:
            raise RefusedError("this upload is being classified already", status=409)
        self._used.add(path)
        try:
            yield
        finally:
            self._used.discard(path)
            self._delete(path)

    def delete_unused(self, *, older_than: float = UNUSED_SECONDS) -> None:
        """Delete the uploads that nobody classified within some seconds."""
        limit = time.monotonic() - older_than
        for path, received in list(self._times.items()):
            if received <= limit and path not in self._used:
                self._delete(path)

    def _delete(self, path: Path) -> None:
        shutil.rmtree(path.parent, ignore_errors=True)
        self._names.pop(path, None)
        self._times.pop(path, None)


class _FileForm:
    """A multipart form whose first file is written as it arrives. Other fields are skipped."""

    def __init__(self, boundary: bytes, file: BinaryIO) -> None:
        self.num_bytes = 0  # of the file
        self._file = file
        self._name: str | None = None
        self._field = self._value = b""
        self._is_in_file = self._is_complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    def write(self, chunk: bytes) -> None:
        """Parse a piece of the body."""
        try:
            self._parser.write(chunk)
        except MultipartParseError as error:
            raise RefusedError(f"the form is damaged: {error}", status=400) from error

    def complete(self) -> str:
        """Return the name of the file, after the last piece."""
        if not self._is_complete:
            raise RefusedError("the upload ends before the end of its form", status=400)
        if self._name is None:
            raise RefusedError("the form has no file. Send one in its field video", status=400)
        return self._name

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._field.lower() == b"content-disposition" and self._name is None:
            options = parse_options_header(self._value)[1]
            if b"filename" in options:
                self._name = options[b"filename"].decode(errors="replace")
                self._is_in_file = True
        self._field = self._value = b""

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_in_file:
            self.num_bytes += end - start
            self._file.write(data[start:end])

    def _on_part_end(self) -> None:
        self._is_in_file = False

    def _on_end(self) -> None:
        self._is_complete = True


def _boundary_of(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise RefusedError(
            "the body is no form. Send the video as the field video of a multipart form",
            status=400,
        )
    return options[b"boundary"]


def _safe_suffix(name: str) -> str:
    """Return the suffix of a name, which some readers of videos look at."""
    suffix = Path(name).suffix
    return suffix.lower() if _SUFFIX.fullmatch(suffix) else ""


__all__ = ["ClientDisconnect", "Uploads"]
