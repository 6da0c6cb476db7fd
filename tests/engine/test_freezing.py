"""MODEL.FREEZE in a training: frozen weights and statistics keep their bits, all others change."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slowfast.config import CfgNode
from slowfast.engine.build import build_state
from slowfast.engine.ema import ModelEma
from slowfast.engine.recompute import (
    MARGIN,
    activation_budget,
    activation_bytes,
    choose_recomputed,
    kept_tensors,
)
from slowfast.engine.resume import start_run
from slowfast.engine.train import build_training, train
from slowfast.models.freezing import freeze
from slowfast.models.uniformer import UniFormer
from slowfast.utils.checkpoint_files import checkpoint_path
from slowfast.utils.progress import start_logging
from tests.engine.equal_runs import assert_equal, assert_equal_ends
from tests.engine.frozen_run import SETTINGS, check_end, is_frozen_name
from tests.engine.outputs import final_state
from tests.engine.small_step import TINY, Small, small_batch, small_train_step

TinyCfg = Callable[..., CfgNode]

SHAPE = (2, 3, 4, 32, 32)

# ---- Whole runs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"TRAIN__AMP": "fp16", "SOLVER__FUSED": False, "SOLVER__CLIP_GRADIENT": 0.1},
        {
            "SOLVER__OPTIMIZING_METHOD": "sgd",
            "SOLVER__ACCUM_STEPS": 2,
            "TRAIN__AMP": "bf16",
            "MODEL__USE_CHECKPOINT": True,
            "MODEL__CHECKPOINT_NUM": [1, 1, 2, 1],
        },
    ],
    ids=["adamw", "sgd"],
)
def test_a_training_leaves_what_is_frozen_as_it_was(
    tiny_cfg: TinyCfg, changes: dict[str, Any]
) -> None:
    cfg = tiny_cfg(**SETTINGS, **changes, SOLVER__MAX_EPOCH=1)
    train(cfg)
    check_end(cfg, final_state(cfg))


def test_a_resumed_run_ends_bit_equal(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    quiet = tiny_cfg(**SETTINGS, OUTPUT_DIR=tmp_path / "quiet")
    train(quiet)
    check_end(quiet, final_state(quiet))
    resumed = tiny_cfg(**SETTINGS, OUTPUT_DIR=tmp_path / "resumed")
    first = checkpoint_path(resumed.OUTPUT_DIR, epoch=1)
    first.parent.mkdir(parents=True)
    first.write_bytes(checkpoint_path(quiet.OUTPUT_DIR, epoch=1).read_bytes())
    train(resumed)
    assert "resuming at epoch 2" in (tmp_path / "resumed/stdout.log").read_text()
    assert_equal_ends(tmp_path / "quiet", tmp_path / "resumed")

    settings = {**SETTINGS, "MODEL__FREEZE": ["blocks1"], "OUTPUT_DIR": tmp_path / "resumed"}
    with pytest.raises(ValueError, match=r"MODEL\.FREEZE: \['patch_embed1', .* there, \['blocks1'"):
        train(tiny_cfg(**settings))
    message = r"trained with \d+ parameters frozen, but here \d+ are.* another OUTPUT_DIR"
    with pytest.raises(ValueError, match=message):
        train(tiny_cfg(**settings, TRAIN__RESUME_WITH_CHANGES=True))


def test_random_weights_are_not_frozen_unnoticed(
    tiny_cfg: TinyCfg, trained_cfg: TinyCfg, tmp_path: Path
) -> None:
    weights = checkpoint_path(trained_cfg(SOLVER__MAX_EPOCH=1).OUTPUT_DIR, epoch=1)
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefgh"))

    def log_of(patterns: list[str], **settings: Any) -> str:
        folder = tmp_path / f"{len(settings)} {patterns[0]}"
        start_logging(is_main=True)
        start_run(tiny_cfg(OUTPUT_DIR=folder, MODEL__FREEZE=patterns, **settings))
        return (folder / "stdout.log").read_text()

    assert "keeps 4 parameters at random values" in log_of(["patch_embed2"])
    start = {"TRAIN__CHECKPOINT_FILE_PATH": weights}
    assert "at random values" not in log_of(["patch_embed1", "head"], **start)
    new_head = log_of(["blocks1", "head"], **start, DATA__CLASS_NAMES=names)
    assert "2 parameters at random values, because no start weights were loaded" in new_head
    assert "for them: head.weight, head.bias." in new_head


def test_a_frozen_head_is_reordered_when_a_run_resumes(tiny_cfg: TinyCfg) -> None:
    state = build_state(tiny_cfg(MODEL__FREEZE=["head"], SOLVER__BASE_LR=0.1))
    state.model(torch.randn(2, 3, 4, 32, 32)).sum().backward()
    state.optimizer.step()
    head = state.model.get_parameter("head.weight").clone()

    saved = copy.deepcopy(state.state_dict())
    state.class_names.reverse()
    state.load_state_dict(saved, path="a file")
    assert torch.equal(state.model.get_parameter("head.weight"), head.flip(0))
    assert_equal(state.state_dict()["optimizer_state"], saved["optimizer_state"])


def test_other_frozen_weights_are_refused_in_the_same_groups(tiny_cfg: TinyCfg) -> None:
    settings = {"UNIFORMER__DEPTH": "[2,1,1,1]"}
    first, second, third = (
        build_state(tiny_cfg(**settings, MODEL__FREEZE=[pattern]))
        for pattern in ("blocks1.0", "blocks1.1", "blocks1.0.*")
    )
    with pytest.raises(ValueError, match=r"a file: was trained with 16 parameters frozen"):
        second.load_state_dict(first.state_dict(), path="a file")
    third.load_state_dict(first.state_dict(), path="a file")


def test_the_log_counts_what_is_trained(
    tiny_cfg: TinyCfg, caplog: pytest.LogCaptureFixture
) -> None:
    # The head has 8 * 1200 weights and 8 biases.
    sizes = {"UNIFORMER__EMBED_DIM": "[8,8,8,1200]", "UNIFORMER__DEPTH": "[0,0,0,0]"}
    cfg = tiny_cfg(**sizes, MODEL__FREEZE=["[!h]*"])
    Path(cfg.OUTPUT_DIR).mkdir()
    with caplog.at_level("INFO"):
        build_training(cfg, None)
    assert re.search(r"Uniformer: \d+\.\d\d M parameters \(0\.01 M trainable\), ", caplog.text)


# ---- One step --------------------------------------------------------------------------------


def test_the_optimizer_has_the_trained_parameters_alone(tiny_cfg: TinyCfg) -> None:
    state = build_state(tiny_cfg(**SETTINGS))
    grouped = {id(p) for group in state.optimizer.param_groups for p in group["params"]}
    names = {name for name, p in state.model.named_parameters() if id(p) in grouped}
    assert names == {name for name, _ in state.model.named_parameters() if not is_frozen_name(name)}


def test_a_pattern_without_a_match_stops_a_training(tiny_cfg: TinyCfg) -> None:
    with pytest.raises(ValueError, match=r"MODEL\.FREEZE: 'norms' matches no .* names are norm"):
        build_state(tiny_cfg(MODEL__FREEZE="[norms]"))
    with pytest.raises(ValueError, match=r"MODEL\.FREEZE is \['\*'\], which leaves nothing"):
        build_state(tiny_cfg(MODEL__FREEZE="['*']"))


def test_the_gradient_norm_counts_trained_parameters_alone() -> None:
    model = Small()
    freeze(model, ["block"])
    batch = small_batch(is_finite=True)
    loss = F.cross_entropy(model(batch.frames), batch.labels)
    gradients = torch.autograd.grad(loss, [*model.head.parameters()])
    expected = torch.cat([gradient.flatten() for gradient in gradients]).norm()

    result = small_train_step(model).run((batch,), lr=0.1)
    torch.testing.assert_close(result.grad_norm, expected)


def test_the_ema_of_a_frozen_weight_is_the_weight_to_the_bit() -> None:
    norm, linear = nn.BatchNorm1d(2), nn.Linear(2, 2)
    model = nn.Sequential(norm, linear)
    for name in ("0.weight", "0.running_mean", "1.bias"):
        model.state_dict()[name].fill_(-0.0)  # -0.0 + 0 would be 0.0
    freeze(model, ["0", "1.bias"])
    ema = ModelEma(model, decay=0.75)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        linear.weight.add_(1)

    ema.update(model, is_skipped=torch.tensor(False))
    for name, tensor in ema.model.state_dict().items():
        expected = before[name] + 0.25 if name == "1.weight" else before[name]
        assert torch.equal(tensor.signbit(), expected.signbit()), name
        torch.testing.assert_close(tensor, expected)


# ---- Memory ----------------------------------------------------------------------------------


def test_the_budget_reserves_nothing_for_frozen_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10_000, 20_000))
    model = nn.Sequential(nn.Linear(9, 10), nn.Linear(9, 20))  # 400 and 800 bytes of weights
    freeze(model, ["1"])
    budget = activation_budget(
        model, num_moments=2, num_gradient_copies=1.0, has_ema=True, input_bytes=0
    )
    assert budget == pytest.approx((1 - MARGIN) * (10_000 - 3 * 400 - 1200))


def test_predicted_bytes_leave_out_a_frozen_start() -> None:
    model = UniFormer(**TINY, drop_path=0.2).train()
    whole = activation_bytes(model, (0, 0, 0, 0), shape=SHAPE, amp=None)
    freeze(model, ["patch_embed[12]", "blocks1"])
    predicted = [
        activation_bytes(model, recomputed, shape=SHAPE, amp=None)
        for recomputed in ((0, 0, 0, 0), (1, 0, 0, 0))
    ]
    with kept_tensors() as kept:
        model(torch.randn(SHAPE)).float().logsumexp(dim=1).mean()

    own = {tensor.untyped_storage()._cdata for tensor in model.state_dict().values()}
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in kept}
    measured = sum(storage.nbytes() for key, storage in storages.items() if key not in own)
    assert predicted[0] == predicted[1] == pytest.approx(measured, rel=0.02)
    assert predicted[0] < whole / 2


def test_recomputing_blocks_behind_frozen_ones_needs_their_memory() -> None:
    model = UniFormer(**(TINY | {"depths": (3, 3, 3, 3)}), drop_path=0.2).train()
    freeze(model, ["patch_embed1", "blocks1.[01]"])
    none, one, every = (
        activation_bytes(model, recomputed, shape=SHAPE, amp=None)
        for recomputed in ((0, 0, 0, 0), (3, 0, 0, 0), (3, 3, 3, 3))
    )
    # While the third block is recomputed, its own activations are in memory again, and gradients.
    least = every + 2 * (none - one)
    with pytest.raises(ValueError, match="even with all blocks recomputed"):
        choose_recomputed(model, shape=SHAPE, amp=None, budget=least - 1)
    choose_recomputed(model, shape=SHAPE, amp=None, budget=least)
    assert model.recomputed[0] == 3
