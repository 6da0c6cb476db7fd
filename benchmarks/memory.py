"""Measure and calculate on a CPU what a training step of UniFormer keeps in memory.

`python benchmarks/memory.py` takes less than 10 minutes on two cores and prints Markdown tables:
what each stage keeps for the backward pass, what recomputation (MODEL.CHECKPOINT_NUM) saves and
costs, the estimate of MODEL.CHECKPOINT_AUTO beside the measured peak, and how many clips fit on a
GPU. Each peak is the growth of a process of its own. The settings of a table take turns. `--all`
adds UniFormer-B with 8 and 32 frames to the measurements, which takes half an hour.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import _checkout  # noqa: F401  the package of this checkout
import torch

from benchmarks.cpu_rows.memory_tables import (
    MemoryTable,
    Setting,
    tabulate_fit,
    tabulate_recomputation,
    tabulate_stages,
)
from benchmarks.cpu_rows.table import describe_machine
from benchmarks.cpu_rows.workload import PUBLISHED, SMALL
from slowfast.commands import cli

SIZES = {"published": PUBLISHED, "small": SMALL}
MEASURED = (("S", 8), ("S", 16), ("S", 32), ("B", 16))


def main(arguments: list[str] | None = None) -> int:
    """Print the tables and return the exit status."""
    parser = _build_parser()
    args = parser.parse_args(arguments)

    tables: dict[str, Callable[[argparse.Namespace], Iterator[MemoryTable]]] = {
        "stages": _stages,
        "recomputation": _recomputation,
        "fit": _fit,
    }
    chosen = [name for name in tables if args.only is None or args.only.lower() in name]
    if args.list:
        print("\n".join(chosen))
        return 0
    if not chosen:
        parser.error(f"no table has a name with {args.only!r}. --list prints the names.")

    if args.size == "small":
        torch.set_num_threads(1)  # At these sizes, more threads cost more than they gain.
    text = f"{describe_machine()}\n"
    print(text, flush=True)
    for name in chosen:
        for table in tables[name](args):
            print(table.markdown(), flush=True)
            text += f"\n{table.markdown()}"
            if args.out is not None:
                args.out.write_text(text)
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="measure UniFormer-B of all lengths")
    parser.add_argument("--only", metavar="TEXT", help="print only tables with TEXT in their name")
    parser.add_argument("--list", action="store_true", help="print the table names and exit")
    parser.add_argument(
        "--rounds", type=cli.number(int, least=1), default=3, help="turns of a row (default: 3)"
    )
    parser.add_argument(
        "--size",
        choices=list(SIZES),
        default="published",
        help="small runs the same code in seconds (default: published)",
    )
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="file for the tables, rewritten after each one"
    )
    return parser


def _stages(args: argparse.Namespace) -> Iterator[MemoryTable]:
    yield tabulate_stages(SIZES[args.size])


def _recomputation(args: argparse.Namespace) -> Iterator[MemoryTable]:
    sizes = SIZES[args.size]
    measured = product("SB", sizes.num_frames) if args.all else MEASURED
    settings = [Setting(letter, num_frames, sizes) for letter, num_frames in measured]
    yield from tabulate_recomputation(settings, rounds=args.rounds)


def _fit(args: argparse.Namespace) -> Iterator[MemoryTable]:
    sizes = SIZES[args.size]
    all_settings = product("SB", sizes.num_frames)
    yield tabulate_fit([Setting(letter, num_frames, sizes) for letter, num_frames in all_settings])


if __name__ == "__main__":
    sys.exit(main())
