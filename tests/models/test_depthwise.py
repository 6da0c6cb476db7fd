"""Depthwise convolution: Triton kernels, interpreted and compiled, and 2-D convolutions."""

import importlib.util
import inspect
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from slowfast.models import depthwise
from slowfast.models.depthwise import Depthwise, convolve_over_time, find_triton_problems

HAS_TRITON = importlib.util.find_spec("triton") is not None
ROOT = Path(__file__).parents[2]
NEEDS_TRITON = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")


# ---- Frame by frame --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 6), (1, 4, 1, 3, 3), (1, 2, 2, 7, 2)])
@pytest.mark.parametrize("size", [3, 5])
def test_frame_by_frame_equals_the_convolution_in_3d(shape: tuple[int, ...], size: int) -> None:
    torch.manual_seed(0)
    dim = shape[1]
    x, weight, bias, dy = (
        torch.randn(one, dtype=torch.float64)
        for one in (shape, (dim, 1, size, size, size), (dim,), shape)
    )
    leaves = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    expected = F.conv3d(x, weight, bias, padding=size // 2, groups=dim)
    y = convolve_over_time(x, weight, bias)
    torch.testing.assert_close(y, expected)
    gradients = torch.autograd.grad(y, leaves, dy)
    expected_gradients = torch.autograd.grad(expected, leaves, dy)
    torch.testing.assert_close(gradients, expected_gradients)


def test_frame_by_frame_keeps_channels_last() -> None:
    x = torch.randn(2, 8, 3, 4, 5).to(memory_format=torch.channels_last_3d)
    y = convolve_over_time(x, torch.randn(8, 1, 3, 3, 3), torch.randn(8))
    assert y.is_contiguous(memory_format=torch.channels_last_3d)


# ---- On a CPU --------------------------------------------------------------------------------


def test_bfloat16_gradients_on_a_cpu_are_deterministic() -> None:
    torch.manual_seed(0)
    convolution = Depthwise(16, 3)
    frames = torch.randn(8, 16, 2, 4, 4).to(memory_format=torch.channels_last_3d)
    gradients = []
    # Freed memory full of NaN would reach gradients that read uninitialized memory.
    for size in range(1000, 60_000, 2000):
        leftovers = [torch.full((size,), torch.nan) for _ in range(20)]
        del leftovers
        with torch.autocast("cpu", torch.bfloat16):
            loss = convolution(frames).sum()
        gradients.append(torch.autograd.grad(loss, convolution.weight)[0])
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
    assert gradients[0].isfinite().all()


# ---- Choice ----------------------------------------------------------------------------------


def test_one_warning_says_why_triton_cannot_run(caplog: pytest.LogCaptureFixture) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is available")
    depthwise._decide_on_triton.cache_clear()
    x = torch.randn(1, 4, 2, 3, 3)
    with caplog.at_level(logging.WARNING):
        for size in (3, 5):
            convolution = Depthwise(4, size)
            torch.testing.assert_close(convolution._forward_on_gpu(x), convolution(x))
    [record] = caplog.records
    assert record.message.startswith("Depthwise convolutions run frame by frame")
    depthwise._decide_on_triton.cache_clear()


def test_each_reason_against_triton_has_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install triton" in find_triton_problems()[0]

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("CC", str(tmp_path / "no-compiler"))
    file = tmp_path / "file"
    file.touch(mode=0o600)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(file / "cache"))
    problems = " ".join(find_triton_problems())
    assert "no C compiler here" in problems
    assert (
        f"cannot write to {file}/cache. Set the environment variable TRITON_CACHE_DIR to another"
        in problems
    )

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert find_triton_problems() == [
        "the kernels need a GPU of compute capability 8.0, and this one has 7.5"
    ]


def test_torch_compile_takes_the_choice_as_a_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = []

    def decide() -> bool:
        choices.append(os.getpid())  # torch.compile could not trace this call.
        return True

    monkeypatch.setattr(depthwise, "_decide_on_triton", decide)
    step = torch.compile(
        lambda x: x + 1 if depthwise.can_use_triton() else x, backend="eager", fullgraph=True
    )
    assert step(torch.zeros(1)) == 1
    assert step(torch.zeros(1)) == 1
    assert len(choices) == 1


# ---- Triton kernels --------------------------------------------------------------------------

