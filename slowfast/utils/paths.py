"""The one path manager: what it opens (local files, http(s) addresses, handlers that a user registers) works wherever
a user gives a path to read."""

from iopath.common.file_io import HTTPURLHandler, PathManager

pathmgr = PathManager()
pathmgr.register_handler(HTTPURLHandler())
