"""Runs tools/run_net.py in forked processes, so that slow imports happen only once.

`python run_server.py PARENT`, with the ID of its parent process, reads one JSON request per
line, with the keys arguments (list), num_processes, signal ("SIGKILL" or ""), when (seconds or a
phase), output and errors (paths), largest_file (bytes or 0), environment (object) and ignored (a
signal or ""). It answers with the exit statuses of the processes, as `Popen.returncode` has them.

A phase is observed and never guessed: start, rehearsal, training, estimate, validation, saving,
test. "N bytes of scores" is the moment at which the shards of a test have that size.
"""

import contextlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "plugins"))
sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.engine.parent_death import end_with_parent

if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))  # before imports that take seconds

# A run imports these when it needs them, which takes seconds in each process.
import torch._dynamo
import torch.multiprocessing

import slowfast.engine.evaluate
import slowfast.engine.train
import slowfast.evaluation.report.page  # noqa: F401
from slowfast.commands import run_net
from slowfast.datasets.resize import compile_resize
from tests.ports import free_port


def start(
    arguments: list[str],
    *,
    num_processes: int,
    output: str,
    errors: str,
    largest_file: int,
    environment: dict[str, str],
    ignored: str,
) -> list[int]:
    """Fork the processes of a job, as torchrun would start them; they are one group."""
    port = str(free_port())
    server = os.getpid()
    children: list[int] = []
    for rank in range(num_processes):
        child = os.fork()
        if child == 0:
            end_with_parent(server)
            os.setpgid(0, children[0] if children else 0)
            os.environ |= {"OMP_NUM_THREADS": "1", **environment}
            # A shell or nohup may have started the tests with this signal ignored.
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            if ignored:
                signal.signal(signal.Signals[ignored], signal.SIG_IGN)
            for descriptor, path in ((1, output), (2, errors)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
            if largest_file:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
            if num_processes > 1:
                os.environ |= {
                    "TORCHELASTIC_RUN_ID": "test",
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": port,
                }
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                os.environ |= {
                    "WORLD_SIZE": str(num_processes),
                    "LOCAL_WORLD_SIZE": str(num_processes),
                }
            torch.set_num_threads(1)
            status = 99
            try:
                status = run_net.main(arguments)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        children.append(child)
        # The next process joins this group, maybe before this one has made it itself.
        with contextlib.suppress(OSError):  # It has ended already.
            os.setpgid(child, children[0])
    return children


PHASES = {  # what the log says when a phase begins, and when it has ended
    "rehearsal": ("rehearsing training", "rehearsed training"),
    "training": ("first step done", None),
    "estimate": ("time left for the whole run", None),
    "validation": (": validating after epoch", ": validation after epoch"),
    "test": (": testing ", ": test, "),
}


def has_ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def listens(child: int) -> bool:
    """Whether a process has handlers for SIGTERM and SIGHUP, the first and the last it installs."""
    lines = Path(f"/proc/{child}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return all(caught >> (number - 1) & 1 for number in (signal.SIGTERM, signal.SIGHUP))


def wait_for_moment(when: float | str, folder: Path, child: int) -> bool:
    """Wait for a phase, or some seconds after the run began. Return False if it ends first."""
    started, began = time.time(), None
    left_before = {*folder.glob("checkpoints/*.unfinished")}  # by a process that was killed
    log = folder / "stdout.log"
    size_before = log.stat().st_size if log.exists() else 0
    seen_before = 0
    while not has_ended(child):
        if when == "start" and listens(child):
            return True
        if str(when).endswith(" bytes of scores"):
            shards = folder.glob("test/scores/*")
            if sum(path.stat().st_size for path in shards) >= int(str(when).split()[0]):
                return True
        if when == "saving" and {*folder.glob("checkpoints/*.unfinished")} - left_before:
            return True
        left_before &= {*folder.glob("checkpoints/*.unfinished")}
        if when in PHASES and log.exists():
            if log.stat().st_size < size_before:  # a new run has a new log
                size_before = 0
            text = log.read_text()[size_before:]
            first, last = PHASES[str(when)]
            # A later one of its kind, if one was over before it was seen.
            if text.count(first) > seen_before and (
                last is None or text.count(last) < text.count(first)
            ):
                return True
            seen_before = text.count(last) if last else 0
        record = folder / "run.json"  # the first that a training writes
        if began is None and record.exists() and record.stat().st_mtime > started:
            began = time.monotonic()
        if not isinstance(when, str) and began is not None and time.monotonic() - began > when:
            return True
        time.sleep(0.0005)
    return False


def main() -> None:
    compile_resize()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if request is None:
            break
        settings = {
            name: request[name]
            for name in (
                "num_processes",
                "output",
                "errors",
                "largest_file",
                "environment",
                "ignored",
            )
        }
        children = start(request["arguments"], **settings)
        if request["signal"]:
            folder = Path(request["arguments"][request["arguments"].index("OUTPUT_DIR") + 1])
            in_time = wait_for_moment(request["when"], folder, children[0])
            if in_time and request["when"] == "start":
                in_time = all(
                    has_ended(child) or wait_for_moment("start", folder, child)
                    for child in children
                )
            for child in children if in_time else ():
                os.kill(child, signal.Signals[request["signal"]])
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        answers.write(json.dumps(statuses) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
