"""DDP: the gradients of two processes, and the switches of how they travel."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slowfast.config import CfgNode
from slowfast.distributed.collectives import rank
from slowfast.distributed.launch import launch
from slowfast.engine.train import train
from slowfast.utils.checkpoint import load_checkpoint
from slowfast.utils.checkpoint_files import checkpoint_path
from tests.engine.first_gradient import first_gradient
from tests.engine.frozen_run import SETTINGS, check_end

TinyCfg = Callable[..., CfgNode]

# Settings by the name of their run.
WAYS: dict[str, dict[str, Any]] = {
    "plain": {"TRAIN__GRADIENT_BUCKET_VIEW": False},
    "static graph and bucket views": {"TRAIN__STATIC_GRAPH": True},
    "static graph and micro-batches": {"TRAIN__STATIC_GRAPH": True, "SOLVER__ACCUM_STEPS": 2},
    "micro-batches": {"SOLVER__ACCUM_STEPS": 2, "TRAIN__GRADIENT_BUCKET_VIEW": False},
    "bf16": {"TRAIN__GRADIENT_DTYPE": "bf16"},
    "frozen": SETTINGS,
    "frozen, static graph": {**SETTINGS, "TRAIN__STATIC_GRAPH": True},
}
RESUMED: dict[str, Any] = {
    **SETTINGS,
    "SOLVER__MAX_EPOCH": 2,
    "TRAIN__RESUME_WITH_CHANGES": True,
}
RUN: dict[str, Any] = {
    "NUM_GPUS": 2,
    "DIST_BACKEND": "gloo",
    "SOLVER__MAX_EPOCH": 1,
    "SOLVER__OPTIMIZING_METHOD": "sgd",
    "SOLVER__BASE_LR": 0.05,
    "TRAIN__EVAL_PERIOD": 1,
    "TRAIN__EMA_DECAY": 0.9,
}


def run_on_two_ranks(cfgs: list[CfgNode], smooth_cfg: CfgNode, path: str) -> int:
    """Train all configs, and save the gradients of a step with one and with two micro-batches."""
    for cfg in cfgs:
        train(cfg)

    gradients = [first_gradient(smooth_cfg, num_micro_batches=number) for number in (1, 2)]
    if rank() == 0:
        torch.save(gradients, path)
    return 0


@pytest.fixture
def two_ranks_folder(
    tiny_cfg: TinyCfg, smooth_cfg: CfgNode, make_once: Callable[..., Path], tmp_path: Path
) -> Path:
    """A folder with the runs of `WAYS` and `gradients.pt`, all made by one launch of two ranks."""

    def run() -> None:
        folder = tmp_path / "ranks"
        cfgs = [tiny_cfg(OUTPUT_DIR=folder / name, **(RUN | way)) for name, way in WAYS.items()]
        cfgs.append(tiny_cfg(OUTPUT_DIR=folder / "frozen", **(RUN | RESUMED)))
        gradients = str(folder / "gradients.pt")
        arguments = (cfgs, smooth_cfg, gradients)
        assert launch(run_on_two_ranks, *arguments, num_processes=2, backend="gloo") == 0

    return make_once("ranks", key="two ranks", make=run)


def weights_in(folder: Path) -> dict[str, Tensor]:
    state = load_checkpoint(checkpoint_path(str(folder), epoch=1))["model_state"]
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


def test_how_gradients_travel_changes_nothing_but_in_bf16(two_ranks_folder: Path) -> None:
    weights = {name: weights_in(two_ranks_folder / name) for name in WAYS}
    for name, other in (
        ("static graph and bucket views", "plain"),
        ("static graph and micro-batches", "micro-batches"),
    ):
        for key, tensor in weights[name].items():
            assert torch.equal(tensor, weights[other][key]), key

    torch.testing.assert_close(weights["bf16"], weights["plain"], rtol=0, atol=2e-3)
    assert not torch.equal(weights["bf16"]["head.weight"], weights["plain"]["head.weight"])


def test_a_step_of_two_processes_has_the_gradient_of_one(
    smooth_cfg: CfgNode, two_ranks_folder: Path
) -> None:
    whole = first_gradient(smooth_cfg, num_micro_batches=1)
    for gradient in torch.load(two_ranks_folder / "gradients.pt", weights_only=True):
        torch.testing.assert_close(gradient, whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "epoch"), [("frozen", 1), ("frozen", 2), ("frozen, static graph", 1)]
)
def test_two_processes_leave_what_is_frozen_as_it_was(
    tiny_cfg: TinyCfg, two_ranks_folder: Path, name: str, epoch: int
) -> None:
    state = load_checkpoint(checkpoint_path(str(two_ranks_folder / name), epoch=epoch))
    check_end(tiny_cfg(**(RUN | SETTINGS)), state)
