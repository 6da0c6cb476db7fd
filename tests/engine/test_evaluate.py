"""A test: the weights it takes, the scores it writes, and their independence of the processes."""

import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from slowfast.config import CfgNode
from slowfast.datasets.normalization import Normalize
from slowfast.datasets.records import Batch
from slowfast.datasets.view_groups import ViewGroups
from slowfast.engine.choose_weights import find_test_weights
from slowfast.engine.evaluate import evaluate
from slowfast.evaluation.result import open_result
from slowfast.evaluation.view_scores import ViewScores
from slowfast.inference.evaluator import Evaluator
from slowfast.models.build import build_model
from slowfast.utils.checkpoint import save_checkpoint
from slowfast.utils.checkpoint_files import checkpoint_path
from slowfast.utils.progress import Progress
from tests.engine.outputs import evaluate_labeled, read_logits

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


def test_scores_predictions_and_metrics_are_written(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg()
    save_random_weights(cfg)
    metrics = evaluate_labeled(cfg)

    result = open_result(Path(cfg.OUTPUT_DIR))
    logits = read_logits(Path(cfg.OUTPUT_DIR))
    table = result.predictions()
    labels = table["label"].to_numpy()
    predictions = logits.astype(float).sum(axis=1).argmax(axis=1)
    assert logits.shape == (24, 2, 8)
    assert table["prediction"].to_numpy().tolist() == predictions.tolist()
    assert 100 * (predictions == labels).mean() == pytest.approx(metrics.top1)
    assert result.metrics["top1"] == metrics.top1
    assert result.metrics["weights"].endswith("checkpoint_epoch_00001.pyth")


def test_views_add_up_as_logits_or_as_probabilities(tiny_cfg: TinyCfg) -> None:
    path = save_random_weights(tiny_cfg())
    run = Path(tiny_cfg().OUTPUT_DIR)
    settings = {"TEST__CHECKPOINT_FILE_PATH": path, "TEST__NUM_SPATIAL_CROPS": 3}
    evaluate(tiny_cfg(**settings, DATA__ENSEMBLE_METHOD="probabilities"))
    shards = sorted(run.glob("test/scores/*"))
    logits = torch.from_numpy(read_logits(run)).double()
    top = open_result(run).predictions("top_probabilities")["top_probabilities"].to_pylist()
    expected = logits.softmax(dim=2).mean(dim=1).topk(5).values
    np.testing.assert_allclose(np.array(top), expected.numpy(), rtol=1e-5)

    # The scores do not depend on how they are combined, so none is computed again.
    evaluate(tiny_cfg(**settings))
    assert sum(1 for shard in shards if shard.stat().st_size > 0) == len(shards) == 1
    top = open_result(run).predictions("top_probabilities")["top_probabilities"].to_pylist()
    expected = logits.mean(dim=1).softmax(dim=1).topk(5).values
    np.testing.assert_allclose(np.array(top), expected.numpy(), rtol=1e-5)


def test_larger_forward_passes_give_almost_the_same_scores(tiny_cfg: TinyCfg) -> None:
    path = save_random_weights(tiny_cfg())
    run = Path(tiny_cfg().OUTPUT_DIR)
    tables = []
    for size in (1, 5, 16):
        evaluate(tiny_cfg(TEST__CHECKPOINT_FILE_PATH=path, TEST__VIEWS_PER_FORWARD=size))
        tables.append(read_logits(run))
    np.testing.assert_allclose(tables[0], tables[2], atol=1e-5)
    np.testing.assert_allclose(tables[1], tables[2], atol=1e-5)


@pytest.mark.parametrize(
    "cases",
    [
        ((1, 7), (2, 64), (3, 1)),
        pytest.param(tuple(product((1, 2, 3), (1, 7, 64))), marks=pytest.mark.soak),
    ],
)
def test_processes_and_loader_batches_do_not_change_a_bit(
    tiny_cfg: TinyCfg,
    serve: Callable[..., list[int]],
    tmp_path: Path,
    cases: tuple[tuple[int, int], ...],
) -> None:
    weights = save_random_weights(tiny_cfg())
    settings = {
        "TRAIN__ENABLE": False,
        "TEST__CHECKPOINT_FILE_PATH": weights,
        "TEST__VIEWS_PER_FORWARD": 5,
        "TRAIN__BATCH_SIZE": 6,
    }
    tables, predictions = {}, {}
    for num_processes, batch_size in cases:
        output = tmp_path / f"{num_processes} {batch_size}"
        cfg = tiny_cfg(
            **settings,
            OUTPUT_DIR=str(output),
            NUM_GPUS=num_processes,
            DIST_BACKEND="gloo",
            TEST__BATCH_SIZE=batch_size,
        )
        path = tmp_path / "given.yaml"
        path.write_text(cfg.dump())
        statuses = serve(["--cfg", str(path)], num_processes=num_processes)
        assert statuses == [0] * num_processes
        tables[output.name] = read_logits(output)
        predictions[output.name] = open_result(output).predictions()

    first, *others = tables
    for other in others:
        assert np.array_equal(tables[other], tables[first]), other
        assert predictions[other].equals(predictions[first]), other


def test_scores_are_taken_while_the_next_are_computed() -> None:
    taken: list[ViewScores] = []
    num_taken: list[int] = []

    class Model(nn.Module):
        def forward(self, frames: Tensor) -> Tensor:
            num_taken.append(len(taken))
            return frames.mean(dim=(2, 3, 4))

    frames = torch.randn(4, 3, 1, 2, 2)
    rows = torch.arange(4)
    batch = Batch(frames, rows, rows, torch.zeros_like(rows), unreadable=())
    evaluator = Evaluator(
        normalize=Normalize(mean=[0.0] * 3, std=[1.0] * 3, erase_mode="const"), amp=None
    )
    progress = Progress([batch], "test", num_steps=1, period=1)
    groups = ViewGroups(4, 1, 1)
    assert evaluator.score_batches(Model(), progress, groups, take=taken.append)
    assert num_taken == [0, 0, 1, 2]
    logits = np.concatenate([scores.logits[:, 0] for scores in taken])
    np.testing.assert_array_equal(logits, frames.mean(dim=(2, 3, 4)).numpy())


# ---- Continuing ----------------------------------------------------------------------------------


def test_a_finished_test_is_reported_and_not_repeated(
    tiny_cfg: TinyCfg, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = tiny_cfg()
    save_random_weights(cfg)
    first = evaluate(cfg)
    folder = Path(cfg.OUTPUT_DIR, "test")
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    assert evaluate(cfg) == first
    assert "this test is finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == files


@pytest.mark.parametrize("name", ["metrics.json", "predictions.parquet", "report.html"])
@pytest.mark.parametrize("damage", ["cut", "lost"])
def test_a_damaged_file_of_a_finished_test_is_written_anew(
    tiny_cfg: TinyCfg, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = tiny_cfg(TEST__REPORT=True)
    save_random_weights(cfg)
    first = evaluate(cfg)
    folder = Path(cfg.OUTPUT_DIR, "test")
    predictions, shards = open_result(folder).predictions(), sorted(folder.glob("scores/*"))
    if damage == "lost":
        (folder / name).unlink()
    elif name != "report.html":  # Its content is not read.
        (folder / name).write_bytes((folder / name).read_bytes()[:-50])

    capsys.readouterr()
    assert evaluate(cfg) == first
    is_silent = name == "report.html" or (name, damage) == ("metrics.json", "lost")
    assert ("written anew" in capsys.readouterr().out) == (not is_silent)
    assert open_result(folder).predictions().equals(predictions)
    assert sorted(folder.glob("scores/*")) == shards
    assert (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"TEST__NUM_SPATIAL_CROPS": 3}, "num_crops"),
        ({"DATA__TEST_CROP_SIZE": 40}, "DATA.TEST_CROP_SIZE"),
        ({"DATA__SAMPLING_RATE": 2}, "DATA.SAMPLING_RATE"),
        ({"TEST__VIEWS_PER_FORWARD": 3}, "TEST.VIEWS_PER_FORWARD"),
        ({"DATA__REVERSE_INPUT_CHANNEL": True}, "DATA.REVERSE_INPUT_CHANNEL"),
        ({"MODEL__ALLOWED_MISMATCH": "['head.*']"}, "MODEL.ALLOWED_MISMATCH"),
        ({"TEST__EMA": False}, "TEST.EMA"),
        ({"TRAIN__AMP": "bf16"}, "dtype"),
    ],
)
def test_another_test_sets_the_old_result_aside(
    tiny_cfg: TinyCfg,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, object],
    reason: str,
) -> None:
    weights = save_random_weights(tiny_cfg())
    evaluate(tiny_cfg(TEST__CHECKPOINT_FILE_PATH=weights))
    output = Path(tiny_cfg().OUTPUT_DIR)
    old = (output / "test/metrics.json").read_bytes()

    evaluate(tiny_cfg(TEST__CHECKPOINT_FILE_PATH=weights, **settings))
    assert f"holds another test (other {reason}" in capsys.readouterr().out
    assert (output / "previous_tests/001/metrics.json").read_bytes() == old
    assert (output / "test/metrics.json").read_bytes() != old
