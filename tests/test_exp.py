"""Every published experiment: its config against the published table, its size, and its scripts from end to end."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from slowfast.config import CfgNode, default_cfg, load_cfg
from slowfast.datasets.build import DATASETS, build_annotations
from slowfast.engine.build import build_optimizer
from slowfast.engine.optim import lr_at
from slowfast.models.build import build_model, count_multiply_adds, count_parameters
from slowfast.models.uniformer import UniFormer
from slowfast.models.zoo import published
from slowfast.preparation.motion import draw_video, write_video
from slowfast.utils.text import count

ROOT = Path(__file__).parents[1]
TABLE: dict[str, Any] = {
    case["exp"]: case
    for case in json.loads((ROOT / "tests/reference/experiments.json").read_text())
}
SAMPLE = (
    ("uniformer_s8x8_k400", False),
    ("uniformer_s16x4_hmdb51_prek400", True),
)  # in every test run

# ---- The config is the table -----------------------------------------------------------------------------------------

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

# Fields that follow from several keys, or from what a key means.
DERIVED: dict[str, Callable[[CfgNode], Any]] = {
    "model": lambda cfg: {3: "UniFormer-S", 5: "UniFormer-B"}[cfg.UNIFORMER.DEPTH[0]],
    "published.frames_x_crops_x_clips": lambda cfg: (
        f"{cfg.DATA.NUM_FRAMES}x{cfg.TEST.NUM_SPATIAL_CROPS}x{cfg.TEST.NUM_ENSEMBLE_VIEWS}"
    ),
    "published.stride": lambda cfg: (
        None if DATASETS[cfg.TRAIN.DATASET].is_segmented else cfg.DATA.SAMPLING_RATE
    ),
    "published.pretrain": lambda cfg: {"in1k": "ImageNet-1K", "k400": "K400", "k600": "K600"}[
        cfg.UNIFORMER.PRETRAIN_NAME.split("_")[2]
    ],
    "train.dataset": lambda cfg: {"ssv1": "sth", "ssv2": "sth"}.get(
        cfg.TRAIN.DATASET, cfg.TRAIN.DATASET
    ),
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
    "train.base_lr_effective": lambda cfg: rounded(lr_at(cfg, cfg.SOLVER.WARMUP_EPOCHS)),
    "train.warmup_start_lr_effective": lambda cfg: rounded(lr_at(cfg, 0)),
    "train.cosine_end_lr_effective": lambda cfg: rounded(lr_at(cfg, cfg.SOLVER.MAX_EPOCH)),
    "train.betas": lambda cfg: list(build_optimizer(cfg, nn.Linear(1, 1)).param_groups[0]["betas"]),
    "train.dropout_effective": lambda cfg: (
        cfg.UNIFORMER.DROPOUT_RATE + cfg.UNIFORMER.HEAD_DROPOUT_RATE
    ),
    "data.label_path_template": lambda cfg: (
        cfg.DATA.LABEL_PATH_TEMPLATE or DATASETS[cfg.TRAIN.DATASET].list_templates[0]
        if DATASETS[cfg.TRAIN.DATASET].is_frames
        else cfg.DATA.LABEL_PATH_TEMPLATE or None
    ),
    "data.image_template": lambda cfg: (
        cfg.DATA.IMAGE_TEMPLATE if DATASETS[cfg.TRAIN.DATASET].is_frames else None
    ),
    "test_protocol.dataset": lambda cfg: {"ssv1": "sth", "ssv2": "sth"}.get(
        cfg.TEST.DATASET, cfg.TEST.DATASET
    ),
    "test_protocol.resize_short_side": lambda cfg: (
        cfg.DATA.TEST_SHORT_SIDE or cfg.DATA.TEST_CROP_SIZE
    ),
    "test_protocol.ensemble": lambda cfg: {"sum": "sum of raw logits over views"}[
        cfg.DATA.ENSEMBLE_METHOD
    ],
}

# Fields that no config holds, each with a test of its own below, or nothing to test.
ELSEWHERE = {
    "exp",
    "published.flops",
    "published.top1",
    "published.weights_linked",
    "train.num_classes_expected",
    "data.path_to_data_dir",
    "data.label_separator",
    "benchmark",  # a title
    "published.config_link",  # a link of the published page, one of them wrong
}

# Keys that experiments set and that are no field of their own: switches of what the table takes as on, and more.
UNLISTED = {
    "AUG.ENABLE",
    "MIXUP.ENABLE",
    "TENSORBOARD.ENABLE",
    "TRAIN.DATASET",
    "TEST.DATASET",
    "OUTPUT_DIR",
} | {
    "SOLVER.WARMUP_START_LR",  # warmup_start_lr_effective
    "SOLVER.COSINE_END_LR",  # cosine_end_lr_effective
    "DATA.IMAGE_TEMPLATE",
    "TEST.TEST_BEST",  # the published scripts of UCF101 and HMDB51
}


def rounded(value: float) -> float:
    return float(f"{value:.12g}")


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def config_of(exp: str, *overrides: str) -> CfgNode:
    return load_cfg(str(ROOT / "exp" / exp / "config.yaml"), overrides)


def value_of(cfg: CfgNode, key: str) -> Any:
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def test_there_is_a_folder_with_three_files_for_every_experiment() -> None:
    folders = {
        path.name: path
        for path in (ROOT / "exp").iterdir()
        if path.is_dir() and path.name != "quickstart"
    }
    assert set(folders) == set(TABLE)
    assert len(TABLE) == 31
    for path in folders.values():
        assert {file.name for file in path.iterdir()} == {"config.yaml", "run.sh", "test.sh"}


@pytest.mark.parametrize("exp", TABLE)
def test_the_effective_config_is_the_published_one_field_by_field(exp: str) -> None:
    cfg = config_of(exp)
    actual = {field: value_of(cfg, key) for field, key in KEYS.items()}
    actual |= {field: derive(cfg) for field, derive in DERIVED.items()}
    assert set(actual) | ELSEWHERE == set(dict(flatten(TABLE[exp])))
    assert actual == {field: value for field, value in flatten(TABLE[exp]) if field in actual}


@pytest.mark.parametrize("exp", TABLE)
def test_an_experiment_sets_no_key_that_the_table_does_not_know(exp: str) -> None:
    defaults = dict(flatten(default_cfg()))
    changed = {key for key, value in flatten(config_of(exp)) if value != defaults[key]}
    assert changed <= set(KEYS.values()) | UNLISTED
    assert value_of(config_of(exp), "OUTPUT_DIR") == f"output/{exp}"


@pytest.mark.parametrize("exp", TABLE)
def test_the_warm_up_is_linear_and_the_cosine_passes_its_middle(exp: str) -> None:
    cfg, train = config_of(exp), TABLE[exp]["train"]
    start, base, end = (
        train[f"{name}_lr_effective"] for name in ("warmup_start", "base", "cosine_end")
    )
    assert lr_at(cfg, train["warmup_epochs"] / 2) == pytest.approx((start + base) / 2)
    assert lr_at(cfg, (train["warmup_epochs"] + train["epochs"]) / 2) == pytest.approx(
        (base + end) / 2
    )


def test_the_classes_are_those_of_the_data_set_but_for_one_published_head() -> None:
    other = {exp: config_of(exp).MODEL.NUM_CLASSES for exp in TABLE}
    other = {
        exp: count
        for exp, count in other.items()
        if count != TABLE[exp]["train"]["num_classes_expected"]
    }
    assert other == {"uniformer_s16x4_hmdb51_prek400": 101}


@pytest.mark.parametrize(
    "exp", [exp for exp in TABLE if TABLE[exp]["train"]["dataset"] == "kinetics"]
)
def test_the_published_separator_is_understood(exp: str, tmp_path: Path) -> None:
    separator = TABLE[exp]["data"]["label_separator"]
    (tmp_path / "val.csv").write_text(f"a b/v_1.avi{separator}1\n")
    videos = build_annotations(config_of(exp, "DATA.PATH_TO_DATA_DIR", str(tmp_path)), "test")
    assert (videos[0].path, videos[0].label) == ("a b/v_1.avi", 1)


@pytest.mark.parametrize("exp", TABLE)
def test_the_published_weights_are_known_with_their_accuracy(exp: str) -> None:
    linked = [weights for weights in published().values() if weights.experiment == exp]
    assert len(linked) == TABLE[exp]["published"]["weights_linked"]
    assert [weights.top1 for weights in linked] in (
        [],
        [float(TABLE[exp]["published"]["top1"].rstrip("*"))],
    )
    assert config_of(exp).UNIFORMER.PRETRAIN_NAME in published()


# ---- The model has the published size --------------------------------------------------------------------------------

FEATURES = 512  # that the head sees
PARAMETERS = {
    "UniFormer-S": 21_400_400,
    "UniFormer-B": 49_813_200,
}  # 400 classes; published as 21.4 M and 49.8 M
# The table multiplies figures that were rounded before: a B view of 32 frames is 258.63 G, taken as 259 G, and the 15
# views of UCF101 and HMDB51 are five times the 125 G of three views.
ALREADY_ROUNDED = {
    ("UniFormer-B", 32, 4): "1036G",
    ("UniFormer-B", 32, 3): "777G",
    ("UniFormer-S", 16, 15): "625G",
}


@cache
def multiply_adds_of_a_view(exp: str, num_classes: int) -> int:
    cfg = config_of(exp, "MODEL.NUM_CLASSES", str(num_classes))
    return count_multiply_adds(cfg, num_frames=cfg.DATA.NUM_FRAMES, size=cfg.DATA.TEST_CROP_SIZE)


@pytest.mark.parametrize("exp", TABLE)
def test_parameters_and_multiply_adds_are_the_published_ones(exp: str) -> None:
    cfg, case = config_of(exp), TABLE[exp]
    with torch.device("meta"):
        parameters = count_parameters(build_model(cfg))
    more_classes = cfg.MODEL.NUM_CLASSES - 400
    assert parameters == PARAMETERS[case["model"]] + more_classes * (FEATURES + 1)

    # Counting takes a second, and experiments differ in six ways but for the classes.
    alike = next(name for name in TABLE if body_of(name) == body_of(exp))
    view = multiply_adds_of_a_view(alike, 400) + more_classes * FEATURES
    num_views = cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS
    published_view = float(
        f"{view / 1e9:.4g}"
    )  # four digits of one view, times the views, to a whole number
    expected = ALREADY_ROUNDED.get(
        (case["model"], cfg.DATA.NUM_FRAMES, num_views), f"{published_view * num_views:.0f}G"
    )
    assert case["published"]["flops"] == expected
    assert view * num_views / 1e9 == pytest.approx(float(case["published"]["flops"][:-1]), rel=0.01)


def body_of(exp: str) -> tuple[list[int], list[int], int, int]:
    """What the cost of a view depends on, but for the number of classes, by the config."""
    cfg = config_of(exp)
    return (
        cfg.UNIFORMER.EMBED_DIM,
        cfg.UNIFORMER.DEPTH,
        cfg.DATA.NUM_FRAMES,
        cfg.DATA.TEST_CROP_SIZE,
    )


def test_a_class_costs_a_parameter_and_a_multiply_add_for_each_feature() -> None:
    exp = "uniformer_s8x8_k400"
    assert multiply_adds_of_a_view(exp, 600) - multiply_adds_of_a_view(exp, 400) == 200 * FEATURES


# ---- The scripts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exp", TABLE)
def test_the_scripts_hold_the_published_folder_of_lists_and_no_hyper_parameter(exp: str) -> None:
    lists = TABLE[exp]["data"]["path_to_data_dir"].removeprefix("./")
    for name, call in (("run.sh", "train_and_test"), ("test.sh", "test_weights")):
        *_, last = lines = (ROOT / "exp" / exp / name).read_text().splitlines()
        words = last.split()
        assert (words[0], words[1], words[-1]) == (call, lists, '"$@"')
        assert set(words[2:-1:2]) <= {"NUM_SHARDS"}
        assert "set -euo pipefail" in lines
        assert not re.search(r"\b(SOLVER|UNIFORMER|AUG|MIXUP|MODEL|BN|DATA)\.", "\n".join(lines))


@pytest.mark.parametrize("exp", TABLE)
def test_only_the_experiment_of_several_machines_is_queued_unless_one_asks_for_it(
    exp: str, tmp_path: Path
) -> None:
    def words(name: str, **environment: str) -> list[str]:
        """The command that a script ends in, as `echo` in place of Python shows it."""
        environment |= {"PYTHON": "echo", "DATA_DIR": str(tmp_path), **environment}
        script = ["bash", str(ROOT / "exp" / exp / name), "A.KEY", "value"]
        return subprocess.run(
            script,
            env=without(os.environ) | environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()

    run_net, submit, cfg = (
        str(ROOT / path)
        for path in ("tools/run_net.py", "tools/submit.py", f"exp/{exp}/config.yaml")
    )
    needs_several = config_of(exp).NUM_SHARDS > 1  # which submit.py reads there
    trained, tested = words("run.sh"), words("test.sh")
    assert trained[:3] == [submit if needs_several else run_net, "--cfg", cfg]
    assert tested[:3] == [run_net, "--cfg", cfg]
    assert trained[-2:] == tested[-2:] == ["A.KEY", "value"]
    assert ("NUM_SHARDS" in tested) == needs_several  # one machine is enough for a test
    assert words("run.sh", SUBMIT="")[:3] == [run_net, "--cfg", cfg]
    queued = words("run.sh", SUBMIT="yes", PARTITION="gpu", SUBMIT_ARGS="--qos high --timeout 60")
    assert queued[:9] == [
        submit,
        "--partition",
        "gpu",
        "--qos",
        "high",
        "--timeout",
        "60",
        "--cfg",
        cfg,
    ]


class Folders(NamedTuple):
    """A data set of 2 classes: 8 videos to train on, 4 for validation and test."""

    lists: Path
    videos: Path


@pytest.fixture(scope="session")
def data_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Folders]:
    """The data of an experiment, as its lists and files are published; the same for all experiments of a data set."""

    @cache
    def make(lists: str) -> Folders:
        folders = Folders(
            tmp_path_factory.mktemp("the lists"), tmp_path_factory.mktemp("the videos")
        )
        exp = next(exp for exp in TABLE if TABLE[exp]["data"]["path_to_data_dir"] == lists)
        cfg = config_of(exp)
        form = DATASETS[cfg.TRAIN.DATASET]
        lines: dict[str, list[str]] = {"train": [], "val": []}
        for split, num_videos in (("train", 8), ("val", 4)):
            for number in range(num_videos):
                label = number % 2
                frames = draw_video(label, np.random.default_rng((len(lines[split]), num_videos)))
                path = folders.videos / f"class {label}" / f"v_{split}_{number}"
                path.parent.mkdir(exist_ok=True)
                name = str(path.relative_to(folders.videos))
                if form.is_frames:
                    path = folders.videos / f"{split}_{number}"
                    path.mkdir()
                    for index, frame in enumerate(frames, start=1):
                        Image.fromarray(frame).save(path / cfg.DATA.IMAGE_TEMPLATE.format(index))
                    lines[split].append(f"{path.name} {len(frames)} {label}\n")
                else:
                    suffix = "avi" if "ucf101" in lists else "mp4"
                    write_video(path.with_suffix(f".{suffix}"), frames)
                    lines[split].append(
                        f"{name}.{suffix}{TABLE[exp]['data']['label_separator']}{label}\n"
                    )
        for split, rows in lines.items():
            for part in form.split_names[split]:
                (folders.lists / form.list_templates[0].format(part)).write_text("".join(rows))
        return folders

    return lambda exp: make(TABLE[exp]["data"]["path_to_data_dir"])


TINY: dict[str, Any] = {"dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "head_dim": 8}


@pytest.fixture(scope="session")
def weights_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a very small model under the names of the published files to start from."""
    folder = tmp_path_factory.mktemp("the weights")
    torch.manual_seed(0)
    for name in {case["train"]["pretrain_name"] for case in TABLE.values()}:
        is_image_model = name.endswith("in1k")
        num_classes = 1000 if is_image_model else 600 if "k600" in name else 400
        state = UniFormer(num_classes=num_classes, **TINY).state_dict()
        if is_image_model:
            state = {
                key: value.sum(2) if value.dim() == 5 else value for key, value in state.items()
            }
        torch.save(
            {"model": state} if is_image_model else {"model_state": state},
            folder / published()[name].file,
        )
    return folder


