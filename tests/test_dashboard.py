"""The watching page without a browser: what is read again, what is sent, the command line."""

import base64
import csv
import http.client
import io
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request

import numpy as np
import pytest
from dash import Patch
from dash.exceptions import PreventUpdate
from numpy.testing import assert_allclose, assert_array_equal

from hig.figures.curves import Curve, median_band, state_of
from hig.figures.reading import read_runs
from hig.live import page as watching_page
from hig.runs.locks import held, locked
from hig.runs.results import load_results, save_results
from hig.live.watching import Watcher, csv_lines, quantities, quantity, table_row
from tests.browser import ROOT, serve, stop
from tests.test_plot import falling, save

SWITCHES = ["log_y", "bands"]


def refresh(watcher, shown=None, case=None, x="time", y="test_loss", switches=SWITCHES, levels="1e-2"):
    return watching_page.refresh(watcher, case, x, y, switches, levels, shown or {})


def values(packed):
    """Numbers of an array as it goes to the browser."""
    return np.frombuffer(base64.b64decode(packed["bdata"]), packed["dtype"])


def lines(figure):
    """{name of the optimizer: trace} of a figure that is new as a whole, without bands and crosses."""
    return {trace["name"].split(":")[0]: trace for trace in figure["data"] if trace.get("showlegend", True)}


def changed(patch):
    """Locations that a Patch writes to."""
    return {tuple(step["location"]) for step in patch.to_plotly_json()["operations"]}


def cells(row):
    """Texts of a row of the table."""
    contents = [cell.children if isinstance(cell.children, list) else [cell.children] for cell in row.children]
    return ["".join(part for part in content if isinstance(part, str)) for content in contents]


# ------------------------------------------------------------------------------------------------- the files

def test_only_changed_files_are_read_again(tmp_path):
    for name in ("Adam", "GN", "HIG"):
        save(tmp_path / f"NLO_{name}_RESULTS.pickle", falling())
    watcher = Watcher([tmp_path, tmp_path])
    assert len(watcher.look()) == 3 and watcher.files_read == 3
    watcher.look()
    assert watcher.files_read == 3
    save(tmp_path / "NLO_GN_RESULTS.pickle", falling(25))
    assert [len(found.runs[0].results["epochs"]) for found in watcher.look()] == [20, 25, 20] and watcher.files_read == 4
    (tmp_path / "NLO_GN_RESULTS.pickle").unlink()
    assert len(watcher.look()) == 2 and watcher.files_read == 4


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
    """A run is running only as long as a process holds its lock; killed, it leaves the file of the lock behind."""
    path = save(tmp_path / "NLO_HIG_RESULTS.pickle", falling(), state="running")
    assert state_of(read_runs(path)[0]) == "interrupted"
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready))
    process.start()
    try:
        assert ready.wait(60)
        assert held(tmp_path / "NLO_HIG") and state_of(read_runs(path)[0]) == "running"
    finally:
        process.kill()
        process.join()
    assert (tmp_path / ".NLO_HIG.lock").exists()
    assert not held(tmp_path / "NLO_HIG") and state_of(read_runs(path)[0]) == "interrupted"
    (tmp_path / ".NLO_HIG.lock").write_text(f"process {os.getpid()} on {os.uname().nodename}")
    os.utime(tmp_path / ".NLO_HIG.lock", (0, 0))
    assert not held(tmp_path / "NLO_HIG")                               # this process is younger than the file
    for state in ("finished", "interrupted", "diverged"):
        save(path, falling(), state=state)
        assert state_of(read_runs(path)[0]) == state
    save(path, [1, 0.5, np.nan])
    assert state_of(read_runs(path)[0]) == "diverged"


def test_asking_for_a_lock_does_not_take_it(tmp_path):
    with locked(tmp_path / "NLO_HIG"):
        assert held(tmp_path / "NLO_HIG")
        with pytest.raises(BlockingIOError):
            locked(tmp_path / "NLO_HIG").__enter__()
    assert not held(tmp_path / "NLO_HIG")


def test_quantities(tmp_path):
    """Arrays with a value for each entry, or for each update; not settings, images or what is as long by chance."""
    path = save(tmp_path / "QMC_HIG_RESULTS.pickle", falling(4), population_error_2=np.arange(4.0), picture=np.eye(4),
                other=np.zeros(7))
    (run,) = read_runs(path)
    assert quantities([run]) == ["test_loss", "train_loss", "epoch_time", "population_error_2"]
    assert_array_equal(quantity(run, "population_error_2"), np.arange(4.0))
    assert_array_equal(quantity(run, "epoch_time"), [np.nan, 2, 2, 2])
    assert quantity(run, "other") is None and quantity(run, "missing") is None


