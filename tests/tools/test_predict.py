"""tools/predict.py: inputs, formats, files, signals and exit statuses."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slowfast.config import CfgNode
from slowfast.datasets.decode import VideoFile
from slowfast.inference.predictions import Prediction
from slowfast.trained import load
from slowfast.utils.text import count
from tests.conftest import write_sound
from tests.inference.conftest import save_random_checkpoint
from tests.tools.load_tool import REPOSITORY, load_main

Predict = Callable[..., int]


@pytest.fixture
def weights(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> Path:
    """A checkpoint with random weights. Its clips have 4 frames and span 12."""
    return save_random_checkpoint(tiny_cfg(), tmp_path / "weights.pyth")


@pytest.fixture
def predict(weights: Path) -> Predict:
    """Function that runs the tool with the weights in this process."""
    main = load_main("predict")
    return lambda *words: main([str(weights), *map(str, words)])


@pytest.fixture
def folder(motion_folder: Path, tmp_path: Path) -> Path:
    """A folder with two videos, one of them in a folder, and a file that is none."""
    folder = tmp_path / "videos"
    (folder / "more").mkdir(parents=True)
    paths = sorted((motion_folder / "test").glob("*.mp4"))
    shutil.copy(paths[0], folder / "a, b.mp4")
    shutil.copy(paths[-1], folder / "more" / "c.mp4")
    (folder / "notes.txt").write_text("no video")
    return folder


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def predicted(weights: Path, path: Path) -> Prediction:
    prediction = load(weights).predict(str(path))
    assert isinstance(prediction, Prediction)
    return prediction


# ---- Formats ---------------------------------------------------------------------------------


def test_json_has_one_object_per_video(
    predict: Predict, folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(folder, "--json", "--top", 3) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = [predicted(weights, folder / name) for name in ("a, b.mp4", "more/c.mp4")]
    assert [line["path"] for line in lines] == [prediction.path for prediction in expected]
    for line, prediction in zip(lines, expected, strict=True):
        assert len(line["top"]) == 3
        assert line["top"] == prediction.as_json()["top"][:3]
        assert len(line["clips"]) == 2


def test_csv_has_the_classes_by_rank(
    predict: Predict, folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "sound.mp4").touch()
    write_sound(folder / "sound.mp4")
    assert predict(folder, "--csv", "--top", 2) == 3
    text = capsys.readouterr().out
    assert text.startswith("path,label_1,probability_1,label_2,probability_2,reason\r\n")
    first, last, sound = sorted(read_csv(text), key=lambda row: row["path"])
    assert first["path"] == f"{folder}/a, b.mp4"  # its comma is quoted
    assert float(first["probability_1"]) == predicted(weights, folder / "a, b.mp4").probability
    assert last["reason"] == ""
    assert sound["label_1"] == ""
    assert sound["reason"] == f"{folder}/sound.mp4: no video stream"


def test_lines_of_csv_files_end_as_in_rfc_4180(
    predict: Predict, folder: Path, tmp_path: Path
) -> None:
    assert predict(folder, "--csv", "--out", tmp_path / "new/table.csv") == 0
    content = (tmp_path / "new/table.csv").read_bytes()
    assert content.count(b"\r\n") == content.count(b"\n") == 3


def test_text_is_for_people(
    predict: Predict, folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(folder / "more/c.mp4", "--top", 1) == 0
    best = predicted(weights, folder / "more/c.mp4").top[0]
    expected = f"{folder}/more/c.mp4: {best.label} {best.probability:.1%}\n"
    assert capsys.readouterr() == (expected, "")


# ---- Inputs ----------------------------------------------------------------------------------


def paths_in(text: str) -> list[str]:
    return [json.loads(line)["path"] for line in text.splitlines()]


def test_patterns_and_folders_of_images_are_inputs(
    predict: Predict, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "frames" / "one"
    images.mkdir(parents=True)
    for number in range(1, 16):
        Image.new("RGB", (40, 32), (8 * number, 0, 0)).save(images / f"img_{number:03d}.png")

    words = [folder / "**/*.mp4", images, images.parent, folder / "a, b.mp4"]
    assert predict(*words, "--json", "--clips", 1) == 0
    both = [f"{folder}/a, b.mp4", f"{folder}/more/c.mp4"]
    assert paths_in(capsys.readouterr().out) == [*both, str(images), str(images), both[0]]


def test_unreadable_inputs_are_reported(
    predict: Predict, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    words = [folder / "notes.txt", tmp_path / "empty", "gone.mp4", "no*.mp4", folder / "more"]
    assert predict(*words, "--json", "--clips", 1) == 3
    output, errors = capsys.readouterr()
    reasons = [json.loads(line).get("reason", "") for line in output.splitlines()]
    assert reasons == [
        f"{folder}/notes.txt: invalid data found when processing input",
        f"{tmp_path}/empty: has no videos and no images",
        "gone.mp4: no such file",
        "no*.mp4: matches no file",
        "",
    ]
    assert errors.splitlines() == [
        *[f"unreadable: {reason}" for reason in reasons[:4]],
        "not predicted, or not as a whole: 4 of 5 inputs",
    ]


def test_an_empty_list_is_an_error(
    predict: Predict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert predict("-") == 1
    assert capsys.readouterr().err == (
        "error: standard input names no videos. Give one path per line\n"
    )


def test_weights_without_a_model_are_an_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = load_main("predict")
    for name in ("notes.txt", "gone.pyth", "more"):
        assert main([str(folder / name), str(folder)]) == 1
        output, errors = capsys.readouterr()
        assert output == ""
        assert errors.startswith("error: ")
        assert str(folder / name) in errors
        assert errors.count("\n") == 1


def test_bare_weights_take_a_config_and_names(
    tiny_cfg: Callable[..., CfgNode],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cfg = tiny_cfg()
    bare = save_random_checkpoint(
        cfg, tmp_path / "bare.pyth", entries={"cfg": None, "class_names": None}
    )
    (tmp_path / "config.yaml").write_text(cfg.dump())
    names = [f"class {number}" for number in range(8)]
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    words = [bare, folder / "more", "--cfg", tmp_path / "config.yaml"]
    words += ["--class-names", tmp_path / "names.txt", "--top", 8, "--json"]
    assert load_main("predict")([str(word) for word in words]) == 0
    top = json.loads(capsys.readouterr().out)["top"]
    assert sorted(score["label"] for score in top) == names


@pytest.mark.parametrize(
    "words",
    [
        ["a.mp4", "--json", "--csv"],
        ["a.mp4", "--top", "0"],
        ["a.mp4", "--crops", "2"],
        ["a.mp4", "--window", "0"],
        ["a.mp4", "--window", "nan"],
        ["a.mp4", "--stride", "-1s"],
        ["a.mp4", "--stride", "2 weeks"],
        ["a.mp4", "--smooth", "3"],
        ["a.mp4", "--segments", "--smooth", "2"],
        ["tcp://host:1", "a.mp4"],
        ["-", "--stream"],
        ["-", "-"],
        ["a.mp4", "b.mp4", "--annotate", "c.mp4"],
        ["a.mp4", "--annotate", "c.avi"],
        ["a.mp4", "--annotate", "./a.mp4"],
        ["a.mp4", "--out", "weights.pyth"],
        [],
    ],
    ids=" ".join,
)
def test_wrong_usage_has_status_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        load_main("predict")(["weights.pyth", *words])
    assert stopped.value.code == 2


# ---- Windows ---------------------------------------------------------------------------------


def test_windows_and_segments_have_times(
    predict: Predict, folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "more/c.mp4"
    assert predict(path, "--window", "480ms", "--stride", "0.24", "--json", "--top", 1) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = list(load(weights).predict_windows(path, window=0.48, stride=0.24, top=1))
    assert lines == [window.as_json() for window in expected]
    assert len(lines) > 3

    words = [path, "--window", "clip", "--stride", "240ms", "--segments", "--csv"]
    assert predict(*words, "--smooth", 3, "--min-length", "0.3s") == 0
    rows = read_csv(capsys.readouterr().out)
    assert sum(int(row["num_windows"]) for row in rows) <= len(lines)
    assert (float(rows[0]["start"]), float(rows[-1]["end"])) == (0.0, lines[-1]["end"])


def test_windows_of_an_unreadable_file_have_a_reason(
    predict: Predict, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(folder / "notes.txt", folder / "more", "--window", "1s", "--csv") == 3
    rows = read_csv(capsys.readouterr().out)
    assert rows[0]["reason"].startswith(f"{folder}/notes.txt: ")
    assert rows[0]["start"] == ""
    assert rows[1]["start"] == "0.0"


def test_an_annotated_video_has_every_frame(predict: Predict, folder: Path, tmp_path: Path) -> None:
    path, out = folder / "more/c.mp4", tmp_path / "new" / "annotated.mp4"
    assert predict(path, "--window", "0.4", "--annotate", out) == 0
    with VideoFile(str(path)) as video, VideoFile(str(out)) as copy:
        assert copy.num_frames == video.num_frames
        assert copy.fps == video.fps
        assert np.allclose(copy.times, video.times, atol=1e-3)
        assert copy.read([3]).shape == video.read([3]).shape
    assert [found.name for found in out.parent.iterdir()] == ["annotated.mp4"]


# ---- Files, pipes and signals ----------------------------------------------------------------


def test_a_failure_leaves_the_old_file(
    predict: Predict, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "table.csv"
    out.write_text("old")
    assert predict(folder, "--calibrated", "--out", out) == 1  # there is no temperature
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.glob("table*")) == ["table.csv"]


def test_a_closed_pipe_ends_the_tool_quietly(
    predict: Predict,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert predict(folder) == 141
    assert capsys.readouterr().err == ""


def test_a_list_is_predicted_line_by_line(
    weights: Path, folder: Path, tmp_path: Path, ctrl_c_is_heard: None
) -> None:
    code = (
        "import runpy, sys; status = runpy.run_path('tools/predict.py')['main'](sys.argv[1:]); "
        "print({'timm', 'torchvision', 'slowfast.engine'} & set(sys.modules), flush=True); "
        "sys.exit(status)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(weights), "-", "--json"],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as tool:
        assert tool.stdin is not None
        assert tool.stdout is not None
        for path in (folder / "a, b.mp4", folder / "more/c.mp4"):
            print(path, file=tool.stdin, flush=True)
            assert json.loads(tool.stdout.readline())["path"] == str(path)
        tool.send_signal(signal.SIGINT)
        output, errors = tool.communicate()
    assert (tool.returncode, output) == (130, "set()\n")
    assert errors == "\nstopped\n"


def test_a_stopped_stream_keeps_its_file(
    weights: Path, tmp_path: Path, write_painted: Callable[..., Path]
) -> None:
    video = write_painted(tmp_path / "video.mp4", 40, g="10", bf="0")
    out = tmp_path / "live.csv"
    script = REPOSITORY / "tests/inference/stream_server.py"
    serve = [sys.executable, str(script), str(video), "40", "stall=60"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = f"tcp://127.0.0.1:{server.stdout.readline().strip()}"
            words = [str(REPOSITORY / "tools/predict.py"), str(weights), address, "--csv"]
            with subprocess.Popen(
                [sys.executable, *words, "--out", str(out)], stderr=subprocess.PIPE, text=True
            ) as tool:
                assert tool.stderr is not None
                assert f"{address}: no frames for" in tool.stderr.readline()
                tool.send_signal(signal.SIGTERM)
                errors = tool.communicate()[1]
        finally:
            server.kill()

    assert tool.returncode == 0
    rows = read_csv(out.read_text())
    assert f"the stream has ended: {count(len(rows), 'window')}, " in errors
    assert rows
    assert all(float(row["latency"]) > 0 for row in rows)
