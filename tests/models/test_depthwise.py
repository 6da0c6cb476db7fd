"""Depthwise convolution: Triton kernels, interpreted and compiled, and 2-D convolutions."""

import importlib.util
import inspect
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

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


def _on_a_cpu(shape: tuple[int, ...], size: int) -> tuple[list[Tensor], Tensor]:
    """Return x, weight and bias of a convolution, and a gradient of its output."""
    dim = shape[1]
    shapes = (shape, (dim, 1, size, size, size), (dim,), shape)
    *leaves, dy = (torch.randn(one, generator=torch.Generator().manual_seed(3)) for one in shapes)
    return [leaf.requires_grad_() for leaf in leaves], dy


def _by_torch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv3d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))


def _assert_gradients_equal_float64(
    leaves: list[Tensor], dy: Tensor, y: Tensor, wanted: list[Tensor]
) -> None:
    gradients = torch.autograd.grad(y, wanted, dy)
    exact = _by_torch(*(leaf.double() for leaf in leaves))
    expected = torch.autograd.grad(exact, wanted, dy.double())
    for gradient, other in zip(gradients, expected, strict=True):
        assert (gradient - other).norm() <= 2e-6 * other.norm()


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize(
    "shape",
    [
        (2, 64, 4, 9, 11),
        (1, 32, 1, 7, 7),  # one clip of one frame
        (3, 16, 2, 1, 5),
        (1, 48, 3, 6, 1),  # shorter than the kernel along W
        (2, 13, 3, 4, 3),  # channels that fill no vector
        (1, 1, 1, 1, 1),
        (2, 80, 8, 14, 14),
    ],
)
def test_gradients_on_a_cpu_equal_float64(shape: tuple[int, ...], size: int) -> None:
    leaves, dy = _on_a_cpu(shape, size)
    _assert_gradients_equal_float64(leaves, dy, depthwise.convolve(*leaves), leaves)


@pytest.mark.parametrize("wanted", [[0], [1], [2], [0, 1], [1, 2]])
def test_each_gradient_can_be_had_alone(wanted: list[int]) -> None:
    leaves, dy = _on_a_cpu((2, 24, 3, 5, 4), 3)
    for index, leaf in enumerate(leaves):
        leaf.requires_grad_(index in wanted)
    y = depthwise.convolve(*leaves)
    _assert_gradients_equal_float64(leaves, dy, y, [leaves[index] for index in wanted])


def test_any_strides_give_the_same_gradients() -> None:
    leaves, dy = _on_a_cpu((2, 32, 3, 5, 4), 3)
    y = depthwise.convolve(*leaves)
    expected = torch.autograd.grad(y, leaves, dy)

    x = leaves[0].detach()
    wide = torch.randn(2, 32, 3, 5, 8)
    wide[..., ::2] = x
    for other in (x.to(memory_format=torch.channels_last_3d), wide[..., ::2]):
        leaves[0] = other.requires_grad_()
        for gradient_order in (torch.contiguous_format, torch.channels_last_3d):
            y = depthwise.convolve(*leaves)
            gradients = torch.autograd.grad(y, leaves, dy.to(memory_format=gradient_order))
            for gradient, exact in zip(gradients, expected, strict=True):
                assert torch.equal(gradient, exact)

    y = depthwise.convolve(*leaves)
    ones = torch.autograd.grad(y.sum(), leaves)  # whose gradient has strides of 0
    y = depthwise.convolve(*leaves)
    torch.testing.assert_close(torch.autograd.grad(y, leaves, torch.ones_like(y)), ones)


def test_second_derivatives_are_those_of_torch() -> None:
    leaves, dy = _on_a_cpu((2, 4, 3, 4, 5), 3)
    dy.requires_grad_()

    def derive_twice(convolve: Callable[..., Tensor]) -> list[Tensor]:
        first = torch.autograd.grad(convolve(*leaves), leaves, dy, create_graph=True)
        loss = sum((gradient.sin() * gradient).sum() for gradient in first)
        assert isinstance(loss, Tensor)
        return [*first, *torch.autograd.grad(loss, [leaves[0], leaves[1], dy])]

    for one, other in zip(derive_twice(depthwise.convolve), derive_twice(_by_torch), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())


