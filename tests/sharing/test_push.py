"""Models travel through a hub: pushed, pulled, pinned, offline, and refused with a clear error."""

import getpass
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from slowfast import load
from tests.hub_server import Hub
from tests.sharing.conftest import Export, Run

CLIP = np.random.default_rng(3).integers(0, 256, (12, 48, 64, 3), np.uint8)


@pytest.fixture
def token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    return hub.token


def logits_of(source: object) -> np.ndarray:
    return load(str(source)).predict(CLIP).logits


def test_logits_are_equal_after_a_trip_through_a_hub(
    hub: Hub,
    token: str,
    new_run: Run,
    export: Export,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = new_run()
    expected = logits_of(run)
    assert export(run, tmp_path / "out", "--push", "team/model", "--private") == 0
    printed = capsys.readouterr()
    pinned = re.search(r'slowfast\.load\("(hf:team/model@[0-9a-f]{40})"\)', printed.out)
    assert pinned
    assert token not in printed.out + printed.err
    assert hub.repositories["team/model"].private
    files = hub.files("team/model")
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    assert all((tmp_path / "out" / name).read_bytes() == files[name] for name in files)
    assert 'slowfast.load("hf:team/model")' in files["README.md"].decode()

    assert np.array_equal(logits_of(tmp_path / "out"), expected)
    assert np.array_equal(logits_of("hf:team/model"), expected)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert np.array_equal(logits_of("hf:team/model"), expected)
    assert np.array_equal(logits_of(pinned[1]), expected)
