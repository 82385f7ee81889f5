"""The page without a browser: what is read again, what is shown, who is answered, the command line."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from dash import Patch
from dash.exceptions import PreventUpdate
from numpy.testing import assert_allclose, assert_array_equal

import dashboard
from hig.figures.curves import Curve, median_band, state_of
from hig.figures.reading import read_runs
from hig.live import page, watching
from hig.runs.locks import held, locked
from hig.runs.results import load_results, save_results
from tests.browser import ROOT
from tests.test_plot import falling, save


def refresh(folder, known=None, case=None, x="time", y="test_loss", switches=("log_y", "bands"), shown=None):
    return page.refresh([folder], {} if known is None else known, case, x, y, list(switches), shown or {})


def named(figure):
    """{name of the optimizer: trace} of the lines in the legend."""
    return {trace.name.split(":")[0]: trace for trace in figure.data if trace.showlegend}


def rows(sent):
    """Texts of the cells of the table, row by row."""
    def text(part):
        part = getattr(part, "children", part)
        return "".join(map(text, part)) if isinstance(part, list) else part if isinstance(part, str) else ""
    return [[text(cell) for cell in (row.children if isinstance(row.children, list) else [row.children])]
            for row in sent["table"].children[1].children]


# ------------------------------------------------------------------------------------------------- the files

def test_only_changed_files_are_read_again(tmp_path, monkeypatch):
    """A file written anew is noticed although its time and size are the same; a scene, by its lines."""
    read, known = [], {}
    monkeypatch.setattr(watching, "read_runs", lambda path: read.append(path) or read_runs(path))
    paths = [save(tmp_path / f"NLO_{name}_RESULTS.pickle", falling()) for name in ("Adam", "GN", "HIG")]
    (scene := tmp_path / "scene").mkdir()
    (scene / "log_step_time.txt").write_text("1 0.5\n")
    (scene / "log_loss_HIG_0.txt").write_text("0 3.0\n")

    def look():
        return {found.path: found.runs[0] for found in watching.look([tmp_path, tmp_path, paths[1]], known)}
    assert len(look()) == len(look()) == len(read) == 4
    before = paths[1].stat()
    save(paths[1], falling(rate=0.4))
    os.utime(paths[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    (scene / "log_loss_HIG_0.txt").write_text("0 3.0\n1 2.0\n")
    now = look()
    assert len(read) == 6 and now[paths[1]].results["train_loss"][1] == np.exp(-0.4)
    assert_array_equal(now[scene].results["train_loss"], [3, 2])
    assert state_of(now[scene]) == "unknown"
    paths[1].unlink()
    assert len(look()) == 3 and len(read) == 6


def _hold(folder, ready):
    with locked(folder / "NLO_HIG"):
        ready.set()
        signal.pause()


def test_the_state_of_a_run(tmp_path):
    """A run is running only as long as a process holds its lock; a killed one leaves the lock's file."""
    path = save(tmp_path / "NLO_HIG_RESULTS.pickle", falling(), state="running")
    assert state_of(read_runs(path)[0]) == "interrupted"
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready))
    process.start()
    try:
        assert ready.wait(60)
        assert held(tmp_path / "NLO_HIG") and state_of(read_runs(path)[0]) == "running"
        with pytest.raises(BlockingIOError):                            # asking has not taken it
            locked(tmp_path / "NLO_HIG").__enter__()
    finally:
        process.kill()
        process.join()
    assert (tmp_path / ".NLO_HIG.lock").exists() and state_of(read_runs(path)[0]) == "interrupted"
    (tmp_path / ".NLO_HIG.lock").write_text(f"process {os.getpid()} on {os.uname().nodename}")
    os.utime(tmp_path / ".NLO_HIG.lock", (0, 0))
    assert not held(tmp_path / "NLO_HIG")                             # this process is younger than the file
    for state in ("finished", "interrupted", "diverged"):
        assert state_of(read_runs(save(path, falling(), state=state))[0]) == state
    assert state_of(read_runs(save(path, [1, 0.5, np.nan]))[0]) == "diverged"


