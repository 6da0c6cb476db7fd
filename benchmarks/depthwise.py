"""Gradients of the depthwise convolutions of UniFormer-S on a CPU, against those of torch.

`python benchmarks/depthwise.py [--rounds N]` takes about half a minute. The shapes are those of a
step with 2 clips of 8 frames. Both take turns, and the fastest time of each counts.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import _checkout  # noqa: F401  the package of this checkout
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cpu_rows.timing import take_turns
from slowfast.commands import cli
from slowfast.models.depthwise import convolve

# Shape (B, C, T, H, W) and size of the kernel.
CONVOLUTIONS = [
    ((2, 64, 4, 56, 56), 5),
    ((2, 64, 4, 56, 56), 3),
    ((2, 128, 4, 28, 28), 5),
    ((2, 128, 4, 28, 28), 3),
    ((2, 320, 4, 14, 14), 3),
    ((2, 512, 4, 7, 7), 3),
]


def make_backward(
    function: Callable[[Tensor, Tensor, Tensor], Tensor], shape: tuple[int, ...], *, size: int
) -> Callable[[], object]:
    """Return a function that computes all gradients of a convolution."""
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator)
    x, dy = (draw(shape).to(memory_format=torch.channels_last_3d) for _ in range(2))
    weight = draw(shape[1], 1, size, size, size).to(memory_format=torch.channels_last_3d)
    leaves = [tensor.requires_grad_() for tensor in (x, weight, draw(shape[1]))]
    y = function(*leaves)
    return partial(torch.autograd.grad, y, leaves, dy, retain_graph=True)


def by_torch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the convolution by torch."""
    return F.conv3d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds",
        type=cli.number(int, least=1),
        default=16,
        help="turns of each function (default: %(default)s)",
    )
    args = parser.parse_args()

    print(f"{torch.get_num_threads()} threads, milliseconds of a backward pass\n")
    print("| shape, kernel | torch | ours | ratio |\n| --- | --- | --- | --- |")
    totals = [0.0, 0.0]
    for shape, size in CONVOLUTIONS:
        functions = {
            "torch": make_backward(by_torch, shape, size=size),
            "ours": make_backward(convolve, shape, size=size),
        }
        times = take_turns(functions, rounds=args.rounds)
        fastest = [seconds.fastest * 1000 for seconds in times.values()]
        print_row(f"{shape}, {size}", fastest)
        totals = [total + time for total, time in zip(totals, fastest, strict=True)]
    print_row("all", totals)


def print_row(name: str, times: list[float]) -> None:
    """Print a row of the table: the times of torch and of ours, and their ratio."""
    theirs, ours = times
    print(f"| {name} | {theirs:.2f} | {ours:.2f} | {theirs / ours:.1f} |", flush=True)


if __name__ == "__main__":
    main()
