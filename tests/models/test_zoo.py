"""Published weights are found by name and verified, and an error says where to download them."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slowfast.models.zoo import Published, find_weights, published

NAME = "uniformer_small_in1k"


@pytest.fixture(autouse=True)
def _unset_weights_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEIGHTS_DIR", raising=False)


def test_every_experiment_with_published_weights_has_an_entry(
    reference: Callable[[str], Any],
) -> None:
    table = {
        entry["exp"]: (entry["benchmark"], float(entry["published"]["top1"].rstrip("*")))
        for entry in reference("experiments")
        if entry["published"]["weights_linked"]
    }
    light = {exp: case for exp, case in reference("light_experiments").items() if exp != "_note"}
    table |= {exp: ("Kinetics-400", case["published"]["top1"]) for exp, case in light.items()}
    zoo = {
        entry.experiment: (entry.dataset, entry.top1)
        for entry in published().values()
        if entry.experiment
    }
    assert zoo == table
    names = [name for name in published() if name.startswith("uniformer_")]
    assert len(names) == len(table) + 8  # The others are for ImageNet.


def test_every_name_that_published_configs_start_from_is_known(
    reference: Callable[[str], Any],
) -> None:
    names = {entry["train"]["pretrain_name"] for entry in reference("experiments")}
    assert names <= published().keys()


def test_every_entry_is_a_file_and_a_page_of_its_own() -> None:
    entries = published().values()
    assert (
        len({entry.file for entry in entries})
        == len({entry.page for entry in entries})
        == len(entries)
    )
    assert all(
        entry.page.startswith("https://") and entry.file.endswith(".pth") for entry in entries
    )


@pytest.mark.parametrize("given_by", ["key", "environment"])
def test_a_name_is_looked_up_in_the_folder_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given_by: str
) -> None:
    (tmp_path / f"{NAME}.pth").touch()
    monkeypatch.setenv(
        "WEIGHTS_DIR", str(tmp_path if given_by == "environment" else tmp_path / "other")
    )
    folder = str(tmp_path) if given_by == "key" else ""
    assert find_weights(NAME, key="X", folder=folder) == str(tmp_path / f"{NAME}.pth")


def test_a_missing_published_file_says_where_to_get_it(tmp_path: Path) -> None:
    page = "https://drive.google.com/file/d/1-uepH3Q3BhTmWU6HK-sGAGQC_MpfIiPD/view"
    with pytest.raises(FileNotFoundError) as no_folder:
        find_weights(NAME, key="UNIFORMER.PRETRAIN_NAME")
    assert str(no_folder.value) == (
        f"UNIFORMER.PRETRAIN_NAME is '{NAME}', but no folder of weights is set. "
        f"Download it from {page}, and set MODEL.WEIGHTS_DIR or the environment variable "
        f"WEIGHTS_DIR to the folder that holds {NAME}.pth. The Hugging Face Hub does not give it "
        "either: hf:Sense-X/uniformer_image: cannot be downloaded: it is not in the cache, and "
        "HF_HUB_OFFLINE forbids to download it. Unset that, or download it before."
    )
    with pytest.raises(
        FileNotFoundError,
        match=rf"but {tmp_path} has no file {NAME}\.pth\. Download it from https:",
    ):
        find_weights(NAME, key="X", folder=str(tmp_path))


def test_a_misspelled_name_gets_a_suggestion(tmp_path: Path) -> None:
    message = (
        "^X is 'uniformer_smal_in1k': no such file of weights. "
        f"The nearest published name is {NAME}.$"
    )
    with pytest.raises(FileNotFoundError, match=message):
        find_weights("uniformer_smal_in1k", key="X", folder=str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"none\.pth': no such file of weights$"):
        find_weights(str(tmp_path / "none.pth"), key="X")


def test_an_unreachable_server_is_named() -> None:
    with pytest.raises(OSError, match=r"^X: cannot reach http://127\.0\.0\.1:9/a\.pth: .*refused"):
        find_weights("http://127.0.0.1:9/a.pth", key="X")


def test_a_known_sha256_is_verified(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"weights")
    right = Published("a.pth", "https://a", "A", 1.0, sha256=hashlib.sha256(b"weights").hexdigest())
    first_digits = right._replace(sha256=right.sha256[:8])
    path, folder = str(tmp_path / "a.pth"), str(tmp_path)
    assert find_weights("a", key="X", folder=folder, zoo={"a": right}) == path
    assert find_weights("a", key="X", folder=folder, zoo={"a": first_digits}) == path
    wrong = right._replace(sha256="0" * 64)
    message = (
        r"a\.pth: is not the published a\.pth: its sha256 is 9a12.* starts with 0000.*\. "
        r"Download it again from https://a"
    )
    with pytest.raises(ValueError, match=message):
        find_weights("a", key="X", folder=str(tmp_path), zoo={"a": wrong})


def test_a_published_file_is_verified_under_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "mc3_18-a90a0ba3.pth"
    path.write_bytes(b"abc")  # Its sha256 begins with ba7816bf.
    for weights, folder in ((str(path), ""), ("mc3_18", str(tmp_path))):
        with pytest.raises(
            ValueError,
            match=r"is not the published mc3_18-.*: its sha256 is ba7816bf.* a90a0ba3\. Down",
        ):
            find_weights(weights, key="X", folder=folder)
    zoo = {"a": Published("a.pth", "https://a", "A", 1.0, sha256="ba7816bf")}
    path = path.rename(tmp_path / "a.pth")
    assert find_weights(str(path), key="X", zoo=zoo) == str(path)
    path.write_bytes(b"abd")
    with pytest.raises(ValueError, match="is not the published"):
        find_weights(str(path), key="X", zoo=zoo)


def test_only_known_checksums_are_in_the_registry() -> None:
    for name, entry in published().items():
        if name.startswith("uniformer_"):
            assert entry.sha256 == ""
        else:
            assert entry.file.endswith(f"-{entry.sha256}.pth")
            assert len(entry.sha256) == 8


def test_a_folder_is_not_a_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"^{tmp_path}: is a folder, not a checkpoint file. Name a file$"
    ):
        find_weights(str(tmp_path), key="X")
    (tmp_path / "a.pth").symlink_to(tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: is a link that leads back to itself"):
        find_weights(str(tmp_path / "a.pth"), key="X")
