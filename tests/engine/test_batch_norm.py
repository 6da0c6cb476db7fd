"""BatchNorm statistics: precise ones, over training batches."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slowfast.config import CfgNode
from slowfast.datasets.build import build_loader
from slowfast.engine.batch_norm import recompute_statistics
from slowfast.engine.train import train
from tests.engine.outputs import final_state

TinyCfg = Callable[..., CfgNode]


def test_precise_statistics_are_means_over_training_batches(
    tiny_cfg: TinyCfg, trained_cfg: TinyCfg, tmp_path: Path
) -> None:
    running = final_state(trained_cfg(folder="running", SOLVER__MAX_EPOCH=1))["model_state"]
    settings = {"BN__USE_PRECISE_STATS": True, "SOLVER__MAX_EPOCH": 1}
    cfg = tiny_cfg(OUTPUT_DIR=tmp_path / "precise", **settings)
    train(cfg)
    precise = final_state(cfg)["model_state"]
    assert torch.equal(running["blocks1.0.norm1.weight"], precise["blocks1.0.norm1.weight"])

    # Four steps with momentum 0.1 take the running mean 1 - 0.9 ** 4 = 0.34 of the way.
    name = "blocks1.0.norm1.running_mean"
    ratio = (precise[name].norm() / running[name].norm()).item()
    assert ratio == pytest.approx(1 / (1 - 0.9**4), rel=0.25)


def test_precise_statistics_are_those_of_the_autocast_dtype(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg(TRAIN__AMP="bf16")
    loader = build_loader(cfg, "train")
    batch = next(iter(loader))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 4)
            self.norm = nn.BatchNorm1d(4)

        def forward(self, frames: Tensor) -> Tensor:
            return self.norm(self.layer(frames.mean(dim=(2, 3, 4))))

    model = Model()
    recompute_statistics(model, [batch.frames], num_batches=1, amp=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        inputs = model.layer(batch.frames.mean(dim=(2, 3, 4)))
    assert inputs.dtype == torch.bfloat16
    mean = inputs.float().mean(dim=0)
    torch.testing.assert_close(model.norm.running_mean, mean, rtol=1e-6, atol=1e-7)
