"""State of Slurm jobs, as scontrol and sacct report it."""

import re
import subprocess

# Many other states belong to jobs that are not done, such as SIGNALING.
_FINAL_STATES = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}


def job_state(job_id: str) -> dict[str, str]:
    """Return what Slurm knows about a job under Slurm's own names: JobState, Restarts, NodeList.

    A controller forgets a job some minutes after its end. Then this asks the database, if there is
    one. JobState is "" if neither knows the job.
    """
    answer = _run("scontrol", "show", "job", "--oneliner", job_id).splitlines()
    if answer:
        return dict(re.findall(r"(\w+)=(\S*)", answer[0]))

    fields = ("State", "ExitCode", "NodeList")
    rows = _run("sacct", "-X", "-n", "-P", "-o", ",".join(fields), "-j", job_id).splitlines()
    values = rows[-1].split("|") if rows else []
    state, exit_code, nodes = [*values, "", "", ""][: len(fields)]
    return {"JobState": state, "ExitCode": exit_code, "NodeList": nodes}


def is_running(job_id: str) -> bool:
    """Whether Slurm still has work to do for a job."""
    state = job_state(job_id)["JobState"].partition(" ")[0]  # "CANCELLED by 1000", "CANCELLED+"
    return state.rstrip("+") not in _FINAL_STATES


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
