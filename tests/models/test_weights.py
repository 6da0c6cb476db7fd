import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from safetensors.torch import save_file
from torch import Tensor, nn

from slowfast.config import default_cfg
from slowfast.models.build import MODELS, build_model
from slowfast.models.uniformer import UniFormer
from slowfast.models.weights import Report, fill_weights, head_names, inflate, load_weights


def tiny(num_classes: int = 5, **settings: Any) -> UniFormer:
    return UniFormer(
        num_classes=num_classes, dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), head_dim=8, **settings
    )


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def counts(report: Report) -> tuple[int, ...]:
    """How many weights are loaded, inflated, dropped, missing, unexpected."""
    return tuple(len(part) for part in report[:5])


NUM_WEIGHTS = len(tiny().state_dict())
WRAPPINGS: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "bare": lambda weights: weights,
    "model": lambda weights: {"model": weights, "epoch": 3},
    "model_state": lambda weights: {
        "model_state": weights,
        "cfg": "A: 1",
        "optimizer_state": {"state": {}},
    },
    "state_dict": lambda weights: {"state_dict": weights, "loss": torch.zeros(3)},
    "model in state_dict": lambda weights: {"state_dict": {"model": weights}},
    "a model that is a name": lambda weights: {"model": {"name": "x"}, "state_dict": weights},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone.", "_orig_mod."])
def test_published_files_load_whole(tmp_path: Path, wrapping: str, prefix: str) -> None:
    source, target = tiny(), tiny()
    weights = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    torch.save(WRAPPINGS[wrapping](weights), tmp_path / "x.pth")
    report = load_weights(target, str(tmp_path / "x.pth"))
    assert same(source.state_dict(), target.state_dict())
    assert counts(report) == (NUM_WEIGHTS, 0, 0, 0, 0)
    assert sum(report.loaded.values()) == pytest.approx(1)


def test_a_model_whose_own_names_look_wrapped_loads_what_it_saved(tmp_path: Path) -> None:
    source, target = nn.Sequential(), nn.Sequential()
    for wrapped in (source, target):
        wrapped.add_module("model", tiny())
        wrapped.add_module("fc", nn.Linear(5, 2))
    torch.save(source.state_dict(), tmp_path / "x.pth")
    assert counts(load_weights(target, str(tmp_path / "x.pth")))[2:] == (0, 0, 0)
    assert same(source.state_dict(), target.state_dict())


@pytest.mark.parametrize("suffix", [".pth", ".pyth", ".safetensors"])
def test_files_of_every_kind_give_the_same_model(tmp_path: Path, suffix: str) -> None:
    source, target = tiny(), tiny()
    path = str(tmp_path / f"x{suffix}")
    save = save_file if suffix == ".safetensors" else torch.save
    save({name: tensor.contiguous() for name, tensor in source.state_dict().items()}, path)
    load_weights(target, path)
    assert same(source.state_dict(), target.state_dict())


BESIDE = {
    "args": argparse.Namespace(
        lr=1e-3, folder=Path("/a"), nested=argparse.Namespace(x=[1, (2, None)])
    ),
    "max_accuracy": np.float64(82.9),
    "config": CfgNode({"MODEL": CfgNode({"NAME": "x"})}),
}


@pytest.mark.parametrize("is_zip", [True, False])
def test_files_with_a_command_line_beside_the_weights_open_without_calling_anything(
    tmp_path: Path, is_zip: bool
) -> None:
    source, target = tiny(), tiny()
    path = tmp_path / "x.pth"
    torch.save(
        {"model": source.state_dict(), **BESIDE}, path, _use_new_zipfile_serialization=is_zip
    )
    assert counts(load_weights(target, str(path))) == (NUM_WEIGHTS, 0, 0, 0, 0)
    assert same(source.state_dict(), target.state_dict())


