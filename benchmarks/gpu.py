"""Check and measure on one GPU what differs there: numbers, waiting, memory, convolutions, speed.

`python benchmarks/gpu.py` takes less than 8 minutes and prints one Markdown table. It needs torch,
numpy, timm and numba alone, and no data: frames are synthetic. Exit status 1: a check has failed.
`--device cpu` runs the same code in small.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import _cli  # the package of this checkout
import torch

from benchmarks.gpu_rows import depthwise, precision, processes, speed, steps, waiting
from benchmarks.gpu_rows.report import Report, Row, describe_machine, run_rows
from benchmarks.gpu_rows.setup import Setup, cpu_setup, gpu_setup
from slowfast.engine.precision import set_up_kernels

ROWS = [
    Row("float64", precision.against_float64),
    Row("plain", precision.against_plain),
    Row("losses", steps.losses_fall),
    Row("skipped steps", steps.skipped_steps),
    Row("EMA", steps.average_by_hand),
    Row("accumulation", steps.accumulated),
    Row("resume", steps.resumed),
    Row("MixUp", steps.mixed),
    Row("uint8", steps.erased),
    Row("DDP", processes.distributed),
    Row("reserved memory", waiting.reserved_memory, needs_gpu=True),
    Row("synchronization", waiting.no_synchronization, needs_gpu=True),
    Row("prefetch", waiting.prefetch_overlaps, needs_gpu=True),
    Row("host time", waiting.host_time),
    Row("depthwise", depthwise.each_variant),
    Row("depthwise in the step", speed.step_by_depthwise),
    Row("step", speed.step),
    Row("memory", speed.memory, needs_gpu=True),
    Row("flash attention", speed.flash_attention, needs_gpu=True),
    Row("speed against plain", speed.against_plain),
    Row("compiled S", partial(speed.compiled, letter="S"), needs_gpu=True),
    Row("compiled B", partial(speed.compiled, letter="B", drop_path=0.0), needs_gpu=True),
]


def main(arguments: list[str] | None = None) -> int:
    """Run the rows, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu (default: cuda)")
    parser.add_argument(
        "--only", metavar="TEXT", help="rows whose name contains TEXT, such as depthwise"
    )
    parser.add_argument("--skip", metavar="TEXT", help="leave out rows whose name contains TEXT")
    parser.add_argument(
        "--list", action="store_true", help="print the names of the rows, and run none"
    )
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="a file for the table, written after each row"
    )
    parser.add_argument(
        "--minutes",
        type=_cli.number(float, least=0),
        default=7.0,
        help="start no row later than this (default: 7)",
    )
    args = parser.parse_args(arguments)

    rows = [row for row in ROWS if _is_chosen(row.name, only=args.only, skip=args.skip)]
    if args.list:
        print("\n".join(row.name for row in rows))
        return 0
    if not rows:
        parser.error(f"no row has a name with {args.only!r}; --list prints them")
    try:
        setup = _setup(args.device)
    except (RuntimeError, ValueError) as error:
        return _cli.report(error)

    report = Report(describe_machine(setup.device), path=args.out)
    run_rows(rows, setup, minutes=args.minutes, report=report)
    print(report.markdown())
    return _cli.FAILED if report.has_failed else 0


def _setup(name: str) -> Setup:
    device = torch.device(name)
    if device.type == "cpu":
        torch.set_num_threads(1)  # More of them cost more than they gain at these sizes.
        return cpu_setup()
    if device.type != "cuda" or not torch.cuda.is_available():
        raise ValueError(
            f"there is no device {name!r} here; --device cpu runs the same code in small"
        )
    device = torch.device("cuda", device.index or 0)
    torch.cuda.set_device(device)
    set_up_kernels(tf32=False)  # as a training does
    return gpu_setup(device)


def _is_chosen(name: str, *, only: str | None, skip: str | None) -> bool:
    is_wanted = only is None or only.lower() in name.lower()
    return is_wanted and not (skip is not None and skip.lower() in name.lower())


if __name__ == "__main__":
    sys.exit(main())
