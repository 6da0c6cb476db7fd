"""docs/tracking.md: the tags on the page are those that a run writes, and its keys exist."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slowfast.config import default_cfg
from slowfast.config.tree import leaf_keys, value_at
from slowfast.visualization import trackers
from slowfast.visualization.trackers import TrackedRun
from tests.docs.pages import ROOT, code_blocks
from tests.engine.tracked_records import tensorboard_points

PAGE = (ROOT / "docs/tracking.md").read_text()
TAGS = PAGE.partition("| tag | meaning |")[2].partition("\n\n")[0]
CELLS = [row.split("|")[1] for row in TAGS.splitlines()[2:]]
DOCUMENTED = re.findall("`([^`]+)`", " ".join(CELLS))
ELSEWHERE = {"train/loss_scale", "train/memory_gb", "train/reserved_gb"}  # on GPUs


def pattern_of(tag: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"[A-Z]{5,}", ".+", tag))


def test_written_tags_are_the_documented_ones(
    serve: Callable[..., list[int]],
    arguments: Callable[..., list[str]],
    motion_folder: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "some.txt").write_text("left\nright\n")
    (tmp_path / "categories.json").write_text('{"turns": ["clockwise", "anticlockwise"]}')
    settings: dict[str, Any] = {
        "TRAIN__BATCH_SIZE": 8,
        "SOLVER__MAX_EPOCH": 1,
        "TEST__ENABLE": True,
        "TENSORBOARD__ENABLE": True,
        "TENSORBOARD__CATEGORIES_PATH": tmp_path / "categories.json",
        "TENSORBOARD__CONFUSION_MATRIX__SUBSET_PATH": tmp_path / "some.txt",
        "TENSORBOARD__HISTOGRAM__ENABLE": True,
        "TENSORBOARD__HISTOGRAM__SUBSET_PATH": tmp_path / "some.txt",
        "TENSORBOARD__MODEL_GRAPH": True,
    }
    settings |= {
        f"TENSORBOARD__MODEL_VIS__{name}": True
        for name in ("ENABLE", "MODEL_WEIGHTS", "ACTIVATIONS", "INPUT_VIDEO")
    }
    output = tmp_path / "output.txt"
    assert serve(arguments("run", 1, **settings), num_processes=1, output=output) == [0]
    assert "cannot show" not in output.read_text()
    written = set(tensorboard_points(tmp_path / "run/tensorboard"))

    patterns = {tag: pattern_of(tag) for tag in DOCUMENTED}
    unknown = [tag for tag in written if not any(p.fullmatch(tag) for p in patterns.values())]
    assert unknown == []
    unused = {tag for tag, p in patterns.items() if not any(map(p.fullmatch, written))}
    assert unused == ELSEWHERE

    # Beyond the patterns: each thing that was asked for.
    assert written >= {
        "val/confusion_matrix/subset",
        "val/confusion_matrix/turns",
        "val/predictions/left",
        "val/class_accuracy/growing",
        "weights/head.weight",
        "activations/head",
    }
    assert "val/predictions/up" not in written


def test_keys_and_defaults_on_the_page_exist() -> None:
    cfg = default_cfg()
    named = re.findall(r"`((?:TRACKERS|TENSORBOARD)\.[A-Z_.]+)", PAGE)
    assert {*named} <= {*leaf_keys(cfg)}
    rows = PAGE.partition("| key | what it adds | default |")[2].partition("\n\n")[0]
    for row in rows.splitlines()[2:]:
        cells = row.strip("|").split(" | ")
        assert str(value_at(cfg, cells[0].strip(" `"))) == cells[-1].strip(" |")


def test_the_tracker_on_the_page_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(trackers, "TRACKERS", trackers.TRACKERS.copy())
    exec(code_blocks(PAGE, "python")[0], {})
    run = TrackedRun(
        run_id="id",
        record_id="",
        num_steps=0,
        project="p",
        name="mine",
        group="",
        tags=[],
        folder=tmp_path,
        config={"SOLVER.BASE_LR": 0.001},
        hyper_parameters={},
        source={},
    )
    tracker = trackers.TRACKERS["printer"].start(run)
    tracker.log_scalars({"train/loss": 1.5}, step=4)
    tracker.log_results({"test/top1": 50.0}, step=4)
    tracker.close(is_finished=True)
    lines = ["tracking mine 0.001", "4 {'train/loss': 1.5}", "4 {'test/top1': 50.0}"]
    assert capsys.readouterr().out.splitlines() == lines
    assert tracker.record_id == "id"