Serve = Callable[..., list[int]]


class Run(NamedTuple):
    """How the scripts of one experiment are run, in small."""

    exp: str
    output: Path
    environment: dict[str, str]
    settings: list[str]
    serve: (
        Serve | None
    )  # does the command that a script ends in, in a process whose imports are done

    def script(
        self, name: str, *overrides: str, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run run.sh or test.sh from another folder than the repository's."""
        environment = {**self.environment, **environment}
        words = ["bash", str(ROOT / "exp" / self.exp / name), *self.settings, *overrides]
        folder = self.output.parent
        if self.serve is None:
            return self._run(words, environment)
        (folder / "show").write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
        (folder / "show").chmod(0o755)
        shown = self._run(words, environment | {"PYTHON": str(folder / "show")})
        assert shown.returncode == 0, shown.stderr
        tool, *arguments, end = shown.stdout.split("\0")
        assert (tool, end) == (str(ROOT / "tools/run_net.py"), "")
        files = {"output": folder / f"{name} said", "errors": folder / f"{name} errors"}
        (status,) = self.serve(arguments, num_processes=1, environment=environment, **files)
        return subprocess.CompletedProcess(
            words, status, *(path.read_text() for path in files.values())
        )

    def _run(
        self, words: list[str], environment: dict[str, str]
    ) -> "subprocess.CompletedProcess[str]":
        environment = without(os.environ) | environment
        folder = self.output.parent
        return subprocess.run(
            words, env=environment, cwd=folder, capture_output=True, text=True, timeout=600
        )


def without(environment: Any) -> dict[str, str]:
    """The environment but for what a user of the scripts may have set."""
    ours = (
        "DATA_DIR",
        "VIDEO_DIR",
        "WEIGHTS",
        "WEIGHTS_DIR",
        "OUTPUT_DIR",
        "SUBMIT",
        "PARTITION",
        "SUBMIT_ARGS",
    )
    return {name: value for name, value in environment.items() if name not in ours}


@pytest.fixture
def small_run(
    data_of: Callable[[str], Folders], weights_dir: Path, tmp_path: Path
) -> Callable[..., Run]:
    """A run of two steps of 4 videos and two test batches of 2 videos, with all of an experiment that is not size."""

    def make(exp: str, *, serve: Serve | None = None) -> Run:
        protocol, data = TABLE[exp]["test_protocol"], data_of(exp)
        settings: dict[str, Any] = {
            "NUM_GPUS": 0,
            "NUM_SHARDS": 1,
            "TRAIN.BATCH_SIZE": 4,
            "TEST.BATCH_SIZE": 2 * protocol["clips"] * protocol["crops"],
            "DATA.TRAIN_CROP_SIZE": 32,
            "DATA.TEST_CROP_SIZE": 32,
            "DATA_LOADER.NUM_WORKERS": 0,
            "TRAIN.REHEARSE": exp == "uniformer_s8x8_k400",
            "UNIFORMER.EMBED_DIM": list(TINY["dims"]),
            "UNIFORMER.DEPTH": list(TINY["depths"]),
            "UNIFORMER.HEAD_DIM": TINY["head_dim"],
            "SOLVER.MAX_EPOCH": 1,
            "SOLVER.WARMUP_EPOCHS": 0,
        }
        environment = {
            "DATA_DIR": str(data.lists),
            "VIDEO_DIR": str(data.videos),
            "WEIGHTS_DIR": str(weights_dir),
            "OUTPUT_DIR": str(tmp_path / "out put"),
            "SUBMIT": "",
        }
        words = [str(part) for pair in settings.items() for part in pair]
        return Run(exp, tmp_path / "out put", environment, words, serve)

    return make


def check_from_end_to_end(run: Run, *, by_name: bool = False) -> None:
    """Train and test with run.sh, and test its checkpoint with test.sh; weights are found by themselves, or named."""
    start = Path(
        run.environment["WEIGHTS_DIR"], published()[TABLE[run.exp]["train"]["pretrain_name"]].file
    )
    trained = run.script(
        "run.sh", **({"WEIGHTS": str(start), "WEIGHTS_DIR": ""} if by_name else {})
    )
    assert trained.returncode == 0, trained.stdout + trained.stderr
    checkpoint = max((run.output / "checkpoints").glob("*epoch*.pyth"))
    state = torch.load(checkpoint, weights_only=True)
    steps = {int(entry["step"]) for entry in state["optimizer_state"]["state"].values()}
    assert (state["epoch"], steps) == (1, {2})
    assert (
        len(state["model_state"]["head.bias"]) == TABLE[run.exp]["train"]["num_classes_effective"]
    )

    again = run.output.with_name("again") if by_name else run.output
    named = {"WEIGHTS": str(checkpoint), "OUTPUT_DIR": str(again)} if by_name else {}
    first = scores_in(run.output)
    tested = run.script("test.sh", **named)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    np.testing.assert_array_equal(scores_in(again), first)
    protocol = TABLE[run.exp]["test_protocol"]
    for printed in (trained.stdout, tested.stdout):
        assert (
            f"test, {count(protocol['clips'], 'clip')} x {count(protocol['crops'], 'crop')}\n"
            in printed
        )
        assert "scored 4/4" in printed


def scores_in(output: Path) -> Any:
    content = np.load(output / "test/scores.npz")
    assert content["is_scored"].tolist() == [True] * 4
    return content["scores"]


@pytest.mark.zoo
@pytest.mark.parametrize("exp", TABLE)
def test_an_experiment_runs_from_end_to_end(
    exp: str, small_run: Callable[..., Run], serve: Serve
) -> None:
    starts_python = exp == next(
        iter(TABLE)
    )  # one as a user starts it; the others without the time of imports
    check_from_end_to_end(small_run(exp) if starts_python else small_run(exp, serve=serve))


@pytest.mark.parametrize(("exp", "by_name"), SAMPLE)
def test_a_sample_of_experiments_runs_from_end_to_end(
    exp: str, by_name: bool, small_run: Callable[..., Run], serve: Serve
) -> None:
    check_from_end_to_end(small_run(exp, serve=serve), by_name=by_name)


def test_a_run_without_data_ends_in_one_message_with_what_to_set(
    small_run: Callable[..., Run],
) -> None:
    run = small_run("uniformer_s8x8_k400")
    for name in ("run.sh", "test.sh"):
        result = run.script(name, DATA_DIR="", VIDEO_DIR="", WEIGHTS_DIR="")
        assert result.returncode == 1
        assert result.stderr.startswith(
            f"uniformer_s8x8_k400: {ROOT}/data_list/k400 is not a folder; set DATA_DIR"
        )
        for word in (
            "DATA.PATH_TO_DATA_DIR",
            "VIDEO_DIR",
            "DATA.PATH_PREFIX",
            "WEIGHTS_DIR",
            "MODEL.WEIGHTS_DIR",
        ):
            assert word in result.stderr
    result = run.script("run.sh", VIDEO_DIR="/no videos")
    assert result.returncode == 1
    assert (
        "/no videos is not a folder; set VIDEO_DIR (or the key DATA.PATH_PREFIX)" in result.stderr
    )
    assert not run.output.exists()


def test_a_run_without_lists_and_weights_ends_in_one_message_with_what_to_set(
    small_run: Callable[..., Run], tmp_path: Path, serve: Serve
) -> None:
    run = small_run("uniformer_s8x8_k400", serve=serve)
    result = run.script(
        "run.sh", "DATA.PATH_TO_DATA_DIR", str(tmp_path), DATA_DIR="/nowhere", WEIGHTS_DIR=""
    )
    assert result.returncode == 1
    assert f"{tmp_path}/train.csv: no such file; check DATA.PATH_TO_DATA_DIR" in result.stderr
    assert "UNIFORMER.PRETRAIN_NAME is 'uniformer_small_in1k'" in result.stderr
    assert "MODEL.WEIGHTS_DIR" in result.stderr
    assert "environment variable WEIGHTS_DIR" in result.stderr
    assert "Traceback" not in result.stderr
    result = run.script(
        "test.sh", WEIGHTS_DIR=""
    )  # the weights to start from are of no interest here
    assert result.returncode == 1
    assert "there are no weights to test: TEST.CHECKPOINT_FILE_PATH" in result.stderr
    assert "PRETRAIN_NAME" not in result.stderr
    assert "Traceback" not in result.stderr
    assert not (run.output / "checkpoints").exists()
