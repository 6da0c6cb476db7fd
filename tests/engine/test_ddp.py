"""Switches of how gradients travel and what is compiled: what they must not change, and by how much they may."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slowfast.config import CfgNode
from slowfast.datasets.build import build_loader
from slowfast.datasets.records import Batch
from slowfast.distributed.launch import launch
from slowfast.engine.ddp import compile_blocks, find_problems
from slowfast.engine.prefetch import on_device
from slowfast.engine.train import train
from slowfast.models.uniformer import UniFormer
from slowfast.utils.checkpoint import checkpoint_path, load_checkpoint

TinyCfg = Callable[..., CfgNode]
WAYS: dict[str, dict[str, Any]] = {
    "plain": {"TRAIN__GRADIENT_BUCKET_VIEW": False},
    "static graph and bucket views": {"TRAIN__STATIC_GRAPH": True},
    "static graph, but parts": {"TRAIN__STATIC_GRAPH": True, "SOLVER__ACCUM_STEPS": 2},
    "parts": {"SOLVER__ACCUM_STEPS": 2, "TRAIN__GRADIENT_BUCKET_VIEW": False},
    "bf16": {"TRAIN__GRADIENT_DTYPE": "bf16"},
}


def train_all(cfgs: list[CfgNode]) -> int:
    for cfg in cfgs:
        train(cfg)
    return 0


def weights_of(cfg: CfgNode) -> dict[str, Tensor]:
    state = load_checkpoint(checkpoint_path(cfg.OUTPUT_DIR, epoch=1))["model_state"]
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


def test_how_gradients_travel_changes_nothing_but_in_bf16(
    tiny_cfg: TinyCfg, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "NUM_GPUS": 2,
        "DIST_BACKEND": "gloo",
        "SOLVER__MAX_EPOCH": 1,
        "SOLVER__OPTIMIZING_METHOD": "sgd",
        "SOLVER__BASE_LR": 0.05,
        "TRAIN__EVAL_PERIOD": 1,
        "TRAIN__EMA_DECAY": 0.9,
    }
    cfgs = {
        name: tiny_cfg(OUTPUT_DIR=tmp_path / name, **settings, **way) for name, way in WAYS.items()
    }
    assert launch(train_all, [*cfgs.values()], num_processes=2, backend="gloo") == 0
    weights = {name: weights_of(cfg) for name, cfg in cfgs.items()}
    for name, other in (
        ("static graph and bucket views", "plain"),
        ("static graph, but parts", "parts"),
    ):
        assert all(
            torch.equal(tensor, weights[other][key]) for key, tensor in weights[name].items()
        )
    torch.testing.assert_close(weights["bf16"], weights["plain"], rtol=0, atol=2e-3)
    assert not torch.equal(weights["bf16"]["head.weight"], weights["plain"]["head.weight"])


@pytest.mark.parametrize(
    ("depths", "recomputed"),
    [
        pytest.param((0, 0, 1, 0), (0, 0, 0, 0)),
        pytest.param((1, 1, 2, 1), (1, 0, 1, 0), marks=pytest.mark.soak),  # minutes of compilation
    ],
)
def test_compiled_blocks_keep_names_and_numbers(
    depths: tuple[int, ...], recomputed: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "num_classes": 5,
        "dims": (8, 8, 16, 16),
        "depths": depths,
        "head_dim": 8,
    }
    plain, compiled = (
        UniFormer(**sizes, drop_path=0.0, recomputed=recomputed).train() for _ in range(2)
    )
    compiled.load_state_dict(plain.state_dict())
    compile_blocks(compiled)
    frames = torch.randn(2, 3, 4, 32, 32)
    results = []
    for model in (plain, compiled):
        logits = model(frames)
        logits.square().mean().backward()
        results.append(
            (logits, dict(model.named_buffers()), {n: p.grad for n, p in model.named_parameters()})
        )
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
    assert list(compiled.state_dict()) == list(plain.state_dict())


def test_a_machine_without_a_compiler_is_told_so(
    tiny_cfg: TinyCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    assert find_problems(tiny_cfg(TRAIN__COMPILE=True)) == []
    monkeypatch.setenv("PATH", "")
    assert find_problems(tiny_cfg()) == []
    [problem] = find_problems(tiny_cfg(TRAIN__COMPILE=True))
    assert problem.startswith(
        "TRAIN.COMPILE is True, but there is no C++ compiler here (g++, clang++, c++); install g++"
    )


def test_on_a_cpu_batches_are_passed_on_as_they_are_and_when_they_are_asked_for(
    tiny_cfg: TinyCfg,
) -> None:
    loader = build_loader(tiny_cfg(), "train")
    asked: list[tuple[Batch, ...]] = []

    def steps() -> Any:
        for parts in loader.steps():
            asked.append(parts)
            yield parts
        raise OSError("the disk is gone")

    passed_on = on_device(steps(), torch.device("cpu"))
    seen = []
    for _ in range(loader.num_steps):
        seen.append(next(passed_on))
        assert len(asked) == len(seen)  # none is fetched that a run which stops here would lose
    with pytest.raises(OSError, match="the disk is gone"):
        next(passed_on)
    assert all(one is other for one, other in zip(seen, asked, strict=True))
