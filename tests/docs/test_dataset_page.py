"""DATASET.md: every command runs, in order, on small data with the layout of the downloads."""

import re
import runpy
import shlex
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from PIL import Image

from slowfast.datasets.class_name_files import read_class_names
from slowfast.datasets.manifest import read_manifest
from slowfast.preparation.encode import write_video
from tests.docs.pages import ROOT, code_blocks, code_languages, command_lines, load_checked_cfg

PAGE = (ROOT / "DATASET.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
TESTED_SECTIONS = {
    "Look at what the model sees",
    "Kinetics-400",
    "Kinetics-600",
    "Something-Something V1",
    "Something-Something V2",
    "UCF101",
    "HMDB51",
    "Your own videos",
}

KINETICS_HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"

RunSection = Callable[[str], list[int]]
Write = Callable[..., None]


def commands(section: str, language: str) -> list[str]:
    return command_lines("".join(code_blocks(SECTIONS[section], language)))


@pytest.fixture
def run_section(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], list[int]]:
    """Function that runs the commands of a section in the test's folder.

    It returns their exit statuses. It does not run those that train, but checks their configs.
    """
    for name in ("tools", "configs", "exp"):
        (tmp_path / name).symlink_to(repository / name)
    monkeypatch.chdir(tmp_path)

    def run(section: str) -> list[int]:
        statuses = [run_command(command) for command in commands(section, "bash")]
        for command in commands(section, "console"):
            check_training_command(command.removeprefix("$ "))
        return statuses

    return run


def run_command(command: str) -> int:
    words = shlex.split(command)
    if words[0] != "python":
        return subprocess.run(command, shell=True).returncode

    # A tool runs in this process, because it has imported everything already.
    status: int = runpy.run_path(words[1])["main"](words[2:])
    return status


def check_training_command(command: str) -> None:
    words = shlex.split(command)
    assert words[:3] == ["python", "tools/run_net.py", "--cfg"]
    load_checked_cfg(words[3], words[4:])


@pytest.fixture(scope="session")
def video_contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Content of a small video for each suffix of a container that datasets use."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (12, 4, 6, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)

    write_video(folder / "video.mp4", frames)

    for suffix, codec in ((".avi", "mpeg4"), (".webm", "libvpx-vp9")):
        with av.open(str(folder / f"video{suffix}"), "w") as container:
            stream = container.add_stream(codec, rate=Fraction(12))
            assert isinstance(stream, VideoStream)
            stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))

    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def write_videos(tmp_path: Path, video_contents: dict[str, bytes]) -> Callable[..., None]:
    """Function that writes videos to paths below data/ of the test's folder."""

    def write(*paths: str) -> None:
        for path in paths:
            target = tmp_path / "data" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(video_contents[target.suffix])

    return write


@pytest.fixture
def write_text(tmp_path: Path) -> Callable[[str, str], None]:
    """Function that writes a text file below data/ of the test's folder."""

    def write(path: str, text: str) -> None:
        target = tmp_path / "data" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    return write


def test_every_section_with_commands_is_tested() -> None:
    found = {name for name in SECTIONS if commands(name, "bash") or commands(name, "console")}

    assert found == TESTED_SECTIONS
    assert code_languages(PAGE) == {"", "bash", "console"}


