"""Files by path or address: local, http(s), and any prefix that you register with `pathmgr`."""

from typing import IO, Any

from iopath.common.file_io import PathHandler, PathManager

from slowfast.utils import http_cache

HTTP_PREFIXES = ("http://", "https://")


class HttpHandler(PathHandler):
    """Downloads a file once and keeps it in the cache, see `slowfast.utils.http_cache`."""

    def _get_supported_prefixes(self) -> list[str]:
        return list(HTTP_PREFIXES)

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return http_cache.fetch(path, force=force)

    def _open(
        self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any
    ) -> IO[str] | IO[bytes]:
        if mode not in ("r", "rb"):
            raise OSError(f"{path}: is read-only. It cannot be opened as {mode!r}")
        return http_cache.open_copy(path, mode, buffering, **kwargs)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        try:
            self._get_local_path(path)
        except FileNotFoundError:
            return False
        return True

    _exists = _isfile


def forget(path: str) -> str:
    """Delete the cached copy of an unreadable remote file, so that the next use downloads it again.

    Returns:
        A note for the end of an error message that names the deleted copy, "" if there was none.
    """
    copy = http_cache.forget(path) if path.startswith(HTTP_PREFIXES) else ""
    return f" (its copy {copy} was deleted)" if copy else ""


pathmgr = PathManager()
pathmgr.register_handler(HttpHandler())
