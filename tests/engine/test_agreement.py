"""The all-reduce of the flags of a step."""

import pytest
import torch

from slowfast.engine.agreement import FlagAllReduce


def test_waiting_for_the_flags_keeps_no_core_busy(
    monkeypatch: pytest.MonkeyPatch, on_gpu: None
) -> None:
    events: list[dict[str, bool]] = []
    monkeypatch.setattr(torch.cuda, "Event", lambda **options: events.append(options))
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, pin_memory: zeros(*size))
    FlagAllReduce()
    assert events == [{"blocking": True}]
