"""The config of each experiment is the published one, field by field."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn

from slowfast.config import CfgNode, default_cfg
from slowfast.config.retired import RETIRED
from slowfast.datasets.build import DATASETS, build_annotations
from slowfast.engine.build import build_lr_schedule, build_optimizer
from slowfast.models.zoo import published
from tests.exp.experiments import EXPERIMENTS, LIGHT_TABLE, ROOT, TABLE, load_experiment

# Fields that are keys, and where they are.
KEYS = {
    "train.num_frames": "DATA.NUM_FRAMES",
    "train.sampling_rate": "DATA.SAMPLING_RATE",
    "train.use_offset_sampling": "DATA.USE_OFFSET_SAMPLING",
    "train.num_gpus": "NUM_GPUS",
    "train.num_shards": "NUM_SHARDS",
    "train.batch_size_per_shard": "TRAIN.BATCH_SIZE",
    "train.repeated_aug": "AUG.NUM_SAMPLE",
    "train.epochs": "SOLVER.MAX_EPOCH",
    "train.warmup_epochs": "SOLVER.WARMUP_EPOCHS",
    "train.base_lr_written": "SOLVER.BASE_LR",
    "train.lr_scale_num_shards": "SOLVER.BASE_LR_SCALE_NUM_SHARDS",
    "train.optimizer": "SOLVER.OPTIMIZING_METHOD",
    "train.weight_decay": "SOLVER.WEIGHT_DECAY",
    "train.zero_wd_1d": "SOLVER.ZERO_WD_1D_PARAM",
    "train.clip_grad_norm": "SOLVER.CLIP_GRADIENT",
    "train.lr_policy": "SOLVER.LR_POLICY",
    "train.cosine_after_warmup": "SOLVER.COSINE_AFTER_WARMUP",
    "train.drop_path": "UNIFORMER.DROP_DEPTH_RATE",
    "train.attn_dropout": "UNIFORMER.ATTENTION_DROPOUT_RATE",
    "train.label_smoothing": "MIXUP.LABEL_SMOOTH_VALUE",
    "train.mixup_alpha": "MIXUP.ALPHA",
    "train.cutmix_alpha": "MIXUP.CUTMIX_ALPHA",
    "train.mix_prob": "MIXUP.PROB",
    "train.switch_prob": "MIXUP.SWITCH_PROB",
    "train.loss": "MODEL.LOSS_FUNC",
    "train.rand_augment": "AUG.AA_TYPE",
    "train.interpolation": "AUG.INTERPOLATION",
    "train.random_erasing.prob": "AUG.RE_PROB",
    "train.random_erasing.mode": "AUG.RE_MODE",
    "train.random_erasing.count": "AUG.RE_COUNT",
    "train.random_resized_crop.scale": "DATA.TRAIN_JITTER_SCALES_RELATIVE",
    "train.random_resized_crop.ratio": "DATA.TRAIN_JITTER_ASPECT_RELATIVE",
    "train.horizontal_flip": "DATA.RANDOM_FLIP",
    "train.train_crop_size": "DATA.TRAIN_CROP_SIZE",
    "train.mean": "DATA.MEAN",
    "train.std": "DATA.STD",
    "train.pretrain_name": "UNIFORMER.PRETRAIN_NAME",
    "train.activation_checkpointing": "MODEL.USE_CHECKPOINT",
    "train.checkpoint_num": "MODEL.CHECKPOINT_NUM",
    "train.num_classes_effective": "MODEL.NUM_CLASSES",
    "train.rng_seed": "RNG_SEED",
    "train.num_workers": "DATA_LOADER.NUM_WORKERS",
    "train.eval_period": "TRAIN.EVAL_PERIOD",
    "train.checkpoint_period": "TRAIN.CHECKPOINT_PERIOD",
    "train.embed_dim": "UNIFORMER.EMBED_DIM",
    "train.depth": "UNIFORMER.DEPTH",
    "test_protocol.clips": "TEST.NUM_ENSEMBLE_VIEWS",
    "test_protocol.crops": "TEST.NUM_SPATIAL_CROPS",
    "test_protocol.crop_size": "DATA.TEST_CROP_SIZE",
    "test_protocol.num_frames": "DATA.NUM_FRAMES",
    "test_protocol.sampling_rate": "DATA.SAMPLING_RATE",
    "test_protocol.batch_size": "TEST.BATCH_SIZE",
}


def round_digits(value: float) -> float:
    return float(f"{value:.12g}")


def published_name(dataset: str) -> str:
    return {"ssv1": "sth", "ssv2": "sth"}.get(dataset, dataset)


def find_label_path(cfg: CfgNode) -> str | None:
    dataset = DATASETS[cfg.TRAIN.DATASET]
    default = dataset.list_templates[0] if dataset.is_frames else None
    return cfg.DATA.LABEL_PATH_TEMPLATE or default


def find_pretraining(cfg: CfgNode) -> str:
    name = cfg.UNIFORMER.PRETRAIN_NAME.split("_")[2]
    return {"in1k": "ImageNet-1K", "k400": "K400", "k600": "K600"}[name]


def find_betas(cfg: CfgNode) -> list[float]:
    return list(build_optimizer(cfg, nn.Linear(1, 1)).param_groups[0]["betas"])


# Fields that follow from several keys, or from what a key means.
DERIVED: dict[str, Callable[[CfgNode], Any]] = {
    "model": lambda cfg: {3: "UniFormer-S", 5: "UniFormer-B"}[cfg.UNIFORMER.DEPTH[0]],
    "published.frames_x_crops_x_clips": lambda cfg: (
        f"{cfg.DATA.NUM_FRAMES}x{cfg.TEST.NUM_SPATIAL_CROPS}x{cfg.TEST.NUM_ENSEMBLE_VIEWS}"
    ),
    "published.stride": lambda cfg: (
        None if DATASETS[cfg.TRAIN.DATASET].is_segmented else cfg.DATA.SAMPLING_RATE
    ),
    "published.pretrain": find_pretraining,
    "train.dataset": lambda cfg: published_name(cfg.TRAIN.DATASET),
    "train.temporal_sampling": lambda cfg: (
        "segment-based (TSN): one random frame per segment"
        if DATASETS[cfg.TRAIN.DATASET].is_segmented
        else "dense: random start, linspace"
    ),
    "train.batch_size_global": lambda cfg: cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS,
    "train.batch_size_per_gpu": lambda cfg: cfg.TRAIN.BATCH_SIZE // cfg.NUM_GPUS,
    "train.clips_per_step_global": lambda cfg: (
        cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS * cfg.AUG.NUM_SAMPLE
    ),
    "train.base_lr_effective": lambda cfg: round_digits(
        build_lr_schedule(cfg).lr_at(cfg.SOLVER.WARMUP_EPOCHS)
    ),
    "train.warmup_start_lr_effective": lambda cfg: round_digits(build_lr_schedule(cfg).lr_at(0)),
    "train.cosine_end_lr_effective": lambda cfg: round_digits(
        build_lr_schedule(cfg).lr_at(cfg.SOLVER.MAX_EPOCH)
    ),
    "train.betas": find_betas,
    "train.dropout_effective": lambda cfg: (
        cfg.UNIFORMER.DROPOUT_RATE + cfg.UNIFORMER.HEAD_DROPOUT_RATE
    ),
    "data.label_path_template": find_label_path,
    "data.image_template": lambda cfg: (
        cfg.DATA.IMAGE_TEMPLATE if DATASETS[cfg.TRAIN.DATASET].is_frames else None
    ),
    "test_protocol.dataset": lambda cfg: published_name(cfg.TEST.DATASET),
    "test_protocol.resize_short_side": lambda cfg: (
        cfg.DATA.TEST_SHORT_SIDE or cfg.DATA.TEST_CROP_SIZE
    ),
    "test_protocol.ensemble": lambda cfg: {"sum": "sum of raw logits over views"}[
        cfg.DATA.ENSEMBLE_METHOD
    ],
}

# Fields that no config holds. They have tests of their own, or there is nothing to test.
ELSEWHERE = {
    "exp",
    "published.flops",
    "published.top1",
    "published.weights_linked",
    "train.num_classes_expected",
    "data.path_to_data_dir",
    "data.label_separator",
    "benchmark",  # its title
    "published.config_link",  # one link on the published page is wrong
}

# Keys that experiments set without a field of their own.
UNLISTED = {
    "AUG.ENABLE",  # on for all
    "DATA.IMAGE_TEMPLATE",
    "MIXUP.ENABLE",  # on for all
    "OUTPUT_DIR",
    "SOLVER.COSINE_END_LR",  # cosine_end_lr_effective
    "SOLVER.WARMUP_START_LR",  # warmup_start_lr_effective
    "TENSORBOARD.ENABLE",
    "TEST.DATASET",
    "TEST.TEST_BEST",  # set by the published scripts of UCF101 and HMDB51
    "TRAIN.DATASET",
}


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def read_key(cfg: CfgNode, key: str) -> Any:
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def test_there_is_a_folder_with_three_files_for_every_experiment() -> None:
    folders = {path.name: path for path in (ROOT / "exp").iterdir() if path.is_dir()}
    del folders["quickstart"]
    assert set(folders) == set(EXPERIMENTS)
    assert len(EXPERIMENTS) == 39
    for path in folders.values():
        assert {file.name for file in path.iterdir()} == {"config.yaml", "run.sh", "test.sh"}


@pytest.mark.parametrize("exp", TABLE)
def test_the_effective_config_is_the_published_one(exp: str) -> None:
    cfg = load_experiment(exp)
    actual = {field: read_key(cfg, key) for field, key in KEYS.items()}
    actual |= {field: derive(cfg) for field, derive in DERIVED.items()}
    assert set(actual) | ELSEWHERE == set(dict(flatten(TABLE[exp])))
    assert actual == {field: value for field, value in flatten(TABLE[exp]) if field in actual}


@pytest.mark.parametrize("exp", TABLE)
def test_an_experiment_sets_no_key_that_the_table_does_not_know(exp: str) -> None:
    defaults = dict(flatten(default_cfg()))
    changed = {key for key, value in flatten(load_experiment(exp)) if value != defaults[key]}
    assert changed <= set(KEYS.values()) | UNLISTED
    assert read_key(load_experiment(exp), "OUTPUT_DIR") == f"output/{exp}"


@pytest.mark.parametrize("exp", TABLE)
def test_the_warm_up_is_linear_and_the_cosine_passes_its_middle(exp: str) -> None:
    schedule, train = build_lr_schedule(load_experiment(exp)), TABLE[exp]["train"]
    start = train["warmup_start_lr_effective"]
    base, end = train["base_lr_effective"], train["cosine_end_lr_effective"]
    warmup_epochs = train["warmup_epochs"]
    assert schedule.lr_at(warmup_epochs / 2) == pytest.approx((start + base) / 2)
    middle = (warmup_epochs + train["epochs"]) / 2
    assert schedule.lr_at(middle) == pytest.approx((base + end) / 2)


def test_all_heads_but_one_have_the_classes_of_the_dataset() -> None:
    other = {}
    for exp, case in TABLE.items():
        num_classes = load_experiment(exp).MODEL.NUM_CLASSES
        if num_classes != case["train"]["num_classes_expected"]:
            other[exp] = num_classes
    assert other == {"uniformer_s16x4_hmdb51_prek400": 101}


@pytest.mark.parametrize(
    "exp", [exp for exp in TABLE if TABLE[exp]["train"]["dataset"] == "kinetics"]
)
def test_the_published_separator_is_understood(exp: str, tmp_path: Path) -> None:
    separator = TABLE[exp]["data"]["label_separator"]
    (tmp_path / "val.csv").write_text(f"a b/v_1.avi{separator}1\n")
    videos = build_annotations(load_experiment(exp, "DATA.PATH_TO_DATA_DIR", str(tmp_path)), "test")
    assert (videos[0].path, videos[0].label) == ("a b/v_1.avi", 1)


@pytest.mark.parametrize("exp", TABLE)
def test_the_published_weights_are_known_with_their_accuracy(exp: str) -> None:
    linked = [weights for weights in published().values() if weights.experiment == exp]
    assert len(linked) == TABLE[exp]["published"]["weights_linked"]
    top1 = float(TABLE[exp]["published"]["top1"].rstrip("*"))
    assert [weights.top1 for weights in linked] in ([], [top1])
    assert load_experiment(exp).UNIFORMER.PRETRAIN_NAME in published()


# ---- Light models ----------------------------------------------------------------------------

LIGHT_SECTIONS = ("UNIFORMER", "MODEL", "DATA", "AUG")

# Beside the settings of the table: what all published files of the light models set, and what the
# published page says of mixed precision.
LIGHT_KEYS = {
    "TRAIN.DATASET": "kinetics_sparse",
    "TRAIN.AMP": "off",
    "TEST.DATASET": "kinetics_sparse",
    "TEST.BATCH_SIZE": 64,
    "SOLVER.LR_POLICY": "cosine",
    "SOLVER.OPTIMIZING_METHOD": "adamw",
    "SOLVER.ZERO_WD_1D_PARAM": True,
    "SOLVER.COSINE_AFTER_WARMUP": True,
    "SOLVER.COSINE_END_LR": 1e-6,
    "SOLVER.WARMUP_START_LR": 1e-6,
    "SOLVER.BASE_LR_SCALE_NUM_SHARDS": True,
    "MIXUP.ENABLE": True,
    "DATA.TRAIN_JITTER_SCALES_RELATIVE": [0.08, 1.0],
    "DATA.TRAIN_JITTER_ASPECT_RELATIVE": [0.75, 1.3333],
    "NUM_SHARDS": 1,
}


def published_light_settings(exp: str) -> dict[str, Any]:
    """Return the settings of a published file with the command line of its script, by key."""
    case = LIGHT_TABLE[exp]
    settings = {
        f"{section}.{key}": value
        for section in LIGHT_SECTIONS
        for key, value in case[section].items()
    }
    settings |= {key: yaml.safe_load(text) for key, text in case["overrides"].items()}
    settings["SOLVER.BASE_LR"] = float(case["overrides"]["SOLVER.BASE_LR"])
    settings.setdefault("SOLVER.WEIGHT_DECAY", 0.05)
    return {key: value for key, value in settings.items() if key not in RETIRED}


@pytest.mark.parametrize("exp", LIGHT_TABLE)
def test_a_light_experiment_has_the_published_settings(exp: str) -> None:
    expected = published_light_settings(exp) | LIGHT_KEYS
    cfg = load_experiment(exp)
    assert {key: read_key(cfg, key) for key in expected} == expected


@pytest.mark.parametrize("exp", LIGHT_TABLE)
def test_a_light_experiment_sets_no_other_keys(exp: str) -> None:
    defaults = dict(flatten(default_cfg()))
    changed = {key for key, value in flatten(load_experiment(exp)) if value != defaults[key]}
    recipe = dict(flatten(load_experiment("uniformer_s8x8_k400")))
    others = changed - published_light_settings(exp).keys() - LIGHT_KEYS.keys() - {"OUTPUT_DIR"}
    cfg = load_experiment(exp)
    assert {key for key in others if read_key(cfg, key) != recipe[key]} == set()
    assert read_key(cfg, "OUTPUT_DIR") == f"output/{exp}"


@pytest.mark.parametrize("exp", LIGHT_TABLE)
def test_the_weights_of_a_light_experiment_are_known(exp: str) -> None:
    [entry] = [entry for entry in published().values() if entry.experiment == exp]
    expected = LIGHT_TABLE[exp]["published"]
    assert (entry.top1, entry.file) == (expected["top1"], expected["weights"])
    assert expected["drive_id"] in entry.page
    assert load_experiment(exp).UNIFORMER.PRETRAIN_NAME in published()
