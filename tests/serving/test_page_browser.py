"""The page of the demo in headless Chromium: upload, result, error, and nothing from elsewhere."""

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.running_server import RunningServer, wait_until_clean

CHROMEDRIVER = "/usr/bin/chromedriver"
CHROMIUM = "/usr/bin/chromium"

pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")
missing = [path for path in (CHROMEDRIVER, CHROMIUM) if shutil.which(path) is None]
pytestmark = [
    pytest.mark.skipif(
        bool(missing), reason=f"{missing} missing: install Debian's chromium-driver"
    ),
]


class Browser:
    """A browser that shows the page of a server."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, *, width: int = 1280) -> None:
        """Open the page, and wait until it is there."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get(self.url)
        self.wait("document.querySelector('#classify')")
        self.wait("document.querySelector('#video input[type=file]')")

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def wait(self, condition: str) -> None:
        end = time.monotonic() + 30
        while not self.run(f"return {condition}"):
            assert time.monotonic() < end, (condition, self.text("#result"))
            time.sleep(0.05)

    def upload(self, path: Path) -> None:
        self.driver.find_element("css selector", "#video input[type=file]").send_keys(str(path))
        self.wait("!document.querySelector('#video input[type=file]')")

    def press(self, selector: str) -> None:
        """Press a button when it is there."""
        self.wait(f'document.querySelector("{selector}")')
        self.driver.find_element("css selector", selector).click()

    def choose_first_model(self) -> None:
        """Leave out all models but the first."""
        for box in self.driver.find_elements("css selector", "#models input")[1:]:
            box.click()

    def classify(self) -> None:
        """Press the button, and wait for the result or the error."""
        self.driver.find_element("css selector", "#classify").click()
        self.wait("document.querySelector('#result .models, #result .problem')")

    def text(self, selector: str) -> str:
        return self.run(f"return document.querySelector('{selector}').innerText")

    def count(self, selector: str) -> int:
        return self.run(f"return document.querySelectorAll('{selector}').length")

    def overflow(self) -> int:
        """The pixels by which the page is wider than the window."""
        width = self.run("return Math.min(innerWidth, document.documentElement.clientWidth)")
        return self.run("return document.documentElement.scrollWidth") - width

    def foreign_requests(self) -> list[str]:
        """The addresses outside the server that were asked for."""
        events = [json.loads(entry["message"]) for entry in self.driver.get_log("performance")]
        messages = [event["message"] for event in events]
        sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        addresses = [params["request"]["url"] for params in sent]
        return [a for a in addresses if not a.startswith((self.url, "data:", "blob:"))]


@contextlib.contextmanager
def started_browser(server: RunningServer, *arguments: str) -> Iterator[Browser]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    try:
        yield Browser(driver, server.url)
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def browser(server: RunningServer) -> Iterator[Browser]:
    """One headless browser for all tests, since starting it takes a second."""
    with started_browser(server) as browser:
        yield browser


@pytest.mark.parametrize("width", [1280, 400])
def test_an_upload_is_classified_by_all_models(
    browser: Browser, server: RunningServer, motion_folder: Path, width: int
) -> None:
    browser.open(width=width)
    browser.upload(motion_folder / "test/left_0000.mp4")
    browser.classify()

    assert browser.count("#result .model") == 4
    assert browser.count("#result .scores tr") == 4 * 5
    assert browser.count("#result .curve") == 4
    assert browser.count("#result .strip img") >= 4 * 4
    assert browser.count("#result video.overlay") == 4
    lengths = "return [...document.querySelectorAll('#result video.overlay')].map(v => v.duration)"
    browser.wait(f"{lengths.removeprefix('return ')}.every(seconds => seconds > 0.5)")
    assert browser.overflow() == 0
    assert browser.foreign_requests() == []
    errors = [entry for entry in browser.driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
    wait_until_clean(server)


@pytest.mark.parametrize("width", [1280, 400])
def test_a_bad_file_gives_a_message_on_the_page(
    browser: Browser, server: RunningServer, tmp_path: Path, width: int
) -> None:
    path = tmp_path / "<b>holiday.mp4"
    path.write_bytes(b"no video" * 1000)
    browser.open(width=width)
    browser.upload(path)
    browser.classify()

    message = browser.text("#result .problem")
    assert message.startswith("<b>holiday.mp4: this is no video that can be read")
    assert browser.overflow() == 0
    wait_until_clean(server)


def test_an_oversized_file_gives_a_message(
    browser: Browser, server: RunningServer, tmp_path: Path
) -> None:
    path = tmp_path / "large.mp4"
    path.write_bytes(bytes(2_000_000))
    browser.open()
    browser.driver.find_element("css selector", "#video input[type=file]").send_keys(str(path))
    browser.wait("document.querySelector('.toast-body')")
    assert "exceed the maximum" in browser.text(".toast-body")
    wait_until_clean(server)


def test_an_example_and_a_part_of_the_models_are_chosen(browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open()
    field = browser.driver.find_element("css selector", "#example input")
    field.click()
    field.send_keys("left_0001", Keys.ENTER)
    browser.choose_first_model()
    browser.classify()
    assert browser.text("#result > * .clip").startswith("left_0001.mp4")
    assert browser.count("#result .model") == 1


def test_nothing_chosen_gives_a_message(browser: Browser) -> None:
    browser.open()
    browser.classify()
    assert browser.text("#result .problem").startswith("Upload a video")


@pytest.mark.soak
@pytest.mark.parametrize("width", [1280, 400])
def test_a_recording_of_the_camera_is_classified(server: RunningServer, width: int) -> None:
    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with started_browser(server, *camera) as browser:
        browser.open(width=width)
        browser.choose_first_model()
        browser.press("#video [aria-label='Capture from camera']")
        browser.press("#video [title='grant webcam access'] button")
        browser.press("#video [aria-label='start recording']")
        time.sleep(2)
        browser.press("#video .capture-button")
        browser.wait("document.querySelector('#video [data-testid=Video-player]')?.readyState > 0")
        browser.classify()

        assert browser.count("#result .model") == 1, browser.text("#result")
        assert browser.text("#result > * .clip") == "sample.webm"
        assert browser.overflow() == 0
    wait_until_clean(server)
