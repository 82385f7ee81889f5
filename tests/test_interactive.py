"""Poisson by hand: the trainer against the submit script's training, its files, its process, and the page in a browser."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import plot
import Poisson
from hig.runs.cli import parse
from hig.figures.curves import state_of
from hig.figures.reading import read_runs
from hig.runs.locks import locked
from hig.runs.results import load_results
from hig.runs.training import SettingsError
from Poisson import experiment
from Poisson.interactive.trainer import NAME, Trainer, work
from Poisson.interactive.page import SETTINGS
from tests.browser import browser, click, graph, no_overflow, page, stop, text, until, wait_for  # noqa: F401
from tests.test_poisson import stencil

PICKLE = f"{NAME}_RESULTS.pickle"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trainer and its folder: three updates of HIG with 4 fields, two of Adam, one of GN, saved in between."""
    folder = tmp_path_factory.mktemp("by_hand")
    trainer = Trainer(folder, {**SETTINGS, "batch_size": 4})
    for method, count in (("HIG", 3), ("Adam", 2), ("GN", 1)):
        trainer.set("method", method)
        for _ in range(count):
            trainer.step()
        trainer.save()
    trainer.finish()
    return trainer, folder


def submitted(folder, optimizer, steps):
    """The curve of a submit script with 4 fields."""
    settings = parse("Poisson", optimizer, None, seed=0, batch_size=4,
                     learning_rate=SETTINGS["adam_rate" if optimizer == "Adam" else "power_rate"],
                     truncation=None if optimizer == "Adam" else SETTINGS["truncation"], max_time=1e9, flags=Poisson.flags,
                     arguments=["--steps", str(steps), "--output", str(folder), "--quiet"])
    experiment.run(settings)
    return load_results(folder / f"POISSON_{optimizer}_RESULTS.pickle")


def test_the_updates_are_those_of_the_submit_script(trained, tmp_path):
    """The same weights, fields and optimizer, so the same losses: float32, through the same compiled update."""
    by_hand, run = load_results(trained[1] / PICKLE), submitted(tmp_path, "HIG", 4)
    assert_allclose(by_hand["train_loss"][:5], run["train_loss"][:5], rtol=1e-5)  # entry 4 is the loss before update 4
    assert_allclose(by_hand["test_loss"][0], run["test_loss"][0], rtol=1e-6)
    assert_allclose(by_hand["x_distance_l1"][:5], run["x_distance_l1"][:5], rtol=1e-5)
    assert_array_equal(by_hand["provenance"]["rank"][:3], run["provenance"]["rank"][:3])


def test_the_pickle_tells_what_each_update_was_made_with(trained):
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


def test_plot_draws_it(trained, tmp_path):
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
    x_gt = trainer.batch[0][3]
    assert_array_equal(view["fields"]["x_gt"].ravel(), x_gt)


@pytest.mark.parametrize("key, value", [
    ("method", "SGD"), ("batch_size", 0), ("batch_size", 1025), ("batch_size", 2.5), ("adam_rate", 0), ("adam_rate", "much"),
    ("power_rate", -1), ("power_rate", "nan"), ("power_rate", "inf"), ("truncation", 1), ("truncation", None),
    ("entry", -1), ("source", "/etc"), ("seed", 1)])
def test_bad_settings(trained, key, value):
    before = dict(trained[0].settings)
    with pytest.raises(ValueError, match=str(value) if key != "seed" else "seed"):
        trained[0].set(key, value)
    assert trained[0].settings == before


