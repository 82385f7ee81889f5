"""The watching page in a browser: a training that grows, zoom, axes, broken files, downloads, a server that is gone."""

import io
import re
import subprocess
import sys
import urllib.parse
import urllib.request
import xml.etree.ElementTree

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from hig.runs.results import load_results
from tests.browser import ROOT, browser, click, graph, no_overflow, page, serve, stop, text, until, wait_for  # noqa: F401
from tests.test_plot import falling, save


def rows(browser):
    return [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#rows tr")]


def points(browser, number=0):
    """How many points a curve on the page has."""
    return graph(browser, "curves", f"g._fullData.filter(t => t.mode == 'lines' && t.showlegend)[{number}].x.length")


def test_a_running_training_appears_and_grows(browser, page, tmp_path):
    page(tmp_path)
    until(browser, lambda: "No curves" in text(browser, "#note"), "the page says that there is nothing yet")
    training = subprocess.Popen([sys.executable, str(ROOT / "Nonlinear_Oscillators" / "submit_Adam.py"), "--quiet",
                                 "--max-time", "600", "--output", str(tmp_path)])
    try:
        until(browser, lambda: "running" in rows(browser)[0], "the run appears as running")
        before = until(browser, lambda: points(browser), "its curve is drawn")
        until(browser, lambda: "(1, 1 running)" in text(browser, "#case"), "the case tells it, too")
        until(browser, lambda: points(browser) > before, "the curve grows")
        training.terminate()
        assert training.wait(timeout=120) == 0
    finally:
        training.kill()
        training.wait()
    until(browser, lambda: "interrupted" in rows(browser)[0], "the run is shown as interrupted")
    until(browser, lambda: points(browser) == len(load_results(tmp_path / "NLO_Adam_RESULTS.pickle")["epochs"]),
          "the whole curve is drawn")


def test_zoom_and_hidden_curves_survive_new_points(browser, page, tmp_path):
    for name in ("Adam", "HIG"):
        save(tmp_path / f"NLO_{name}_RESULTS.pickle", falling(), state="running")
    page(tmp_path)
    until(browser, lambda: points(browser) == 20, "the curves are drawn")
    whole = graph(browser, "curves", "g._fullLayout.xaxis.range")
    area = browser.find_element(By.CSS_SELECTOR, "#curves .nsewdrag")
    ActionChains(browser).move_to_element_with_offset(area, -200, -80).click_and_hold().move_by_offset(260, 140) \
        .release().perform()
    zoomed = until(browser, lambda: (now := graph(browser, "curves", "g._fullLayout.xaxis.range")) != whole and now, "zoom")
    ActionChains(browser).click(browser.find_element(By.CSS_SELECTOR, "#curves .legendtoggle")).perform()
    hidden = "g._fullData.filter(t => t.visible == 'legendonly').map(t => t.legendgroup)[0]"
    until(browser, lambda: graph(browser, "curves", hidden) == "Adam", "Adam hides")
    for length in (25, 30):
        for name in ("Adam", "HIG"):
            save(tmp_path / f"NLO_{name}_RESULTS.pickle", falling(length), state="running")
        until(browser, lambda: points(browser) == points(browser, 1) == length, "new points")
        assert graph(browser, "curves", "g._fullLayout.xaxis.range") == zoomed
        assert graph(browser, "curves", hidden) == "Adam"
    save(tmp_path / "NLO_SGD_RESULTS.pickle", falling())
    until(browser, lambda: points(browser, 2) == 20, "a new curve")
    assert graph(browser, "curves", "g._fullLayout.xaxis.range") == zoomed


def test_switching_axes(browser, page, tmp_path):
    save(tmp_path / "QMC_HIG_RESULTS.pickle", falling(), population_error_2=np.linspace(0.5, 0.1, 20))
    page(tmp_path)
    until(browser, lambda: points(browser) == 20, "the curve is drawn")
    title = "g._fullLayout.{}axis.title.text"
    last = "(t => t.x[t.x.length - 1])(g._fullData[0])"
    assert graph(browser, "curves", title.format("x")) == "training time in seconds"
    for axis, words, value in (("epochs", "epochs", 19), ("updates", "updates", 19 * 32),
                               ("time", "training time in seconds", 38)):
        click(browser, "#x label", axis)
        until(browser, lambda: graph(browser, "curves", title.format("x")) == words, f"the axis is {axis}")
        assert graph(browser, "curves", last) == value
    click(browser, "#switches label", "log x")
    until(browser, lambda: graph(browser, "curves", "g._fullLayout.xaxis.type") == "log", "x is logarithmic")
    assert points(browser) == 19                                        # without time 0
    click(browser, "#y")
    click(browser, ".dash-dropdown-option", "error of the population of |2⟩")
    until(browser, lambda: graph(browser, "curves", title.format("y")) == "error of the population of |2⟩", "another quantity")
    assert graph(browser, "curves", "g._fullData[0].y[18]") == 0.1
    click(browser, "#switches label", "log y")
    until(browser, lambda: graph(browser, "curves", "g._fullLayout.yaxis.type") == "linear", "y is linear")
    levels = browser.find_element(By.ID, "levels")
    levels.clear()
    levels.send_keys("0.5\n")
    until(browser, lambda: "to 0.5 [s]" in text(browser, "#head") and "0.01" not in text(browser, "#head"), "a level")


def test_a_corrupted_pickle_does_not_stop_the_page(browser, page, tmp_path):
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    broken = tmp_path / "NLO_GN_RESULTS.pickle"
    broken.write_bytes(b"\x80\x04cos\nsystem\n(X\x04\x00\x00\x00exittR.")
    page(tmp_path)
    until(browser, lambda: re.search("unreadable.*cannot be used as a curve", rows(browser)[1]), "its sentence")
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling(30))
    until(browser, lambda: points(browser) == 30, "the other run goes on")
    save(broken, falling())
    until(browser, lambda: len(rows(browser)) == 2 and "unreadable" not in "".join(rows(browser)), "it is good again")


