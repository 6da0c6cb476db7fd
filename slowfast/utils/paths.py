"""Files that a user names, wherever they lie: local paths, http(s) addresses, and what handlers that a user registers
with `pathmgr` bring, such as `s3://`."""

import os
import shutil
import tempfile
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

from iopath.common.file_io import PathHandler, PathManager, get_cache_dir

HTTP_TIMEOUT = 60  # seconds without an answer


class HttpHandler(PathHandler):
    """Fetches a file once and keeps it in iopath's cache folder, by host, path and query."""

    def _get_supported_prefixes(self) -> list[str]:
        return ["http://", "https://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        url = urlsplit(path)
        place = quote(url.path.lstrip("/") + (f"?{url.query}" if url.query else ""))
        local = os.path.join(get_cache_dir(), url.netloc.replace(":", "_"), place)
        if force or not os.path.isfile(local):
            os.makedirs(os.path.dirname(local), exist_ok=True)
            # Characters such as spaces may stand in the address as they are, or escaped already.
            _download(quote(path, safe="%/:=&?~#+!$,;'@()*[]"), local)
        return local

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[str] | IO[bytes]:
        if mode not in ("r", "rb"):
            raise OSError(f"{path}: can be read only, not opened as {mode!r}")
        return open(self._get_local_path(path), mode, buffering, **kwargs)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        try:
            self._get_local_path(path)
        except FileNotFoundError:
            return False
        return True

    _exists = _isfile


def _download(url: str, target: str) -> None:
    """Put a file at `target`, which is whole whenever it is there, however many processes fetch it."""
    descriptor, unfinished = tempfile.mkstemp(dir=os.path.dirname(target))
    try:
        with os.fdopen(descriptor, "wb") as file, urlopen(url, timeout=HTTP_TIMEOUT) as answer:
            shutil.copyfileobj(answer, file)
            expected = answer.headers.get("Content-Length")
            if expected is not None and file.tell() != int(expected):
                raise OSError(f"{url}: {file.tell()} bytes came of {expected}")
        os.replace(unfinished, target)
    except HTTPError as error:
        if error.code in (404, 410):
            raise FileNotFoundError(f"{url}: no such file (HTTP status {error.code})") from error
        raise
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)


pathmgr = PathManager()
pathmgr.register_handler(HttpHandler())
