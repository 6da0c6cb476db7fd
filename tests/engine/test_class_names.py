"""Class names travel with the weights: another order changes nothing, other classes are refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from slowfast.config import CfgNode
from slowfast.engine.evaluate import evaluate
from slowfast.engine.train import train
from slowfast.utils.checkpoint import load_checkpoint
from slowfast.utils.checkpoint_files import checkpoint_path
from tests.engine.outputs import evaluate_labeled, final_state, read_logits

TinyCfg = Callable[..., CfgNode]
ORDER = [5, 2, 7, 0, 1, 6, 3, 4]  # from the labels of the new lists to those of the old ones


@pytest.fixture
def other_lists(motion_folder: Path, tmp_path: Path) -> Path:
    """The lists of `motion_folder` with the classes in another order."""
    folder = tmp_path / "lists"
    folder.mkdir()
    names = (motion_folder / "classes.txt").read_text().splitlines()
    (folder / "classes.txt").write_text("\n".join(names[label] for label in ORDER))
    for split in ("train", "val", "test"):
        lines = (motion_folder / f"{split}.csv").read_text().splitlines()
        rows = [line.split(",") for line in lines]
        text = "\n".join(f"{path},{ORDER.index(int(label))}" for path, label in rows)
        (folder / f"{split}.csv").write_text(text)
    return folder


def test_another_order_of_the_classes_gives_equal_scores(
    tiny_cfg: TinyCfg, other_lists: Path
) -> None:
    cfg = tiny_cfg(SOLVER__MAX_EPOCH=1, SOLVER__BASE_LR=1e-2)
    train(cfg)
    assert final_state(cfg)["class_names"][:2] == ["left", "right"]

    expected = evaluate_labeled(tiny_cfg())
    expected_scores = read_logits(Path(cfg.OUTPUT_DIR))
    class_names = other_lists / "classes.txt"
    result = evaluate_labeled(
        tiny_cfg(DATA__PATH_TO_DATA_DIR=other_lists, DATA__CLASS_NAMES=class_names)
    )
    scores = read_logits(Path(cfg.OUTPUT_DIR))

    assert (result.top1, result.top5) == (expected.top1, expected.top5)
    assert expected.top1 > 0
    np.testing.assert_allclose(scores, expected_scores[:, :, ORDER], rtol=0, atol=1e-5)
    assert np.abs(scores - expected_scores).max() > 1e-2


def test_a_run_resumes_with_classes_in_another_order(
    tiny_cfg: TinyCfg, other_lists: Path, tmp_path: Path
) -> None:
    # In the second epoch, the gradients of all but the head are the same sums in another order. The
    # optimizer's moments of the head must follow its rows for its weights to move alike.
    steady = {"SOLVER__BASE_LR": 1e-3, "SOLVER__COSINE_END_LR": 1e-3, "TRAIN__EVAL_PERIOD": 9}
    train(tiny_cfg(**steady, OUTPUT_DIR=tmp_path / "one"))
    (tmp_path / "two/checkpoints").mkdir(parents=True)
    first = checkpoint_path(str(tmp_path / "one"), epoch=1)
    first.rename(checkpoint_path(str(tmp_path / "two"), epoch=1))
    lists = {
        "DATA__PATH_TO_DATA_DIR": other_lists,
        "DATA__CLASS_NAMES": other_lists / "classes.txt",
    }
    train(tiny_cfg(**steady, **lists, OUTPUT_DIR=tmp_path / "two", TRAIN__RESUME_WITH_CHANGES=True))

    paths = [checkpoint_path(str(tmp_path / folder), epoch=2) for folder in ("one", "two")]
    one, two = (load_checkpoint(path) for path in paths)
    assert two["class_names"] == [one["class_names"][label] for label in ORDER]
    for name, tensor in one["model_state"].items():
        expected = tensor[ORDER] if name.startswith("head.") else tensor
        torch.testing.assert_close(two["model_state"][name], expected, rtol=0, atol=2e-5, msg=name)


def test_other_classes_are_an_error_in_a_test_and_when_resuming(
    tiny_cfg: TinyCfg, trained_cfg: TinyCfg, tmp_path: Path
) -> None:
    cfg = trained_cfg(SOLVER__MAX_EPOCH=1)
    names = ("left", "right", "up", "down", "in", "out", "zoom", "fade")
    (tmp_path / "names.txt").write_text("\n".join(names))
    others = {"DATA__CLASS_NAMES": tmp_path / "names.txt"}

    message = (
        r"was trained on other classes: 4 of its 8 .* "
        r"\('clockwise', 'anticlockwise', 'growing'(, \.\.\.| and 1 more)\)"
    )
    with pytest.raises(ValueError, match=message):
        evaluate(tiny_cfg(**others))
    with pytest.raises(ValueError, match=message):
        train(tiny_cfg(**others, SOLVER__MAX_EPOCH=1))

    weights = checkpoint_path(cfg.OUTPUT_DIR, epoch=1)
    tuned = tiny_cfg(
        **others,
        TRAIN__CHECKPOINT_FILE_PATH=weights,
        OUTPUT_DIR=tmp_path / "tuned",
        SOLVER__MAX_EPOCH=1,
    )
    train(tuned)
    assert "the head keeps its random weights" in Path(tuned.OUTPUT_DIR, "stdout.log").read_text()


def test_numbers_are_no_class_names(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg(SOLVER__MAX_EPOCH=1, DATA__CLASS_NAMES="")
    train(cfg)
    assert final_state(cfg)["class_names"] == []
    evaluate(tiny_cfg())
