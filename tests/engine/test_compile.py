"""Compiled blocks: their numbers, their graphs with DDP, and what a machine needs to compile."""

import re
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from slowfast.config import CfgNode
from slowfast.engine.compile import compile_blocks, compile_for_inference, find_problems
from slowfast.engine.evaluate import evaluate
from slowfast.engine.train import train
from slowfast.models.build import build_model
from slowfast.models.linear import make_weights_constant
from slowfast.models.uniformer import UniFormer
from slowfast.utils import compilers
from slowfast.utils.checkpoint import save_checkpoint
from slowfast.utils.checkpoint_files import checkpoint_path
from tests.alone import run_alone
from tests.engine.outputs import read_logits
from tests.engine.small_step import TINY

TinyCfg = Callable[..., CfgNode]


@pytest.mark.soak
def test_compiled_blocks_keep_names_and_numbers() -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "num_classes": 5,
        "dims": (8, 8, 16, 16),
        "depths": (1, 1, 2, 1),
        "head_dim": 8,
    }
    plain, compiled = (
        UniFormer(**sizes, drop_path=0.0, recomputed=(1, 0, 1, 0)).train() for _ in range(2)
    )
    compiled.load_state_dict(plain.state_dict())
    compile_blocks(compiled)

    frames = torch.randn(2, 3, 4, 32, 32)
    results = []
    for model in (plain, compiled):
        logits = model(frames)
        logits.square().mean().backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        results.append((logits, dict(model.named_buffers()), gradients))

    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
    assert list(compiled.state_dict()) == list(plain.state_dict())


def test_ddp_does_not_cut_compiled_blocks(rank_0_of_1: None) -> None:
    as_before = torch._dynamo.config.patch(optimize_ddp=True)
    graphs: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    blocks = UniFormer(**TINY, drop_path=0.0).blocks3
    model = nn.Module()
    model.blocks3 = blocks
    model.forward = lambda x: blocks[0](x)
    with as_before, torch.compiler.set_stance(force_backend=count):
        compile_blocks(model)
        DistributedDataParallel(model, bucket_cap_mb=0.001)(torch.randn(1, 16, 2, 2, 2))
    torch._dynamo.reset()
    assert len(graphs) == 1


def operators_without_gradients(model: nn.Module, frames: torch.Tensor) -> set[str]:
    """Return the names of the operators in the graphs of a model that is compiled for inference."""
    found: set[str] = set()

    def collect(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
        found.update(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    with torch.compiler.set_stance(force_backend=collect), torch.no_grad():
        model.compile()
        model(frames)
    torch._dynamo.reset()
    return found


def test_graphs_with_constant_weights_multiply_by_onednn() -> None:
    frames = torch.randn(1, 3, 8, 128, 128)
    plain, constant = (UniFormer(**{**TINY, "dims": (64,) * 4}).eval() for _ in range(2))
    make_weights_constant(constant)
    assert not any("mkldnn" in name for name in operators_without_gradients(plain, frames))
    assert any(
        "_linear_pointwise" in name for name in operators_without_gradients(constant, frames)
    )


@pytest.mark.soak
def test_a_model_compiled_for_inference_keeps_its_logits() -> None:
    torch.manual_seed(0)
    model = UniFormer(**{**TINY, "dims": (64, 64, 128, 128)}).eval()
    frames = torch.randn(2, 3, 8, 96, 96)
    with torch.inference_mode():
        expected = model(frames)
        names = list(model.state_dict())
        compile_for_inference(model)
        torch.testing.assert_close(model(frames), expected, rtol=1e-5, atol=1e-5)
        others = torch.randn(1, 3, 4, 64, 64)
        torch.testing.assert_close(model(others), model.forward(others), rtol=1e-5, atol=1e-5)
    assert list(model.state_dict()) == names
    assert not torch._inductor.config.freezing  # A training after it must not have constants.


@pytest.mark.soak
def test_a_compiled_test_has_the_scores_of_a_plain_one(tiny_cfg: TinyCfg) -> None:
    plain, compiled = tiny_cfg(), tiny_cfg(TEST__COMPILE=True)
    torch.manual_seed(3)
    path = checkpoint_path(plain.OUTPUT_DIR, epoch=1)
    save_checkpoint(path, {"model_state": build_model(plain).state_dict()})
    evaluate(plain)
    folder = Path(plain.OUTPUT_DIR)
    expected = read_logits(folder)

    evaluate(compiled)  # It is another test: it does not take the scores that are there.
    assert len(list((folder / "previous_tests").iterdir())) == 1
    np.testing.assert_allclose(read_logits(folder), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.soak
def test_a_test_that_cannot_compile_fails_in_the_rehearsal(
    tiny_cfg: TinyCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    cfg = tiny_cfg(TEST__COMPILE=True, TRAIN__REHEARSE=True)
    with pytest.raises(Exception, match="compil"):
        run_alone(train, cfg)  # A process that has compiled something keeps its compiler.
    assert "rehearse test" not in (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    assert not list(Path(cfg.OUTPUT_DIR).glob("checkpoints/*"))


def test_a_missing_compiler_is_a_problem_of_the_config(
    tiny_cfg: TinyCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    assert find_problems(tiny_cfg(TRAIN__COMPILE=True)) == []
    monkeypatch.setenv("PATH", "")
    assert find_problems(tiny_cfg()) == []
    [problem] = find_problems(tiny_cfg(TEST__COMPILE=True, TRAIN__ENABLE=False))
    assert problem.endswith("or set TEST.COMPILE False")
    [problem] = find_problems(tiny_cfg(TRAIN__COMPILE=True))
    assert problem.startswith(
        "TRAIN.COMPILE is True, but there is no C++ compiler here (g++, clang++, c++). Install g++"
    )


def test_compiling_for_a_gpu_needs_a_c_compiler_and_headers(
    tiny_cfg: TinyCfg, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cfg = tiny_cfg(TRAIN__COMPILE=True, NUM_GPUS=1)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    monkeypatch.setenv("PATH", str(tmp_path))
    no_compiler, no_header = find_problems(cfg)
    assert "no C compiler here (gcc, clang). Install gcc" in no_compiler
    assert f"header {tmp_path}/Python.h is missing" in no_header

    (tmp_path / "Python.h").touch()
    (tmp_path / "my-cc").touch(mode=0o755)
    monkeypatch.setenv("CC", "my-cc")
    assert find_problems(cfg) == []


def test_the_docker_image_can_compile(repository: Path) -> None:
    installed = re.findall(
        r"install .*?((?: [\w+-]+)+) &&", (repository / "Dockerfile").read_text()
    )
    packages = " ".join(installed).split()
    assert {compilers.COMPILERS[0], compilers.C_COMPILERS[0]} <= {*packages}
