"""The classifier: predictions equal the test of the model to the bit, whatever the input is."""

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from slowfast.datasets.decode import DecodeError, VideoFile
from slowfast.evaluation.result import open_result
from slowfast.inference.classifier import Classifier
from slowfast.inference.inputs import Input
from slowfast.inference.predictions import Prediction, Unreadable
from slowfast.trained import load
from tests.engine.outputs import read_logits

Run = Callable[..., Path]


def listed_paths(folder: Path) -> list[str]:
    lines = (folder / "test.csv").read_text().splitlines()
    return [str(folder / line.rpartition(",")[0]) for line in lines]


def logits_of(predictions: list[Prediction]) -> NDArray[np.float32]:
    return np.stack([prediction.logits for prediction in predictions])


def read_all(path: str) -> NDArray[np.uint8]:
    with VideoFile(path) as video:
        return video.read(range(video.num_frames))


@pytest.fixture
def classifier(new_run: Run) -> Classifier:
    """A classifier of two clips and one crop, with random weights."""
    return load(new_run())


# ---- Equal to run_net ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"TEST__NUM_SPATIAL_CROPS": 3, "DATA__ENSEMBLE_METHOD": "max"},
        {"TEST__VIEWS_PER_FORWARD": 1, "DATA__UINT8": True},
        {"TRAIN__AMP": "bf16", "DATA__ENSEMBLE_METHOD": "probabilities"},
        {"TEST__DATASET": "kinetics_sparse", "DATA__REVERSE_INPUT_CHANNEL": True},
        {"DATA__TARGET_FPS": 15, "DATA__USE_OFFSET_SAMPLING": False, "DATA__TEST_SHORT_SIDE": 40},
    ],
    ids=lambda settings: " ".join(settings) or "defaults",
)
def test_a_list_is_predicted_as_it_is_tested(
    settings: dict[str, object], tested_run: Run, motion_folder: Path
) -> None:
    run = tested_run(**settings)
    predictions = load(run).predict(listed_paths(motion_folder))
    assert isinstance(predictions, list)
    assert np.array_equal(logits_of(predictions), read_logits(run))

    table = open_result(run).predictions()
    best = [prediction.top[0].class_id for prediction in predictions]
    assert best == table["prediction"].to_pylist()
    probabilities = [[score.probability for score in p.top] for p in predictions]
    listed = np.array(table["top_probabilities"].to_pylist(), np.float32)
    assert np.array_equal(np.array(probabilities, np.float32), listed)


def test_one_file_is_predicted_as_in_a_long_list(tested_run: Run, motion_folder: Path) -> None:
    run = tested_run(TEST__NUM_SPATIAL_CROPS=3)
    classifier = load(run)
    for row in (0, 7, 23):
        path = listed_paths(motion_folder)[row]
        prediction = classifier.predict(path, fills_passes=True)
        assert np.array_equal(prediction.logits, read_logits(run)[row])


def test_one_file_alone_agrees_closely(tested_run: Run, motion_folder: Path) -> None:
    run = tested_run()
    prediction = load(run).predict(listed_paths(motion_folder)[5])
    assert prediction.logits == pytest.approx(read_logits(run)[5], abs=1e-5)


def test_other_clips_and_crops_than_those_of_the_test(tested_run: Run, motion_folder: Path) -> None:
    run = tested_run(TEST__NUM_ENSEMBLE_VIEWS=3, TEST__NUM_SPATIAL_CROPS=3)
    two = load(tested_run(OUTPUT_DIR=run.parent / "two"))
    path = listed_paths(motion_folder)[0]
    prediction = two.predict(path, clips=3, crops=3, fills_passes=True)
    assert prediction.logits.shape == (9, 8)
    assert np.array_equal(prediction.logits, read_logits(run)[0])
    assert len(prediction.clips) == 3
    assert np.array_equal(prediction.clips[1].logits, prediction.logits[3:6])


def test_threads_share_a_classifier(classifier: Classifier, motion_folder: Path) -> None:
    paths = listed_paths(motion_folder)[:8]
    expected = [classifier.predict(path).logits for path in paths]
    found: dict[int, NDArray[np.float32]] = {}

    def predict(index: int) -> None:
        found[index] = classifier.predict(paths[index]).logits

    threads = [threading.Thread(target=predict, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[index], expected[index]) for index in range(8))


