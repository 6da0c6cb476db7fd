"""Time and memory of a training step of UniFormer-S with frozen stages, over the same step without.

`python benchmarks/freezing.py [--clips N] [--frames N] [--size N] [--rounds N]` runs steps on
synthetic clips, on the GPU of this machine or else on one core of its CPU. The rows take turns, and
the fastest step of each counts. On a CPU, the time is that of the process, which other processes
hardly change. Memory is the growth of a process of its own from before it builds the model to its
peak.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import _checkout  # noqa: F401  the package of this checkout
import torch

from benchmarks.gpu_rows.synthetic_training import Training, batch
from benchmarks.gpu_rows.workload import Workload
from slowfast.models.build import count_parameters
from slowfast.models.freezing import freeze

NUM_STAGES = 4
MEMORY_STEPS = 2  # The first one allocates the moments of the optimizer.
TITLES = (
    "nothing",
    "stage 1",
    "stages 1 and 2",
    "stages 1 to 3",
    "stages 1 to 4 and `norm`: the head alone is trained",
)


def make_workload(*, clips: int, num_frames: int, size: int) -> Workload:
    """Return UniFormer-S on the device of this machine."""
    return Workload(
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        models={"S": {}},
        clips={"S": clips},
        num_frames=num_frames,
        size=size,
        reference_shape=(clips, 3, num_frames, size, size),
        depthwise_shapes=(),
        seconds=0.0,
        num_steps=0,
    )


def patterns_of(num_stages: int) -> list[str]:
    """Return MODEL.FREEZE for the first stages. With all four, the head alone is trained."""
    patterns = [
        f"{part}{stage}" for stage in range(1, num_stages + 1) for part in ("patch_embed", "blocks")
    ]
    return [*patterns, "norm"] if num_stages == NUM_STAGES else patterns


class Row:
    """A training with frozen stages.

    Args:
        workload: Device and sizes.
        num_stages: Number of frozen stages.
    """

    def __init__(self, workload: Workload, num_stages: int) -> None:
        model = workload.model("S")
        freeze(model, patterns_of(num_stages))
        self.num_parameters = count_parameters(model)
        self._clock = time.perf_counter if workload.is_gpu else time.process_time
        self._training = Training(workload, model)
        self._batch = batch(workload, workload.clips["S"])

    def step(self) -> float:
        """Run a step and return its seconds."""
        start = self._clock()
        self._training.step(self._batch)
        self._training.settle()  # waits for a GPU
        return self._clock() - start


def memory_now(workload: Workload) -> float:
    """Return the peak memory of this process so far in MiB, on the GPU or in RAM."""
    if workload.is_gpu:
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def print_memory(workload: Workload, num_stages: int) -> None:
    """Print by how many MiB this process grows in two steps."""
    before = memory_now(workload)
    row = Row(workload, num_stages)
    for _ in range(MEMORY_STEPS):
        row.step()
    print(memory_now(workload) - before)


def memory_of(num_stages: int, arguments: list[str]) -> float:
    """Return the MiB that a process of its own prints."""
    command = [sys.executable, __file__, *arguments, "--memory-of", str(num_stages)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=2, help="clips of a step (%(default)s)")
    parser.add_argument("--frames", type=int, default=8, help="frames of a clip (%(default)s)")
    parser.add_argument("--size", type=int, default=224, help="side of a clip (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each row (%(default)s)")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)  # for one row's process
    return parser


def main() -> None:
    """Print a table with one row per number of frozen stages."""
    arguments = sys.argv[1:]
    args = make_parser().parse_args(arguments)
    torch.set_num_threads(1)
    workload = make_workload(clips=args.clips, num_frames=args.frames, size=args.size)
    if args.memory_of is not None:
        print_memory(workload, args.memory_of)
        return

    counts = range(NUM_STAGES + 1)
    memory = [memory_of(number, arguments) for number in counts]
    rows = [Row(workload, number) for number in counts]
    for row in rows:
        row.step()  # warms up
    seconds = [min(times) for times in zip(*_rounds(rows, args.rounds), strict=True)]

    print("| frozen | trained | step | time | memory of a step | memory |")
    print("| --- | --- | --- | --- | --- | --- |")
    for number, row in enumerate(rows):
        print(
            f"| {TITLES[number]} | {row.num_parameters / 1e6:.2f} M | {seconds[number]:.3g} s "
            f"| {seconds[number] / seconds[0]:.2f} | {memory[number]:.0f} MiB "
            f"| {memory[number] / memory[0]:.2f} |"
        )


def _rounds(rows: list[Row], num_rounds: int) -> list[list[float]]:
    return [[row.step() for row in rows] for _ in range(num_rounds)]


if __name__ == "__main__":
    main()
