import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from slowfast.config import CfgNode
from slowfast.datasets.records import UnreadableVideo
from slowfast.engine.evaluate import ScoreTable, evaluate, format_table, summarize
from slowfast.models.build import build_model
from slowfast.models.zoo import weights_to_test
from slowfast.utils.checkpoint import checkpoint_path, save_checkpoint

TinyCfg = Callable[..., CfgNode]


def test_scores_of_views_are_summed_by_video() -> None:
    table = ScoreTable(2, num_views=2, num_classes=3)
    table.add(
        torch.tensor([[1.0, 0, 0], [0, 5, 0], [0, 0, 2]]),
        video=torch.tensor([0, 1, 0]),
        view=torch.tensor([1, 0, 0]),
    )
    table.add(torch.tensor([[0.0, 1, 1]]), video=torch.tensor([1]), view=torch.tensor([1]))
    table.combine()
    assert table.scores.tolist() == [[1, 0, 2], [0, 6, 1]]


@pytest.mark.parametrize(
    ("views", "message"), [([0], "view 1 of video 0 was scored 0 times"), ([0, 1, 1], "2 times")]
)
def test_a_missing_or_double_view_is_an_error(views: list[int], message: str) -> None:
    table = ScoreTable(1, num_views=2, num_classes=3)
    table.add(
        torch.ones(len(views), 3),
        video=torch.zeros(len(views), dtype=torch.long),
        view=torch.tensor(views),
    )
    with pytest.raises(RuntimeError, match=message):
        table.combine()


def table_of(scores: list[list[float]], unreadable: dict[int, str] | None = None) -> ScoreTable:
    """A combined table of one view per video."""
    table = ScoreTable(len(scores), num_views=1, num_classes=len(scores[0]))
    read = torch.tensor(
        [row for row in range(len(scores)) if row not in (unreadable or {})], dtype=torch.long
    )
    table.add(torch.tensor(scores)[read], video=read, view=torch.zeros_like(read))
    table.leave_out([UnreadableVideo(row, reason) for row, reason in (unreadable or {}).items()])
    table.combine()
    return table


def test_accuracies_by_hand() -> None:
    table = table_of([[3.0, 2, 1], [3, 2, 1], [1, 2, 3], [2, 3, 1]])
    result = summarize(table, torch.tensor([0, 1, 2, 1]))
    assert (result.num_videos, result.num_scored, result.top1, result.top5) == (4, 4, 75.0, 100.0)
    assert result.class_top1 == [100.0, 50.0, 100.0]
    assert result.class_counts == [1, 2, 1]


def test_unscored_videos_count_as_wrong_or_not_at_all() -> None:
    table = table_of(
        [[3.0, 2, 1], [3, 2, 1], [0, 0, 0], [0, 0, 0]],
        unreadable={3: "/b.mp4: gone", 2: "/a.mp4: empty"},
    )
    result = summarize(table, torch.tensor([0, 1, 0, 2]))
    assert (result.num_videos, result.num_scored) == (4, 2)
    assert (result.top1, result.top1_listed) == (50.0, 25.0)
    assert (result.top5, result.top5_listed) == (100.0, 50.0)
    assert result.class_counts == [1, 1, 0]
    assert [unreadable.video for unreadable in table.unreadable] == [2, 3]


def test_the_loss_is_that_of_the_mean_view_by_hand() -> None:
    # Scores 3, 2, 1: log(e^3 + e^2 + e^1) = 3.4076, minus 3 for the first label and 2 for the second.
    table = table_of([[3.0, 2, 1], [3, 2, 1]])
    labels = torch.tensor([0, 1])
    assert summarize(table, labels).loss == pytest.approx((0.4076 + 1.4076) / 2, abs=1e-4)
    # As sums over 2 views, the same scores are 1.5, 1, 0.5: log(e^1.5 + e^1 + e^0.5) = 2.1803.
    table.num_views = 2
    assert summarize(table, labels).loss == pytest.approx((0.6803 + 1.1803) / 2, abs=1e-4)
    table.scores, table.are_probabilities = torch.tensor([[1.0, 0.6, 0.4], [1, 0.6, 0.4]]), True
    assert summarize(table, labels).loss == pytest.approx(-(np.log(0.5) + np.log(0.3)) / 2)
    # Each class by itself: softplus(-1) = 0.3133 where the label is right, softplus(0) = 0.6931 elsewhere.
    table = table_of([[1.0, 0, 0]])
    expected = (0.3133 + 2 * 0.6931) / 3
    assert summarize(table, labels[:1], loss_name="bce_logit").loss == pytest.approx(
        expected, abs=1e-4
    )


def test_a_test_without_any_readable_video_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no video of 1 has scores; the first: /a\.mp4: gone"):
        summarize(table_of([[0.0, 0]], unreadable={0: "/a.mp4: gone"}), torch.tensor([0]))