class Attack:
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
    state = {"model": tiny().state_dict(), "args": argparse.Namespace(x=attack)}
    state = state if hidden_in == "args" else {"model": attack}
    path = tmp_path / "x.pth"
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    target = tiny()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"x\.pth: .* \(it holds posix\.system, which could run code\)"
    ):
        load_weights(target, str(path))
    assert not (tmp_path / "owned").exists()
    assert same(before, target.state_dict())


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_changes_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{'safetensors' if kind == 'safetensors' else 'pth'}"
    weights = {name: tensor.contiguous() for name, tensor in tiny().state_dict().items()}
    if kind == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    target = tiny()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    for size in (0, 1, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(
            ValueError,
            match=rf"{path.name}: (not a whole checkpoint of tensors|is not a checkpoint)",
        ):
            load_weights(target, str(path))
    assert same(before, target.state_dict())


def test_inflation_by_hand() -> None:
    weight = torch.tensor([[[[3.0, 6.0]]]])
    assert inflate(weight, 3).tolist() == [[[[[1.0, 2.0]], [[1.0, 2.0]], [[1.0, 2.0]]]]]


def test_image_weights_are_inflated_and_get_a_new_head(tmp_path: Path) -> None:
    source, target = tiny(num_classes=1000), tiny()
    weights = source.state_dict()
    flat = {
        name: tensor.mean(dim=2) if tensor.dim() == 5 else tensor
        for name, tensor in weights.items()
    }
    flat = {
        name: tensor for name, tensor in flat.items() if not name.endswith("num_batches_tracked")
    }
    torch.save({"model": flat}, tmp_path / "x.pth")
    head = target.head.weight.clone()
    report = load_weights(target, str(tmp_path / "x.pth"), may_replace_head=True)
    loaded = target.state_dict()
    assert loaded["patch_embed1.proj.weight"].shape == (8, 3, 3, 4, 4)
    torch.testing.assert_close(
        loaded["patch_embed1.proj.weight"].sum(dim=2),
        flat["patch_embed1.proj.weight"],
        rtol=1e-6,
        atol=1e-7,
    )
    assert torch.equal(target.head.weight, head)
    assert report.inflated.keys() == {name for name, tensor in weights.items() if tensor.dim() == 5}
    assert set(report.dropped) == {"head.weight", "head.bias"}
    assert counts(report)[3:] == (0, 0)
    num_numbers = sum(tensor.numel() for tensor in loaded.values())
    assert report.dropped["head.weight"] == pytest.approx(5 * 16 / num_numbers)


def test_a_head_of_another_size_is_replaced_only_where_allowed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = tiny(num_classes=7), tiny()
    torch.save(source.state_dict(), tmp_path / "x.pth")
    head = target.head.weight.clone()
    message = (
        r"x\.pth has a head for 7 classes, but the model has one for 5; check MODEL\.NUM_CLASSES"
    )
    with pytest.raises(ValueError, match=message):
        load_weights(target, str(tmp_path / "x.pth"))
    with caplog.at_level("INFO"):
        load_weights(target, str(tmp_path / "x.pth"), may_replace_head=True)
    assert (
        "x.pth has a head of another size, or none; the head keeps its random weights"
        in caplog.text
    )
    assert f"of {NUM_WEIGHTS} weights, {NUM_WEIGHTS - 2} loaded, 99." in caplog.text
    assert "(head.weight, head.bias), 0 missing, 0 unexpected" in caplog.text
    assert torch.equal(target.head.weight, head)
    name = "blocks3.0.attn.qkv.weight"
    assert torch.equal(target.state_dict()[name], source.state_dict()[name])


def test_a_file_without_a_head_can_start_a_training_alone(tmp_path: Path) -> None:
    weights = {
        name: tensor for name, tensor in tiny().state_dict().items() if not name.startswith("head.")
    }
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(
        ValueError, match=r"2 of \d+ weights are missing \(head\.weight, head\.bias\)"
    ):
        load_weights(tiny(), str(tmp_path / "x.pth"))
    assert set(load_weights(tiny(), str(tmp_path / "x.pth"), may_replace_head=True).missing) == {
        "head.weight",
        "head.bias",
    }


class WithHead(nn.Sequential):
    """A model whose last layer is called as those of several libraries are."""

    def __init__(self, head: str, num_classes: int) -> None:
        super().__init__()
        self.add_module("stem", nn.Conv3d(3, 4, 1))
        *path, last = head.split(".")
        inner: nn.Module = self
        for name in path:
            inner.add_module(
                name, nn.Sequential(nn.Dropout()) if name == "head" else nn.Sequential()
            )
            inner = inner.get_submodule(name)
        inner.add_module(
            last, nn.Conv3d(4, num_classes, 1) if head.startswith("classifier") else nn.Linear(4, 5)
        )


@pytest.mark.parametrize("name", MODELS)
def test_the_last_layer_of_every_model_has_a_row_for_each_class(name: str) -> None:
    cfg = default_cfg()
    cfg.merge_from_list(["MODEL.MODEL_NAME", name, "MODEL.NUM_CLASSES", 7])
    with torch.device("meta"):
        model = build_model(cfg)
    assert [len(model.get_parameter(head)) for head in head_names(model)] == [7, 7]


@pytest.mark.parametrize("other", ["r3d_18", "mvit_v2_s", "UniFormer-B"])
def test_published_models_are_told_apart(other: str) -> None:
    cfg = default_cfg()
    with torch.device("meta"):
        small = build_model(cfg)
        if other == "UniFormer-B":
            cfg.UNIFORMER.DEPTH = [5, 8, 20, 7]
        else:
            cfg.MODEL.MODEL_NAME = other
        state = build_model(cfg).state_dict()
    known = small.state_dict().keys()
    num_missing = len(
        [name for name in known - state.keys() if not name.endswith("num_batches_tracked")]
    )
    counts = rf"{num_missing} of {len(known)} weights are missing.*, {len(state.keys() - known)} are unknown"
    with pytest.raises(ValueError, match=rf"x\.pth is not of this model: {counts}"):
        fill_weights(small, state, path="x.pth")


@pytest.mark.parametrize("head", ["fc", "head", "head.1", "classifier.1", "decoder.classes"])
def test_the_head_is_the_last_layer_whatever_its_name(tmp_path: Path, head: str) -> None:
    model = WithHead(head, 5)
    assert head_names(model) == [f"{head}.weight", f"{head}.bias"]
    smaller = {
        name: tensor[:3] if name.startswith(head) else tensor
        for name, tensor in model.state_dict().items()
    }
    torch.save(smaller, tmp_path / "x.pth")
    report = load_weights(model, str(tmp_path / "x.pth"), may_replace_head=True)
    assert set(report.dropped) == set(head_names(model))


def test_weights_of_another_model_change_nothing(tmp_path: Path) -> None:
    source, target = tiny(split=True), tiny()
    torch.save(source.state_dict(), tmp_path / "x.pth")
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(
        ValueError,
        match=r"x\.pth is not of this model: 0 of \d+ weights are missing, 12 are unknown",
    ):
        load_weights(target, str(tmp_path / "x.pth"), may_replace_head=True)
    assert same(before, target.state_dict())


def test_weights_of_another_size_or_kind_of_model_are_refused(tmp_path: Path) -> None:
    deeper = UniFormer(num_classes=5, dims=(8, 8, 16, 16), depths=(1, 2, 1, 1), head_dim=8)
    wider = UniFormer(num_classes=5, dims=(8, 8, 16, 32), depths=(1, 1, 1, 1), head_dim=8)
    other = nn.Sequential(nn.Conv3d(3, 4, 3), nn.Linear(4, 5))
    for source, message in (
        (
            deeper,
            r"0 of \d+ weights are missing, 22 are unknown \(blocks2\.1\.pos_embed\.weight, .*, \.\.\.\)",
        ),
        (wider, r"\d+ have another size \(patch_embed4\.norm\.weight \(32,\) for \(16,\), "),
        (
            other,
            rf"\d+ of {NUM_WEIGHTS} weights are missing .*, 4 are unknown \(0\.weight, 0\.bias, 1\.weight,",
        ),
    ):
        torch.save(source.state_dict(), tmp_path / "x.pth")
        with pytest.raises(ValueError, match=message):
            load_weights(tiny(), str(tmp_path / "x.pth"), may_replace_head=True)


def test_what_a_pattern_allows_may_differ(tmp_path: Path) -> None:
    source, target = tiny(split=True, num_classes=7), tiny()
    weights = {name: tensor for name, tensor in source.state_dict().items() if name != "norm.bias"}
    torch.save(weights, tmp_path / "x.pth")
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"1 of \d+ weights are missing \(norm\.bias\), 12 are unknown"
    ):
        load_weights(target, str(tmp_path / "x.pth"), allowed=["head.*"])
    report = load_weights(target, str(tmp_path / "x.pth"), allowed=["head.*", "norm.bias", "*.t_*"])
    assert set(report.dropped) == {"head.weight", "head.bias"}
    assert set(report.missing) == {"norm.bias"}
    assert len(report.unexpected) == 12
    for name, tensor in target.state_dict().items():
        kept = name.startswith("head.") or name == "norm.bias"
        assert torch.equal(tensor, before[name] if kept else weights[name])


