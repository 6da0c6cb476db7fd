"""Jobs of tools/submit.py on a real Slurm of two nodes, and on submitit's executor for one machine.

One quiet run of two processes on this machine is the measure: whatever happens to a job, it ends in the same weights.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from slowfast.datasets.motion import make_motion
from slowfast.utils.checkpoint import load_checkpoint, newest_checkpoint
from slowfast.utils.submission import Job, job_state, read_jobs

pytestmark = pytest.mark.slurm  # minutes, most of them waiting for processes to start

EPOCHS = 12  # of 4 steps
REPOSITORY = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("cluster.sh")
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch")
SBIN = f"{os.environ['PATH']}:/usr/sbin:/sbin"


class Submitted:
    """A call of tools/submit.py that follows its job."""

    def __init__(self, command: list[str], env: dict[str, str], cwd: Path) -> None:
        self.process = subprocess.Popen(
            command, env=env, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def end(self) -> tuple[int, str, str]:
        """Return its exit status, output and errors."""
        output, errors = self.process.communicate(timeout=240)
        return self.process.returncode, output, errors


class Cluster:
    """A place to submit to: a Slurm, or this machine where there is none."""

    def __init__(self, kind: str, env: dict[str, str], folder: Path) -> None:
        self.kind = kind
        self.env = env
        self.folder = folder

    def say(self, *command: str) -> str:
        """Return what a command of Slurm prints."""
        return subprocess.run(command, env=self.env, check=True, capture_output=True, text=True).stdout

    def submit(self, *arguments: str, job_dir: Path, source: Path = REPOSITORY) -> Submitted:
        """Submit and follow; jobs are 2 nodes with 1 task each, or 2 tasks on this machine."""
        tool, env = source / "tools/submit.py", self.env | {"PYTHONPATH": str(source)}
        machines = ["--num_shards", "2", "--num_gpus", "1"] if self.kind != "local" else ["--num_gpus", "2"]
        cluster = ["--cluster", "local" if self.kind == "local" else "slurm", "--timeout", "30", "--follow"]
        command = [sys.executable, str(tool), *cluster, *machines, "--job_dir", str(job_dir), *arguments]
        return Submitted(command, env, self.folder)


def why_not(kind: str) -> str:
    """Return why this machine cannot run a Slurm of this kind; "" if it can."""
    missing = [program for program in PROGRAMS if not shutil.which(program, path=SBIN)]
    if missing:
        return f"{', '.join(missing)} not installed: apt-get install munge slurmctld slurmd slurm-client"
    if kind == "netns" and os.geteuid():
        return "network namespaces need root"
    return ""


@pytest.fixture(scope="session")
def start_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Cluster]]:
    """Start a cluster of a kind once: loopback, netns, or local (submitit's executor for one machine)."""
    clusters: dict[str, Cluster] = {}
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SRUN"))}
    env = outside | {"OMP_NUM_THREADS": "1"}

    def start(kind: str) -> Cluster:
        if kind in clusters:
            return clusters[kind]
        if kind != "local" and (reason := why_not(kind)):
            pytest.skip(reason)
        folder = tmp_path_factory.mktemp(kind)
        if kind != "local":
            options = ["--net", kind, "--requeue-delay", "5"]
            made = subprocess.run(["bash", SCRIPT, "start", folder, *options], capture_output=True, text=True)
            if made.returncode and kind == "netns" and "cannot make" in made.stderr:
                pytest.skip(made.stderr.strip())
            assert made.returncode == 0, made.stderr
        path = f"{folder / 'bin'}:{env['PATH']}"
        clusters[kind] = Cluster(kind, env | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}, folder)
        return clusters[kind]

    yield start
    for kind, cluster in clusters.items():
        if kind != "local":
            subprocess.run(["bash", SCRIPT, "stop", cluster.folder], check=True, capture_output=True)


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
    return read_jobs(str(path.parent))[0]


