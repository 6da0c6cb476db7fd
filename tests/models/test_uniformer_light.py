"""The light UniFormers have the published weights, logits, gradients and pruning."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slowfast.config import default_cfg
from slowfast.engine.optim import parameter_groups
from slowfast.models.layers import DropPath
from slowfast.models.multiply_adds import count_by_shapes, count_by_tracing, is_countable
from slowfast.models.pruned_blocks import ClassAttention, PrunedSABlock, halve_score
from slowfast.models.uniformer import layer_numbers
from slowfast.models.uniformer_config import build_uniformer_light, find_problems
from slowfast.models.uniformer_light import LightOutputs, UniFormerLight, light_loss
from slowfast.models.weights import fill_weights, head_names
from tests.models.light_models import TINY, light_model
from tests.models.test_uniformer import golden_state

DIM = 16
THW = (3, 4, 2)
NUM_TOKENS = 24


def random_block(**settings: Any) -> Any:
    """A global block in evaluation mode with large random weights, so that tokens differ."""
    arguments: dict[str, Any] = {
        "mlp_ratio": 2.0,
        "dropout": 0.0,
        "drop_path": 0.0,
        "keep_ratio": 0.5,
        "trade_off": 0.25,
        "init_value": None,
        "attention": lambda dim: random_attention(dim),
    }
    torch.manual_seed(0)
    block = PrunedSABlock(DIM, **(arguments | settings))
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.4)
    return block.eval()


def random_attention(dim: int, *, in_float32: bool = False) -> ClassAttention:
    return ClassAttention(
        dim,
        in_float32=in_float32,
        head_dim=8,
        qkv_bias=True,
        qkv_scale=None,
        dropout=0.0,
        attention_dropout=0.0,
    )


def random_inputs(num_clips: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    x = torch.randn(num_clips, DIM, *THW)
    return x, torch.randn(num_clips, 1, DIM), torch.rand(num_clips, NUM_TOKENS).softmax(dim=1)


# ---- The published numbers -------------------------------------------------------------------


def test_names_and_shapes_are_the_published_ones(reference: Callable[[str], Any]) -> None:
    for key, expected in reference("uniformer_light_state_dict_shapes").items():
        model_name, _, size = key.rpartition("_")
        experiment = {"xxs": "uniformer_xxs8_128_k400", "xs": "uniformer_xs32_192_k400"}[size]
        num_classes = expected["head.bias"][0]
        with torch.device("meta"):
            model = light_model(experiment, model_name=model_name, num_classes=num_classes)
        shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        assert shapes == expected


@pytest.mark.parametrize("recomputed", [(0, 0, 0, 0), (1, 2, 5, 1)], ids=["kept", "recomputed"])
@pytest.mark.parametrize("index", [0, 1])
def test_logits_loss_and_gradients_are_golden(
    index: int, recomputed: tuple[int, ...], reference: Callable[[str], Any]
) -> None:
    case = reference("uniformer_light_forward")["cases"][index]
    model = light_model(
        case["experiment"],
        model_name=case["model"],
        num_classes=case["num_classes"],
        recomputed=recomputed,
    )
    model.load_state_dict(golden_state(model))
    assert sum(weight.numel() for weight in model.parameters()) == case["num_parameters"]
    draw = np.random.RandomState(7).standard_normal(case["input_shape"])
    frames = torch.from_numpy(draw.astype(np.float32))

    with torch.no_grad():
        logits = model.eval()(frames)
    close: dict[str, Any] = {"rtol": 0, "atol": 1e-4}
    torch.testing.assert_close(logits[:, :12], torch.tensor(case["eval_logits"]), **close)
    assert logits.sum(dim=1).tolist() == pytest.approx(case["eval_logits_sum"], abs=1e-3)
    assert logits.norm(dim=1).tolist() == pytest.approx(case["eval_logits_norm"], abs=1e-4)

    outputs = model.train()(frames)
    torch.testing.assert_close(outputs.logits[:, :12], torch.tensor(case["train_logits"]), **close)
    expected = torch.tensor(case["train_logits_cls"])
    torch.testing.assert_close(outputs.cls_logits[:, :12], expected, **close)
    loss, scored = light_loss(outputs, torch.tensor(case["labels"]), F.cross_entropy)
    assert loss.item() == pytest.approx(case["train_loss"], abs=1e-4)
    assert torch.equal(scored, outputs.logits)

    loss.backward()
    assert case["without_gradient"] == []
    for name, weight in model.named_parameters():
        expected_norm = case["grad_norms"][name]
        assert weight.grad.norm().item() == pytest.approx(expected_norm, rel=1e-4, abs=1e-4)


# ---- Pruning ---------------------------------------------------------------------------------


def attend_by_hand(attn: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Materialized attention of tokens (N, C): the result, and the weights of the first token."""
    num_heads = tokens.shape[1] // attn.head_dim
    q, k, v = attn.qkv(tokens).chunk(3, dim=1)
    results, rows = [], []
    for head in range(num_heads):
        part = slice(head * attn.head_dim, (head + 1) * attn.head_dim)
        weights = (q[:, part] @ k[:, part].T / attn.head_dim**0.5).softmax(dim=1)
        results.append(weights @ v[:, part])
        rows.append(weights[0])
    return attn.proj(torch.cat(results, dim=1)), torch.stack(rows).mean(dim=0)


