"""Runs tools/run_net.py again and again in forked processes: what takes seconds to import is imported once.

`python run_server.py` reads one JSON request per line, {"arguments": [...], "num_processes": 1, "signal": "SIGKILL" or
"", "when": seconds, "saving" or "training", "output": path, "errors": path, "largest_file": bytes or 0,
"environment": {...}}, and answers with the exit statuses of the processes, as `Popen.returncode` has them.
"""

import json
import os
import resource
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import torch.multiprocessing

sys.path.insert(0, str(Path(__file__).parents[1] / "plugins"))
sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import run_net


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start(
    arguments: list[str],
    *,
    num_processes: int,
    output: str,
    errors: str,
    largest_file: int,
    environment: dict[str, str],
) -> list[int]:
    """Fork the processes of a job, as torchrun would start them; they are one group."""
    port = str(free_port())
    children: list[int] = []
    for rank in range(num_processes):
        child = os.fork()
        if child == 0:
            os.setpgid(0, children[0] if children else 0)
            os.environ |= {"OMP_NUM_THREADS": "1", **environment}
            for descriptor, path in ((1, output), (2, errors)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
            if largest_file:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
            if num_processes > 1:
                os.environ |= {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                os.environ |= {"WORLD_SIZE": str(num_processes), "LOCAL_WORLD_SIZE": str(num_processes)}
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
    return children


def wait_for_moment(when: float | str, folder: Path, child: int) -> None:
    """Return seconds after the run began, in a save, or after a step; or when the process has ended."""
    started, began = time.time(), None
    log = folder / "stdout.log"
    size_before = log.stat().st_size if log.exists() else 0
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if when == "saving" and list(folder.glob("checkpoints/*.unfinished")):
            return
        if when == "training" and log.exists() and ": train epoch" in log.read_text()[size_before:]:
            return
        config = folder / "config.yaml"  # the first that a training writes
        if began is None and config.exists() and config.stat().st_mtime > started:
            began = time.monotonic()
        if not isinstance(when, str) and began is not None and time.monotonic() - began > when:
            return
        time.sleep(0.0005)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        settings = {
            name: request[name] for name in ("num_processes", "output", "errors", "largest_file", "environment")
        }
        children = start(request["arguments"], **settings)
        if request["signal"]:
            folder = Path(request["arguments"][request["arguments"].index("OUTPUT_DIR") + 1])
            wait_for_moment(request["when"], folder, children[0])
            for child in children:
                os.kill(child, signal.Signals[request["signal"]])
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        answers.write(json.dumps(statuses) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
