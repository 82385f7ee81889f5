"""Poisson by hand: its updates against the submit script's training, its files, its thread, and the page."""

import threading

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from selenium.webdriver.common.by import By

import dashboard
import plot
import Poisson
from hig.figures.curves import state_of
from hig.figures.reading import read_runs
from hig.runs.cli import SettingsError, parse
from hig.runs.locks import locked
from hig.runs.results import load_results
from Poisson import experiment
from Poisson.interactive import trainer as module
from Poisson.interactive.page import SETTINGS, by_hand_app
from Poisson.interactive.trainer import NAME, Training
from tests.browser import (browser, click, fits, graph, serve, set_text, stop, text, until,  # noqa: F401
                           visit, wait_for)
from tests.test_poisson import stencil

PICKLE = f"{NAME}_RESULTS.pickle"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three updates of HIG with 4 fields, two of Adam, one of GN, saved in between; and the folder."""
    folder = tmp_path_factory.mktemp("by_hand")
    training = Training(folder, {**SETTINGS, "batch_size": 4})
    for method, count in (("HIG", 3), ("Adam", 2), ("GN", 1)):
        training.set({"method": method})
        for _ in range(count):
            training.step()
        training.save()
    training.finish()
    return training, folder


@pytest.fixture
def fresh(tmp_path):
    """A training by Adam with one field at a time, before its first update."""
    return Training(tmp_path, {**SETTINGS, "batch_size": 1, "method": "Adam"})


def test_the_updates_are_those_of_the_submit_script(trained, tmp_path):
    """The same weights, fields and optimizer, so the same losses: float32, the same compiled update."""
    settings = parse("Poisson", "HIG", None, seed=0, batch_size=4, learning_rate=SETTINGS["power_rate"],
                     truncation=SETTINGS["truncation"], max_time=1e9, flags=Poisson.flags,
                     arguments=["--steps", "4", "--output", str(tmp_path), "--quiet"])
    experiment.run(settings)
    by_hand, run = load_results(trained[1] / PICKLE), load_results(tmp_path / "POISSON_HIG_RESULTS.pickle")
    for key in ("train_loss", "x_distance_l1"):                         # entry 4 is the loss before update 4
        assert_allclose(by_hand[key][:5], run[key][:5], rtol=1e-5)
    assert_allclose(by_hand["test_loss"][0], run["test_loss"][0], rtol=1e-6)
    assert_array_equal(by_hand["provenance"]["rank"][:3], run["provenance"]["rank"][:3])


def test_the_pickle_tells_what_each_update_was_made_with(trained, tmp_path):
    results, nan = load_results(trained[1] / PICKLE), np.nan
    for key, values in {"epochs": np.arange(7), "batch_size": [4] * 7,
                        "method": [2, 2, 2, 2, 0, 0, 1],                # entry 0: what was set at first
                        "learning_rate": [0.01] * 4 + [3e-4] * 2 + [0.01],
                        "truncation": [1e-5] * 4 + [nan] * 2 + [1e-5]}.items():
        assert_array_equal(results[key], values, err_msg=key)
    assert_array_equal(np.isnan(results["provenance"]["rank"]), [False] * 3 + [True] * 2 + [False])
    assert results["provenance"]["state"] == "finished" and results["provenance"]["updates_per_epoch"] == 1
    assert_allclose(results["epoch_time"], np.diff(results["simulation_time"]))
    assert (trained[1] / f"{NAME}_PARAMETERS.txt").read_text().startswith("optimizer: interactive\n")
    assert plot.main([str(trained[1] / PICKLE), "--output", str(tmp_path / "by_hand.png")]) == 0


def test_the_fields(trained):
    """y = Δx and the residual, with the stencil's matrix in float64; float32 values of order 10."""
    for source, entry, entries in (("held out", "7", 256), ("batch", "99", 4)):
        trained[0].set({"source": source, "entry": entry})
        view = trained[0].view()
        fields = {name: field.ravel().astype(float) for name, field in view["fields"].items()}
        assert (view["entry"], view["entries"]) == (min(int(entry), entries - 1), entries)
        assert_allclose(fields["y_target"], stencil(8) @ fields["x_gt"], atol=1e-4)
        assert_allclose(fields["y"], stencil(8) @ fields["x"], atol=1e-4)
        assert_allclose(fields["residual"], fields["y"] - fields["y_target"], atol=1e-5)
    assert_array_equal(view["fields"]["x_gt"].ravel(), trained[0].batch[0][3])


