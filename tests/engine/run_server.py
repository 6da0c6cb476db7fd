"""Runs tools/run_net.py again and again in forked processes: what takes seconds to import is imported once.

`python run_server.py` reads one JSON request per line, {"arguments": [...], "num_processes": 1, "signal": "SIGKILL" or
"", "when": seconds or "saving"}, and answers with the exit statuses of the processes, as `Popen.returncode` has them.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import torch.multiprocessing

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import run_net


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start(arguments: list[str], num_processes: int) -> list[int]:
    """Fork the processes of a job, as torchrun would start them; they are one group."""
    port = str(free_port())
    children: list[int] = []
    for rank in range(num_processes):
        child = os.fork()
        if child == 0:
            os.setpgid(0, children[0] if children else 0)
            os.environ["OMP_NUM_THREADS"] = "1"
            if num_processes > 1:
                os.environ |= {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                os.environ |= {"WORLD_SIZE": str(num_processes), "LOCAL_WORLD_SIZE": str(num_processes)}
            torch.set_num_threads(1)
            status = 99
            try:
                status = run_net.main(arguments)
            finally:
                sys.stdout.flush()
                os._exit(status)
        children.append(child)
    return children


def wait_for_moment(when: float | str, folder: Path, child: int) -> None:
    """Return seconds after the training began, or when a checkpoint is being written; or when the process has ended."""
    started, began = time.time(), None
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if when == "saving" and list(folder.glob("checkpoints/*.unfinished")):
            return
        config = folder / "config.yaml"  # the first that a training writes
        if began is None and config.exists() and config.stat().st_mtime > started:
            began = time.monotonic()
        if when != "saving" and began is not None and time.monotonic() - began > float(when):
            return
        time.sleep(0.0005)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    log = os.open("run_server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    for line in sys.stdin:
        request = json.loads(line)
        children = start(request["arguments"], request["num_processes"])
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
