"""A place to submit jobs to: a Slurm of two nodes that cluster.sh starts, or this machine through submitit."""

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

from slowfast.distributed.submission import Job, read_jobs
from slowfast.utils.checkpoint import load_checkpoint, newest_checkpoint

REPOSITORY = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("cluster.sh")
QUICKSTART = REPOSITORY / "exp/quickstart/config.yaml"
EPOCHS = 2  # of a training, with 16 steps each
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch")
SBIN = f"{os.environ['PATH']}:/usr/sbin:/sbin"
HOSTS = {"loopback": ("127.0.0.1", "127.0.0.2"), "netns": ("node1", "node2")}
OPTIONS = {  # of cluster.sh: one sends USR2 to a job that must make room, the other TERM alone
    "loopback": ("--net", "loopback", "--preempt-signal", "yes"),
    "netns": ("--net", "netns", "--preempt-signal", "no"),
}


class Submitted:
    """A call of tools/submit.py that follows its job."""

    def __init__(self, command: list[str], *, env: dict[str, str], cwd: Path) -> None:
        self.process = subprocess.Popen(
            command, env=env, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def end(self) -> tuple[int, str, str]:
        """Return its exit status, output and errors."""
        output, errors = self.process.communicate(timeout=240)
        return self.process.returncode, output, errors


class Cluster:
    """Two machines of one task each, or one of two tasks.

    Args:
        kind: loopback or netns, the network of a Slurm; local: submitit's executor for one machine.
        folder: of the Slurm; jobs are submitted from there.
        env: of jobs.
    """

    def __init__(self, kind: str, *, folder: Path, env: dict[str, str]) -> None:
        self.kind = kind
        self.folder = folder
        self.hosts: tuple[str, ...] = HOSTS.get(kind, ())
        self.env = env
        if kind != "local":
            self.env = env | {
                "SLURM_CONF": str(folder / "slurm.conf"),
                "PATH": f"{folder / 'bin'}:{env['PATH']}",
            }
            subprocess.run(
                [
                    "bash",
                    SCRIPT,
                    "start",
                    folder,
                    "--requeue-delay",
                    "5",
                    "--node-timeout",
                    "10",
                    *OPTIONS[kind],
                ],
                check=True,
            )

    def stop(self) -> None:
        """End its jobs and its daemons."""
        if self.kind != "local":
            subprocess.run(["bash", SCRIPT, "stop", self.folder], check=True)

    def say(self, *command: str) -> str:
        """Return what a command of Slurm prints."""
        return subprocess.run(
            command, env=self.env, check=True, capture_output=True, text=True
        ).stdout

    def state(self, job: Job) -> str:
        """Return what Slurm calls the state of a job."""
        return self.say(
            "squeue", "--noheader", "--states=all", f"--jobs={job.job_id}", "--format=%T"
        ).strip()

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
            arguments: of tools/submit.py.
            output: OUTPUT_DIR.
            job_dir: of the submission; None: jobs, beside the output.
            pace: seconds of a step after each start, as in patient_model.py.
            source: of the repository.
            num_nodes: machines of a job of Slurm.
        """
        command = [sys.executable, str(source / "tools/submit.py"), "--follow", "--job_dir"]
        command += [str(job_dir or output.with_name("jobs")), *arguments, "OUTPUT_DIR", str(output)]
        if self.kind == "local":
            command += ["--cluster", "local", "--num_gpus", "2", "TRAIN.BATCH_SIZE", "2"]
        else:
            command += [
                "--num_shards",
                str(num_nodes),
                "--num_gpus",
                "1",
                "TRAIN.BATCH_SIZE",
                str(2 // num_nodes),
            ]
        paths = os.pathsep.join([str(source), str(REPOSITORY / "tests/plugins")])
        return Submitted(
            command, env=self.env | {"PYTHONPATH": paths, "PACE": pace}, cwd=self.folder
        )

    def commands_of(self, job: Job) -> list[int]:
        """Return the processes that the tasks of a job on this machine have started."""
        tasks = self._children(int(job.job_id))
        return [child for task in tasks for child in self._children(task)]

    def interrupt(self, job: Job) -> None:
        """Send the tasks of a job on this machine what comes before the time limit."""
        for task in self._children(int(job.job_id)):
            os.kill(task, signal.SIGUSR2)

    def _children(self, parent: int) -> list[int]:
        answer = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True).stdout
        return [int(number) for number in answer.split()]

    def kill_node(self, host: str) -> None:
        """End the daemon of a node without a word; with netns, all that runs on it."""
        subprocess.run(["bash", SCRIPT, "kill-node", self.folder, host], check=True)

    def start_node(self, host: str) -> None:
        """Start the daemon of a node again."""
        subprocess.run(["bash", SCRIPT, "start-node", self.folder, host], check=True)


def why_not(kind: str) -> str:
    """Return why this machine cannot run a cluster of this kind; "" if it can."""
    missing = [program for program in PROGRAMS if not shutil.which(program, path=SBIN)]
    if kind != "local" and missing:
        return f"{', '.join(missing)} not installed: apt-get install munge slurmctld slurmd slurm-client"
    if (
        kind == "netns"
        and subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode
    ):
        return "network namespaces need root, and a machine that allows them"
    return ""


INSTEAD = ["local"] if why_not("loopback") else []  # of a Slurm, where there is none


def wait_until(is_so: Callable[[], Any], *, seconds: float = 120) -> Any:
    """Return what a function returns as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)
    return found


def job_in(job_dir: Path) -> Job:
    """Return the job of the only submission in a folder, as soon as it is there."""
    (path,) = wait_until(lambda: list(job_dir.glob("*/jobs.json")))
    return read_jobs(path.parent)[0]


def losses_in(folder: Path) -> list[str]:
    """Return the loss of each step that the run in a folder has logged, with its place."""
    log = folder / "stdout.log"
    return re.findall(r"train epoch .*?loss [\d.]+", log.read_text()) if log.exists() else []


def assert_same_end(folder: Path, quiet: Path) -> None:
    """The same weights to the bit, after as many epochs."""
    states = [load_checkpoint(str(newest_checkpoint(str(path)))) for path in (folder, quiet)]
    assert (states[0]["epoch"], states[0]["step"]) == (states[1]["epoch"], states[1]["step"])
    assert states[0]["model_state"].keys() == states[1]["model_state"].keys()
    for name, tensor in states[1]["model_state"].items():
        assert torch.equal(states[0]["model_state"][name], tensor), name