def test_reset_weights_and_earlier_curves(tmp_path):
    """Resetting leads back to the same losses; saved weights continue where they were; no curve is overwritten."""
    (tmp_path / PICKLE).write_bytes(b"of another day")
    trainer = Trainer(tmp_path, {**SETTINGS, "batch_size": 1, "method": "Adam", "adam_rate": "1e-2"})
    assert (tmp_path / PICKLE).read_bytes() == b"of another day"        # until there is something to write
    for _ in range(3):
        trainer.step()
    trainer.save()
    first = load_results(tmp_path / PICKLE)
    assert [path.read_bytes() for path in tmp_path.glob(f"{NAME}_RESULTS_*.pickle")] == [b"of another day"]
    weights = trainer.network.get_weights()
    names = [trainer.save_weights(), trainer.save_weights()]
    assert names == [f"{NAME}_3.weights.h5", f"{NAME}_3-2.weights.h5"] == sorted(trainer.weights_files(), reverse=True)

    trainer.reset()
    assert trainer.updates == 0 and load_results(tmp_path / PICKLE)["provenance"]["state"] == "finished"
    for _ in range(3):
        trainer.step()
    trainer.finish()
    assert_allclose(load_results(tmp_path / PICKLE)["train_loss"], first["train_loss"], rtol=1e-5)  # Adam, too, began anew
    assert len(list(tmp_path.glob(f"{NAME}_RESULTS_*.pickle"))) == 2

    trainer.reset()
    trainer.load_weights(names[0])
    for one, other in zip(trainer.network.get_weights(), weights):
        assert_array_equal(one, other)
    (tmp_path / "damaged.weights.h5").write_bytes(b"no HDF5")
    for name in ("damaged.weights.h5", "missing.weights.h5", "../outside.weights.h5", str(tmp_path / names[0])):
        with pytest.raises(SettingsError):
            trainer.load_weights(name)
    for one, other in zip(trainer.network.get_weights(), weights):
        assert_array_equal(one, other)


def test_a_diverged_training_stops_until_it_is_reset(tmp_path):
    trainer = Trainer(tmp_path, {**SETTINGS, "batch_size": 1, "method": "Adam"})
    trainer.network.set_weights([np.full_like(w, np.nan) for w in trainer.network.get_weights()])
    trainer.step()
    assert trainer.state == "diverged"
    with pytest.raises(SettingsError, match="Reset"):
        trainer.step()
    trainer.finish()
    assert load_results(tmp_path / PICKLE)["provenance"]["state"] == "diverged"
    trainer.reset()
    trainer.step()
    assert trainer.state == "running" and np.isfinite(trainer.curve["train_loss"]).all()


def test_the_curve_before_a_reset_stays_to_be_compared(tmp_path):
    trainer = Trainer(tmp_path / "new" / "folder", {**SETTINGS, "batch_size": 1, "method": "Adam"})     # it is made
    assert trainer.view()["before"] is None
    for _ in range(3):
        trainer.step()
    curve = trainer.view()["curve"]
    trainer.reset()
    assert len(trainer.view()["curve"]["epochs"]) == 1
    assert_array_equal(trainer.view()["before"]["train_loss"], curve["train_loss"])
    assert len(curve["simulation_time"]) == 4 and np.all(np.diff(curve["simulation_time"]) > 0)


def test_a_long_curve_is_halved_and_can_be_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("Poisson.interactive.trainer.MAX_ENTRIES", 8)
    trainer = Trainer(tmp_path, {**SETTINGS, "batch_size": 1, "method": "Adam"})
    for _ in range(9):
        trainer.step()
    trainer.finish()
    assert_array_equal(load_results(tmp_path / PICKLE)["epochs"], [0, 2, 4, 6, 8, 9])


# ------------------------------------------------------------------------------------------------- the process

class Pipe:
    """One end of a pipe that plays these commands and then is closed; `sent` are the states."""

    def __init__(self, *commands):
        self.commands, self.sent = list(commands), []

    def recv(self):
        if not self.commands:
            raise EOFError
        return self.commands.pop(0)

    def poll(self):
        return True

    def send(self, state):
        self.sent.append(state)


def test_commands_and_a_server_that_vanishes(tmp_path):
    pipe = Pipe(("set", "method", "Adam"), ("step",), ("set", "adam_rate", "0"), ("step",), ("pause",))
    work(pipe, tmp_path, {**SETTINGS, "batch_size": 1})
    assert [state["updates"] for state in pipe.sent if not state["busy"]] == [0, 0, 1, 1, 2, 2]
    assert [bool(state["error"]) for state in pipe.sent if not state["busy"]] == [False] * 3 + [True] + [False] * 2
    assert any("learning rate is 0" in state["error"] for state in pipe.sent)
    assert load_results(tmp_path / PICKLE)["provenance"]["state"] == "finished"  # although nobody said so


