"""Out-of-memory errors that name the settings that help."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from slowfast.config import CfgNode
from slowfast.datasets.records import Batch
from slowfast.engine.evaluate import evaluate
from slowfast.engine.state import TrainingState
from slowfast.engine.step import StepResult
from slowfast.engine.train import train
from slowfast.engine.train_log import TrainLog
from slowfast.inference.memory import OutOfMemoryError, explained_out_of_memory
from slowfast.models.build import MODELS, Model
from slowfast.models.uniformer_config import build_uniformer
from slowfast.utils.checkpoint import save_checkpoint
from slowfast.utils.checkpoint_files import checkpoint_path
from slowfast.utils.progress import Progress
from slowfast.visualization.background import Trackers
from tests.engine.small_step import Small

TinyCfg = Callable[..., CfgNode]
Serve = Callable[..., list[int]]
Arguments = Callable[..., list[str]]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"
        ),
        RuntimeError(
            "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        dist.DistBackendError(
            "NCCL error, unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"
        ),
        dist.DistBackendError(
            "NCCL error, unhandled cuda error\nLast error:\nFailed to CUDA calloc async 8 bytes"
        ),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        MemoryError(),
    ],
)
def test_every_out_of_memory_error_is_explained(error: Exception) -> None:
    with (
        pytest.raises(OutOfMemoryError, match="What helps: less") as caught,
        explained_out_of_memory("less"),
    ):
        raise error
    assert caught.value.__cause__ is error


def test_other_errors_of_a_gpu_are_passed_on() -> None:
    for message in (
        "CUDA error: an illegal memory access was encountered",
        "out of resource: shared memory",
    ):
        with pytest.raises(RuntimeError, match=message), explained_out_of_memory("less"):
            raise RuntimeError(message)


def test_reserved_memory_is_shown_beside_allocated_memory(
    monkeypatch: pytest.MonkeyPatch, on_gpu: None, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**29)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 5 * 2**30)
    with (
        pytest.raises(OutOfMemoryError, match=r"its peak was 1\.5 GiB \(5\.0 GiB reserved\)\."),
        explained_out_of_memory("less"),
    ):
        raise MemoryError

    tensor = torch.tensor
    monkeypatch.setattr(
        torch, "tensor", lambda value, device=None, **options: tensor(value, **options)
    )
    model = Small()
    optimizer = torch.optim.AdamW(model.parameters())
    state = TrainingState(model, optimizer, torch.amp.GradScaler("cpu", enabled=False))
    number = torch.zeros(())
    log = TrainLog(Trackers({}, record_ids={}), clips_per_step=1)
    progress: Progress[tuple[Batch, ...]] = Progress([()], "train", num_steps=1, period=1)
    with caplog.at_level("INFO"):
        for _ in progress:
            log.log_step(state, StepResult(number, number, number, number), progress, lr=0.1)
    assert '"memory_gb": 1.5' in caplog.text
    assert '"reserved_gb": 5.0' in caplog.text


@pytest.mark.parametrize(
    ("phase", "settings", "remedy"),
    [
        ("build", {}, "TRAIN.BATCH_SIZE (now 8"),
        ("train", {}, "TRAIN.BATCH_SIZE (now 8"),
        ("eval", {}, "TEST.VIEWS_PER_FORWARD (now 32)"),
        ("build", {"TRAIN__ENABLE": False}, "TEST.VIEWS_PER_FORWARD (now 32)"),
        ("eval", {"TRAIN__ENABLE": False}, "TEST.VIEWS_PER_FORWARD (now 32)"),
    ],
)
def test_running_out_of_memory_is_explained_in_every_phase(
    tiny_cfg: TinyCfg,
    monkeypatch: pytest.MonkeyPatch,
    phase: str,
    settings: dict[str, Any],
    remedy: str,
) -> None:
    def raise_error() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def exhaust_memory(model: nn.Module, inputs: tuple[Tensor]) -> None:
        if model.training == (phase == "train") and not inputs[0].is_meta:
            raise_error()

    def build(cfg: CfgNode) -> nn.Module:
        if phase == "build":
            raise_error()
        model = build_uniformer(cfg)
        model.register_forward_pre_hook(exhaust_memory)
        return model

    monkeypatch.setitem(MODELS, "hungry", Model(build))
    cfg = tiny_cfg(
        MODEL__MODEL_NAME="hungry",
        TRAIN__REHEARSE=True,
        TRAIN__BATCH_SIZE=8,
        TEST__VIEWS_PER_FORWARD=32,
        **settings,
    )
    if cfg.TRAIN.ENABLE:
        with pytest.raises(OutOfMemoryError, match=re.escape(remedy)):
            train(cfg)
        return

    weights = {"model_state": build_uniformer(cfg).state_dict()}
    save_checkpoint(checkpoint_path(cfg.OUTPUT_DIR, epoch=1), weights)
    with pytest.raises(OutOfMemoryError, match=re.escape(remedy)):
        evaluate(cfg)


def test_a_run_out_of_memory_ends_with_what_helps(
    serve: Serve, faulty_arguments: Arguments, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    assert serve(faulty_arguments(kind="memory"), num_processes=1, output=output) == [1]

    message = output.read_text().splitlines()[-1]
    assert re.match(r"error: rank 0 on cpu is out of memory, its peak was \d+\.\d GiB", message)
    for key in ("MODEL.CHECKPOINT_NUM", "SOLVER.ACCUM_STEPS", "TRAIN.BATCH_SIZE"):
        assert key in message
