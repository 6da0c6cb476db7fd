"""Depthwise convolutions: Triton's kernels, interpreted and compiled without a GPU, and convolution frame by frame."""

import importlib.util
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


# ---- Frame by frame --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 6), (1, 4, 1, 3, 3), (1, 2, 2, 7, 2)])
@pytest.mark.parametrize("size", [3, 5])
def test_frame_by_frame_it_is_the_convolution_in_3d(shape: tuple[int, ...], size: int) -> None:
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
    for gradient, of_3d in zip(
        torch.autograd.grad(y, leaves, dy), torch.autograd.grad(expected, leaves, dy), strict=True
    ):
        torch.testing.assert_close(gradient, of_3d)


def test_frame_by_frame_the_order_stays_channels_last() -> None:
    x = torch.randn(2, 8, 3, 4, 5).to(memory_format=torch.channels_last_3d)
    y = convolve_over_time(x, torch.randn(8, 1, 3, 3, 3), torch.randn(8))
    assert y.is_contiguous(memory_format=torch.channels_last_3d)


# ---- Which way -------------------------------------------------------------------------------------------------------


def test_one_line_says_why_triton_cannot_be_used(caplog: pytest.LogCaptureFixture) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
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
        f"cannot write to {file}/cache; name another folder in the environment variable TRITON_CACHE_DIR"
        in problems
    )

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert find_triton_problems() == [
        "the kernels need a GPU of compute capability 8.0, and this one has 7.5"
    ]


# ---- Triton's kernels ------------------------------------------------------------------------------------------------

INTERPRETED = """
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
    x, weight, bias, dy = draws[0].to(getattr(torch, dtype)), *draws[1:3], draws[3].to(getattr(torch, dtype))
    exact = lambda *leaves: F.conv3d(*leaves, padding=size // 2, groups=dim)
    expected = compute(exact, [tensor.double() for tensor in (x, weight, bias)], dy.double())
    results = compute(convolve, (x, weight, bias), dy)
    report[name] = [error(*pair) for pair in zip(results, expected, strict=True)]
    assert results[0].dtype == x.dtype and results[0].is_contiguous(memory_format=torch.channels_last_3d)

x, weight, bias = torch.randn(1, 4, 1, 2, 3), torch.randn(4, 1, 3, 3, 3), torch.randn(4)
x.requires_grad_(), weight.requires_grad_()
tests = ("test_schema", "test_autograd_registration", "test_faketensor")
report["checks"] = torch.library.opcheck(torch.ops.slowfast.depthwise, (x, weight, bias), test_utils=tests)
compiled = torch.compile(lambda x: convolve(x, weight, bias) + 1, backend="aot_eager", fullgraph=True)
[gradient] = torch.autograd.grad(compiled(x).square().sum(), x)
again = checkpoint(lambda x: convolve(x, weight, bias) + 1, x, use_reentrant=False)
report["compiled"] = error(gradient, torch.autograd.grad(again.square().sum(), x)[0].double())
print(json.dumps(report))
"""
CASES = [  # Channels that fill no block, edges within a tile, several tiles, a clip shorter than the kernel.
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
    assert not report.pop("imported")  # Until a GPU needs it.
    assert set(report.pop("checks").values()) == {"SUCCESS"}
    assert report.pop("compiled") < 1e-6
    for name, _, _, dtype in CASES:
        y, dx, dweight, dbias = report[name]
        assert max(y, dx) < (1e-6 if dtype == "float32" else 1e-3), name
        assert max(dweight, dbias) < 1e-6, name


@NEEDS_TRITON
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernel_compiles_without_a_gpu_to_wide_loads(capability: int) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from slowfast.models import depthwise_triton

    tiling = depthwise_triton._Tiling.of(64, 56, 56, lanes=16)
    kernel: Any = depthwise_triton._correlation_kernel
    constants = {
        "C": 64,
        "SIZE": 5,
        "MIRRORED": False,
        "NUM_W": tiling.num_w,
        "EVEN_W": True,
        "ROWS": tiling.rows,
        "COLUMNS": tiling.columns,
        "CHANNELS": tiling.channels,
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
        options={"num_warps": tiling.warps(8), "num_stages": 1},
    )
    assert "ld.global.v4" in compiled.asm["ptx"]  # 16 bytes at once
    assert ".local" not in compiled.asm["ptx"]  # All sums stay in registers.
    assert "convert_layout" not in compiled.asm["ttgir"]  # No thread waits for another's weights.


@NEEDS_TRITON
def test_tiles_fit_the_frames_of_the_published_models() -> None:
    from slowfast.models.depthwise_triton import _Tiling

    for side in (56, 28, 14, 7):
        tiling = _Tiling.of(64, side, side, lanes=16)
        width = tiling.column_tiles * tiling.columns * tiling.num_w
        height = tiling.row_tiles * tiling.rows
        assert min(width, height) >= side
        assert width * height <= 1.15 * side * side