def prune_by_hand(block: Any, x: Tensor, cls_token: Tensor, score: Tensor) -> tuple[Tensor, ...]:
    """The block for one clip: x (C, T, H, W), class token (C,) and scores (N,), token by token."""
    tokens = (x + block.pos_embed(x[None])[0]).flatten(1).T.clone()
    ranking = sorted(range(len(tokens)), key=lambda token: -score[token].item())
    num_kept = int(len(tokens) * block.keep_ratio)
    kept, dropped = ranking[:num_kept], ranking[num_kept:]

    mean = torch.zeros_like(cls_token)
    for token in dropped:
        mean = mean + score[token] / score[dropped].sum() * tokens[token]
    sequence = torch.stack([cls_token, *tokens[kept], mean])
    attended, row = attend_by_hand(block.attn, block.norm1(sequence))
    attended = attended if block.gamma_1 is None else block.gamma_1 * attended
    hidden = block.mlp(block.norm2(sequence + attended))
    hidden = hidden if block.gamma_2 is None else block.gamma_2 * hidden
    result = sequence + attended + hidden

    score = score.clone()
    for place, token in enumerate(kept, start=1):
        tokens[token] = result[place]
        score[token] = (1 - block.trade_off) * score[token] + block.trade_off * row[place]
    for token in dropped:
        tokens[token] = tokens[token] + attended[-1] + hidden[-1]
    return tokens.T.unflatten(1, x.shape[1:]), result[0], score


@pytest.mark.parametrize("keep_ratio", [0.5, 0.3, 0.99, 0.0])
@pytest.mark.parametrize("init_value", [None, 0.1])
def test_a_pruned_block_equals_one_by_hand(keep_ratio: float, init_value: float | None) -> None:
    block = random_block(keep_ratio=keep_ratio, init_value=init_value)
    x, cls_token, score = random_inputs()
    with torch.no_grad():
        results = block(x, cls_token, score)
        for clip in range(2):
            expected = prune_by_hand(block, x[clip], cls_token[clip, 0], score[clip])
            for result, by_hand in zip(results, expected, strict=True):
                found = result[clip].reshape(by_hand.shape)
                torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-5)


def test_ratio_1_is_plain_attention_with_a_class_token() -> None:
    block = random_block(keep_ratio=1.0)
    x, cls_token, score = random_inputs()
    with torch.no_grad():
        volume, new_cls_token, new_score = block(x, cls_token, score)
        tokens = (x + block.pos_embed(x)).flatten(2).transpose(1, 2)
        for clip in range(2):
            sequence = torch.cat([cls_token[clip], tokens[clip]])
            attended, row = attend_by_hand(block.attn, block.norm1(sequence))
            sequence = sequence + attended
            sequence = sequence + block.mlp(block.norm2(sequence))
            close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
            torch.testing.assert_close(new_cls_token[clip], sequence[:1], **close)
            torch.testing.assert_close(volume[clip].flatten(1).T, sequence[1:], **close)
            expected = 0.75 * score[clip] + 0.25 * row[1:]
            torch.testing.assert_close(new_score[clip], expected, **close)


