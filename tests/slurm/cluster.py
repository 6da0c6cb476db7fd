"""Clusters to submit jobs to: a Slurm of two nodes, or this machine with submitit."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from slowfast.distributed.submitted_job import SubmittedJob, read_jobs
from slowfast.utils.checkpoint import load_checkpoint
from slowfast.utils.checkpoint_files import newest_checkpoint

REPOSITORY = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("cluster.sh")
QUICKSTART = REPOSITORY / "exp/quickstart/config.yaml"
EPOCHS = 2  # Epochs of a training, with 16 steps each.
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch")
SBIN = f"{os.environ['PATH']}:/usr/sbin:/sbin"
HOSTS = {"loopback": ("127.0.0.1", "127.0.0.2"), "netns": ("node1", "node2")}
OPTIONS = {  # One sends USR2 to a job that must make room, the other TERM alone.
    "loopback": ("--net", "loopback", "--preempt-signal", "yes"),
    "netns": ("--net", "netns", "--preempt-signal", "no"),
}


class Submitted:
    """A process of tools/submit.py that follows its job."""

    def __init__(self, command: list[str], *, env: dict[str, str], cwd: Path) -> None:
        self.process = subprocess.Popen(
            command, env=env, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def end(self) -> tuple[int, str, str]:
        """Wait for its end and return its exit status, output and errors."""
        output, errors = self.process.communicate(timeout=240)
        return self.process.returncode, output, errors


class Cluster:
    """Two machines of one task each, or one of two tasks.

    Args:
        kind: loopback or netns, the network of a Slurm, or local, submitit's local executor.
        folder: Folder of the Slurm. Jobs are submitted from there.
        env: Environment of the jobs.
    """

    def __init__(self, kind: str, *, folder: Path, env: dict[str, str]) -> None:
        self.kind = kind
        self.folder = folder
        self.hosts: tuple[str, ...] = HOSTS.get(kind, ())
        self.env = env
        if kind != "local":
            path = f"{folder / 'bin'}:{env['PATH']}"
            self.env = env | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
            timing = ("--requeue-delay", "5", "--node-timeout", "10")
            self._run_script("start", *timing, *OPTIONS[kind])

    def stop(self) -> None:
        """End its jobs and its daemons."""
        if self.kind != "local":
            self._run_script("stop")

    def ask(self, *command: str) -> str:
        """Return what a command of Slurm prints. Its files land in the folder of the Slurm."""
        done = subprocess.run(
            command, env=self.env, cwd=self.folder, check=True, capture_output=True, text=True
        )
        return done.stdout

    def state(self, job: SubmittedJob) -> str:
        """Return what Slurm calls the state of a job."""
        query = ("--noheader", "--states=all", f"--jobs={job.job_id}", "--format=%T")
        return self.ask("squeue", *query).strip()

    def submit(
        self,
        *arguments: str,
        output: Path,
        job_dir: Path | None = None,
        pace: str = "0",
        source: Path = REPOSITORY,
        num_nodes: int = 2,
    ) -> Submitted:
        """Submit a training with a global batch of 2 videos, and follow it.

        Args:
            arguments: Arguments of tools/submit.py.
            output: OUTPUT_DIR.
            job_dir: Folder of submissions. The default is `jobs` beside the output.
            pace: Seconds of a step after each start, as in patient_model.py.
            source: Root of the repository to submit.
            num_nodes: Number of machines of a job of Slurm.
        """
        command = [sys.executable, str(source / "tools/submit.py"), "--follow", "--job_dir"]
        command += [str(job_dir or output.with_name("jobs")), *arguments, "OUTPUT_DIR", str(output)]
        if self.kind == "local":
            command += ["--cluster", "local", "--num_gpus", "2", "TRAIN.BATCH_SIZE", "2"]
        else:
            command += ["--num_shards", str(num_nodes), "--num_gpus", "1"]
            command += ["TRAIN.BATCH_SIZE", str(2 // num_nodes)]

        paths = os.pathsep.join([str(source), str(REPOSITORY / "tests/plugins")])
        env = self.env | {"PYTHONPATH": paths, "PACE": pace}
        return Submitted(command, env=env, cwd=self.folder)

    def find_commands(self, job: SubmittedJob) -> list[int]:
        """Return the processes that the tasks of a job on this machine have started."""
        commands = []
        for task in find_children(int(job.job_id)):
            commands += find_children(task)
        return commands

    def interrupt(self, job: SubmittedJob) -> None:
        """Send the signal before the time limit to the tasks of a job on this machine."""
        for task in find_children(int(job.job_id)):
            os.kill(task, signal.SIGUSR2)

    def kill_node(self, host: str) -> None:
        """Kill the daemon of a node. With netns, kill everything that runs on the node."""
        self._run_script("kill-node", host)

    def start_node(self, host: str) -> None:
        """Start the daemon of a node again."""
        self._run_script("start-node", host)

    def _run_script(self, action: str, *arguments: str) -> None:
        subprocess.run(["bash", SCRIPT, action, self.folder, *arguments], check=True)


def find_children(parent: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def why_not(kind: str) -> str:
    """Return why this machine cannot run a cluster of a kind, or "" if it can."""
    missing = [program for program in PROGRAMS if not shutil.which(program, path=SBIN)]
    if kind != "local" and missing:
        names = ", ".join(missing)
        return f"{names} not installed: apt-get install munge slurmctld slurmd slurm-client"

    if kind == "netns":
        unshare = subprocess.run(["unshare", "--net", "true"], capture_output=True)
        if unshare.returncode:
            return "network namespaces need root, and a machine that allows them"
    return ""


INSTEAD = ["local"] if why_not("loopback") else []  # Replaces a Slurm where there is none.


def wait_until(condition: Callable[[], Any], *, seconds: float = 120) -> Any:
    """Wait until a function returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)
    return found


def job_in(job_dir: Path) -> SubmittedJob:
    """Wait for the only submission in a folder, and return its job."""
    (path,) = wait_until(lambda: list(job_dir.glob("*/jobs.json")))
    return read_jobs(path.parent)[0]


def losses_in(folder: Path) -> list[str]:
    """Return the loss of each step that the run in a folder has logged, with epoch and step."""
    log = folder / "stdout.log"
    return re.findall(r"train epoch .*?loss [\d.]+", log.read_text()) if log.exists() else []


def assert_same_end(folder: Path, uninterrupted: Path) -> None:
    """Check that two runs end after as many epochs with bit-identical weights."""
    one, other = (
        load_checkpoint(str(newest_checkpoint(str(path)))) for path in (folder, uninterrupted)
    )
    assert (one["epoch"], one["step"]) == (other["epoch"], other["step"])
    assert one["model_state"].keys() == other["model_state"].keys()
    for name, tensor in other["model_state"].items():
        assert torch.equal(one["model_state"][name], tensor), name
