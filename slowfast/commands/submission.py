"""Submission of experiments: their configs, the folder that the jobs run from, and the jobs."""

import argparse
import contextlib
import io
import itertools
import os
import runpy
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import submitit

import slowfast
from slowfast.commands import cli
from slowfast.commands.results_table import format_table
from slowfast.commands.sbatch import add_source
from slowfast.config import CfgNode, find_problems, load_cfg
from slowfast.datasets import build as datasets
from slowfast.distributed.slurm_job import is_running, job_state
from slowfast.distributed.submission import copy_source, make_folder
from slowfast.distributed.submitted_job import SubmittedJob, final_status, follow, write_jobs
from slowfast.distributed.submitted_task import Task
from slowfast.models import build as models
from slowfast.models import freezing
from slowfast.utils import plugins
from slowfast.utils.files import write_file
from slowfast.utils.text import count, some

_PACKAGE = Path(slowfast.__file__).resolve().parent
_UNLIMITED = 10**9  # Number of times that a job may be requeued.


class Experiment(NamedTuple):
    """One experiment of a submission."""

    label: str  # Tells it from the other experiments, "" if it is the only one.
    cfg: CfgNode


# ---- Experiments -----------------------------------------------------------------------------


def build_experiments(args: argparse.Namespace) -> list[Experiment]:
    """Load and check the configs of a submission.

    Raises:
        UsageError: If no config file is named.
        ValueError: If a config has problems, two experiments have the same label, or the
            experiments need different machines.
    """
    experiments = [_build_experiment(args, dict(pairs)) for pairs in itertools.product(*args.array)]

    labels = [experiment.label for experiment in experiments]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"two runs of --array are called {label}. Leave one out")

    cfgs = [experiment.cfg for experiment in experiments]
    if len({(cfg.NUM_SHARDS, cfg.NUM_GPUS) for cfg in cfgs}) > 1:
        raise ValueError(
            "the runs of --array need the same NUM_SHARDS and NUM_GPUS. Give --num_shards and "
            "--num_gpus"
        )
    return experiments


def _build_experiment(args: argparse.Namespace, settings: dict[str, str]) -> Experiment:
    """Load the config of one combination of values.

    Args:
        args: Options of `submit`.
        settings: Value of each key of --array, which may include `cfg`.
    """
    names = []
    cfg_path = args.cfg
    if "cfg" in settings:
        cfg_path = settings.pop("cfg")
        names.append(experiment_name(cfg_path))
    if not cfg_path:
        raise cli.UsageError("no experiment is named. Add --cfg FILE or --array cfg=FILE,FILE")

    overrides = list(args.opts)
    for key, value in (("NUM_SHARDS", args.num_shards), ("NUM_GPUS", args.num_gpus)):
        overrides += [] if value is None else [key, str(value)]
    for key, value in settings.items():
        overrides += [key, value]

    label = ",".join([*names, *(f"{key}={value}" for key, value in settings.items())])
    if label:
        output_dir = Path(load_cfg(cfg_path, overrides).OUTPUT_DIR, _file_name(label))
        overrides += ["OUTPUT_DIR", str(output_dir)]
    checks = [find_problems, models.find_problems]
    cfg = load_cfg(cfg_path, overrides, checks=checks, final_checks=[freezing.find_problems])
    return Experiment(label, cfg)


def experiment_name(cfg_path: str) -> str:
    """Return the name of an experiment, which is that of its folder or of its config file."""
    path = Path(cfg_path)
    return path.absolute().parent.name if path.stem == "config" else path.stem


def jobs_folder(experiments: Sequence[Experiment]) -> Path:
    """Return the default folder of submissions: `jobs` beside the results of all experiments.

    Raises:
        ValueError: If the results have nothing but the root of the file system in common.
    """
    folders = []
    for experiment in experiments:
        output_dir = Path(experiment.cfg.OUTPUT_DIR).absolute()
        # An experiment with a label writes to a folder of its own in OUTPUT_DIR.
        folders.append(output_dir.parent if experiment.label else output_dir)

    common = Path(os.path.commonpath(folders))
    if common == Path(common.anchor) and len(experiments) > 1:
        raise ValueError(
            f"the runs of --array have no folder in common ({some([*map(str, folders)])}). "
            "Name one for the submission with --job_dir"
        )
    return common / "jobs"


