"""The page without a browser: which files are read again, what is shown, who is answered, the command line.
"""

import csv
import io
import multiprocessing
import os
import re
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
from hig.live.watching import Watcher, quantities, table_row, to_csv
from hig.runs.locks import held, locked
from hig.runs.results import load_results, save_results
from tests.browser import ROOT
from tests.test_plot import falling, save

SWITCHES = ["log_y", "bands"]


def refresh(watcher, shown=None, case=None, x="time", y="test_loss", switches=SWITCHES, levels="1e-2"):
    return page.refresh(watcher, case, x, y, switches, levels, shown or {})


def named(figure):
    """{name of the optimizer: trace} of the lines in the legend."""
    return {trace.name.split(":")[0]: trace for trace in figure.data if trace.showlegend}


def rows(sent):
    """Texts of the cells of the table, row by row."""
    def text(part):
        children = getattr(part, "children", part)
        return "".join(map(text, children)) if isinstance(children,
                                                          list) else children if isinstance(children,
                                                                                            str) else ""
    body = sent["table"][0].children.children[1].children
    return [[text(cell) for cell in (row.children if isinstance(row.children, list) else [row.children])]
            for row in body]


# ------------------------------------------------------------------------------------------------- the files

def test_only_changed_files_are_read_again(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(watching, "read_runs", lambda path: read.append(path) or read_runs(path))
    for name in ("Adam", "GN", "HIG"):
        save(tmp_path / f"NLO_{name}_RESULTS.pickle", falling())
    watcher = Watcher([tmp_path, tmp_path, tmp_path / "NLO_GN_RESULTS.pickle"])
    assert len(watcher.look()) == len(watcher.look()) == len(read) == 3
    save(tmp_path / "NLO_GN_RESULTS.pickle", falling(25))
    assert [len(found.runs[0].results["epochs"]) for found in watcher.look()] == [20, 25,
                                                                                  20] and len(read) == 4
    (tmp_path / "NLO_GN_RESULTS.pickle").unlink()
    assert len(watcher.look()) == 2 and len(read) == 4


def test_a_rewritten_file_is_noticed_even_if_time_and_size_are_the_same(tmp_path):
    path = save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    before, watcher = path.stat(), Watcher([tmp_path])
    watcher.look()
    save(path, falling(rate=0.4))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert watcher.look()[0].runs[0].results["train_loss"][1] == np.exp(-0.4)


def test_a_growing_scene_is_read_again(tmp_path):
    (tmp_path / "log_step_time.txt").write_text("1 0.5\n")
    (tmp_path / "log_loss_HIG_0.txt").write_text("0 3.0\n")
    watcher = Watcher([tmp_path])
    assert len(watcher.look()[0].runs[0].results["epochs"]) == 1
    (tmp_path / "log_loss_HIG_0.txt").write_text("0 3.0\n1 2.0\n")
    (run,) = watcher.look()[0].runs
    assert len(run.results["epochs"]) == 2 and state_of(run) == "unknown"


def _hold(folder, ready):
    with locked(folder / "NLO_HIG"):
        ready.set()
        signal.pause()


def test_the_state_of_a_run(tmp_path):
    """A run is running only as long as a process holds its lock; killed, it leaves the file of the lock
    behind.
    """
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
    assert (tmp_path / ".NLO_HIG.lock").exists()
    assert not held(tmp_path / "NLO_HIG") and state_of(read_runs(path)[0]) == "interrupted"
    (tmp_path / ".NLO_HIG.lock").write_text(f"process {os.getpid()} on {os.uname().nodename}")
    os.utime(tmp_path / ".NLO_HIG.lock", (0, 0))
    assert not held(tmp_path / "NLO_HIG")  # this process is younger than the file
    for state in ("finished", "interrupted", "diverged"):
        save(path, falling(), state=state)
        assert state_of(read_runs(path)[0]) == state
    save(path, [1, 0.5, np.nan])
    assert state_of(read_runs(path)[0]) == "diverged"


def test_quantities(tmp_path):
    """Arrays with a value for each entry, or for each update; not settings, images or what is as long by
    chance.
    """
    (run,) = read_runs(save(tmp_path / "QMC_HIG_RESULTS.pickle", falling(4),
                            population_error_2=np.arange(4.0), picture=np.eye(4),
                            other=np.zeros(7)))
    found = quantities(run)
    assert list(found)[:2] == ["test_loss", "train_loss"] and set(found) == {"test_loss", "train_loss",
                                                                             "epoch_time",
                                                                             "population_error_2"}
    assert_array_equal(found["population_error_2"], np.arange(4.0))
    assert_array_equal(found["epoch_time"], [np.nan, 2, 2, 2])


def test_a_row_of_the_table(tmp_path):
    path = save(tmp_path / "NLO_HIG_RESULTS.pickle", [1, 0.1, 0.01], test=[1, 0.2, np.nan])
    assert table_row(read_runs(path)[0], [0.2, 1e-3]) == ["finished", "2.00e-01", "1.00e-02", "2", "–", "2",
                                                          "4", str(path)]
    save(path, [1, 0.1, np.nan])
    assert table_row(read_runs(path)[0], [])[:3] == ["diverged: died at NaN, t = 4 s", "nan", "nan"]
    # never tested: its training loss is drawn
    (run,) = read_runs(save(path, falling(4), test=np.full(4, np.nan)))
    assert_array_equal(quantities(run)["test_loss"], falling(4))
    assert table_row(run, [])[1] == "–"


def test_csv_holds_every_number(tmp_path):
    save(tmp_path / "NLO_HIG_RESULTS.pickle", [1, 1 / 3, np.nan], test=[1, np.nan, 0.25])
    path = save(tmp_path / "NLO_Adam, tuned_RESULTS.pickle", falling(2), extra=np.array([5.0, -6.0]))
    runs = [run for found in Watcher([tmp_path]).look() for run in found.runs]
    table = list(csv.DictReader(io.StringIO(to_csv(runs))))
    assert [row["optimizer"] for row in table] == ["Adam, tuned"] * 2 + ["HIG"] * 3 and table[0][
        "file"] == str(path)
    assert [row["extra"] for row in table] == ["5", "-6", "", "", ""]
    assert [row["test_loss"] for row in table[2:]] == ["1", "", "0.25"] and table[4]["train_loss"] == ""
    assert_allclose(float(table[3]["train_loss"]), 1 / 3, rtol=1e-9)    # ten digits are written
    assert [row["epoch_time"] for row in table[2:]] == ["", "2", "2"]


# ----------------------------------------------------------------------------- what is shown

def test_what_is_shown_and_when_it_is_sent_again(tmp_path):
    for name in ("HIG", "Adam"):
        save(tmp_path / f"NLO_{name}_RESULTS.pickle", falling(), settings={"seed": 1, "batch_size": 128})
    watcher = Watcher([tmp_path])
    first = refresh(watcher)
    assert first["case"] == "Nonlinear oscillators" and first["cases"][0][
        "label"] == "Nonlinear oscillators (2)"
    trace = named(first["figure"])["HIG"]
    assert list(named(first["figure"])) == ["Adam", "HIG"] == [row[0] for row in rows(first)]
    assert_array_equal(trace.x, np.arange(20) * 2.0)
    assert_allclose(trace.y, 1.1 * falling(), rtol=1e-12)               # one multiplication: rounding
    assert trace.line.color == "darkorchid" and first["figure"].layout.yaxis.type == "log"
    assert first["table"][1].children == "All runs: seed 1, batch size 128."
    with pytest.raises(PreventUpdate):
        refresh(watcher, first["shown"], first["case"], levels=first["levels"])
    save(tmp_path / "NLO_SGD_RESULTS.pickle", falling(), settings={"seed": 2, "batch_size": 128})
    second = refresh(watcher, first["shown"], first["case"], levels=first["levels"])
    assert [row[-2] for row in rows(second)] == ["seed 1", "seed 1", "seed 2"]
    sent = {tuple(step["location"]): step["params"]["value"]
            for step in second["figure"].to_plotly_json()["operations"]}
    # zoom stays
    assert len(sent[("data",)]) > len(first["figure"].data) and not any("xaxis" in where for where in sent)
    linear = refresh(watcher, second["shown"], first["case"], y="epoch_time", levels="1")
    assert isinstance(refresh(watcher, linear["shown"], first["case"], y="epoch_time", levels="2")["figure"],
                      Patch)
    other = refresh(watcher, second["shown"], first["case"], x="epochs")
    assert other["figure"].layout.xaxis.title.text == "epochs"


def test_seeds_become_a_band_or_lines(tmp_path):
    for seed in range(3):
        save(tmp_path / str(seed) / "NLO_HIG_RESULTS.pickle", falling(start=2.0**seed),
             settings={"seed": seed})
    watcher = Watcher([tmp_path])
    low, high, middle, *_ = refresh(watcher)["figure"].data
    for trace, start in ((low, 1), (high, 4), (middle, 2)):
        assert_allclose(trace.y, 1.1 * falling(start=start), rtol=1e-9)     # through logarithms
    assert high.fill == "tonexty" and "3 runs" in middle.name
    apart = [trace for trace in refresh(watcher, switches=["log_y"])["figure"].data if trace.mode == "lines"]
    assert len(apart) == 3 and [trace.showlegend for trace in apart] == [True, False, False]


def test_a_band_of_values_without_logarithm():
    x = np.arange(3.0)
    _, middle, low, high, _ = median_band([Curve(x, y, None, True) for y in (x - 1, -x, 0 * x)],
                                          logarithmic=False)
    assert_array_equal([middle, low, high], [[0, 0, 0], [-1, -1, -2], [0, 0, 1]])


def test_zero_and_negative_values_are_drawn_on_a_linear_axis_only(tmp_path):
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling(4), extra=np.array([-1.0, 0.0, 1.0, 2.0]))
    for switches, expected in ((["log_y"], [1, 2]), ([], [-1, 0, 1, 2])):
        assert_array_equal(named(refresh(Watcher([tmp_path]), y="extra",
                                         switches=switches)["figure"])["HIG"].y, expected)


