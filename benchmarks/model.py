"""Compare UniFormer on a CPU with its plain formulation and with the models of torchvision.

`python benchmarks/model.py` takes about 10 minutes on two cores and prints one Markdown table:
training steps and evaluations of UniFormer-S in float32, three other models at 16 frames, and the
light models on one core, each with a clip of its published size. The models have random weights,
and the frames are synthetic. `--all` adds UniFormer-B, bf16 where the CPU computes in it, one
thread and the compiled model, which takes hours.

The models of a row take turns. `over plain` is the ratio of the fastest times. `CPU time` counts
all threads, and other processes on the machine hardly change it. `of peak` is the share of the
multiply-adds per second of a large matrix product in the same turns. `memory` is the growth of a
process of its own from before it builds the model to the peak of one step or evaluation.
"""

import argparse
import sys
import traceback
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import _checkout  # noqa: F401  the package of this checkout
import torch

from benchmarks.cpu_rows.measurement import Line, measure_row
from benchmarks.cpu_rows.table import Table, describe_machine
from benchmarks.cpu_rows.workload import (
    COMPILED,
    EVALUATION,
    LIGHT,
    OURS,
    PEERS,
    PLAIN,
    PUBLISHED,
    SMALL,
    STEP,
    Row,
)
from slowfast.commands import cli

PEER_FRAMES = 16  # Number of frames that the published models of torchvision take.
NUM_CLIPS = {8: 2, 16: 1, 32: 1}  # By number of frames.
BF16 = torch.bfloat16
SIZES = {"published": PUBLISHED, "small": SMALL}


def make_rows(*, num_threads: int) -> list[Row]:
    """Return all rows, first those that run by default.

    Args:
        num_threads: Number of threads of most rows. Some rows run with one thread too.
    """
    pair, all_models = (PLAIN, OURS), (PLAIN, OURS, *PEERS)
    settings: list[tuple[str, str, int, tuple[str, ...], torch.dtype | None, int]] = []
    for work, num_frames in product((STEP, EVALUATION), NUM_CLIPS):
        variants: tuple[str, ...] = all_models if num_frames == PEER_FRAMES else pair
        if (work, num_frames) == (EVALUATION, 8):
            variants = (*pair, COMPILED)
        settings.append(("S", work, num_frames, variants, None, num_threads))
    settings.append(("S", EVALUATION, 8, (OURS, *LIGHT), None, 1))
    num_default = len(settings)

    for letter, work, num_frames in product("SB", (STEP, EVALUATION), NUM_CLIPS):
        settings.append((letter, work, num_frames, pair, BF16, num_threads))
        if letter == "B":
            settings.append((letter, work, num_frames, pair, None, num_threads))
            continue
        if num_frames != PEER_FRAMES:
            settings.append((letter, work, num_frames, all_models, None, num_threads))
        if num_threads > 1:
            settings.append((letter, work, num_frames, pair, None, 1))

    return [
        Row(
            letter,
            work,
            num_frames,
            1 if variants[-1] in LIGHT else NUM_CLIPS[num_frames],
            variants,
            amp=amp,
            num_threads=threads,
            is_default=index < num_default,
        )
        for index, (letter, work, num_frames, variants, amp, threads) in enumerate(settings)
    ]


def main(arguments: list[str] | None = None) -> int:
    """Run the rows, print the table and return the exit status."""
    parser = _build_parser()
    args = parser.parse_args(arguments)

    # At small sizes, more threads cost more than they gain.
    num_threads = torch.get_num_threads() if args.size == "published" else 1
    rows = make_rows(num_threads=num_threads)
    rows = [row for row in rows if _is_chosen(row, only=args.only, runs_all=args.all)]
    if args.list:
        print("\n".join(row.name for row in rows))
        return 0
    if not rows:
        parser.error(f"no row has a name with {args.only!r}. --all --list prints the names.")

    heading = describe_machine()
    table = Table(heading, path=args.out)
    for row in rows:
        try:
            for line in measure_row(row, SIZES[args.size], rounds=args.rounds):
                table.add(line)
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}".split("\n")[0][:200]
            table.add(Line(row.name, "all", reason=reason, has_failed=True))

    from benchmarks.cpu_rows.chart import draw_chart  # It imports matplotlib.

    draw_chart(table.lines, args.chart, heading=heading)
    print(f"{table.markdown()}\nchart: {args.chart}")
    return cli.FAILED if table.has_failed else 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="run all rows, which takes hours")
    parser.add_argument(
        "--only", metavar="TEXT", help="run only rows with TEXT in their name, of all rows"
    )
    parser.add_argument("--list", action="store_true", help="print the row names and exit")
    parser.add_argument(
        "--rounds", type=cli.number(int, least=1), default=3, help="turns of a model (default: 3)"
    )
    parser.add_argument(
        "--size",
        choices=list(SIZES),
        default="published",
        help="small runs the same code in seconds (default: published)",
    )
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="file for the table, rewritten after each line"
    )
    parser.add_argument(
        "--chart",
        metavar="FILE",
        type=Path,
        default=Path("model_benchmark.png"),
        help="PNG file for a bar chart (default: %(default)s)",
    )
    return parser


def _is_chosen(row: Row, *, only: str | None, runs_all: bool) -> bool:
    if only is not None:
        return only.lower() in row.name.lower()
    return runs_all or row.is_default


if __name__ == "__main__":
    sys.exit(main())
