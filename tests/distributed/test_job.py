"""Restarts and new runs, in processes that real launchers start."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from slowfast.distributed.job import Job, current_job, is_restart_of

LAUNCHERS = ("SLURM", "TORCHELASTIC", "SUBMITIT", "SLOWFAST")
SCRIPT = """
import json, sys
from slowfast.distributed.job import current_job
with open(sys.argv[1], "a") as file:
    print(json.dumps(current_job()._asdict()), file=file)
"""


def clean_environment(**variables: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    return clean | {"PYTHONPATH": str(Path(__file__).parents[2])} | variables


def read_jobs(path: Path) -> list[Job]:
    return [Job(**json.loads(line)) for line in path.read_text().splitlines()]


def job_in(variables: Mapping[str, str], folder: Path) -> Job:
    """Return the job of a new process with these variables."""
    path = folder / "jobs"
    command = [sys.executable, "-c", SCRIPT, str(path)]
    subprocess.run(command, env=clean_environment(**variables), check=True)
    return read_jobs(path)[-1]


def run_attempts(
    command: str,
    folder: Path,
    *,
    env: Mapping[str, str],
    attempts: int = 2,
) -> list[Job]:
    """Return the jobs of a command that one agent starts again and again."""
    agent = f"""
import os, subprocess, time
for attempt in range({attempts}):
    env = dict(os.environ, **{dict(env)!r}, TORCHELASTIC_RESTART_COUNT=str(attempt))
    subprocess.run({command!r}, shell=True, env=env, check=True)
    time.sleep(0.02)
"""
    subprocess.run([sys.executable, "-c", agent], env=clean_environment(), cwd=folder, check=True)
    return read_jobs(folder / "jobs")


@pytest.fixture
def recording_command(tmp_path: Path) -> str:
    """A command that appends its job to the file `jobs`."""
    (tmp_path / "note.py").write_text(SCRIPT)
    return f"{sys.executable} note.py jobs"


def test_a_process_started_by_a_person_has_no_job(tmp_path: Path) -> None:
    assert job_in({}, tmp_path) == Job(name="", restart=0, starts={})


def test_a_slurm_requeue_is_a_restart(tmp_path: Path) -> None:
    first = job_in({"SLURM_JOB_ID": "1234"}, tmp_path)
    again = job_in({"SLURM_JOB_ID": "1234", "SLURM_RESTART_COUNT": "2"}, tmp_path)
    assert (first.name, first.restart) == ("slurm 1234", 0)
    assert (again.name, again.restart) == ("slurm 1234", 2)
    assert is_restart_of(again, first)
    assert not is_restart_of(first, again)


def test_two_commands_in_one_allocation_are_two_runs(tmp_path: Path) -> None:
    first, second = (job_in({"SLURM_JOB_ID": "7"}, tmp_path) for _ in range(2))
    assert not is_restart_of(second, first)


def test_equal_ids_on_two_clusters_are_two_jobs(tmp_path: Path) -> None:
    here = {"SLURM_JOB_ID": "7", "SLURM_CLUSTER_NAME": "alpha"}
    there = {"SLURM_JOB_ID": "7", "SLURM_CLUSTER_NAME": "beta", "SLURM_RESTART_COUNT": "1"}
    assert not is_restart_of(job_in(there, tmp_path), job_in(here, tmp_path))


def test_a_second_start_by_the_same_agent_is_a_restart(
    tmp_path: Path, recording_command: str
) -> None:
    run_id = {"TORCHELASTIC_RUN_ID": "none"}
    first, again = run_attempts(recording_command, tmp_path, env=run_id)
    assert (first.restart, again.restart) == (0, 1)
    assert is_restart_of(again, first)
    assert not is_restart_of(first, again)

    # Another agent has the same id, and even a higher count.
    other = run_attempts(recording_command, tmp_path, env=run_id, attempts=3)[-1]
    assert not is_restart_of(other, again)


def test_two_commands_of_one_shell_script_are_two_runs(
    tmp_path: Path, recording_command: str
) -> None:
    env = {"TORCHELASTIC_RUN_ID": "none"}
    command = f"{recording_command}; sleep 0.05; {recording_command}; :"
    jobs = run_attempts(command, tmp_path, env=env)
    first, second, first_again, second_again = jobs
    assert not is_restart_of(second, first)
    assert is_restart_of(first_again, first)
    assert is_restart_of(second_again, second)


def test_a_named_rendezvous_restarts_under_another_agent(tmp_path: Path) -> None:
    first = job_in({"TORCHELASTIC_RUN_ID": "a7", "TORCHELASTIC_RESTART_COUNT": "0"}, tmp_path)
    again = job_in({"TORCHELASTIC_RUN_ID": "a7", "TORCHELASTIC_RESTART_COUNT": "1"}, tmp_path)
    other = job_in({"TORCHELASTIC_RUN_ID": "b8", "TORCHELASTIC_RESTART_COUNT": "1"}, tmp_path)
    assert again.name == "torchrun a7"
    assert is_restart_of(again, first)
    assert not is_restart_of(other, first)


def test_torchrun_restarts_a_script_that_fails(tmp_path: Path) -> None:
    failing = tmp_path / "failing.py"
    failing.write_text(SCRIPT + "\nsys.exit(not current_job().restart)\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=1"]
    command += [str(failing), str(tmp_path / "jobs")]
    subprocess.run(command, env=clean_environment(), check=True, capture_output=True, timeout=60)
    first, again = read_jobs(tmp_path / "jobs")
    assert is_restart_of(again, first)


def test_a_requeue_with_torchrun_inside_is_a_restart(
    tmp_path: Path, recording_command: str
) -> None:
    env = {"TORCHELASTIC_RUN_ID": "none", "SLURM_JOB_ID": "5"}
    first = run_attempts(recording_command, tmp_path, env=env, attempts=1)[-1]
    env["SLURM_RESTART_COUNT"] = "1"
    again = run_attempts(recording_command, tmp_path, env=env, attempts=1)[-1]
    assert is_restart_of(again, first)
    assert again.name.startswith("slurm 5, torchrun ")


def test_a_local_requeue_of_submitit_is_a_restart(tmp_path: Path, recording_command: str) -> None:
    # Its controller, with a task that asks for another start once.
    task = f"{recording_command}; [ -e again ] || {{ touch again; exit 144; }}"
    command = [sys.executable, "-m", "submitit.local._local", str(tmp_path / "logs")]
    variables = {
        "SUBMITIT_LOCAL_NTASKS": "1",
        "SUBMITIT_LOCAL_COMMAND": f"bash -c '{task}'",
        "SUBMITIT_LOCAL_TIMEOUT_S": "60",
        "SUBMITIT_LOCAL_SIGNAL_DELAY_S": "30",
        "SUBMITIT_STDERR_TO_STDOUT": "",
        "SUBMITIT_LOCAL_WITH_SHELL": "",
        "SUBMITIT_EXECUTOR": "local",
    }

    process = subprocess.Popen(command, env=clean_environment(**variables), cwd=tmp_path)
    assert process.wait(timeout=30) == 0

    first, again = read_jobs(tmp_path / "jobs")
    assert first.name == again.name == f"submitit local {process.pid}"
    assert is_restart_of(again, first)
    assert not is_restart_of(first, again)


def test_a_count_that_is_no_number_counts_as_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "3")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "")
    assert current_job().starts == {"slurm 3": 0}
