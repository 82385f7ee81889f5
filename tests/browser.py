"""For tests of the pages: a headless Chromium, a page in its own process, what must hold for every page."""

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


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Chromium under selenium; tests that need it are skipped where it is not installed."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("the pages are tested in Chromium: install Debian's chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-sync",
                 "disable-component-update", "window-size=1400,1000",
                 f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
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
    assert not errors, errors
    own = "http://127.0.0.1:", "data:", "blob:", "chrome"               # the last are Chromium's own pages
    assert requests and all(url.startswith(own) for url in requests), requests


def serve(*arguments, port=0):
    """A process of dashboard.py on a port, of its own choice if that is 0; its `url` has the address."""
    command = [sys.executable, str(ROOT / "dashboard.py"), *map(str, arguments), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if not select.select([process.stdout], [], [], PATIENCE)[0]:
        stop(process)
        pytest.fail("dashboard.py has printed no address")
    process.url = process.stdout.readline().split()[0]
    return process


def stop(process):
    """Ends a process of `serve` by Ctrl-C; returns its exit status."""
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return process.returncode


def until(browser, condition, what):
    """The first true value of `condition()`; an exception, as while the page is redrawn, counts as false."""
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
    """Clicks the element that fits a CSS selector, of several the one with these words, once it is enabled;
    the driver clicks disabled buttons too, without effect and without a word."""
    def clicked():
        element = next(found for found in browser.find_elements(By.CSS_SELECTOR, selector)
                       if found.is_displayed() and found.is_enabled() and words in (None, found.text.strip()))
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()
        return True
    until(browser, clicked, f"{selector} {words or ''} can be clicked")


def set_text(browser, name, value):
    """Types into the field with that id, over what is there, and Enter."""
    browser.find_element(By.ID, name).send_keys(Keys.CONTROL, "a")
    browser.find_element(By.ID, name).send_keys(value, Keys.ENTER)


def graph(browser, name, expression):
    """Value of a JavaScript expression about the plotly graph `g` with its id in the page."""
    return browser.execute_script(
        f"const g = document.querySelector('#{name} .js-plotly-plot'); return {expression}")


def fits(browser, width):
    """Waits until a window has that width and the page fits into it; no control lies over another one."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600})
    try:
        until(browser, lambda: browser.execute_script(
            f"return innerWidth == {width} && document.documentElement.scrollWidth <= innerWidth"),
            f"the page fits into {width} pixels")
        boxes = browser.execute_script("""
            const parts = ".control, .controls > button, h1, h2, p, .js-plotly-plot, .scroll";
            return [...document.querySelectorAll(parts)].map(part => part.getBoundingClientRect())
                .map(box => [box.left, box.top, box.right, box.bottom])""")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    apart = [a[2] <= b[0] + 1 or b[2] <= a[0] + 1 or a[3] <= b[1] + 1 or b[3] <= a[1] + 1
             for i, a in enumerate(boxes) for b in boxes[:i]]
    assert len(boxes) > 3 and all(apart)