@pytest.mark.parametrize("keep_ratio", [1.0, 0.5, 0.25])
def test_tokens_stay_in_their_places(keep_ratio: float) -> None:
    block = random_block(keep_ratio=keep_ratio)
    for module in (block.attn.proj, block.mlp.fc2):  # Nothing is added.
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
    x, cls_token, score = random_inputs()
    with torch.no_grad():
        volume, new_cls_token, _ = block(x, cls_token, score)
        assert torch.equal(volume, x + block.pos_embed(x))
        assert torch.equal(new_cls_token, cls_token)


@pytest.mark.parametrize("keep_ratio", [1.0, 0.5])
def test_permuted_tokens_give_the_permuted_result(keep_ratio: float) -> None:
    block = random_block(keep_ratio=keep_ratio)
    nn.init.zeros_(block.pos_embed.weight)  # It is the only part that sees places.
    x, cls_token, score = random_inputs()
    permutation = torch.randperm(NUM_TOKENS)
    permuted = x.flatten(2)[:, :, permutation].unflatten(2, THW)
    with torch.no_grad():
        volume, new_cls_token, new_score = block(x, cls_token, score)
        results = block(permuted, cls_token, score[:, permutation])
    expected = volume.flatten(2)[:, :, permutation], new_cls_token, new_score[:, permutation]
    for result, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(result.reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-5)