def _file_name(label: str) -> str:
    return label.replace("/", "_")


# ---- Submission ------------------------------------------------------------------------------


def submit(
    args: argparse.Namespace,
    experiments: Sequence[Experiment],
    *,
    folder: Path,
    parameters: dict[str, Any],
) -> int:
    """Submit the experiments, print where everything is, and follow the jobs if requested.

    Args:
        args: Options of `submit`.
        experiments: Result of `build_experiments`.
        folder: Folder of the submission.
        parameters: Parameters of submitit's executor for Slurm.

    Returns:
        The exit status.

    Raises:
        ValueError: If one machine would have to be several.
        FileNotFoundError: If this machine has no Slurm.
        submitit.core.utils.FailedJobError: If Slurm refuses the job. It has Slurm's own words.
    """
    _check_cluster(args.cluster, num_shards=experiments[0].cfg.NUM_SHARDS)
    folder = make_folder(folder)
    copy_source(_PACKAGE, folder / "code", plugins=plugins.imported_plugins())
    tasks = [_write_task(args, experiment, folder) for experiment in experiments]
    _print_notes(experiments)

    if args.cluster == "slurm":
        jobs = _queue(tasks, experiments, folder=folder, parameters=parameters)
        statuses = [_follow_on_slurm(job) for job in jobs] if args.follow else [0]
    else:
        jobs, statuses = _run_here(args, experiments, tasks=tasks, folder=folder)

    if len(jobs) > 1 and len(statuses) == len(jobs):
        states = map(_describe_end, jobs, statuses)
        print(format_table(jobs, states=list(states)))
    return next((status for status in statuses if status), 0)


def _check_cluster(cluster: str, *, num_shards: int) -> None:
    if cluster != "slurm" and num_shards > 1:
        raise ValueError(
            f"NUM_SHARDS is {num_shards}, but --cluster {cluster} is this machine alone. Use 1"
        )
    if cluster == "slurm" and not shutil.which("sbatch"):
        raise FileNotFoundError(
            "this machine has no sbatch. Submit where Slurm is installed, or use --cluster local"
        )


def _write_task(args: argparse.Namespace, experiment: Experiment, folder: Path) -> Task:
    """Write the config and the command of an experiment into the folder of its submission."""
    suffix = f"_{_file_name(experiment.label)}" if experiment.label else ""
    config = folder / f"config{suffix}.yaml"
    write_file(config, experiment.cfg.dump())

    program = str(folder / "code/slowfast/__main__.py")
    command = [sys.executable, "-u", program, "train", "--cfg", str(config)]
    for module in args.imports:
        command += ["--import", module]
    working_dir = os.getcwd()
    script = f"cd {shlex.quote(working_dir)}\n{shlex.join(command)}\n"
    write_file(folder / f"command{suffix}.sh", script)

    output_dir = experiment.cfg.OUTPUT_DIR
    return Task(command, folder=str(folder), working_dir=working_dir, output_dir=output_dir)


def _print_notes(experiments: Sequence[Experiment]) -> None:
    """Print problems with the data. Only the machines of the job need to see the data."""
    problems: dict[str, None] = {}  # A set that keeps the order.
    for experiment in experiments:
        problems |= dict.fromkeys(datasets.find_problems(experiment.cfg))
    for problem in problems:
        print(f"note, as seen from here: {problem}", file=sys.stderr)


def _describe_end(job: SubmittedJob, status: int) -> str:
    return job_state(job.job_id)["JobState"] or ("COMPLETED" if status == 0 else f"status {status}")


def _record_job(experiment: Experiment, job: Any, folder: Path) -> SubmittedJob:
    output_dir = experiment.cfg.OUTPUT_DIR
    return SubmittedJob(job.job_id, experiment.label, output_dir, job.num_tasks, str(folder))