def save_named(path: Path, names: list[str]) -> UniFormer:
    model = tiny(num_classes=len(names))
    torch.save({"model_state": model.state_dict(), "class_names": names}, path)
    return model


NAMES = ["ant", "bee", "cat", "dog", "eel"]


def test_classes_in_another_order_take_their_rows_with_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = save_named(tmp_path / "x.pth", NAMES), tiny()
    source.eval(), target.eval()
    frames = torch.randn(2, 3, 4, 32, 32)
    with caplog.at_level("INFO"):
        report = load_weights(
            target, str(tmp_path / "x.pth"), class_names=["dog", "ant", "eel", "bee", "cat"]
        )
    assert report.class_order == [3, 0, 4, 1, 2]
    assert (
        "x.pth has the data's classes in another order: the rows of its head are reordered"
        in caplog.text
    )
    torch.testing.assert_close(target(frames), source(frames)[:, [3, 0, 4, 1, 2]])


@pytest.mark.parametrize("names", [[], NAMES, ["Ant", "BEE", "c-a-t", "dog ", "eel"]])
def test_the_same_classes_or_unknown_ones_leave_the_head_as_it_is(
    tmp_path: Path, names: list[str]
) -> None:
    source, target = save_named(tmp_path / "x.pth", NAMES), tiny()
    report = load_weights(target, str(tmp_path / "x.pth"), class_names=names)
    assert report.class_order == []
    assert same(source.state_dict(), target.state_dict())