StartCluster = Callable[[str], Cluster]


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A training of seconds: KEY VALUE pairs for two processes, on one machine or two."""
    data = tmp_path_factory.mktemp("motion")
    make_motion(data, seed=5, videos_per_class={"train": 4, "val": 1, "test": 1})
    values = {
        "DATA.PATH_TO_DATA_DIR": data,
        "DATA.PATH_PREFIX": data,
        "DATA.CLASS_NAMES": data / "classes.txt",
        "TRAIN.EVAL_PERIOD": EPOCHS,
        "TRAIN.CHECKPOINT_PERIOD": EPOCHS,  # what a job continues from lies in the middle of an epoch
        "TRAIN.REHEARSE": False,
        "TEST.ENABLE": False,
        "TEST.BATCH_SIZE": 8,
        "DATA.NUM_FRAMES": 4,
        "DATA.TRAIN_CROP_SIZE": 32,
        "DATA.TEST_CROP_SIZE": 32,
        "DATA_LOADER.NUM_WORKERS": 1,
        "UNIFORMER.EMBED_DIM": "[8,8,16,16]",
        "UNIFORMER.DEPTH": "[1,1,1,1]",
        "UNIFORMER.HEAD_DIM": 8,
        "SOLVER.MAX_EPOCH": EPOCHS,
        "SOLVER.WARMUP_EPOCHS": 0,
        "LOG_PERIOD": 1,
        "DIST_BACKEND": "gloo",
        "DIST_TIMEOUT": 60,
    }
    return [str(part) for pair in values.items() for part in pair]


@pytest.fixture(scope="session")
def quiet(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("quiet")
    command = [
        sys.executable,
        str(REPOSITORY / "tools/run_net.py"),
        "--cfg",
        str(REPOSITORY / "exp/quickstart/config.yaml"),
    ]
    here = ["NUM_GPUS", "2", "TRAIN.BATCH_SIZE", "8", "OUTPUT_DIR", str(folder)]
    subprocess.run([*command, *settings, *here], env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, timeout=240)
    return folder


def arguments_of(cluster: Cluster, settings: list[str], output: Path, cfg: Path | None = None) -> list[str]:
    batch = "8" if cluster.kind == "local" else "4"  # of a machine
    cfg = cfg or Path(__file__).parents[2] / "exp/quickstart/config.yaml"
    return ["--cfg", str(cfg), *settings, "TRAIN.BATCH_SIZE", batch, "OUTPUT_DIR", str(output)]


def losses_in(folder: Path) -> list[str]:
    return re.findall(r"train epoch .*?loss [\d.]+", (folder / "stdout.log").read_text())


def assert_same_end(folder: Path, quiet: Path) -> None:
    """The same weights to the bit."""
    states = [load_checkpoint(str(newest_checkpoint(str(path)))) for path in (folder, quiet)]
    assert states[0]["epoch"] == states[1]["epoch"] == EPOCHS
    for name, tensor in states[1]["model_state"].items():
        assert torch.equal(states[0]["model_state"][name], tensor), name


@pytest.mark.parametrize("kind", ["local", "loopback", "netns"])
def test_a_job_of_two_tasks_trains_as_two_processes_do(
    kind: str, start_cluster: StartCluster, settings: list[str], quiet: Path, tmp_path: Path
) -> None:
    cluster = start_cluster(kind)
    arguments = arguments_of(cluster, settings, tmp_path / "run")
    status, output, errors = cluster.submit(*arguments, job_dir=tmp_path / "jobs").end()
    assert status == 0, output + errors
    assert losses_in(tmp_path / "run") == losses_in(quiet)
    assert len(losses_in(quiet)) == 4 * EPOCHS
    assert_same_end(tmp_path / "run", quiet)
    names = {"loopback": "127.0.0.1 (rank 0), 127.0.0.2 (rank 1)", "netns": "node1 (rank 0), node2 (rank 1)"}
    assert names.get(kind, "2 processes on 1 machines") in output
    assert "right sums" in output
    (command,) = (tmp_path / "jobs").glob("*/command.sh")
    assert "code/tools/run_net.py" in command.read_text()


def a_step_later(folder: Path) -> None:
    """Return when the run in a folder has taken some more steps."""
    log = folder / "stdout.log"
    before = len(losses_in(folder)) if log.exists() else 0
    wait_until(lambda: log.exists() and len(losses_in(folder)) > before + 1)


@pytest.mark.parametrize("kind", ["local", "loopback"])
def test_interruptions_and_edits_of_the_source_change_nothing(
    kind: str,
    start_cluster: StartCluster,
    settings: list[str],
    quiet: Path,
    tmp_path: Path,
) -> None:
    cluster, run = start_cluster(kind), tmp_path / "run"
    source = tmp_path / "source"
    for name in ("slowfast", "tools"):
        shutil.copytree(REPOSITORY / name, source / name)
    cfg = Path(shutil.copy(REPOSITORY / "exp/quickstart/config.yaml", source))
    arguments = arguments_of(cluster, settings, run, cfg)
    submitted = cluster.submit(*arguments, source=source, job_dir=tmp_path / "jobs")
    job = job_in(tmp_path / "jobs")
    a_step_later(run)
    for path in (source / "slowfast/__init__.py", source / "slowfast/utils/submission.py", source / "tools/run_net.py"):
        path.write_text("raise SystemExit('edited after the submission')\n")
    cfg.write_text("NONSENSE: 1\n")
    if kind == "local":
        tasks = cluster.say("pgrep", "-P", job.job_id).split()
        for task in tasks:
            os.kill(int(task), signal.SIGUSR2)
        num_starts = 2
    else:
        cluster.say("scancel", "--signal=USR2", job.job_id)  # as before the time limit, and when a job must make room
        wait_until(lambda: [status["starts"] for status in job.statuses()] == [2, 2])
        a_step_later(run)
        cluster.say("scontrol", "requeue", job.job_id)  # as an administrator does
        num_starts = 3
    status, output, errors = submitted.end()
    assert status == 0, output + errors
    assert [(fields["starts"], fields["status"]) for fields in job.statuses()] == [(num_starts, 0)] * 2
    assert f"restart {num_starts - 1}" in output
    assert "goes back to the queue after 1 starts" in output
    assert len(set(losses_in(run))) == len(losses_in(quiet))
    assert_same_end(run, quiet)


@pytest.mark.parametrize("kind", ["local", "loopback"])
def test_a_job_that_fails_shows_its_own_traceback_and_is_not_queued_again(
    kind: str,
    start_cluster: StartCluster,
    settings: list[str],
    tmp_path: Path,
) -> None:
    cluster = start_cluster(kind)
    (cluster.folder / f"broken_{kind}.py").write_text(
        "from slowfast import models\n"
        "from slowfast.utils.distributed import rank\n"
        "def build(cfg):\n"
        "    if rank() == 1: raise ValueError('broken on purpose')\n"
        "    return models.build_uniformer(cfg)\n"
        "models.add_model('Broken', models.Model(build))\n"
    )
    arguments = [*arguments_of(cluster, settings, tmp_path / "run"), "MODEL.MODEL_NAME", "Broken"]
    status, _, errors = cluster.submit("--import", f"broken_{kind}", *arguments, job_dir=tmp_path / "jobs").end()
    assert status == 1
    assert errors.count("ValueError: broken on purpose") == 1
    assert re.search(r"rank 1 on \S+ failed:", errors)
    assert [fields["starts"] for fields in job_in(tmp_path / "jobs").statuses()] == [1, 1]


def test_after_a_cancel_and_a_lost_machine_the_same_submission_goes_on(
    start_cluster: StartCluster,
    monkeypatch: pytest.MonkeyPatch,
    settings: list[str],
    quiet: Path,
    tmp_path: Path,
) -> None:
    cluster, run = start_cluster("loopback"), tmp_path / "run"
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, cluster.env[name])
    arguments = arguments_of(cluster, settings, run)

    submitted = cluster.submit(*arguments, job_dir=tmp_path / "first")
    job = job_in(tmp_path / "first")
    a_step_later(run)
    cluster.say("scancel", job.job_id)
    assert submitted.end()[0] != 0
    assert job_state(job.job_id)["JobState"] == "CANCELLED"
    assert 0 < load_checkpoint(str(newest_checkpoint(str(run))))["epoch"] * 4 + 4 <= 4 * EPOCHS

    submitted = cluster.submit(*arguments, job_dir=tmp_path / "second")
    job = job_in(tmp_path / "second")
    a_step_later(run)
    kill_node(cluster.folder, "127.0.0.2")
    lost = re.compile(r"rank 1 on 127.0.0.2 stopped without a word|Node failure on 127.0.0.2")
    wait_until(lambda: lost.search(job.log_path(0, "err").read_text()), seconds=150)
    wait_until(lambda: job_state(job.job_id)["JobState"] in ("PENDING", "FAILED"), seconds=150)
    path = f"{cluster.env['PATH']}:/usr/sbin"
    subprocess.run(
        ["slurmd", "-f", cluster.folder / "slurm.conf", "-N", "127.0.0.2"], env=cluster.env | {"PATH": path}, check=True
    )
    submitted.end()  # Slurm has put the job back into the queue, or has given it up: it depends on who is faster

    status, output, errors = cluster.submit(*arguments, job_dir=tmp_path / "third").end()
    assert status == 0, output + errors
    assert_same_end(run, quiet)


def kill_node(folder: Path, node: str) -> None:
    """Kill the daemon of a node, and all that runs below it."""
    processes: dict[int, tuple[int, bytes, bytes]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(entry.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1])
            processes[int(entry.name)] = (
                parent,
                entry.joinpath("cmdline").read_bytes(),
                entry.joinpath("environ").read_bytes(),
            )
        except (OSError, ProcessLookupError):
            continue
    daemon = int((folder / f"run/slurmd-{node}.pid").read_text())
    doomed = {daemon} | {
        pid
        for pid, (_, command, environ) in processes.items()
        if f"SLURMD_NODENAME={node}\0".encode() in environ and f"{folder}/slurm.conf".encode() in environ
    }
    doomed |= {
        processes[pid][0] for pid in doomed if b"slurmstepd" in processes.get(processes[pid][0], (0, b"", b""))[1]
    }
    for pid in doomed:
        os.kill(pid, signal.SIGKILL)


def test_an_array_of_seeds_ends_in_one_table(start_cluster: StartCluster, settings: list[str], tmp_path: Path) -> None:
    cluster = start_cluster("loopback")
    arguments = [*arguments_of(cluster, settings, tmp_path / "run"), "SOLVER.MAX_EPOCH", "1", "TEST.ENABLE", "True"]
    arguments += ["--array", "RNG_SEED=1,2", "--num_shards", "1"]
    status, output, errors = cluster.submit(*arguments, job_dir=tmp_path / "jobs").end()
    assert status == 0, output + errors
    table = output[output.index("run         job") :].splitlines()
    assert [line.split()[0] for line in table[1:3]] == ["RNG_SEED=1", "RNG_SEED=2"]
    assert [line.split()[2:4] for line in table[1:3]] == [["COMPLETED", "1"]] * 2
    assert [line.split()[-1] for line in table[1:3]] == ["8/8", "8/8"]
    assert (tmp_path / "run/RNG_SEED=2/test/result.json").exists()
