"""File types by content: what a file really is that was taken for a file of weights."""

import re
from typing import NamedTuple

HEAD_BYTES = 1024  # of a file, enough to tell its type
ZIP_MAGIC = b"PK\x03\x04"

_AGAIN = "download the file itself again"
_UNPACK = "unpack it and name the file of weights that is in it"


class FileType(NamedTuple):
    """A type of file that holds no weights, or not in a way that can be read."""

    name: str  # with its article
    remedy: str  # as the end of a sentence: "unpack it"


_MAGICS = {
    b"\x1f\x8b": FileType("a gzip archive", _UNPACK),
    b"BZh": FileType("a bzip2 archive", _UNPACK),
    b"\xfd7zXZ\x00": FileType("an xz archive", _UNPACK),
    b"\x28\xb5\x2f\xfd": FileType("a zstd archive", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": FileType("a 7z archive", _UNPACK),
    b"Rar!": FileType("a rar archive", _UNPACK),
    b"\x89HDF": FileType("an HDF5 file", "convert it with the framework that wrote it"),
    b"\x93NUMPY": FileType("a NumPy array", "save a dict of tensors with torch.save instead"),
    b"%PDF": FileType("a PDF document", _AGAIN),
}
_TAR_MAGIC, _TAR_OFFSET = b"ustar", 257
_WEB_PAGE = re.compile(rb"<(?:!doctype\s+html|html|head|body|script|title)\b", re.IGNORECASE)
_JSON = re.compile(r"[\[{]\s*(?:[\"\[{\]}]|$)")
_LEAST_TEXT = 8  # bytes: the first few of a torn file of weights may be letters by chance
_MOST_CHARACTERS = 60  # of a text, in a message


def foreign_type(head: bytes) -> FileType | None:
    """Return the type of a file that certainly holds no weights, None if it may hold some.

    Args:
        head: The first HEAD_BYTES of the file.
    """
    if not head:
        return FileType("an empty file", "copy or download it again")
    if not head.strip(b"\0"):
        return FileType(
            "a file of zeros, as a crash of its machine leaves it", "copy or download it again"
        )
    for magic, file_type in _MAGICS.items():
        if head.startswith(magic):
            return file_type
    if head[_TAR_OFFSET:].startswith(_TAR_MAGIC):
        return FileType("a tar archive", _UNPACK)

    if is_web_page(head):
        return FileType("a web page (of a log-in, a download or an error)", _AGAIN)
    text = _text_of(head)
    if text is None or len(head) < _LEAST_TEXT:
        return None
    if text.startswith("version https://git-lfs"):
        return FileType("a Git LFS pointer", "run `git lfs pull` in its repository")

    begin = repr(text[:_MOST_CHARACTERS])
    if text.startswith("<"):
        return FileType(f"an XML document, such as the error of a server: {begin}", _AGAIN)
    if _JSON.match(text):
        return FileType(f"a JSON document, such as the error of a server: {begin}", _AGAIN)
    return FileType(f"a text file: {begin}", "name the file of weights instead")


def is_web_page(head: bytes) -> bool:
    """Whether a file starts as a web page does."""
    text = _text_of(head)
    markup = head if text is None else text.encode()  # a page in an old encoding is no text to us
    return markup.lstrip().startswith(b"<") and _WEB_PAGE.search(markup) is not None


def is_safetensors(head: bytes) -> bool:
    """Whether a file starts as .safetensors files do: with the size of a JSON object, in 8 bytes, and that."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32


def _text_of(head: bytes) -> str | None:
    """The text that a file begins with, without spaces before it; None if it is no text."""
    is_utf16 = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    encoding = "utf-16" if is_utf16 else "utf-8-sig"
    whole = head[: len(head) // 2 * 2] if is_utf16 else head
    for cut in range(4):  # a character may be torn where the head ends
        try:
            text = whole[: len(whole) - cut].decode(encoding)
        except UnicodeDecodeError:
            continue
        is_text = all(character.isprintable() or character.isspace() for character in text)
        return text.lstrip() if is_text and text else None
    return None
