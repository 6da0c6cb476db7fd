"""docs/finetune.md keeps its word: its commands are run, in order, on small data with a small model."""

import json
import re
import runpy
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from slowfast.config import find_problems, load_cfg
from slowfast.datasets import build as datasets
from slowfast.models import build as models
from slowfast.models.uniformer import UniFormer
from slowfast.models.zoo import published

PAGE = (Path(__file__).parents[2] / "docs/finetune.md").read_text()
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


@pytest.mark.zoo
def test_published_weights_are_fine_tuned_on_own_videos_and_tested(
    repository: Path,
    motion_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("tools", "configs"):
        (tmp_path / name).symlink_to(repository / name)
    for line in (motion_folder / "train.csv").read_text().splitlines():
        path, label = line.split(",")
        if label in "01":
            target = tmp_path / "data/mine" / "ab"[int(label)]
            target.mkdir(parents=True, exist_ok=True)
            for copy in range(3):
                shutil.copy(motion_folder / path, target / f"{copy} {Path(path).name}")
    (tmp_path / "weights").mkdir()
    model = UniFormer(num_classes=400, dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), head_dim=8)
    torch.save(
        model.state_dict(), tmp_path / "weights" / published()["uniformer_small_k400_16x4"].file
    )
    (tmp_path / "weights" / published()["r3d_18"].file).write_bytes(b"not the published file")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEIGHTS_DIR", "elsewhere")
    small = [str(part) for pair in SMALL.items() for part in pair]

    statuses = []
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        for name, content in re.findall(
            r"^cat > (\S+) <<'EOF'\n(.*?)^EOF\n", block, re.MULTILINE | re.DOTALL
        ):
            Path(name).write_text(content)
        for command in block.replace("\\\n", " ").splitlines():
            words = shlex.split(command) if command.startswith(("export", "python")) else [""]
            if words[0] == "export":
                monkeypatch.setenv(*words[1].split("="))
            elif "baseline.yaml" in words:
                with pytest.raises(ValueError, match="is not the published r3d_18") as error:
                    load_cfg(
                        words[3],
                        checks=[find_problems, models.find_problems, datasets.find_problems],
                    )
                assert (
                    len(str(error.value).splitlines()) == 2
                )  # the file, and nothing else that is wrong
            elif words[0] == "python":
                more = small if "tools/run_net.py" in words else []
                statuses.append(runpy.run_path(words[1])["main"]([*words[2:], *more]))
    assert statuses == [0, 0, 0, 0, 0]

    printed = capsys.readouterr().out
    assert re.search(
        r"was trained on other classes: .*; the head keeps its random weights", printed
    )
    assert re.search(
        r"2 dropped, [\d.]+% \(head\.weight, head\.bias\), 0 missing, 0 unexpected", printed
    )
    assert printed.count("test, 5 clips x 3 crops") == 2
    assert printed.count("test, 1 clip x 1 crop") == 1
    result = json.loads((tmp_path / "output/mine/test/result.json").read_text())
    assert result["weights"] == "output/mine/best.pyth"
    assert result["num_scored"] == 4
