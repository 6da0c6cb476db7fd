"""Prefetching: which stream copies a batch, and when the next batch is asked for."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from slowfast.config import CfgNode
from slowfast.datasets.build import build_loader
from slowfast.datasets.records import Batch
from slowfast.distributed import collectives
from slowfast.engine.train import train
from slowfast.inference import prefetch
from slowfast.inference.prefetch import on_device

TinyCfg = Callable[..., CfgNode]


class Stream:
    """A stream that records what all streams are asked to do."""

    asked: list[tuple[str, "Stream", object]]

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wait_stream(self, other: "Stream") -> None:
        self.asked.append(("wait", self, other))


class GpuTensor:
    """A tensor that records the streams that use it."""

    def __init__(self, copy: Callable[[], None]) -> None:
        self.streams: list[object] = []
        self._copy = copy

    def to(self, device: torch.device, *, non_blocking: bool) -> "GpuTensor":
        assert non_blocking
        self._copy()
        return self

    def record_stream(self, stream: object) -> None:
        self.streams.append(stream)


def test_epochs_copy_over_one_stream_per_device(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [torch.device("cuda", 0), torch.device("cuda", 1)]
    computing = {device: Stream(device) for device in devices}
    current = [computing[devices[0]]]
    Stream.asked = []

    @contextmanager
    def make_current(stream: Stream) -> Iterator[None]:
        current.append(stream)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", make_current)
    monkeypatch.setattr(torch.cuda, "current_stream", computing.get)
    prefetch.copy_stream.cache_clear()

    frames: Any = GpuTensor(lambda: Stream.asked.append(("copy", current[-1], None)))
    batch = Batch(frames, frames, torch.zeros(1), torch.zeros(1), unreadable=())
    for _ in range(5):
        assert len(list(prefetch.on_device(iter([(batch,)] * 2), devices[0]))) == 2
    list(prefetch.batches_on_device(iter([batch]), devices[0]))
    assert set(frames.streams) == {computing[devices[0]]}
    list(prefetch.batches_on_device(iter([batch]), devices[1]))
    prefetch.copy_stream.cache_clear()

    copying = {stream.device: stream for name, stream, _ in Stream.asked if name == "copy"}
    assert copying[devices[0]] not in computing.values()

    def one_step(device: torch.device) -> list[tuple[str, Stream, object]]:
        copy = ("copy", copying[device], None)
        return [copy, copy, ("wait", computing[device], copying[device])]

    assert Stream.asked == one_step(devices[0]) * 11 + one_step(devices[1])


def test_rehearsal_training_and_evaluation_prefetch_alike(tiny_cfg: TinyCfg) -> None:
    callers: set[str] = set()

    def record_caller(frame: FrameType, event: str, argument: object) -> None:
        caller = frame.f_back
        is_call = event == "call" and frame.f_code is prefetch.on_device.__code__
        if is_call and caller is not None:
            callers.add(f"{Path(caller.f_code.co_filename).stem}.{caller.f_code.co_name}")

    cfg = tiny_cfg(TRAIN__REHEARSE=True, SOLVER__MAX_EPOCH=1, TRAIN__BATCH_SIZE=32)
    before = sys.getprofile()
    sys.setprofile(record_caller)
    try:
        train(cfg)
    finally:
        sys.setprofile(before)

    assert callers == {
        "rehearse._rehearse_steps",
        "progress.__iter__",
        "prefetch.batches_on_device",
    }


@pytest.mark.parametrize(("backend", "pinned"), [("nccl", True), ("gloo", False)])
def test_memory_is_pinned_only_for_a_gpu_in_use(
    tiny_cfg: TinyCfg, monkeypatch: pytest.MonkeyPatch, on_gpu: None, backend: str, pinned: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    collectives.use_device(0, on_gpu=backend == "nccl")
    assert build_loader(tiny_cfg(), "val").pin_memory is pinned


def test_a_cpu_gets_each_batch_as_it_is_and_not_before_it_asks(tiny_cfg: TinyCfg) -> None:
    loader = build_loader(tiny_cfg(), "train")
    fetched: list[tuple[Batch, ...]] = []

    def steps() -> Any:
        for micro_batches in loader.steps():
            fetched.append(micro_batches)
            yield micro_batches
        raise OSError("the disk is gone")

    passed_on = on_device(steps(), torch.device("cpu"))
    seen = []
    for _ in range(loader.num_steps):
        seen.append(next(passed_on))
        assert len(fetched) == len(seen)  # A run that stops here loses no batch.
    with pytest.raises(OSError, match="the disk is gone"):
        next(passed_on)
    assert all(one is other for one, other in zip(seen, fetched, strict=True))
