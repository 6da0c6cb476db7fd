"""Published weights by name: in the folder of weights, then on the Hub, then by hand."""

from pathlib import Path

import pytest

from slowfast.models.zoo import Published, find_weights, published
from tests.hub_server import Hub

NAME = "uniformer_small_k400_16x8"
FILE = f"{NAME}.pth"
REPOSITORY = "Sense-X/uniformer_video"


@pytest.fixture(autouse=True)
def _unset_weights_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEIGHTS_DIR", raising=False)


def test_a_published_file_comes_from_the_hub_once(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add(REPOSITORY, {FILE: b"weights"})
    path = find_weights(NAME, key="weights")
    assert Path(path).read_bytes() == b"weights"
    assert Path(path).name == FILE
    assert f"hf:{REPOSITORY}: downloading {FILE} to the cache" in caplog.text
    hub.requests.clear()
    assert find_weights(NAME, key="weights") == path
    assert not hub.requests


def test_a_file_in_the_folder_of_weights_needs_no_hub(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"mine")
    hub.add(REPOSITORY, {FILE: b"weights"})
    assert find_weights(NAME, key="weights", folder=str(tmp_path)) == str(tmp_path / FILE)
    assert not hub.requests


def test_a_file_that_is_nowhere_is_to_be_downloaded_by_hand(hub: Hub) -> None:
    hub.add(REPOSITORY, {"README.md": b""})
    with pytest.raises(FileNotFoundError) as raised:
        find_weights(NAME, key="UNIFORMER.PRETRAIN_NAME")
    assert str(raised.value) == (
        f"UNIFORMER.PRETRAIN_NAME is '{NAME}', but no folder of weights is set. Download it from "
        f"{published()[NAME].page}, and set MODEL.WEIGHTS_DIR or the environment variable "
        f"WEIGHTS_DIR to the folder that holds {FILE}. The Hugging Face Hub does not give it "
        f"either: hf:{REPOSITORY}: cannot be downloaded: it has no file {FILE}."
    )


def test_nothing_is_downloaded_to_resume_a_run(hub: Hub) -> None:
    hub.add(REPOSITORY, {FILE: b"weights"})
    for weights in (NAME, "hf:team/model"):
        with pytest.raises(FileNotFoundError, match="it is not in the cache"):
            find_weights(weights, key="weights", may_download=False)
    assert not hub.requests
    path = find_weights(NAME, key="weights")
    assert find_weights(NAME, key="weights", may_download=False) == path


def test_a_damaged_file_in_the_cache_is_named(hub: Hub) -> None:
    hub.add(REPOSITORY, {FILE: b"weights"})
    path = Path(find_weights(NAME, key="weights"))
    path.resolve().write_bytes(b"weight!")
    with pytest.raises(ValueError, match=rf"{FILE}: is damaged, .* Delete /.*blobs/\w+ to downlo"):
        find_weights(NAME, key="weights")


def test_a_file_of_the_hub_must_be_the_published_one(hub: Hub) -> None:
    hub.add("team/zoo", {"a.pth": b"abd"})
    zoo = {"a": Published("a.pth", "https://a", "A", 1.0, sha256="ba7816bf", hub="team/zoo")}
    with pytest.raises(ValueError, match=r"a\.pth: is not the published a\.pth"):
        find_weights("a", key="weights", zoo=zoo)


def test_files_without_a_repository_send_no_request(hub: Hub) -> None:
    with pytest.raises(FileNotFoundError, match="no folder of weights is set"):
        find_weights("r3d_18", key="weights")
    assert not hub.requests
