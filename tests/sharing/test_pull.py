"""Loading from a hub: revisions, its cache, and what is missing or damaged there."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from slowfast import load
from slowfast.config import CfgNode
from slowfast.engine.choose_weights import find_problems
from slowfast.engine.train import train
from slowfast.utils.checkpoint import load_checkpoint
from slowfast.utils.checkpoint_files import list_checkpoints
from tests.hub_server import Hub
from tests.sharing.conftest import Run, logits_of


@pytest.fixture
def exported(new_run: Run, tmp_path: Path) -> dict[str, bytes]:
    """The files of an exported folder."""
    folder = tmp_path / "exported"
    load(new_run()).save(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_revision_is_a_branch_or_a_commit(hub: Hub, exported: dict[str, bytes]) -> None:
    first = hub.add("team/model", exported)
    assert load("hf:team/model").class_names[0] == "left"
    content = json.loads(exported["config.json"])
    content["class_names"] = [f"class {number}" for number in range(8)]
    hub.add("team/model", {**exported, "config.json": json.dumps(content).encode()})
    assert load("hf:team/model").class_names[0] == "class 0"
    assert load(f"hf:team/model@{first}").class_names[0] == "left"
    hub.add("team/model", exported, branch="a/b")
    assert load("hf:team/model@a/b").class_names[0] == "left"


def test_the_cache_serves_while_the_hub_does_not_answer(
    hub: Hub, exported: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    commit = hub.add("team/model", exported)
    expected = logits_of("hf:team/model")
    hub.broken = True
    assert np.array_equal(logits_of("hf:team/model"), expected)
    assert "HTTP status 500" in caplog.text
    assert f"Taking commit {commit} from the cache" in caplog.text


MISSING = {
    "hf:team/none": "there is no such repository, or it is private .* Check its name. Log in with",
    "hf:team/model@v9": "there is no such revision. Name a branch, a tag or a commit after the @",
    "hf:team/empty": "it has no file config.json",
    "hf:team/half": "it has no file model.safetensors",
}


@pytest.mark.parametrize("source", MISSING)
def test_what_a_hub_does_not_have_is_named(
    source: str, hub: Hub, exported: dict[str, bytes]
) -> None:
    hub.add("team/model", exported)
    hub.add("team/empty", {"README.md": b"# Nothing"})
    hub.add("team/half", {"config.json": exported["config.json"]})
    message = f"^{re.escape(source)}: cannot be downloaded: {MISSING[source]}"
    with pytest.raises(FileNotFoundError, match=message):
        load(source)


def test_a_private_repository_needs_the_token(
    hub: Hub, exported: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("team/model", exported, private=True)
    with pytest.raises(FileNotFoundError, match="or it is private and your token does not open it"):
        load("hf:team/model")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert load("hf:team/model").class_names[0] == "left"


@pytest.mark.parametrize("name", ["model", "a/b/c", "a/b@", "/b", "a/../b", "team/x y"])
def test_a_malformed_name_sends_no_request(name: str, hub: Hub) -> None:
    with pytest.raises(ValueError, match=r": is not org/name or org/name@revision$"):
        load(f"hf:{name}")
    assert not hub.requests


def test_a_download_in_offline_mode_is_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"hf:team/model: .* HF_HUB_OFFLINE forbids to download it"):
        load("hf:team/model")
    assert not hub.requests


def test_no_network_is_named_at_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits and tries again"))
    message = r"no answer from http://127.0.0.1:9 \(.*refused\)\. Check the network"
    with pytest.raises(OSError, match=message):
        load("hf:team/model")


def test_a_server_that_is_no_hub_is_named(hub: Hub, exported: dict[str, bytes]) -> None:
    hub.add("team/model", exported)
    hub.names_commits = False
    with pytest.raises(OSError, match=rf"{hub.address} is no Hub.* Check HF_ENDPOINT"):
        load("hf:team/model")


def test_a_training_starts_from_a_model_of_the_hub(
    hub: Hub, exported: dict[str, bytes], tiny_cfg: Callable[..., CfgNode], tmp_path: Path
) -> None:
    hub.add("team/model", exported)
    cfg = tiny_cfg(
        TRAIN__CHECKPOINT_FILE_PATH="hf:team/model",
        SOLVER__MAX_EPOCH=1,
        TEST__ENABLE=False,
        OUTPUT_DIR=tmp_path / "tuning",
    )
    assert not find_problems(cfg)
    train(cfg)
    [checkpoint] = list_checkpoints(cfg.OUTPUT_DIR)
    identity = load_checkpoint(checkpoint)["identity"]
    weights = hashlib.sha256(exported["model.safetensors"]).hexdigest()
    assert identity["start_weights_sha256"] == weights

    load(checkpoint).save(tmp_path / "tuned")
    assert "1 epoch, started from other weights." in (tmp_path / "tuned/README.md").read_text()
    missing = tiny_cfg(TRAIN__CHECKPOINT_FILE_PATH="hf:team/none", OUTPUT_DIR=tmp_path / "new")
    assert any("there is no such repository" in problem for problem in find_problems(missing))


def test_a_folder_of_another_library_is_named(hub: Hub, exported: dict[str, bytes]) -> None:
    hub.add("timm/model", {**exported, "config.json": b'{"architecture": "resnet18"}'})
    with pytest.raises(ValueError, match=r"config\.json: was not exported by this framework"):
        load("hf:timm/model")


# ---- Damage ----------------------------------------------------------------------------------

PAGE = b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>"
DAMAGES = {
    "truncated": ("model.safetensors", lambda content: content[:-9], "is truncated, damaged or ed"),
    "edited": ("model.safetensors", lambda content: content[:-1] + b"?", "its sha256 is"),
    "empty": ("model.safetensors", lambda content: b"", "an empty file"),
    "page": (
        "model.safetensors",
        lambda content: PAGE,
        "the web page with which Google",
    ),
    "config page": ("config.json", lambda content: PAGE, "is not JSON but the web page with which"),
    "config cut": ("config.json", lambda content: content[:-9], "is not valid JSON"),
    "newer": (
        "config.json",
        lambda content: content.replace(b'"format": 1', b'"format": 2'),
        "has format 2, but this version reads 1. Upgrade slowfast-uniformer",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_files_are_named(
    kind: str, hub: Hub, exported: dict[str, bytes], tmp_path: Path
) -> None:
    name, damage, message = DAMAGES[kind]
    files = {**exported, name: damage(exported[name])}
    hub.add("team/model", files)
    folder = tmp_path / "copy"
    folder.mkdir()
    for file, content in files.items():
        (folder / file).write_bytes(content)

    for source in ("hf:team/model", folder, folder / "model.safetensors"):
        with pytest.raises(ValueError, match=rf"(?s){name}: .*{message}"):
            load(source)
