"""Damaged files of weights: refused if a checksum can tell, and never a crash or a wild value."""

import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from slowfast.models.weights import load_weights
from slowfast.utils.checkpoint import load_checkpoint, read_header
from slowfast.utils.checksum import write_with_sha256
from tests.models.tiny_uniformer import are_equal, copy_state


class Small(nn.Sequential):
    """A model with weights of every kind and a small file."""

    def __init__(self) -> None:
        super().__init__(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.Linear(4, 5))


NAMES = ["ant", "bee", "cat", "dog", "eel"]
SAVE: dict[str, Callable[[dict[str, Tensor], Path], object]] = {
    "zip": lambda weights, path: torch.save(
        {"model_state": weights, "class_names": NAMES, "epoch": 3}, path
    ),
    "legacy": lambda weights, path: torch.save(
        {"model_state": weights, "class_names": NAMES, "epoch": 3},
        path,
        _use_new_zipfile_serialization=False,
    ),
    "safetensors": lambda weights, path: save_file(
        weights, path, metadata={"class_names": '["ant", "bee"]'}
    ),
}


def mutations(content: bytes, *, seed: int, number: int) -> list[bytes]:
    """Copies of a file with a random bit, byte or stretch changed, removed or cut off."""
    rng = np.random.default_rng(seed)
    mutated = []
    for _ in range(number):
        copy = bytearray(content)
        start = int(rng.integers(len(copy)))
        stretch = slice(start, start + int(rng.integers(1, 40)))
        kind = rng.choice(
            ["bit", "byte", "stretch", "cut out", "cut off"], p=[0.4, 0.3, 0.1, 0.1, 0.1]
        )
        if kind == "bit":
            copy[start] ^= 1 << int(rng.integers(8))
        elif kind == "byte":
            copy[start] = (copy[start] + int(rng.integers(1, 256))) % 256
        elif kind == "stretch":
            copy[stretch] = rng.bytes(len(copy[stretch]))
        elif kind == "cut out":
            del copy[stretch]
        else:
            del copy[start:]
        mutated.append(bytes(copy))
    return mutated


@pytest.mark.parametrize("kind", SAVE)
def test_a_changed_file_is_refused_by_its_checksum(tmp_path: Path, kind: str) -> None:
    source = Small().state_dict()
    path = tmp_path / "x.pth"
    SAVE[kind](source, path)
    content = path.read_bytes()
    write_with_sha256(path, content)
    for mutated in mutations(content, seed=1, number=200):
        path.write_bytes(mutated)
        model = Small()
        before = copy_state(model)
        if mutated == content:
            load_weights(model, str(path))
            assert are_equal(model.state_dict(), source)
        else:
            with pytest.raises(
                ValueError, match=r"x\.pth: is (damaged or another file|not a checkpoint)"
            ):
                load_weights(model, str(path))
            assert are_equal(model.state_dict(), before)


def problem_of(call: Callable[[], object]) -> str:
    """The message of an error that a call may raise, empty if it raises none."""
    try:
        call()
    except (ValueError, OSError) as error:
        return str(error)
    return ""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", SAVE)
def test_a_changed_file_without_a_checksum_never_crashes(tmp_path: Path, kind: str) -> None:
    source = Small().state_dict()
    path = tmp_path / "x.pth"
    SAVE[kind](source, path)
    loaded = 0
    for mutated in mutations(path.read_bytes(), seed=2, number=500):
        path.write_bytes(mutated)
        problems = [problem_of(partial(read, path)) for read in (load_checkpoint, read_header)]
        model = Small()
        load = partial(load_weights, model, str(path), class_names=NAMES, may_replace_head=True)
        problems.append(problem_of(load))
        assert all(problem.startswith(str(path)) for problem in problems if problem)
        if problems[-1]:
            continue
        loaded += not are_equal(model.state_dict(), source)
        for tensor in model.state_dict().values():
            assert tensor.isfinite().all()
            assert (tensor.abs() <= 1e8).all() or not tensor.is_floating_point()
    # Only the records of a zip file have checksums of their own.
    assert (loaded == 0) == (kind == "zip")


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("0.weight", float("nan"), "1 non-finite value"),
        ("0.bias", -float("inf"), "1 non-finite value"),
        ("1.running_var", -0.5, "a variance of -5.0e-01"),
        ("1.running_mean", -2e8, "up to 2.0e+08"),
        ("2.weight", 3e38, "up to 3.0e+38"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_that_cannot_be_weights_are_named(
    tmp_path: Path, name: str, value: float, problem: str, dtype: torch.dtype
) -> None:
    weights = {key: tensor.to(dtype) for key, tensor in Small().state_dict().items()}
    weights[name].flatten()[1] = value
    torch.save(weights, tmp_path / "x.pth")
    model = Small()
    before = copy_state(model)
    message = (
        f"x.pth: holds values that cannot be weights: {name} ({problem}). The file is damaged or "
        "its training diverged. Copy or download it again, or use an earlier checkpoint."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        load_weights(model, str(tmp_path / "x.pth"))
    assert are_equal(model.state_dict(), before)


def test_the_first_of_many_damaged_weights_are_named(tmp_path: Path) -> None:
    weights = {
        name: torch.full(tensor.shape, torch.nan) for name, tensor in Small().state_dict().items()
    }
    torch.save(weights, tmp_path / "x.pth")
    message = (
        r"0\.weight \(12 non-finite values\), 0\.bias \(4 .*, 1\.running_mean \(4 .* and 4 more\. "
        r"The file is"
    )
    with pytest.raises(ValueError, match=message):
        load_weights(Small(), str(tmp_path / "x.pth"))


def test_large_values_and_masks_of_an_intact_model_load(tmp_path: Path) -> None:
    source, target = Small(), Small()
    for model in (source, target):
        model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))  # A causal mask.
    with torch.no_grad():
        source.get_buffer("1.running_var").fill_(9e7)
        source.get_parameter("0.weight").fill_(-9e7)
        source.get_buffer("1.num_batches_tracked").fill_(10**12)
    torch.save(source.state_dict(), tmp_path / "x.pth")
    load_weights(target, str(tmp_path / "x.pth"))
    assert are_equal(source.state_dict(), target.state_dict())


def test_dropped_weights_may_hold_any_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = Small().state_dict()
    weights["2.weight"] = torch.full((7, 4), torch.nan)
    weights["2.bias"] = torch.full((7,), torch.nan)
    torch.save(weights, tmp_path / "x.pth")
    with caplog.at_level(logging.INFO):
        load_weights(Small(), str(tmp_path / "x.pth"), may_replace_head=True)
    assert "the head keeps its random weights" in caplog.text
