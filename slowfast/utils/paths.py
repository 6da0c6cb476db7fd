"""Files that a user names, wherever they lie: local paths, http(s) addresses, and what handlers that a user registers
with `pathmgr` bring, such as `s3://`."""

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
            raise OSError(f"{path}: can be read only, not opened as {mode!r}")
        return http_cache.open_copy(path, mode, buffering, **kwargs)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        try:
            self._get_local_path(path)
        except FileNotFoundError:
            return False
        return True

    _exists = _isfile


def forget(path: str) -> str:
    """Delete the copy of a remote file that cannot be read, so that the next use downloads it again.

    Returns:
        The end of a sentence about the error, which names the deleted copy; "" if there was none.
    """
    copy = http_cache.forget(path) if path.startswith(HTTP_PREFIXES) else ""
    return f" (its copy {copy} was deleted)" if copy else ""


pathmgr = PathManager()
pathmgr.register_handler(HttpHandler())
