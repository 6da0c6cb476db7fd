"""The commands that compare models on a CPU and measure their memory, at small sizes."""

import math
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from matplotlib.image import imread
from torch import Tensor, nn

from benchmarks.cpu_rows.chart import draw_chart
from benchmarks.cpu_rows.measurement import Line
from benchmarks.cpu_rows.memory_tables import (
    CONTEXT_BYTES,
    MODULES,
    Setting,
    tabulate_fit,
    tabulate_recomputation,
)
from benchmarks.cpu_rows.peak_memory import (
    GIB,
    find_memory_problem,
    kept_by_module,
    kept_bytes,
    measure_growth,
    resident_bytes,
    run_alone,
)
from benchmarks.cpu_rows.timing import Peak, Times, take_turns
from benchmarks.cpu_rows.workload import (
    EVALUATION,
    LIGHT,
    OURS,
    PEERS,
    PLAIN,
    PUBLISHED,
    SMALL,
    STEP,
    Row,
    Sizes,
    clip_of,
)
from benchmarks.model import make_rows
from slowfast.engine.recompute import activation_bytes

ROOT = Path(__file__).parents[2]


def run_command(*arguments: str) -> str:
    """The output of a benchmark at small sizes."""
    script, *options = arguments
    command = [sys.executable, str(ROOT / script), *options, "--size", "small", "--rounds", "2"]
    with TemporaryDirectory() as folder:  # where a chart goes by default
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cells_of(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines[2:]]


def test_steps_are_compared_with_plain_and_torchvision(tmp_path: Path) -> None:
    out, chart = tmp_path / "table.md", tmp_path / "chart.png"
    row = "S step and torchvision, 1 clip of 16 frames"
    files = ("--out", str(out), "--chart", str(chart))
    printed = run_command("benchmarks/model.py", "--only", row, *files)
    assert out.read_text() in printed

    lines = {cells[1]: cells for cells in cells_of(out.read_text())}
    assert list(lines) == [PLAIN, OURS, *PEERS]
    assert lines.pop("s3d")[2] == (
        "crop_size is 64, but s3d takes 224 or more; num_frames is 4, but s3d takes 14 or more"
    )
    for name, cells in lines.items():
        fastest, median, cpu = (float(cell.removesuffix(" s")) for cell in cells[2:5])
        plain = float(lines[PLAIN][2].removesuffix(" s"))
        assert float(cells[5]) == pytest.approx(fastest / plain, rel=2e-3), name
        assert 0 < fastest <= median
        assert cpu > 0
        assert float(cells[9].removesuffix(" GiB")) >= 0  # A small step fits into what was freed.
    height, width, _ = imread(chart).shape
    assert width > 1000
    assert height > 200


def test_evaluation_is_compared_in_bf16() -> None:
    row = "B evaluation, 1 clip of 32 frames, bf16"
    lines = cells_of(run_command("benchmarks/model.py", "--only", row))
    assert [cells[1] for cells in lines] == [PLAIN, OURS]
    has_run = [cells[2].endswith(" s") for cells in lines]
    assert (
        all(has_run)
        or [cells[2] for cells in lines]
        == ["this CPU has no instructions for bf16 (avx512_bf16 or AMX)"] * 2
    )


def test_light_models_run_with_their_own_clips() -> None:
    lines = cells_of(run_command("benchmarks/model.py", "--only", "light models"))
    assert [cells[1] for cells in lines] == [OURS, *LIGHT]
    for cells in lines:
        fastest, frames_per_second = float(cells[2].removesuffix(" s")), float(cells[6])
        assert frames_per_second == pytest.approx(2 / fastest, rel=1e-2)  # 2 frames when small

    [row] = [row for row in make_rows(num_threads=2) if "light models" in row.name]
    assert (row.num_clips, row.num_threads, row.is_default) == (1, 1, True)
    assert clip_of("xxs16_160", row, PUBLISHED) == (16, 160)
    assert clip_of("xs32_192", row, PUBLISHED) == (32, 192)
    assert clip_of("xxs4_128", row, PUBLISHED) == (4, 128)
    assert clip_of(OURS, row, PUBLISHED) == (8, 224)


def test_names_of_rows_differ_and_the_default_ones_are_in_fp32() -> None:
    rows = make_rows(num_threads=2)
    assert len({row.name for row in rows}) == len(rows)
    default = [row for row in rows if row.is_default]
    assert [(row.letter, row.work, row.num_frames, row.amp) for row in default] == [
        *(
            ("S", work, num_frames, None)
            for work in (STEP, EVALUATION)
            for num_frames in (8, 16, 32)
        ),
        ("S", EVALUATION, 8, None),  # the light models
    ]


def test_works_take_turns() -> None:
    calls: list[str] = []
    works = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    times = take_turns(works, rounds=3)
    assert calls == ["a", "b"] * 3
    assert all(len(times[name].wall) == len(times[name].cpu) == 3 for name in works)


def test_peak_is_that_of_the_fastest_product() -> None:
    peak = Peak(side=64, dtype=torch.float32)
    peak()
    first = peak.multiply_adds_per_second
    for _ in range(5):
        peak()
    assert peak.multiply_adds_per_second >= first > 0


