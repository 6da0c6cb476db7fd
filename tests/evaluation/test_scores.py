"""The score table: sums over views, and views that are missing, doubled or unreadable."""

import pytest
import torch
from torch import Tensor

from slowfast.datasets.records import UnreadableVideo
from slowfast.evaluation.scores import PendingScores, ScoreTable


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


def test_scores_of_an_unreadable_video_are_an_error() -> None:
    table = ScoreTable(1, num_views=1, num_classes=2)
    table.add(torch.ones(1, 2), video=torch.tensor([0]), view=torch.tensor([0]))
    table.add_unreadable([UnreadableVideo(0, "gone")])
    with pytest.raises(RuntimeError, match="view 0 of video 0 was scored 1 times instead of 0"):
        table.combine()


class GpuScores(Tensor):
    """Scores that claim to lie on a GPU."""

    is_cuda = True


def test_waiting_for_scores_keeps_no_core_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    class Event:
        def __init__(self, **options: bool) -> None:
            calls.append(options)

        def record(self) -> None:
            calls.append("record")

        def synchronize(self) -> None:
            calls.append("synchronize")

    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "empty", lambda size, pin_memory: empty(size))
    rows = torch.arange(4)
    scores = torch.randn(4, 3)
    table = ScoreTable(4, num_views=1, num_classes=3)
    pending = PendingScores(scores.as_subclass(GpuScores), video=rows, view=torch.zeros_like(rows))
    assert calls == [{"blocking": True}, "record"]
    pending.add_to(table)
    assert calls[2:] == ["synchronize"]
    assert torch.equal(table.scores, scores)
