"""For tests of the pages: a headless Chromium, a page served by this process, and what must hold for it."""

import logging
import shutil
import threading
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait
from werkzeug.serving import make_server

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120              # seconds to wait for what must happen; a busy machine takes long


@pytest.fixture(scope="session")
def browser():
    """Chromium under selenium; tests that need it are skipped where it is not installed.

    It finds no machine but this one: a request to another is an error on the console.
    """
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("the pages are tested in Chromium: install Debian's chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless", "no-sandbox", "window-size=1400,1000",
                 "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    with pytest.raises(WebDriverException, match="ERR_NAME_NOT_RESOLVED"):
        chrome.get("https://plotly.com/")
    yield chrome
    chrome.quit()


@pytest.fixture
def visit(browser):
    """Function that serves a Dash app and opens it in the browser; there must be no error on the console."""
    servers = []

    def open_page(app):
        servers.append(make_server("127.0.0.1", 0, app.server, threaded=True))
        threading.Thread(target=servers[0].serve_forever, daemon=True).start()
        logging.getLogger("werkzeug").setLevel(logging.ERROR)           # not a line for each request
        browser.get_log("browser")                                      # forgets what was before
        browser.get(f"http://127.0.0.1:{servers[0].port}/")
    yield open_page
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    browser.get("about:blank")
    servers[0].shutdown()
    assert not errors, errors


def until(condition, what):
    """The first true value of `condition()`; an exception, as while the page is redrawn, counts as false."""
    return WebDriverWait(None, PATIENCE, 0.05, [Exception]).until(lambda _: condition(), f"never: {what}")


def text(browser, selector):
    """Text of the first element that fits a CSS selector."""
    return browser.find_element(By.CSS_SELECTOR, selector).text


def click(browser, selector, words=None):
    """Clicks what fits a CSS selector (of several the one with these words) once it is enabled: the driver
    clicks disabled buttons, too, without effect."""
    def clicked():
        next(found for found in browser.find_elements(By.CSS_SELECTOR, selector)
             if found.is_displayed() and found.is_enabled() and words in (None, found.text.strip())).click()
        return True
    until(clicked, f"{selector} {words or ''} can be clicked")


def set_text(browser, name, value):
    """Types into the field with that id, over what is there, and Enter."""
    browser.find_element(By.ID, name).send_keys(Keys.CONTROL, "a", Keys.NULL, value, Keys.ENTER)


def graph(browser, name, expression):
    """Value of a JavaScript expression about the plotly graph `g` with its id in the page."""
    return browser.execute_script(
        f"const g = document.querySelector('#{name} .js-plotly-plot'); return {expression}")
