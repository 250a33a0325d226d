"""The page in a real browser: Chromium uploads a video and shows the answer. See install_browser.sh."""

import json
import shutil

import pytest

pytest.importorskip("gradio", reason='the server needs pip install "dist_jax[serve]"')
selenium = pytest.importorskip("selenium")

from helpers.video_files import write_video
from helpers.web_server import TIMEOUT_S
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

PROGRAMS = [shutil.which(name) for name in ("chromium", "chromedriver")]
pytestmark = [
    pytest.mark.xdist_group("serving"),
    pytest.mark.skipif(not all(PROGRAMS), reason="Chromium is not installed (tests/serving/install_browser.sh)"),
]
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1200,1400")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium without a window. It records the requests of its pages."""
    chromium, driver = PROGRAMS
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    browser = webdriver.Chrome(options, Service(driver))
    yield browser
    browser.quit()


@pytest.fixture
def page(browser, server):
    """The loaded page."""
    browser.get(server.url)
    wait_for(browser, "#video-input")
    return browser


def wait_for(browser, selector):
    return WebDriverWait(browser, TIMEOUT_S).until(lambda _: browser.find_elements(By.CSS_SELECTOR, selector))


def texts(browser, selector):
    return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)]


def classify(browser, path, labels=""):
    """Chooses a file, types labels and presses the button."""
    browser.find_element(By.ID, "video-input").send_keys(str(path))
    browser.find_element(By.CSS_SELECTOR, "#labels textarea").send_keys(labels)
    browser.find_element(By.ID, "classify").click()
    wait_for(browser, ".result, .error")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "my <b> video.mp4", options={"crf": "40"})


def test_a_video_and_labels_give_bars_and_pictures(page, server, video, tmp_path):
    classify(page, video, "a fox, a <i>hen, a cow")
    assert texts(page, ".result h3") == ["my <b> video.mp4"]
    assert sorted(texts(page, ".bars th")) == ["a <i>hen", "a cow", "a fox"]
    percents = [float(text.removesuffix(" %")) for text in texts(page, ".bars td:last-child")]
    assert percents == sorted(percents, reverse=True)
    assert sum(percents) == pytest.approx(100, abs=0.2)
    bars = page.find_elements(By.CSS_SELECTOR, ".bar span")
    assert [bar.size["width"] for bar in bars] == sorted((bar.size["width"] for bar in bars), reverse=True)
    pictures = page.find_elements(By.CSS_SELECTOR, ".frames img, .attention img")
    assert [int(picture.get_property("naturalWidth")) > 30 for picture in pictures] == [True, True]
    assert page.save_screenshot(str(tmp_path / "page.png"))
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert hosts(page) == {server.url.removeprefix("http://")}
    assert not server.uploads()


def test_the_timeline_of_the_models_own_classes(page, video):
    page.find_element(By.CSS_SELECTOR, "#mode input[value=timeline]").click()
    wait_for(page, "input[aria-label='Window (seconds)'], input[type=number]")
    classify(page, video)
    assert texts(page, ".segments th") == ["start", "end", "class", "mean probability"]
    (plot,) = page.find_elements(By.CSS_SELECTOR, ".timeline img")
    assert int(plot.get_property("naturalWidth")) > 300


def test_errors_are_one_line_on_the_page(page, tmp_path):
    page.find_element(By.ID, "classify").click()
    wait_for(page, ".error")
    assert texts(page, ".error") == ["Choose a video first."]
    (tmp_path / "large.mp4").write_bytes(bytes(120_000))
    page.find_element(By.ID, "video-input").send_keys(str(tmp_path / "large.mp4"))
    page.find_element(By.ID, "classify").click()
    WebDriverWait(page, TIMEOUT_S).until(lambda _: "at most" in texts(page, ".error")[0])
    (tmp_path / "text.mp4").write_text("no video")
    page.find_element(By.ID, "video-input").send_keys(str(tmp_path / "text.mp4"))
    page.find_element(By.ID, "classify").click()
    WebDriverWait(page, TIMEOUT_S).until(lambda _: "is not a video" in texts(page, ".error")[0])


def hosts(browser):
    """The hosts of all requests so far."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    return {url.split("/")[2] for url in urls if url.startswith(("http:", "https:", "ws:", "wss:"))}
