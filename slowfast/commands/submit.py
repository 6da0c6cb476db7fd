"""Run an experiment as a Slurm job.

Other options that begin with --slurm_ go to Slurm: `--slurm_reservation NAME`. See docs/cluster.md.
"""

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slowfast.commands import cli, sbatch
from slowfast.utils import plugins


def main(arguments: Sequence[str] | None = None) -> int:
    """Submit experiments, or print the table of a submission, and return the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    rest, slurm_options = sbatch.split_slurm_options(words)
    args = _parser().parse_intermixed_args(rest)
    on_slurm = args.cluster == "slurm"
    return cli.run(
        lambda: _print_table(args.table) if args.table else _submit(args, slurm_options),
        interrupted="the job continues" if on_slurm else "the job was interrupted",
    )


def _submit(args: argparse.Namespace, slurm_options: dict[str, Any]) -> int:
    # Slow imports, which --help and wrong usage do without.
    from submitit.core.utils import FailedJobError

    from slowfast.commands.submission import build_experiments, experiment_name, jobs_folder, submit
    from slowfast.distributed.submission import TIME_FORMAT

    plugins.import_plugins(args.imports)
    experiments = build_experiments(args)
    parameters = sbatch.build_parameters(
        args,
        experiments[0].cfg,
        job_name=args.name or experiment_name(args.cfg or "array"),
        options=slurm_options,
    )
    parent = Path(args.job_dir or jobs_folder(experiments))
    folder = parent.absolute() / time.strftime(TIME_FORMAT)
    if args.dry_run:
        num_jobs = len(experiments)
        print(sbatch.make_batch_script(parameters, folder=folder, num_jobs=num_jobs))
        return 0
    try:
        return submit(args, experiments, folder=folder, parameters=parameters)
    except FailedJobError as error:
        raise OSError(str(error)) from error


def _print_table(name: str) -> int:
    from slowfast.commands.results_table import format_table
    from slowfast.distributed.slurm_job import job_state
    from slowfast.distributed.submission import find_submission
    from slowfast.distributed.submitted_job import read_jobs

    folder = find_submission(name)
    if folder != Path(name):
        print(f"submission: {folder}")

    jobs = read_jobs(folder)
    states = [job_state(job.job_id)["JobState"] or "-" for job in jobs]
    print(format_table(jobs, states=states))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    parser.add_argument("--cfg", default="", help="YAML file of the experiment")
    plugins.add_argument(parser)
    _add_resources(parser)

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
        help="folder of submissions, visible on all machines (default: OUTPUT_DIR/jobs)",
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
        help="print states and results of a submission: its folder, or the newest in an OUTPUT_DIR "
        "or job_dir",
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to override")
    return parser


def _add_resources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--num_shards",
        type=cli.number(int, least=1),
        metavar="N",
        help="number of machines (default: NUM_SHARDS)",
    )
    parser.add_argument(
        "--num_gpus",
        type=cli.number(int, least=0),
        metavar="N",
        help="number of processes on each machine (default: NUM_GPUS)",
    )

    parser.add_argument(
        "--timeout",
        type=cli.number(int, least=1),
        default=24 * 60,
        metavar="MINUTES",
        help="time limit, after which the job is requeued (default: %(default)s)",
    )
    parser.add_argument(
        "--signal_delay",
        type=cli.number(int, least=0),
        default=120,
        metavar="SECONDS",
        help="time before that limit to save a checkpoint (default: %(default)s)",
    )

    parser.add_argument(
        "--cpus",
        type=cli.number(int, least=1),
        metavar="N",
        help="number of cores for each process (default: its loader workers and one more)",
    )
    parser.add_argument("--mem", help="memory of each machine, such as 200GB (default: Slurm's)")

    for name in sbatch.SAME_NAMES:
        parser.add_argument(f"--{name}", help=f"option --{name} of sbatch (default: Slurm's)")
    parser.add_argument(
        "--mail",
        metavar="ADDRESS",
        help="address to notify when the job ends, fails or is requeued (default: none)",
    )


def _array(text: str) -> list[tuple[str, str]]:
    """Return pairs of a key and one of its values. A comma in brackets separates no values."""
    key, equals, values = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text}: write KEY=A,B,...")
    return [(key, value) for value in re.split(r",(?![^\[]*\])", values)]