def test_a_run_without_test_losses_shows_its_training_loss(tmp_path):
    (run,) = read_runs(save(tmp_path / "POISSON_HIG_RESULTS.pickle", falling(4), test=np.full(4, np.nan)))
    assert_array_equal(quantity(run, "test_loss"), falling(4))
    assert table_row(run, [])[1] == "–"


def test_table_row(tmp_path):
    path = save(tmp_path / "NLO_HIG_RESULTS.pickle", [1, 0.1, 0.01], test=[1, 0.2, np.nan],
                settings={"optimizer": "HIG", "seed": 3, "epochs": None, "learning_rate": 0.5})
    assert table_row(read_runs(path)[0], [0.2, 1e-3]) == [
        "finished", "2.00e-01", "1.00e-02", "2", "–", "2", "4", "seed 3, learning rate 0.5", str(path)]
    assert table_row(read_runs(path)[0], [], {"seed"})[-2] == "seed 3"
    save(path, [1, 0.1, np.nan])
    assert table_row(read_runs(path)[0], [])[:3] == ["diverged: died at NaN, t = 4 s", "nan", "nan"]


def test_csv_holds_every_number(tmp_path):
    save(tmp_path / "NLO_HIG_RESULTS.pickle", [1, 1 / 3, np.nan], test=[1, np.nan, 0.25])
    path = save(tmp_path / "NLO_Adam, tuned_RESULTS.pickle", falling(2), extra=np.array([5.0, -6.0]))
    runs = [run for found in Watcher([tmp_path]).look() for run in found.runs]
    table = list(csv.DictReader(io.StringIO("".join(csv_lines(runs)))))
    assert [row["optimizer"] for row in table] == ["Adam, tuned"] * 2 + ["HIG"] * 3 and table[0]["file"] == str(path)
    assert [row["extra"] for row in table] == ["5", "-6", "", "", ""]
    assert [row["test_loss"] for row in table[2:]] == ["1", "", "0.25"] and table[4]["train_loss"] == ""
    assert_allclose(float(table[3]["train_loss"]), 1 / 3, rtol=1e-9)    # ten digits are written
    assert [row["epoch_time"] for row in table[2:]] == ["", "2", "2"]


# ------------------------------------------------------------------------------------------------- what is sent

def test_the_first_refresh(tmp_path):
    for name in ("HIG", "Adam"):
        save(tmp_path / f"NLO_{name}_RESULTS.pickle", falling())
    sent = refresh(Watcher([tmp_path]))
    assert sent["case"] == "Nonlinear oscillators" and sent["cases"][0]["label"] == "Nonlinear oscillators (2)"
    assert list(lines(sent["figure"])) == ["Adam", "HIG"]
    trace = lines(sent["figure"])["HIG"]
    assert_array_equal(values(trace["x"]), np.arange(20) * 2.0)
    assert_allclose(values(trace["y"]), 1.1 * falling(), rtol=1e-12)    # one multiplication: rounding
    assert trace["line"]["color"] == "darkorchid" and sent["figure"]["layout"]["yaxis"]["type"] == "log"
    assert [cells(row)[0] for row in sent["rows"]] == ["Adam", "HIG"]


def test_what_has_not_changed_is_not_sent(tmp_path):
    for name in ("Adam", "GN", "HIG"):
        save(tmp_path / f"NLO_{name}_RESULTS.pickle", falling())
    watcher = Watcher([tmp_path])
    first = refresh(watcher)
    levels = first["levels"]
    with pytest.raises(PreventUpdate):
        refresh(watcher, first["shown"], first["case"], levels=levels)
    save(tmp_path / "NLO_GN_RESULTS.pickle", falling(25))
    second = refresh(watcher, first["shown"], first["case"], levels=levels)
    traces = list(range(len(first["figure"]["data"])))
    of_gn = {i for i in traces if first["figure"]["data"][i]["legendgroup"] == "GN"}
    assert {location[1] for location in changed(second["figure"])} == of_gn
    assert {location[0] for location in changed(second["figure"])} == {"data"}  # not the layout, where the zoom is
    assert changed(second["rows"]) == {(1,)}
    save(tmp_path / "NLO_SGD_RESULTS.pickle", falling())
    third = refresh(watcher, second["shown"], first["case"])
    assert isinstance(third["figure"], Patch) and ("data",) in changed(third["figure"])
    assert not any(location[:2] in (("layout", "xaxis"),) for location in changed(third["figure"]))
    other = refresh(watcher, third["shown"], first["case"], x="epochs")
    assert other["figure"]["layout"]["xaxis"]["title"]["text"] == "epochs"


