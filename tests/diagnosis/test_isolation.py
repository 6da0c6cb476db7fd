"""A check that raises, crashes or hangs becomes a failed line, and the others are made."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from slowfast.diagnosis.finding import FAILED, OK, WARNING, Check, Finding, ok
from slowfast.diagnosis.isolation import run_checks


def healthy() -> Finding:
    return ok("fine")


def raises() -> Finding:
    raise RuntimeError("the disk\nis gone")


def crashes() -> Finding:
    os.write(2, b"Illegal instruction in libfast.so\n")
    os.kill(os.getpid(), signal.SIGILL)
    return healthy()


def hangs() -> Finding:
    time.sleep(60)
    return healthy()


def leaves() -> Finding:
    sys.exit(3)


def lacks_a_part() -> Finding:
    raise ModuleNotFoundError("No module named 'llvmlite'", name="llvmlite")


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (raises, "RuntimeError: the disk is gone"),
        (crashes, "the check crashed: SIGILL (Illegal instruction in libfast.so)"),
        (hangs, "no answer within 0 s"),
        (leaves, "SystemExit: 3"),
        (lacks_a_part, "ModuleNotFoundError: No module named 'llvmlite'"),
    ],
)
def test_a_broken_check_is_a_failed_line(function: Callable[[], Finding], text: str) -> None:
    checks = [Check("before", healthy), Check("broken", function, seconds=0.3)]
    checks += [Check("after", healthy), Check("dependent", healthy, needs="broken")]
    found = dict(run_checks([checks, [Check("other", healthy)]]))

    assert [(name, finding.status) for name, finding in found.items()] == [
        ("before", OK),
        ("broken", FAILED),
        ("after", OK),
        ("dependent", WARNING),
        ("other", OK),
    ]
    assert found["broken"].text == text
    assert found["dependent"].text == "not checked, because broken failed"


def test_a_missing_library_is_named_by_its_own_line_alone() -> None:
    def lacks_numba() -> Finding:
        raise ModuleNotFoundError("No module named 'numba'", name="numba")

    finding = dict(run_checks([[Check("numba cache", lacks_numba)]]))["numba cache"]
    assert (finding.status, finding.text) == (WARNING, "not checked, because numba is missing")


def test_a_hanging_check_leaves_no_process() -> None:
    def hangs_with_child() -> Finding:
        program = "import time; print('here', flush=True); time.sleep(60)"
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        os.write(pipe, b"%d\n" % child.pid)
        return hangs()

    reader, pipe = os.pipe()
    dict(run_checks([[Check("hangs", hangs_with_child, seconds=1.0)]]))
    child = int(os.read(reader, 100))

    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{child}/exe") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{child}/exe")  # Nobody may have read its exit status.
    os.close(reader)
    os.close(pipe)


def test_output_of_a_check_stays_out_of_the_report(capfd: pytest.CaptureFixture[str]) -> None:
    def talks() -> Finding:
        os.write(1, b"noise of a C library\n")
        print("noise of Python", flush=True)
        return healthy()

    assert dict(run_checks([[Check("talks", talks)]])) == {"talks": healthy()}
    assert capfd.readouterr().out == ""