def test_quantities_are_the_arrays_with_a_value_for_each_entry_or_update(tmp_path):
    save(tmp_path / "QMC_HIG_RESULTS.pickle", falling(4), population_error_2=np.array([3.0, 2, 0, -1]),
         picture=np.eye(4), other=np.zeros(7))
    sent = refresh(tmp_path, y="population_error_2", switches=[])
    assert {option["value"]: option["label"] for option in sent["quantities"]} == {
        "test_loss": "test loss", "train_loss": "training loss", "epoch_time": "seconds of an epoch",
        "population_error_2": "error of the population of |2⟩"}
    assert_array_equal(named(sent["figure"])["HIG"].y, [3, 2, 0, -1])
    assert sent["figure"].layout.yaxis.title.text == "error of the population of |2⟩"
    for key, expected in (("population_error_2", [3, 2]), ("epoch_time", [2, 2, 2])):
        assert_array_equal(named(refresh(tmp_path, y=key)["figure"])["HIG"].y, expected)    # y > 0


# ----------------------------------------------------------------------------------------- what is shown

def test_what_is_shown_and_when_it_is_sent_again(tmp_path):
    known = {}
    for name in ("HIG", "Adam"):
        save(tmp_path / f"NLO_{name}_RESULTS.pickle", falling(), settings={"seed": 1, "batch_size": 128})
    first = refresh(tmp_path, known)
    assert first["case"] == "Nonlinear oscillators"
    assert first["cases"] == [{"label": "Nonlinear oscillators (2)", "value": "Nonlinear oscillators"}]
    trace = named(first["figure"])["HIG"]
    assert list(named(first["figure"])) == ["Adam", "HIG"] == [row[0] for row in rows(first)]
    assert_array_equal(trace.x, np.arange(20) * 2.0)
    assert_allclose(trace.y, 1.1 * falling(), rtol=1e-12)               # one multiplication: rounding
    assert trace.line.color == "darkorchid" and first["figure"].layout.yaxis.type == "log"
    assert first["table"].children[1].children[0].title == "seed 1, batch_size 128"
    with pytest.raises(PreventUpdate):
        refresh(tmp_path, known, first["case"], shown=first["shown"])
    save(tmp_path / "NLO_SGD_RESULTS.pickle", falling())
    second = refresh(tmp_path, known, first["case"], shown=first["shown"])
    sent = {tuple(step["location"]): step["params"]["value"]
            for step in second["figure"].to_plotly_json()["operations"]}
    assert isinstance(second["figure"], Patch) and len(sent[("data",)]) > len(first["figure"].data)
    assert not any("xaxis" in where for where in sent)                  # zoom stays
    other = refresh(tmp_path, known, first["case"], x="epochs", shown=second["shown"])
    assert other["figure"].layout.xaxis.title.text == "epochs"


def test_seeds_become_a_band_or_lines(tmp_path):
    for seed in range(3):
        path = tmp_path / str(seed) / "NLO_HIG_RESULTS.pickle"
        save(path, falling(start=2.0**seed), settings={"seed": seed})
    low, high, middle, *_ = refresh(tmp_path)["figure"].data
    for trace, start in ((low, 1), (high, 4), (middle, 2)):
        assert_allclose(trace.y, 1.1 * falling(start=start), rtol=1e-9)     # through logarithms
    assert high.fill == "tonexty" and "3 runs" in middle.name
    apart = [trace for trace in refresh(tmp_path, switches=["log_y"])["figure"].data if trace.mode == "lines"]
    assert len(apart) == 3 and [trace.showlegend for trace in apart] == [True, False, False]


def test_a_band_of_values_without_logarithm():
    x = np.arange(3.0)
    curves = [Curve(x, y, None, True) for y in (x - 1, -x, 0 * x)]
    _, middle, low, high, _ = median_band(curves, logarithmic=False)
    assert_array_equal([middle, low, high], [[0, 0, 0], [-1, -1, -2], [0, 0, 1]])


