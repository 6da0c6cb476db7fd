"""Mixed precision: the autocast dtype, TF32, and what a change of dtype means for a run."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slowfast.config import CfgNode
from slowfast.datasets.build import build_loader
from slowfast.distributed import collectives
from slowfast.engine.evaluate import evaluate
from slowfast.engine.identity import build_identity, differences
from slowfast.engine.train import train
from slowfast.inference.precision import amp_dtype, autocast, set_up_kernels
from tests.engine.outputs import final_state, json_records

TinyCfg = Callable[..., CfgNode]


@pytest.mark.parametrize(
    ("amp", "dtype"),
    [("off", None), ("auto", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_the_autocast_dtype_on_a_cpu(amp: str, dtype: torch.dtype | None) -> None:
    cpu = torch.device("cpu")
    assert amp_dtype(amp, cpu) is dtype
    with autocast(dtype, cpu):
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype is (dtype or torch.float32)


@pytest.fixture
def kernel_settings() -> Iterator[Callable[[], tuple[bool, bool, bool]]]:
    """Read whether matrix products and convolutions use TF32, and whether cuDNN benchmarks."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn

    def read() -> tuple[bool, bool, bool]:
        return cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark

    before = read()
    cudnn.benchmark = False
    yield read
    cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def test_float32_means_the_same_for_all_kernels(
    kernel_settings: Callable[[], tuple[bool, bool, bool]],
) -> None:
    for tf32 in (True, False):
        set_up_kernels(tf32=tf32)
        assert kernel_settings() == (tf32, tf32, True)


@pytest.mark.parametrize("command", [train, evaluate])
def test_trainings_and_tests_set_up_the_kernels(
    tiny_cfg: TinyCfg,
    tmp_path: Path,
    kernel_settings: Callable[[], tuple[bool, bool, bool]],
    command: Callable[[CfgNode], Any],
) -> None:
    for tf32 in (True, False):
        cfg = tiny_cfg(TRAIN__TF32=tf32, DATA__PATH_TO_DATA_DIR=tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError):  # There is neither a list nor a checkpoint.
            command(cfg)
        assert kernel_settings() == (tf32, tf32, True)


def test_another_dtype_is_another_run(tiny_cfg: TinyCfg, monkeypatch: pytest.MonkeyPatch) -> None:
    def identity(amp: str) -> dict[str, Any]:
        cfg = tiny_cfg(TRAIN__AMP=amp)
        return build_identity(cfg, build_loader(cfg, "train").dataset.annotations, start_weights="")

    auto, off, fp16 = (identity(amp) for amp in ("auto", "off", "fp16"))
    assert differences(off, auto) == []  # A CPU computes in float32 either way.
    assert differences(fp16, auto) == [
        "dtype of the forward pass (TRAIN.AMP): 'float32' there, 'float16' here"
    ]

    monkeypatch.setattr(collectives, "_on_gpu", True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert differences(identity("auto"), auto) == [
        "dtype of the forward pass (TRAIN.AMP): 'float32' there, 'bfloat16' here"
    ]


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_trains_close_to_full_precision(
    trained_cfg: TinyCfg, tmp_path: Path, amp: str
) -> None:
    losses = {}
    for name in ("off", amp):
        cfg = trained_cfg(folder=name, TRAIN__AMP=name, SOLVER__MAX_EPOCH=1, LOG_PERIOD=1)
        losses[name] = [record["loss"] for record in json_records(tmp_path / name, "train_step")]

    assert losses[amp] == pytest.approx(losses["off"], abs=0.05)
    assert losses[amp] != losses["off"]
    weights = final_state(cfg)["model_state"].values()
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights)
