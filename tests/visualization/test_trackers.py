"""Trackers: threads of their own, event files that are cut back, and figures."""

import json
import logging
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fvcore.common.config import CfgNode

from slowfast.visualization import background, trackers
from slowfast.visualization.background import Trackers
from slowfast.visualization.figures import (
    CaptionedClip,
    draw_clips,
    draw_confusion,
    draw_predictions,
)
from slowfast.visualization.json_lines import FILE_NAME, JsonLinesTracker
from slowfast.visualization.tensorboard import TensorBoardTracker
from slowfast.visualization.trackers import TRACKERS, TrackedRun, Tracker, TrackerKind
from tests.engine.tracked_records import json_points, tensorboard_points

ROOT = Path(__file__).resolve().parents[2]


def tracked_run(folder: Path, *, num_steps: int | None = 0) -> TrackedRun:
    return TrackedRun(
        run_id="id",
        record_id="",
        num_steps=num_steps,
        project="p",
        name="n",
        group="",
        tags=[],
        folder=folder,
        config={"A.B": 1},
        hyper_parameters={"A.B": 1},
        source={"commit": "abc"},
    )


class Hanging(Tracker):
    """Hangs at its first scalars."""

    def __init__(self) -> None:
        self.is_released = threading.Event()

    def log_scalars(self, scalars: Mapping[str, float], *, step: int) -> None:
        self.is_released.wait()


def wait_for_lines(folder: Path, number: int) -> None:
    path = folder / FILE_NAME
    while not path.exists() or len(path.read_text().splitlines()) < number:
        time.sleep(0.001)


def test_a_tracker_that_hangs_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(background, "MAX_WAITING", 3)
    monkeypatch.setattr(background, "CLOSE_SECONDS", 5.0)
    hanging = Hanging()
    together = Trackers(
        {
            "hanging": lambda: hanging,
            "lines": partial(JsonLinesTracker, tracked_run(tmp_path)),
        },
        record_ids={},
    )
    for step in range(20):
        together.log_scalars({"loss": float(step)}, step=step)
        wait_for_lines(tmp_path, step + 1)
    together.close(is_finished=True)
    hanging.is_released.set()

    assert [step for step, _ in json_points(tmp_path)["loss"]] == list(range(20))
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "the tracker hanging is off from here on: it is 3 records behind" in record.message


def test_a_tracker_that_never_closes_does_not_hold_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "STOP_SECONDS", 0.25)
    monkeypatch.setattr(background, "QUIET_SECONDS", 0.05)
    caplog.set_level(logging.INFO)
    hanging = [Hanging(), Hanging()]
    together = Trackers({"a": lambda: hanging[0], "b": lambda: hanging[1]}, record_ids={})
    together.log_scalars({"loss": 1.0}, step=1)
    together.close(is_finished=False)
    for tracker in hanging:
        tracker.is_released.set()
    told, *warnings = [record.message for record in caplog.records]
    assert told == "waiting up to 0 s for the tracker a"
    assert [name in text for name, text in zip("ab", warnings, strict=True)] == [True, True]
    assert all("it did not finish in time (0 s)" in text for text in warnings)


def test_a_tracker_that_starts_late_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "START_SECONDS", 0.05)
    caplog.set_level(logging.INFO)
    may_start = threading.Event()

    def start() -> Tracker:
        may_start.wait()
        return Tracker()

    together = Trackers({"late": start}, record_ids={})
    together.log_scalars({}, step=1)
    together.wait_until_started()
    may_start.set()
    together.close(is_finished=True)
    [record] = caplog.records
    assert "the tracker late has not started after 0 s" in record.message


def test_trackers_start_with_the_first_thing_to_record(tmp_path: Path) -> None:
    records: dict[str, str] = {}

    class Known(Tracker):
        record_id = "7"

    together = Trackers({"known": Known}, record_ids=records)
    together.close(is_finished=True)
    assert records == {}
    together.log_scalars({}, step=1)
    together.wait_until_started()
    assert records == {"known": "7"}
    together.close(is_finished=True)


