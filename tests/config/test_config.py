"""Loading: layers, types, and all problems in one message."""

import logging
from pathlib import Path

import pytest

from slowfast.config import CfgNode, load_cfg


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_later_layers_win(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "SOLVER: {BASE_LR: 0.1, MAX_EPOCH: 7, MOMENTUM: 0.5}")
    path = write(tmp_path / "x.yaml", "_BASE_: base.yaml\nSOLVER: {BASE_LR: 0.2, MAX_EPOCH: 8}")
    cfg = load_cfg(path, ["SOLVER.BASE_LR", "0.3"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_EPOCH) == (0.3, 8)
    assert (cfg.SOLVER.MOMENTUM, cfg.SOLVER.DAMPENING) == (0.5, 0.0)


def test_several_bases_are_merged_in_order(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "DATA: {NUM_FRAMES: 8, SAMPLING_RATE: 3}")
    write(tmp_path / "b.yaml", "DATA: {NUM_FRAMES: 16}")
    cfg = load_cfg(write(tmp_path / "x.yaml", "_BASE_: [a.yaml, b.yaml]"))
    assert (cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE) == (16, 3)


def test_the_tree_is_frozen(tmp_path: Path) -> None:
    cfg = load_cfg(write(tmp_path / "x.yaml", "{}"))
    with pytest.raises(AttributeError, match="immutable"):
        cfg.SOLVER.BASE_LR = 1.0


def test_a_dumped_tree_loads_as_the_same_tree(tmp_path: Path) -> None:
    cfg = load_cfg(
        write(tmp_path / "x.yaml", "SOLVER: {COSINE_END_LR: 1e-6}"),
        ["DATA.MEAN", "[0.1, 0.2, 0.3]"],
    )
    assert load_cfg(write(tmp_path / "y.yaml", cfg.dump())) == cfg


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("SOLVER.BASE_LR", "1e-4", 1e-4),  # YAML 1.1 reads a string
        ("SOLVER.WARMUP_EPOCHS", "5", 5.0),
        ("SOLVER.MAX_EPOCH", "110.0", 110),
        ("UNIFORMER.MLP_RATIO", "4", 4.0),
        ("UNIFORMER.QKV_SCALE", "null", None),
        ("UNIFORMER.QKV_SCALE", "0.125", 0.125),
        ("TRAIN.ENABLE", "false", False),
        ("TRAIN.ENABLE", "False", False),
        ("OUTPUT_DIR", "2024", "2024"),
        ("DATA.PATH_LABEL_SEPARATOR", ",", ","),
        ("UNIFORMER.DEPTH", "(3, 4, 8, 3)", [3, 4, 8, 3]),
    ],
)
def test_values_have_the_type_of_their_key(
    tmp_path: Path, key: str, text: str, value: object
) -> None:
    cfg = load_cfg(write(tmp_path / "x.yaml", "{}"), [key, text])
    for name in key.split("."):
        cfg = cfg[name]
    assert cfg == value
    assert type(cfg) is type(value)


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.yaml", "TRAIN: {BATCH_SIZE: 100}\nSOLVER: {LR_POLICY: cosin, MAX_EPOCH: 0}"
    )
    with pytest.raises(ValueError, match=r"x\.yaml:") as caught:
        load_cfg(path, ["NUM_GPUS", "8"])
    message = str(caught.value)
    assert "TRAIN.BATCH_SIZE is 100, which NUM_GPUS=8 processes cannot share equally" in message
    assert "cannot share equally. Use a multiple of 8" in message
    assert "SOLVER.LR_POLICY is 'cosin'. Choose from cosine, steps_with_relative_lrs" in message
    assert "SOLVER.MAX_EPOCH is 0. Use a number above 0" in message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["SOLVER.BASE_LRR", "1"],
            r"SOLVER\.BASE_LRR is not a key. The nearest is SOLVER\.BASE_LR",
        ),
        (["TRAIN.BASE_LR", "1"], r"TRAIN\.BASE_LR is not a key. The nearest is SOLVER\.BASE_LR"),
        (["QQ.ZZ", "1"], r"QQ\.ZZ is not a key. Run tools/run_net\.py --print-config"),
        (["SOLVER", "1"], "SOLVER is a section"),
        (
            ["SOLVER.MAX_EPOCH", "ten"],
            r"SOLVER\.MAX_EPOCH is 'ten'. Expected a whole number, such as 100",
        ),
        (["SOLVER.MAX_EPOCH", "1.5"], r"SOLVER\.MAX_EPOCH is 1\.5. Expected a whole number"),
        (["TRAIN.ENABLE", "1"], r"TRAIN\.ENABLE is 1. Expected True or False"),
        (
            ["DATA.MEAN", "0.45"],
            r"DATA\.MEAN is 0\.45. Expected a list, such as \[0\.45, 0\.45, 0\.45\]",
        ),
        (["SOLVER.BASE_LR"], "'SOLVER.BASE_LR' has no value"),
        (["MIXUP.ENABLE", "True"], r"MODEL\.LOSS_FUNC is 'cross_entropy'.*Use soft_cross_entropy"),
        (["SHARD_ID", "1"], "SHARD_ID is 1, but NUM_SHARDS=1"),
        (["UNIFORMER.EMBED_DIM", "[64, 128, 300, 512]"], r"multiples of UNIFORMER\.HEAD_DIM=64"),
        (["MODEL.CHECKPOINT_NUM", "[0, 0, 9, 0]"], "more blocks than"),
        (["TEST.NUM_SPATIAL_CROPS", "2"], "Choose from 1, 3"),
        (["DATA.TRAIN_JITTER_SCALES_RELATIVE", "[0.08, 1.0]"], "A random resized crop needs both"),
        (["DATA.TRAIN_JITTER_SCALES", "[128, 160]"], r"smaller than DATA\.TRAIN_CROP_SIZE=224"),
        (["DATA.TEST_SHORT_SIDE", "64"], r"smaller than DATA\.TEST_CROP_SIZE"),
        (["SOLVER.WARMUP_EPOCHS", "200"], r"longer than SOLVER\.MAX_EPOCH=100"),
        (["SOLVER.LR_POLICY", "steps_with_relative_lrs"], "Use ascending epochs from 0"),
        (["AUG.RE_PROB", "1.5"], "Use a number from 0 to 1"),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_cfg(write(tmp_path / "x.yaml", "{}"), overrides)


