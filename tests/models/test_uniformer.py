"""UniFormer has the published weights, logits, gradients, cost and memory layout."""

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from slowfast.config import CfgNode, default_cfg
from slowfast.models.build import build_model, count_multiply_adds, count_parameters
from slowfast.models.layers import DropPath
from slowfast.models.uniformer import UniFormer

SIZES: dict[str, dict[str, Any]] = {"s": {"depths": (3, 4, 8, 3)}, "b": {"depths": (5, 8, 20, 7)}}
TINY: dict[str, Any] = {
    "num_classes": 5,
    "dims": (8, 8, 16, 16),
    "depths": (2, 1, 2, 1),
    "head_dim": 8,
}


def global_block(model: UniFormer) -> Any:
    """The first global block of a model."""
    return model.blocks3[0]


def golden_state(model: nn.Module) -> dict[str, Tensor]:
    """The reference weights: each tensor drawn with its name as the seed."""
    state = model.state_dict()
    for name, tensor in state.items():
        draw = np.random.RandomState(zlib.crc32(name.encode()))
        shape = tuple(tensor.shape)
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var"):
            values = 1 + 0.2 * draw.random_sample(shape)
        elif name.endswith("running_mean"):
            values = 0.1 * draw.standard_normal(shape)
        elif (tensor.dim() == 1 and name.endswith("weight")) or name.endswith(
            ("gamma_1", "gamma_2")
        ):
            values = 1 + 0.1 * draw.standard_normal(shape)
        elif name.endswith("bias"):
            values = 0.02 * draw.standard_normal(shape)
        else:
            values = 0.05 * draw.standard_normal(shape)
        state[name] = torch.from_numpy(np.asarray(values, dtype=np.float32))
    return state


@pytest.mark.parametrize("size", ["s", "b"])
def test_names_and_shapes_are_the_published_ones(
    size: str, reference: Callable[[str], Any]
) -> None:
    with torch.device("meta"):
        model = UniFormer(num_classes=400, **SIZES[size])
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == reference("uniformer_state_dict_shapes")[size]


@pytest.mark.parametrize("recomputed", [(0, 0, 0, 0), (1, 1, 2, 1)], ids=["kept", "recomputed"])
def test_logits_loss_gradients_and_statistics_are_golden(
    recomputed: tuple[int, ...], reference: Callable[[str], Any]
) -> None:
    for case in reference("uniformer_forward")["cases"]:
        model = UniFormer(
            num_classes=case["num_classes"],
            drop_path=0.0,
            split=case["split"],
            overlap_time=case["std"],
            recomputed=recomputed,
            **SIZES[case["arch"]],
        )
        model.load_state_dict(golden_state(model))
        frames = torch.from_numpy(
            np.random.RandomState(7).standard_normal(case["input_shape"]).astype(np.float32)
        )
        with torch.no_grad():
            logits = model.eval()(frames)
        torch.testing.assert_close(logits, torch.tensor(case["eval_logits"]), rtol=0, atol=1e-4)

        loss = F.cross_entropy(model.train()(frames), torch.tensor([0, 1]))
        loss.backward()
        assert abs(loss.item() - case["train_loss_cross_entropy_labels_0_1"]) < 1e-4
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            assert parameter.grad.norm().item() == pytest.approx(
                case["train_grad_l2_norm"][name], rel=1e-4, abs=1e-4
            )
        state = model.state_dict()
        for name, norm in case["running_mean_after_l2"].items():
            assert state[name].norm().item() == pytest.approx(norm, abs=1e-4)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("amp", [None, torch.bfloat16])
def test_recomputed_activations_change_no_bit(split: bool, amp: torch.dtype | None) -> None:
    torch.manual_seed(0)
    kept = UniFormer(**TINY, drop_path=0.3, dropout=0.1, attention_dropout=0.1, split=split)
    recomputed = UniFormer(
        **TINY,
        drop_path=0.3,
        dropout=0.1,
        attention_dropout=0.1,
        split=split,
        recomputed=(2, 1, 2, 1),
    )
    recomputed.load_state_dict(kept.state_dict())
    losses = []
    for model in (kept.train(), recomputed.train()):
        torch.manual_seed(1)
        for _ in range(2):
            frames = torch.randn(4, 3, 4, 32, 32)
            with torch.autocast("cpu", amp, enabled=amp is not None):
                loss = F.cross_entropy(model(frames).float(), torch.tensor([0, 1, 2, 3]))
            loss.backward()
            losses.append(loss.item())
    assert losses[:2] == losses[2:]
    for (name, one), other in zip(kept.named_parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), name  # type: ignore[arg-type]
    for (name, buffer), again in zip(kept.named_buffers(), recomputed.buffers(), strict=True):
        assert torch.equal(buffer, again), name


