from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slowfast.models.uniformer import UniFormer
from slowfast.models.weights import inflate, load_weights


def tiny(num_classes: int = 5, **settings: Any) -> UniFormer:
    return UniFormer(num_classes=num_classes, dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), head_dim=8, **settings)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("wrapper", ["model_state", "model", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_files_load_whole(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    source, target = tiny(), tiny()
    weights = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    torch.save({wrapper: weights} if wrapper else weights, tmp_path / "x.pth")
    load_weights(target, str(tmp_path / "x.pth"))
    assert same(source.state_dict(), target.state_dict())


def test_inflation_by_hand() -> None:
    weight = torch.tensor([[[[3.0, 6.0]]]])
    assert inflate(weight, 3).tolist() == [[[[[1.0, 2.0]], [[1.0, 2.0]], [[1.0, 2.0]]]]]


def test_image_weights_are_inflated_so_that_a_still_video_gives_the_answer_of_the_image(tmp_path: Path) -> None:
    source, target = tiny(), tiny()
    weights = source.state_dict()
    flat = {name: tensor.mean(dim=2) if tensor.dim() == 5 else tensor for name, tensor in weights.items()}
    torch.save({"model": flat}, tmp_path / "x.pth")
    load_weights(target, str(tmp_path / "x.pth"))
    loaded = target.state_dict()
    assert loaded["patch_embed1.proj.weight"].shape == (8, 3, 3, 4, 4)
    torch.testing.assert_close(
        loaded["patch_embed1.proj.weight"].sum(dim=2), flat["patch_embed1.proj.weight"], rtol=1e-6, atol=1e-7
    )


def test_a_head_of_another_size_is_replaced_only_where_allowed(tmp_path: Path) -> None:
    source, target = tiny(num_classes=7), tiny()
    torch.save(source.state_dict(), tmp_path / "x.pth")
    head = target.head.weight.clone()
    with pytest.raises(ValueError, match=r"2 have another size \(head\.weight \(7, 16\) for \(5, 16\)"):
        load_weights(target, str(tmp_path / "x.pth"))
    load_weights(target, str(tmp_path / "x.pth"), may_replace_head=True)
    assert torch.equal(target.head.weight, head)
    name = "blocks3.0.attn.qkv.weight"
    assert torch.equal(target.state_dict()[name], source.state_dict()[name])


def test_weights_of_another_model_change_nothing(tmp_path: Path) -> None:
    source, target = tiny(split=True), tiny()
    torch.save(source.state_dict(), tmp_path / "x.pth")
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(ValueError, match=r"x\.pth is not of this model: 0 of \d+ weights are missing, 12 are unknown"):
        load_weights(target, str(tmp_path / "x.pth"), may_replace_head=True)
    assert same(before, target.state_dict())


def test_a_file_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth: holds no weights; found epoch"):
        load_weights(tiny(), str(tmp_path / "x.pth"))