def test_seeds_become_a_band_or_lines(tmp_path):
    for seed in range(3):
        save(tmp_path / str(seed) / "NLO_HIG_RESULTS.pickle", falling(start=2.0**seed), settings={"seed": seed})
    watcher = Watcher([tmp_path])
    low, high, middle, _ = refresh(watcher)["figure"]["data"]
    for trace, start in ((low, 1), (high, 4), (middle, 2)):
        assert_allclose(values(trace["y"]), 1.1 * falling(start=start), rtol=1e-9)  # through logarithms
    assert high["fill"] == "tonexty" and "3 runs" in middle["name"]
    apart = [trace for trace in refresh(watcher, switches=["log_y"])["figure"]["data"] if trace["mode"] == "lines"]
    assert len(apart) == 3 and [trace["showlegend"] for trace in apart] == [True, False, False]


def test_a_band_of_values_without_logarithm():
    x = np.arange(3.0)
    curves = [Curve(x, y, None, True) for y in (x - 1, -x, 0 * x)]
    _, middle, low, high, _ = median_band(curves, logarithmic=False)
    assert_array_equal(middle, [0, 0, 0])
    assert_array_equal(low, [-1, -1, -2])
    assert_array_equal(high, [0, 0, 1])


def test_zero_and_negative_values_are_drawn_on_a_linear_axis_only(tmp_path):
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling(4), extra=np.array([-1.0, 0.0, 1.0, 2.0]))
    watcher = Watcher([tmp_path])
    for switches, expected in ((["log_y"], [1, 2]), ([], [-1, 0, 1, 2])):
        trace = lines(refresh(watcher, y="extra", switches=switches)["figure"])["HIG"]
        assert_array_equal(values(trace["y"]), expected)


def test_a_dead_run_ends_in_a_cross(tmp_path):
    save(tmp_path / "NLO_GN_RESULTS.pickle", [1, 2, 1e5, np.nan], test=[1, 2, 1e5, np.nan])
    figure = refresh(Watcher([tmp_path]))["figure"]
    (cross,) = [trace for trace in figure["data"] if trace["mode"] == "markers"]
    assert figure["layout"]["yaxis"]["autorangeoptions"] == {"clipmax": 1e3}  # the others stay legible
    assert_array_equal([values(cross["x"]), values(cross["y"])], [[6], [1e3]])


def test_poisson_begins_with_a_logarithmic_time_axis(tmp_path):
    save(tmp_path / "POISSON_HIG_RESULTS.pickle", falling())
    watcher = Watcher([tmp_path])
    first = refresh(watcher)
    assert "log_x" in first["switches"] and first["figure"]["layout"]["xaxis"]["type"] == "log"
    assert values(lines(first["figure"])["HIG"]["x"])[0] == 2           # not 0
    second = refresh(watcher, first["shown"], first["case"], switches=SWITCHES)
    assert "log_x" not in second["switches"]                            # the user's choice stays


def test_updates_and_the_files_that_do_not_tell_them(tmp_path):
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling(), updates=32)
    results = load_results(save(tmp_path / "NLO_GN_RESULTS.pickle", falling()))
    del results["provenance"]
    save_results(tmp_path / "NLO_GN_RESULTS.pickle", results)
    sent = refresh(Watcher([tmp_path]), x="updates")
    assert_array_equal(values(lines(sent["figure"])["HIG"]["x"]), 32 * np.arange(20))
    assert len(values(lines(sent["figure"])["GN"]["x"])) == 0 and "NLO_GN_RESULTS.pickle" in sent["note"]