def test_reading_ahead_changes_nothing(classifier: Classifier, motion_folder: Path) -> None:
    paths = listed_paths(motion_folder)[:5]
    views = {"num_clips": 2, "num_crops": 1}
    plain = [video.frames for video in classifier.reader.read_each(paths, **views)]
    ahead = [video.frames for video in classifier.reader.read_each(paths, **views, num_ahead=3)]
    assert len(ahead) == 5
    assert all(torch.equal(*pair) for pair in zip(plain, ahead, strict=True))


# ---- Inputs ----------------------------------------------------------------------------------


class EveryFrame:
    """A decoder of somebody else."""

    def __init__(self, frames: NDArray[np.uint8], fps: float) -> None:
        self.frames, self.fps = frames, fps
        self.numbers_read: list[int] = []

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    def read(self, numbers: Sequence[int]) -> NDArray[np.uint8]:
        self.numbers_read += numbers
        return self.frames[list(numbers)]


@pytest.mark.parametrize(
    "settings", [{}, {"DATA__REVERSE_INPUT_CHANNEL": True}], ids=["RGB", "BGR"]
)
def test_every_kind_of_input_gives_the_same_logits(
    settings: dict[str, object], new_run: Run, motion_folder: Path, tmp_path: Path
) -> None:
    classifier = load(new_run(**settings))
    path = listed_paths(motion_folder)[1]
    expected = classifier.predict(path)
    frames = read_all(path)
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(np.ascontiguousarray(frame)).save(tmp_path / f"scene {number}.png")

    with VideoFile(path) as video, VideoFile(path, bgr=True) as swapped:
        inputs: dict[str, Input] = {
            "path": Path(path),
            "array": frames,
            "tensor": torch.from_numpy(frames.copy()),
            "folder": tmp_path,
            "open video": video,
            "open BGR video": swapped,
            "decoder": EveryFrame(frames, fps=float(video.fps)),
        }
        for kind, x in inputs.items():
            logits = classifier.predict(x).logits
            assert np.array_equal(logits, expected.logits), kind


def test_a_decoder_reads_each_frame_once(classifier: Classifier) -> None:
    decoder = EveryFrame(np.zeros((30, 32, 32, 3), np.uint8), fps=25)
    classifier.predict(decoder)
    # Two clips of 4 frames over 12 frames each, the second one 18 frames later.
    assert decoder.numbers_read == [0, 3, 7, 11, 18, 21, 25, 29]


def test_arrays_with_a_frame_rate_are_resampled(new_run: Run, motion_folder: Path) -> None:
    classifier = load(new_run(DATA__TARGET_FPS=10))
    path = listed_paths(motion_folder)[1]
    with VideoFile(path) as video:
        fps = float(video.fps)
    expected = classifier.predict(path).logits
    assert np.array_equal(classifier.predict(read_all(path), fps=fps).logits, expected)
    assert not np.array_equal(classifier.predict(read_all(path)).logits, expected)


