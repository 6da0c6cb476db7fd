"""Check and measure on one GPU what may differ there: values, waits, memory, convolutions, speed.

`python benchmarks/gpu.py` takes less than 8 minutes and prints one Markdown table. It requires only
torch, numpy, timm and numba, and no data, because the frames are synthetic. The exit status is 1 if
a check fails. `--device cpu` runs the same code on small inputs.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import _checkout  # noqa: F401  the package of this checkout
import torch

from benchmarks.gpu_rows import ddp, depthwise, precision, speed, stalls, train_step
from benchmarks.gpu_rows.report import Report, Row, describe_machine, run_rows
from benchmarks.gpu_rows.workload import Workload, cpu_workload, gpu_workload
from slowfast.commands import cli
from slowfast.inference.precision import set_up_kernels

ROWS = [
    Row("float64", precision.compare_with_float64),
    Row("plain", precision.compare_with_plain),
    Row("losses", train_step.check_losses),
    Row("skipped steps", train_step.check_skipped_steps),
    Row("EMA", train_step.check_ema),
    Row("accumulation", train_step.check_accumulation),
    Row("resume", train_step.check_resume),
    Row("MixUp", train_step.check_mixup),
    Row("uint8", train_step.check_uint8),
    Row("DDP", ddp.check_gradients),
    Row("reserved memory", stalls.check_reserved_memory, needs_gpu=True),
    Row("synchronization", stalls.check_synchronization, needs_gpu=True),
    Row("prefetch", stalls.check_prefetch, needs_gpu=True),
    Row("host time", stalls.measure_host_time),
    Row("depthwise", depthwise.compare_variants),
    Row("depthwise in the step", speed.compare_depthwise),
    Row("step", speed.measure_step),
    Row("memory", speed.measure_memory, needs_gpu=True),
    Row("flash attention", speed.check_flash_attention, needs_gpu=True),
    Row("speed against plain", speed.compare_with_plain),
    Row("compiled S", partial(speed.compare_compiled, letter="S"), needs_gpu=True),
    Row("compiled B", partial(speed.compare_compiled, letter="B", drop_path=0.0), needs_gpu=True),
]


def main(arguments: list[str] | None = None) -> int:
    """Run the rows, print the table and return the exit status."""
    parser = _build_parser()
    args = parser.parse_args(arguments)

    rows = [row for row in ROWS if _is_chosen(row.name, only=args.only, skip=args.skip)]
    if args.list:
        print("\n".join(row.name for row in rows))
        return 0
    if not rows:
        parser.error(f"no row has a name with {args.only!r}. --list prints the names.")
    try:
        workload = _choose_workload(args.device)
    except (RuntimeError, ValueError) as error:
        return cli.report(error)

    report = Report(describe_machine(workload.device), path=args.out)
    run_rows(rows, workload, minutes=args.minutes, report=report)
    print(report.markdown())
    return cli.FAILED if report.has_failed else 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu (default: cuda)")
    parser.add_argument(
        "--only", metavar="TEXT", help="run only rows with TEXT in their name (default: all)"
    )
    parser.add_argument("--skip", metavar="TEXT", help="skip rows with TEXT in their name")
    parser.add_argument("--list", action="store_true", help="print the row names and exit")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="file for the table, rewritten after each row"
    )
    parser.add_argument(
        "--minutes",
        type=cli.number(float, least=0),
        default=7.0,
        help="time after which no row starts (default: 7)",
    )
    return parser


def _choose_workload(name: str) -> Workload:
    device = torch.device(name)
    if device.type == "cpu":
        torch.set_num_threads(1)  # At these sizes, more threads cost more than they gain.
        return cpu_workload()
    if device.type != "cuda" or not torch.cuda.is_available():
        raise ValueError(
            f"device {name!r} is not available. Use --device cpu to run the same code on small "
            "inputs."
        )

    device = torch.device("cuda", device.index or 0)
    torch.cuda.set_device(device)
    set_up_kernels(tf32=False)  # The default of a training.
    return gpu_workload(device)


def _is_chosen(name: str, *, only: str | None, skip: str | None) -> bool:
    is_wanted = only is None or only.lower() in name.lower()
    return is_wanted and not (skip is not None and skip.lower() in name.lower())


if __name__ == "__main__":
    sys.exit(main())
