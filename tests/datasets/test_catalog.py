"""Catalog of datasets: each format is read from files as its authors distribute them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slowfast.config import CfgNode, default_cfg, find_problems
from slowfast.datasets.catalog import (
    DATASETS,
    build_annotations,
    build_class_names,
    build_source,
)
from slowfast.datasets.published_class_names import read_kinetics_names
from slowfast.datasets.records import Video

MakeCfg = Callable[..., CfgNode]
KINETICS_HEADER = "label,youtube_id,time_start,time_end,split\n"


@pytest.fixture
def make_cfg(tmp_path: Path) -> MakeCfg:
    """Builder of a config of a dataset in tmp_path. `SECTION__NAME=value` sets a key."""

    def make(dataset: str, num_classes: int, **settings: Any) -> CfgNode:
        cfg = default_cfg()
        cfg.TRAIN.DATASET = cfg.TEST.DATASET = dataset
        cfg.MODEL.NUM_CLASSES = num_classes
        cfg.DATA.PATH_TO_DATA_DIR = str(tmp_path)
        for name, value in settings.items():
            section, key = name.split("__")
            cfg[section][key] = value
        return cfg

    return make


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def read_rows(cfg: CfgNode, split: str) -> list[tuple[str, int]]:
    """Return the path and the label of each row."""
    rows = build_annotations(cfg, split)
    return [(rows[row].path, rows[row].label) for row in range(len(rows))]


# ---- Plain lists ---------------------------------------------------------------------------------


def test_kinetics_lists_are_found_by_their_split(tmp_path: Path, make_cfg: MakeCfg) -> None:
    for split in ("train", "val", "test"):
        write(tmp_path / f"{split}.csv", f"{split} one.mp4 1\n")
        assert read_rows(make_cfg("kinetics", 2), split) == [(f"{split} one.mp4", 1)]
    write(tmp_path / "lists/val_2.txt", "other.mp4|0\n")
    cfg = make_cfg(
        "kinetics", 2, DATA__LABEL_PATH_TEMPLATE="lists/{}_2.txt", DATA__PATH_LABEL_SEPARATOR="|"
    )
    assert build_source(cfg, "val").list_path == str(tmp_path / "lists/val_2.txt")
    assert read_rows(cfg, "val") == [("other.mp4", 0)]
    assert build_class_names(cfg) == ["0", "1"]


@pytest.mark.parametrize(
    "template", ["{split}.csv", "{}_{}.csv", "{.csv", "{.x}.csv", "{[x]}.csv", "{:d}.csv"]
)
def test_an_invalid_list_template_is_a_problem(make_cfg: MakeCfg, template: str) -> None:
    problems = find_problems(make_cfg("kinetics", 2, DATA__LABEL_PATH_TEMPLATE=template))
    assert any(problem.startswith("DATA.LABEL_PATH_TEMPLATE is ") for problem in problems)


def test_a_list_template_may_match_several_files(make_cfg: MakeCfg) -> None:
    problems = find_problems(make_cfg("kinetics", 2, DATA__LABEL_PATH_TEMPLATE="*_split2.txt"))
    assert "LABEL_PATH" not in str(problems)


@pytest.mark.parametrize(
    "template",
    ["frame.jpg", "{name}.jpg", "{}_{}.jpg", "{:s}.jpg", "{.x}.jpg", "{[0]}.jpg", "{.jpg"],
)
def test_an_image_template_without_a_number_is_a_problem(make_cfg: MakeCfg, template: str) -> None:
    problems = find_problems(make_cfg("ssv2", 174, DATA__IMAGE_TEMPLATE=template))
    start = f"DATA.IMAGE_TEMPLATE is {template!r}. Use"
    assert any(problem.startswith(start) for problem in problems)


def test_an_image_template_with_a_number_is_valid(make_cfg: MakeCfg) -> None:
    problems = find_problems(make_cfg("ssv2", 174, DATA__IMAGE_TEMPLATE="{}.png"))
    assert "IMAGE_TEMPLATE" not in str(problems)


@pytest.mark.parametrize(("name", "version"), [("ssv1", 1), ("sth", 1), ("ssv2", 2)])
def test_frame_lists_are_those_of_their_version(
    tmp_path: Path, make_cfg: MakeCfg, name: str, version: int
) -> None:
    write(tmp_path / f"somesomev{version}_rgb_validation_split.txt", "100218 42 134\n")
    for split in ("val", "test"):
        assert build_annotations(make_cfg(name, 174), split)[0] == Video("100218", 134, 42)


def test_frame_lists_of_hmdb_are_named_after_their_split(tmp_path: Path, make_cfg: MakeCfg) -> None:
    write(tmp_path / "train.txt", "a_jump_f_cm_np1_ri_med_1 67 19\n")
    write(tmp_path / "val.txt", "b (2007)_hit!!_u_nm_np1_fr_goo_2 41 17\n")
    cfg = make_cfg("hmdb", 51)
    assert build_annotations(cfg, "train")[0] == Video("a_jump_f_cm_np1_ri_med_1", 19, 67)

    expected = Video("b (2007)_hit!!_u_nm_np1_fr_goo_2", 17, 41)
    for split in ("val", "test"):
        assert build_annotations(cfg, split)[0] == expected


@pytest.mark.parametrize("name", ["kinetics", "kinetics_sparse"])
def test_without_a_test_list_the_validation_list_is_tested(
    tmp_path: Path, make_cfg: MakeCfg, name: str
) -> None:
    write(tmp_path / "val.csv", "validation.avi 1\n")
    assert read_rows(make_cfg(name, 2), "test") == [("validation.avi", 1)]
    write(tmp_path / "test.csv", "test.avi 1\n")
    assert read_rows(make_cfg(name, 2), "test") == [("test.avi", 1)]


def test_which_clips_models_see_follows_from_the_format() -> None:
    traits = {
        name: (dataset.is_frames, dataset.is_bgr, dataset.is_segmented)
        for name, dataset in DATASETS.items()
    }
    dense_video, frames = (False, False, False), (True, True, True)
    assert traits == {
        "kinetics": dense_video,
        "kinetics_sparse": (False, False, True),
        "hmdb": (True, True, False),
        "kinetics_official": dense_video,
        "ucf101": dense_video,
        "hmdb51": dense_video,
        "folders": dense_video,
        "ssv1": frames,
        "ssv2": frames,
        "sth": frames,
        "ssv1_official": frames,
        "ssv2_official": (False, True, True),
    }
    assert {name for name in DATASETS if DATASETS[name].target_fps} == {"ssv2_official"}
    assert DATASETS["ssv2_official"].target_fps == 30


# ---- Kinetics as distributed ---------------------------------------------------------------------


def test_kinetics_names_are_in_the_order_of_released_heads(make_cfg: MakeCfg) -> None:
    names = build_class_names(make_cfg("kinetics_official", 400))
    assert len(set(names)) == 400
    assert [names[label] for label in (0, 22, 263, 399)] == [
        "riding a bike",
        "hurling (sport)",
        "massaging person's head",
        "playing badminton",
    ]

    names = read_kinetics_names("train.csv", 600)
    assert len(set(names)) == 600
    # These are classes that Kinetics-400 has too, and classes that it does not have.
    assert [names[label] for label in (0, 1, 240, 280, 599)] == [
        "feeding fish",
        "poking bellybutton",
        "massaging persons head",
        "riding a bike",
        "playing organ",
    ]


@pytest.mark.parametrize(("num_classes", "labels"), [(400, [22, 263, 0]), (600, [147, 240, 280])])
def test_a_kinetics_table_gives_file_names_and_published_labels(
    tmp_path: Path, make_cfg: MakeCfg, num_classes: int, labels: list[int]
) -> None:
    write(
        tmp_path / "train.csv",
        KINETICS_HEADER
        + "hurling (sport),-0abc_DEF-1,6,16,train\n"
        + "massaging person's head,b c,0,10,train\n"
        + "other,ccc,0,10,val\n"
        + '"riding a bike","ddd",123456,123466,"train"\n',
    )
    assert read_rows(make_cfg("kinetics_official", num_classes), "train") == [
        ("-0abc_DEF-1_000006_000016.mp4", labels[0]),
        ("b c_000000_000010.mp4", labels[1]),
        ("ddd_123456_123466.mp4", labels[2]),
    ]


def test_a_kinetics_table_may_have_other_columns_names_and_files(
    tmp_path: Path, make_cfg: MakeCfg
) -> None:
    write(
        tmp_path / "validate.csv",
        "\ufeffis_cc, split, time_end, youtube_id, label, time_start\n"
        '1, validate, 11.0, abc, "two, with a comma", 1.0\n\n0, train, 12, def, one, 2\n',
    )
    cfg = make_cfg(
        "kinetics_official",
        2,
        DATA__CLASS_NAMES=write(tmp_path / "names.txt", "One\nTWO_with a comma\n"),
        DATA__VIDEO_TEMPLATE="{label}/{youtube_id}.{time_start}-{time_end:03d}.mkv",
    )
    expected = [("two, with a comma/abc.1-011.mkv", 1)]
    assert read_rows(cfg, "val") == expected
    assert read_rows(cfg, "test") == expected  # there is no test.csv

    write(tmp_path / "test.csv", KINETICS_HEADER + "one,t,3,13,test\n")
    assert read_rows(cfg, "test") == [("one/t.3-013.mkv", 0)]
    assert build_class_names(cfg) == ["One", "TWO_with a comma"]


def test_one_kinetics_table_may_hold_all_splits(tmp_path: Path, make_cfg: MakeCfg) -> None:
    write(
        tmp_path / "all.csv",
        KINETICS_HEADER + "zumba,a,1,11,train\nzumba,b,1,11,val\nzumba,c,1,11,test\n",
    )
    cfg = make_cfg("kinetics_official", 400, DATA__LABEL_PATH_TEMPLATE="all.csv")
    for split, name in (("train", "a"), ("val", "b"), ("test", "c")):
        assert read_rows(cfg, split) == [(f"{name}_000001_000011.mp4", 331)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1 is ''. Expected a header with label,youtube_id,time_start,time_end"),
        ("zumba,abc,1,11,test\n", "line 1 is 'zumba,abc,1,11,test'. Expected a header"),
        (KINETICS_HEADER, "the list is empty"),
        (
            KINETICS_HEADER + "zumba,abc,1,11,test\n ,def,1,11,test\n",
            "line 3 has no label, but line 2 has one. Label all rows",
        ),
        (KINETICS_HEADER + "zumba,abc,1,11,val\n", "no rows of the split 'test', only of val"),
        (
            KINETICS_HEADER + "zumba,abc,x,11,test\n",
            "line 2 has the times 'x' to '11'. Expected seconds",
        ),
        (KINETICS_HEADER + "zumba,abc\n", "line 2 has the times None to None"),
        (
            KINETICS_HEADER + "zumbo,abc,1,11,test\n",
            "line 2 has the class 'zumbo', which is not among the 400 class names",
        ),
        (
            KINETICS_HEADER + "zumbo,abc,1,11,test\nzumba,abc,inf,11,test\n" * 4,
            "has 8 invalid rows:\n +line 2 has the class 'zumbo'.*\n +line 3 has the times 'inf'",
        ),
    ],
)
def test_an_invalid_kinetics_table_names_the_problem(
    tmp_path: Path, make_cfg: MakeCfg, text: str, message: str
) -> None:
    write(tmp_path / "test.csv", text)
    with pytest.raises(ValueError, match=rf"test\.csv.*{message}"):
        build_annotations(make_cfg("kinetics_official", 400), "test")


@pytest.mark.parametrize(
    "template", ["{id}.mp4", "{youtube_id:06d}.mp4", "{youtube_id", "{}.mp4", "{youtube_id.x}"]
)
def test_an_invalid_video_template_is_named_with_the_fields(
    tmp_path: Path, make_cfg: MakeCfg, template: str
) -> None:
    write(tmp_path / "val.csv", KINETICS_HEADER + "zumba,abc,1,11,val\n")
    with pytest.raises(
        ValueError, match=r"DATA\.VIDEO_TEMPLATE is .* The fields are label, youtube_id, time_start"
    ):
        build_annotations(make_cfg("kinetics_official", 400, DATA__VIDEO_TEMPLATE=template), "val")


def test_other_numbers_of_kinetics_classes_need_their_names(
    tmp_path: Path, make_cfg: MakeCfg
) -> None:
    write(tmp_path / "train.csv", KINETICS_HEADER + "zumba,abc,1,11,train\n")
    with pytest.raises(
        ValueError, match=r"MODEL\.NUM_CLASSES is 700, .* Set DATA\.CLASS_NAMES to a file"
    ):
        build_annotations(make_cfg("kinetics_official", 700), "train")


def test_names_that_differ_in_punctuation_must_match_exactly(
    tmp_path: Path, make_cfg: MakeCfg
) -> None:
    names = write(tmp_path / "names.txt", "c\nc++\ndance\n")
    write(
        tmp_path / "val.csv", KINETICS_HEADER + "c++,a,1,11,val\nc,b,1,11,val\nDance!,c,1,11,val\n"
    )
    cfg = make_cfg(
        "kinetics_official", 3, DATA__CLASS_NAMES=names, DATA__VIDEO_TEMPLATE="{youtube_id}"
    )
    assert read_rows(cfg, "val") == [("a", 1), ("b", 0), ("c", 2)]
    write(tmp_path / "val.csv", KINETICS_HEADER + "C#,a,1,11,val\n")
    with pytest.raises(ValueError, match="line 2 has the class 'C#', which is not among the 3"):
        build_annotations(cfg, "val")


# ---- Something-Something as distributed ----------------------------------------------------------

TEMPLATE = "Trying but failing to attach [something] to [something] because it doesn't stick"
LABELS_V2 = {
    "Holding something next to something": "1",
    "Trying but failing to attach something to something because it doesn't stick": "0",
}
LIST_V2 = [
    {
        "id": "78687",
        "label": "holding potato next to vicks",
        "template": "Holding [something] next to [something]",
    },
    {"id": 42326, "label": "a", "template": TEMPLATE, "placeholders": ["a", "b"]},
]


@pytest.mark.parametrize("prefix", ["something-something-v2-", ""])
def test_something_v2_is_read_from_its_json_files(
    tmp_path: Path, make_cfg: MakeCfg, prefix: str
) -> None:
    write(tmp_path / f"{prefix}labels.json", json.dumps(LABELS_V2))
    write(tmp_path / f"{prefix}train.json", json.dumps(LIST_V2))
    write(tmp_path / f"{prefix}validation.json", json.dumps(LIST_V2[1:]))
    cfg = make_cfg("ssv2_official", 2)
    assert read_rows(cfg, "train") == [("78687.webm", 1), ("42326.webm", 0)]
    assert read_rows(cfg, "val") == read_rows(cfg, "test") == [("42326.webm", 0)]
    assert build_class_names(cfg) == sorted(LABELS_V2, key=lambda name: LABELS_V2[name])

    cfg.DATA.VIDEO_TEMPLATE = "v/{id}.mp4"
    assert read_rows(cfg, "val") == [("v/42326.mp4", 0)]


@pytest.mark.parametrize(
    ("labels", "entries", "message"),
    [
        (LABELS_V2, [{"id": "1"}], r"validation\.json entry 1 has no label"),
        (
            LABELS_V2,
            [*LIST_V2, {"template": "x"}],
            r"validation\.json entry 3 is .*. Expected an object with id",
        ),
        (
            LABELS_V2,
            [{"id": "1", "template": "x"}],
            r"validation\.json entry 1 has the class 'x', which is not among the 2",
        ),
        (LABELS_V2, {}, r"validation\.json: expected a JSON list, found a dict"),
        (LABELS_V2, [], r"validation\.json: the list is empty"),
        ([], LIST_V2, r"labels\.json: expected a JSON dict, found a list"),
        ({"a": "0", "b": "2"}, LIST_V2, r"labels\.json: the numbers of 2 classes are not 0 to 1"),
        ({"a": "0", "b": "x"}, LIST_V2, r"labels\.json: expected numbers of classes"),
        (
            {"a": "0"},
            LIST_V2,
            r"dataset of .*train\.json has 1 names, but MODEL\.NUM_CLASSES is 2",
        ),
    ],
)
def test_invalid_json_lists_name_the_problem(
    tmp_path: Path, make_cfg: MakeCfg, labels: Any, entries: Any, message: str
) -> None:
    write(tmp_path / "something-something-v2-labels.json", json.dumps(labels))
    write(tmp_path / "something-something-v2-validation.json", json.dumps(entries))
    with pytest.raises(ValueError, match=message):
        build_annotations(make_cfg("ssv2_official", 2), "val")


def test_damaged_json_and_missing_files_are_named(tmp_path: Path, make_cfg: MakeCfg) -> None:
    cfg = make_cfg("ssv2_official", 2)
    with pytest.raises(
        FileNotFoundError, match=r"something-something-v2-labels\.json: no such file"
    ):
        build_annotations(cfg, "val")

    write(tmp_path / "labels.json", json.dumps(LABELS_V2))
    with pytest.raises(
        FileNotFoundError, match=r"something-something-v2-validation\.json: no such file"
    ):
        build_annotations(cfg, "val")

    write(tmp_path / "validation.json", '[{"id": ')
    with pytest.raises(ValueError, match=r"validation\.json: not JSON: .*line 1"):
        build_annotations(cfg, "val")


def test_something_v1_is_read_from_its_csv_files(tmp_path: Path, make_cfg: MakeCfg) -> None:
    write(
        tmp_path / "something-something-v1-labels.csv",
        "Holding something\nTurning something upside down\n",
    )
    write(
        tmp_path / "something-something-v1-validation.csv",
        "100218;Turning something upside down\n7;Holding something",
    )
    cfg = make_cfg("ssv1_official", 2)
    for split in ("val", "test"):
        rows = build_annotations(cfg, split)
        assert [rows[0], rows[1]] == [Video("100218", 1, None), Video("7", 0, None)]
        assert rows.num_frames is None
    assert build_class_names(cfg) == ["Holding something", "Turning something upside down"]

    write(
        tmp_path / "something-something-v1-train.csv", "1;Holding something\n2;Dropping something\n"
    )
    with pytest.raises(
        ValueError,
        match=r"train\.csv line 2 has the class 'Dropping something', which is not among the 2",
    ):
        build_annotations(cfg, "train")

    write(tmp_path / "something-something-v1-train.csv", "1;Holding something\n2\n")
    with pytest.raises(ValueError, match=r"train\.csv line 2 has no label"):
        build_annotations(cfg, "train")


# ---- Test lists without labels -------------------------------------------------------------------


def test_published_test_lists_without_labels_are_read(tmp_path: Path, make_cfg: MakeCfg) -> None:
    write(tmp_path / "something-something-v2-labels.json", json.dumps(LABELS_V2))
    write(tmp_path / "something-something-v2-test.json", '[{"id": "1420"}, {"id": "9"}]')
    name = "something-something-v2-test.json"
    cfg = make_cfg("ssv2_official", 2, DATA__LABEL_PATH_TEMPLATE=name)
    assert read_rows(cfg, "test") == [("1420.webm", -1), ("9.webm", -1)]

    write(tmp_path / "something-something-v1-labels.csv", "Holding something\nTurning something\n")
    write(tmp_path / "something-something-v1-test.csv", "1420\n9\n")
    name = "something-something-v1-test.csv"
    cfg = make_cfg("ssv1_official", 2, DATA__LABEL_PATH_TEMPLATE=name)
    assert read_rows(cfg, "test") == [("1420", -1), ("9", -1)]

    cfg = make_cfg("kinetics_official", 400)
    for text in (
        "youtube_id,time_start,time_end,split\nabc,1,11,test\n",
        KINETICS_HEADER + ",abc,1,11,test\n",
    ):
        write(tmp_path / "test.csv", text)
        assert read_rows(cfg, "test") == [("abc_000001_000011.mp4", -1)]


@pytest.mark.parametrize(("split", "purpose"), [("train", "training"), ("val", "validation")])
def test_only_a_test_list_may_be_without_labels(
    tmp_path: Path, make_cfg: MakeCfg, split: str, purpose: str
) -> None:
    minus_one = rf"{split}\.csv has no labels: 1 video with the label -1. Label .* for {purpose}\."
    left_out = rf"{split}\.csv line 1 is 'a b\.mp4'. Expected a path and a class number"
    cfg = make_cfg("kinetics", 2)
    for text, message in (("a b.mp4,-1\n", minus_one), ("a b.mp4\n", left_out)):
        write(tmp_path / f"{split}.csv", text)
        with pytest.raises(ValueError, match=message):
            build_annotations(cfg, split)

        write(tmp_path / "test.csv", text)
        assert read_rows(cfg, "test") == [("a b.mp4", -1)]


# ---- UCF101, HMDB51, folders ---------------------------------------------------------------------


def test_ucf101_is_read_from_its_lists(tmp_path: Path, make_cfg: MakeCfg) -> None:
    write(tmp_path / "classInd.txt", "1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n\r\n")
    write(tmp_path / "trainlist01.txt", "HandstandPushups/v_HandStandPushups_g08_c01.avi 2\r\n")
    write(tmp_path / "testlist01.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\r\n")
    write(tmp_path / "testlist02.txt", "HandstandPushups/v_HandStandPushups_g01_c02.avi\n")
    cfg = make_cfg("ucf101", 2)
    assert read_rows(cfg, "train") == [("HandstandPushups/v_HandStandPushups_g08_c01.avi", 1)]
    expected = [("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", 0)]
    assert read_rows(cfg, "val") == read_rows(cfg, "test") == expected
    assert build_class_names(cfg) == ["ApplyEyeMakeup", "HandstandPushups"]

    cfg.DATA.LABEL_PATH_TEMPLATE = "{}list02.txt"
    assert read_rows(cfg, "test") == [("HandstandPushups/v_HandStandPushups_g01_c02.avi", 1)]

    write(tmp_path / "trainlist02.txt", "ApplyEyeMakeup/a.avi 1\nno_folder.avi 1\nOther/a.avi 3\n")
    with pytest.raises(
        ValueError, match=r"2 invalid rows:\n +line 2 is 'no_folder\.avi 1'.*\n +line 3 .* 'Other'"
    ):
        build_annotations(cfg, "train")

    write(tmp_path / "classInd.txt", "1 ApplyEyeMakeup\n3 HandstandPushups\n")
    with pytest.raises(
        ValueError, match=r"classInd\.txt line 2 is '3 HandstandPushups'. Expected '2 NameOfClass'"
    ):
        build_class_names(cfg)


def test_hmdb51_is_read_from_one_list_per_class(tmp_path: Path, make_cfg: MakeCfg) -> None:
    write(tmp_path / "wave_test_split1.txt", "Wave it.avi 1 \nb.avi 2 \nc.avi 0 \n")
    write(tmp_path / "brush_hair_test_split1.txt", "d (1).avi 2 \ne.avi 1 \n")
    write(tmp_path / "wave_test_split2.txt", "b.avi 1 \n")
    write(tmp_path / "brush_hair_test_split2.txt", "d.avi 0 \n")
    cfg = make_cfg("hmdb51", 2)
    assert read_rows(cfg, "train") == [("brush_hair/e.avi", 0), ("wave/Wave it.avi", 1)]
    assert (
        read_rows(cfg, "val")
        == read_rows(cfg, "test")
        == [("brush_hair/d (1).avi", 0), ("wave/b.avi", 1)]
    )
    assert build_class_names(cfg) == ["brush_hair", "wave"]

    cfg.DATA.LABEL_PATH_TEMPLATE = "*_test_split2.txt"
    assert read_rows(cfg, "train") == [("wave/b.avi", 1)]
    with pytest.raises(ValueError, match="the list is empty"):
        build_annotations(cfg, "val")

    write(tmp_path / "wave_test_split2.txt", "b.avi 1\nc.avi\nd.avi 3\n")
    with pytest.raises(
        ValueError, match=r"wave_test_split2\.txt line 2 is 'c\.avi'. Expected a file and 0, 1 or 2"
    ):
        build_annotations(cfg, "train")

    cfg.DATA.LABEL_PATH_TEMPLATE = "*_test_split3.txt"
    with pytest.raises(
        FileNotFoundError, match=r"\*_test_split3\.txt: no such files. Check DATA\.PATH_TO_DATA_DIR"
    ):
        build_annotations(cfg, "train")


def make_folders(folder: Path) -> None:
    """Make class folders with five videos in three splits, and files that are ignored."""
    for path in ("b/1.mp4", "b/deep er/2.AVI", "a b/3.webm"):
        write(folder / "train" / path, "")
    write(folder / "val/b/4.mkv", "")
    write(folder / "test/a b/x,1.mov", "")

    for path in ("b/notes.txt", "readme.txt", ".cache/5.mp4", "b/.hidden.mp4"):
        write(folder / "train" / path, "")


@pytest.mark.parametrize("prefix", ["", "{folder}", "{folder}/train"])
def test_folders_are_classes(
    tmp_path: Path, make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    make_folders(tmp_path / "own videos")
    monkeypatch.chdir(tmp_path)
    for folder in ("own videos", str(tmp_path / "own videos")):
        cfg = make_cfg(
            "folders",
            2,
            DATA__PATH_TO_DATA_DIR=folder,
            DATA__PATH_PREFIX=prefix.format(folder=folder),
        )
        train, val, test = (read_rows(cfg, split) for split in ("train", "val", "test"))
        assert [label for _, label in (*train, *val, *test)] == [0, 1, 1, 1, 0]
        paths = [Path(cfg.DATA.PATH_PREFIX, path) for path, _ in (*train, *val, *test)]
        assert all(path.is_file() for path in paths)
        assert [path.name for path in paths] == ["3.webm", "1.mp4", "2.AVI", "4.mkv", "x,1.mov"]
        assert build_class_names(cfg) == ["a b", "b"]


def test_folders_of_unknown_classes_are_named(tmp_path: Path, make_cfg: MakeCfg) -> None:
    make_folders(tmp_path)
    write(tmp_path / "val/c/6.mp4", "")
    message = r"/val c has the class 'c', which is not among the 2 class names"
    with pytest.raises(ValueError, match=message):
        build_annotations(make_cfg("folders", 2), "val")

    names = write(tmp_path / "names.txt", "c\nb\na b\n")
    cfg = make_cfg("folders", 3, DATA__CLASS_NAMES=names)
    assert [label for _, label in read_rows(cfg, "val")] == [1, 0]

    message = r"/train has 2 names, but MODEL\.NUM_CLASSES is 400"
    with pytest.raises(ValueError, match=message):
        build_annotations(make_cfg("folders", 400), "train")

    cfg.DATA.PATH_TO_DATA_DIR = str(tmp_path / "none")
    message = r"/none/val: no such folder. Check DATA\.PATH_TO_DATA_DIR"
    with pytest.raises(FileNotFoundError, match=message):
        build_annotations(cfg, "val")


def test_a_repeated_class_name_is_an_error(tmp_path: Path, make_cfg: MakeCfg) -> None:
    names = write(tmp_path / "names.txt", "one\ntwo\none\n")
    with pytest.raises(ValueError, match=r"names\.txt: the class 'one' occurs more than once"):
        build_class_names(make_cfg("kinetics", 3, DATA__CLASS_NAMES=names))