@pytest.mark.parametrize("key, text", [
    ("batch_size", "0"), ("batch_size", "1025"), ("batch_size", "2.5"), ("adam_rate", "0"), ("entry", "-1"),
    ("adam_rate", "much"), ("power_rate", "nan"), ("power_rate", "inf"), ("truncation", "1")])
def test_bad_settings(trained, key, text):
    before = dict(trained[0].settings)
    assert not trained[0].set({key: text}) and trained[0].settings == before
    assert trained[0].error.startswith(f"{key.replace('_', ' ')}: '{text}' is not a ")


def test_reset_weights_and_earlier_curves(fresh, tmp_path, monkeypatch):
    """Resetting leads back to the same losses; saved weights continue where they were; no curve is
    overwritten, and a long one is halved."""
    (tmp_path / PICKLE).write_bytes(b"of another day")
    for _ in range(3):
        fresh.step()
    assert (tmp_path / PICKLE).read_bytes() == b"of another day"        # until it is saved
    fresh.save()
    first = load_results(tmp_path / PICKLE)
    assert [path.read_bytes() for path in tmp_path.glob(f"{NAME}_RESULTS_*.pickle")] == [b"of another day"]
    weights = fresh.network.get_weights()
    names = [fresh.save_weights(), fresh.save_weights()]
    assert names == [f"{NAME}_3.weights.h5", f"{NAME}_3-2.weights.h5"] == fresh.weights_files()[::-1]

    fresh.reset()
    assert fresh.updates == 0 and load_results(tmp_path / PICKLE)["provenance"]["state"] == "finished"
    for _ in range(3):
        fresh.step()
    fresh.save()
    again = load_results(tmp_path / PICKLE)
    assert_allclose(again["train_loss"], first["train_loss"], rtol=1e-5)            # Adam, too, began anew
    assert_array_equal(load_results(fresh.kept)["train_loss"], first["train_loss"])
    assert len(list(tmp_path.glob(f"{NAME}_RESULTS_*.pickle"))) == 2
    monkeypatch.setattr(module, "MAX_ENTRIES", 8)
    for _ in range(6):
        fresh.step()
    fresh.finish()
    assert_array_equal(load_results(tmp_path / PICKLE)["epochs"], [0, 2, 4, 6, 8, 9])

    fresh.load_weights(names[0])
    (tmp_path / "damaged.weights.h5").write_bytes(b"no HDF5")
    for name in ("damaged.weights.h5", "missing.weights.h5"):
        with pytest.raises(SettingsError, match="cannot load"):
            fresh.load_weights(name)
    for one, other in zip(fresh.network.get_weights(), weights):
        assert_array_equal(one, other)


# ------------------------------------------------------------------------------------------------- the thread

def updates_of(training):
    return int(training.shown["status"].split(" updates")[0].split()[-1])


def test_the_thread(fresh, tmp_path, monkeypatch, capfd):
    """It plays until it is paused, whatever is typed. What goes wrong becomes a sentence, and it goes on: an
    exception, or a divergence, after which it waits to be reset. The page answers during an update."""
    fresh.start()
    fresh.commands.put(["play"])
    wait_for(lambda: updates_of(fresh) > 2, "updates")
    assert not fresh.set({"truncation": "2"})
    done = wait_for(lambda: "truncation" in fresh.shown["error"] and updates_of(fresh), "the sentence")
    wait_for(lambda: updates_of(fresh) > done, "it plays on")
    fresh.commands.put(["pause"])
    wait_for(lambda: not fresh.shown["playing"], "a pause")
    paused = updates_of(fresh)
    assert not fresh.shown["error"] and load_results(tmp_path / PICKLE)["provenance"]["state"] == "finished"

    with monkeypatch.context() as patch:
        def failing(*arguments, **more):
            raise np.linalg.LinAlgError("Eigenvalues did not converge")
        patch.setattr(fresh.models["Adam"], "train_on_batch", failing)
        fresh.commands.put(["play"])
        wait_for(lambda: fresh.shown["error"] == "LinAlgError: Eigenvalues did not converge", "the sentence")
        assert not fresh.shown["playing"] and len(load_results(tmp_path / PICKLE)["epochs"]) == paused + 1
    with monkeypatch.context() as patch:
        waiting = threading.Event()
        patch.setattr(fresh.models["Adam"], "train_on_batch",
                      lambda *_, **__: waiting.wait(60) and {"loss": 1.0, "x_distance_l1": 1.0})
        client = by_hand_app(fresh).server.test_client()
        fresh.commands.put(["step"])
        wait_for(lambda: "computing" in fresh.shown["status"], "an update that takes long")
        assert client.get("/_dash-layout", headers={"Host": "127.0.0.1"}).status_code == 200
        waiting.set()
        wait_for(lambda: updates_of(fresh) == paused + 1 and not fresh.shown["error"], "its end")

    assert fresh.set({"adam_rate": "1e30"})
    fresh.commands.put(["play"])
    wait_for(lambda: fresh.shown["diverged"], "the divergence")
    assert "smaller η" in fresh.shown["error"] and not fresh.shown["playing"]
    assert load_results(tmp_path / PICKLE)["provenance"]["state"] == "diverged"
    fresh.set({"adam_rate": "1e-3"})
    for command in ("step", "reset", "step"):
        fresh.commands.put([command])
    wait_for(lambda: updates_of(fresh) == 1 and not fresh.shown["diverged"], "a new start")
    fresh.end()
    assert not fresh.is_alive() and load_results(tmp_path / PICKLE)["provenance"]["state"] == "finished"


