"""File types by content, for files that are mistaken for weights."""

import re
from typing import NamedTuple

HEAD_BYTES = 1024  # start of a file that is enough to tell its type
ZIP_MAGIC = b"PK\x03\x04"

EXPORTED_REMEDY = "Name the checkpoint that it was exported from"

_AGAIN = "Download the file itself again"
_COPY_AGAIN = "Copy or download it again"
_UNPACK = "Unpack it and name the file of weights inside"


class FileType(NamedTuple):
    """A type of file that holds no weights, or holds them in an unreadable form."""

    name: str  # with an article
    remedy: str  # imperative, such as "Unpack it"


_MAGICS = {
    b"\x1f\x8b": FileType("a gzip archive", _UNPACK),
    b"BZh": FileType("a bzip2 archive", _UNPACK),
    b"\xfd7zXZ\x00": FileType("an xz archive", _UNPACK),
    b"\x28\xb5\x2f\xfd": FileType("a zstd archive", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": FileType("a 7z archive", _UNPACK),
    b"Rar!": FileType("a rar archive", _UNPACK),
    b"\x89HDF": FileType("an HDF5 file", "Convert it with the framework that wrote it"),
    b"\x93NUMPY": FileType("a NumPy array", "Save a dict of tensors with torch.save instead"),
    b"%PDF": FileType("a PDF document", _AGAIN),
}
# An ONNX model starts with its version and the name of its producer.
_ONNX = re.compile(rb"\x08[\x01-\x7f]\x12[\x01-\x7f][\w .-]{2}")
_TAR_MAGIC, _TAR_OFFSET = b"ustar", 257
_WEB_PAGE = re.compile(rb"<(?:!doctype\s+html|html|head|body|script|title)\b", re.IGNORECASE)
_VIRUS_WARNING = re.compile(r"<title>\s*Google Drive - Virus scan warning", re.IGNORECASE)
_JSON = re.compile(r"[\[{]\s*(?:[\"\[{\]}]|$)")
_MIN_TEXT_BYTES = 8  # fewer bytes of a truncated binary file may be letters by chance
_MAX_CHARACTERS = 60  # length of a quoted text in a message


def foreign_type(head: bytes) -> FileType | None:
    """Return the type of a file that certainly holds no weights, or None if it may hold some.

    Args:
        head: The first HEAD_BYTES of the file.
    """
    if not head:
        return FileType("an empty file", _COPY_AGAIN)
    if not head.strip(b"\0"):
        name = "a file of zeros, which a crash of its machine can leave"
        return FileType(name, _COPY_AGAIN)

    for magic, file_type in _MAGICS.items():
        if head.startswith(magic):
            return file_type
    if head[_TAR_OFFSET:].startswith(_TAR_MAGIC):
        return FileType("a tar archive", _UNPACK)

    if _ONNX.match(head):
        return FileType("an ONNX model", EXPORTED_REMEDY)
    if is_web_page(head):
        return page_type(head)
    text = _decode(head)
    if text is None or len(head) < _MIN_TEXT_BYTES:
        return None
    if text.startswith("version https://git-lfs"):
        return FileType("a Git LFS pointer", "Run `git lfs pull` in its repository")

    start = repr(text[:_MAX_CHARACTERS])
    if text.startswith("<"):
        return FileType(f"an XML document, such as a server error: {start}", _AGAIN)
    if _JSON.match(text):
        return FileType(f"a JSON document, such as a server error: {start}", _AGAIN)
    return FileType(f"a text file: {start}", "Name the file of weights instead")


def page_type(head: bytes) -> FileType:
    """Return the type of a web page, with its origin if it is Google Drive's virus warning.

    Args:
        head: The first HEAD_BYTES of the page.
    """
    if _VIRUS_WARNING.search(_decode(head) or head.decode("latin-1")):
        name = "the web page with which Google Drive warns that it cannot scan a file for viruses"
        return FileType(name, "Open the address in a browser, and choose to download anyway")
    return FileType("a web page (a log-in, a download or an error)", _AGAIN)


def is_web_page(head: bytes) -> bool:
    """Whether a file starts like a web page."""
    text = _decode(head)
    markup = head if text is None else text.encode()  # a page may have an old encoding
    return markup.lstrip().startswith(b"<") and _WEB_PAGE.search(markup) is not None


def is_safetensors(head: bytes) -> bool:
    """Whether a file starts like a .safetensors file: with the 8-byte size of a JSON object."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32


def _decode(head: bytes) -> str | None:
    """Return the text at the start of a file without leading spaces, or None if it is not text."""
    is_utf16 = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    encoding = "utf-16" if is_utf16 else "utf-8-sig"
    whole = head[: len(head) // 2 * 2] if is_utf16 else head
    for cut in range(4):  # the head may end within a character
        try:
            text = whole[: len(whole) - cut].decode(encoding)
        except UnicodeDecodeError:
            continue
        is_text = all(character.isprintable() or character.isspace() for character in text)
        return text.lstrip() if is_text and text else None
    return None
