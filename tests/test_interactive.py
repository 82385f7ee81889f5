"""Poisson by hand: the trainer against the submit script's training, its files, its thread, and the page in a
browser.
"""

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
from hig.runs.cli import parse
from hig.runs.locks import locked
from hig.runs.results import load_results
from hig.runs.training import SettingsError
from Poisson import experiment
from Poisson.interactive import trainer as module
from Poisson.interactive.page import SETTINGS, by_hand_app
from Poisson.interactive.trainer import NAME, Trainer, Training
from tests.browser import (browser, click, graph, no_overflow, serve,  # noqa: F401
                           set_text, stop, text, until, visit, wait_for)
from tests.test_poisson import stencil

PICKLE = f"{NAME}_RESULTS.pickle"
SMALL = {**SETTINGS, "batch_size": 1, "method": "Adam"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trainer and its folder: three updates of HIG with 4 fields, two of Adam, one of GN, saved in between.
    """
    folder = tmp_path_factory.mktemp("by_hand")
    trainer = Trainer(folder, {**SETTINGS, "batch_size": 4})
    for method, count in (("HIG", 3), ("Adam", 2), ("GN", 1)):
        trainer.set("method", method)
        for _ in range(count):
            trainer.step()
        trainer.save()
    trainer.finish()
    return trainer, folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A trainer by Adam, for tests that start from a folder of their own by `fresh`."""
    return Trainer(tmp_path_factory.mktemp("shared"), SMALL)


@pytest.fixture
def fresh(shared, tmp_path):
    """The same as it was made, writing into tmp_path."""
    shared.settings = dict(SMALL)
    shared.reset()
    shared.output, shared.kept = tmp_path, None
    return shared


def test_the_updates_are_those_of_the_submit_script(trained, tmp_path):
    """The same weights, fields and optimizer, so the same losses: float32, through the same compiled update.
    """
    settings = parse("Poisson", "HIG", None, seed=0, batch_size=4, learning_rate=SETTINGS["power_rate"],
                     truncation=SETTINGS["truncation"], max_time=1e9, flags=Poisson.flags,
                     arguments=["--steps", "4", "--output", str(tmp_path), "--quiet"])
    experiment.run(settings)
    by_hand, run = load_results(trained[1] / PICKLE), load_results(tmp_path / "POISSON_HIG_RESULTS.pickle")
    # entry 4 is the loss before update 4
    assert_allclose(by_hand["train_loss"][:5], run["train_loss"][:5], rtol=1e-5)
    assert_allclose(by_hand["test_loss"][0], run["test_loss"][0], rtol=1e-6)
    assert_allclose(by_hand["x_distance_l1"][:5], run["x_distance_l1"][:5], rtol=1e-5)
    assert_array_equal(by_hand["provenance"]["rank"][:3], run["provenance"]["rank"][:3])


def test_the_pickle_tells_what_each_update_was_made_with(trained, tmp_path):
    results = load_results(trained[1] / PICKLE)
    assert_array_equal(results["epochs"], np.arange(7))
    assert_array_equal(results["method"], [2, 2, 2, 2, 0, 0, 1])        # entry 0: what was set at first
    assert_array_equal(results["batch_size"], [4] * 7)
    assert_array_equal(results["learning_rate"], [0.01] * 4 + [3e-4] * 2 + [0.01])
    assert_array_equal(results["truncation"], [1e-5] * 4 + [np.nan] * 2 + [1e-5])
    assert_array_equal(np.isnan(results["provenance"]["rank"]), [False] * 3 + [True] * 2 + [False])
    assert results["provenance"]["state"] == "finished" and results["provenance"]["updates_per_epoch"] == 1
    assert_allclose(results["epoch_time"], np.diff(results["simulation_time"]))
    assert (trained[1] / f"{NAME}_PARAMETERS.txt").read_text().startswith("optimizer: interactive\n")
    assert plot.main([str(trained[1] / PICKLE), "--output", str(tmp_path / "by_hand.png")]) == 0


def test_the_fields(trained):
    """y = Δx and the residual, with the stencil's matrix in float64; float32 values of order 10."""
    trainer, _ = trained
    for source, entry, entries in (("held out", 7, 256), ("batch", 99, 4)):
        trainer.set("source", source)
        trainer.set("entry", entry)
        view = trainer.view()
        fields = {name: field.ravel().astype(float) for name, field in view["fields"].items()}
        assert (view["entry"], view["entries"]) == (min(entry, entries - 1), entries)
        assert_allclose(fields["y_target"], stencil(8) @ fields["x_gt"], atol=1e-4)
        assert_allclose(fields["y"], stencil(8) @ fields["x"], atol=1e-4)
        assert_allclose(fields["residual"], fields["y"] - fields["y_target"], atol=1e-5)
    assert_array_equal(view["fields"]["x_gt"].ravel(), trainer.batch[0][3])


@pytest.mark.parametrize("key, value", [
    ("method", "SGD"), ("batch_size", 0), ("batch_size", 1025), ("batch_size", 2.5), ("adam_rate", 0),
    ("adam_rate", "much"),
    ("power_rate", -1), ("power_rate", "nan"), ("power_rate", "inf"), ("truncation", 1), ("truncation", None),
    ("entry", -1), ("source", "/etc")])
def test_bad_settings(trained, key, value):
    before = dict(trained[0].settings)
    with pytest.raises(ValueError, match=str(value)):
        trained[0].set(key, value)
    assert trained[0].settings == before


def test_reset_weights_and_earlier_curves(fresh, tmp_path):
    """Resetting leads back to the same losses; saved weights continue where they were; no curve is
    overwritten.
    """
    (tmp_path / PICKLE).write_bytes(b"of another day")
    for _ in range(3):
        fresh.step()
    assert (tmp_path / PICKLE).read_bytes() == b"of another day"        # until it is saved
    fresh.save()
    first = load_results(tmp_path / PICKLE)
    assert [path.read_bytes() for path in tmp_path.glob(f"{NAME}_RESULTS_*.pickle")] == [b"of another day"]
    weights = fresh.network.get_weights()
    names = [fresh.save_weights(), fresh.save_weights()]
    assert names == [f"{NAME}_3.weights.h5", f"{NAME}_3-2.weights.h5"] == sorted(fresh.weights_files(),
                                                                                 reverse=True)

    fresh.reset()
    assert fresh.updates == 0 and load_results(tmp_path / PICKLE)["provenance"]["state"] == "finished"
    for _ in range(3):
        fresh.step()
    fresh.finish()
    # Adam, too, began anew
    assert_allclose(load_results(tmp_path / PICKLE)["train_loss"], first["train_loss"], rtol=1e-5)
    assert_array_equal(load_results(fresh.kept)["train_loss"], first["train_loss"])
    assert len(list(tmp_path.glob(f"{NAME}_RESULTS_*.pickle"))) == 2

    fresh.reset()
    fresh.load_weights(names[0])
    (tmp_path / "damaged.weights.h5").write_bytes(b"no HDF5")
    for name in ("damaged.weights.h5", "missing.weights.h5", "../outside.weights.h5",
                 str(tmp_path / names[0])):
        with pytest.raises(SettingsError):
            fresh.load_weights(name)
    for one, other in zip(fresh.network.get_weights(), weights):
        assert_array_equal(one, other)


def test_a_long_curve_is_halved_and_can_be_saved(fresh, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_ENTRIES", 8)
    for _ in range(9):
        fresh.step()
    fresh.finish()
    assert_array_equal(load_results(tmp_path / PICKLE)["epochs"], [0, 2, 4, 6, 8, 9])


# ------------------------------------------------------------------------------------------------- the thread

@pytest.fixture
def training(fresh):
    """The thread, started; in the end it ends and leaves a finished or diverged curve."""
    training = Training(fresh)
    training.start()
    yield training
    training.end()
    assert not training.is_alive()
    if fresh.updates:
        assert load_results(fresh.output / PICKLE)["provenance"]["state"] in ("finished", "diverged")


def updates_of(training):
    return int(training.state["status"].split(" updates")[0].split()[-1])


def test_it_plays_until_it_is_paused_or_the_page_is_closed(training, monkeypatch):
    """A typo neither pauses nor changes the setting."""
    training.send("play")
    wait_for(lambda: updates_of(training) > 2, "updates")
    assert not training.set({"truncation": "2"}) and training.trainer.settings["truncation"] == SETTINGS[
        "truncation"]
    done = wait_for(lambda: training.state["error"] and updates_of(training), "the sentence")
    wait_for(lambda: updates_of(training) > done, "it plays on")
    assert training.state["playing"] and "truncation" in training.state["error"]
    training.send("pause")
    wait_for(lambda: not training.state["playing"], "a pause")
    assert not training.state["error"] and load_results(training.trainer.output / PICKLE)["provenance"][
        "state"] == "finished"
    training.send("play")
    monkeypatch.setattr(module, "CLOSED_AFTER", -1.0)
    training.look()
    wait_for(lambda: not training.state["playing"], "a pause, as nobody looks")


def test_an_exception_becomes_a_sentence_and_the_training_goes_on(training, monkeypatch, capfd):
    train, calls = training.trainer.models["Adam"].train_on_batch, []

    def failing(*arguments, **more):
        calls.append(1)
        if len(calls) == 4:
            raise np.linalg.LinAlgError("Eigenvalues did not converge")
        return train(*arguments, **more)
    monkeypatch.setattr(training.trainer.models["Adam"], "train_on_batch", failing)
    training.send("play")
    wait_for(lambda: training.state["error"] == "LinAlgError: Eigenvalues did not converge", "the sentence")
    assert not training.state["playing"] and len(load_results(training.trainer.output /
                                                              PICKLE)["epochs"]) == 4
    training.send("step")
    wait_for(lambda: updates_of(training) == 4 and not training.state["error"], "it goes on")


def test_a_diverged_training_says_what_to_do_and_stops_until_it_is_reset(training):
    assert training.set({"adam_rate": "1e30"})
    training.send("play")
    wait_for(lambda: training.state["state"] == "diverged", "the divergence")
    assert "smaller η" in training.state["error"] and not training.state["playing"]
    with pytest.raises(SettingsError, match="Reset"):
        training.trainer.step()
    training.set({"adam_rate": "1e-3"})
    for command in ("reset", "step"):
        training.send(command)
    wait_for(lambda: updates_of(training) == 1 and training.state["state"] == "running", "a new start")


def test_the_page_answers_while_an_update_is_computed(training, monkeypatch):
    waiting = threading.Event()
    monkeypatch.setattr(training.trainer.models["Adam"], "train_on_batch",
                        lambda *_, **__: waiting.wait(60) and {"loss": 1.0, "x_distance_l1": 1.0})
    client = by_hand_app(training).server.test_client()
    training.send("step")
    wait_for(lambda: "comp" in training.state["status"], "an update that takes long")
    assert client.get("/_dash-layout", headers={"Host": "127.0.0.1"}).status_code == 200
    waiting.set()
    wait_for(lambda: updates_of(training) == 1, "its end")


def test_two_trainings_do_not_share_a_pickle(tmp_path, capsys):
    with locked(tmp_path / NAME), pytest.raises(SystemExit) as end:
        dashboard.main(["--interactive", "Poisson", str(tmp_path), "--port", "0"])
    assert end.value.code == 2 and "is writing" in capsys.readouterr().err


# ----------------------------------------------------------------------------- in a browser

@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A process of dashboard.py for all tests, and its folder."""
    folder = tmp_path_factory.mktemp("trained") / "by_hand"             # is made
    process = serve("--interactive", "Poisson", folder, cwd=folder.parent)
    yield process, folder
    stop(process)


def updates(browser):
    return int(text(browser, "#status").split(" updates")[0].split()[-1])


def test_ten_hig_steps_and_the_loss_falls(browser, visit, server):
    process, folder = server
    visit(process.url)
    until(browser, lambda: updates(browser) == 0, "the training is ready")
    assert no_overflow(browser, 1400) and no_overflow(browser, 420)
    set_text(browser, "batch_size", "9")
    set_text(browser, "power_rate", "0.3")
    click(browser, "#step")
    until(browser, lambda: updates(browser) == 1, "a single step")
    click(browser, "#play")
    until(browser, lambda: updates(browser) >= 10, "ten updates")
    click(browser, "#pause")
    until(browser, lambda: "paused" in text(browser, "#status"), "a pause")
    done, results = updates(browser), load_results(folder / PICKLE)
    assert len(results["epochs"]) == done + 1 and set(results["method"]) == {2} and set(results["batch_size"][
        1:]) == {9}
    assert set(results["learning_rate"][1:]) == {0.3} and results["provenance"]["rank"].min() > 0
    assert results["test_loss"][10] < 0.9 * results["test_loss"][0]     # of 256 held-out fields
    curve = "[...g._fullData.filter(t => t.mode == 'lines')[0].y]"
    until(browser, lambda: len(graph(browser, "curves", curve)) == done + 1, "the whole curve is drawn")
    assert_array_equal(graph(browser, "curves", curve), results["train_loss"])
    z = graph(browser, "picture_x_gt", "g._fullData[0].z.map(row => [...row])")
    assert np.shape(z) == (8, 8) and np.ptp(z) > 0


def test_settings_weights_and_resetting_on_the_page(browser, visit, server):
    process, folder = server
    visit(process.url)
    click(browser, "#method label", "Adam")
    before = until(browser, lambda: updates(browser), "the page shows the training")
    set_text(browser, "truncation", "2")
    until(browser, lambda: "truncation" in text(browser, "#error"), "the sentence about the setting")
    until(browser, lambda: browser.find_element(By.ID, "truncation").get_attribute("value") == "1e-05",
          "the former value")
    click(browser, "#play")
    until(browser, lambda: updates(browser) > before, "Adam trains")
    browser.refresh()                                                   # loading it again is not closing it
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
    until(browser, lambda: "cannot load the weights" in text(browser, "#error"),
          "the sentence about the damaged file")
    click(browser, "#step")
    until(browser, lambda: updates(browser) == 1 and not text(browser, "#error"), "it goes on")
    until(browser, lambda: "(2" in text(browser, "#case"), "the curve before the reset stays to be compared")


def test_ctrl_c_keeps_the_curve(browser, server):
    process, folder = server
    browser.get(process.url)
    click(browser, "#play")
    until(browser, lambda: updates(browser) > 3, "updates")
    done = updates(browser)
    browser.get("about:blank")  # a page without server writes to the console
    assert stop(process) == 0
    (run,) = read_runs(folder / PICKLE)
    assert state_of(run) == "finished" and run.results["epochs"][-1] >= done
