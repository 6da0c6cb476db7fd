"""The command `slowfast doctor`: its screen, its JSON and its exit status."""

import json
import socket
from pathlib import Path

import pytest
import torchvision  # noqa: F401, here, so that the forked processes do not have to

from slowfast.commands.main import main
from slowfast.diagnosis.finding import ok, warning
from slowfast.diagnosis.report import format_finding, format_summary

NAMES = {"module name", "decoding", "open files", "shared memory", "all-reduce", "GPU", "hub cache"}


@pytest.fixture
def private_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names that must not be printed: home folder, user, token. The folders have them."""
    home = tmp_path / "alice"
    (home / "runs").mkdir(parents=True)
    token = "hf_" + "a1B2" * 8
    for name, value in {"HOME": str(home), "USER": "alice", "HF_TOKEN": token}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", f"eth-of-{socket.gethostname()}")
    monkeypatch.setenv("TORCH_PROXY", f"http://alice:password@proxy/{token}")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.chdir(home)
    return ["alice", token, socket.gethostname(), "password", str(tmp_path)]


def test_json_names_no_person_or_machine(
    private_names: list[str], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status = main(["doctor", "--json", "--output-dir", str(tmp_path / "alice/runs")])
    text = capfd.readouterr().out
    report = json.loads(text)
    checks = {check["name"]: check for check in report["checks"]}

    assert status == (report["status"] == "failed")
    assert checks.keys() >= NAMES
    assert [name for name in private_names if name in text] == []
    assert "free in ~/runs" in checks["output folder"]["text"]
    assert report["environment"]["TORCH_PROXY"] == "http://SECRET@proxy/SECRET"


def test_the_report_fits_on_a_screen(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status = main(["doctor", "--output-dir", str(tmp_path / "file")])
    out = capfd.readouterr().out
    lines = out.splitlines()

    assert len(lines) <= 60  # with the remedies of a machine that lacks several things
    assert max(map(len, lines)) <= 80
    assert f"failedoutputfolder{tmp_path}/fileisnotafolder" in "".join(out.split())
    assert lines[-1].startswith("This machine is not ready for training: ")
    assert status == 1


def test_each_status_has_its_own_lines() -> None:
    assert format_finding("GPU", ok("one H100")) == "ok       GPU               one H100"
    assert format_finding("GPU", warning("none", "Set NUM_GPUS 0")).splitlines() == [
        "warning  GPU               none",
        "                           -> Set NUM_GPUS 0",
    ]
    findings = {"CPU": ok("fast"), "GPU": warning("none", "Buy one")}
    assert format_summary(findings) == "This machine is ready for training: 1 warning."