def test_a_dead_run_ends_in_a_cross(tmp_path):
    save(tmp_path / "NLO_GN_RESULTS.pickle", [1, 2, 1e5, np.nan], test=[1, 2, 1e5, np.nan])
    figure = refresh(Watcher([tmp_path]))["figure"]
    (cross,) = [trace for trace in figure.data if trace.mode == "markers"]
    assert figure.layout.yaxis.autorangeoptions.clipmax == 1e3          # the others stay legible
    assert_array_equal([cross.x, cross.y], [[6], [1e3]])


def test_poisson_begins_with_a_logarithmic_time_axis_and_its_own_levels(tmp_path):
    save(tmp_path / "POISSON_HIG_RESULTS.pickle", falling())
    watcher = Watcher([tmp_path])
    first = refresh(watcher)
    assert "log_x" in first["switches"] and first["figure"].layout.xaxis.type == "log" and first[
        "levels"] == "100, 10, 1, 0.1"
    assert named(first["figure"])["HIG"].x[0] == 2                      # not 0
    # the user's choice stays
    assert "log_x" not in refresh(watcher, first["shown"], first["case"])["switches"]


def test_updates_and_the_files_that_do_not_tell_them(tmp_path):
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling(), updates=32)
    results = load_results(save(tmp_path / "NLO_GN_RESULTS.pickle", falling()))
    del results["provenance"]
    save_results(tmp_path / "NLO_GN_RESULTS.pickle", results)
    sent = refresh(Watcher([tmp_path]), x="updates")
    assert_array_equal(named(sent["figure"])["HIG"].x, 32 * np.arange(20))
    assert len(named(sent["figure"])["GN"].x) == 0 and "NLO_GN_RESULTS.pickle" in sent["note"]


