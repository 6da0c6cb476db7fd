"""Checksums of files: the SHA-256 of a file, kept beside it in the format of sha256sum."""

import hashlib
import logging
import os
import re
from pathlib import Path

from slowfast.utils.files import write_file

SUFFIX = ".sha256"  # of the side file, after the full name

_LINE = re.compile(r"(?<![0-9a-fA-F])([0-9a-fA-F]{64})(?![0-9a-fA-F])(?:[ \t]+\*?(.*))?")
_BLOCK_BYTES = 1 << 20

logger = logging.getLogger(__name__)


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a local file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def write_with_sha256(path: Path, content: bytes) -> None:
    """Write a file and, beside it, `<name>.sha256`, which `sha256sum -c` and `check_sha256` verify.

    The checksum is that of the content in memory: damage on the way to the disk shows, too.

    Raises:
        OSError: One of them cannot be written. A file without its side file is not checked.
    """
    side_file = _side_file(path)
    side_file.unlink(
        missing_ok=True
    )  # of an older file, which it would still describe after a crash
    write_file(path, content)

    escaped = path.name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    mark = "\\" if escaped != path.name else ""  # as sha256sum marks a name with escapes
    line = f"{mark}{hashlib.sha256(content).hexdigest()}  {escaped}\n"
    write_file(side_file, line.encode("utf-8", "surrogateescape"))


def check_sha256(path: str | Path) -> bool:
    """Check a local file against `<name>.sha256` beside it, log that, and return whether there is one.

    Raises:
        ValueError: The file is another one, or the side file holds no checksum of it.
        OSError: One of them cannot be read.
    """
    side_file = _side_file(Path(path))
    if not os.path.isfile(side_file):
        return False
    expected, found = _read_side_file(side_file, name=Path(path).name), sha256_of(path)
    if found != expected:
        raise ValueError(
            f"{path}: is damaged or another file: its sha256 is {found}, but {side_file.name} says {expected}; "
            f"download or copy the file again, or delete {side_file} if the file is newer"
        )
    logger.info("%s: its sha256 is that of %s", path, side_file.name)
    return True


def _side_file(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def _read_side_file(side_file: Path, *, name: str) -> str:
    """The checksum of a file; where there are several, that with its name."""
    text = side_file.read_text(encoding="utf-8", errors="surrogateescape")
    found = _LINE.findall(text)
    if len({digest.lower() for digest, _ in found}) > 1:
        found = [
            (digest, listed) for digest, listed in found if os.path.basename(listed.strip()) == name
        ]
    if not found:
        raise ValueError(
            f"{side_file}: holds no sha256 of {name}; delete it, or get it again from where {name} is from"
        )
    return found[0][0].lower()