@pytest.mark.parametrize("torn", [0, 5])
def test_event_files_are_cut_at_the_step_of_the_checkpoint(tmp_path: Path, torn: int) -> None:
    first = TensorBoardTracker(tracked_run(tmp_path))
    for step in range(1, 7):
        first.log_scalars({"loss": step}, step=step)
        first.log_histogram("weights", np.arange(4, dtype=np.float32), step=step)
    first.close(is_finished=False)
    [path] = tmp_path.glob("events.*")
    if torn:
        path.write_bytes(path.read_bytes()[:-torn])

    second = TensorBoardTracker(tracked_run(tmp_path, num_steps=4))
    for step in (5, 6):
        second.log_scalars({"loss": -step}, step=step)
    second.close(is_finished=True)
    points = tensorboard_points(tmp_path)
    assert points["loss"] == [(1, 1), (2, 2), (3, 3), (4, 4), (5, -5), (6, -6)]
    assert [step for step, _ in points["weights"]] == [1, 2, 3, 4]
    assert len(points["config/text_summary"]) == 1

    third = TensorBoardTracker(tracked_run(tmp_path, num_steps=None))
    third.close(is_finished=True)
    assert tensorboard_points(tmp_path)["loss"] == points["loss"]


def test_a_run_that_begins_again_has_new_event_files(tmp_path: Path) -> None:
    for _ in range(2):
        tracker = TensorBoardTracker(tracked_run(tmp_path, num_steps=0))
        tracker.log_image("clips", np.zeros((4, 4, 3), np.uint8), step=0)
        tracker.log_scalars({"loss": 1.0}, step=1)
        tracker.close(is_finished=False)
    points = tensorboard_points(tmp_path)
    assert [step for step, _ in points["loss"]] == [1]
    assert len(points["clips"]) == len(points["config/text_summary"]) == 1


def test_json_lines_are_cut_at_the_step_of_the_checkpoint(tmp_path: Path) -> None:
    first = JsonLinesTracker(tracked_run(tmp_path))
    for step in range(1, 4):
        first.log_scalars({"loss": float("nan") if step == 1 else step}, step=step)
    first.close(is_finished=False)
    with open(tmp_path / FILE_NAME, "a") as file:
        file.write('{"step": 2, "lo')

    JsonLinesTracker(tracked_run(tmp_path, num_steps=2)).close(is_finished=True)
    assert json_points(tmp_path) == {"loss": [(1, None), (2, 2)]}


@pytest.mark.parametrize("address", ["file://{}/store", "{}/store", "sqlite:///{}/store/a.db"])
def test_mlflow_records_to_folders_and_databases(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.format(tmp_path))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "")  # so that it is restored afterward
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    ids = []
    for step in (1, 2):
        tracker = TRACKERS["mlflow"].start(tracked_run(tmp_path / "unused"))
        tracker.log_scalars({"train/loss": 0.5, "val/class_accuracy/a, b": 1.0}, step=step)
        tracker.log_image("clips", np.zeros((4, 4, 3), np.uint8), step=step)
        tracker.close(is_finished=True)
        ids.append(tracker.record_id)
    assert ids[0] == ids[1]

    client = mlflow.MlflowClient(tracking_uri=address.format(tmp_path))
    losses = client.get_metric_history(ids[0], "train/loss")
    assert [(metric.step, metric.value) for metric in losses] == [(1, 0.5), (2, 0.5)]
    assert client.get_run(ids[0]).data.params["A.B"] == "1"
    assert len(list((tmp_path / "store").rglob("images/*.png"))) == 2
    assert not list((tmp_path / "elsewhere").iterdir())


