"""The least number of recomputed blocks that fits: what activations take is compared with what a real step keeps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slowfast.config import CfgNode
from slowfast.engine.recompute import activation_bytes, choose_recomputed, kept_tensors
from slowfast.engine.train import train
from slowfast.models.uniformer import UniFormer
from slowfast.utils.checkpoint import checkpoint_path, load_checkpoint

TinyCfg = Callable[..., CfgNode]
TINY: dict[str, Any] = {
    "num_classes": 5,
    "dims": (8, 8, 16, 16),
    "depths": (2, 1, 2, 1),
    "head_dim": 8,
}
SHAPE = (2, 3, 4, 32, 32)


@pytest.mark.parametrize("recomputed", [(0, 0, 0, 0), (1, 0, 2, 0), (2, 1, 2, 1)])
@pytest.mark.parametrize("amp", [None, torch.bfloat16])
def test_predicted_bytes_are_those_that_a_step_keeps(
    recomputed: tuple[int, ...], amp: torch.dtype | None
) -> None:
    model = UniFormer(**TINY, drop_path=0.2).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    predicted = activation_bytes(model, recomputed, shape=SHAPE, amp=amp)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.recomputed = recomputed
    with kept_tensors() as kept, torch.autocast("cpu", amp, enabled=amp is not None):
        model(torch.randn(SHAPE)).float().logsumexp(dim=1).mean()
    own = {tensor.untyped_storage()._cdata for tensor in model.state_dict().values()}
    storages = {
        tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in kept
    }
    measured = sum(size for storage, size in storages.items() if storage not in own)
    assert predicted == pytest.approx(
        measured, rel=0.02
    )  # the state of the random numbers is kept as well


def test_as_few_blocks_as_fit_are_recomputed_and_too_little_memory_says_so() -> None:
    model = UniFormer(**TINY, drop_path=0.2).train()
    none = activation_bytes(model, (0, 0, 0, 0), shape=(8, 3, 4, 32, 32), amp=None)

    def chosen(share: float) -> tuple[int, ...]:
        model.recomputed = (0, 0, 0, 0)
        choose_recomputed(
            model, shape=(8, 3, 4, 32, 32), amp=None, limit=share * none, remedy="more ACCUM_STEPS"
        )
        return model.recomputed

    assert chosen(1.0) == (0, 0, 0, 0)
    counts = [sum(chosen(share)) for share in (0.95, 0.8, 0.7)]
    assert counts == sorted(counts)
    assert 0 < counts[0] < counts[-1]
    assert chosen(0.8)[0] == 2  # the first stage has the largest activations
    with pytest.raises(
        ValueError, match=r"even with all blocks recomputed, .* of 8 clips take .*ACCUM_STEPS"
    ):
        chosen(0.01)


def test_a_run_that_chooses_ends_in_the_same_weights_to_the_bit(
    tiny_cfg: TinyCfg, tmp_path: Path
) -> None:
    states = []
    for gib in (0.0, 0.001):
        settings = {
            "MODEL__CHECKPOINT_AUTO": gib > 0,
            "MODEL__CHECKPOINT_MEMORY": gib,
            "SOLVER__MAX_EPOCH": 1,
        }
        cfg = tiny_cfg(OUTPUT_DIR=tmp_path / str(gib), **settings)
        train(cfg)
        states.append(load_checkpoint(checkpoint_path(cfg.OUTPUT_DIR, epoch=1))["model_state"])
    assert "with MODEL.CHECKPOINT_NUM [1, " in (tmp_path / "0.001/stdout.log").read_text()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