@pytest.fixture
def address(motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a web server of the motion videos."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    handler = partial(SimpleHTTPRequestHandler, directory=str(motion_folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_address_is_an_input(classifier: Classifier, address: str, motion_folder: Path) -> None:
    path = listed_paths(motion_folder)[3]
    prediction = classifier.predict(f"{address}/{Path(path).relative_to(motion_folder)}")
    assert np.array_equal(prediction.logits, classifier.predict(path).logits)


def test_clips_have_times_in_seconds(new_run: Run, motion_folder: Path) -> None:
    # 30 frames at 25 per second. A clip spans 4 * 3 = 12 of them: 0, 3, 7, 11 and 18 later.
    classifier = load(new_run())
    path = listed_paths(motion_folder)[0]
    frames = np.zeros((30, 32, 32, 3), np.uint8)
    clips = classifier.predict(frames, fps=25).clips
    assert [(clip.start, clip.end) for clip in clips] == [(0, 12 / 25), (18 / 25, 30 / 25)]
    assert classifier.predict(frames).clips[0].start is None

    with VideoFile(path) as video:
        duration = video.num_frames / float(video.fps)
    assert classifier.predict(path).clips[-1].end == pytest.approx(duration)


def test_probabilities_are_those_of_the_mean_logits(
    classifier: Classifier, motion_folder: Path
) -> None:
    prediction = classifier.predict(listed_paths(motion_folder)[2], top=3)
    mean = torch.from_numpy(prediction.logits).double().mean(dim=0)
    assert prediction.probabilities == pytest.approx(mean.softmax(0).numpy(), abs=1e-12)
    assert [score.class_id for score in prediction.top] == mean.topk(3).indices.tolist()
    assert prediction.label == classifier.class_names[prediction.top[0].class_id]
    assert prediction.as_json()["top"][0]["label"] == prediction.label


# ---- Bad input -------------------------------------------------------------------------------

PIXELS = np.zeros((4, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (PIXELS.transpose(0, 3, 1, 2), r"shape \(4, 3, 32, 32\).*permute\(0, 2, 3, 1\)"),
        (PIXELS.transpose(3, 0, 1, 2), r"shape \(3, 4, 32, 32\).*permute\(1, 2, 3, 0\)"),
        (PIXELS[..., :1], r"shape \(4, 32, 32, 1\).*convert them to RGB"),
        (PIXELS[0], r"shape \(32, 32, 3\).*image\[None\]"),
        (PIXELS[:0], r"shape \(0, 32, 32, 3\)"),
        (PIXELS / 255.0, r"float64, from 0 to 0. Give the pixels as uint8"),
        (torch.full((4, 32, 32, 3), torch.nan), r"float32, none finite"),
        (PIXELS.astype(np.int64) + 300, r"int64, from 300 to 300"),
    ],
)
def test_arrays_that_are_no_frames_are_refused(
    x: NDArray, message: str, classifier: Classifier
) -> None:
    with pytest.raises(ValueError, match=message):
        classifier.predict(x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top": 0}, "top is 0. Use a whole number from 1 on"),
        ({"clips": 1.5}, "clips is 1.5"),
        ({"clips": True}, "clips is True"),
        ({"crops": 2}, "crops is 2. Use 1 for the center, or 3"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"fps": -25}, "fps is -25"),
        ({"calibrated": True}, "no temperature of these weights"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: dict[str, object], message: str, classifier: Classifier
) -> None:
    with pytest.raises(ValueError, match=message):
        classifier.predict(PIXELS, **arguments)


def test_other_objects_are_refused(classifier: Classifier) -> None:
    with pytest.raises(TypeError, match=r"cannot read a dict\. Give a path"):
        classifier.predict({"path": "a.mp4"})  # type: ignore[call-overload]


def test_a_decoder_that_returns_no_frames_is_refused(classifier: Classifier) -> None:
    with pytest.raises(DecodeError, match=r"returned uint8 of shape \(1, 32, 32\)"):
        classifier.predict(EveryFrame(PIXELS[..., 0], fps=25))
    with pytest.raises(DecodeError, match="the decoder has no frames"):
        classifier.predict(EveryFrame(PIXELS[:0], fps=25))


def test_folders_without_a_sequence_of_images_are_refused(
    classifier: Classifier, motion_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(DecodeError, match="has no images and no videos"):
        classifier.predict(tmp_path)
    with pytest.raises(DecodeError, match=r"is a folder of videos\. Name a file in it, such as"):
        classifier.predict(Path(listed_paths(motion_folder)[0]).parent)
    for name in ("cat.jpg", "dog.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(DecodeError, match=r"not one numbered sequence: cat\.jpg, dog\.jpg"):
        classifier.predict(tmp_path)


def test_unreadable_files_of_a_list_are_named(
    new_run: Run, broken_folder: Path, broken_rows: dict[int, tuple[str, str]]
) -> None:
    classifier = load(new_run())
    paths = listed_paths(broken_folder)
    results = list(classifier.predict_each(paths))
    assert {row for row, result in enumerate(results) if isinstance(result, Unreadable)} == {
        *broken_rows
    }
    assert [result.path for result in results] == paths
    first = min(broken_rows)
    with pytest.raises(DecodeError, match=broken_rows[first][1]):
        classifier.predict(paths)


def test_scores_that_are_not_finite_are_an_error(classifier: Classifier) -> None:
    torch.nn.init.constant_(classifier.model.head.bias, torch.nan)  # type: ignore[union-attr, arg-type]
    with pytest.raises(FloatingPointError, match="its scores are not finite"):
        classifier.predict(PIXELS)