def test_scores_of_an_unread_video_are_an_error() -> None:
    table = ScoreTable(1, num_views=1, num_classes=2)
    table.add(torch.ones(1, 2), video=torch.tensor([0]), view=torch.tensor([0]))
    table.leave_out([UnreadableVideo(0, "gone")])
    with pytest.raises(RuntimeError, match="view 0 of video 0 was scored 1 times instead of 0"):
        table.combine()


def test_the_table_names_every_class_that_has_videos() -> None:
    result = summarize(table_of([[3.0, 2, 1], [3, 2, 1]]), torch.tensor([0, 1]))
    text = format_table(result, ["left", "right", "up"], title="test, 1 view")
    assert text.splitlines() == [
        "test, 1 view",
        "  class        videos   top-1",
        "  left              1  100.00",
        "  right             1    0.00",
        "  all classes       2   50.00    top-5 100.00",
        "  scored 2/2",
    ]
    result = summarize(
        table_of([[3.0, 2, 1], [3, 2, 1]], unreadable={1: "gone"}), torch.tensor([0, 1])
    )
    last = format_table(result, ["left", "right", "up"], title="test, 1 view").splitlines()[-1]
    assert last == "  scored 1/2; the others counted as wrong: top-1 50.00  top-5 50.00"


def test_testing_without_weights_is_an_error(tiny_cfg: TinyCfg) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"there are no weights to test: TEST\.CHECKPOINT_FILE_PATH is empty",
    ):
        evaluate(tiny_cfg())


def save_random_weights(cfg: CfgNode) -> Path:
    torch.manual_seed(3)
    path = checkpoint_path(cfg.OUTPUT_DIR, epoch=1)
    save_checkpoint(path, {"model_state": build_model(cfg).state_dict()})
    return path


def test_named_weights_come_before_the_newest_checkpoint(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    path = save_random_weights(tiny_cfg())
    assert weights_to_test(tiny_cfg()) == str(path)
    other = shutil.copy(path, tmp_path / "y.pth")
    assert weights_to_test(tiny_cfg(TEST__CHECKPOINT_FILE_PATH=other)) == str(other)


def scores_in(cfg: CfgNode) -> tuple[np.ndarray, np.ndarray]:
    with np.load(Path(cfg.OUTPUT_DIR, "test/scores.npz")) as arrays:  # allow_pickle is off
        return arrays["scores"], arrays["labels"]


def test_scores_and_accuracies_are_written(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg()
    save_random_weights(cfg)
    result = evaluate(cfg)
    scores, labels = scores_in(cfg)
    assert scores.shape == (24, 8)
    assert 100 * (scores.argmax(axis=1) == labels).mean() == pytest.approx(result.top1)
    written = json.loads(Path(cfg.OUTPUT_DIR, "test/result.json").read_text())
    assert written["top1"] == result.top1
    assert written["weights"].endswith("checkpoint_epoch_00001.pyth")


def test_views_add_up_as_logits_or_as_probabilities(tiny_cfg: TinyCfg) -> None:
    path = save_random_weights(tiny_cfg())
    settings = {"TEST__CHECKPOINT_FILE_PATH": path, "TEST__NUM_SPATIAL_CROPS": 3}
    evaluate(tiny_cfg(**settings, DATA__ENSEMBLE_METHOD="probabilities"))
    scores, _ = scores_in(tiny_cfg())
    assert scores.sum(axis=1) == pytest.approx(
        np.full(24, 6), abs=1e-4
    )  # 2 clips x 3 crops of sum 1
    evaluate(tiny_cfg(**settings, TEST__BATCH_SIZE=4))
    in_parts, _ = scores_in(tiny_cfg())
    evaluate(tiny_cfg(**settings))
    at_once, _ = scores_in(tiny_cfg())
    np.testing.assert_allclose(in_parts, at_once, rtol=1e-4, atol=1e-5)


def test_the_score_table_is_the_same_to_the_bit_on_1_2_and_3_processes(
    tiny_cfg: TinyCfg, serve: Callable[..., list[int]]
) -> None:
    tables = []
    for processes in (1, 2, 3):
        cfg = tiny_cfg(
            TRAIN__ENABLE=False,
            NUM_GPUS=processes,
            DIST_BACKEND="gloo",
            TEST__BATCH_SIZE=4 * processes,
            TRAIN__BATCH_SIZE=6,
        )
        save_random_weights(cfg)
        given = Path(cfg.OUTPUT_DIR, "given.yaml")
        given.write_text(cfg.dump())
        assert serve(["--cfg", str(given)], num_processes=processes) == [0] * processes
        tables.append(scores_in(cfg)[0])
    assert np.array_equal(tables[0], tables[1])
    assert np.array_equal(tables[0], tables[2])