@pytest.mark.parametrize(("size", "millions"), [("s", 21.40), ("b", 49.81)])
def test_parameters_equal_the_published_table(size: str, millions: float) -> None:
    with torch.device("meta"):
        model = UniFormer(num_classes=400, **SIZES[size])
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.005)


def cfg_of(size: str) -> CfgNode:
    cfg = default_cfg()
    cfg.UNIFORMER.DEPTH = list(SIZES[size]["depths"])
    return cfg


@pytest.mark.parametrize(
    ("size", "num_frames", "giga"),
    [("s", 8, 17.61), ("s", 16, 41.76), ("s", 32, 109.6), ("b", 16, 96.74)],
)
def test_multiply_adds_equal_the_published_table(size: str, num_frames: int, giga: float) -> None:
    build = partial(build_model, cfg_of(size))
    multiply_adds = count_multiply_adds(build, num_frames=num_frames, size=224)
    assert multiply_adds / 1e9 == pytest.approx(giga, rel=5e-4)


def test_multiply_adds_equal_those_of_fvcore() -> None:
    def attention_cost(inputs: list[Any], outputs: list[Any]) -> int:
        batch, heads, tokens, head_dim = inputs[0].type().sizes()
        return 2 * batch * heads * tokens**2 * head_dim

    analysis = FlopCountAnalysis(build_model(cfg_of("s")).eval(), torch.zeros(1, 3, 4, 64, 64))
    analysis.set_op_handle("aten::scaled_dot_product_attention", attention_cost)
    expected = analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total()
    assert count_multiply_adds(partial(build_model, cfg_of("s")), num_frames=4, size=64) == expected


def test_the_split_block_attends_over_time_then_space() -> None:
    torch.manual_seed(0)
    block = global_block(UniFormer(**TINY, split=True).eval())
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 16, 3, 2, 4)
    # Oracle: loops over positions and frames.
    x1 = x + block.pos_embed(x)
    after_time = torch.empty_like(x1)
    for h in range(2):
        for w in range(4):
            tokens = x1[:, :, :, h, w].transpose(1, 2)  # (B, T, C)
            after_time[:, :, :, h, w] = (tokens + block.t_attn(block.t_norm(tokens))).transpose(
                1, 2
            )
    out = torch.empty_like(x1)
    for t in range(3):
        tokens = after_time[:, :, t].flatten(2).transpose(1, 2)  # (B, H*W, C)
        tokens = x1[:, :, t].flatten(2).transpose(1, 2) + block.attn(block.norm1(tokens))
        tokens = tokens + block.mlp(block.norm2(tokens))
        out[:, :, t] = tokens.transpose(1, 2).unflatten(2, (2, 4))
    torch.testing.assert_close(block(x), out, rtol=1e-4, atol=1e-4)


def test_attention_over_time_starts_as_the_identity() -> None:
    block = global_block(UniFormer(**TINY, split=True))
    assert block.t_attn(torch.randn(2, 3, 16)).abs().max() == 0


def test_std_patch_embeddings_overlap_and_keep_the_frames() -> None:
    model: Any = UniFormer(**TINY, overlap_time=True)
    embeddings = [model.get_submodule(f"patch_embed{stage}") for stage in (1, 2, 3, 4)]
    kernels = [embedding.proj.kernel_size for embedding in embeddings]
    assert kernels == [(3, 4, 4), (3, 2, 2), (3, 2, 2), (3, 2, 2)]
    assert model.patch_embed2(torch.zeros(1, 8, 4, 16, 16)).shape == (1, 8, 4, 8, 8)


def test_drop_path_rises_linearly_over_all_blocks() -> None:
    model = UniFormer(**TINY, drop_path=0.5)
    rates = []
    for stage in (model.blocks1, model.blocks2, model.blocks3, model.blocks4):
        rates += [module.rate for module in stage.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("split", [False, True])
def test_activations_stay_channels_last_up_to_the_head(num_threads: int, split: bool) -> None:
    model = UniFormer(**TINY, drop_path=0.0, split=split).train()
    layouts = {}

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            order = torch.channels_last_3d if output.dim() == 5 else torch.contiguous_format
            layouts[name] = output.is_contiguous(memory_format=order)

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv3d | nn.BatchNorm3d | nn.LayerNorm | nn.Linear | nn.GELU):
            module.register_forward_hook(record(name))
    threads_before = torch.get_num_threads()
    # torch chooses kernels, and with them layouts, by the number of threads.
    torch.set_num_threads(num_threads)
    model(torch.randn(2, 3, 4, 64, 64))
    torch.set_num_threads(threads_before)
    assert layouts
    assert not [name for name, is_kept in layouts.items() if not is_kept]


