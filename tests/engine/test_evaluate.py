"""A test: the weights it takes, the scores it writes, and their independence of the processes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from slowfast.config import CfgNode
from slowfast.datasets.normalization import Normalize
from slowfast.datasets.records import Batch
from slowfast.engine.choose_weights import find_test_weights
from slowfast.engine.evaluate import Evaluator, evaluate
from slowfast.evaluation.scores import ScoreTable
from slowfast.models.build import build_model
from slowfast.utils.checkpoint import save_checkpoint
from slowfast.utils.checkpoint_files import checkpoint_path
from slowfast.utils.progress import Progress
from tests.engine.outputs import read_scores

TinyCfg = Callable[..., CfgNode]


def test_testing_without_weights_is_an_error(tiny_cfg: TinyCfg) -> None:
    message = r"there are no weights to test: TEST\.CHECKPOINT_FILE_PATH is empty"
    with pytest.raises(FileNotFoundError, match=message):
        evaluate(tiny_cfg())


def save_random_weights(cfg: CfgNode) -> Path:
    torch.manual_seed(3)
    path = checkpoint_path(cfg.OUTPUT_DIR, epoch=1)
    save_checkpoint(path, {"model_state": build_model(cfg).state_dict()})
    return path


def test_named_weights_come_before_the_newest_checkpoint(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    path = save_random_weights(tiny_cfg())
    output_dir = tiny_cfg().OUTPUT_DIR

    def find(checkpoint_path: str) -> str:
        return find_test_weights(checkpoint_path, folder="", output_dir=output_dir, best=False)

    assert find("") == str(path)
    other = str(shutil.copy(path, tmp_path / "y.pth"))
    assert find(other) == other


def test_scores_and_accuracies_are_written(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg()
    save_random_weights(cfg)
    result = evaluate(cfg)
    with np.load(Path(cfg.OUTPUT_DIR, "test/scores.npz")) as arrays:
        scores, labels = arrays["scores"], arrays["labels"]
    assert scores.shape == (24, 8)
    assert 100 * (scores.argmax(axis=1) == labels).mean() == pytest.approx(result.top1)
    written = json.loads(Path(cfg.OUTPUT_DIR, "test/result.json").read_text())
    assert written["top1"] == result.top1
    assert written["weights"].endswith("checkpoint_epoch_00001.pyth")


def test_views_add_up_as_logits_or_as_probabilities(tiny_cfg: TinyCfg) -> None:
    path = save_random_weights(tiny_cfg())
    run = Path(tiny_cfg().OUTPUT_DIR)
    settings = {"TEST__CHECKPOINT_FILE_PATH": path, "TEST__NUM_SPATIAL_CROPS": 3}
    evaluate(tiny_cfg(**settings, DATA__ENSEMBLE_METHOD="probabilities"))
    sums = read_scores(run).sum(axis=1)
    assert sums == pytest.approx(np.full(24, 6), abs=1e-4)  # 2 clips x 3 crops of sum 1

    evaluate(tiny_cfg(**settings, TEST__BATCH_SIZE=4))
    in_batches = read_scores(run)
    evaluate(tiny_cfg(**settings))
    at_once = read_scores(run)
    np.testing.assert_allclose(in_batches, at_once, rtol=1e-4, atol=1e-5)


def test_scores_on_1_2_and_3_processes_are_bit_equal(
    tiny_cfg: TinyCfg, serve: Callable[..., list[int]]
) -> None:
    tables = []
    for num_processes in (1, 2, 3):
        cfg = tiny_cfg(
            TRAIN__ENABLE=False,
            NUM_GPUS=num_processes,
            DIST_BACKEND="gloo",
            TEST__BATCH_SIZE=4 * num_processes,
            TRAIN__BATCH_SIZE=6,
        )
        save_random_weights(cfg)
        path = Path(cfg.OUTPUT_DIR, "given.yaml")
        path.write_text(cfg.dump())
        statuses = serve(["--cfg", str(path)], num_processes=num_processes)
        assert statuses == [0] * num_processes
        tables.append(read_scores(Path(cfg.OUTPUT_DIR)))

    assert np.array_equal(tables[0], tables[1])
    assert np.array_equal(tables[0], tables[2])


def test_scores_are_added_while_the_next_are_computed() -> None:
    table = ScoreTable(4, num_views=1, num_classes=3)
    num_added: list[int] = []

    class Model(nn.Module):
        def forward(self, frames: Tensor) -> Tensor:
            num_added.append(int(table.times_scored.sum()))
            return frames.mean(dim=(2, 3, 4))

    frames = torch.randn(4, 3, 1, 2, 2)
    rows = torch.arange(4)
    batch = Batch(frames, rows, rows, torch.zeros_like(rows), unreadable=())
    evaluator = Evaluator(
        normalize=Normalize(mean=[0.0] * 3, std=[1.0] * 3, erase_mode="const"),
        num_classes=3,
        are_probabilities=False,
        views_per_forward=1,
        amp=None,
    )
    progress = Progress([batch], "test", num_steps=1, period=1)
    is_complete = evaluator.score_batches(Model(), progress, table)
    assert is_complete
    assert num_added == [0, 0, 1, 2]
    assert torch.equal(table.scores, frames.mean(dim=(2, 3, 4)))