def test_look_at_what_the_model_sees(
    run_section: RunSection, motion_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/motion").symlink_to(motion_folder)

    assert run_section("Look at what the model sees") == [0]

    sheets = {path.name for path in tmp_path.glob("*.png")}
    assert sheets == {"views_train.png", "views_val.png", "views_test.png"}


@pytest.mark.zoo
def test_kinetics_400(
    run_section: RunSection, write_videos: Write, write_text: Write, tmp_path: Path
) -> None:
    # One training video is missing. Another is corrupted, and a good copy replaces it.
    names = {
        "train": ["aaaaaaaaaaa_000001_000011", "-bbbbbbbbbb_000123_000133"],
        "val": ["ccccccccccc_000000_000010"],
    }
    for split, found in names.items():
        write_videos(*[f"k400/{split}/{name}.mp4" for name in found])
        rows = [
            f'"riding a bike",{name[:11]},{int(name[12:18])},{int(name[19:])},{split},0\n'
            for name in found
        ]
        if split == "train":
            rows.append("marching,ddddddddddd,5,15,train,0\n")
        write_text(f"k400/annotations/{split}.csv", KINETICS_HEADER + "".join(rows))
    write_videos(f"k400/replacement/replacement_for_corrupted_k400/{names['train'][0]}.mp4")
    (tmp_path / f"data/k400/train/{names['train'][0]}.mp4").write_bytes(b"corrupted")

    assert run_section("Kinetics-400") == [0, 0, 0, 0, 0, 0, 1]

    lists = tmp_path / "data/k400_lists"
    train = "".join(f"train/{name}.mp4,0\n" for name in names["train"])
    assert (lists / "train.csv").read_text() == train
    assert (lists / "test.csv").read_text() == f"val/{names['val'][0]}.mp4,0\n"
    assert (lists / "missing_train.txt").read_text() == "ddddddddddd_000005_000015.mp4\n"
    assert read_class_names(str(lists / "classes.txt"))[:2] == ["riding a bike", "marching"]
    assert read_manifest(str(lists / "manifest.csv")) == ({}, 3)
    assert read_manifest(str(tmp_path / "data/k400_manifest.csv")).unreadable == {
        "train/ddddddddddd_000005_000015.mp4": "missing: no such file or folder"
    }


@pytest.mark.zoo
def test_kinetics_600(
    run_section: RunSection, write_videos: Write, write_text: Write, tmp_path: Path
) -> None:
    for split, list_name in (("train", "train"), ("val", "validate")):
        youtube_id = f"{split * 4:.11}"
        write_videos(f"k600/{split}/{youtube_id}_000001_000011.mp4")
        row = f"massaging person's head,{youtube_id},1,11,{list_name},0\n"
        write_text(f"k600/annotations/{list_name}.csv", KINETICS_HEADER + row)

    assert run_section("Kinetics-600") == [0, 0, 0, 0]

    lists = tmp_path / "data/k600_lists"
    path, label = (lists / "test.csv").read_text().split(",")
    assert path == "val/valvalvalva_000001_000011.mp4"
    assert "massaging" in read_class_names(str(lists / "classes.txt"))[int(label)]


@pytest.mark.zoo
def test_something_something_v2(
    run_section: RunSection, write_videos: Write, write_text: Write, tmp_path: Path
) -> None:
    # One of the videos is damaged, so it has no frames to extract either.
    write_videos(*[f"ssv2/20bn-something-something-v2/{number}.webm" for number in (1, 2, 3)])
    (tmp_path / "data/ssv2/20bn-something-something-v2/4.webm").write_bytes(b"damaged")

    labels = ",".join(f'"Doing {number} with something": "{number}"' for number in range(174))
    write_text("ssv2/labels/labels.json", f"{{{labels}}}")
    entry = (
        '{"id": "%d", "label": "doing 7 with a cup", "template": "Doing 7 with [something]",'
        ' "placeholders": []}'
    )
    for split, numbers in (("train", (1, 2, 4)), ("validation", (3,))):
        entries = ", ".join(entry % number for number in numbers)
        write_text(f"ssv2/labels/{split}.json", f"[{entries}]")

    assert run_section("Something-Something V2") == [1, 1, 0, 0]

    bad = read_manifest(str(tmp_path / "data/ssv2/labels/manifest.csv")).unreadable
    assert bad == {"4.webm": "unreadable: invalid data found when processing input"}

    # 12 frames at 12 frames/s are 30 at 30 frames/s.
    last_frames = (tmp_path / "data/ssv2_frames").glob("*/img_00030.jpg")
    assert {path.parent.name for path in last_frames} == {"1", "2", "3"}
    train = (tmp_path / "data/ssv2_lists/somesomev2_rgb_train_split.txt").read_text()
    assert train == "1 30 7\n2 30 7\n"


@pytest.mark.zoo
def test_something_something_v1(run_section: RunSection, write_text: Write, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        folder = tmp_path / f"data/ssv1/20bn-something-something-v1/{number}"
        folder.mkdir(parents=True)
        for frame in range(1, number + 8):
            Image.new("RGB", (16, 12)).save(folder / f"{frame:05d}.jpg")

    labels = "".join(f"Doing {number}\n" for number in range(174))
    write_text("ssv1/something-something-v1-labels.csv", labels)
    write_text("ssv1/something-something-v1-train.csv", "1;Doing 100\n3;Doing 0\n")
    write_text("ssv1/something-something-v1-validation.csv", "2;Doing 5\n")

    assert run_section("Something-Something V1") == [0, 0]

    lists = tmp_path / "data/ssv1_lists"
    assert (lists / "somesomev1_rgb_train_split.txt").read_text() == "1 8 100\n3 10 0\n"
    assert (lists / "somesomev1_rgb_validation_split.txt").read_text() == "2 9 5\n"


@pytest.mark.zoo
def test_ucf101(
    run_section: RunSection, write_videos: Write, write_text: Write, tmp_path: Path
) -> None:
    names = [f"Class{number:03d}" for number in range(101)]
    class_ind = "".join(f"{number} {name}\r\n" for number, name in enumerate(names, 1))
    write_text("ucf101/ucfTrainTestlist/classInd.txt", class_ind)

    videos = []
    for name in (names[0], names[100]):
        videos += [f"{name}/v_{name}_g0{group}_c01.avi" for group in (1, 2)]
    write_videos(*[f"ucf101/UCF-101/{path}" for path in videos])
    train = f"{videos[0]} 1\n{videos[2]} 101\n"
    write_text("ucf101/ucfTrainTestlist/trainlist01.txt", train)
    write_text("ucf101/ucfTrainTestlist/testlist01.txt", f"{videos[1]}\n{videos[3]}\n")

    assert run_section("UCF101") == [0, 0, 0]

    assert (tmp_path / "data/ucf101_lists/train.csv").read_text() == (
        "Class000/v_Class000_g01_c01.mp4,0\nClass100/v_Class100_g01_c01.mp4,100\n"
    )


@pytest.mark.zoo
def test_hmdb51(
    run_section: RunSection, write_videos: Write, write_text: Write, tmp_path: Path
) -> None:
    for number in range(51):
        name = f"class_{number:02d}"
        marks = "unused.avi 0 \n"
        if number < 3:
            write_videos(*[f"hmdb51/videos/{name}/{stem}.avi" for stem in ("a", "b", "unused")])
            marks = "a.avi 1 \nb.avi 2 \nunused.avi 0 \n"
        write_text(f"hmdb51/testTrainMulti_7030_splits/{name}_test_split1.txt", marks)

    assert run_section("HMDB51") == [0]

    manifest = tmp_path / "data/hmdb51/testTrainMulti_7030_splits/manifest.csv"
    assert read_manifest(str(manifest)) == ({}, 6)


def test_own_videos(run_section: RunSection, write_videos: Write, tmp_path: Path) -> None:
    for name in ("walking", "jumping"):
        write_videos(*[f"mine/{name}/video {number}.mp4" for number in range(8)])
        write_videos(*[f"split/{split}/{name}/one.mp4" for split in ("train", "val", "test")])
        write_videos(*[f"split/train/{name}/{number}.mp4" for number in range(8)])

    assert run_section("Your own videos") == [0, 0, 0]

    assert read_manifest(str(tmp_path / "data/mine_lists/manifest.csv")) == ({}, 16)
    assert read_manifest(str(tmp_path / "data/split/manifest.csv")) == ({}, 22)
