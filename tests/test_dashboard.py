"""The page of dashboard.py: what it reads and shows, what survives a refresh, who is answered, bad input."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from dash.exceptions import PreventUpdate
from numpy.testing import assert_allclose, assert_array_equal
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

import dashboard
from hig.figures.curves import state_of
from hig.figures.reading import read_run
from hig.live import page
from hig.runs.locks import locked
from tests.browser import ROOT, browser, click, graph, text, until, visit  # noqa: F401
from tests.test_plot import falling, save


def refresh(folder, case=None, x="time", y="test_loss", switches=("log_y", "bands"), shown=(0, 0)):
    return page.refresh([folder], case, x, y, list(switches), shown)


def named(sent):
    """{name of the optimizer: trace} of the lines in the legend."""
    return {trace.name.split(":")[0]: trace for trace in sent["figure"].data if trace.showlegend}


def rows(sent):
    """Texts of the cells of the table, row by row; beside a text there may be its colour."""
    return [[cell.children[-1] if isinstance(cell.children, list) else cell.children for cell in row.children]
            for row in sent["table"].children[1].children]


def marks(sent):
    """[(symbol, x, y, text)] of the crosses and diamonds."""
    return [mark for trace in sent["figure"].data if trace.mode == "markers+text"
            for mark in zip(trace.marker.symbol, trace.x, trace.y, trace.text)]


# ------------------------------------------------------------------------------------------------- the files

def test_only_changed_files_are_read_again(tmp_path):
    """A file written anew is noticed although its time and size are the same."""
    path = save(tmp_path / "NLO_GN_RESULTS.pickle", falling())
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    first, before = page.read_files([tmp_path, tmp_path, path]), path.stat()
    save(path, falling(rate=0.4))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    now = page.read_files([tmp_path])
    assert [now[file][1] is first[file][1] for file in now] == [False, True]
    assert now[path][1].results["train_loss"][1] == np.exp(-0.4)
    path.unlink()
    assert len(page.read_files([tmp_path])) == 1


def test_the_state_of_a_run(tmp_path):
    """A run is running only as long as a process holds its lock; a killed one leaves the lock's file."""
    path = save(tmp_path / "NLO_HIG_RESULTS.pickle", falling(), state="running")
    run = read_run(path)
    assert state_of(run) == "interrupted"
    with locked(tmp_path / "NLO_HIG"):
        assert state_of(run) == "running"
    (tmp_path / ".NLO_HIG.lock").write_text(f"process {os.getpid()} on here")
    assert state_of(run) == "interrupted"
    for losses, state in (*((falling(), state) for state in ("finished", "interrupted", "diverged")),
                          ([1, 0.5, np.nan], "diverged")):
        assert state_of(read_run(save(path, losses, state=state))) == state


# ----------------------------------------------------------------------------------------- what is shown

def test_what_is_shown_and_when_it_is_sent_again(tmp_path):
    for name in ("HIG", "Adam"):
        save(tmp_path / f"NLO_{name}_RESULTS.pickle", falling())
    first = refresh(tmp_path)
    assert first["case"] == "Nonlinear oscillators"
    assert first["cases"] == {"Nonlinear oscillators": "Nonlinear oscillators (2)"}
    trace = named(first)["HIG"]
    assert list(named(first)) == ["Adam", "HIG"] == [row[0] for row in rows(first)]
    assert_array_equal(trace.x, np.arange(20) * 2.0)
    assert_allclose(trace.y, 1.1 * falling(), rtol=1e-12)               # one multiplication: rounding
    assert trace.line.color == "darkorchid" and first["figure"].layout.yaxis.type == "log"
    with pytest.raises(PreventUpdate):
        refresh(tmp_path, first["case"], shown=first["shown"])
    assert_array_equal(named(refresh(tmp_path, x="updates"))["HIG"].x, 32 * np.arange(20))


def test_quantities_are_the_arrays_with_a_value_for_each_entry_or_update(tmp_path):
    path = save(tmp_path / "QMC_HIG_RESULTS.pickle", falling(4), population_error_2=np.array([3.0, 2, 0, -1]),
                picture=np.eye(4), other=np.zeros(7))
    sent = refresh(tmp_path, y="population_error_2", switches=[])
    words = "error of the population of |2⟩"
    assert sent["quantities"] == {"test_loss": "test loss", "train_loss": "train loss",
                                  "epoch_time": "epoch time", "population_error_2": words}
    assert_array_equal(named(sent)["HIG"].y, [3, 2, 0, -1])
    assert sent["figure"].layout.yaxis.title.text == words
    for key, expected in (("population_error_2", [3, 2]), ("epoch_time", [2, 2, 2])):
        assert_array_equal(named(refresh(tmp_path, y=key))["HIG"].y, expected)      # on a logarithmic axis
    save(path, falling(4), provenance=None)                             # as in the published files
    assert "QMC_HIG_RESULTS.pickle" in refresh(tmp_path, x="updates")["note"]


