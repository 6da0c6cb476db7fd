"""The report page in headless Chromium: sorting, searching, themes, widths and printing."""

import base64
import io
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from slowfast.evaluation.report.content import read_content
from slowfast.evaluation.report.page import write_report
from slowfast.evaluation.report.thumbnails import Thumbnail, draw_thumbnail
from slowfast.evaluation.report.training_log import read_training_log
from tests.evaluation.result_folders import write_result_folder
from tests.evaluation.results import one_hot, write_test

CHROMEDRIVER = "/usr/bin/chromedriver"
CHROMIUM = "/usr/bin/chromium"
FEW, MANY = 8, 60  # classes, for a confusion matrix that is a table and one that is an image
NUM_VIDEOS = 130
PAGE_ROWS = 50
HOSTILE = "</script><script>document.title='owned'</script>\u202e<img src=x onerror=alert(1)>🎬"

missing = [path for path in (CHROMEDRIVER, CHROMIUM) if shutil.which(path) is None]
pytestmark = [
    pytest.mark.skipif(
        bool(missing), reason=f"{missing} missing: install Debian's chromium-driver"
    ),
]


class Browser:
    """A browser that shows report pages."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, *, width: int = 1280, theme: str = "light") -> None:
        """Open a page and wait until its tables are filled."""
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"media": "", "features": features}
        )
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get(page.as_uri())

        end = time.monotonic() + 30
        while not self.run("return document.documentElement.dataset.ready"):
            assert time.monotonic() < end, self.driver.get_log("browser")
            time.sleep(0.02)

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def click(self, selector: str) -> None:
        self.driver.find_element("css selector", selector).click()

    def type(self, selector: str, text: str) -> None:
        field = self.driver.find_element("css selector", selector)
        field.clear()
        field.send_keys(text)

    def column(self, table: str, number: int) -> list[str]:
        """The texts of a column of a table, from 1, of the rows that are shown."""
        return self.run(
            f"return [...document.querySelectorAll('#{table} tbody tr')]"
            f".filter(row => !row.hidden).map(row => row.cells[{number - 1}].innerText)"
        )

    def video_rows(self) -> list[int]:
        """The rows of the list in the whole table of all videos, turning its pages."""
        rows: list[int] = []
        while True:
            rows += map(int, self.column("videos-table", 1))
            if self.run("return document.querySelector('#video-next').disabled"):
                return rows
            self.run("document.querySelector('#video-next').click()")

    def overflow(self) -> int:
        """The pixels by which the page is wider than the window."""
        width = self.run("return Math.min(innerWidth, document.documentElement.clientWidth)")
        return self.run("return document.documentElement.scrollWidth") - width

    def screenshot(self) -> np.ndarray:
        """The pixels of the window, shape (H, W, 3)."""
        image = Image.open(io.BytesIO(base64.b64decode(self.driver.get_screenshot_as_base64())))
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One headless browser for all tests, since starting it takes a second."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    yield Browser(driver)
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Report pages by number of classes, with thumbnails and a training."""
    found = {}
    for num_classes in (FEW, MANY):
        output_dir = tmp_path_factory.mktemp(f"classes{num_classes}")
        folder = write_result_folder(
            output_dir,
            num_classes=num_classes,
            num_videos=NUM_VIDEOS,
            num_unreadable=4,
            num_nonfinite=1,
            path_of=lambda row: f"folder {row % 7}/{row}.mp4",
        )
        frames = np.full((4, 64, 64, 3), 128, np.uint8)
        mistakes = read_content(folder).highlights
        thumbnails = [Thumbnail(mistake.row, draw_thumbnail(frames)) for mistake in mistakes]
        training = read_training_log(output_dir / "stdout.log")
        found[num_classes] = write_report(folder, training=training, thumbnails=thumbnails)
    return found


def predictions(page: Path) -> list[dict[str, Any]]:
    return pq.read_table(page.with_name("predictions.parquet")).to_pylist()


def probability(row: dict[str, Any]) -> float | None:
    return row["top_probabilities"] and row["top_probabilities"][0]