def test_downloads(browser, page, tmp_path):
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    page(tmp_path)
    until(browser, lambda: points(browser) == 20, "the curve is drawn")
    buttons = browser.find_elements(By.CSS_SELECTOR, "#curves .modebar-btn")
    assert {button.get_attribute("data-title") for button in buttons} == {
        "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"}             # none that would upload the figure
    target = tmp_path / "downloads"
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(target)})
    click(browser, "#svg")
    wait_for(lambda: (target / "curves.svg").is_file(), "the figure as SVG")
    assert "training time" in "".join(xml.etree.ElementTree.parse(target / "curves.svg").getroot().itertext())
    click(browser, "#png")
    wait_for(lambda: (target / "curves.png").is_file(), "the figure as PNG")
    assert (target / "curves.png").read_bytes().startswith(b"\x89PNG")
    click(browser, "#csv")
    wait_for(lambda: (target / "curves.csv").is_file(), "the data as CSV")
    assert len((target / "curves.csv").read_text().splitlines()) == 21


@pytest.mark.parametrize("width", [1400, 420])
def test_the_page_fits_its_window(browser, page, tmp_path, width):
    for prefix in ("NLO", "QMC", "POISSON"):
        for name in ("Adam", "GN", "HIG"):
            save(tmp_path / f"{prefix}_{name}_RESULTS.pickle", falling())
    page(tmp_path)
    until(browser, lambda: points(browser) >= 19, "the curves are drawn")
    assert no_overflow(browser, width)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_dark_for_who_wants_it_dark(browser, page, tmp_path, scheme):
    """Mean brightness of what is seen, of 255: most of it is background."""
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    try:
        page(tmp_path)
        until(browser, lambda: points(browser) >= 19, "the curves are drawn")
        brightness = np.mean(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("L"))
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert brightness > 200 if scheme == "light" else brightness < 60


def test_the_page_says_when_the_server_is_gone_and_goes_on_when_it_is_back(browser, tmp_path):
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    process = serve(tmp_path, cwd=tmp_path)
    port = urllib.parse.urlsplit(process.url).port
    try:
        browser.get(process.url)
        until(browser, lambda: points(browser) == 20, "the curve is drawn")
        assert not text(browser, "#gone")
        stop(process)
        until(browser, lambda: "does not answer" in text(browser, "#gone"), "the page says it")
        assert float(browser.execute_script("return getComputedStyle(document.querySelector('table')).opacity")) < 0.5
        save(tmp_path / "NLO_HIG_RESULTS.pickle", falling(30))
        process = serve(tmp_path, cwd=tmp_path, port=port)
        until(browser, lambda: points(browser) == 30 and not text(browser, "#gone"), "it goes on by itself")
    finally:
        browser.get("about:blank")
        stop(process)
