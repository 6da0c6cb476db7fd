"""docs/finetune.md: its commands run, in order, on small data with a small model."""

import json
import re
import runpy
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from slowfast.models.freezing import find_pattern_problems, freeze, is_frozen
from slowfast.models.uniformer import UniFormer
from slowfast.models.zoo import published
from tests.docs.pages import (
    ROOT,
    code_blocks,
    command_lines,
    load_checked_cfg,
    override_words,
    write_here_files,
)

PAGE = (ROOT / "docs/finetune.md").read_text()
SMALL = {
    "NUM_GPUS": 0,
    "TRAIN.BATCH_SIZE": 4,
    "DATA.NUM_FRAMES": 2,
    "DATA.TRAIN_CROP_SIZE": 32,
    "DATA.TEST_CROP_SIZE": 32,
    "DATA_LOADER.NUM_WORKERS": 0,
    "TENSORBOARD.ENABLE": False,
    "SOLVER.MAX_EPOCH": 1,
    "SOLVER.WARMUP_EPOCHS": 0,
    "UNIFORMER.EMBED_DIM": "[8,8,16,16]",
    "UNIFORMER.DEPTH": "[1,1,1,1]",
    "UNIFORMER.HEAD_DIM": 8,
}


@pytest.fixture
def work_folder(
    repository: Path, motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Current folder with the tools, two classes of videos, and files of published weights."""
    for name in ("tools", "configs"):
        (tmp_path / name).symlink_to(repository / name)
    copy_two_classes(motion_folder, tmp_path / "data/mine")

    weights = tmp_path / "weights"
    weights.mkdir()
    model = UniFormer(num_classes=400, dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), head_dim=8)
    torch.save(model.state_dict(), weights / published()["uniformer_small_k400_16x4"].file)
    (weights / published()["r3d_18"].file).write_bytes(b"not the published file")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEIGHTS_DIR", "elsewhere")  # The page sets it.
    return tmp_path


def copy_two_classes(motion_folder: Path, target: Path) -> None:
    """Copy the training videos of two classes to one folder per class, three times each."""
    for line in (motion_folder / "train.csv").read_text().splitlines():
        path, label = line.split(",")
        if label not in "01":
            continue
        folder = target / "ab"[int(label)]
        folder.mkdir(parents=True, exist_ok=True)
        for copy in range(3):
            shutil.copy(motion_folder / path, folder / f"{copy} {Path(path).name}")


def check_baseline(config: str) -> None:
    """Check that the config of the baseline is right but for the file of weights."""
    with pytest.raises(ValueError, match="is not the published r3d_18") as error:
        load_checked_cfg(config)
    assert len(str(error.value).splitlines()) == 2  # the file is the only problem


def run_command(command: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Run a command of the page, and return the exit status if it is a tool."""
    words = shlex.split(command)
    if words[0] == "export":
        monkeypatch.setenv(*words[1].split("="))
        return []
    if "baseline.yaml" in words:
        check_baseline(words[3])
        return []

    assert words[0] == "python"
    overrides = override_words(SMALL) if "tools/run_net.py" in words else []
    return [runpy.run_path(words[1])["main"]([*words[2:], *overrides])]


def small_model() -> UniFormer:
    return UniFormer(num_classes=2, dims=(8, 8, 16, 16), depths=(1, 1, 5, 1), head_dim=8)


def frozen_modules(patterns: list[str]) -> set[str]:
    model = small_model()
    assert find_pattern_problems(model, patterns) == []
    freeze(model, patterns)
    return {name for name, module in model.named_modules() if is_frozen(module)}


def test_the_patterns_of_the_page_freeze_what_it_says() -> None:
    rows = re.findall(r"^\| `(\[.*\])` \| (.*) \|$", PAGE, re.MULTILINE)
    patterns = {words: yaml.safe_load(text) for text, words in rows}
    frozen = {words: frozen_modules(found) for words, found in patterns.items()}
    model = small_model()
    every = {name for name, _ in model.named_modules()}
    stages = {
        stage: {name for name in every if re.match(rf"(patch_embed|blocks){stage}\b", name)}
        for stage in range(1, 5)
    }

    assert frozen["stage 1"] == stages[1]
    assert frozen["stages 1 and 2"] == stages[1] | stages[2]
    probe = frozen["all but the head: a linear probe"]
    assert probe == every - {"", "head", "head_drop", "pool", "pos_drop"}
    first_four = {name for name in every if re.match(r"blocks3\.[0-3]\b", name)}
    assert frozen["the first four blocks of stage 3"] == first_four
    assert frozen["every BatchNorm, whose statistics suit larger batches than yours"] == {
        name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm3d)
    }
    assert frozen["the biases"] == set()
    assert len(rows) == len(frozen) == 6


def test_the_python_of_the_page_runs() -> None:
    [block] = code_blocks(PAGE, "python")
    model = small_model()
    exec(block, {"model": model})
    assert is_frozen(model.blocks1)
    assert not is_frozen(model.blocks2)
    assert is_frozen(model.patch_embed4)


@pytest.mark.zoo
def test_the_page_trains_and_tests_from_published_weights(
    work_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    statuses = []
    for block in code_blocks(PAGE, "bash"):
        write_here_files(block)
        for command in command_lines(block):
            statuses += run_command(command, monkeypatch)

    assert statuses == [0, 0, 0, 0, 0, 0]

    printed = capsys.readouterr().out
    assert re.search(
        r"was trained on other classes: .*, so the head keeps its random weights", printed
    )
    assert re.search(
        r"2 dropped, [\d.]+% \(head\.weight, head\.bias\), 0 missing, 0 unexpected", printed
    )
    assert printed.count("test, 5 clips x 3 crops") == 3
    assert printed.count("test, 1 clip x 1 crop") == 1

    result = json.loads((work_folder / "output/mine/test/metrics.json").read_text())
    assert result["weights"] == "output/mine/best.pyth"
    assert result["num_scored"] == 4