def sorted_rows(
    rows: list[dict[str, Any]], value_of: Callable[[dict[str, Any]], Any], *, descending: bool
) -> list[int]:
    """The rows in the order of a value, those without a value last, equal ones as listed."""
    with_value = [row for row in rows if value_of(row) is not None]
    without = [row for row in rows if value_of(row) is None]
    ordered = sorted(with_value, key=value_of, reverse=descending)
    return [row["row"] for row in [*ordered, *without]]


# ---- The page as a whole ---------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [FEW, MANY])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_is_sound_at_any_width_in_any_theme(
    browser: Browser, pages: dict[int, Path], num_classes: int, width: int, theme: str
) -> None:
    browser.driver.get_log("browser")  # of earlier pages
    browser.open(pages[num_classes], width=width, theme=theme)

    assert browser.driver.get_log("browser") == []
    assert browser.run("return performance.getEntriesByType('resource').map(e => e.name)") == []
    assert browser.overflow() == 0

    pixels = browser.screenshot()[::3, ::3]
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    brightness = np.median(pixels)
    assert brightness > 200 if theme == "light" else brightness < 60


def test_text_is_readable_in_both_themes(browser: Browser, pages: dict[int, Path]) -> None:
    for theme in ("light", "dark"):
        browser.open(pages[FEW], theme=theme)
        colors = browser.run(
            """
            const canvas = document.createElement("canvas").getContext("2d");
            const rgb = (color) => {
              canvas.fillStyle = color;
              canvas.fillRect(0, 0, 1, 1);
              return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)];
            };
            const background = rgb(getComputedStyle(document.body).backgroundColor);
            const texts = [...document.querySelectorAll("svg text, p, th, td:not(.zero, .strong)")];
            return texts.map((text) => {
              const style = getComputedStyle(text);
              return [rgb(text.closest("svg") ? style.fill : style.color), background];
            });
            """
        )
        assert len(colors) > 200
        assert min(contrast(*pair) for pair in colors) >= 4.5  # WCAG 2, level AA


def contrast(first: list[int], second: list[int]) -> float:
    """Contrast ratio of two sRGB colors, as WCAG 2 defines it."""
    luminances = []
    for color in (first, second):
        values = np.array(color) / 255
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        luminances.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(luminances) + 0.05) / (min(luminances) + 0.05)


def test_names_with_markup_do_nothing(browser: Browser, tmp_path: Path) -> None:
    folder = write_result_folder(
        tmp_path,
        num_classes=3,
        num_unreadable=2,
        class_names=[f"{number}{HOSTILE}" for number in range(3)],
        path_of=lambda row: f"{row}{HOSTILE}",
        reason=HOSTILE,
    )
    page = write_report(folder, training=None, thumbnails=None)
    browser.driver.get_log("browser")

    browser.open(page, width=400)
    browser.type("#class-lookup", "1</script>")

    assert browser.driver.get_log("browser") == []
    assert browser.driver.title.startswith("Test report")
    assert browser.overflow() == 0
    assert "<img src=x" in browser.column("videos-table", 3)[0]


def test_printing_shows_short_tables_whole(browser: Browser, pages: dict[int, Path]) -> None:
    browser.open(pages[FEW])
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert len(browser.column("videos-table", 1)) == NUM_VIDEOS
    assert not browser.run("return document.querySelector('#video-search').checkVisibility()")
    heights = "[...document.querySelectorAll('.tall')].map(e => e.scrollHeight - e.clientHeight)"
    assert max(browser.run(f"return {heights}")) <= 0

    browser.run("dispatchEvent(new Event('afterprint'))")
    assert len(browser.column("videos-table", 1)) == PAGE_ROWS


# ---- Table of all videos ---------------------------------------------------------------------

COLUMNS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "row": lambda row: row["row"],
    "path": lambda row: row["path"],
    "label": lambda row: row["class_name"],
    "prediction": lambda row: row["top_names"] and row["top_names"][0],
    "probability": probability,
    "rank": lambda row: row["label_rank"],
    "nll": lambda row: row["nll"],
    "status": lambda row: row["status"],
}