def test_trackio_prints_nothing_and_knows_matplotlib(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    code = (
        "import sys; from pathlib import Path; "
        "from tests.visualization.test_trackers import TRACKERS, tracked_run; "
        "[sys.modules.pop(name) for name in list(sys.modules) if name.startswith('matplotlib')]; "
        f"tracker = TRACKERS['trackio'].start(tracked_run(Path({str(tmp_path)!r}))); "
        "tracker.log_scalars({'loss': 1.0}, step=1); tracker.close(is_finished=True); "
        # Without it, trackio drops values while another thread imports matplotlib.
        "sys.modules['matplotlib.figure'].Figure"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    [path] = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(path) as database:
        [(step, content)] = database.execute("SELECT step, metrics FROM metrics").fetchall()
    assert (step, json.loads(content)) == (1, {"loss": 1.0})


@pytest.mark.parametrize(("name", "variable"), [("trackio", "TRACKIO_DIR"), ("wandb", "WANDB_DIR")])
def test_a_folder_without_room_is_one_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    variable: str,
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv(variable, "/proc/self/fdinfo")  # nobody can make a file there
    start = partial(TRACKERS[name].start, tracked_run(tmp_path))
    running = Trackers({name: start}, record_ids={})
    for step in range(5):
        running.log_scalars({"train/loss": 1.0}, step=step)
    running.close(is_finished=True)
    (message,) = [record.getMessage() for record in caplog.records if record.levelname != "INFO"]
    assert f"the tracker {name} is off from here on" in message
    assert "/proc/self/fdinfo" in message


def test_a_missing_package_is_a_problem_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = TrackerKind(lambda run: Tracker(), modules=("no_such_module", "json"))
    monkeypatch.setitem(TRACKERS, "odd", kind)
    cfg = CfgNode({"TRACKERS": {"NAMES": ["odd"]}})
    [problem] = trackers.find_problems(cfg)
    assert "TRACKERS.NAMES has 'odd', which needs no_such_module. Run: pip install " in problem
    assert "'slowfast-uniformer[trackers]'" in problem
    with pytest.raises(ValueError, match="a tracker 'odd' already exists"):
        trackers.add_tracker("odd", kind)


def test_a_confusion_matrix_is_dark_on_its_diagonal() -> None:
    image = draw_confusion(np.diag([5, 3]), ["a $x", "b"], classes=[0, 1], size=(4, 4))
    assert image.shape == (400, 400, 3)
    dark = np.argwhere(image[..., 2] > image[..., 0].astype(int) + 50)
    rows, columns = dark[:, 0], dark[:, 1]
    # Both blocks touch the middle of the matrix, from the top left and the bottom right.
    middle_row, middle_column = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
    assert np.mean((rows < middle_row) == (columns < middle_column)) > 0.95


def test_cells_are_shares_of_all_videos_of_a_label() -> None:
    # One of ten videos of class 0 is in the shown part, so its cell is light.
    confusion = np.array([[0, 1, 9], [0, 10, 0], [0, 0, 10]])
    image = draw_confusion(confusion, list("abc"), classes=[0, 1], size=(4, 4))
    dark = (image[..., 2] > image[..., 0].astype(int) + 50).mean()
    both = draw_confusion(np.array([[0, 10], [0, 10]]), list("ab"), classes=[0, 1], size=(4, 4))
    assert dark == pytest.approx((both[..., 2] > both[..., 0].astype(int) + 50).mean() / 2, rel=0.1)


def test_names_that_the_font_lacks_give_no_warnings() -> None:
    names = ["走路", "ça va", "x" * 200]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_confusion(np.diag([5, 3, 2]), names, classes=range(3), size=(2, 2))
        draw_predictions(np.array([4, 1, 0]), names, label=0, num_shown=3, size=(2, 2))
        accented = draw_clips([CaptionedClip(np.zeros((1, 64, 64, 3), np.uint8), "çé")])
        boxes = draw_clips([CaptionedClip(np.zeros((1, 64, 64, 3), np.uint8), "走路")])
    assert (accented != boxes).any()


def test_long_names_keep_their_end() -> None:
    names = [f"a very long name of a class, number {number}" for number in range(2)]
    confusion = np.zeros((2, 2), np.int64)
    pictures = [
        draw_confusion(confusion, [names[0], name], classes=[0, 1], size=(4, 4)) for name in names
    ]
    assert (pictures[0] != pictures[1]).any()


def test_predictions_show_only_classes_that_occur() -> None:
    one = draw_predictions(np.array([4, 0, 0]), ["a", "b", "c"], label=0, num_shown=3, size=(3, 3))
    none = draw_predictions(np.array([0, 0, 0]), ["a", "b", "c"], label=0, num_shown=3, size=(3, 3))
    assert (one[..., 2] > one[..., 0].astype(int) + 50).mean() > 0.08
    assert (none[..., 2] > none[..., 0].astype(int) + 50).mean() < 0.01


def test_clips_lie_two_in_a_row_with_four_of_their_frames() -> None:
    frames = np.repeat(np.arange(8, dtype=np.uint8) * 30, 3 * 64 * 64).reshape(8, 64, 64, 3)
    clips = [CaptionedClip(frames, f"clip {number}\n{'x' * 500}") for number in range(3)]
    sheet = draw_clips(clips)
    assert sheet.shape == (2 * (128 + 32 + 8), 2 * (4 * 128 + 8), 3)
    assert [int(sheet[100, 64 + 128 * column, 0]) for column in range(4)] == [0, 60, 150, 210]
    assert (sheet[-50, -50] == 255).all()  # There is no fourth clip.
