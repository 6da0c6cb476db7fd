"""Checksums of files: the SHA-256 of a file, kept beside it in the format of sha256sum."""

import hashlib
import logging
import os
import re
from pathlib import Path

from slowfast.utils.files import write_file

SUFFIX = ".sha256"  # suffix of a checksum file, after the full name of the file

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

    The checksum is that of the content in memory, so that it also reveals damage on the way to the
    disk.

    Raises:
        OSError: If a file cannot be written. A file without its checksum file is not checked.
    """
    checksum_file = _checksum_file(path)
    checksum_file.unlink(missing_ok=True)  # after a crash it would describe the older file
    write_file(path, content)

    escaped = path.name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    mark = "\\" if escaped != path.name else ""  # sha256sum marks an escaped name
    line = f"{mark}{hashlib.sha256(content).hexdigest()}  {escaped}\n"
    write_file(checksum_file, line.encode("utf-8", "surrogateescape"))


def check_sha256(path: str | Path) -> bool:
    """Check a local file against `<name>.sha256` beside it, and log the result.

    Returns:
        Whether there is such a checksum file.

    Raises:
        ValueError: If the checksums differ, or the checksum file does not list the file.
        OSError: If one of the files is unreadable.
    """
    checksum_file = _checksum_file(Path(path))
    if not os.path.isfile(checksum_file):
        return False

    expected = _read_checksum(checksum_file, name=Path(path).name)
    found = sha256_of(path)
    if found != expected:
        raise ValueError(
            f"{path}: is damaged or another file: its sha256 is {found}, but "
            f"{checksum_file.name} says {expected}. Download or copy the file again, or delete "
            f"{checksum_file} if the file is newer"
        )

    logger.info("%s: its sha256 matches %s", path, checksum_file.name)
    return True


def _checksum_file(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def _read_checksum(checksum_file: Path, *, name: str) -> str:
    """Return the checksum of a file. If several are listed, its name decides."""
    text = checksum_file.read_text(encoding="utf-8", errors="surrogateescape")
    found = _LINE.findall(text)
    if len({digest.lower() for digest, _ in found}) > 1:
        found = [line for line in found if os.path.basename(line[1].strip()) == name]

    if not found:
        raise ValueError(
            f"{checksum_file}: holds no sha256 of {name}. Delete it, or get it again from the "
            f"source of {name}"
        )
    digest: str = found[0][0]
    return digest.lower()