def _announce(jobs: Sequence[SubmittedJob], *, cancel: str) -> None:
    write_jobs(jobs)
    print(f"submission: {jobs[0].folder}")
    for job in jobs:
        label = f"  {job.label}" if job.label else ""
        out, err = job.log_path(0, "out"), job.log_path(0, "err")
        print(f"job {job.job_id}{label}, results in {job.output_dir}")
        print(f"  logs:   {out} (and .err; {count(job.num_tasks, 'task')}, with a pair each)")
        print(f"  follow: tail -F {out} {err}")
        print(f"  cancel: {cancel} {job.job_id}")

    program = _PACKAGE / "__main__.py"
    command = f"{sys.executable} {program} submit --table {jobs[0].folder}"
    print(f"results: {command}", flush=True)


# ---- Slurm -----------------------------------------------------------------------------------


def _queue(
    tasks: Sequence[Task],
    experiments: Sequence[Experiment],
    *,
    folder: Path,
    parameters: dict[str, Any],
) -> list[SubmittedJob]:
    executor = submitit.SlurmExecutor(folder, max_num_timeout=_UNLIMITED)
    executor.update_parameters(**add_source(parameters, folder))
    try:
        # The error repeats what sbatch prints.
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():
            submitted = [executor.submit(task) for task in tasks]
    except submitit.core.utils.FailedJobError:
        shutil.rmtree(folder)
        raise

    pairs = zip(experiments, submitted, strict=True)
    jobs = [_record_job(experiment, job, folder) for experiment, job in pairs]
    _announce(jobs, cancel="scancel")
    return jobs


def _follow_on_slurm(job: SubmittedJob) -> int:
    follow(job, is_running=lambda: is_running(job.job_id))
    state = job_state(job.job_id)
    line = f"job {job.job_id}: {state['JobState']} on {state.get('NodeList', '')}"
    print(line, file=sys.stderr, flush=True)
    return final_status(job, state=state["JobState"])


# ---- This machine ----------------------------------------------------------------------------


def _run_here(
    args: argparse.Namespace,
    experiments: Sequence[Experiment],
    *,
    tasks: Sequence[Task],
    folder: Path,
) -> tuple[list[SubmittedJob], list[int]]:
    """Run one experiment after the other on this machine.

    Without --follow, a single experiment continues on its own after its start.

    Returns:
        The jobs and their exit statuses.
    """
    # submitit's local executor passes the environment of this process on.
    paths = [str(folder / "code"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))

    jobs: list[SubmittedJob] = []
    statuses: list[int] = []
    for experiment, task in zip(experiments, tasks, strict=True):
        if args.cluster == "debug":
            debugged = submitit.DebugExecutor(folder).submit(_run_script, task.command[2:])
            jobs.append(_record_job(experiment, debugged, folder))
            statuses.append(debugged.result())
            continue

        submitted = _start_local(args, experiment, task=task, folder=folder)
        jobs.append(_record_job(experiment, submitted, folder))
        _announce(jobs, cancel="kill")
        if not args.follow and len(experiments) == 1:
            return jobs, [0]
        follow(jobs[-1], is_running=lambda job=submitted: not job.done())  # type: ignore[misc]
        statuses.append(final_status(jobs[-1]))
    return jobs, statuses


def _start_local(
    args: argparse.Namespace, experiment: Experiment, *, task: Task, folder: Path
) -> Any:
    cfg = experiment.cfg
    executor = submitit.LocalExecutor(folder, max_num_timeout=_UNLIMITED)
    executor.update_parameters(
        tasks_per_node=max(cfg.NUM_GPUS, 1),
        gpus_per_node=cfg.NUM_GPUS if cfg.DIST_BACKEND == "nccl" else 0,
        timeout_min=args.timeout,
        signal_delay_s=args.signal_delay,
    )
    return executor.submit(task)


def _run_script(command: Sequence[str]) -> int:
    """Run `slowfast` from a Python file. submitit's debugger stops where it raises."""
    status: int = runpy.run_path(command[0])["main"](command[1:])
    return status
