"""Time from typing the command of a training to its first step, by phase, for two checkouts.

`python benchmarks/startup.py DATA [--against CHECKOUT] [--runs N]` starts the real command of the
quickstart, `tools/run_net.py`, on the embedded dataset in DATA (`slowfast make-motion DATA`), and
stops it after its first training step. Runs of the checkouts take turns. The table gives the
seconds since the start of the process at the end of each phase: wall time, and CPU time of the
command with its loader workers, which other programs on the machine disturb less. Lines of the log
mark the phases, so any checkout that logs them can be measured. It requires Linux.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "exp/quickstart/config.yaml"
PHASES = {
    "imports, config, lists, model": "multiply-adds per view",
    "rehearsal": "rehearsed training",
    "first step": "train epoch 1/",
}  # name -> text of the line that ends it
FLOOR = "import torch alone"
SECONDS_PER_TICK = 1 / os.sysconf("SC_CLK_TCK")


class Times(NamedTuple):
    """Seconds since the start of a process."""

    wall: float
    cpu: float


def cpu_seconds(session: int) -> float:
    """Return the CPU time of the processes of a session, and of their children that have ended."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # It has ended.
            continue
        if int(fields[3]) == session:
            ticks += sum(map(int, fields[11:15]))
    return ticks * SECONDS_PER_TICK


def measure_import(checkout: Path) -> Times:
    """Return what a process that only imports torch takes."""
    before, started_at = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True, cwd=checkout)
    wall, after = time.perf_counter() - started_at, os.times()
    user = after.children_user - before.children_user
    return Times(wall, user + after.children_system - before.children_system)


def measure_run(checkout: Path, data: Path, opts: list[str]) -> dict[str, Times]:
    """Start a training, stop it after its first step, and return the times at its phases' ends.

    Raises:
        RuntimeError: If the training ends before its first step.
    """
    with tempfile.TemporaryDirectory(prefix="startup_") as output_dir:
        settings = {
            "DATA.PATH_TO_DATA_DIR": str(data),
            "DATA.PATH_PREFIX": str(data),
            "DATA.CLASS_NAMES": str(data / "classes.txt"),
            "OUTPUT_DIR": output_dir,
            "LOG_PERIOD": "1",
        }
        command = [sys.executable, "tools/run_net.py", "--cfg", CONFIG]
        command += [word for pair in settings.items() for word in pair]
        started_at = time.perf_counter()
        process = subprocess.Popen(
            [*command, *opts],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            return _read_phases(process, started_at=started_at)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _read_phases(process: subprocess.Popen[str], *, started_at: float) -> dict[str, Times]:
    times, lines = {}, []
    remaining = list(PHASES)
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if PHASES[remaining[0]] not in line:
            continue
        times[remaining.pop(0)] = Times(time.perf_counter() - started_at, cpu_seconds(process.pid))
        if not remaining:
            return times
    raise RuntimeError(f"no line {PHASES[remaining[0]]!r} in:\n{''.join(lines)}")


def print_table(measured: dict[str, dict[str, list[Times]]]) -> None:
    """Print the minimum and the median at the end of each phase, and the ratio of the minima."""
    head = f"{'seconds until the end of':32}"
    for name in measured:
        head += f"{name + ' wall min':>20}{'median':>8}{'CPU min':>9}{'median':>8}"
    print(head + (f"{'wall ratio':>12}{'CPU ratio':>11}" if len(measured) > 1 else ""))

    for phase in (FLOOR, *PHASES):
        line = f"{phase:32}"
        minima = []
        for phases in measured.values():
            walls = [times.wall for times in phases[phase]]
            cpus = [times.cpu for times in phases[phase]]
            minima.append(Times(min(walls), min(cpus)))
            line += f"{min(walls):20.2f}{median(walls):8.2f}{min(cpus):9.2f}{median(cpus):8.2f}"
        if len(minima) > 1:
            this, other = minima
            line += f"{this.wall / other.wall:12.2f}{this.cpu / other.cpu:11.2f}"
        print(line)


def main() -> None:
    """Measure interleaved runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the embedded dataset")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="checkout to compare with")
    parser.add_argument("--runs", type=int, default=5, help="runs of each checkout (default: 5)")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    args = parser.parse_intermixed_args()

    checkouts = {"this": ROOT}
    if args.against:
        checkouts["other"] = args.against.resolve()
    measured: dict[str, dict[str, list[Times]]] = {
        name: {phase: [] for phase in (FLOOR, *PHASES)} for name in checkouts
    }
    for _ in range(args.runs):
        for name, checkout in checkouts.items():
            measured[name][FLOOR].append(measure_import(checkout))
            for phase, times in measure_run(checkout, args.data.resolve(), args.opts).items():
                measured[name][phase].append(times)
    print_table(measured)


if __name__ == "__main__":
    main()
