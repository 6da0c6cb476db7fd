"""tools/explain.py on videos of a test: the gallery in the report and in a model card."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from slowfast.commands import explain, export_weights, report
from slowfast.config import CfgNode
from slowfast.engine.evaluate import evaluate
from slowfast.evaluation.report.gallery import read_gallery
from tests.inference.conftest import save_random_checkpoint

Run = Callable[..., Path]

FAST = ("--steps", "0", "--clips", "1", "--only", "gallery")


@pytest.fixture
def tested_run(tiny_cfg: Callable[..., CfgNode]) -> Run:
    """Function that makes the folder of a run with random weights that were tested."""

    def make(**settings: Any) -> Path:
        cfg = tiny_cfg(DATA__TEST_CROP_SIZE=64, TEST__REPORT=True, **settings)
        save_random_checkpoint(cfg)
        evaluate(cfg)
        return Path(cfg.OUTPUT_DIR)

    return make


def gallery_of(run: Path) -> list[Any]:
    metrics = json.loads((run / "test/metrics.json").read_text())
    return list(read_gallery(run / "test", test_id=metrics["test_id"]))


def images_in(page: Path) -> int:
    section = re.search(r'<section id="gallery".*?</section>', page.read_text(), re.DOTALL)
    return section[0].count('<img src="data:image/jpeg;base64,') if section else 0


def test_a_test_video_appears_in_the_report(
    tested_run: Run, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tested_run(), tmp_path / "out"
    page = run / "test/report.html"
    before = page.read_text()
    video = motion_folder / "test/../test/left_0000.mp4"
    words = ("--steps", "2", "--clips", "1", "--out", str(out))
    assert explain.main([str(run), str(video), *words]) == 0
    assert f"report: {page}, with 1 video added" in capsys.readouterr().out
    assert len([*out.iterdir()]) == 3

    assert images_in(page) == 1
    (entry,) = gallery_of(run)
    assert (entry.path, entry.label, entry.method) == ("test/left_0000.mp4", "left", "rollout")
    assert entry.check.startswith("deletion 0.")
    assert entry.target in page.read_text()

    # The page as it was is the page of today without the gallery.
    (run / "test/gallery.json").unlink()
    assert report.main([str(run)]) == 0
    assert page.read_text() == before


def test_the_same_video_and_class_replace_each_other(tested_run: Run, motion_folder: Path) -> None:
    run, video = tested_run(), str(motion_folder / "test/left_0000.mp4")
    for target in ("up", "up", "down"):
        assert explain.main([str(run), video, *FAST, "--target", target]) == 0
    assert [entry.target for entry in gallery_of(run)] == ["down", "up"]


def test_without_names_half_of_the_videos_are_mistakes(tested_run: Run) -> None:
    run = tested_run()
    words = ("--steps", "0", "--only", "gallery")  # with the views of the test
    assert explain.main([str(run), *words, "--num-videos", "4"]) == 0
    entries = gallery_of(run)
    assert sum(entry.label != entry.target for entry in entries) == 2
    assert len({entry.path for entry in entries}) == 4


def test_a_page_without_frames_stays_so(
    tested_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tested_run(TEST__THUMBNAILS=False)
    page = run / "test/report.html"
    before = page.read_text()
    assert explain.main([str(run), *FAST, "--num-videos", "1"]) == 0
    assert "shows no frames of videos, so the gallery is in" in capsys.readouterr().err
    assert page.read_text() == before

    assert report.main([str(run)]) == 0
    assert images_in(page) == 1
    assert report.main([str(run), "--no-thumbnails"]) == 0
    assert "data:image" not in page.read_text()


def test_other_videos_and_untested_weights_have_no_gallery(
    tested_run: Run, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tested_run()
    other = tmp_path / "left_0000.mp4"  # of the same name as a video of the test
    other.write_bytes((motion_folder / "test/left_0000.mp4").read_bytes())
    out = ("--out", str(tmp_path / "out"))
    assert explain.main([str(run), str(other), "--steps", "0", *out]) == 0
    assert not (run / "test/gallery.json").exists()
    assert explain.main([str(run), str(other), *FAST]) == 2
    assert f"the test has no video {other}" in capsys.readouterr().err

    (weights,) = run.glob("checkpoints/*")
    alone = tmp_path / "weights.pyth"
    alone.write_bytes(weights.read_bytes())
    assert explain.main([str(alone), *out]) == 2
    assert "name a VIDEO. Without one, videos of the test are" in capsys.readouterr().err
    assert explain.main([str(run), str(other), "--num-videos", "2"]) == 2


def test_a_damaged_gallery_stops_no_other_work(
    tested_run: Run, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, video = tested_run(), str(motion_folder / "test/left_0000.mp4")
    gallery = run / "test/gallery.json"
    for content in ("{", "[]", '{"version": 9}'):
        gallery.write_text(content)
        out = ("--out", str(tmp_path / "out"), "--steps", "0")
        assert explain.main([str(run), video, *out]) == 0
        assert f"note: no gallery: {gallery}" in capsys.readouterr().err
        assert explain.main([str(run), video, *FAST]) == 1
        assert report.main([str(run)]) == 1
        assert "Delete it, and explain the videos again" in capsys.readouterr().err
        assert gallery.read_text() == content
    words = ("--steps", "0", "--num-videos", "1", "--only", "png")
    assert explain.main([str(run), *words, "--out", str(tmp_path / "out")]) == 0


def test_a_model_card_shows_the_gallery_only_when_asked(tested_run: Run, tmp_path: Path) -> None:
    run = tested_run()
    assert explain.main([str(run), *FAST, "--num-videos", "2"]) == 0
    assert export_weights.main([str(run), str(tmp_path / "plain")]) == 0
    assert len([*(tmp_path / "plain").iterdir()]) == 3

    assert export_weights.main([str(run), str(tmp_path / "shown"), "--with-frames"]) == 0
    card = (tmp_path / "shown/README.md").read_text()
    for number in (1, 2):
        file = f"frames/explained_{number}.jpg"
        assert f"| ![frames]({file}) | " in card
        with Image.open(tmp_path / "shown" / file) as image:
            assert image.height == 2 * 112 + 4
            assert not image.getexif()
    assert ".mp4 " not in card


def test_a_section_of_a_file_is_explained_alone(
    tested_run: Run, motion_folder: Path, tmp_path: Path
) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    rows = [f"test/{name}_0000.mp4 {label} 0.4 0.8\n" for label, name in enumerate(("left", "up"))]
    (lists / "test.csv").write_text("".join(rows))
    run = tested_run(DATA__PATH_TO_DATA_DIR=lists, TEST__NUM_ENSEMBLE_VIEWS=1)
    out = tmp_path / "out"
    words = ("--out", str(out), "--only", "npz", "--only", "gallery", "--steps", "0")
    assert explain.main([str(run), *words]) == 0
    assert sorted(entry.path for entry in gallery_of(run)) == [
        "test/left_0000.mp4#t=0.4,0.8",
        "test/up_0000.mp4#t=0.4,0.8",
    ]

    counts = np.load(out / "left_0000.npz")["counts"]
    seen = np.flatnonzero(counts.any(axis=(1, 2)))
    assert 10 <= seen.min() <= seen.max() < 20  # of 25 frames per second
