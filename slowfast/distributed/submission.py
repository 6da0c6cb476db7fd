"""A command as a job of a scheduler, through submitit: what it runs, how it stands, and what it ends with.

A job runs a copy of the source and of the config, so that edits after the submission reach neither it nor its later
starts. When the scheduler wants its machines back, the command is asked to end, saves its work, ends with status 75,
and the job is queued again. Pickles in a submission's folder are submitit's own; no result is read from them.
"""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slowfast.distributed.signals import FAILED_STATUS, INTERRUPTED_STATUS, install
from slowfast.utils.files import read_json, write_json
from slowfast.utils.provenance import SOURCE_FILE, find_source
from slowfast.utils.text import count

REQUEUE_SIGNAL = (
    signal.SIGUSR2
)  # what submitit has Slurm send before the time limit, and when a job must make room
MOST_IDLE_STARTS = (
    2  # in a row that the time limit ended before they saved anything: the next would do no better
)
SOURCES = ("slowfast", "tools")
TIME_FORMAT = "%Y%m%d-%H%M%S"  # name of a submission's folder, as of time.strftime
JOBS_FILE = "jobs.json"  # in that folder
_TIME_LENGTH = len("20260131-093000")
ENDED_STATES = {  # of Slurm; there are many more of jobs that are not done, such as SIGNALING
    *(
        "COMPLETED",
        "FAILED",
        "CANCELLED",
        "TIMEOUT",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "BOOT_FAIL",
        "DEADLINE",
    ),
    *("PREEMPTED", "REVOKED"),
}


class Task:
    """What submitit runs in every task of a job: the command, as a child, with all signals sent on to it.

    Args:
        command: of the child.
        folder: of the submission: logs, and how each task stands.
        working_dir: of the child.
        output_dir: where the child saves its checkpoints.
    """

    def __init__(
        self, command: Sequence[str], *, folder: str, working_dir: str, output_dir: str
    ) -> None:
        self.command = list(command)
        self.folder = folder
        self.working_dir = working_dir
        self.output_dir = output_dir

    def __call__(self) -> int:
        """Run the command to its end and return 0; end this process with any other status, or queue the job again."""
        import submitit  # here, so that what only asks how a job stands needs no submitit

        job = submitit.JobEnvironment()
        job.paths.result_pickle.unlink(missing_ok=True)  # of a start before this one
        path, host = status_path(self.folder, job.job_id, job.global_rank), job.hostnames[job.node]
        before = _read_status(path) if path.exists() else {"starts": 0, "idle_starts": 0}
        now = {**before, "starts": before["starts"] + 1, "status": None, "host": host}
        write_json(path, now)
        restarts = os.environ.get("SLURM_RESTART_COUNT", before["starts"])
        os.environ["SLOWFAST_RESTART"] = str(
            before["starts"]
        )  # submitit's local executor does not count
        print(
            f"task {job.global_rank} of job {job.job_id} on {host}, restart {restarts}", flush=True
        )
        saved = self._checkpoints()
        status, signals = run_with_signals(self.command, working_dir=self.working_dir)
        now["status"] = status
        cause = (
            _cause_of_end(job.job_id, signals) if status < 0 or status == INTERRUPTED_STATUS else ""
        )
        if cause and job.global_rank == 0:
            is_idle = self._checkpoints() == saved
            now["idle_starts"] = before["idle_starts"] + (cause == "time limit") if is_idle else 0
            if now["idle_starts"] >= MOST_IDLE_STARTS:
                cause, now["status"] = "", FAILED_STATUS
                print(self._why_not_again(job.job_id), file=sys.stderr, flush=True)
        write_json(path, now)
        if cause:
            if job.global_rank == 0:
                starts = count(now["starts"], "start")
                print(f"job {job.job_id} goes back to the queue after {starts}", flush=True)
                job._requeue(0)  # ends this process where the machine is the scheduler
            sys.exit(0)  # no result, and no error that would end the tasks that are still saving
        if now["status"]:
            sys.exit(now["status"] if now["status"] > 0 else 128 - now["status"])
        return 0

    def _checkpoints(self) -> list[str]:
        return sorted(path.name for path in Path(self.output_dir, "checkpoints").glob("*.pyth"))

    def _why_not_again(self, job_id: str) -> str:
        return (
            f"job {job_id} does not go back to the queue: the time limit ended {MOST_IDLE_STARTS} starts in a row "
            f"before they had saved a checkpoint in {self.output_dir}; submit it again with a longer --timeout"
        )


