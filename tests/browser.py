"""For the tests of the pages: a headless Chromium, a page in its own process, and what must hold for every
page.
"""

import json
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120              # seconds to wait for what must happen; a busy machine takes long
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic",
         "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync")


def start_chromium(profile):
    """Chromium under selenium with this profile folder, or None where Chromium and its driver are not
    installed.
    """
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        return None
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*QUIET, f"--user-data-dir={profile}", "--window-size=1400,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """The browser; tests that need it are skipped where it is not installed."""
    chrome = start_chromium(tmp_path_factory.mktemp("profile"))
    if chrome is None:
        pytest.skip("the pages are tested in Chromium: install Debian's packages chromium and "
                    "chromium-driver")
    yield chrome
    chrome.quit()


@pytest.fixture
def visit(browser):
    """Function of an address: opens that page in the browser.

    In the end the page has made no request to another machine and written no error to the console.
    """
    def open_page(url):
        for kind in ("browser", "performance"):
            browser.get_log(kind)                                       # forgets what was before
        browser.get(url)
    yield open_page
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    requests = [message["params"]["request"]["url"] for message in messages
                if message["method"] == "Network.requestWillBeSent"]
    browser.get("about:blank")
    assert not errors
    own = "http://127.0.0.1:", "data:", "blob:", "chrome"               # the last are Chromium's own pages
    assert requests and all(url.startswith(own) for url in requests), requests


def serve(*arguments, cwd, port=0):
    """A process of dashboard.py on a port, of its own choice if that is 0; its `url` has the address."""
    command = [sys.executable, str(ROOT / "dashboard.py"), *map(str, arguments), "--port", str(port)]
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if not select.select([process.stdout], [], [], PATIENCE)[0]:
        stop(process)
        pytest.fail("dashboard.py has printed no address")
    process.url = process.stdout.readline().split()[0]
    return process


def stop(process):
    """Ends a process of `serve` by Ctrl-C; returns its exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode


def until(browser, condition, what):
    """The first true value of `condition()`; an exception on the way counts as false, as while the page is
    redrawn.
    """
    return WebDriverWait(browser, PATIENCE, 0.1, (Exception,)).until(lambda _: condition(), f"never: {what}")


def wait_for(condition, what):
    """The same without a browser."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.1)
    return value


def text(browser, selector):
    """Text of the first element that fits a CSS selector."""
    return browser.find_element(By.CSS_SELECTOR, selector).text


def click(browser, selector, words=None):
    """Clicks the element that fits a CSS selector, of several the one with these words, once it is there and
    enabled.

    The driver clicks disabled buttons too, without effect and without a word.
    """
    def find():
        found = [element for element in browser.find_elements(By.CSS_SELECTOR, selector)
                 if element.is_displayed() and element.is_enabled()]
        return next(element for element in found if words is None or words == element.text.strip())
    element = until(browser, find, f"{selector} {words or ''} is there")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    until(browser, lambda: find().click() or True, f"{selector} can be clicked")


def set_text(browser, name, value):
    """Types into the field with that id, over what is there, and Enter."""
    browser.find_element(By.ID, name).send_keys(Keys.CONTROL, "a")
    browser.find_element(By.ID, name).send_keys(value, Keys.ENTER)


def graph(browser, name, expression):
    """Value of a JavaScript expression about the plotly graph `g` with its id in the page."""
    return browser.execute_script(
        f"const g = document.querySelector('#{name} .js-plotly-plot'); return {expression}")


def no_overflow(browser, width):
    """Whether the page fits a window of that width, and no control lies over another one."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600})
    try:
        until(browser, lambda: browser.execute_script("return innerWidth") == width,
              "the window has that width")
        until(browser, lambda: browser.execute_script(
            "return document.documentElement.scrollWidth <= innerWidth"),
            f"the page fits into {width} pixels")
        boxes = browser.execute_script("""
            const selector = ".control, button, h1, h2, p, .js-plotly-plot, .svg-container, .scroll";
            return [...document.querySelectorAll(selector)].filter(e => e.offsetParent)
                .map(e => [e.className, ...Object.values(e.getBoundingClientRect().toJSON()).slice(0, 4)])""")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    for i, (one, x, y, w, h) in enumerate(boxes):
        for other, x2, y2, w2, h2 in boxes[i + 1:]:
            inside = x2 >= x - 1 and y2 >= y - 1 and x2 + w2 <= x + w + 1 and y2 + h2 <= y + h + 1
            overlap = min(x + w, x2 + w2) - max(x, x2) > 1 and min(y + h, y2 + h2) - max(y, y2) > 1
            assert inside or not overlap, f"{one!r} and {other!r} overlap at {width} pixels"
    return True