def test_retired_keys_are_accepted_with_one_warning_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "x.yaml", "AUG: {COLOR_JITTER: 0.4}\nMODEL: {ARCH: uniformer}")
    with caplog.at_level(logging.WARNING):
        load_cfg(path, ["AUG.COLOR_JITTER", "0.3"])
    assert [record.getMessage().split(" has no effect")[0] for record in caplog.records] == [
        f"{path}: AUG.COLOR_JITTER",
        f"{path}: MODEL.ARCH",
    ]


@pytest.mark.parametrize("value", ["1", "[1]", "[3, 3]", "null", "rgb"])
def test_frames_of_other_channels_are_refused_by_name(tmp_path: Path, value: str) -> None:
    path = write(tmp_path / "x.yaml", f"DATA: {{INPUT_CHANNEL_NUM: {value}}}")
    message = r"DATA\.INPUT_CHANNEL_NUM is .*, but a training .*create_model\(\.\.\., in_chans="
    with pytest.raises(ValueError, match=message):
        load_cfg(path)
    with pytest.raises(ValueError, match=message):
        load_cfg(write(tmp_path / "y.yaml", "{}"), ["DATA.INPUT_CHANNEL_NUM", value])


@pytest.mark.parametrize("value", ["3", "[3]", "(3,)"])
def test_three_channels_are_what_every_training_has(tmp_path: Path, value: str) -> None:
    load_cfg(write(tmp_path / "x.yaml", "{}"), ["DATA.INPUT_CHANNEL_NUM", value])


def test_checks_of_other_packages_see_the_merged_tree(tmp_path: Path) -> None:
    def check(cfg: CfgNode) -> list[str]:
        return [f"OUTPUT_DIR is {cfg.OUTPUT_DIR}"]

    with pytest.raises(ValueError, match="OUTPUT_DIR is /x"):
        load_cfg(write(tmp_path / "x.yaml", "OUTPUT_DIR: /x"), checks=[check])


@pytest.mark.parametrize(("first", "expected"), [(["first"], "first"), ([], "last")])
def test_final_checks_run_only_if_no_other_finds_a_problem(
    tmp_path: Path, first: list[str], expected: str
) -> None:
    path = write(tmp_path / "x.yaml", "OUTPUT_DIR: /x")
    with pytest.raises(ValueError, match=f"x.yaml:\n  {expected}$"):
        load_cfg(path, checks=[lambda _: first], final_checks=[lambda _: ["last"]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not a YAML file"),
        ("a: !!python/object/apply:os.system ['true']", "not a YAML file"),
        ("just words", "not a tree of sections and keys"),
        ("- 1", "not a tree of sections and keys"),
        ("_BASE_: x.yaml", "the _BASE_ chain leads back to its start"),
    ],
)
def test_a_file_that_is_not_a_config_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"x\.yaml: {message}"):
        load_cfg(write(tmp_path / "x.yaml", text))


def test_a_missing_base_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        load_cfg(write(tmp_path / "x.yaml", "_BASE_: none.yaml"))