def run_with_signals(command: Sequence[str], *, working_dir: str) -> tuple[int, set[int]]:
    """Return the status of a command (below 0: ended by that signal) and the signals that were sent on to it."""
    signals: set[int] = set()
    child: list[subprocess.Popen[bytes]] = []

    def forward(number: int, frame: object) -> None:
        signals.add(number)
        for process in child:
            process.send_signal(number)

    install(forward)
    child.append(subprocess.Popen(command, cwd=working_dir))
    for early in tuple(signals):  # that came before it
        child[0].send_signal(early)
    status = child[0].wait()
    return status, signals


def _cause_of_end(job_id: str, signals: set[int]) -> str:
    """Return why the scheduler has ended a job that shall go on; "" if a user did, or Slurm has queued it itself."""
    if not signals:
        return ""
    if "SLURM_JOB_ID" in os.environ:
        state = job_state(job_id)
        if state["JobState"].startswith(("CANCELLED", "PENDING", "REQUEUE")):
            return ""
        if state.get("PreemptTime", "None") != "None":
            return "preemption"
    return "time limit" if REQUEUE_SIGNAL in signals else ""


class Job(NamedTuple):
    """One job of a submission."""

    job_id: str
    label: str  # what tells it from the others of its submission; "" where it is alone
    output_dir: str
    num_tasks: int
    folder: str  # of the submission

    def log_path(self, task: int, kind: str) -> Path:
        """Return where a task writes; kind: out or err."""
        return Path(self.folder, f"{self.job_id}_{task}_log.{kind}")

    def statuses(self) -> list[dict[str, Any]]:
        """Return what each task that has started says of itself: starts, idle_starts, status (None: runs), host."""
        paths = [status_path(self.folder, self.job_id, task) for task in range(self.num_tasks)]
        return [_read_status(path) for path in paths if path.exists()]


def _read_status(path: Path) -> dict[str, Any]:
    remedy = "delete it, and the starts of its job are counted anew"
    return _checked(
        path,
        read_json(path, remedy=remedy),
        names=("starts", "idle_starts", "status"),
        remedy=remedy,
    )


def _checked(path: Path, content: Any, *, names: Sequence[str], remedy: str) -> dict[str, Any]:
    """The content of a JSON file, which must have fields of these names.

    Raises:
        ValueError: It has not.
    """
    missing = [name for name in names if not isinstance(content, dict) or name not in content]
    if missing:
        raise ValueError(f"{path}: has no {', '.join(missing)}; {remedy}")
    fields: dict[str, Any] = content
    return fields


def status_path(folder: str, job_id: str, task: int) -> Path:
    """Return where a task of a job notes how it stands: starts, idle starts in a row, exit status, host."""
    return Path(folder, f"{job_id}_{task}_status.json")


def write_jobs(jobs: Sequence[Job]) -> None:
    """Note the jobs of a submission in its folder, for `read_jobs`."""
    write_json(Path(jobs[0].folder, JOBS_FILE), [job._asdict() for job in jobs])


def read_jobs(folder: Path) -> list[Job]:
    """Return the jobs of a submission.

    Raises:
        FileNotFoundError: The folder is that of no submission.
        ValueError: Its list of jobs is damaged.
    """
    path = folder / JOBS_FILE
    remedy = "its jobs cannot be listed, but their logs and results are where they were; submit again to get a new one"
    content = read_json(path, remedy=remedy)
    rows = content if isinstance(content, list) else [content]
    checked = [_checked(path, fields, names=Job._fields, remedy=remedy) for fields in rows]
    return [Job(**{name: fields[name] for name in Job._fields}) for fields in checked]


def find_submission(folder: str) -> Path:
    """Return the folder of a submission.

    Args:
        folder: That folder itself, or one with submissions, of which the newest is taken: a folder
            `jobs`, or an OUTPUT_DIR, which has it inside.

    Raises:
        FileNotFoundError: There is none. The message says what was looked for.
    """
    if Path(folder, JOBS_FILE).is_file():
        return Path(folder)

    patterns = (f"*/{JOBS_FILE}", f"jobs/*/{JOBS_FILE}")
    found = [path.parent for pattern in patterns for path in Path(folder).glob(pattern)]
    if not found:
        looked_for = ", ".join(str(Path(folder, name)) for name in (JOBS_FILE, *patterns))
        raise FileNotFoundError(
            f"{folder} holds no submission; looked for {looked_for}; name the folder that tools/submit.py printed"
        )
    # Of two names from one second, the later one is longer, see `make_folder`.
    return max(found, key=lambda path: (path.name[:_TIME_LENGTH], len(path.name), path.name))


