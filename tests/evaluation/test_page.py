"""The report page as text: what it shows, its size, and hostile names."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from slowfast.evaluation.report.content import read_content
from slowfast.evaluation.report.page import MAX_BYTES, write_report
from slowfast.evaluation.report.thumbnails import Thumbnail, draw_thumbnail
from tests.evaluation.result_folders import edit_metrics, write_result_folder

HOSTILE = "</script><script>document.title='owned'</script>'\"\u202e\u2028\n<b>🎬"


class Page(HTMLParser):
    """The elements of a page, and the text outside of scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text += data

    def ids(self) -> list[str | None]:
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]


def write_page(folder: Path, **options: Any) -> Page:
    return Page(write_report(folder, training=None, thumbnails=None, **options))


def packed_data(path: Path, name: str) -> Any:
    found = re.search(rf'id="{name}">([^<]*)<', path.read_text())
    assert found is not None
    return json.loads(gzip.decompress(base64.b64decode(found[1])))


# ---- Content ---------------------------------------------------------------------------------


def test_the_page_shows_the_metrics_and_counts(tmp_path: Path) -> None:
    folder = write_result_folder(tmp_path, num_videos=20, num_unreadable=3, num_nonfinite=1)
    changes = {"top1": 81.25, "top1_listed": 65.0, "nll": 0.41237}
    edit_metrics(folder, **changes, views=[{**VIEW, "top1": 71.11}])

    text = " ".join(write_page(folder).text.split())

    assert "81.25%" in text
    assert "65.00% of all listed videos" in text
    assert "0.4124" in text
    assert "71.11%" in text
    assert "16 of 20 listed videos are scored" in text
    assert "4 videos without scores: 3 unreadable, 1 with non-finite scores" in text
    assert text.count("moov atom not found") == 4
    assert "ab" * 32 in text  # the checksum of the weights
    assert "NUM_FRAMES: 8" in text
    assert "2.14.1" in text


VIEW = {"num_clips": 4, "num_crops": 3, "fusion": "sum", "top1": 70.0, "top5": 90.0}


def test_all_videos_are_in_the_page_as_in_the_file(tmp_path: Path) -> None:
    folder = write_result_folder(tmp_path, num_videos=50, num_unreadable=2)
    path = write_report(folder, training=None, thumbnails=None)
    table = pq.read_table(folder / "predictions.parquet")

    data = packed_data(path, "videos-data")

    assert data["row"] == list(range(50))
    assert data["path"] == table["path"].to_pylist()
    assert data["prediction"] == table["prediction"].to_pylist()
    assert data["rank"] == table["label_rank"].to_pylist()
    first = [row and row[0] for row in table["top_probabilities"].to_pylist()]
    assert np.array_equal(
        np.array(data["probability"], np.float32), np.array(first, np.float32), equal_nan=True
    )


def test_mistakes_are_the_most_confident_ones(tmp_path: Path) -> None:
    folder = write_result_folder(tmp_path, num_videos=300, num_unreadable=3)
    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    wrong = [row for row in rows if row["status"] == "scored" and row["label_rank"] > 1]
    wrong.sort(key=lambda row: (-row["top_probabilities"][0], row["row"]))

    mistakes = read_content(folder).highlights

    assert [mistake.row for mistake in mistakes] == [row["row"] for row in wrong[:24]]
    text = write_page(folder).text
    assert re.findall(r"row (\d+)", text) == [str(row["row"]) for row in wrong[:24]]


def test_a_large_list_shows_unscored_and_mistakes_first(tmp_path: Path) -> None:
    folder = write_result_folder(tmp_path, num_videos=25_000, num_unreadable=300)
    path = write_report(folder, training=None, thumbnails=None)
    table = pq.read_table(folder / "predictions.parquet", columns=["row", "label_rank"])
    ranks = np.nan_to_num(table["label_rank"].to_numpy(), nan=0)

    rows = packed_data(path, "videos-data")["row"]

    assert rows == sorted(rows)
    assert len(rows) == 20_000
    assert set(np.flatnonzero(ranks != 1)) <= set(rows)
    right = np.flatnonzero(ranks == 1)
    assert {*rows} - {*np.flatnonzero(ranks != 1)} == {*right[: 20_000 - (ranks != 1).sum()]}
    assert "20,000 of 25,000 videos" in Page(path).text
    assert "the first 200" in Page(path).text


def test_thumbnails_are_shown_or_say_why_not(tmp_path: Path) -> None:
    folder = write_result_folder(tmp_path, num_videos=60)
    first, second, *_ = read_content(folder).highlights
    image = draw_thumbnail(np.zeros((8, 64, 64, 3), np.uint8))
    thumbnails = [Thumbnail(first.row, image), Thumbnail(second.row, "", note="a.mp4: gone <b>")]

    page = Page(write_report(folder, training=None, thumbnails=thumbnails))

    assert [tag["src"] for name, tag in page.tags if name == "img"] == [image]
    assert "No thumbnail: a.mp4: gone <b>" in page.text
    assert not [name for name, _ in write_page(folder).tags if name == "img"]


