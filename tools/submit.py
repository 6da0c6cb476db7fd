"""Run an experiment as a Slurm job: `python tools/submit.py --num_gpus 8 --cfg X [KEY VALUE ...]`.

Other options that begin with --slurm_ go to Slurm: `--slurm_reservation NAME`. See docs/cluster.md.
"""

import argparse
import contextlib
import io
import itertools
import os
import re
import runpy
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))  # as Python does, unless told not to
import _cli
import submitit
from submitit.slurm.slurm import _get_default_parameters, _make_sbatch_string

from slowfast.config import CfgNode, find_problems, load_cfg
from slowfast.datasets import build as datasets
from slowfast.distributed.submission import (
    TIME_FORMAT,
    Job,
    Task,
    copy_source,
    final_status,
    find_submission,
    follow,
    is_running,
    job_state,
    make_folder,
    read_jobs,
    table,
    write_jobs,
)
from slowfast.models import build as models
from slowfast.utils import plugins
from slowfast.utils.files import write_file
from slowfast.utils.text import count, some

ROOT = Path(__file__).resolve().parents[1]
EARLY_SECONDS = 60  # that Slurm may send a signal before its time, sbatch says
FOREVER = 10**9  # how often a job may be queued again


class Run(NamedTuple):
    """One experiment of a submission."""

    label: str  # what tells it from the others; "" where it is alone
    cfg: CfgNode


