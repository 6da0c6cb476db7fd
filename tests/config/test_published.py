"""Published YAMLs and command lines: every key and value loads and means what it meant."""

import ast
import json
import logging
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from slowfast.config import CfgNode, default_cfg, find_problems, load_cfg
from slowfast.config.retired import RETIRED
from slowfast.datasets import build as datasets
from slowfast.models import build as models

REFERENCE = Path(__file__).parents[1] / "reference/published_config_keys.json"
PUBLISHED: dict[str, dict[str, Any]] = json.loads(REFERENCE.read_text())["keys"]
# Values of the variables in the published scripts.
SHELL = {"$work_path": "exp/uniformer_s8x8_k400", "$NUM_SHARDS": "4"}


def yaml_values(key: str) -> list[Any]:
    return [json.loads(text) for text in PUBLISHED[key]["yaml_values"]]


def command_line_values(key: str) -> list[str]:
    """Return the strings that a shell makes of the words of a published script."""
    return [shlex.split(SHELL.get(text, text))[0] for text in PUBLISHED[key]["command_line_values"]]


def write_tree(path: Path, settings: dict[str, Any]) -> str:
    """Write a YAML file of sections and keys, and return its path."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        *section, name = key.split(".")
        node = tree.setdefault(section[0], {}) if section else tree
        node[name] = value
    path.write_text(yaml.safe_dump(tree))
    return str(path)


def value_of(cfg: CfgNode, key: str) -> Any:
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def meaning(published: Any) -> Any:
    """Return the number, list or bool that a string spells, or the string itself."""
    try:
        return ast.literal_eval(str(published))
    except (ValueError, SyntaxError):
        return published


# ---- Each key --------------------------------------------------------------------------------

YAML_CASES = [(key, value) for key in PUBLISHED for value in yaml_values(key)]
COMMAND_CASES = [(key, text) for key in PUBLISHED for text in command_line_values(key)]


def test_the_published_keys_are_those_of_the_reference() -> None:
    assert len(PUBLISHED) == 86
    assert len(YAML_CASES) + len(COMMAND_CASES) > 150


def check_value(cfg: CfgNode, key: str, published: Any, caplog: pytest.LogCaptureFixture) -> None:
    warnings = [record.getMessage() for record in caplog.records]
    if key in RETIRED:
        assert len(warnings) == 1
        assert f"{key} has no effect: {RETIRED[key]}" in warnings[0]
    else:
        assert not warnings
        value = value_of(cfg, key)
        assert value == meaning(published)
        default = value_of(default_cfg(), key)
        assert type(value) is type(default) or default is None or key == "UNIFORMER.MLP_RATIO"


@pytest.mark.parametrize(("key", "value"), YAML_CASES, ids=lambda part: str(part)[:40])
def test_each_value_of_a_published_yaml_loads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, key: str, value: Any
) -> None:
    # No checks: an EMBED_DIM alone may not fit the default HEAD_DIM.
    cfg = load_cfg(write_tree(tmp_path / "x.yaml", {key: value}), checks=[])
    check_value(cfg, key, value, caplog)


@pytest.mark.parametrize(("key", "text"), COMMAND_CASES, ids=lambda part: str(part)[:40])
def test_each_value_of_a_published_command_line_loads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, key: str, text: str
) -> None:
    cfg = load_cfg(write_tree(tmp_path / "x.yaml", {}), [key, text], checks=[])
    check_value(cfg, key, text, caplog)


# ---- Whole files with their command lines ----------------------------------------------------

BASE = {"EMBED_DIM": [64, 128, 320, 512], "HEAD_DIM": 64, "MLP_RATIO": 4}
LIGHT = {"EMBED_DIM": [56, 112, 224, 448], "HEAD_DIM": 28, "MLP_RATIO": 3, "DEPTH": [2, 5, 8, 2]}
KINETICS = {"DATASET": "kinetics", "USE_OFFSET_SAMPLING": True, "DECODING_BACKEND": "decord"}
FRAMES = {"DATASET": "sth", "RANDOM_FLIP": False}

# Settings of its YAML beside those that all 41 YAMLs set, and its command line.
FAMILIES: dict[str, tuple[dict[str, Any], str]] = {
    "kinetics_s": (
        {
            **BASE,
            **KINETICS,
            "DEPTH": [3, 4, 8, 3],
            "PRETRAIN_NAME": "uniformer_small_in1k",
            "NUM_CLASSES": 400,
        },
        """
        DATA.PATH_TO_DATA_DIR "./data_list/k400" DATA.PATH_PREFIX your_path_to_data
        DATA.PATH_LABEL_SEPARATOR "," TRAIN.EVAL_PERIOD 5 TRAIN.CHECKPOINT_PERIOD 1
        TRAIN.BATCH_SIZE 128 NUM_GPUS 8 UNIFORMER.DROP_DEPTH_RATE 0.1 SOLVER.MAX_EPOCH 100
        SOLVER.BASE_LR 4e-4 SOLVER.WARMUP_EPOCHS 10.0 DATA.TEST_CROP_SIZE 224
        TEST.NUM_ENSEMBLE_VIEWS 1 TEST.NUM_SPATIAL_CROPS 1 RNG_SEED 6666
        OUTPUT_DIR $work_path
        """,
    ),
    "kinetics_b": (
        {
            **BASE,
            **KINETICS,
            "DEPTH": [5, 8, 20, 7],
            "PRETRAIN_NAME": "uniformer_base_in1k",
            "NUM_CLASSES": 400,
        },
        """
        DATA.PATH_TO_DATA_DIR ./data_list/k600 DATA.PATH_LABEL_SEPARATOR ","
        MODEL.NUM_CLASSES 600 NUM_SHARDS 4 DATA_LOADER.NUM_WORKERS 8 TRAIN.BATCH_SIZE 32
        TEST.BATCH_SIZE 32 NUM_GPUS 8 UNIFORMER.DROP_DEPTH_RATE 0.3 SOLVER.MAX_EPOCH 110
        SOLVER.BASE_LR 1e-4 DATA.TEST_CROP_SIZE 224 OUTPUT_DIR $work_path
        """,
    ),
    "something_b": (
        {
            **BASE,
            **FRAMES,
            "DEPTH": [5, 8, 20, 7],
            "PRETRAIN_NAME": "uniformer_base_k400_16x4",
            "NUM_CLASSES": 174,
        },
        """
        DATA.PATH_TO_DATA_DIR ./data_list/sthv2
        DATA.LABEL_PATH_TEMPLATE "somesomev2_rgb_{}_split.txt"
        DATA.IMAGE_TEMPLATE "img_{:05d}.jpg" TRAIN.BATCH_SIZE 40
        UNIFORMER.DROP_DEPTH_RATE 0.4 SOLVER.MAX_EPOCH 50 SOLVER.BASE_LR 2.5e-4
        SOLVER.WARMUP_EPOCHS 5.0 DATA.TEST_CROP_SIZE 224 TEST.NUM_ENSEMBLE_VIEWS 1
        TEST.NUM_SPATIAL_CROPS 3 RNG_SEED 6666 OUTPUT_DIR $work_path
        """,
    ),
    "hmdb51": (
        {
            **BASE,
            **KINETICS,
            "DATASET": "hmdb",
            "DEPTH": [3, 4, 8, 3],
            "MLP_RATIO": [4.0, 4.0, 4.0, 4.0],
            "HEAD_DROPOUT_RATE": 0,
            "DROP_DEPTH_RATE": 0.2,
            "AA_TYPE": "rand-m5-n2-mstd0.25",
            "PRETRAIN_NAME": "uniformer_small_k400_16x4",
            "NUM_CLASSES": 101,
            "USE_CHECKPOINT": False,
            "CHECKPOINT_NUM": [0, 0, 0, 0],
        },
        """
        DATA.PATH_TO_DATA_DIR ./data_list/hmdb51/split1 DATA.LABEL_PATH_TEMPLATE {}.txt
        DATA.PATH_PREFIX your_path_to_data DATA.IMAGE_TEMPLATE "img_{:05d}.jpg"
        TRAIN.EVAL_PERIOD 1 TRAIN.CHECKPOINT_PERIOD 50 TRAIN.BATCH_SIZE 128
        TRAIN.SAVE_LATEST False NUM_GPUS 8 SOLVER.MAX_EPOCH 25 SOLVER.BASE_LR 5e-5
        SOLVER.BASE_LR_SCALE_NUM_SHARDS False SOLVER.WARMUP_EPOCHS 5.
        DATA.TEST_CROP_SIZE 224 TEST.NUM_ENSEMBLE_VIEWS 5 TEST.NUM_SPATIAL_CROPS 3
        TEST.TEST_BEST True RNG_SEED 6666 OUTPUT_DIR $work_path
        """,
    ),
    "light": (
        {
            **LIGHT,
            **KINETICS,
            "DATASET": "kinetics_sparse",
            "MODEL_NAME": "Uniformer_light_fp32",
            "TRAIN_CROP_SIZE": 128,
            "TRAIN_JITTER_SCALES": [160, 192],
            "DROP_DEPTH_RATE": 0.0,
            "INIT_VALUE": 0.1,
            "AA_TYPE": "rand",
            "PRETRAIN_NAME": "uniformer_xxs_128_in1k",
            "NUM_CLASSES": 400,
            "USE_CHECKPOINT": True,
            "CHECKPOINT_NUM": [0, 0, 4, 0],
        },
        """
        TRAIN.BATCH_SIZE 256 UNIFORMER.DROP_DEPTH_RATE 0.05 SOLVER.BASE_LR 8e-4
        SOLVER.WEIGHT_DECAY 0.1 DATA.TEST_CROP_SIZE 128 TEST.NUM_ENSEMBLE_VIEWS 1
        TEST.TEST_BEST True RNG_SEED 66666 OUTPUT_DIR $work_path
        """,
    ),
}


def load_family(tmp_path: Path, family: str) -> CfgNode:
    """Load a published file with its command line, and check it against the rules."""
    own, words = FAMILIES[family]
    settings: dict[str, Any] = {}
    for key in PUBLISHED:
        counts = PUBLISHED[key]["yaml_values"]
        name = key.rsplit(".", 1)[-1]
        if name in own:
            settings[key] = own[name]
        elif sum(counts.values()) == 41:  # every file sets it; take the most common value
            settings[key] = json.loads(max(counts, key=counts.__getitem__))

    path = write_tree(tmp_path / "config.yaml", settings)
    overrides = [SHELL.get(word, word) for word in shlex.split(words)]
    return load_cfg(path, overrides, checks=[find_problems])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_published_file_loads_unchanged_with_its_command_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, family: str
) -> None:
    cfg = load_family(tmp_path, family)
    words = shlex.split(FAMILIES[family][1])
    for key, text in zip(words[::2], words[1::2], strict=True):
        assert key in PUBLISHED
        assert value_of(cfg, key) == meaning(SHELL.get(text, text))

    messages = [record.getMessage() for record in caplog.records]
    warned = [message.split(": ")[1].split(" has no effect")[0] for message in messages]
    assert len(warned) == len(set(warned))
    expected = {
        "AUG.COLOR_JITTER",
        "AUG.RE_SPLIT",
        "DATA.INPUT_CHANNEL_NUM",
        "MODEL.ARCH",
        "MODEL.DROPOUT_RATE",
    }
    expected |= {"DATA.DECODING_BACKEND"} if cfg.TRAIN.DATASET != "sth" else set()
    assert set(warned) == expected
    assert cfg.SOLVER.COSINE_END_LR == 1e-6
    assert cfg.TRAIN.DATASET in datasets.DATASETS


@pytest.mark.parametrize("name", yaml_values("MODEL.MODEL_NAME"))
def test_every_published_model_is_known(name: str) -> None:
    cfg = default_cfg()
    cfg.MODEL.MODEL_NAME = name
    assert models.find_problems(cfg) == []


def test_datasets_and_policies_of_published_files_are_known(
    tmp_path: Path, make_lists: Callable[[CfgNode], None]
) -> None:
    for dataset in yaml_values("TRAIN.DATASET"):
        for policy in yaml_values("AUG.AA_TYPE"):
            cfg = default_cfg()
            cfg.TRAIN.DATASET = cfg.TEST.DATASET = dataset
            cfg.DATA.PATH_TO_DATA_DIR = str(tmp_path)
            cfg.AUG.ENABLE, cfg.AUG.AA_TYPE = True, policy
            make_lists(cfg)
            assert datasets.find_problems(cfg) == []


@pytest.fixture
def make_lists(tmp_path: Path) -> Callable[[CfgNode], None]:
    """Function that writes lists of one video under the published names of a dataset."""

    def make(cfg: CfgNode) -> None:
        form = datasets.DATASETS[cfg.TRAIN.DATASET]
        line = "video 40 0\n" if form.is_frames else "video.mp4,0\n"
        for parts in form.split_names.values():
            (tmp_path / form.list_templates[0].format(parts[0])).write_text(line)

    return make


# ---- The two keys of the model that are more than a number -----------------------------------


def test_mlp_ratio_is_a_number_or_a_list_with_one_per_stage(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "x.yaml", {"UNIFORMER.MLP_RATIO": [4, 3.0, 2, 1]})
    cfg = load_cfg(path)
    assert cfg.UNIFORMER.MLP_RATIO == [4.0, 3.0, 2.0, 1.0]
    shapes = {name: tensor.shape for name, tensor in models.build_model(cfg).state_dict().items()}
    dims = cfg.UNIFORMER.EMBED_DIM
    hidden = [shapes[f"blocks{stage}.0.mlp.fc1.weight"][0] for stage in (1, 2, 3, 4)]
    assert hidden == [dims[0] * 4, dims[1] * 3, dims[2] * 2, dims[3] * 1]
    assert load_cfg(path, ["UNIFORMER.MLP_RATIO", "3"]).UNIFORMER.MLP_RATIO == 3.0
    assert load_cfg(path, ["UNIFORMER.MLP_RATIO", "(4,4,4,4)"]).UNIFORMER.MLP_RATIO == [4.0] * 4
    other = write_tree(tmp_path / "y.yaml", {})
    override = ["UNIFORMER.MLP_RATIO", "[2, 2, 2, 2]"]
    assert load_cfg(other, override) == load_cfg(path, override)

    for text in ("[4, 4]", "0", "[4, 4, 4, 0]"):
        with pytest.raises(
            ValueError, match=r"UNIFORMER\.MLP_RATIO is .*one for each of the 4 stages"
        ):
            load_cfg(path, ["UNIFORMER.MLP_RATIO", text])
    with pytest.raises(
        ValueError, match=r"UNIFORMER\.MLP_RATIO is \['a'\]. Expected a number, such as 4\.0, or"
    ):
        load_cfg(path, ["UNIFORMER.MLP_RATIO", "['a']"])


def test_a_retired_key_that_is_set_twice_warns_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {key: yaml_values(key)[0] for key in RETIRED if key in PUBLISHED}
    path = write_tree(tmp_path / "x.yaml", settings)
    with caplog.at_level(logging.WARNING):
        load_cfg(path, ["DATA.DECODING_BACKEND", "decord", "AUG.COLOR_JITTER", "0.4"])
    assert len(caplog.records) == len(settings)


def light_text(reference: Callable[[str], Any], exp: str) -> str:
    """The text of a published file of a light model, with a key that it sets twice."""
    case = reference("light_experiments")[exp]
    shared = load_light_settings()
    tree = {section: {**shared.get(section, {}), **case.get(section, {})} for section in shared}
    if exp != "uniformer_xs32_192_k400":  # The others leave these to the defaults.
        for key in ("PRUNE_RATIO", "TRADE_OFF"):
            del tree["UNIFORMER"][key]
    text = yaml.safe_dump(tree, sort_keys=False)
    line = "  COSINE_AFTER_WARMUP: true\n"
    return text.replace(line, f"{line}  MOMENTUM: 0.9\n{line}")


def load_light_settings() -> dict[str, dict[str, Any]]:
    """What all published files of the light models set beside the settings of the table."""
    return {
        "TRAIN": {"DATASET": "kinetics_sparse", "BATCH_SIZE": 8, "AUTO_RESUME": True},
        "DATA": {
            "USE_OFFSET_SAMPLING": True,
            "DECODING_BACKEND": "decord",
            "INPUT_CHANNEL_NUM": [3],
            "TRAIN_JITTER_SCALES_RELATIVE": [0.08, 1.0],
            "TRAIN_JITTER_ASPECT_RELATIVE": [0.75, 1.3333],
        },
        "UNIFORMER": {},
        "AUG": {},
        "MIXUP": {"ENABLE": True, "ALPHA": 0.8, "CUTMIX_ALPHA": 1.0, "LABEL_SMOOTH_VALUE": 0.1},
        "BN": {"USE_PRECISE_STATS": False, "NUM_BATCHES_PRECISE": 200},
        "SOLVER": {"ZERO_WD_1D_PARAM": True, "COSINE_AFTER_WARMUP": True, "COSINE_END_LR": 1e-6},
        "MODEL": {},
        "TEST": {"ENABLE": True, "DATASET": "kinetics_sparse", "NUM_SPATIAL_CROPS": 1},
        "DATA_LOADER": {"NUM_WORKERS": 8, "PIN_MEMORY": True},
    }


LIGHT_NAMES = ["xxs4_128", "xxs4_160", "xxs8_128", "xxs8_160", "xxs16_128", "xxs16_160"]
LIGHT_NAMES += ["xxs32_160", "xs32_192"]


@pytest.mark.parametrize("name", LIGHT_NAMES)
def test_each_published_file_of_a_light_model_loads_unchanged(
    name: str, tmp_path: Path, reference: Callable[[str], Any]
) -> None:
    exp = f"uniformer_{name}_k400"
    (tmp_path / "config.yaml").write_text(light_text(reference, exp))
    case = reference("light_experiments")[exp]
    words = [str(word) for pair in case["overrides"].items() for word in pair]
    cfg = load_cfg(str(tmp_path / "config.yaml"), words, checks=[find_problems])
    assert models.find_problems(cfg) == []
    for key in ("PRUNE_RATIO", "TRADE_OFF", "EMBED_DIM", "DEPTH"):
        assert cfg.UNIFORMER[key] == case["UNIFORMER"][key]
    assert float(case["overrides"]["SOLVER.BASE_LR"]) == cfg.SOLVER.BASE_LR
