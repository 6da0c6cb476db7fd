"""Weights fill a model by name: inflated, with the right head, and with a report of differences."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slowfast.config import default_cfg
from slowfast.models.build import MODELS, build_model
from slowfast.models.uniformer import UniFormer
from slowfast.models.weight_adaptation import adapt_channels, inflate
from slowfast.models.weights import fill_weights, head_names, load_weights
from tests.models.tiny_uniformer import (
    NUM_WEIGHTS,
    are_equal,
    copy_state,
    counts,
    tiny_uniformer,
)

NAMES = ["ant", "bee", "cat", "dog", "eel"]
HEAD = {"head.weight", "head.bias"}


def test_inflation_by_hand() -> None:
    weight = torch.tensor([[[[3.0, 6.0]]]])
    assert inflate(weight, 3).tolist() == [[[[[1.0, 2.0]], [[1.0, 2.0]], [[1.0, 2.0]]]]]


def test_image_weights_are_inflated_and_get_a_new_head(tmp_path: Path) -> None:
    source, target = tiny_uniformer(num_classes=1000), tiny_uniformer()
    weights = source.state_dict()
    flat = {}
    for name, tensor in weights.items():
        if not name.endswith("num_batches_tracked"):
            flat[name] = tensor.mean(dim=2) if tensor.dim() == 5 else tensor
    torch.save({"model": flat}, tmp_path / "x.pth")

    head = target.head.weight.clone()
    report = load_weights(target, str(tmp_path / "x.pth"), may_replace_head=True)
    loaded = target.state_dict()
    stem = "patch_embed1.proj.weight"
    assert loaded[stem].shape == (8, 3, 3, 4, 4)
    torch.testing.assert_close(loaded[stem].sum(dim=2), flat[stem], rtol=1e-6, atol=1e-7)
    assert torch.equal(target.head.weight, head)

    assert report.inflated.keys() == {name for name, tensor in weights.items() if tensor.dim() == 5}
    assert set(report.dropped) == HEAD
    assert counts(report)[3:] == (0, 0)
    num_values = sum(tensor.numel() for tensor in loaded.values())
    assert report.dropped["head.weight"] == pytest.approx(5 * 16 / num_values)


# ---- The head --------------------------------------------------------------------------------


def test_a_head_of_another_size_is_replaced_only_where_allowed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = tiny_uniformer(num_classes=7), tiny_uniformer()
    torch.save(source.state_dict(), tmp_path / "x.pth")
    head = target.head.weight.clone()
    message = r"x\.pth has a head for 7 classes, but the model has one for 5\. Check MODEL\.NUM"
    with pytest.raises(ValueError, match=message):
        load_weights(target, str(tmp_path / "x.pth"))

    with caplog.at_level("INFO"):
        load_weights(target, str(tmp_path / "x.pth"), may_replace_head=True)
    assert (
        "x.pth has a head of another size, or none, so the head keeps its random weights"
        in caplog.text
    )
    assert f"of {NUM_WEIGHTS} weights, {NUM_WEIGHTS - 2} loaded, 99." in caplog.text
    assert "(head.weight, head.bias), 0 missing, 0 unexpected" in caplog.text
    assert torch.equal(target.head.weight, head)
    name = "blocks3.0.attn.qkv.weight"
    assert torch.equal(target.state_dict()[name], source.state_dict()[name])


def test_a_file_without_a_head_can_only_start_a_training(tmp_path: Path) -> None:
    state = tiny_uniformer().state_dict()
    weights = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    path = str(tmp_path / "x.pth")
    torch.save(weights, path)
    message = r"2 of \d+ weights are missing \(head\.weight, head\.bias\)"
    with pytest.raises(ValueError, match=message):
        load_weights(tiny_uniformer(), path)
    assert set(load_weights(tiny_uniformer(), path, may_replace_head=True).missing) == HEAD


class WithHead(nn.Sequential):
    """A model with a last layer named as in one of several libraries."""

    def __init__(self, head: str, num_classes: int) -> None:
        super().__init__()
        self.add_module("stem", nn.Conv3d(3, 4, 1))
        *path, last = head.split(".")
        inner: nn.Module = self
        for name in path:
            child = nn.Sequential(nn.Dropout()) if name == "head" else nn.Sequential()
            inner.add_module(name, child)
            inner = inner.get_submodule(name)
        is_convolution = head.startswith("classifier")
        inner.add_module(last, nn.Conv3d(4, num_classes, 1) if is_convolution else nn.Linear(4, 5))


@pytest.mark.parametrize("name", MODELS)
def test_the_last_layer_of_every_model_has_a_row_for_each_class(name: str) -> None:
    cfg = default_cfg()
    cfg.merge_from_list(["MODEL.MODEL_NAME", name, "MODEL.NUM_CLASSES", 7])
    with torch.device("meta"):
        model = build_model(cfg)
    num_heads = 2 if "light" in name else 1
    sizes = [len(model.get_parameter(head)) for head in head_names(model)]
    assert sizes == [7, 7] * num_heads  # weights and biases


@pytest.mark.parametrize("head", ["fc", "head", "head.1", "classifier.1", "decoder.classes"])
def test_the_head_is_the_last_layer_whatever_its_name(tmp_path: Path, head: str) -> None:
    model = WithHead(head, 5)
    assert head_names(model) == [f"{head}.weight", f"{head}.bias"]
    smaller = {}
    for name, tensor in model.state_dict().items():
        smaller[name] = tensor[:3] if name.startswith(head) else tensor
    torch.save(smaller, tmp_path / "x.pth")
    report = load_weights(model, str(tmp_path / "x.pth"), may_replace_head=True)
    assert set(report.dropped) == set(head_names(model))


@pytest.mark.parametrize("kind", ["mlp", "attentive"])
def test_a_head_of_another_kind_is_replaced_only_where_allowed(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = tiny_uniformer(), tiny_uniformer(head=kind)
    state = source.state_dict()
    before = copy_state(target)
    with pytest.raises(ValueError, match=r"x\.pth does not fit this model: \d+ of .* are missing"):
        fill_weights(target, state, path="x.pth")
    assert are_equal(before, target.state_dict())

    with caplog.at_level("INFO"):
        report = fill_weights(target, state, path="x.pth", may_replace_head=True)
    lines = [message for message in caplog.messages if "keeps its random weights" in message]
    assert lines == ["x.pth has another kind of head, so the head keeps its random weights"]
    for name, tensor in target.state_dict().items():
        is_kept = name.startswith(("head.", "pool."))
        assert torch.equal(tensor, before[name] if is_kept else state[name]), name
    assert all(name.startswith(("head.", "pool.")) for name in report.missing)


def test_the_pooling_of_a_head_stays_if_only_the_classes_differ() -> None:
    source = tiny_uniformer(head="attentive", num_classes=7)
    target = tiny_uniformer(head="attentive")
    before = copy_state(target)
    report = fill_weights(target, source.state_dict(), path="x.pth", may_replace_head=True)
    assert set(report.dropped) == HEAD
    assert torch.equal(target.state_dict()["pool.query"], source.state_dict()["pool.query"])
    assert torch.equal(target.head.weight, before["head.weight"])


@pytest.mark.parametrize("kind", ["linear", "mlp", "attentive"])
def test_a_model_without_classes_takes_all_but_the_classifier(kind: str) -> None:
    state = tiny_uniformer(head=kind).state_dict()
    target = tiny_uniformer(num_classes=0, head=kind)
    names = [f"class {number}" for number in range(5)]
    report = fill_weights(
        target, {"model_state": state, "class_names": names}, path="x.pth", class_names=names[::-1]
    )
    assert set(report.unexpected) == {name for name in state if name.startswith("head.")}
    assert not report.missing
    assert are_equal({name: state[name] for name in target.state_dict()}, dict(target.state_dict()))


# ---- Channels of the frames ------------------------------------------------------------------


def test_channels_are_adapted_by_hand() -> None:
    weight = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1, 1)
    channels = {n: adapt_channels(weight, n).flatten().tolist() for n in (1, 2, 4, 6)}
    assert channels == {
        1: [7.0],
        2: [1.5, 3.0],
        4: [0.75, 1.5, 3.0, 0.75],
        6: [0.5, 1.0, 2.0, 0.5, 1.0, 2.0],
    }


def test_a_gray_frame_gives_the_logits_of_the_same_frame_in_rgb() -> None:
    torch.manual_seed(0)
    rgb, gray = tiny_uniformer().eval(), tiny_uniformer(in_chans=1).eval()
    report = fill_weights(gray, rgb.state_dict(), path="x.pth")
    frames = torch.randn(2, 1, 4, 32, 32)
    with torch.no_grad():
        expected = rgb(frames.expand(-1, 3, -1, -1, -1))
        torch.testing.assert_close(gray(frames), expected, rtol=1e-4, atol=1e-5)
    assert set(report.adapted) == {"patch_embed1.proj.weight"}
    assert "1 adapted to the channels of the frames" in str(report)


def test_image_weights_are_inflated_and_adapted() -> None:
    state = tiny_uniformer().state_dict()
    name = "patch_embed1.proj.weight"
    state[name] = torch.ones(8, 3, 4, 4)
    target = tiny_uniformer(in_chans=2)
    report = fill_weights(target, state, path="x.pth")
    torch.testing.assert_close(target.state_dict()[name], torch.full((8, 2, 3, 4, 4), 0.5))
    assert set(report.inflated) == set(report.adapted) == {name}


@pytest.mark.parametrize(("of_file", "of_model"), [(1, 3), (4, 3), (4, 1)])
def test_only_weights_for_rgb_are_adapted(of_file: int, of_model: int) -> None:
    state, target = tiny_uniformer(in_chans=of_file).state_dict(), tiny_uniformer(in_chans=of_model)
    with pytest.raises(ValueError, match=r"1 have another size \(patch_embed1\.proj\.weight"):
        fill_weights(target, state, path="x.pth", may_replace_head=True)


# ---- Other models ----------------------------------------------------------------------------


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
    missing = [name for name in known - state.keys() if not name.endswith("num_batches_tracked")]
    message = (
        rf"x\.pth does not fit this model: {len(missing)} of {len(known)} weights are missing.*, "
        rf"{len(state.keys() - known)} are unexpected"
    )
    with pytest.raises(ValueError, match=message):
        fill_weights(small, state, path="x.pth")


def test_weights_of_another_model_change_nothing(tmp_path: Path) -> None:
    source, target = tiny_uniformer(split=True), tiny_uniformer()
    torch.save(source.state_dict(), tmp_path / "x.pth")
    before = copy_state(target)
    message = r"x\.pth does not fit this model: 0 of \d+ weights are missing, 12 are unexpected"
    with pytest.raises(ValueError, match=message):
        load_weights(target, str(tmp_path / "x.pth"), may_replace_head=True)
    assert are_equal(before, target.state_dict())


DEEPER = UniFormer(num_classes=5, dims=(8, 8, 16, 16), depths=(1, 2, 1, 1), head_dim=8)
WIDER = UniFormer(num_classes=5, dims=(8, 8, 16, 32), depths=(1, 1, 1, 1), head_dim=8)
OTHER = nn.Sequential(nn.Conv3d(3, 4, 3), nn.Linear(4, 5))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            DEEPER,
            r"0 of \d+ weights are missing, 22 are unexpected "
            r"\(blocks2\.1\.pos_embed\.weight, .* and 17 more\)",
        ),
        (WIDER, r"\d+ have another size \(patch_embed4\.norm\.weight \(32,\) for \(16,\), "),
        (
            OTHER,
            rf"\d+ of {NUM_WEIGHTS} weights are missing .*, 4 are unexpected "
            r"\(0\.weight, 0\.bias, 1\.weight,",
        ),
    ],
    ids=["deeper", "wider", "other"],
)
def test_weights_of_another_size_or_kind_of_model_are_refused(
    tmp_path: Path, source: nn.Module, message: str
) -> None:
    torch.save(source.state_dict(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=message):
        load_weights(tiny_uniformer(), str(tmp_path / "x.pth"), may_replace_head=True)


def test_what_a_pattern_allows_may_differ(tmp_path: Path) -> None:
    source, target = tiny_uniformer(split=True, num_classes=7), tiny_uniformer()
    path = str(tmp_path / "x.pth")
    weights = {name: tensor for name, tensor in source.state_dict().items() if name != "norm.bias"}
    torch.save(weights, path)
    before = copy_state(target)
    message = r"1 of \d+ weights are missing \(norm\.bias\), 12 are unexpected"
    with pytest.raises(ValueError, match=message):
        load_weights(target, path, allowed=["head.*"])

    report = load_weights(target, path, allowed=["head.*", "norm.bias", "*.t_*"])
    assert set(report.dropped) == HEAD
    assert set(report.missing) == {"norm.bias"}
    assert len(report.unexpected) == 12
    for name, tensor in target.state_dict().items():
        is_kept = name.startswith("head.") or name == "norm.bias"
        assert torch.equal(tensor, before[name] if is_kept else weights[name])


# ---- Classes ---------------------------------------------------------------------------------


def save_named(path: Path, names: list[str]) -> UniFormer:
    model = tiny_uniformer(num_classes=len(names))
    torch.save({"model_state": model.state_dict(), "class_names": names}, path)
    return model


def test_classes_in_another_order_take_their_rows_with_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = save_named(tmp_path / "x.pth", NAMES), tiny_uniformer()
    source.eval(), target.eval()
    frames = torch.randn(2, 3, 4, 32, 32)
    names = ["dog", "ant", "eel", "bee", "cat"]
    with caplog.at_level("INFO"):
        report = load_weights(target, str(tmp_path / "x.pth"), class_names=names)
    assert report.class_order == [3, 0, 4, 1, 2]
    assert (
        "x.pth orders the classes differently from the data, so its head is reordered"
        in caplog.text
    )
    torch.testing.assert_close(target(frames), source(frames)[:, [3, 0, 4, 1, 2]])


@pytest.mark.parametrize("names", [[], NAMES, ["Ant", "BEE", "c-a-t", "dog ", "eel"]])
def test_the_same_or_unknown_classes_keep_the_head_as_it_is(
    tmp_path: Path, names: list[str]
) -> None:
    source, target = save_named(tmp_path / "x.pth", NAMES), tiny_uniformer()
    report = load_weights(target, str(tmp_path / "x.pth"), class_names=names)
    assert report.class_order == []
    assert are_equal(source.state_dict(), target.state_dict())


def test_a_file_without_names_is_loaded_as_it_is(tmp_path: Path) -> None:
    source, target = tiny_uniformer(), tiny_uniformer()
    torch.save(source.state_dict(), tmp_path / "x.pth")
    load_weights(target, str(tmp_path / "x.pth"), class_names=NAMES)
    assert are_equal(source.state_dict(), target.state_dict())


def test_other_classes_are_an_error_or_get_a_new_head(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = save_named(tmp_path / "x.pth", NAMES), tiny_uniformer()
    path = str(tmp_path / "x.pth")
    before = copy_state(target)
    others = ["ant", "bee", "cow", "dog", "elk"]
    message = (
        "x.pth was trained on other classes: 2 of its 5 are not among those of the data "
        "('cat', 'eel'), 2 of the data's 5 are not among its ('cow', 'elk'). "
        "Check DATA.CLASS_NAMES."
    )
    with pytest.raises(ValueError, match=f"{re.escape(message)}$"):
        load_weights(target, path, class_names=others)
    assert are_equal(before, target.state_dict())

    with caplog.at_level("INFO"):
        report = load_weights(target, path, class_names=others, may_replace_head=True)
    assert "was trained on other classes" in caplog.text
    assert "the head keeps its random weights" in caplog.text
    assert set(report.dropped) == HEAD
    assert torch.equal(target.head.weight, before["head.weight"])
    assert torch.equal(target.norm.weight, source.norm.weight)


# ---- The report ------------------------------------------------------------------------------


def test_the_report_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(tiny_uniformer().state_dict(), tmp_path / "x.pth")
    with caplog.at_level("INFO"):
        load_weights(tiny_uniformer(), str(tmp_path / "x.pth"))
    assert caplog.messages == [
        f"{tmp_path}/x.pth: of {NUM_WEIGHTS} weights, {NUM_WEIGHTS} loaded, 100.00%, "
        "0 of them inflated over time, 0 dropped, 0 missing, 0 unexpected"
    ]


def test_filling_a_model_without_differences_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        report = fill_weights(tiny_uniformer(), tiny_uniformer().state_dict(), path="x.pth")
    assert report.is_whole
    assert caplog.messages == []


@pytest.mark.parametrize("change", ["dropped", "missing", "unexpected", "inflated", "reordered"])
def test_each_difference_is_logged(change: str, caplog: pytest.LogCaptureFixture) -> None:
    weights = tiny_uniformer(num_classes=7 if change == "dropped" else 5).state_dict()
    if change == "missing":
        del weights["norm.bias"]
    elif change == "unexpected":
        weights["extra"] = torch.zeros(1)
    elif change == "inflated":
        weights["patch_embed1.proj.weight"] = weights["patch_embed1.proj.weight"].mean(dim=2)

    state: dict[str, Any] = {"model_state": weights, "class_names": NAMES}
    allowed = ["norm.bias", "extra", "head.*"]
    names = NAMES[::-1] if change == "reordered" else []
    with caplog.at_level("INFO"):
        report = fill_weights(
            tiny_uniformer(), state, path="x.pth", allowed=allowed, class_names=names
        )
    assert not report.is_whole
    start = f"x.pth: of {NUM_WEIGHTS} weights, "
    assert len([message for message in caplog.messages if message.startswith(start)]) == 1