def test_ids_are_unique_for_few_and_many_classes(tmp_path: Path) -> None:
    for num_classes in (2, 30):
        folder = write_result_folder(tmp_path / str(num_classes), num_classes=num_classes)
        ids = write_page(folder).ids()
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize("num_classes", [1, 2, 21])
def test_any_number_of_classes_has_a_page(tmp_path: Path, num_classes: int) -> None:
    folder = write_result_folder(tmp_path, num_classes=num_classes, num_videos=1)
    text = write_page(folder).text
    assert "1 of 1 listed videos are scored" in text


def test_a_result_without_optional_metrics_has_a_page(tmp_path: Path) -> None:
    folder = write_result_folder(tmp_path)
    (folder / "config.yaml").unlink()
    metrics = json.loads((folder / "metrics.json").read_text())
    for name in ("seconds", "videos_per_second", "weights_sha256", "list", "device", "temperature"):
        del metrics[name]
    (folder / "metrics.json").write_text(json.dumps(metrics))

    assert "Effective config" not in write_page(folder).text


def test_the_same_result_gives_the_same_page(tmp_path: Path) -> None:
    folder = write_result_folder(tmp_path, num_classes=30)
    first = write_report(folder, training=None, thumbnails=None).read_bytes()
    assert write_report(folder, training=None, thumbnails=None).read_bytes() == first


# ---- Hostile names and size ------------------------------------------------------------------


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    names = [f"{number}{HOSTILE}" for number in range(4)]
    folder = write_result_folder(
        tmp_path,
        num_classes=4,
        num_unreadable=2,
        class_names=names,
        path_of=lambda row: f"{row}{HOSTILE}",
        reason=HOSTILE,
    )
    (folder / "config.yaml").write_text(f"NOTE: {HOSTILE}")
    edit_metrics(folder, weights=HOSTILE)
    path = write_report(folder, training=None, thumbnails=None)

    page, text = Page(path), path.read_text()

    assert len([name for name, _ in page.tags if name == "script"]) == 3
    assert "b" not in {name for name, _ in page.tags}
    assert "\u202e" not in text  # it would reverse the text after it
    assert "\u2028" not in text
    assert page.text.count("</script><script>document.title='owned'</script>") > 10


def test_names_of_ten_thousand_characters_are_cut(tmp_path: Path) -> None:
    long = "x" * 10_000
    folder = write_result_folder(
        tmp_path,
        num_classes=3,
        num_unreadable=3,
        class_names=[f"{number}{long}" for number in range(3)],
        path_of=lambda row: f"{row}{long}.mp4",
        reason=long,
    )
    path = write_report(folder, training=None, thumbnails=None)
    assert path.stat().st_size < 300_000
    assert all(len(name) <= 300 for name in packed_data(path, "videos-data")["path"])


def test_twenty_thousand_videos_fit_into_five_megabytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [rng.bytes(60).hex() for _ in range(20_000)]
    folder = write_result_folder(
        tmp_path, num_classes=400, num_videos=20_000, num_unreadable=200, path_of=names.__getitem__
    )
    noise = rng.integers(256, size=(8, 224, 224, 3)).astype(np.uint8)
    image = draw_thumbnail(noise)  # the largest JPEG file
    thumbnails = [Thumbnail(mistake.row, image) for mistake in read_content(folder).highlights]

    path = write_report(folder, training=None, thumbnails=thumbnails)

    assert path.stat().st_size <= MAX_BYTES == 5_000_000
    assert len(packed_data(path, "videos-data")["row"]) == 20_000


def test_a_page_that_would_be_too_large_shows_fewer_videos(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [base64.b64encode(rng.bytes(220)).decode() for _ in range(20_000)]
    folder = write_result_folder(
        tmp_path, num_videos=20_000, num_unreadable=2, path_of=names.__getitem__
    )
    path = write_report(folder, training=None, thumbnails=None)

    num_shown = len(packed_data(path, "videos-data")["row"])

    assert 10_000 < num_shown < 20_000
    assert 0.9 * MAX_BYTES < path.stat().st_size <= MAX_BYTES
    assert f"{num_shown:,} of 20,000 videos" in Page(path).text


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    page = write_page(write_result_folder(tmp_path, num_classes=30))
    targets = [
        value
        for _, attributes in page.tags
        for key, value in attributes.items()
        if key in ("src", "href", "xlink:href", "srcset", "action")
    ]
    assert all(str(target).startswith(("#", "data:")) for target in targets)
    policies = [tag["content"] for name, tag in page.tags if "http-equiv" in tag and name == "meta"]
    assert str(policies[0]).startswith("default-src 'none';")