def test_two_trainings_do_not_share_a_pickle(tmp_path, capsys):
    with locked(tmp_path / NAME), pytest.raises(SystemExit) as end:
        dashboard.main(["--interactive", "Poisson", str(tmp_path), "--port", "0"])
    assert end.value.code == 2 and "is writing" in capsys.readouterr().err


# ----------------------------------------------------------------------------- in a browser

def updates(browser):
    return int(text(browser, "#status").split(" updates")[0].split()[-1])


@pytest.fixture
def server(tmp_path):
    """A process of dashboard.py, and its folder, which it makes. Ctrl-C keeps the curve."""
    folder = tmp_path / "by_hand"
    process = serve("--interactive", "Poisson", folder)
    yield process, folder
    assert stop(process) == 0
    (run,) = read_runs(folder / PICKLE)
    assert state_of(run) == "finished" and run.results["epochs"][-1] > 3


def test_the_page(browser, server, visit):
    """Ten updates of HIG lower the loss; settings, weights, resetting."""
    process, folder = server
    visit(process.url)
    until(browser, lambda: updates(browser) == 0, "the training is ready")
    fits(browser, 1400)
    fits(browser, 420)
    set_text(browser, "batch_size", "9")
    set_text(browser, "power_rate", "0.3")
    click(browser, "#step")
    until(browser, lambda: updates(browser) == 1, "a single step")
    click(browser, "#play")
    until(browser, lambda: updates(browser) >= 10, "ten updates")
    click(browser, "#pause")
    until(browser, lambda: "paused" in text(browser, "#status"), "a pause")
    results = load_results(folder / PICKLE)
    for key, value in (("method", 2), ("batch_size", 9), ("learning_rate", 0.3)):
        assert set(results[key][1:]) == {value}
    assert results["test_loss"][10] < 0.9 * results["test_loss"][0]     # of 256 held-out fields
    curve = "[...g._fullData.filter(t => t.mode == 'lines')[0].y]"
    until(browser, lambda: graph(browser, "curves", curve) == list(results["train_loss"]), "the whole curve")
    z = graph(browser, "picture_x_gt", "g._fullData[0].z.map(row => [...row])")
    assert np.shape(z) == (8, 8) and np.ptp(z) > 0

    click(browser, "#method label", "Adam")
    set_text(browser, "truncation", "2")
    until(browser, lambda: "1e-05 stays" in text(browser, "#error"), "the sentence about the setting")
    set_text(browser, "truncation", "1e-4")
    before = updates(browser)
    click(browser, "#play")
    until(browser, lambda: updates(browser) > before, "Adam trains")
    browser.refresh()                                               # loading it again is not closing it
    until(browser, lambda: browser.find_element(By.ID, "pause").is_enabled(), "it is still training")
    assert browser.find_element(By.CSS_SELECTOR, "#method input:checked").get_attribute("value") == "Adam"
    click(browser, "#pause")
    until(browser, lambda: "paused" in text(browser, "#status"), "a pause")
    click(browser, "#save_weights")
    wait_for(lambda: (folder / f"{NAME}_{updates(browser)}.weights.h5").is_file(), "saved weights")
    (folder / "damaged.weights.h5").write_bytes(b"no HDF5")
    click(browser, "#reset")
    until(browser, lambda: updates(browser) == 0, "a new start")
    click(browser, "#load_weights")
    click(browser, ".dash-dropdown-option", "damaged.weights.h5")
    until(browser, lambda: "cannot load the weights" in text(browser, "#error"), "a sentence about the file")
    click(browser, "#play")
    until(browser, lambda: updates(browser) > 3 and not text(browser, "#error"), "it goes on")
    until(browser, lambda: "(2" in text(browser, "#case"), "the curve before the reset stays to be compared")