def test_an_exception_is_sent_and_the_training_goes_on(tmp_path, monkeypatch):
    step, calls = Trainer.step, []

    def failing(trainer):
        calls.append(1)
        if len(calls) == 2:
            raise np.linalg.LinAlgError("did not converge")
        step(trainer)
    monkeypatch.setattr(Trainer, "step", failing)
    pipe = Pipe(("set", "method", "Adam"), ("step",), ("step",), ("step",))
    work(pipe, tmp_path, {**SETTINGS, "batch_size": 1})
    states = [state for state in pipe.sent if not state["busy"]]
    assert [state["error"] for state in states] == ["", "", "", "LinAlgError: did not converge", ""]
    assert states[-1]["updates"] == 2


def test_a_typo_neither_pauses_nor_prints(tmp_path, capfd):
    """The setting stays as it was, the page is told that one was refused, and the training plays on."""
    class Playing(Pipe):
        def poll(self):
            return sum(state["updates"] for state in self.sent[-1:]) >= 2 or self.commands[:1] == [("set", "truncation", "2")]
    pipe = Playing(("set", "method", "Adam"), ("play",), ("set", "truncation", "2"), ("pause",))
    work(pipe, tmp_path, {**SETTINGS, "batch_size": 1})
    refused = next(state for state in pipe.sent if state["error"])
    assert refused["playing"] and refused["refused"] == 1 and "truncation" in refused["error"]
    assert refused["settings"]["truncation"] == SETTINGS["truncation"]
    assert pipe.sent[-1]["updates"] >= 2 and "Traceback" not in capfd.readouterr().err


def test_divergence_says_what_to_do(tmp_path):
    pipe = Pipe(("set", "method", "Adam"), ("set", "adam_rate", "1e30"), ("step",), ("step",))
    work(pipe, tmp_path, {**SETTINGS, "batch_size": 1})
    assert "smaller η" in pipe.sent[-1]["error"] and any(state["busy"].startswith("comp") for state in pipe.sent)


def test_two_trainings_do_not_share_a_pickle(tmp_path):
    pipe = Pipe()
    with locked(tmp_path / NAME), pytest.raises(SystemExit, match="is writing"):
        work(pipe, tmp_path, SETTINGS)
    assert "is writing" in pipe.sent[-1]["error"]


# ------------------------------------------------------------------------------------------------- in a browser

def ready(browser):
    until(browser, lambda: browser.find_element(By.ID, "play").is_enabled(), "the training is ready")


def updates(browser):
    return int(text(browser, "#status").split(" updates")[0].split()[-1])


def set_text(browser, name, value):
    field = browser.find_element(By.ID, name)
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(value, Keys.ENTER)


def children(process):
    """Numbers of the processes that a process has started, of those that train."""
    found = []
    for folder in os.listdir("/proc"):
        if folder.isdigit():
            try:
                status = Path(f"/proc/{folder}/stat").read_text().rsplit(")", 1)[1].split()
                line = Path(f"/proc/{folder}/cmdline").read_text()
            except OSError:
                continue
            if int(status[1]) == process.pid and "spawn_main" in line:
                found.append(int(folder))
    return found