@pytest.mark.parametrize("key", COLUMNS)
def test_videos_are_sorted_by_every_column(
    browser: Browser, pages: dict[int, Path], key: str
) -> None:
    browser.open(pages[FEW])
    rows = predictions(pages[FEW])
    header = f'#videos-table th[data-key="{key}"]'

    state = browser.run(f"return document.querySelector('{header}').ariaSort")
    if state == "ascending":  # the table starts in the order of the list
        assert browser.video_rows() == list(range(NUM_VIDEOS))
    else:
        browser.click(f"{header} button")
        assert browser.video_rows() == sorted_rows(rows, COLUMNS[key], descending=False)

    browser.click(f"{header} button")
    assert browser.video_rows() == sorted_rows(rows, COLUMNS[key], descending=True)
    states = "[...document.querySelectorAll('#videos-table th')].map(th => th.ariaSort)"
    assert sorted(browser.run(f"return {states}")) == ["descending", *["none"] * 7]


def test_the_search_finds_all_words(browser: Browser, pages: dict[int, Path]) -> None:
    browser.open(pages[FEW])
    rows = predictions(pages[FEW])

    browser.type("#video-search", "FOLDER 5 3/")
    names = [f"{row['path']} {row['class_name']} {(row['top_names'] or [''])[0]}" for row in rows]
    expected = [row for row, name in enumerate(names) if "folder 3/" in name and "5" in name]
    assert expected
    assert browser.video_rows() == expected

    browser.type("#video-search", "moov atom")
    assert browser.video_rows() == [row["row"] for row in rows if row["status"] != "scored"]
    browser.type("#video-search", "no such words")
    assert browser.video_rows() == []
    status = browser.run("return document.querySelector('#video-count').textContent")
    assert status == f"none, from {NUM_VIDEOS}"


def test_the_filter_shows_mistakes_in_the_sorted_order(
    browser: Browser, pages: dict[int, Path]
) -> None:
    browser.open(pages[FEW])
    rows = [row for row in predictions(pages[FEW]) if (row["label_rank"] or 1) > 1]
    browser.run(
        "const filter = document.querySelector('#video-filter');"
        "filter.value = 'mistake'; filter.dispatchEvent(new Event('change'))"
    )
    browser.click('#videos-table th[data-key="probability"] button')
    assert browser.video_rows() == sorted_rows(rows, probability, descending=False)


def test_a_confused_pair_leads_to_its_videos(browser: Browser, pages: dict[int, Path]) -> None:
    browser.open(pages[FEW])
    button = "#confused-table tbody tr:nth-child(2) button"
    label, prediction = browser.run(
        f"const {{label, prediction}} = document.querySelector('{button}').dataset;"
        "return [Number(label), Number(prediction)]"
    )
    browser.click(button)
    rows = predictions(pages[FEW])
    found = [row["row"] for row in rows if (row["label"], row["prediction"]) == (label, prediction)]
    assert browser.video_rows() == found

    browser.click("#video-pair")
    assert browser.video_rows() == list(range(NUM_VIDEOS))


# ---- Other tables and the confusion matrix ---------------------------------------------------


def test_classes_are_sorted_and_searched(browser: Browser, pages: dict[int, Path]) -> None:
    browser.open(pages[MANY])
    header = "#classes-table th:nth-child({}) button"
    browser.click(header.format(5))
    browser.click(header.format(5))
    recalls = [text for text in browser.column("classes-table", 5) if text != "-"]
    values = [float(text.rstrip("%")) for text in recalls]
    assert len(values) > 40
    assert values == sorted(values, reverse=True)
    assert browser.column("classes-table", 5)[len(values) :].count("-") == MANY - len(values)

    browser.type('input[data-search="classes-table"]', "CLASS 5")
    names = [f"class {number}" for number in range(MANY)]
    assert sorted(browser.column("classes-table", 2)) == sorted(n for n in names if "5" in n)


