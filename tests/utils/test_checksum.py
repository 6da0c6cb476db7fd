"""Checksum files in the format of sha256sum, and the check when weights are loaded."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from slowfast.utils.checkpoint import load_checkpoint, save_weights
from slowfast.utils.checksum import check_sha256, sha256_of, write_with_sha256

# The examples of FIPS 180-2: "abc", and a million times "a".
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
MILLION = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"


def test_sha256_of_the_published_examples(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_of(tmp_path / "x") == ABC
    (tmp_path / "x").write_bytes(b"a" * 1_000_000)
    assert sha256_of(tmp_path / "x") == MILLION


@pytest.mark.skipif(
    shutil.which("sha256sum") is None, reason="sha256sum of GNU coreutils checks the format"
)
@pytest.mark.parametrize("name", ["x.pth", "a b é.safetensors", "back\\slash.pth"])
def test_sha256sum_reads_ours_and_we_read_its(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_with_sha256(path, b"abc")
    checksum_file = tmp_path / f"{name}.sha256"
    ours = checksum_file.read_bytes()
    assert ABC.encode() in ours
    subprocess.run(
        ["sha256sum", "--check", checksum_file.name], cwd=tmp_path, check=True, capture_output=True
    )
    assert check_sha256(path)

    theirs = subprocess.run(
        ["sha256sum", name], cwd=tmp_path, check=True, capture_output=True
    ).stdout
    assert theirs == ours
    path.write_bytes(b"abd")
    check = ["sha256sum", "--check", checksum_file.name]
    assert subprocess.run(check, cwd=tmp_path, capture_output=True).returncode == 1
    with pytest.raises(ValueError, match="is damaged or another file"):
        check_sha256(path)


@pytest.mark.parametrize(
    "text",
    [
        f"{ABC}\n",
        ABC.upper(),
        f"{ABC} *x.pth\r\n",
        f"{ABC}  its/old name.pth\n",
        f"SHA256 (x.pth) = {ABC}\n",
        f"{MILLION}  y.pth\n{ABC}  folder/x.pth\n",
        f"# sums\n{ABC}  x.pth\n{ABC}  copy.pth\n",
    ],
)
def test_a_checksum_is_found_however_it_is_listed(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.pth").write_bytes(b"abc")
    (tmp_path / "x.pth.sha256").write_text(text)
    assert check_sha256(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "text", ["", "<html>", ABC[:-1], f"{ABC}0", f"{ABC}  a.pth\n{MILLION}  b.pth\n"]
)
def test_a_checksum_file_without_a_checksum_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.pth").write_bytes(b"abc")
    (tmp_path / "x.pth.sha256").write_text(text)
    with pytest.raises(
        ValueError, match=r"x\.pth\.sha256: holds no sha256 of x\.pth. Delete it, or get it again"
    ):
        check_sha256(tmp_path / "x.pth")


def test_a_checksum_file_is_optional(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"abc")
    assert not check_sha256(tmp_path / "x.pth")
    (tmp_path / "x.pth.sha256").mkdir()
    assert not check_sha256(tmp_path / "x.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_are_checked_when_they_are_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str
) -> None:
    path = tmp_path / f"x{suffix}"
    save_weights(path, {"a": torch.arange(100.0)}, class_names=[])
    with caplog.at_level("INFO"):
        load_checkpoint(path)
    assert caplog.messages == [f"{path}: its sha256 matches x{suffix}.sha256"]

    right = sha256_of(path)
    content = path.read_bytes()
    damaged = content.replace(
        torch.arange(100.0).numpy().tobytes(), torch.ones(100).numpy().tobytes()
    )
    assert damaged != content
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged") as error:
        load_checkpoint(path)
    assert str(error.value) == (
        f"{path}: is damaged or another file: its sha256 is {sha256_of(path)}, but "
        f"x{suffix}.sha256 says {right}. Download or copy the file again, or delete {path}.sha256 "
        "if the file is newer"
    )


def test_new_weights_replace_an_older_checksum(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    for value in (1.0, 2.0):
        save_weights(path, {"a": torch.tensor([value])}, class_names=[])
        assert load_checkpoint(path)["model_state"]["a"].tolist() == [value]