def test_many_long_curves_are_thinned_and_keep_their_extremes(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(40):
        losses = np.exp(rng.normal(size=5000))
        losses[[1000, 3000]] = 1e4, 1e-4
        save(tmp_path / f"NLO_O{i}_RESULTS.pickle", losses, test=losses)
    curves = [trace.y for trace in refresh(Watcher([tmp_path]))["figure"].data if trace.mode == "lines"]
    assert sum(map(len, curves)) < page.POINTS + 40 * 2
    assert all(curve.max() == 1e4 and curve.min() == 1e-4 for curve in curves)


def test_an_unreadable_file_is_a_row_and_names_are_no_markup(tmp_path):
    save(tmp_path / "NLO_<b>x_RESULTS.pickle", falling())
    (tmp_path / "NLO_GN_RESULTS.pickle").write_bytes(b"\x80\x04garbage")
    sent = refresh(Watcher([tmp_path]))
    assert rows(sent)[0][0] == "<b>x" and len(rows(sent)) == 2 and sent["figure"].data[0].name.startswith(
        "&lt;b&gt;x")
    assert re.match("unreadable: .*NLO_GN_RESULTS.pickle cannot be used as a curve", rows(sent)[1][0])


def test_quantities_have_the_system_s_words(tmp_path):
    save(tmp_path / "QMC_HIG_RESULTS.pickle", falling(), population_error_2=falling(), custom_thing=falling())
    sent = refresh(Watcher([tmp_path]), y="population_error_2")
    assert {"label": "error of the population of |2⟩", "value": "population_error_2"} in sent["quantities"]
    assert {"label": "custom thing", "value": "custom_thing"} in sent["quantities"]
    assert sent["figure"].layout.yaxis.title.text == "error of the population of |2⟩"


def test_where_another_optimizer_takes_over_it_is_named(tmp_path):
    path = save(tmp_path / "POISSON_Adam_then_HIG_RESULTS.pickle", falling(), test=falling())
    results = load_results(path)
    save_results(path, {**results, "provenance": {**results["provenance"], "switch_epoch": 7}})
    save(tmp_path / "POISSON_interactive_RESULTS.pickle", falling(4), test=falling(4), method=np.array([2.0,
        2, 2, 0]),
         settings={"methods": "0 Adam, 1 GN, 2 HIG"})
    figure = refresh(Watcher([tmp_path]), switches=[])["figure"]
    switch, method = [trace for trace in figure.data if trace.mode == "markers+text"]
    assert (switch.x, switch.y, switch.text) == ((14,), (falling()[7],), ("switch",))
    assert method.x == (0, 4) and method.text == ("HIG", "Adam")


@pytest.mark.parametrize("words, levels", [("1e-2, 1e-3", [1e-2, 1e-3]), ("0.5 0.1", [0.5, 0.1]), ("", []),
                                           (None, []),
                                           ("low", None), ("-1", None), ("nan", None), ("inf", None),
                                           ("1 " * 7, None)])
def test_loss_levels(words, levels):
    assert page.read_levels(words) == levels


# ----------------------------------------------------------------------------- server and command line

def test_who_is_answered(tmp_path):
    """Requests whose Host header is another name are refused, for whatever address; foreign frames and
    requests, too.
    """
    client = page.watching_app([tmp_path]).server.test_client()
    for path in ("/", "/_dash-layout", "/_dash-dependencies", "/alive"):
        for host in ("127.0.0.1:8050", "localhost:8050"):
            answer = client.get(path, headers={"Host": host})
            assert answer.status_code < 300 and "frame-ancestors 'none'" in answer.headers[
                "Content-Security-Policy"]
        for host in ("evil.example:8050", "evil.example", "127.0.0.1.evil.example:8050", ""):
            assert client.get(path, headers={"Host": host}).status_code in (400, 403), (host, path)


@pytest.mark.parametrize("flags, words", [
    (["missing"], "there is no folder missing"), (["--port", "70000"], "70000"), (["--port", "-1"], "--port"),
    (["--port", "web"], "web"), (["--interactive", "Toy"], "Poisson"), ([".", "--port", "TAKEN"],
                                                                        "port TAKEN"),
    (["--interactive", "Poisson", ".", ".."], "one folder"), (["--speed"], "--speed")])
def test_bad_input(tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as end:
        port = str(taken.getsockname()[1])
        dashboard.main([flag.replace("TAKEN", port) for flag in flags])
    output, errors = capsys.readouterr()
    assert end.value.code == 2 and output == "" and len(errors.splitlines()) == 1 and words.replace("TAKEN",
        port) in errors


def test_watching_does_not_load_tensorflow(tmp_path):
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    code = ("import sys; from pathlib import Path; from hig.live import page; app = "
            "page.watching_app([Path(sys.argv[1])]); "
            "page.refresh(page.Watcher([Path(sys.argv[1])]), None, 'time', 'test_loss', [], '', {}); "
            "from Poisson.interactive import page; assert 'tensorflow' not in sys.modules")
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=ROOT)
