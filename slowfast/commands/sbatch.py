"""Parameters of a Slurm job, from the options of `submit` to those of sbatch."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slowfast.commands import cli
from slowfast.config import CfgNode
from slowfast.utils.text import count

SAME_NAMES = ("partition", "qos", "constraint", "account", "comment", "exclude")

_EARLY_SECONDS = 60  # Slurm may send a signal so much before its time, see sbatch.


def split_slurm_options(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Separate the options that begin with --slurm_ from the other arguments.

    Returns:
        The other arguments, and the options by name. An option without a value is True.
    """
    rest: list[str] = []
    options: dict[str, Any] = {}
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("--slurm_"):
            rest.append(word)
            continue

        name, equals, value = word.removeprefix("--slurm_").partition("=")
        if equals:
            options[name] = value
        elif words and not words[0].startswith("--"):
            options[name] = words.pop(0)
        else:
            options[name] = True
    return rest, options


def build_parameters(
    args: argparse.Namespace, cfg: CfgNode, *, job_name: str, options: dict[str, Any]
) -> dict[str, Any]:
    """Return the parameters of submitit's executor for Slurm.

    Args:
        args: Options of `submit`.
        cfg: Config of one of the experiments. All of them need the same machines.
        job_name: Name of the job.
        options: Options that began with --slurm_.

    Raises:
        UsageError: If the time limit leaves no time to train.
    """
    _check_timeout(args.timeout, signal_delay=args.signal_delay)
    uses_gpus = cfg.DIST_BACKEND == "nccl" and cfg.NUM_GPUS > 0
    if {"gres", "gpus_per_task", "gpus"} & options.keys():  # Another way to request GPUs.
        uses_gpus = False

    parameters: dict[str, Any] = {
        "job_name": job_name,
        "nodes": cfg.NUM_SHARDS,
        "ntasks_per_node": max(cfg.NUM_GPUS, 1),
        "cpus_per_task": args.cpus or cfg.DATA_LOADER.NUM_WORKERS + 1,
        "gpus_per_node": cfg.NUM_GPUS if uses_gpus else None,
        "time": args.timeout,
        "signal_delay_s": args.signal_delay,
        "mem": args.mem,
        "mail_user": args.mail,
        "mail_type": "END,FAIL,REQUEUE" if args.mail else None,
        "srun_args": ["--kill-on-bad-exit=1"],
        "additional_parameters": {"requeue": True},
    }
    parameters |= {name: getattr(args, name) for name in SAME_NAMES}
    for name, value in options.items():
        _add_option(parameters, name, value)
    return {name: value for name, value in parameters.items() if value is not None}


def add_source(parameters: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the parameters of a job that runs the copy of the source in its folder."""
    path = shlex.quote(str(folder / "code"))
    export = f'export PYTHONPATH={path}"${{PYTHONPATH:+:$PYTHONPATH}}"'
    return {**parameters, "setup": [*parameters.get("setup", []), export]}


def make_batch_script(parameters: dict[str, Any], *, folder: Path, num_jobs: int) -> str:
    """Return the batch script that submitit would submit.

    Args:
        parameters: Result of `build_parameters`.
        folder: Folder of the submission.
        num_jobs: Number of jobs. Several make an array.
    """
    command = shlex.join([sys.executable, "-u", "-m", "submitit.core._submit", str(folder)])
    array: dict[str, Any] = {"map_count": num_jobs} if num_jobs > 1 else {}
    from submitit.slurm.slurm import _make_sbatch_string

    return _make_sbatch_string(
        command=command, folder=folder, **add_source(parameters, folder), **array
    )


def _check_timeout(minutes: int, *, signal_delay: int) -> None:
    if 60 * minutes < signal_delay + _EARLY_SECONDS:
        raise cli.UsageError(
            f"--timeout is {count(minutes, 'minute')}, but the job saves its work {signal_delay} s "
            f"before that (--signal_delay), and Slurm may ask for it {_EARLY_SECONDS} s early. "
            "Give it more minutes"
        )


def _add_option(parameters: dict[str, Any], name: str, value: Any) -> None:
    from submitit.slurm.slurm import _get_default_parameters

    if name == "srun_args":
        parameters[name] = [*parameters[name], *shlex.split(value)]
    elif name == "setup":
        parameters[name] = [value]
    elif name in _get_default_parameters():
        parameters[name] = int(value) if isinstance(value, str) and value.isdigit() else value
    else:
        parameters["additional_parameters"][name] = value