def test_ten_hig_steps_and_the_loss_falls(browser, page, tmp_path):
    process = page("--interactive", "Poisson", tmp_path)
    ready(browser)
    assert browser.find_element(By.ID, "batch_size").get_attribute("value") == "16"
    set_text(browser, "batch_size", "9")
    set_text(browser, "power_rate", "0.3")
    for done in range(3):
        click(browser, "#step")
        until(browser, lambda: updates(browser) == done + 1, "a single step")
    click(browser, "#play")
    until(browser, lambda: updates(browser) >= 10, "ten updates")
    click(browser, "#pause")
    until(browser, lambda: "paused" in text(browser, "#status"), "a pause")
    done = updates(browser)
    results = load_results(tmp_path / PICKLE)
    assert len(results["epochs"]) == done + 1 and set(results["method"]) == {2} and set(results["batch_size"][1:]) == {9}
    assert set(results["learning_rate"][1:]) == {0.3}
    assert results["test_loss"][10] < 0.9 * results["test_loss"][0]     # of 256 held-out fields
    assert results["provenance"]["rank"].min() > 0
    shown = "g._fullData.filter(t => t.name == '{}')[0].y"
    assert len(graph(browser, "losses", "[..." + shown.format("training loss, HIG") + "]")) == done + 1
    rank = graph(browser, "losses", "[..." + shown.format("rank kept") + "]")
    assert_array_equal(rank[1:], results["provenance"]["rank"])
    z = graph(browser, "picture_x_gt", "g._fullData[0].z.map(row => [...row])")
    assert np.shape(z) == (8, 8) and np.ptp(z) > 0
    assert state_of(read_runs(tmp_path / PICKLE)[0]) == "running"
    browser.get("about:blank")                                          # a page without server writes to the console
    assert stop(process) == 0
    assert state_of(read_runs(tmp_path / PICKLE)[0]) == "finished"


def test_closing_the_page_leaves_a_finished_pickle(browser, page, tmp_path):
    page("--interactive", "Poisson", tmp_path)
    ready(browser)
    click(browser, "#method label", "Adam")
    click(browser, "#play")
    until(browser, lambda: updates(browser) > 3, "updates")
    browser.refresh()                                                   # loading it again is not closing it
    until(browser, lambda: browser.find_element(By.ID, "pause").is_enabled(), "it is still training")
    assert browser.find_element(By.CSS_SELECTOR, "#method input:checked").get_attribute("value") == "Adam"
    browser.get("about:blank")
    wait_for(lambda: load_results(tmp_path / PICKLE)["provenance"]["state"] == "finished", "a finished pickle")
    length = len(load_results(tmp_path / PICKLE)["epochs"])
    time.sleep(2)
    assert len(load_results(tmp_path / PICKLE)["epochs"]) == length


def test_resetting_and_weights_on_the_page(browser, page, tmp_path):
    (tmp_path / "damaged.weights.h5").write_bytes(b"no HDF5")
    page("--interactive", "Poisson", tmp_path)
    ready(browser)
    click(browser, "#method label", "Adam")
    click(browser, "#step")
    until(browser, lambda: updates(browser) == 1, "a step")
    click(browser, "#save_weights")
    wait_for(lambda: (tmp_path / f"{NAME}_1.weights.h5").is_file(), "saved weights")
    click(browser, "#reset")
    until(browser, lambda: updates(browser) == 0, "a new start")
    click(browser, "#load_weights")
    click(browser, ".dash-dropdown-option", "damaged.weights.h5")
    until(browser, lambda: "cannot load the weights" in text(browser, "#error"), "the sentence about the damaged file")
    set_text(browser, "truncation", "2")
    until(browser, lambda: "truncation" in text(browser, "#error"), "the sentence about the setting")
    until(browser, lambda: browser.find_element(By.ID, "truncation").get_attribute("value") == "1e-05", "the former value")
    click(browser, "#step")
    until(browser, lambda: updates(browser) == 1 and not text(browser, "#error"), "it goes on")


def test_the_page_fits_its_window_and_shows_the_end_of_the_training_process(browser, page, tmp_path):
    process = page("--interactive", "Poisson", tmp_path)
    ready(browser)
    assert no_overflow(browser, 1400) and no_overflow(browser, 420)
    (child,) = children(process)
    os.kill(child, signal.SIGKILL)
    until(browser, lambda: "training process has ended (exit code -9)" in text(browser, "#error"), "its end is shown")
    assert not browser.find_element(By.ID, "play").is_enabled()
