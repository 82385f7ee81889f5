"""Poisson by hand: its updates against the submit script's training, its files, its thread, and the page."""

from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from selenium.webdriver.common.by import By

import dashboard
import plot
import Poisson
from hig.runs.cli import SettingsError, parse
from hig.runs.locks import locked
from hig.runs.results import load_results
from Poisson import experiment
from Poisson.interactive.page import SETTINGS
from Poisson.interactive.trainer import NAME, Training
from tests.browser import browser, click, graph, set_text, text, until, visit  # noqa: F401
from tests.test_poisson import stencil

PICKLE = f"{NAME}_RESULTS.pickle"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three updates of HIG with 4 fields, two of Adam, one of GN."""
    training = Training(tmp_path_factory.mktemp("by_hand"), {**SETTINGS, "batch_size": 4})
    for method, count in (("HIG", 3), ("Adam", 2), ("GN", 1)):
        training.set({"method": method})
        for _ in range(count):
            training.update()
    return training


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
    by_hand, run = map(load_results, (trained.output / PICKLE, tmp_path / "POISSON_HIG_RESULTS.pickle"))
    for key in ("train_loss", "x_distance_l1"):                         # entry 4 is the loss before update 4
        assert_allclose(by_hand[key][:5], run[key][:5], rtol=1e-5)
    assert_allclose(by_hand["test_loss"][0], run["test_loss"][0], rtol=1e-6)
    assert_array_equal(by_hand["provenance"]["rank"][:3], run["provenance"]["rank"][:3])


def test_the_pickle_tells_what_each_update_was_made_with(trained, tmp_path):
    results, nan = load_results(trained.output / PICKLE), np.nan
    for key, values in {"epochs": np.arange(7), "batch_size": [4] * 7,
                        "method": [2, 2, 2, 2, 0, 0, 1],                # entry 0: as of the first update
                        "learning_rate": [0.01] * 4 + [3e-4] * 2 + [0.01],
                        "truncation": [1e-5] * 4 + [nan] * 2 + [1e-5]}.items():
        assert_array_equal(results[key], values, err_msg=key)
    told = results["provenance"]
    assert_array_equal(np.isnan(told["rank"]), [False] * 3 + [True] * 2 + [False])
    assert (told["state"], told["updates_per_epoch"]) == ("finished", 1)
    assert (trained.output / f"{NAME}_PARAMETERS.txt").read_text().startswith("optimizer: interactive\n")
    assert plot.main([str(trained.output / PICKLE), "--output", str(tmp_path / "by_hand.png")]) == 0


def test_the_fields(trained):
    """y = Δx and the residual, with the stencil's matrix in float64; float32 values of order 10."""
    for source, entry in (("held out", "7"), ("batch", "99")):
        trained.set({"source": source, "entry": entry})
        fields = {name: field.ravel().astype(float) for name, field in trained.fields().items()}
        assert_allclose(fields["y_target"], stencil(8) @ fields["x_gt"], atol=1e-4)
        assert_allclose(fields["y"], stencil(8) @ fields["x"], atol=1e-4)
        assert_allclose(fields["residual"], fields["y"] - fields["y_target"], atol=1e-5)
    assert_array_equal(fields["x_gt"], trained.batch[0][3])             # the last of four


@pytest.mark.parametrize("key, text", [
    ("batch_size", "0"), ("batch_size", "2.5"), ("adam_rate", "0"), ("entry", "-1"), ("adam_rate", "much"),
    ("power_rate", "nan"), ("power_rate", "inf"), ("truncation", "1")])
def test_bad_settings(trained, key, text):
    before = dict(trained.settings)
    assert not trained.set({key: text}) and trained.settings == before
    assert trained.error.startswith(f"{key.replace('_', ' ')}: '{text}' is not a ")


def test_reset_weights_and_earlier_curves(fresh, tmp_path):
    """Resetting leads back to the same losses; saved weights continue where they were; no curve is lost."""
    (tmp_path / PICKLE).write_bytes(b"of another day")
    fresh.finish()
    assert (tmp_path / PICKLE).read_bytes() == b"of another day"        # until there is an update
    for _ in range(3):
        fresh.update()
    fresh.save_weights()
    (name,) = [path.name for path in tmp_path.glob("*.weights.h5")]
    weights = fresh.network.get_weights()
    fresh.restart()
    assert fresh.curve.epoch == 0 and load_results(tmp_path / PICKLE)["provenance"]["state"] == "finished"
    for _ in range(3):
        fresh.update()
    fresh.restart(name)
    kept = sorted(tmp_path.glob(f"{NAME}_RESULTS_*.pickle"))
    assert [path.read_bytes() == b"of another day" for path in kept] == [True, False]
    again, first = load_results(tmp_path / PICKLE), load_results(kept[1])
    assert_allclose(again["train_loss"], first["train_loss"], rtol=1e-5)            # Adam, too, began anew

    (tmp_path / "damaged.weights.h5").write_bytes(b"no HDF5")
    for name in ("damaged.weights.h5", "missing.weights.h5"):
        with pytest.raises(SettingsError, match="cannot load"):
            fresh.restart(name)
    for one, other in zip(fresh.network.get_weights(), weights):
        assert_array_equal(one, other)