def test_a_file_without_names_is_taken_as_it_is(tmp_path: Path) -> None:
    source, target = tiny(), tiny()
    torch.save(source.state_dict(), tmp_path / "x.pth")
    load_weights(target, str(tmp_path / "x.pth"), class_names=NAMES)
    assert same(source.state_dict(), target.state_dict())


def test_other_classes_are_an_error_or_get_a_new_head(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = save_named(tmp_path / "x.pth", NAMES), tiny()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    others = ["ant", "bee", "cow", "dog", "elk"]
    message = (
        "x.pth was trained on other classes: 2 of its 5 are not among those of the data ('cat', 'eel'), "
        "2 of the data's 5 are not among its ('cow', 'elk'); check DATA.CLASS_NAMES"
    )
    with pytest.raises(ValueError, match=f"{re.escape(message)}$"):
        load_weights(target, str(tmp_path / "x.pth"), class_names=others)
    assert same(before, target.state_dict())
    with caplog.at_level("INFO"):
        report = load_weights(
            target, str(tmp_path / "x.pth"), class_names=others, may_replace_head=True
        )
    assert "was trained on other classes" in caplog.text
    assert "the head keeps its random weights" in caplog.text
    assert set(report.dropped) == {"head.weight", "head.bias"}
    assert torch.equal(target.head.weight, before["head.weight"])
    assert torch.equal(target.norm.weight, source.norm.weight)


def test_a_file_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth: holds no weights; found epoch"):
        load_weights(tiny(), str(tmp_path / "x.pth"))


def test_the_report_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(tiny().state_dict(), tmp_path / "x.pth")
    with caplog.at_level("INFO"):
        load_weights(tiny(), str(tmp_path / "x.pth"))
    assert caplog.messages == [
        f"{tmp_path}/x.pth: of {NUM_WEIGHTS} weights, {NUM_WEIGHTS} loaded, 100.00%, 0 of them inflated over time, "
        "0 dropped, 0 missing, 0 unexpected"
    ]


def test_weights_that_fill_a_model_as_they_are_need_no_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO"):
        report = fill_weights(tiny(), tiny().state_dict(), path="x.pth")
    assert report.is_whole
    assert caplog.messages == []


@pytest.mark.parametrize("change", ["dropped", "missing", "unexpected", "inflated", "reordered"])
def test_whatever_was_not_filled_as_it_is_is_logged(
    change: str, caplog: pytest.LogCaptureFixture
) -> None:
    weights = tiny(num_classes=7 if change == "dropped" else 5).state_dict()
    state: dict[str, Any] = {"model_state": weights, "class_names": NAMES}
    if change == "missing":
        del weights["norm.bias"]
    elif change == "unexpected":
        weights["extra"] = torch.zeros(1)
    elif change == "inflated":
        weights["patch_embed1.proj.weight"] = weights["patch_embed1.proj.weight"].mean(dim=2)
    names = NAMES[::-1] if change == "reordered" else []
    with caplog.at_level("INFO"):
        report = fill_weights(
            tiny(), state, path="x.pth", allowed=["norm.bias", "extra", "head.*"], class_names=names
        )
    assert not report.is_whole
    reports = [
        message
        for message in caplog.messages
        if message.startswith(f"x.pth: of {NUM_WEIGHTS} weights, ")
    ]
    assert len(reports) == 1