# ---- Memory ----------------------------------------------------------------------------------


def grow(mebibytes: int) -> tuple[int, int]:
    """The growth of this process before and at the peak of work that allocates and frees."""
    start = resident_bytes()
    kept = torch.ones(32 << 18)  # 32 MiB

    def work() -> None:
        torch.ones(mebibytes << 18)

    memory = measure_growth(work, start=start)
    assert kept.sum() > 0
    return memory.before, memory.peak


def test_memory_is_the_peak_of_a_process_of_its_own() -> None:
    before, peak = run_alone(grow, 256)
    assert before / 2**20 == pytest.approx(32, abs=8)
    assert peak / 2**20 == pytest.approx(32 + 256, abs=16)


def test_a_process_that_is_killed_is_told_from_a_result() -> None:
    with pytest.raises(MemoryError, match="was killed"):
        run_alone(signal.raise_signal, signal.SIGKILL)


class TwoLayers(nn.Module):
    """A linear layer of 3 to 4 values and a product, whose kept tensors are known."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def test_kept_bytes_by_hand() -> None:
    # The linear layer keeps its input, 5 x 3 values, the sigmoid its output, 5 x 4 values.
    parts = kept_by_module(TwoLayers(), ("first", "second"), shape=(5, 3), amp=None)
    assert parts == [5 * 3 * 4, 5 * 4 * 4]


def test_kept_bytes_are_the_estimate_of_the_engine() -> None:
    setting = Setting("S", 16, SMALL)
    model = setting.build()
    parts = kept_by_module(model, MODULES, shape=setting.shape, amp=None)
    estimate = activation_bytes(model, (0, 0, 0, 0), shape=setting.shape, amp=None)
    assert sum(parts) == kept_bytes(model, shape=setting.shape, amp=None)
    assert sum(parts) == pytest.approx(estimate, rel=0.02)  # The estimate includes the loss.


def test_a_step_that_needs_too_much_memory_says_so() -> None:
    huge = Sizes(models=PUBLISHED.models, num_frames={32: 65536}, side=224, peak_side=8)
    problem = find_memory_problem(OURS, Row("S", STEP, 32, 1), huge)
    assert problem.startswith("needs about ")
    assert find_memory_problem(OURS, Row("S", STEP, 8, 1), SMALL) == ""


def rows_of_recomputation() -> list[list[str]]:
    (table,) = tabulate_recomputation([Setting("S", 8, SMALL)], rounds=1)
    return [[*row] for row in table.rows]


def test_recomputation_is_measured() -> None:
    rows = run_alone(rows_of_recomputation)  # After a backward pass, forks could not run one.
    assert [row[0] for row in rows] == [
        "[0, 0, 0, 0]",
        "[1, 0, 0, 0]",
        "[1, 1, 0, 0]",
        "[1, 1, 1, 1]",
    ]
    assert rows[0][2] == "1.000"
    for _, *cells in rows:
        step, ratio, peak, of_step, estimate, _ = (float(cell.split()[0]) for cell in cells)
        assert step > 0
        assert ratio > 0
        assert peak >= of_step > estimate >= 0


def test_clips_that_fit_by_hand() -> None:
    setting = Setting("S", 8, SMALL)
    table = tabulate_fit([setting])
    subject, recomputed, _, *clips = table.rows[0]
    assert (subject, recomputed) == ("S, 8 frames, fp32", "none")

    model = setting.build()
    one_clip, two_clips = (
        activation_bytes(model, (0, 0, 0, 0), shape=(count, *setting.shape[1:]), amp=None)
        for count in (1, 2)
    )
    clip_bytes = two_clips - one_clip
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    frames = (3 + 1) * 4 * math.prod(setting.shape)
    for gib, count in zip((16, 24, 40, 80), map(int, clips), strict=True):
        free = gib * GIB - CONTEXT_BYTES - 5 * weights  # The buffers of an EMA are a few KB.
        # Activations may take four fifths of what frames leave.
        expected = 0.8 * free / (clip_bytes + 0.8 * frames)
        assert count == pytest.approx(expected, rel=1e-3)


def test_memory_command_prints_the_stages(tmp_path: Path) -> None:
    out = tmp_path / "tables.md"
    printed = run_command("benchmarks/memory.py", "--only", "stages", "--out", str(out))
    assert out.read_text().strip() in printed
    lines = cells_of(out.read_text())
    assert [cells[0] for cells in lines][-1] == "all"
    for column in (1, 2, 3):
        *parts, total = (float(cells[column].split()[0]) for cells in lines)
        assert sum(parts) == pytest.approx(total, abs=0.3)


def test_a_chart_leaves_out_what_did_not_run(tmp_path: Path) -> None:
    times = Times([1.0, 2.0], [1.0, 2.0])
    lines = [Line("row", PLAIN, times, ratio=1.0), Line("row", OURS, times, ratio=0.5)]
    draw_chart(lines, tmp_path / "two.png", heading="A machine.")
    draw_chart(
        [*lines, Line("row", "s3d", reason="too short")],
        tmp_path / "three.png",
        heading="A machine.",
    )
    assert (tmp_path / "two.png").read_bytes() == (tmp_path / "three.png").read_bytes()
