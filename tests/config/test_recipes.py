"""The recipes in configs/ against what the published experiments that inherit from them set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slowfast.config import load_cfg


@pytest.mark.parametrize(
    ("recipe", "model", "experiment"),
    [
        ("kinetics", "uniformer_s", "uniformer_s16x4_k400"),
        ("kinetics", "uniformer_b", "uniformer_b16x4_k400"),
        ("ssv1", "uniformer_s", "uniformer_s16_sthv1_prek400"),
        ("ssv2", "uniformer_b", "uniformer_b16_sthv2_prek400"),
    ],
)
def test_a_recipe_sets_what_its_experiments_have_in_common(
    repository: Path, tmp_path: Path, reference: Callable[[str], Any], recipe: str, model: str, experiment: str
) -> None:
    configs = repository / "configs"
    path = tmp_path / "x.yaml"
    path.write_text(f"_BASE_: [{configs}/{recipe}.yaml, {configs}/models/{model}.yaml]")
    cfg = load_cfg(str(path))
    case = next(case for case in reference("experiments") if case["exp"] == experiment)
    expected, test = case["train"], case["test_protocol"]
    crop = {
        "scale": cfg.DATA.TRAIN_JITTER_SCALES_RELATIVE,
        "ratio": cfg.DATA.TRAIN_JITTER_ASPECT_RELATIVE,
    }
    actual = {
        "use_offset_sampling": cfg.DATA.USE_OFFSET_SAMPLING,
        "num_gpus": cfg.NUM_GPUS,
        "repeated_aug": cfg.AUG.NUM_SAMPLE,
        "warmup_epochs": cfg.SOLVER.WARMUP_EPOCHS,
        "lr_scale_num_shards": cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS,
        "warmup_start_lr_effective": cfg.SOLVER.WARMUP_START_LR,
        "cosine_end_lr_effective": cfg.SOLVER.COSINE_END_LR,
        "optimizer": cfg.SOLVER.OPTIMIZING_METHOD,
        "weight_decay": cfg.SOLVER.WEIGHT_DECAY,
        "zero_wd_1d": cfg.SOLVER.ZERO_WD_1D_PARAM,
        "clip_grad_norm": cfg.SOLVER.CLIP_GRADIENT,
        "lr_policy": cfg.SOLVER.LR_POLICY,
        "cosine_after_warmup": cfg.SOLVER.COSINE_AFTER_WARMUP,
        "label_smoothing": cfg.MIXUP.LABEL_SMOOTH_VALUE,
        "mixup_alpha": cfg.MIXUP.ALPHA,
        "cutmix_alpha": cfg.MIXUP.CUTMIX_ALPHA,
        "mix_prob": cfg.MIXUP.PROB,
        "switch_prob": cfg.MIXUP.SWITCH_PROB,
        "loss": cfg.MODEL.LOSS_FUNC,
        "rand_augment": cfg.AUG.AA_TYPE,
        "interpolation": cfg.AUG.INTERPOLATION,
        "random_erasing": {"prob": cfg.AUG.RE_PROB, "mode": cfg.AUG.RE_MODE, "count": cfg.AUG.RE_COUNT},
        "random_resized_crop": crop,
        "horizontal_flip": cfg.DATA.RANDOM_FLIP,
        "train_crop_size": cfg.DATA.TRAIN_CROP_SIZE,
        "mean": cfg.DATA.MEAN,
        "std": cfg.DATA.STD,
        "num_classes_effective": cfg.MODEL.NUM_CLASSES,
        "num_workers": cfg.DATA_LOADER.NUM_WORKERS,
        "eval_period": cfg.TRAIN.EVAL_PERIOD,
        "checkpoint_period": cfg.TRAIN.CHECKPOINT_PERIOD,
        "embed_dim": cfg.UNIFORMER.EMBED_DIM,
        "depth": cfg.UNIFORMER.DEPTH,
    }
    assert actual == {name: expected[name] for name in actual}
    protocol = (cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS, cfg.DATA.TEST_CROP_SIZE, cfg.TEST.BATCH_SIZE)
    assert protocol == (test["clips"], test["crops"], test["crop_size"], test["batch_size"])
    assert cfg.DATA.TEST_SHORT_SIDE in (0, test["resize_short_side"])
