"""Single checks: codecs, control groups, libraries, Slurm and the names that are replaced."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slowfast.diagnosis import cgroups, software
from slowfast.diagnosis.finding import FAILED, OK, WARNING
from slowfast.diagnosis.folders import find_write_problem
from slowfast.diagnosis.privacy import Privacy
from slowfast.diagnosis.programs import check_slurm
from slowfast.diagnosis.video_codecs import CODECS, Codec, check_decoding, find_decoding_problem


def test_every_codec_of_the_wheel_decodes() -> None:
    finding = check_decoding()

    assert finding.status == OK
    assert finding.details["decoded"] == [codec.name for codec in CODECS]


def test_a_missing_decoder_names_the_codec_and_its_data() -> None:
    known = CODECS[-1]
    unused = check_decoding([known, Codec("h1999", ("libx1999",))])
    used = check_decoding([known, Codec("h1999", ("libx1999",), used_by="Kinetics")])

    assert (unused.status, used.status) == (WARNING, FAILED)
    assert unused.text == "mjpeg decode. h1999 (no decoder): such videos are unreadable"
    assert used.text == "mjpeg decode. h1999 (no decoder): needed for Kinetics"


def test_an_encoder_that_fails_gives_its_reason() -> None:
    codec = Codec("h264", ("libx264",), options={"preset": "no-such-preset"})

    assert "libx264" in find_decoding_problem(codec, encoder="libx264")


def write_groups(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_limits_of_version_2_groups_are_the_lowest(tmp_path: Path) -> None:
    mount = write_groups(
        tmp_path,
        {
            "proc": "0::/job/step\n",
            "job/cpu.max": "250000 100000\n",
            "job/step/cpu.max": "max 100000\n",
            "job/memory.max": "8000000000\n",
            "job/step/memory.max": "max\n",
            "job/step/pids.max": "300\n",
        },
    )
    where: dict[str, Any] = {"proc": mount / "proc", "mount": mount}

    assert cgroups.cpu_limit(**where) == 2.5
    assert cgroups.memory_limit(**where) == 8_000_000_000
    assert cgroups.process_limit(**where) == 300


def test_limits_of_version_1_groups(tmp_path: Path) -> None:
    mount = write_groups(
        tmp_path,
        {
            "proc": "4:memory:/job\n1:cpu,cpuacct:/outside\n0::/\n",
            "cpu,cpuacct/cpu.cfs_quota_us": "150000\n",  # the root, as a container sees its group
            "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/job/memory.limit_in_bytes": "4000000000\n",
        },
    )
    where: dict[str, Any] = {"proc": mount / "proc", "mount": mount}

    assert cgroups.cpu_limit(**where) == 1.5
    assert cgroups.memory_limit(**where) == 4_000_000_000
    assert cgroups.process_limit(**where) is None


def test_a_machine_without_groups_has_no_limits(tmp_path: Path) -> None:
    where: dict[str, Any] = {"proc": tmp_path / "proc", "mount": tmp_path}

    assert cgroups.cpu_limit(**where) is None
    assert cgroups.memory_limit(**where) is None


def test_the_libraries_are_those_of_the_setup(repository: Path) -> None:
    calls = ast.walk(ast.parse((repository / "setup.py").read_text()))
    arguments = {node.arg: node.value for node in calls if isinstance(node, ast.keyword)}
    stated = {
        name: ast.literal_eval(arguments[name])
        for name in ("name", "python_requires", "install_requires")
    }
    required = [re.match(r"[\w.-]+", line) for line in stated["install_requires"]]

    assert sorted(match[0] for match in required if match) == sorted(software.REQUIRED)
    assert stated["name"] == software.DISTRIBUTION
    assert stated["python_requires"] == ">=" + ".".join(map(str, software.OLDEST_PYTHON))


@pytest.mark.parametrize(
    ("version", "bound", "is_older"),
    [
        ("2.14.1+cu130", "2.14.1", False),
        ("2.9", "2.14.1", True),
        ("2.14.1rc1", "2.14.1", False),
        ("0.1.5.post20221221", "0.1.5", False),
        ("", "1.0", False),
    ],
)
def test_versions_are_compared_by_number(version: str, bound: str, is_older: bool) -> None:
    assert software._is_older(version, bound) == is_older


def test_a_hub_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    program = "from slowfast.diagnosis.folders import check_hub_cache as check; print(*check()[:3])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"HF_HUB_CACHE": str(file / "hub")},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.startswith(
        f"warning {file} is not a folder: weights of the Hugging Face Hub"
    )
    assert done.stdout.endswith("Set HF_HOME to a writable folder\n")


def test_a_cache_that_does_not_exist_yet_is_not_created(tmp_path: Path) -> None:
    assert find_write_problem(tmp_path / "a/b") == ""
    assert list(tmp_path.iterdir()) == []


def test_slurm_without_a_command_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check_slurm().status == OK

    for name in ("sbatch", "srun", "sacct"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    finding = check_slurm()

    assert finding.status == WARNING
    assert finding.text.startswith("scontrol, scancel not found")


def test_private_names_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setenv("USER", "alice")
    monkeypatch.setenv("SLURMD_NODENAME", "gpu-17.cluster.example")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    clean = Privacy().clean

    assert clean("/home/alice/data: no such file") == "~/data: no such file"
    assert clean("/home/alice") == "~"
    assert clean("/home/alices/data") == "/home/alices/data"
    assert clean("/scratch/alice/runs") == "/scratch/USER/runs"
    assert clean("/tmp/torchinductor_alice") == "/tmp/torchinductor_USER"
    assert clean("rank 0 on gpu-17.cluster.example") == "rank 0 on HOST"
    assert clean("connect to gpu-17 failed") == "connect to HOST failed"
    assert clean("gpu-170 and malice") == "gpu-170 and malice"
    assert clean({"alice": ["0123456789abcdef", 7]}) == {"alice": ["SECRET", 7]}
    assert clean(f"token hf_{'x' * 30}") == "token SECRET"