def test_the_keyboard_sorts_a_table(browser: Browser, pages: dict[int, Path]) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(pages[FEW])
    browser.run("document.querySelector('#confused-table th:nth-child(3) button').focus()")
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    counts = list(map(int, browser.column("confused-table", 3)))
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_pointing_at_a_cell_tells_its_count(browser: Browser, pages: dict[int, Path]) -> None:
    from selenium.webdriver import ActionChains

    browser.open(pages[MANY])
    rows = [row for row in predictions(pages[MANY]) if row["status"] == "scored"]
    label, prediction = next(
        (row["label"], row["prediction"]) for row in rows if row["label"] != row["prediction"]
    )
    count = sum((row["label"], row["prediction"]) == (label, prediction) for row in rows)
    x, y = browser.run(
        "const image = document.querySelector('#confusion-cells');"
        "image.scrollIntoView({block: 'center'});"
        "const area = image.getBoundingClientRect();"
        f"return [area.left + ({prediction} + 0.5) * area.width / {MANY},"
        f" area.top + ({label} + 0.5) * area.height / {MANY}]"
    )
    actions = ActionChains(browser.driver)
    actions.w3c_actions.pointer_action.move_to_location(round(x), round(y))
    actions.perform()

    cell = "document.querySelector('#confusion-cell')"
    text = browser.run(f"return {cell}.textContent")
    assert f"label {label} class {label}, prediction {prediction} class {prediction}: " in text
    assert f": {count} video" in text

    browser.run("document.querySelector('.confusion-image').focus()")
    from selenium.webdriver.common.keys import Keys

    browser.driver.switch_to.active_element.send_keys(Keys.ARROW_UP)
    assert f"label {label - 1} class" in browser.run(f"return {cell}.textContent")


def test_zoom_shows_single_cells(browser: Browser, pages: dict[int, Path]) -> None:
    browser.open(pages[MANY], width=400)
    browser.click('button[data-zoom="8"]')
    widths = "document.querySelector('#confusion-cells').getBoundingClientRect().width"
    assert browser.run(f"return {widths}") > 8 * 250
    assert browser.overflow() == 0
    corner = "[document.querySelector('.confusion-image').scrollLeft,"
    corner += " document.querySelector('.confusion-image').scrollTop]"
    assert min(browser.run(f"return {corner}")) > 500  # the center stays in the center
    layer = "getComputedStyle(document.querySelector('#confusion-overview')).visibility"
    assert browser.run(f"return {layer}") == "hidden"


def test_the_lookup_lists_the_confusions_of_a_class(
    browser: Browser, pages: dict[int, Path]
) -> None:
    browser.open(pages[MANY])
    rows = [row for row in predictions(pages[MANY]) if row["status"] == "scored"]
    label = rows[0]["label"]
    browser.type("#class-lookup", f"class {label}")

    lists = browser.run(
        "return [...document.querySelectorAll('#class-confusions > div')]"
        ".map(div => [...div.querySelectorAll('li')].map(li => li.textContent))"
    )
    counts: dict[int, int] = {}
    for row in rows:
        if row["label"] == label:
            counts[row["prediction"]] = counts.get(row["prediction"], 0) + 1
    assert sorted(lists[0]) == sorted(f"class {key}: {count}" for key, count in counts.items())


# ---- A list without labels -------------------------------------------------------------------


def test_a_list_without_labels_has_columns_of_predictions(browser: Browser, tmp_path: Path) -> None:
    logits = one_hot([2, 0, 1, 2], 3) * np.array([[1], [4], [3], [2]])
    paths = ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    result = write_test(tmp_path, logits, None, paths=paths, unreadable={1: "no moov atom"})
    browser.open(write_report(result.folder, training=None, thumbnails=None))
    headers = "[...document.querySelectorAll('#videos-table th')].map(th => th.dataset.key)"
    expected = ["row", "path", "prediction", "probability", "status"]
    assert browser.run(f"return {headers}") == expected
    assert browser.column("videos-table", 3) == ["class 2", "-", "class 1", "class 2"]

    browser.run(
        "const filter = document.querySelector('#video-filter');"
        "filter.value = 'predicted'; filter.dispatchEvent(new Event('change'))"
    )
    browser.click('#videos-table th[data-key="probability"] button')
    assert browser.video_rows() == [0, 3, 2]
    browser.type("#video-search", "CLASS 2")
    assert browser.video_rows() == [0, 3]
