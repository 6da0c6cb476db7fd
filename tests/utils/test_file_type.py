"""Files mistaken for weights: the error names their type and a remedy."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from slowfast.utils.checkpoint import load_checkpoint, read_header

PAGE = "<!DOCTYPE html>\n<html><head><title>Google Drive - Quota exceeded</title></head><body>"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 86404\n"


def tar_of(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("weights.pth")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("folder/weights.pth", content)
    return buffer.getvalue()


def array_of(numbers: list[float]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(numbers))
    return buffer.getvalue()


AGAIN = "Download the file itself again"
UNPACK = "Unpack it and name the file of weights inside"
FILES: dict[str, tuple[bytes, str]] = {
    "page": (PAGE.encode(), f"a web page (a log-in, a download or an error). {AGAIN}"),
    "virus warning": (
        b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title><meta",
        "the web page with which Google Drive warns that it cannot scan a file for viruses. Open "
        "the address in a browser, and choose to download anyway",
    ),
    "page after spaces": (
        b"\xef\xbb\xbf\n  <html lang=en>",
        f"a web page (a log-in, a download or an error). {AGAIN}",
    ),
    "page after a comment": (
        b"<!-- x -->\n<HTML>",
        f"a web page (a log-in, a download or an error). {AGAIN}",
    ),
    "page in UTF-16": (
        PAGE.encode("utf-16"),
        f"a web page (a log-in, a download or an error). {AGAIN}",
    ),
    "page in Latin-1": (
        f"{PAGE}é".encode("latin-1"),
        f"a web page (a log-in, a download or an error). {AGAIN}",
    ),
    "Git LFS": (POINTER.encode(), "a Git LFS pointer. Run `git lfs pull` in its repository"),
    "XML": (
        b"<Error><Code>AccessDenied</Code></Error>",
        "an XML document, such as a server error: "
        f"'<Error><Code>AccessDenied</Code></Error>'. {AGAIN}",
    ),
    "JSON": (
        b'{"error": "not found"}',
        """a JSON document, such as a server error: '{"error": "not found"}'. """ + AGAIN,
    ),
    "text": (
        b"weights go here\n",
        r"a text file: 'weights go here\n'. Name the file of weights instead",
    ),
    "torn letter": (
        "é".encode() * 600,
        "a text file: '" + "é" * 60 + "'. Name the file of weights instead",
    ),
    "empty": (b"", "an empty file. Copy or download it again"),
    "zeros": (
        bytes(5000),
        "a file of zeros, which a crash of its machine can leave. Copy or download it again",
    ),
    "gzip": (gzip.compress(b"x"), f"a gzip archive. {UNPACK}"),
    "bzip2": (bz2.compress(b"x"), f"a bzip2 archive. {UNPACK}"),
    "xz": (lzma.compress(b"x"), f"an xz archive. {UNPACK}"),
    "tar": (tar_of(b"x"), f"a tar archive. {UNPACK}"),
    "NumPy": (array_of([1.0]), "a NumPy array. Save a dict of tensors with torch.save instead"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_holds_no_weights_is_named(tmp_path: Path, kind: str, suffix: str) -> None:
    content, problem = FILES[kind]
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    for read in (load_checkpoint, read_header):
        with pytest.raises(ValueError, match="not a checkpoint") as error:
            read(path)
        assert str(error.value) == f"{path}: is not a checkpoint but {problem}"


def test_a_zip_archive_with_weights_inside_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(zip_of(b"x"))
    for read in (load_checkpoint, read_header):
        with pytest.raises(
            ValueError, match=r"\(it is a zip archive without weights. .*: folder/weights\.pth\)$"
        ):
            read(path)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_torchscript_program_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    for read in (load_checkpoint, read_header):
        with pytest.raises(
            ValueError,
            match=r"it is a TorchScript program, which could run code. Save its state_dict",
        ):
            read(path)


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    for seed in range(50):
        path.write_bytes(np.random.default_rng(seed).bytes(3000))
        with pytest.raises(
            ValueError, match=r"x\.pth: (not a whole checkpoint|is not a checkpoint)"
        ):
            load_checkpoint(path)