def main(arguments: Sequence[str] | None = None) -> int:
    """Submit what the arguments say, or look at what was submitted; return the exit status."""
    rest, slurm_options = split_slurm_options(sys.argv[1:] if arguments is None else arguments)
    args = _parser().parse_intermixed_args(rest)
    try:
        if args.table:
            folder = find_submission(args.table)
            if folder != Path(args.table):
                print(f"submission: {folder}")
            jobs = read_jobs(folder)
            print(table(jobs, states=[job_state(job.job_id)["JobState"] or "-" for job in jobs]))
            return 0
        plugins.import_plugins(args.imports)
        runs = runs_of(args)
        parameters = slurm_parameters(args, runs[0].cfg, slurm_options)
        folder = Path(args.job_dir or jobs_folder(runs), time.strftime(TIME_FORMAT)).absolute()
        if args.dry_run:
            print(_batch_script(folder, parameters, num_runs=len(runs)))
            return 0
        return submit(args, runs, folder, parameters)
    except (ValueError, OSError, submitit.core.utils.FailedJobError) as error:
        return _cli.report(error)
    except KeyboardInterrupt:
        on_slurm = args.cluster == "slurm"
        print("the job continues" if on_slurm else "the job was interrupted", file=sys.stderr)
        return _cli.INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cfg", default="", help="YAML file of the experiment")
    plugins.add_argument(parser)
    parser.add_argument(
        "--num_shards",
        type=_cli.number(int, least=1),
        metavar="N",
        help="number of machines (default: NUM_SHARDS)",
    )
    parser.add_argument(
        "--num_gpus",
        type=_cli.number(int, least=0),
        metavar="N",
        help="number of processes on each machine (default: NUM_GPUS)",
    )
    parser.add_argument(
        "--cluster",
        choices=("slurm", "local", "debug"),
        default="slurm",
        help="slurm; local: on this machine; debug: in this process, where an error opens the "
        "debugger (default: slurm)",
    )
    parser.add_argument(
        "--name",
        default="",
        help="name of the job (default: name of the experiment's folder)",
    )
    parser.add_argument(
        "--job_dir",
        default="",
        metavar="FOLDER",
        help="folder of submissions, which all machines see (default: OUTPUT_DIR/jobs)",
    )
    parser.add_argument(
        "--timeout",
        type=_cli.number(int, least=1),
        default=24 * 60,
        metavar="MINUTES",
        help="time limit, after which the job is queued again (default: %(default)s)",
    )
    parser.add_argument(
        "--signal_delay",
        type=_cli.number(int, least=0),
        default=120,
        metavar="SECONDS",
        help="time before that limit to save a checkpoint (default: %(default)s)",
    )
    parser.add_argument(
        "--cpus",
        type=_cli.number(int, least=1),
        metavar="N",
        help="number of cores for each process (default: its loader workers and one more)",
    )
    parser.add_argument("--mem", help="memory of each machine, such as 200GB (default: Slurm's)")
    for name in ("partition", "qos", "constraint", "account", "comment", "exclude"):
        parser.add_argument(f"--{name}", help=f"option --{name} of sbatch (default: Slurm's)")
    parser.add_argument(
        "--mail",
        metavar="ADDRESS",
        help="address to notify when the job ends, fails or is queued again (default: none)",
    )
    parser.add_argument(
        "--array",
        action="append",
        type=_array,
        default=[],
        metavar="KEY=A,B,...",
        help="one run for each value of a config key, or of cfg (YAML files); can be repeated",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the batch script and stop")
    parser.add_argument(
        "--follow",
        action="store_true",
        help="print the log to its end and return the exit status of the run",
    )
    parser.add_argument(
        "--table",
        metavar="FOLDER",
        help="print states and results of the runs of a submission: its folder, or the newest in "
        "an OUTPUT_DIR or job_dir",
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to override")
    return parser


def _array(text: str) -> list[tuple[str, str]]:
    """Return the pairs of a key and one of its values; a comma in brackets separates no values."""
    key, equals, values = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text}: write KEY=A,B,...")
    return [(key, value) for value in re.split(r",(?![^\[]*\])", values)]


def split_slurm_options(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the arguments without those that begin with --slurm_, and those by name; one without a value is True."""
    rest: list[str] = []
    options: dict[str, Any] = {}
    words = iter([*arguments, "--"])
    word = next(words)
    while word != "--":
        following = next(words)
        if not word.startswith("--slurm_"):
            rest.append(word)
        elif "=" in word:
            name, _, value = word.partition("=")
            options[name.removeprefix("--slurm_")] = value
        elif following.startswith("--"):
            options[word.removeprefix("--slurm_")] = True
        else:
            options[word.removeprefix("--slurm_")] = following
            following = next(words)
        word = following
    return rest, options


def runs_of(args: argparse.Namespace) -> list[Run]:
    """Return the experiments of a submission, their configs checked.

    Raises:
        UsageError: No config file is named.
        ValueError: A config has problems, two runs have the same label, or the runs differ in the
            machines that they need.
    """
    machines = [] if args.num_shards is None else ["NUM_SHARDS", str(args.num_shards)]
    machines += [] if args.num_gpus is None else ["NUM_GPUS", str(args.num_gpus)]
    runs = []
    for choice in itertools.product(*args.array):
        settings = dict(choice)
        cfg_path = settings.pop("cfg", args.cfg)
        if not cfg_path:
            raise _cli.UsageError("no experiment is named; add --cfg FILE or --array cfg=FILE,FILE")
        overrides = [*args.opts, *machines, *(word for pair in settings.items() for word in pair)]
        names = [_experiment_of(cfg_path)] if "cfg" in dict(choice) else []
        label = ",".join([*names, *(f"{key}={value}" for key, value in settings.items())])
        if label:
            overrides += [
                "OUTPUT_DIR",
                str(Path(load_cfg(cfg_path, overrides).OUTPUT_DIR, label.replace("/", "_"))),
            ]
        runs.append(
            Run(label, load_cfg(cfg_path, overrides, checks=[find_problems, models.find_problems]))
        )
    for run in runs:
        if [other.label for other in runs].count(run.label) > 1:
            raise ValueError(f"two runs of --array are called {run.label}; leave one out")
    if len({(run.cfg.NUM_SHARDS, run.cfg.NUM_GPUS) for run in runs}) > 1:
        raise ValueError(
            "the runs of --array need the same NUM_SHARDS and NUM_GPUS; give --num_shards and --num_gpus"
        )
    return runs


def jobs_folder(runs: Sequence[Run]) -> Path:
    """Return the folder of submissions beside the results: `jobs` in what holds those of all runs.

    Raises:
        ValueError: The results of the runs have nothing but the root of the file system in common.
    """
    outputs = [Path(run.cfg.OUTPUT_DIR).absolute() for run in runs]
    # A run with a label writes to a folder of its own in OUTPUT_DIR.
    folders = [path.parent if run.label else path for run, path in zip(runs, outputs, strict=True)]
    common = Path(os.path.commonpath(folders))
    if common == Path(common.anchor) and len(runs) > 1:
        raise ValueError(
            f"the runs of --array have no folder in common ({some([*map(str, folders)])}); "
            "name one for the submission with --job_dir"
        )
    return common / "jobs"


def _experiment_of(cfg_path: str) -> str:
    path = Path(cfg_path)
    return path.absolute().parent.name if path.stem == "config" else path.stem


def slurm_parameters(
    args: argparse.Namespace, cfg: CfgNode, options: dict[str, Any]
) -> dict[str, Any]:
    """Return what submitit's executor for Slurm is told, in its own words.

    Raises:
        UsageError: The time limit leaves no time to train.
    """
    if 60 * args.timeout < args.signal_delay + EARLY_SECONDS:
        raise _cli.UsageError(
            f"--timeout is {count(args.timeout, 'minute')}, but the job saves its work "
            f"{args.signal_delay} s before that (--signal_delay), and Slurm may tell it so "
            f"{EARLY_SECONDS} s early; give it more minutes"
        )
    parameters: dict[str, Any] = {
        "job_name": args.name or _experiment_of(args.cfg or "array"),
        "nodes": cfg.NUM_SHARDS,
        "ntasks_per_node": max(cfg.NUM_GPUS, 1),
        "cpus_per_task": args.cpus or cfg.DATA_LOADER.NUM_WORKERS + 1,
        "gpus_per_node": cfg.NUM_GPUS if cfg.DIST_BACKEND == "nccl" and cfg.NUM_GPUS else None,
        "time": args.timeout,
        "signal_delay_s": args.signal_delay,
        "mem": args.mem,
        "mail_user": args.mail,
        "mail_type": "END,FAIL,REQUEUE" if args.mail else None,
        "srun_args": ["--kill-on-bad-exit=1"],
    }
    parameters |= {
        name: getattr(args, name)
        for name in ("partition", "qos", "constraint", "account", "comment")
    }
    parameters |= {"exclude": args.exclude}
    if {"gres", "gpus_per_task", "gpus"} & options.keys():  # another way to ask for GPUs
        parameters["gpus_per_node"] = None
    further: dict[str, Any] = {"requeue": True}
    for name, value in options.items():
        if name in ("srun_args", "setup"):
            parameters[name] = [
                *parameters.get(name, []),
                *(shlex.split(value) if name == "srun_args" else [value]),
            ]
        elif name in _get_default_parameters():
            parameters[name] = int(value) if isinstance(value, str) and value.isdigit() else value
        else:
            further[name] = value
    parameters["additional_parameters"] = further
    return {name: value for name, value in parameters.items() if value is not None}


def _batch_script(folder: Path, parameters: dict[str, Any], *, num_runs: int) -> str:
    command = (
        f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    )
    more: dict[str, Any] = {"map_count": num_runs} if num_runs > 1 else {}
    return _make_sbatch_string(
        command=command, folder=folder, **_with_source(folder, parameters), **more
    )


def _with_source(folder: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    path = f'export PYTHONPATH={shlex.quote(str(folder / "code"))}"${{PYTHONPATH:+:$PYTHONPATH}}"'
    return {**parameters, "setup": [*parameters.get("setup", []), path]}


def submit(
    args: argparse.Namespace, runs: Sequence[Run], folder: Path, parameters: dict[str, Any]
) -> int:
    """Write what the jobs need, submit them, say where everything is, and follow them if that is wanted.

    Raises:
        ValueError: one machine is asked to be several.
        FileNotFoundError: there is no Slurm here.
        submitit.core.utils.FailedJobError: Slurm refuses the job, with its own words.
    """
    cfg = runs[0].cfg
    if args.cluster != "slurm" and cfg.NUM_SHARDS > 1:
        raise ValueError(
            f"NUM_SHARDS is {cfg.NUM_SHARDS}, but --cluster {args.cluster} is this machine alone; use 1"
        )
    if args.cluster == "slurm" and not shutil.which("sbatch"):
        raise FileNotFoundError(
            "this machine has no sbatch; submit where Slurm is installed, or use --cluster local"
        )
    folder = make_folder(folder)
    copy_source(ROOT, folder / "code", plugins=plugins.imported_plugins())
    tasks = [_write_run(args, run, folder) for run in runs]
    for problem in dict.fromkeys(
        problem for run in runs for problem in datasets.find_problems(run.cfg)
    ):
        print(f"note, as seen from here: {problem}", file=sys.stderr)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(folder / "code"), os.environ.get("PYTHONPATH")])
    )
    if args.cluster == "slurm":
        submitted = _queue(tasks, folder, parameters)
        jobs = [_job(run, job, folder) for run, job in zip(runs, submitted, strict=True)]
        _announce(jobs, cancel="scancel")
        statuses = _follow_slurm(jobs) if args.follow else [0]
    else:
        jobs, statuses = _run_here(args, runs, tasks, folder)
    if len(jobs) > 1 and (args.follow or args.cluster != "slurm"):
        slurm_states = [job_state(job.job_id)["JobState"] for job in jobs]
        ends = [
            "COMPLETED" if status == 0 else f"status {status}"
            for status in [*statuses, *[0] * len(jobs)]
        ]
        print(
            table(
                jobs, states=[state or end for state, end in zip(slurm_states, ends, strict=False)]
            )
        )
    return next((status for status in statuses if status), 0)


def _queue(tasks: Sequence[Task], folder: Path, parameters: dict[str, Any]) -> list[Any]:
    executor = submitit.SlurmExecutor(folder, max_num_timeout=FOREVER)
    executor.update_parameters(**_with_source(folder, parameters))
    try:
        with (
            contextlib.redirect_stderr(io.StringIO()),
            executor.batch(),
        ):  # what sbatch says is in the error, too
            return [executor.submit(task) for task in tasks]
    except submitit.core.utils.FailedJobError:
        shutil.rmtree(folder)
        raise


def _write_run(args: argparse.Namespace, run: Run, folder: Path) -> Task:
    """Write the config and the command of a run into the folder of its submission."""
    name = f"_{run.label.replace('/', '_')}" if run.label else ""
    config = folder / f"config{name}.yaml"
    write_file(config, run.cfg.dump())
    command = [sys.executable, "-u", str(folder / "code/tools/run_net.py"), "--cfg", str(config)]
    command += [word for module in args.imports for word in ("--import", module)]
    write_file(
        folder / f"command{name}.sh", f"cd {shlex.quote(os.getcwd())}\n{shlex.join(command)}\n"
    )
    return Task(command, folder=str(folder), working_dir=os.getcwd(), output_dir=run.cfg.OUTPUT_DIR)


def _job(run: Run, job: Any, folder: Path) -> Job:
    return Job(job.job_id, run.label, run.cfg.OUTPUT_DIR, job.num_tasks, str(folder))


def _announce(jobs: Sequence[Job], *, cancel: str) -> None:
    write_jobs(jobs)
    print(f"submission: {jobs[0].folder}")
    for job in jobs:
        print(
            f"job {job.job_id}{f'  {job.label}' if job.label else ''}, results in {job.output_dir}"
        )
        logs = f"and .err; {count(job.num_tasks, 'task')}, with a pair each"
        print(f"  logs:   {job.log_path(0, 'out')} ({logs})")
        print(f"  follow: tail -F {job.log_path(0, 'out')} {job.log_path(0, 'err')}")
        print(f"  cancel: {cancel} {job.job_id}", flush=True)
    print(
        f"results: {sys.executable} {ROOT / 'tools/submit.py'} --table {jobs[0].folder}", flush=True
    )


def _follow_slurm(jobs: Sequence[Job]) -> list[int]:
    statuses = []
    for job in jobs:
        follow(job, runs=lambda job=job: is_running(job))
        state = job_state(job.job_id)
        print(
            f"job {job.job_id}: {state['JobState']} on {state.get('NodeList', '')}",
            file=sys.stderr,
            flush=True,
        )
        statuses.append(final_status(job, state=state["JobState"]))
    return statuses


def _run_here(
    args: argparse.Namespace, runs: Sequence[Run], tasks: Sequence[Task], folder: Path
) -> tuple[list[Job], list[int]]:
    """Run one after the other on this machine; without --follow, a single one is left alone after its start."""
    jobs, statuses = [], []
    for run, task in zip(runs, tasks, strict=True):
        if args.cluster == "debug":
            debugged = submitit.DebugExecutor(folder).submit(_run_in_this_process, task.command[2:])
            jobs.append(_job(run, debugged, folder))
            statuses.append(debugged.result())
            continue
        executor = submitit.LocalExecutor(folder, max_num_timeout=FOREVER)
        executor.update_parameters(
            tasks_per_node=max(run.cfg.NUM_GPUS, 1),
            gpus_per_node=run.cfg.NUM_GPUS if run.cfg.DIST_BACKEND == "nccl" else 0,
            timeout_min=args.timeout,
            signal_delay_s=args.signal_delay,
        )
        submitted = executor.submit(task)
        jobs.append(_job(run, submitted, folder))
        _announce(jobs, cancel="kill")
        if not args.follow and len(runs) == 1:
            return jobs, [0]
        follow(jobs[-1], runs=lambda submitted=submitted: not submitted.done())
        statuses.append(final_status(jobs[-1]))
    return jobs, statuses


def _run_in_this_process(command: Sequence[str]) -> int:
    """Return the status of a Python script with a function `main`; submitit's debugger stops where it raises."""
    status: int = runpy.run_path(command[0])["main"](command[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