def test_seeds_become_a_band_or_lines(tmp_path):
    """A band of the losses, and of values below zero where the axis has no logarithm."""
    for seed in range(3):
        path = tmp_path / str(seed) / "NLO_HIG_RESULTS.pickle"
        save(path, falling(start=2.0**seed), settings={"seed": seed}, depth=seed - falling())
    low, high, middle, *_ = refresh(tmp_path)["figure"].data
    for trace, start in ((low, 1), (high, 4), (middle, 2)):
        assert_allclose(trace.y, 1.1 * falling(start=start), rtol=1e-9)     # through logarithms
    assert high.fill == "tonexty" and "3 runs" in middle.name
    for trace, seed in zip(refresh(tmp_path, y="depth", switches=["bands"])["figure"].data, (0, 2, 1)):
        assert_array_equal(trace.y, seed - falling())
    apart = [trace for trace in refresh(tmp_path, switches=["log_y"])["figure"].data if trace.mode == "lines"]
    assert len(apart) == 3 and [trace.showlegend for trace in apart] == [True, False, False]


def test_a_dead_run_ends_in_a_cross(tmp_path):
    path = save(tmp_path / "NLO_GN_RESULTS.pickle", [1, 2, 1e5, np.nan], test=[1, 2, 1e5, np.nan])
    sent = refresh(tmp_path)
    assert sent["figure"].layout.yaxis.autorangeoptions.clipmax == 1e3  # the others stay legible
    assert marks(sent) == [("x-thin", 6, 1e3, "")]
    assert rows(sent)[0][:5] == ["GN", "1", "3", "inf", "inf"] and rows(sent)[0][-1] == "died at NaN, t = 6 s"
    save(path, [1, 0.1, 0.005], test=[1, 0.009, np.nan])                # its seconds to 1e-2, 1e-3, 1e-4
    row = ["GN", "1", "2", "5.000e-03", "9.000e-03", "4", "not recorded", "2", "–", "–", ""]
    assert rows(refresh(tmp_path))[0] == row


def test_where_another_optimizer_takes_over_it_is_named(tmp_path):
    save(tmp_path / "POISSON_Adam_then_HIG_RESULTS.pickle", falling(), test=falling(),
         provenance={"switch_epoch": 7})
    save(tmp_path / "POISSON_interactive_RESULTS.pickle", falling(4), test=falling(4),
         method=np.array([2.0, 2, 2, 0]), settings={"methods": "0 Adam, 1 GN, 2 HIG"})
    assert marks(refresh(tmp_path, switches=[])) == [
        ("diamond", 14, falling()[7], "switch"), ("diamond", 4, falling()[2], "HIG → Adam")]


# -------------------------------------------------------------------------------------------- in a browser

def points(browser, number=0):
    """How many points a curve on the page has."""
    return graph(browser, "curves",
                 f"g._fullData.filter(t => t.mode == 'lines' && t.showlegend)[{number}].x.length")


