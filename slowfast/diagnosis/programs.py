"""Checks of programs that some features call: compilers, and the commands of Slurm."""

import os
import shutil
import subprocess
from collections.abc import Sequence

from slowfast.diagnosis.finding import Finding, ok, warning
from slowfast.utils import compilers

_SLURM_COMMANDS = ("sbatch", "srun", "scontrol", "sacct", "scancel")
_SECONDS = 10.0


def check_compiler() -> Finding:
    """Check that torch.compile finds a C++ compiler that works."""
    consequence = "TRAIN.COMPILE does not work on the CPU"
    if problems := compilers.find_cpu_problems():
        return warning(
            f"{consequence}: {problems[0].partition('. ')[0]}", "Install g++, or set CXX"
        )

    names = [os.environ.get("CXX") or "", *compilers.COMPILERS]
    compiler = next(name for name in names if name and shutil.which(name))
    if reason := _compile_problem(compiler):
        return warning(
            f"{consequence}: {compiler} compiles nothing: {reason}",
            "Install g++ and its headers again, or set CXX",
        )
    gpu_problems = compilers.find_gpu_problems()
    if gpu_problems:
        return warning(
            f"{compiler} compiles for the CPU, but kernels for GPUs cannot be launched",
            gpu_problems[0],
        )
    return ok(f"{compiler} compiles, so TRAIN.COMPILE can work", compiler=compiler)


def _compile_problem(compiler: str) -> str:
    command = [compiler, "-x", "c++", "-fsyntax-only", "-"]
    source = "#include <vector>\nint main() { return 0; }\n"
    try:
        done = subprocess.run(
            command, input=source, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return lines[0] if done.returncode else ""


def check_slurm(commands: Sequence[str] = _SLURM_COMMANDS) -> Finding:
    """Check the commands of Slurm, which submits jobs on a cluster."""
    found = [name for name in commands if shutil.which(name)]
    if not found:
        return ok("not installed, and only jobs on a cluster need it", found=found)
    missing = [name for name in commands if name not in found]
    if missing:
        return warning(
            f"{', '.join(missing)} not found, so jobs may not be submitted or requeued",
            "Install Slurm's client commands, or load their module",
            found=found,
        )
    return ok(f"{', '.join(found)} found", found=found)