def test_what_goes_wrong_becomes_a_sentence_and_it_goes_on(fresh, tmp_path, monkeypatch):
    """An exception, or a divergence, after which it waits to be reset; the curve up to there is kept."""
    def failing(*arguments, **more):
        raise np.linalg.LinAlgError("Eigenvalues did not converge")
    fresh.start()
    fresh.commands.put(partial(fresh.go, np.inf))
    until(lambda: fresh.curve.epoch > 2, "updates")
    with monkeypatch.context() as patch:
        patch.setattr(fresh.models["Adam"], "train_on_batch", failing)
        until(lambda: fresh.error == "LinAlgError: Eigenvalues did not converge", "the sentence")
    assert not fresh.left
    until(lambda: len(load_results(tmp_path / PICKLE)["epochs"]) == fresh.curve.epoch + 1, "the curve")
    assert fresh.set({"adam_rate": "1e30"})
    fresh.commands.put(partial(fresh.go, np.inf))
    until(lambda: "smaller η" in fresh.error and not fresh.left, "the divergence")
    until(lambda: load_results(tmp_path / PICKLE)["provenance"]["state"] == "diverged", "the curve")
    fresh.set({"adam_rate": "1e-3"})
    for command in (fresh.restart, partial(fresh.go, 1)):
        fresh.commands.put(command)
    until(lambda: fresh.curve.epoch == 1 and not fresh.error, "a new start")
    fresh.end()
    assert not fresh.is_alive() and load_results(tmp_path / PICKLE)["provenance"]["state"] == "finished"


def test_two_trainings_do_not_share_a_pickle(tmp_path, capsys):
    with locked(tmp_path / NAME), pytest.raises(SystemExit) as end:
        dashboard.main(["--interactive", "Poisson", str(tmp_path), "--port", "0"])
    assert end.value.code == 2 and "is writing" in capsys.readouterr().err


def test_the_page(browser, visit, tmp_path, monkeypatch):
    """Ten updates of HIG lower the loss; settings, weights, resetting. A server that ends keeps the curve."""
    folder = tmp_path / "by_hand"

    def updates():
        return int(text(browser, "#status").split(" updates")[0].split()[-1])

    def use(app, port):
        """In the place of the server, until Ctrl-C."""
        visit(app)
        until(lambda: updates() == 0, "the training is ready")
        for key, value in (("batch_size", "9"), ("power_rate", "0.3")):
            set_text(browser, key, value)
        click(browser, "#step")
        until(lambda: updates() == 1, "a single step")
        click(browser, "#play")
        until(lambda: updates() >= 10, "ten updates")
        click(browser, "#pause")
        until(lambda: "paused" in text(browser, "#status"), "a pause")
        results = load_results(folder / PICKLE)
        for key, value in (("method", 2), ("batch_size", 9), ("learning_rate", 0.3)):
            assert set(results[key]) == {value}
        assert results["test_loss"][10] < 0.9 * results["test_loss"][0]     # of 256 held-out fields
        curve = "[...g._fullData.filter(t => t.mode == 'lines')[0].y]"
        until(lambda: graph(browser, "curves", curve) == list(results["train_loss"]), "the whole curve")
        z = graph(browser, "picture_x_gt", "g._fullData[0].z.map(row => [...row])")
        assert np.shape(z) == (8, 8) and np.ptp(z) > 0

        click(browser, "#save")
        until(lambda: list(folder.glob(f"{NAME}_*.weights.h5")), "saved weights")
        (folder / "damaged.weights.h5").write_bytes(b"no HDF5")
        click(browser, "#reset")
        until(lambda: updates() == 0, "a new start")
        click(browser, "#weights")
        click(browser, ".dash-dropdown-option", "damaged.weights.h5")
        until(lambda: "cannot load the weights" in text(browser, "#error"), "a sentence about the file")
        set_text(browser, "truncation", "2")
        until(lambda: "1e-05 stays" in text(browser, "#error"), "the sentence about the setting")
        set_text(browser, "truncation", "1e-4")
        click(browser, "#play")
        until(lambda: updates() > 3 and not text(browser, "#error"), "it goes on")
        until(lambda: "(2" in text(browser, "#case"), "the curve before the reset stays to be compared")
        browser.refresh()                                               # loading it again is not closing it
        until(lambda: browser.find_element(By.ID, "pause").is_enabled(), "it is still training")
        assert browser.find_element(By.ID, "truncation").get_attribute("value") == "0.0001"
    monkeypatch.setattr(dashboard, "serve", use)
    assert dashboard.main(["--interactive", "Poisson", str(folder)]) == 0
    results = load_results(folder / PICKLE)
    assert results["provenance"]["state"] == "finished" and results["epochs"][-1] > 3