def make_folder(folder: Path) -> Path:
    """Make the folder of a submission and return it; its name gets a number if it is taken."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    number, name = 1, folder.name
    while True:
        try:
            folder.mkdir()  # fails if another submission has just made it
        except FileExistsError:
            number += 1
            folder = folder.with_name(f"{name}-{number}")
        else:
            return folder


def copy_source(root: Path, folder: Path, *, plugins: Sequence[str] = ()) -> None:
    """Copy what a job runs: the packages of this repository, and plugins that are not installed.

    The copy keeps the commit that it was made from, see `slowfast.utils.provenance.find_source`.

    Args:
        root: Root of the repository.
        folder: Folder of the copy, which is made.
        plugins: Modules that have been imported.
    """
    write_json(folder / SOURCE_FILE, find_source(root)._asdict())
    for name in (
        SOURCES
    ):  # with what Python and numba have compiled: it stays valid, as times of files are kept
        shutil.copytree(root / name, folder / name)
    for name in sorted({plugin.partition(".")[0] for plugin in plugins}):
        spec = importlib.util.find_spec(name)
        places = list(spec.submodule_search_locations or []) if spec else []
        origin = Path(places[0] if places else str(spec.origin if spec else ""))
        if "site-packages" in origin.parts or (folder / origin.name).exists():
            continue
        if origin.is_dir():
            shutil.copytree(origin, folder / origin.name)
        else:
            shutil.copy(origin, folder)


def job_state(job_id: str) -> dict[str, str]:
    """Return what Slurm says of a job, by its own names: JobState, Restarts, ExitCode, NodeList ...

    A controller forgets a job some minutes after its end; its database, if there is one, is asked then.
    """
    answer = _say("scontrol", "show", "job", "--oneliner", job_id).splitlines()
    if answer:
        return dict(re.findall(r"(\w+)=(\S*)", answer[0]))
    rows = _say(
        "sacct", "-X", "-n", "-P", "-o", "State,ExitCode,NodeList", "-j", job_id
    ).splitlines()
    values = [*(rows[-1].split("|") if rows else []), "", "", ""]
    return {"JobState": values[0], "ExitCode": values[1], "NodeList": values[2]}


def _say(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""


def is_running(job: Job) -> bool:
    """Whether Slurm still has work to do for a job."""
    return job_state(job.job_id)["JobState"].partition(" ")[0].rstrip("+") not in ENDED_STATES


def follow(job: Job, *, runs: Any, seconds: float = 1.0) -> None:
    """Print what the first task writes while the job runs, then the tracebacks of the others.

    Args:
        job: of a submission.
        runs: a function that says whether it still runs.
        seconds: between two looks.
    """
    logs = {kind: job.log_path(0, kind) for kind in ("out", "err")}
    read = dict.fromkeys(logs, 0)
    goes_on = True
    while goes_on:
        goes_on = runs()
        for kind, path in logs.items():
            for text in _new_text(path, read[kind]):
                print(text, end="", flush=True, file=sys.stderr if kind == "err" else sys.stdout)
                read[kind] += len(text.encode())
        if goes_on:
            time.sleep(seconds)
    for task in range(1, job.num_tasks):
        path = job.log_path(task, "err")
        text = path.read_text(errors="replace") if path.exists() else ""
        if "Traceback" in text or "Error" in text:
            print(f"--- {path}\n{text}", file=sys.stderr, flush=True)


def _new_text(path: Path, offset: int) -> Iterator[str]:
    if path.exists() and path.stat().st_size > offset:
        with path.open("rb") as file:
            file.seek(offset)
            yield file.read().decode(errors="surrogateescape")


def final_status(job: Job, *, state: str = "COMPLETED") -> int:
    """Return the exit status of a job that has ended: that of its tasks, or 1 if the scheduler has ended it."""
    statuses = [int(fields["status"]) for fields in job.statuses() if fields["status"] is not None]
    failed = [status for status in statuses if status]
    if failed:
        own = [
            status for status in failed if status > 0 and status != INTERRUPTED_STATUS
        ]  # not by a signal
        return next(iter(own), max(*failed, FAILED_STATUS))
    return 0 if state == "COMPLETED" and len(statuses) == job.num_tasks else FAILED_STATUS


def table(jobs: Sequence[Job], *, states: Sequence[str]) -> str:
    """Return one line for each job: how it stands, and the results in its OUTPUT_DIR."""
    rows: list[tuple[str, ...]] = [("run", "job", "state", "starts", "top-1", "top-5", "scored")]
    for job, state in zip(jobs, states, strict=True):
        path = Path(job.output_dir, "test/result.json")
        result = read_json(path, remedy="test again to write it anew") if path.exists() else {}
        scores = [f"{result[name]:.2f}" if name in result else "-" for name in ("top1", "top5")]
        scored = f"{result['num_scored']}/{result['num_videos']}" if "num_scored" in result else "-"
        starts = max((fields["starts"] for fields in job.statuses()), default=0)
        rows.append(
            (
                job.label or Path(job.output_dir).name,
                job.job_id,
                state,
                str(starts),
                *scores,
                scored,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