INTERPRETED = r"""
import json, sys
import torch, torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
torch.set_num_threads(1)
import slowfast.models
report = {"imported": "slowfast.models.depthwise_triton" in sys.modules}
from slowfast.models.depthwise import convolve

def error(one, other):
    return ((one.double() - other).norm() / other.norm()).item()

def compute(convolve, tensors, dy):
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    y = convolve(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]

for name, shape, size, dtype in json.loads(sys.argv[1]):
    dim = shape[1]
    draws = [torch.randn(one) for one in (shape, (dim, 1, size, size, size), (dim,), shape)]
    x, weight, bias, dy = draws
    x, dy = x.to(getattr(torch, dtype)), dy.to(getattr(torch, dtype))
    exact = lambda *leaves: F.conv3d(*leaves, padding=size // 2, groups=dim)
    expected = compute(exact, [tensor.double() for tensor in (x, weight, bias)], dy.double())
    results = compute(convolve, (x, weight, bias), dy)
    report[name] = [error(*pair) for pair in zip(results, expected, strict=True)]
    assert results[0].dtype == x.dtype
    assert results[0].is_contiguous(memory_format=torch.channels_last_3d)

x, weight, bias = torch.randn(1, 4, 1, 2, 3), torch.randn(4, 1, 3, 3, 3), torch.randn(4)
x.requires_grad_(), weight.requires_grad_()
tests = ("test_schema", "test_autograd_registration", "test_faketensor")
op = torch.ops.slowfast.depthwise
report["checks"] = torch.library.opcheck(op, (x, weight, bias), test_utils=tests)
compute = lambda x: convolve(x, weight, bias) + 1
compiled = torch.compile(compute, backend="aot_eager", fullgraph=True)
[gradient] = torch.autograd.grad(compiled(x).square().sum(), x)
again = checkpoint(compute, x, use_reentrant=False)
report["compiled"] = error(gradient, torch.autograd.grad(again.square().sum(), x)[0].double())
print(json.dumps(report))
"""
# Channels that fill no tile, edges within a tile, several tiles, clips shorter than the kernel.
CASES = [
    ("3", (1, 20, 3, 3, 5), 3, "float32"),
    ("3, tiles along H and C", (1, 72, 1, 9, 3), 3, "float32"),
    ("3, tiles along W", (1, 4, 1, 2, 33), 3, "float16"),
    ("5", (1, 8, 2, 2, 4), 5, "float32"),
]


@NEEDS_TRITON
def test_interpreted_kernels_against_float64() -> None:
    process = subprocess.run(
        [sys.executable, "-c", INTERPRETED, json.dumps(CASES)],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)},
    )
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout.splitlines()[-1])
    assert not report.pop("imported")  # Only once a GPU needs it.
    assert set(report.pop("checks").values()) == {"SUCCESS"}
    assert report.pop("compiled") < 1e-6
    for name, _, _, dtype in CASES:
        y, dx, dweight, dbias = report[name]
        assert max(y, dx) < (1e-6 if dtype == "float32" else 1e-3), name
        assert max(dweight, dbias) < 1e-6, name


@NEEDS_TRITON
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernel_compiles_to_wide_loads_without_a_gpu(capability: int) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from slowfast.models.depthwise_kernels import correlation_kernel
    from slowfast.models.depthwise_triton import Tiling

    if "constexprs" not in inspect.signature(ASTSource).parameters:
        pytest.skip("Triton before 3.3 is asked for a compilation in another way")
    tiling = Tiling.choose(64, 56, 56, lanes=16)
    kernel: Any = correlation_kernel
    constants = {
        "C": 64,
        "SIZE": 5,
        "MIRRORED": False,
        "EVEN_W": True,
        **tiling.constants(),
    }
    pointers = {"x_ptr": "*bf16", "taps_ptr": "*fp32", "bias_ptr": "*fp32", "y_ptr": "*bf16"}
    signature = {
        name: pointers.get(name, "constexpr" if name in constants else "i32")
        for name in kernel.arg_names
    }
    aligned = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in pointers}
    compiled = triton.compile(
        ASTSource(kernel, signature=signature, constexprs=constants, attrs=aligned),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": tiling.num_warps(8), "num_stages": 1},
    )
    assert "ld.global.v4" in compiled.asm["ptx"]  # 16 bytes at once.
    assert ".local" not in compiled.asm["ptx"]  # All sums stay in registers.
    assert (
        "convert_layout" not in compiled.asm["ttgir"]
    )  # No thread waits for the weights of another.


@NEEDS_TRITON
def test_tiles_fit_the_frames_of_the_published_models() -> None:
    from slowfast.models.depthwise_triton import Tiling

    for side in (56, 28, 14, 7):
        tiling = Tiling.choose(64, side, side, lanes=16)
        width = tiling.column_tiles * tiling.columns * tiling.num_w
        height = tiling.row_tiles * tiling.rows
        assert min(width, height) >= side
        assert width * height <= 1.15 * side * side