def table(browser):
    return [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#table tbody tr")]


def test_zoom_and_hidden_curves_survive_what_happens_to_the_files(browser, visit, tmp_path):
    visit(page.watching_app([tmp_path]))
    until(lambda: "No curves" in text(browser, "#note"), "the page says that there is nothing yet")
    with locked(tmp_path / "NLO_HIG"):
        for name in ("Adam", "HIG"):
            save(tmp_path / f"NLO_{name}_RESULTS.pickle", falling(), state="running")
        until(lambda: points(browser) == 20, "the curves are drawn")
        assert "(2, running)" in text(browser, "#case")
        assert ["interrupted" in row for row in table(browser)] == [True, False]
    until(lambda: "interrupted" in table(browser)[1], "the other run, too, has ended")

    shown = "g._fullLayout.xaxis.range"
    whole = graph(browser, "curves", shown)
    area = browser.find_element(By.CSS_SELECTOR, "#curves .nsewdrag")
    actions = ActionChains(browser).move_to_element_with_offset(area, -200, -80).click_and_hold()
    actions.move_by_offset(260, 140).release().perform()
    zoomed = until(lambda: (now := graph(browser, "curves", shown)) != whole and now, "zoom")
    ActionChains(browser).click(browser.find_element(By.CSS_SELECTOR, "#curves .legendtoggle")).perform()
    hidden = "g._fullData.filter(t => t.visible == 'legendonly').map(t => t.legendgroup)[0]"
    until(lambda: graph(browser, "curves", hidden) == "Adam", "Adam hides")
    (tmp_path / "NLO_SGD_RESULTS.pickle").write_bytes(b"\x80\x04cos\nsystem\n(X\x04\x00\x00\x00exittR.")
    until(lambda: "cannot be used as a curve" in table(browser)[2], "its sentence")
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling(25))
    for name in ("GN", "<b>x"):                                         # between the others, and after them
        save(tmp_path / f"NLO_{name}_RESULTS.pickle", falling(22))
    until(lambda: [points(browser, i) for i in range(4)] == [20, 22, 25, 22], "new points and new curves")
    assert graph(browser, "curves", shown) == zoomed and graph(browser, "curves", hidden) == "Adam"
    assert table(browser)[3].startswith("<b>x ") and "<b>x" in text(browser, "#curves .legend")  # no markup


def test_controls_and_a_server_that_does_not_answer(browser, visit, tmp_path):
    save(tmp_path / "QMC_HIG_RESULTS.pickle", falling(), population_error_2=np.linspace(0.5, 0.1, 20))
    visit(page.watching_app([tmp_path]))
    until(lambda: points(browser) == 20, "the curve is drawn")
    click(browser, "#x label", "epochs")
    until(lambda: graph(browser, "curves", "g._fullLayout.xaxis.title.text") == "epochs", "another axis")
    click(browser, "#switches label", "log x")
    until(lambda: graph(browser, "curves", "g._fullLayout.xaxis.type") == "log", "x is logarithmic")
    assert points(browser) == 19                                        # without epoch 0
    click(browser, "#y")
    click(browser, ".dash-dropdown-option", "error of the population of |2⟩")
    until(lambda: graph(browser, "curves", "g._fullData[0].y[18]") == 0.1, "another quantity")

    notice = "return getComputedStyle(document.body, '::after').content"
    browser.set_network_conditions(offline=True, latency=0, throughput=-1)
    until(lambda: "does not answer" in browser.execute_script(notice), "the page says it")
    browser.delete_network_conditions()
    until(lambda: "does not" not in browser.execute_script(notice) and points(browser) == 20, "it goes on")
    browser.get_log("browser")                                          # of these errors it may write


# ----------------------------------------------------------------------------- server and command line

@pytest.mark.parametrize("path", ["/", "/_dash-layout", "/_dash-dependencies"])
def test_who_is_answered(tmp_path, path):
    """No request for another host's name, whatever its address."""
    client = page.watching_app([tmp_path]).server.test_client()
    for host in ("127.0.0.1:8050", "localhost:8050"):
        assert client.get(path, headers={"Host": host}).status_code < 300
    for host in ("evil.example:8050", "evil.example", "127.0.0.1.evil.example:8050", ""):
        assert client.get(path, headers={"Host": host}).status_code in (400, 403), host


@pytest.mark.parametrize("flags, words", [
    (["missing"], "there is no folder missing"), (["--port", "70000"], "70000"), (["--port", "web"], "web"),
    (["--interactive", "Toy"], "Poisson"), ([".", "--port", "TAKEN"], "port TAKEN"),
    (["--interactive", "Poisson", ".", ".."], "one folder"), (["--speed"], "--speed")])
def test_bad_input(tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as end:
        port = str(taken.getsockname()[1])
        dashboard.main([flag.replace("TAKEN", port) for flag in flags])
    output, errors = capsys.readouterr()
    assert (end.value.code, output, len(errors.splitlines())) == (2, "", 1)
    assert words.replace("TAKEN", port) in errors


def test_watching_does_not_load_tensorflow(tmp_path):
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    code = ("import pathlib, sys; from Poisson.interactive import page; from hig.live.page import refresh\n"
            "refresh([pathlib.Path(sys.argv[1])], None, 'time', 'test_loss', [], (0, 0))\n"
            "assert 'tensorflow' not in sys.modules")
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=ROOT)
