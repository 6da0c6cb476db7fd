"""Models travel through a hub: pushed and pulled to the bit, and refused with a clear error."""

import re
import traceback
from pathlib import Path

import numpy as np
import pytest

from slowfast import load
from tests.hub_server import Hub
from tests.sharing.conftest import Export, Run, logits_of


@pytest.fixture
def token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    return hub.token


def test_logits_are_equal_after_a_trip_through_a_hub(
    hub: Hub,
    token: str,
    new_run: Run,
    export: Export,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, out = new_run(), tmp_path / "out"
    expected = logits_of(run)
    assert export(run, out, "--push", "team/model", "--private") == 0
    printed = capsys.readouterr()
    assert token not in printed.out + printed.err
    pinned = re.search(r'slowfast\.load\("(hf:team/model@[0-9a-f]{40})"\)', printed.out)
    assert pinned

    assert hub.repositories["team/model"].private
    files = hub.files("team/model")
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    assert all((out / name).read_bytes() == content for name, content in files.items())
    assert b'slowfast.load("hf:team/model")' in files["README.md"]
    assert np.array_equal(logits_of(out), expected)
    assert np.array_equal(logits_of("hf:team/model"), expected)

    hub.requests.clear()
    assert np.array_equal(logits_of(pinned[1]), expected)  # a commit in the cache
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert np.array_equal(logits_of("hf:team/model"), expected)
    assert not hub.requests


def test_a_second_push_is_a_new_commit(
    hub: Hub, token: str, new_run: Run, export: Export, tmp_path: Path
) -> None:
    hub.add("team/model", {"notes.txt": b"kept"})
    run = new_run()
    assert export(run, tmp_path / "a", "--push", "team/model") == 0
    assert export(run, tmp_path / "b", "--push", "hf:team/model", "--revision", "next") == 0
    repository = hub.repositories["team/model"]
    assert len(repository.commits) == 3
    assert repository.branches.keys() == {"main", "next"}
    assert hub.files("team/model")["notes.txt"] == b"kept"
    assert np.array_equal(logits_of("hf:team/model@next"), logits_of(run))


def test_a_public_repository_gets_nothing_private(
    hub: Hub,
    token: str,
    new_run: Run,
    export: Export,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.add("team/model", {})
    assert export(new_run(), tmp_path / "out", "--push", "team/model", "--private") == 1
    assert "hf:team/model: cannot be pushed to: it exists and is public" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert len(hub.repositories["team/model"].commits) == 1


REFUSALS = {
    "a wrong token": (
        "hf_aTokenThatIsNotTheRight",
        r"the Hub refused the token \(HTTP",
    ),
    "a token that is no header": ("abc\x00\x7fdef-secret", r"cannot be pushed to: "),
    "a token of other letters": ("größe-secret", "the token has a character that no token has"),
    "no token": ("", r"there is no token\. Log in with `hf auth login`, or set HF_TOKEN"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refused_token_is_never_printed(
    kind: str,
    hub: Hub,
    new_run: Run,
    export: Export,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    given, message = REFUSALS[kind]
    hub.refusal = f"who is {{}}? and who is {given}"
    if "\x00" in given:  # an environment cannot hold it, but a file of the token can
        monkeypatch.setattr("huggingface_hub.get_token", lambda: given)
        monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: given)
    elif given:
        monkeypatch.setenv("HF_TOKEN", given)
    assert export(new_run(), tmp_path / "out", "--push", "team/model") == 1
    printed = capfd.readouterr()
    assert re.search(f"^error: hf:team/model: .*{message}", printed.err, re.MULTILINE)
    for part in filter(None, (given, "secret", "TokenThat")):
        assert part not in printed.out + printed.err + caplog.text
    assert not (tmp_path / "out").exists()
    assert not hub.repositories


def test_no_traceback_shows_the_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_aTokenThatIsNotTheRight")
    hub.add("team/model", {"config.json": b"{}"})
    hub.broken = True
    with pytest.raises(OSError, match=r"hf:team/model: .* HTTP status 500: .*\*\*\*") as raised:
        load("hf:team/model")
    assert "TokenThat" not in "".join(traceback.format_exception(raised.value))


def test_an_upload_that_fails_leaves_the_folder_to_push_later(
    hub: Hub,
    token: str,
    new_run: Run,
    export: Export,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.refused_paths = ("commit",)
    run, out = new_run(), tmp_path / "out"
    assert export(run, out, "--push", "team/model", "--revision", "next") == 1
    error = capsys.readouterr().err
    assert (
        f"{out} is complete. Push it later with `hf upload team/model {out} . --revision" in error
    )
    assert np.array_equal(logits_of(out), logits_of(run))
    assert not any(hub.repositories["team/model"].commits.values())


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--push", "model"], 1, "hf:model: is not org/name or org/name@revision"),
        (["--push", "a/b/c"], 1, "hf:a/b/c: is not org/name"),
        (["--push", "a/b@main"], 2, "Name the branch with --revision"),
        (["--private"], 2, "--private has no meaning without --push"),
        (["--revision", "x"], 2, "--revision has no meaning without --push"),
    ],
)
def test_wrong_targets_are_refused_before_any_work(
    arguments: list[str],
    status: int,
    message: str,
    export: Export,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert export(tmp_path / "no run", tmp_path / "out", *arguments) == status
    assert message in capsys.readouterr().err


def test_a_push_in_offline_mode_is_refused(
    hub: Hub,
    token: str,
    new_run: Run,
    export: Export,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert export(new_run(), tmp_path / "out", "--push", "team/model") == 1
    message = "hf:team/model: cannot be pushed to: HF_HUB_OFFLINE forbids requests. Unset it"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not hub.requests


def test_a_push_without_a_network_writes_nothing(
    hub: Hub,
    token: str,
    new_run: Run,
    export: Export,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert export(new_run(), tmp_path / "out", "--push", "team/model") == 1
    assert re.search(
        r"hf:team/model: cannot be pushed to: no answer from http://127.0.0.1:9 \(.*refused\)",
        capsys.readouterr().err,
    )
    assert not (tmp_path / "out").exists()