def test_a_dead_run_ends_in_a_cross(tmp_path):
    path = save(tmp_path / "NLO_GN_RESULTS.pickle", [1, 2, 1e5, np.nan], test=[1, 2, 1e5, np.nan])
    sent = refresh(tmp_path)
    (cross,) = [trace for trace in sent["figure"].data if trace.mode == "markers" and trace.x]
    assert sent["figure"].layout.yaxis.autorangeoptions.clipmax == 1e3  # the others stay legible
    assert_array_equal([cross.x, cross.y], [[6], [1e3]])
    assert rows(sent)[0][:4] == ["GN", "diverged: died at NaN, t = 6 s", "inf", "inf"]
    save(path, [1, 0.1, 0.005], test=[1, 0.009, np.nan])                # its seconds to 1e-2, 1e-3, 1e-4
    row = ["GN", "finished", "9.00e-03", "5.00e-03", "2", "–", "–", "2", "4", str(path)]
    assert rows(refresh(tmp_path))[0] == row


def test_poisson_begins_with_a_logarithmic_time_axis(tmp_path):
    save(tmp_path / "POISSON_HIG_RESULTS.pickle", falling())
    first = refresh(tmp_path)
    assert "log_x" in first["switches"] and first["figure"].layout.xaxis.type == "log"
    assert named(first["figure"])["HIG"].x[0] == 2                      # not 0
    again = refresh(tmp_path, case=first["case"], shown=first["shown"])
    assert "log_x" not in again["switches"]                             # the user's choice stays


def test_updates_and_the_files_that_do_not_tell_them(tmp_path):
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling(), updates=32)
    results = load_results(path := save(tmp_path / "NLO_GN_RESULTS.pickle", falling()))
    del results["provenance"]
    save_results(path, results)
    sent = refresh(tmp_path, x="updates")
    assert_array_equal(named(sent["figure"])["HIG"].x, 32 * np.arange(20))
    assert len(named(sent["figure"])["GN"].x) == 0 and "NLO_GN_RESULTS.pickle" in sent["note"]


def test_many_long_curves_are_thinned_and_keep_their_extremes(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(40):
        losses = np.exp(rng.normal(size=5000))
        losses[[1000, 3000]] = 1e4, 1e-4
        save(tmp_path / f"NLO_O{i}_RESULTS.pickle", losses, test=losses)
    curves = [trace.y for trace in refresh(tmp_path)["figure"].data if trace.mode == "lines"]
    assert sum(map(len, curves)) < page.POINTS + 40 * 2
    assert all(curve.max() == 1e4 and curve.min() == 1e-4 for curve in curves)


def test_an_unreadable_file_is_a_row_and_names_are_no_markup(tmp_path):
    save(tmp_path / "NLO_<b>x_RESULTS.pickle", falling())
    (tmp_path / "NLO_GN_RESULTS.pickle").write_bytes(b"\x80\x04garbage")
    sent = refresh(tmp_path)
    (first, *_), (second,) = rows(sent)
    assert first == "<b>x" and sent["figure"].data[0].name.startswith("&lt;b&gt;x")
    assert second.startswith("unreadable: ") and "NLO_GN_RESULTS.pickle cannot be used as a curve" in second


def test_where_another_optimizer_takes_over_it_is_named(tmp_path):
    path = save(tmp_path / "POISSON_Adam_then_HIG_RESULTS.pickle", falling(), test=falling())
    results = load_results(path)
    save_results(path, {**results, "provenance": {**results["provenance"], "switch_epoch": 7}})
    save(tmp_path / "POISSON_interactive_RESULTS.pickle", falling(4), test=falling(4),
         method=np.array([2.0, 2, 2, 0]), settings={"methods": "0 Adam, 1 GN, 2 HIG"})
    figure = refresh(tmp_path, switches=[])["figure"]
    switch, method = [trace for trace in figure.data if trace.mode == "markers+text"]
    assert (switch.x, switch.y, switch.text) == ((14,), (falling()[7],), ("switch",))
    assert method.x == (0, 4) and method.text == ("HIG", "Adam")


# ----------------------------------------------------------------------------- server and command line

@pytest.mark.parametrize("path", ["/", "/_dash-layout", "/_dash-dependencies"])
def test_who_is_answered(tmp_path, path):
    """Neither requests for another host's name, whatever its address, nor a page with this one in a frame."""
    client = page.watching_app([tmp_path]).server.test_client()
    for host in ("127.0.0.1:8050", "localhost:8050"):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code < 300
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
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
    code = ("import sys; from pathlib import Path; from tests.test_dashboard import refresh; "
            "refresh(Path(sys.argv[1])); from Poisson.interactive import page; assert 'tensorflow' not in "
            "sys.modules")
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=ROOT)
