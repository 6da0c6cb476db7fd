"""Processes that run, ended, or took over the pid of another one."""

import subprocess
import sys
import time
from pathlib import Path

from slowfast.distributed.process_identity import is_alive, own_process


def test_a_zombie_and_a_later_owner_of_a_pid_are_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    stat = Path(f"/proc/{child.pid}/stat")
    deadline = time.monotonic() + 10
    while (fields := stat.read_text().rpartition(")")[2].split())[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)

    me = own_process()
    assert is_alive(me) is True
    assert is_alive(me._replace(pid=child.pid, started=int(fields[19]))) is False
    assert is_alive(me._replace(started=me.started - 1)) is False
    assert is_alive(me._replace(host="elsewhere")) is None
    child.wait()
