"""Files of weights in every layout: they load whole, run no code, or are refused."""

import argparse
import os
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from safetensors.torch import save_file
from torch import Tensor, nn

from slowfast.api import create_model
from slowfast.models.weights import load_weights
from tests.models.tiny_uniformer import (
    NUM_WEIGHTS,
    are_equal,
    copy_state,
    counts,
    tiny_uniformer,
)

WRAPPINGS: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "bare": lambda weights: weights,
    "model": lambda weights: {"model": weights, "epoch": 3},
    "model_state": lambda weights: {
        "model_state": weights,
        "cfg": "A: 1",
        "optimizer_state": {"state": {}},
    },
    "state_dict": lambda weights: {"state_dict": weights, "loss": torch.zeros(3)},
    "only model_ema": lambda weights: {"model_ema": weights, "epoch": 3, "model": None},
    "model in state_dict": lambda weights: {"state_dict": {"model": weights}},
    "a model that is a name": lambda weights: {"model": {"name": "x"}, "state_dict": weights},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone.", "_orig_mod."])
def test_published_files_load_whole(tmp_path: Path, wrapping: str, prefix: str) -> None:
    source, target = tiny_uniformer(), tiny_uniformer()
    weights = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    torch.save(WRAPPINGS[wrapping](weights), tmp_path / "x.pth")

    report = load_weights(target, str(tmp_path / "x.pth"))
    assert are_equal(source.state_dict(), target.state_dict())
    assert counts(report) == (NUM_WEIGHTS, 0, 0, 0, 0)
    assert sum(report.loaded.values()) == pytest.approx(1)


def test_names_of_the_model_that_look_wrapped_are_kept(tmp_path: Path) -> None:
    source, target = nn.Sequential(), nn.Sequential()
    for wrapped in (source, target):
        wrapped.add_module("model", tiny_uniformer())
        wrapped.add_module("fc", nn.Linear(5, 2))
    torch.save(source.state_dict(), tmp_path / "x.pth")
    assert counts(load_weights(target, str(tmp_path / "x.pth")))[2:] == (0, 0, 0)
    assert are_equal(source.state_dict(), target.state_dict())


@pytest.mark.parametrize("suffix", [".pth", ".pyth", ".safetensors"])
def test_files_of_every_kind_give_the_same_model(tmp_path: Path, suffix: str) -> None:
    source, target = tiny_uniformer(), tiny_uniformer()
    path = str(tmp_path / f"x{suffix}")
    save = save_file if suffix == ".safetensors" else torch.save
    save({name: tensor.contiguous() for name, tensor in source.state_dict().items()}, path)
    load_weights(target, path)
    assert are_equal(source.state_dict(), target.state_dict())


NESTED = argparse.Namespace(x=[1, (2, None)])
EXTRAS = {
    "args": argparse.Namespace(lr=1e-3, folder=Path("/a"), nested=NESTED),
    "max_accuracy": np.float64(82.9),
    "config": CfgNode({"MODEL": CfgNode({"NAME": "x"})}),
}


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_command_line_beside_the_weights_is_not_called(tmp_path: Path, is_zip: bool) -> None:
    source, target = tiny_uniformer(), tiny_uniformer()
    path = tmp_path / "x.pth"
    state = {"model": source.state_dict(), **EXTRAS}
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    assert counts(load_weights(target, str(path))) == (NUM_WEIGHTS, 0, 0, 0, 0)
    assert are_equal(source.state_dict(), target.state_dict())


# ---- mmaction2 -------------------------------------------------------------------------------


def in_mmaction2(model: nn.Module) -> dict[str, Tensor]:
    """Weights with the names that they have in a recognizer of mmaction2."""
    names = {"head.weight": "cls_head.fc_cls.weight", "head.bias": "cls_head.fc_cls.bias"}
    state = model.state_dict()
    return {names.get(name, f"backbone.{name}"): tensor for name, tensor in state.items()}


class HistoryBuffer:
    """A log in the checkpoints of mmengine, in the class that they name."""

    def __init__(self) -> None:
        self.max_length = 1000000
        self._log_history = np.array([0.5, 0.25])
        self._count_history = np.array([1, 1])


@pytest.fixture
def mmengine_log(monkeypatch: pytest.MonkeyPatch) -> HistoryBuffer:
    module = ModuleType("mmengine.logging.history_buffer")
    vars(module)["HistoryBuffer"] = HistoryBuffer
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(HistoryBuffer, "__module__", module.__name__)
    return HistoryBuffer()


def test_weights_of_mmaction2_load_whole(tmp_path: Path, mmengine_log: HistoryBuffer) -> None:
    source, target = tiny_uniformer(), tiny_uniformer()
    state = {
        "meta": {"epoch": 10, "dataset_meta": {"classes": ["a", "b", "c", "d", "e"]}},
        "state_dict": in_mmaction2(source),
        "message_hub": {"log_scalars": OrderedDict({"train/loss": mmengine_log})},
    }
    torch.save(state, tmp_path / "epoch_10.pth")
    assert b"mmengine.logging.history_buffer" in (tmp_path / "epoch_10.pth").read_bytes()
    assert counts(load_weights(target, str(tmp_path / "epoch_10.pth"))) == (NUM_WEIGHTS, 0, 0, 0, 0)
    assert are_equal(source.state_dict(), target.state_dict())


def test_a_model_is_created_from_weights_of_mmaction2(tmp_path: Path) -> None:
    source = create_model("uniformer_small", num_classes=7)
    torch.save({"state_dict": in_mmaction2(source)}, tmp_path / "x.pth")
    target = create_model("uniformer_small", weights=tmp_path / "x.pth")
    assert target.num_classes == 7
    assert are_equal(source.state_dict(), target.state_dict())


class Attack:
    """An object that runs a command when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.command = f"mkdir {folder}"

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("hidden_in", ["model", "args"])
def test_a_file_that_wants_to_run_a_command_is_refused(
    tmp_path: Path, is_zip: bool, hidden_in: str
) -> None:
    attack: Any = Attack(tmp_path / "owned")
    state = {"model": tiny_uniformer().state_dict(), "args": argparse.Namespace(x=attack)}
    state = state if hidden_in == "args" else {"model": attack}
    path = tmp_path / "x.pth"
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)

    target = tiny_uniformer()
    before = copy_state(target)
    message = r"x\.pth: .* \(it holds posix\.system, which could run code\)"
    with pytest.raises(ValueError, match=message):
        load_weights(target, str(path))
    assert not (tmp_path / "owned").exists()
    assert are_equal(before, target.state_dict())


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_changes_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{'safetensors' if kind == 'safetensors' else 'pth'}"
    state = tiny_uniformer().state_dict()
    weights = {name: tensor.contiguous() for name, tensor in state.items()}
    if kind == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=kind == "zip")

    content = path.read_bytes()
    target = tiny_uniformer()
    before = copy_state(target)
    message = rf"{path.name}: (not a whole checkpoint of tensors|is not a checkpoint)"
    for size in (0, 1, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=message):
            load_weights(target, str(path))
    assert are_equal(before, target.state_dict())


def test_a_file_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth: holds no weights\. Found: epoch, "):
        load_weights(tiny_uniformer(), str(tmp_path / "x.pth"))
