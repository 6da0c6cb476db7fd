"""The command that checks and measures on a GPU, on small inputs on a CPU."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu_rows.gpu_trace import Activity, overlap
from benchmarks.gpu_rows.report import FAILED, NOT_RUN, OK, Report, Result, Row, run_rows
from benchmarks.gpu_rows.workload import Workload, cpu_workload

ROOT = Path(__file__).parents[2]
MISSING = (
    "fvcore",
    "yacs",
    "iopath",
    "av",
    "simplejson",
    "pyarrow",
    "safetensors",
    "submitit",
    "tensorboard",
    "psutil",
)
BARE_MACHINE = f"""
import runpy, sys
if __name__ == "__main__":
    sys.modules.update(dict.fromkeys({MISSING}))  # Importing one of them fails.
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_all_rows_pass_on_a_cpu_without_our_libraries(tmp_path: Path) -> None:
    script, out = tmp_path / "bare.py", tmp_path / "table.md"
    script.write_text(BARE_MACHINE)
    options = ["--device", "cpu", "--out", str(out)]
    command = [sys.executable, str(script), "benchmarks/gpu.py", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr

    assert out.read_text() in done.stdout
    cells = [line.split(" | ") for line in out.read_text().splitlines() if line.startswith("| ")]
    verdicts = {row.removeprefix("| "): verdict.removesuffix(" |") for row, _, verdict in cells[2:]}
    assert set(verdicts.values()) <= {OK, NOT_RUN, ""}
    assert verdicts["UniFormer-S in fp32 against float64 on a CPU"] == OK
    assert verdicts["DDP over gloo, 1 process, device_id set"] == OK
    assert verdicts["compiled S"] == NOT_RUN


def test_a_row_that_raises_has_failed_and_the_next_runs(tmp_path: Path) -> None:
    def failing(workload: Workload) -> Iterator[Result]:
        yield Result("first half", "1", OK)
        raise RuntimeError("no kernel for this card")

    def passing(workload: Workload) -> Iterator[Result]:
        yield Result("passing", "a | b")

    out = tmp_path / "table.md"
    report = Report("A card.", path=out)
    rows = [Row("failing", failing), Row("passing", passing)]
    run_rows(rows, cpu_workload(), minutes=1, report=report)
    assert report.has_failed
    assert out.read_text().splitlines()[4:] == [
        "| first half | 1 | ok |",
        f"| failing | RuntimeError: no kernel for this card | {FAILED} |",
        "| passing | a \\| b |  |",
    ]


def test_no_row_starts_after_the_last_minute() -> None:
    def passing(workload: Workload) -> Iterator[Result]:
        yield Result("passing", "1")

    report = Report("A card.", path=None)
    run_rows([Row("passing", passing)], cpu_workload(), minutes=0, report=report)
    assert NOT_RUN in report.markdown()
    assert not report.has_failed


def test_overlap_of_copies_and_kernels_by_hand() -> None:
    def kernel(start: float, end: float, *, stream: int = 7) -> Activity:
        return Activity("kernel", False, stream, start, end)

    copies = [Activity("copy", True, 13, 10, 20), Activity("copy", True, 13, 50, 60)]
    # The first copy overlaps with kernels from 12 to 16, where two run at once, and from 18 to 20.
    # The second one runs beside a kernel on its own stream only.
    kernels = [
        kernel(0, 9),
        kernel(12, 15),
        kernel(13, 16),
        kernel(18, 30),
        kernel(50, 60, stream=13),
    ]
    assert overlap(copies, kernels) == (4 + 2) / 20