def test_of_equal_scores_the_first_tokens_are_kept() -> None:
    block = random_block(trade_off=1.0)
    x, cls_token, _ = random_inputs()
    score = torch.full((2, NUM_TOKENS), 0.01)
    with torch.no_grad():
        _, _, new_score = block(x, cls_token, score)
    assert torch.equal(new_score[:, NUM_TOKENS // 2 :], score[:, NUM_TOKENS // 2 :])
    assert (new_score[:, : NUM_TOKENS // 2] != 0.01).all()


def test_scores_of_0_make_no_nan() -> None:
    block = random_block()
    x, cls_token, score = random_inputs()
    results = block(x, cls_token, torch.zeros_like(score))
    assert all(result.isfinite().all() for result in results)
    assert halve_score(torch.zeros(2, NUM_TOKENS), THW).abs().max() == 0


def test_dropped_tokens_get_their_update_without_drop_path() -> None:
    block = random_block(drop_path=1.0).train()
    x, cls_token, score = random_inputs()
    with torch.no_grad():
        volume, new_cls_token, _ = block(x, cls_token, score)
        change = (volume - x - block.pos_embed(x)).flatten(2).abs().amax(dim=1)
    assert torch.equal(new_cls_token, cls_token)
    kept = score.topk(NUM_TOKENS // 2).indices
    is_kept = torch.zeros_like(score, dtype=torch.bool).scatter(1, kept, value=True)
    assert torch.equal(change < 1e-6, is_kept)


def test_halved_scores_are_means_with_the_same_sum() -> None:
    score = torch.arange(24.0).reshape(1, 24)  # one frame of 4 x 6
    halved = halve_score(score, (1, 4, 6))
    means = torch.tensor([[3.5, 5.5, 7.5, 15.5, 17.5, 19.5]])  # (0 + 1 + 6 + 7) / 4 is the first
    torch.testing.assert_close(halved, means * 276 / means.sum())
    uneven = halve_score(torch.rand(2, 2 * 5 * 3), (2, 5, 3))  # The last row and column have none.
    assert uneven.shape == (2, 2 * 2 * 1)


@pytest.mark.parametrize("in_float32", [False, True])
def test_attention_in_float32_ignores_autocast(in_float32: bool) -> None:
    torch.manual_seed(0)
    attention = random_attention(DIM, in_float32=in_float32)
    dtypes = []

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        result = ClassAttention.attend(attention, q, k, v)
        dtypes.append(result.dtype)
        return result

    attention.attend = attend  # type: ignore[method-assign]
    with torch.autocast("cpu", torch.bfloat16):
        _, row = attention(torch.randn(2, 9, DIM))
    assert dtypes == [torch.float32 if in_float32 else torch.bfloat16]
    assert row.dtype == torch.float32


# ---- Model -----------------------------------------------------------------------------------


def test_gradients_reach_every_weight() -> None:
    torch.manual_seed(0)
    for init_value in (None, 0.1):
        model: Any = UniFormerLight(**TINY, init_value=init_value).train()
        model.load_state_dict(golden_state(model))
        outputs = model(torch.randn(4, 3, 8, 64, 64))
        light_loss(outputs, torch.tensor([0, 1, 2, 3]), F.cross_entropy).loss.backward()
        gradients = {name: weight.grad for name, weight in model.named_parameters()}
        without = [
            name for name, grad in gradients.items() if grad is None or grad.abs().max() == 0
        ]
        assert without == []


def test_recomputed_activations_change_no_bit() -> None:
    settings: dict[str, Any] = {**TINY, "drop_path": 0.3, "dropout": 0.1, "init_value": 0.1}
    torch.manual_seed(0)
    kept, recomputed = UniFormerLight(**settings), UniFormerLight(**settings)
    recomputed.recomputed = (1, 1, 3, 1)
    recomputed.load_state_dict(kept.state_dict())
    frames, labels = torch.randn(2, 3, 4, 64, 64), torch.tensor([0, 1])
    for model in (kept, recomputed):
        torch.manual_seed(1)
        light_loss(model.train()(frames), labels, F.cross_entropy).loss.backward()
    for (name, weight), other in zip(kept.named_parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(weight.grad, other.grad), name  # type: ignore[arg-type]
    for (name, buffer), again in zip(kept.named_buffers(), recomputed.buffers(), strict=True):
        assert torch.equal(buffer, again), name


def test_a_test_needs_neither_the_class_head_nor_more_than_logits() -> None:
    model: Any = UniFormerLight(**TINY)
    frames = torch.randn(2, 3, 4, 64, 64)
    assert isinstance(model.train()(frames), LightOutputs)
    with torch.no_grad():
        logits = model.eval()(frames)
        nn.init.constant_(model.head_cls.weight, torch.nan)
        assert torch.equal(model(frames), logits)
        features = model.forward_features(frames)
        assert torch.equal(model.forward_head(features), logits)
        pooled = model.forward_head(features, pre_logits=True)
        torch.testing.assert_close(pooled, features.mean(dim=(2, 3, 4)))
        assert torch.equal(model.norm(model.forward_stages(frames)[-1]), features)

        model.reset_classifier(0)
        assert torch.equal(model(frames), pooled)
        model.reset_classifier(7)
        assert model(frames).shape == (2, 7)
        assert [len(model.get_parameter(name)) for name in head_names(model)] == [7] * 4


@pytest.mark.parametrize("shape", [(1, 3, 1, 32, 32), (2, 3, 5, 40, 72), (1, 3, 7, 33, 95)])
def test_any_size_and_number_of_frames_is_accepted(shape: tuple[int, ...]) -> None:
    logits = UniFormerLight(**TINY).eval()(torch.randn(shape))
    assert logits.shape == (shape[0], 5)
    assert logits.isfinite().all()


def test_the_rates_and_ratios_of_blocks_are_those_of_the_arguments() -> None:
    ratios = [[], [], [1, 0.7, 0.4], [0.2, 0.9]]  # Stage 4 has one block.
    model: Any = UniFormerLight(**TINY, drop_path=0.5, keep_ratios=ratios, trade_offs=ratios)
    blocks = [module for module in model.modules() if isinstance(module, PrunedSABlock)]
    assert [block.keep_ratio for block in blocks] == [1, 0.7, 0.4, 0.2]
    assert [block.trade_off for block in blocks] == [1, 0.7, 0.4, 0.2]
    rates = [module.rate for module in model.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize(("num_frames", "size"), [(8, 64), (5, 101)])
@pytest.mark.parametrize("init_value", [None, 0.1])
def test_shapes_and_tracing_give_the_same_count(
    init_value: float | None, num_frames: int, size: int
) -> None:
    ratios = [[], [], [1, 0.7, 0.4], [0.2]]
    with torch.device("meta"), torch.no_grad():
        model: Any = UniFormerLight(**TINY, init_value=init_value, keep_ratios=ratios).eval()
        assert is_countable(model)
        expected = count_by_tracing(model, num_frames=num_frames, size=size)
    assert count_by_shapes(model, num_frames=num_frames, size=size) == expected


# ---- Weights and optimizer -------------------------------------------------------------------


def image_weights(**settings: Any) -> dict[str, Tensor]:
    """Weights of an image model: 4-D convolutions."""
    model: Any = UniFormerLight(**{**TINY, **settings})
    model.load_state_dict(golden_state(model))
    state = dict(model.state_dict())
    return {name: x.sum(dim=2) if x.dim() == 5 else x for name, x in state.items()}


def test_image_weights_start_a_model_with_or_without_layer_scale() -> None:
    state = image_weights(num_classes=1000)
    for init_value in (None, 0.1):
        model: Any = UniFormerLight(**TINY, init_value=init_value)
        report = fill_weights(model, state, path="x.pth", may_replace_head=True)
        fresh = [name for name in report.missing if "gamma" not in name]
        assert fresh == []
        assert set(report.dropped) == {*head_names(model)}
        assert not report.unexpected
        stem = model.patch_embed1.proj[0].weight
        torch.testing.assert_close(stem.sum(dim=2), state["patch_embed1.proj.0.weight"])
        if init_value is not None:
            assert model.blocks3[0].gamma_1.unique().tolist() == pytest.approx([0.1])


def test_layer_scale_of_a_file_is_inflated_and_never_dropped() -> None:
    state = image_weights(init_value=0.1)
    model: Any = UniFormerLight(**TINY, init_value=0.1)
    fill_weights(model, state, path="x.pth")
    expected = state["blocks1.0.gamma_1"].flatten()
    assert torch.equal(model.blocks1[0].gamma_1.flatten(), expected)
    plain = UniFormerLight(**TINY)
    with pytest.raises(ValueError, match=r"12 are unexpected \(blocks1.0.gamma_1"):
        fill_weights(plain, state, path="x.pth", may_replace_head=True)


def test_a_test_refuses_weights_without_layer_scale() -> None:
    model: Any = UniFormerLight(**TINY, init_value=0.1)
    with pytest.raises(ValueError, match=r"12 of \d+ weights are missing \(blocks1.0.gamma_1"):
        fill_weights(model, image_weights(), path="x.pth")


def test_both_heads_follow_the_order_of_the_classes() -> None:
    names = [f"class {index}" for index in range(5)]
    state = {"model_state": image_weights(), "class_names": names}
    model: Any = UniFormerLight(**TINY)
    report = fill_weights(model, state, path="x.pth", class_names=names[::-1])
    assert report.class_order == [4, 3, 2, 1, 0]
    for name in ("head.weight", "head.bias", "head_cls.weight", "head_cls.bias"):
        expected = state["model_state"][name].flip(0)  # type: ignore[index]
        assert torch.equal(model.get_parameter(name), expected)


def test_layers_count_from_the_stem_to_both_heads() -> None:
    model: Any = UniFormerLight(**TINY, init_value=0.1)
    numbers = layer_numbers(model)
    expected = {
        "patch_embed1.proj.0.weight": 0,
        "blocks1.0.gamma_1": 1,
        "blocks2.0.attn.weight": 2,
        "patch_embed3.proj.weight": 3,
        "cls_token": 3,
        "blocks3.2.mlp.fc1.bias": 5,
        "cls_upsample.weight": 6,
        "blocks4.0.gamma_2": 6,
        "norm.weight": 7,
        "norm_cls.weight": 7,
        "head.weight": 7,
        "head_cls.bias": 7,
    }
    assert {name: numbers[name] for name in expected} == expected
    assert numbers.keys() == dict(model.named_parameters()).keys()


def test_the_class_token_and_layer_scale_decay_as_published() -> None:
    # The published optimizer spares BatchNorm and parameters of one dimension, by their size alone.
    model: Any = UniFormerLight(**TINY, init_value=0.1)
    groups = parameter_groups(model, weight_decay=0.1, norm_weight_decay=0.0, decay_1d=False)
    decays = {weight: group["weight_decay"] for group in groups for weight in group["params"]}
    assert decays[model.cls_token] == 0.1
    assert decays[model.blocks1[0].gamma_1] == 0.1  # (1, C, 1, 1, 1)
    assert decays[model.blocks3[0].gamma_1] == 0.0  # (C,)
    assert decays[model.norm_cls.weight] == decays[model.head_cls.bias] == 0.0


# ---- Config ----------------------------------------------------------------------------------


def light_cfg(*settings: Any) -> Any:
    cfg = default_cfg()
    cfg.merge_from_list(["MODEL.MODEL_NAME", "Uniformer_light_fp32", *settings])
    return cfg


@pytest.mark.parametrize(
    ("name", "in_float32", "init_value"),
    [
        ("Uniformer_light", False, None),
        ("Uniformer_light_fp32", True, None),
        ("Uniformer_light_ls_fp32", True, 0.3),
    ],
)
def test_each_name_builds_its_model(name: str, in_float32: bool, init_value: float | None) -> None:
    cfg = light_cfg("MODEL.MODEL_NAME", name, "UNIFORMER.INIT_VALUE", 0.3)
    with torch.device("meta"):
        model: Any = build_uniformer_light(cfg)
    assert model.blocks4[0].attn.in_float32 == in_float32
    assert (model.blocks4[0].gamma_1 is not None) == (init_value is not None)
    assert [block.keep_ratio for block in model.blocks3] == [1, *[0.5] * 7]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("UNIFORMER.PRUNE_RATIO", "[1, 0.5]"), "a list for each of the 4 stages"),
        (("UNIFORMER.PRUNE_RATIO", "[[], [], [1, 2], []]"), "a number from 0 to 1"),
        (("UNIFORMER.PRUNE_RATIO", "[[], [], [1, 'half'], []]"), "a number from 0 to 1"),
        (("UNIFORMER.PRUNE_RATIO", "[[], [], [True], []]"), "a number from 0 to 1"),
        (("UNIFORMER.TRADE_OFF", "[[], [], [-1], []]"), "TRADE_OFF is .* a number from 0 to 1"),
        (("UNIFORMER.PRUNE_RATIO", "[[], [0.5] , [], []]"), "stages 1 and 2 empty"),
        (
            ("UNIFORMER.PRUNE_RATIO", "[[], [], [1, 1], []]"),
            "2 numbers for the 8 blocks of",
        ),
        (
            ("UNIFORMER.PRUNE_RATIO", "[[], [], [0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5], []]"),
            "Use 1 for the first block of stage 3",
        ),
        (("UNIFORMER.SPLIT", True), "UNIFORMER.SPLIT is True, which Uniformer_light_fp32 does not"),
        (("UNIFORMER.INIT_VALUE", 0.5), "set MODEL.MODEL_NAME to Uniformer_light_ls_fp32"),
        (("DATA.TEST_CROP_SIZE", 31), "DATA.TEST_CROP_SIZE is 31"),
    ],
)
def test_settings_that_a_light_model_cannot_use_are_named(
    settings: tuple[str, Any], message: str
) -> None:
    [problem] = find_problems(light_cfg(*settings))
    assert re.search(message, problem), problem


def test_the_full_model_does_not_read_pruning() -> None:
    cfg = light_cfg("MODEL.MODEL_NAME", "Uniformer", "UNIFORMER.TRADE_OFF", "[[], [], [], []]")
    [problem] = find_problems(cfg)
    assert "which Uniformer does not read" in problem
    assert problem.endswith("set MODEL.MODEL_NAME to Uniformer_light.")
