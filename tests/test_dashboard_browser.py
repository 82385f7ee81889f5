"""The page in a browser: a training that grows, zoom, axes, broken files, a server that is gone."""

import io
import shutil
import subprocess
import sys
import urllib.parse

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from hig.runs.results import load_results
from tests.browser import (ROOT, browser, click, fits, graph, serve, stop, text, until, visit,  # noqa: F401
                           wait_for)
from tests.test_plot import falling, save


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A process of dashboard.py for all tests, and its folder."""
    folder = tmp_path_factory.mktemp("watched")
    process = serve(folder)
    yield process, folder
    stop(process)


@pytest.fixture
def folder(server, visit):
    """That folder, emptied, with its page open."""
    shutil.rmtree(server[1])
    server[1].mkdir()
    visit(server[0].url)
    return server[1]


def rows(browser):
    return [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#table tbody tr")]


def points(browser, number=0):
    """How many points a curve on the page has."""
    return graph(browser, "curves",
                 f"g._fullData.filter(t => t.mode == 'lines' && t.showlegend)[{number}].x.length")


def test_a_running_training_appears_and_grows(browser, folder):
    until(browser, lambda: "No curves" in text(browser, "#note"), "the page says that there is nothing yet")
    command = [sys.executable, str(ROOT / "Nonlinear_Oscillators" / "submit_Adam.py"), "--quiet"]
    training = subprocess.Popen([*command, "--max-time", "600", "--output", str(folder)])
    try:
        until(browser, lambda: "running" in rows(browser)[0], "the run appears as running")
        before = until(browser, lambda: points(browser), "its curve is drawn")
        until(browser, lambda: "(1, 1 running)" in text(browser, "#case"), "the case tells it, too")
        until(browser, lambda: points(browser) > before, "the curve grows")
        training.terminate()
        assert training.wait(timeout=120) == 0
    finally:
        training.kill()
    until(browser, lambda: "interrupted" in rows(browser)[0], "the run is shown as interrupted")
    until(browser, lambda: points(browser) == len(load_results(folder / "NLO_Adam_RESULTS.pickle")["epochs"]),
          "the whole curve is drawn")


def test_zoom_and_hidden_curves_survive_new_points_and_a_broken_file(browser, folder):
    for name in ("Adam", "HIG"):
        save(folder / f"NLO_{name}_RESULTS.pickle", falling(), state="running")
    until(browser, lambda: points(browser) == 20, "the curves are drawn")
    shown = "g._fullLayout.xaxis.range"
    whole = graph(browser, "curves", shown)
    area = browser.find_element(By.CSS_SELECTOR, "#curves .nsewdrag")
    actions = ActionChains(browser).move_to_element_with_offset(area, -200, -80).click_and_hold()
    actions.move_by_offset(260, 140).release().perform()
    zoomed = until(browser, lambda: (now := graph(browser, "curves", shown)) != whole and now, "zoom")
    ActionChains(browser).click(browser.find_element(By.CSS_SELECTOR, "#curves .legendtoggle")).perform()
    hidden = "g._fullData.filter(t => t.visible == 'legendonly').map(t => t.legendgroup)[0]"
    until(browser, lambda: graph(browser, "curves", hidden) == "Adam", "Adam hides")
    (folder / "NLO_SGD_RESULTS.pickle").write_bytes(b"\x80\x04cos\nsystem\n(X\x04\x00\x00\x00exittR.")
    until(browser, lambda: "cannot be used as a curve" in rows(browser)[2], "its sentence")
    for name in ("Adam", "HIG"):
        save(folder / f"NLO_{name}_RESULTS.pickle", falling(25), state="running")
    until(browser, lambda: points(browser) == points(browser, 1) == 25, "new points")
    save(folder / "NLO_GN_RESULTS.pickle", falling())                  # comes between them
    until(browser, lambda: points(browser, 1) == 20, "a new curve")
    assert graph(browser, "curves", shown) == zoomed and graph(browser, "curves", hidden) == "Adam"
    save(folder / "NLO_SGD_RESULTS.pickle", falling())
    until(browser, lambda: len(rows(browser)) == 4 and "unreadable" not in str(rows(browser)), "it is good")


def test_axes_and_quantities(browser, folder, tmp_path):
    save(folder / "QMC_HIG_RESULTS.pickle", falling(), population_error_2=np.linspace(0.5, 0.1, 20))
    until(browser, lambda: points(browser) == 20, "the curve is drawn")
    title = "g._fullLayout.{}axis.title.text"
    for axis, words, value in (("epochs", "epochs", 19), ("updates", "updates", 19 * 32),
                               ("time", "training time (s)", 38)):
        click(browser, "#x label", axis)
        until(browser, lambda: graph(browser, "curves", title.format("x")) == words, f"the axis is {axis}")
        assert graph(browser, "curves", "(t => t.x[t.x.length - 1])(g._fullData[0])") == value
    click(browser, "#switches label", "log x")
    until(browser, lambda: graph(browser, "curves", "g._fullLayout.xaxis.type") == "log", "x is logarithmic")
    assert points(browser) == 19                                        # without time 0
    click(browser, "#y")
    click(browser, ".dash-dropdown-option", "error of the population of |2⟩")
    until(browser, lambda: graph(browser, "curves", title.format("y")) == "error of the population of |2⟩",
          "another quantity")
    assert graph(browser, "curves", "g._fullData[0].y[18]") == 0.1
    allowed = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", allowed)
    buttons = browser.find_elements(By.CSS_SELECTOR, "#curves .modebar-btn")
    assert [button.get_attribute("data-title") for button in buttons] == [         # none that uploads
        "Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"]
    buttons[0].click()
    wait_for(lambda: (tmp_path / "curves.png").is_file(), "the download")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_window_and_is_dark_for_who_wants_it_dark(browser, folder, scheme):
    """Mean brightness of what is seen, of 255: most of it is background."""
    for prefix in ("NLO", "QMC", "POISSON"):
        save(folder / f"{prefix}_HIG_RESULTS.pickle", falling())
    until(browser, lambda: points(browser) >= 19, "the curves are drawn")
    fits(browser, 1400 if scheme == "light" else 420)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    brightness = np.mean(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("L"))
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert brightness > 200 if scheme == "light" else brightness < 60


def test_the_page_says_when_the_server_is_gone_and_goes_on_when_it_is_back(browser, tmp_path):
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    process = serve(tmp_path)
    browser.get(process.url)
    until(browser, lambda: points(browser) == 20, "the curve")
    assert stop(process) == 0
    notice = "return getComputedStyle(document.body, '::after').content"
    until(browser, lambda: "does not answer" in browser.execute_script(notice), "the page says it")
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling(30))
    process = serve(tmp_path, port=urllib.parse.urlsplit(process.url).port)
    try:
        until(browser, lambda: points(browser) == 30, "it goes on")
        assert "does not" not in browser.execute_script(notice)
    finally:
        browser.get("about:blank")
        stop(process)