def test_many_long_curves_are_thinned_and_keep_their_extremes(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(40):
        losses = np.exp(rng.normal(size=5000))
        losses[[1000, 3000]] = 1e4, 1e-4
        save(tmp_path / f"NLO_O{i}_RESULTS.pickle", losses, test=losses)
    data = refresh(Watcher([tmp_path]))["figure"]["data"]
    curves = [values(trace["y"]) for trace in data if trace["mode"] == "lines"]
    assert sum(map(len, curves)) < watching_page.POINTS + 40 * 2
    assert all(curve.max() == 1e4 and curve.min() == 1e-4 for curve in curves)


def test_an_unreadable_file_is_a_row(tmp_path):
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    (tmp_path / "NLO_GN_RESULTS.pickle").write_bytes(b"\x80\x04garbage")
    sent = refresh(Watcher([tmp_path]))
    assert cells(sent["rows"][0])[0] == "HIG" and len(sent["rows"]) == 2
    assert re.match("unreadable: .*NLO_GN_RESULTS.pickle cannot be used as a curve", cells(sent["rows"][1])[0])


def test_settings_are_told_where_they_differ(tmp_path):
    for seed in (1, 2):
        save(tmp_path / str(seed) / "NLO_HIG_RESULTS.pickle", falling(), settings={"seed": seed, "batch_size": 128, "learning_rate": 1.0})
    sent = refresh(Watcher([tmp_path]))
    assert [cells(row)[-2] for row in sent["rows"]] == ["seed 1", "seed 2"]
    assert sent["common"] == "All runs: batch size 128, learning rate 1."


def test_quantities_and_levels_come_from_the_system(tmp_path):
    save(tmp_path / "QMC_HIG_RESULTS.pickle", falling(), population_error_2=falling(), custom_thing=falling())
    sent = refresh(Watcher([tmp_path]), y="population_error_2")
    assert {"label": "error of the population of |2⟩", "value": "population_error_2"} in sent["quantities"]
    assert {"label": "custom thing", "value": "custom_thing"} in sent["quantities"]
    assert sent["figure"]["layout"]["yaxis"]["title"]["text"] == "error of the population of |2⟩"
    save(tmp_path / "POISSON_HIG_RESULTS.pickle", falling())
    assert refresh(Watcher([tmp_path]), case="Poisson problem")["levels"] == "100, 10, 1, 0.1"


def test_the_switch_of_a_pretrained_run_is_marked(tmp_path):
    path = save(tmp_path / "POISSON_Adam_then_HIG_RESULTS.pickle", falling())
    results = load_results(path)
    save_results(path, {**results, "provenance": {**results["provenance"], "switch_epoch": 7}})
    (switch,) = [trace for trace in refresh(Watcher([tmp_path]))["figure"]["data"] if "switch" in trace.get("text", [])]
    assert_array_equal(values(switch["x"]), [14, 14])


@pytest.mark.parametrize("words, levels", [("1e-2, 1e-3", [1e-2, 1e-3]), ("0.5 0.1", [0.5, 0.1]), ("", []), (None, []),
                                           ("low", None), ("-1", None), ("nan", None), ("inf", None), ("1 " * 7, None)])
def test_loss_levels(words, levels):
    assert watching_page.read_levels(words) == levels


def test_names_of_files_are_no_markup(tmp_path):
    save(tmp_path / "NLO_<b>x_RESULTS.pickle", falling())
    (trace, _) = refresh(Watcher([tmp_path]))["figure"]["data"]
    assert trace["name"].startswith("&lt;b&gt;x")


# ------------------------------------------------------------------------------------------------- command line

@pytest.mark.parametrize("flags, words", [
    (["missing"], "there is no folder missing"), (["--port", "70000"], "70000"), (["--port", "-1"], "--port"),
    (["--port", "web"], "web"), (["--interactive", "Toy"], "Poisson"),
    (["--interactive", "Poisson", ".", ".."], "one folder"), (["--speed"], "--speed")])
def test_bad_input(tmp_path, flags, words):
    process = subprocess.run([sys.executable, str(ROOT / "dashboard.py"), *flags], capture_output=True, text=True,
                             cwd=tmp_path)
    assert process.returncode == 2 and process.stdout == ""
    assert len(process.stderr.splitlines()) == 1 and words in process.stderr


def test_a_port_in_use(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = subprocess.run([sys.executable, str(ROOT / "dashboard.py"), ".", "--port", str(port)],
                                 capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 2 and len(process.stderr.splitlines()) == 1 and str(port) in process.stderr


def test_watching_does_not_load_tensorflow(tmp_path):
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    code = ("import sys; from pathlib import Path; from hig.live import page; app = page.watching_app([Path(sys.argv[1])]); "
            "page.refresh(page.Watcher([Path(sys.argv[1])]), None, 'time', 'test_loss', [], '', {}); "
            "from Poisson.interactive import page; assert 'tensorflow' not in sys.modules")
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=ROOT)


def test_who_is_answered_and_how_it_ends(tmp_path):
    """Requests whose Host header is another name are refused, for whatever address; Ctrl-C ends the server with 0."""
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    process = serve(tmp_path, cwd=tmp_path)
    try:
        port = urllib.parse.urlsplit(process.url).port

        def status(host, path):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", path, headers={"Host": host})
            return connection.getresponse().status
        for path in ("/", "/_dash-layout", "/_dash-dependencies", "/curves.csv?case=Nonlinear%20oscillators"):
            assert status(f"127.0.0.1:{port}", path) == status(f"localhost:{port}", path) == 200
            for host in (f"evil.example:{port}", "evil.example", f"127.0.0.1.evil.example:{port}", ""):
                assert status(host, path) in (400, 403), (host, path)
        assert status(f"127.0.0.1:{port}", "/curves.csv?case=/etc/passwd") == 404
        table = urllib.request.urlopen(f"{process.url}curves.csv?case=Nonlinear%20oscillators").read().decode()
        assert len(table.splitlines()) == 21
    finally:
        status = stop(process)
    assert status == 0