@pytest.mark.parametrize("shape", [(1, 3, 1, 32, 32), (2, 3, 5, 40, 72), (1, 3, 7, 33, 95)])
def test_any_size_and_number_of_frames_is_accepted(shape: tuple[int, ...]) -> None:
    assert UniFormer(**TINY).eval()(torch.randn(shape)).shape == (shape[0], 5)


def test_frames_below_one_patch_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 32x32 pixels, not \\(31, 64\\)"):
        UniFormer(**TINY)(torch.zeros(1, 3, 4, 31, 64))


def test_clips_of_a_batch_are_independent_in_evaluation() -> None:
    torch.manual_seed(0)
    model = UniFormer(**TINY).eval()
    frames = torch.randn(3, 3, 4, 32, 32)
    torch.testing.assert_close(model(frames)[1:2], model(frames[1:2]), rtol=1e-4, atol=1e-5)


def test_head_dropout_acts_on_the_mean_over_all_tokens() -> None:
    plain, dropped = (UniFormer(**TINY, drop_path=0.0, head_dropout=rate) for rate in (0.0, 0.5))
    dropped.load_state_dict(plain.state_dict())
    frames = torch.randn(4, 3, 4, 32, 32)
    torch.testing.assert_close(plain.eval()(frames), dropped.eval()(frames))
    for model in (plain, dropped):
        model.train().head = nn.Identity()
    features, seen = plain(frames), dropped(frames)
    is_kept = seen != 0
    assert 0.2 < is_kept.float().mean() < 0.8
    torch.testing.assert_close(seen, torch.where(is_kept, 2 * features, 0.0))


# ---- Features, heads and stages --------------------------------------------------------------


@pytest.mark.parametrize("head", ["linear", "mlp", "attentive"])
def test_logits_are_the_head_of_the_features_to_the_bit(head: str) -> None:
    torch.manual_seed(0)
    model = UniFormer(**TINY, head=head).eval()
    frames = torch.randn(2, 3, 4, 64, 96)
    with torch.no_grad():
        logits, features = model(frames), model.forward_features(frames)
        assert features.shape == (2, model.num_features, 2, 2, 3)
        assert torch.equal(model.forward_head(features), logits)
        pooled = model.forward_head(features, pre_logits=True)
        torch.testing.assert_close(model.head(pooled), logits)
        if head != "attentive":
            torch.testing.assert_close(pooled, features.mean(dim=(2, 3, 4)))

        model.reset_classifier(0)
        assert model.num_classes == 0
        assert torch.equal(model(frames), pooled)
        model.reset_classifier(9)
        assert model(frames).shape == (2, model.num_classes) == (2, 9)
        assert list(model.state_dict())[-1].startswith("head.")
        without = UniFormer(**{**TINY, "num_classes": 0}, head=head)
        assert without(frames).shape == (2, model.num_features)


def test_stages_are_what_their_last_blocks_return() -> None:
    model = UniFormer(**TINY).eval()
    returned: list[Tensor] = []
    for stage in (model.blocks1, model.blocks2, model.blocks3, model.blocks4):
        stage[-1].register_forward_hook(lambda block, inputs, output: returned.append(output))
    frames = torch.randn(1, 3, 4, 64, 64)
    with torch.no_grad():
        stages, features = model.forward_stages(frames), model.forward_features(frames)
    assert [tuple(volume.shape) for volume in stages] == [
        (1, 8, 2, 16, 16),
        (1, 8, 2, 8, 8),
        (1, 16, 2, 4, 4),
        (1, 16, 2, 2, 2),
    ]
    for volume, expected in zip(stages, returned[:4], strict=True):
        assert torch.equal(volume, expected)
    assert torch.equal(model.norm(stages[-1]), features)


def test_a_new_classifier_keeps_the_dtype_of_the_model() -> None:
    model = UniFormer(**TINY).double()
    model.reset_classifier(3)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert 0.01 < model.head.weight.std() < 0.03
    assert model.head.bias.abs().max() == 0