THREADS = """
import os, threading
import torch
from slowfast.models.depthwise import convolve

torch.manual_seed(0)
x, dy = (torch.randn(2, 80, 6, 17, 19) for _ in range(2))
leaves = [x.requires_grad_(), torch.randn(80, 1, 5, 5, 5).requires_grad_(), torch.randn(80)]
leaves[2].requires_grad_()

def gradients():
    return torch.autograd.grad(convolve(*leaves), leaves, dy)

def equal(results):
    return all(torch.equal(one, other) for one, other in zip(results, expected, strict=True))

expected = gradients()
for number in (1, 2, 3, 7):
    torch.set_num_threads(number)
    print(number, equal(gradients()))

torch.set_num_threads(2)
results = {}
def compute(name):
    results[name] = [equal(gradients()) for _ in range(5)]
threads = [threading.Thread(target=compute, args=(name,)) for name in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("in threads", sorted(results) == [0, 1, 2, 3] and all(map(all, results.values())))

torch.set_num_threads(1)  # torch's own threads do not survive a fork
process = os.fork()
if process == 0:
    from slowfast.models import depthwise_cpu
    depthwise_cpu.torch.get_num_threads = lambda: 3
    os._exit(0 if equal(gradients()) else 1)
print("after a fork", os.waitpid(process, 0)[1] == 0)
"""


def test_threads_and_forks_give_the_same_bits() -> None:
    process = subprocess.run(
        [sys.executable, "-c", THREADS],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert lines == [
        *(f"{number} True" for number in (1, 2, 3, 7)),
        "in threads True",
        "after a fork True",
    ]


def test_only_graphs_with_gradients_contain_our_operator() -> None:
    convolution = Depthwise(4, 3)
    x = torch.randn(2, 4, 2, 3, 3)
    assert "slowfast" in str(convolution(x).grad_fn)
    with torch.no_grad():
        expected = F.conv3d(x, convolution.weight, convolution.bias, padding=1, groups=4)
        assert torch.equal(convolution(x), expected)

    convolution.requires_grad_(False)
    assert convolution(x).grad_fn is None
    with_float64 = Depthwise(4, 3).double()
    assert "Convolution" in str(with_float64(x).grad_fn)


def test_it_trains_without_numba() -> None:
    script = """
import sys
sys.modules["numba"] = None
import torch
from slowfast.models.depthwise import Depthwise
convolution = Depthwise(4, 3)
convolution(torch.randn(2, 4, 2, 3, 3)).sum().backward()
print(convolution(torch.ones(2, 4, 2, 3, 3)).grad_fn, convolution.bias.grad.tolist())
"""
    process = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.startswith("<ConvolutionBackward0"), process.stderr
    assert process.stdout.endswith("[36.0, 36.0, 36.0, 36.0]\n")


def test_transforms_of_torch_func_run_it() -> None:
    convolution = Depthwise(4, 3)
    x = torch.randn(1, 4, 2, 3, 3)
    expected = torch.autograd.grad(convolution(x).square().sum(), convolution.weight)[0]

    def loss(weight: Tensor) -> Tensor:
        return functional_call(convolution, {"weight": weight}, (x,)).square().sum()

    weight = convolution.weight.detach()
    torch.testing.assert_close(torch.func.grad(loss)(weight), expected)
    change = torch.func.jvp(loss, (weight,), (torch.ones_like(weight),))[1]
    torch.testing.assert_close(change, expected.sum())
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(weight, torch.ones_like(weight))
        torch.testing.assert_close(forward_ad.unpack_dual(loss(dual)).tangent, expected.sum())


def test_compiled_graphs_contain_our_operator() -> None:
    targets: list[str] = []

    def collect(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compile(Depthwise(4, 3), backend=collect, fullgraph=True)(torch.randn(1, 4, 2, 3, 3))
    assert any("slowfast.depthwise" in target for target in targets)


@pytest.mark.parametrize("way", ["compiled", "recomputed", "autocast"])
def test_other_ways_to_run_it_have_the_same_gradients(way: str) -> None:
    torch.manual_seed(0)
    convolution = Depthwise(16, 3)
    x = torch.randn(2, 16, 3, 4, 5, requires_grad=True)
    leaves = [x, *convolution.parameters()]

    def compute() -> Tensor:
        return convolution(x).float().square().sum()

    expected = torch.autograd.grad(compute(), leaves)
    if way == "compiled":
        run = torch.compile(compute, backend="aot_eager", fullgraph=True)
    elif way == "recomputed":
        run = partial(checkpoint, compute, use_reentrant=False)
    else:
        run = torch.autocast("cpu", torch.bfloat16)(compute)
    for one, other in zip(torch.autograd.grad(run(), leaves), expected, strict=True):
        torch.testing.assert_close(one, other)


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
from slowfast.models import depthwise, depthwise_triton
from slowfast.models.depthwise import convolve
depthwise._implementation = lambda x: depthwise_triton  # on a CPU, by the interpreter

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
