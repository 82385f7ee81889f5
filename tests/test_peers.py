"""The submit scripts of today's optimizers: they run and resume, and L-BFGS is SciPy's."""

import signal
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import scipy.optimize

import hig
from hig.runs.experiments import make_optimizer
from hig.runs.lbfgs import ByLBFGS
from hig.runs.results import load_results
from Nonlinear_Oscillators.network import build_network
from tests import tiny
from tests.reference import weights_of
from tests.networks import squares
from tests.test_steps import Parameters, rosenbrock

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"Nonlinear_Oscillators": ("--hidden", "6,5"), "Toy_Problem": ("--lambda", "0.01"),
         "Poisson": ("--resolution", "4")}


def submit(system, optimizer, folder, *flags):
    """A submit script, in this process: its exit code."""
    script = f"{system}/submit_{optimizer}.py"
    return tiny.submit(script, *SMALL.get(system, ()), "--output", folder, "--quiet", *flags)


def results(folder):
    """The one curve in a folder."""
    path, = folder.glob("*_RESULTS.pickle")
    return load_results(path)


@pytest.mark.filterwarnings("ignore:truncation is 1e-10")               # the book's τ on the linear chain
@pytest.mark.parametrize("script", sorted(path.relative_to(ROOT) for path in ROOT.glob("*/submit_*.py")
                                          if path.stem.endswith(("LM", "adaptive", "Muon"))), ids=str)
def test_every_script_names_an_optimizer_with_its_settings(tmp_path, monkeypatch, script):
    """What its experiment is asked to train with, without training."""
    asked = []
    monkeypatch.setattr("hig.runs.cli.load", lambda module: SimpleNamespace(
        run=lambda settings: asked.append(settings) or "finished"))
    assert submit(script.parent.name, script.stem.removeprefix("submit_"), tmp_path, "--max-time", 1) == 0
    settings, = asked
    settings.optimizer = settings.optimizer.removeprefix("Adam_then_")
    optimizer = make_optimizer(settings)
    if settings.optimizer == "Muon":
        assert isinstance(optimizer, keras.optimizers.Muon) and not optimizer.weight_decay
    else:
        assert type(optimizer) is {"LM": hig.LevenbergMarquardt,
                                   "HIG_adaptive": hig.HIG}[settings.optimizer] and optimizer.adaptive
        assert (optimizer.damping if settings.optimizer == "LM" else optimizer.truncation) > 0
    assert float(optimizer.learning_rate) == pytest.approx(settings.learning_rate)


def test_muon_leaves_the_output_layer_to_adam():
    """The output layer and the biases have a second moment; the kernels of the hidden layers have none."""
    network = build_network(4, 96)
    optimizer = make_optimizer(SimpleNamespace(optimizer="Muon", learning_rate=1e-3))
    optimizer.build(network.trainable_variables)
    assert sum("velocity" in variable.path for variable in optimizer.variables) == 5


def test_levenberg_marquardt_after_adam(tmp_path):
    assert submit("Poisson", "Adam_then_LM", tmp_path, "--pretrain-time", "1e-9", "--steps", 2) == 0
    provenance = results(tmp_path)["provenance"]
    assert provenance["switch_epoch"] == 1
    np.testing.assert_array_equal(np.isnan(provenance["damping"]), [True, False])


# --- L-BFGS ---

class Record(keras.callbacks.Callback):
    """Losses after each iteration; stops after so many."""

    def __init__(self, last=10**9):
        super().__init__()
        self.losses, self.last = [], last

    def on_epoch_end(self, epoch, logs=None):
        self.losses.append(logs["loss"])
        self.model.stop_training = epoch + 1 >= self.last


def valley(start):
    """Rosenbrock's function as a PhysicsModel by L-BFGS, and its data set of one sample."""
    model = ByLBFGS(hig.PhysicsModel(Parameters(start), lambda x, u: rosenbrock(u)), memory=5)
    model.compile(optimizer="sgd", loss=squares)
    return model, [(np.zeros((1, 1)), np.zeros((1, 2)))]


def test_its_iterates_are_those_of_scipy_on_rosenbrock_s_function(float64):
    """SciPy's own function and gradient; 1e-9: rounding of another order of the same sums, over the first 20
    iterations.
    """
    expected = []
    found = scipy.optimize.minimize(
        scipy.optimize.rosen, [-1.2, 1.0], jac=scipy.optimize.rosen_der, method="L-BFGS-B",
        callback=lambda intermediate_result: expected.append(intermediate_result.fun),
        options={"maxcor": 5, "maxls": 50, "ftol": 0.0, "gtol": 0.0})
    model, data = valley([-1.2, 1.0])
    record = Record()
    model.fit(data, epochs=10**9, callbacks=[record])                  # ends by itself
    np.testing.assert_allclose(record.losses[:20], expected[:20], rtol=1e-9)
    assert (np.diff(record.losses) <= 0).all() and record.losses[-1] < 1e-20
    np.testing.assert_allclose(weights_of(model), found.x, atol=1e-8)
    # line searches take more than one evaluation at times
    assert int(model.optimizer.iterations) >= len(record.losses)


def test_it_stops_where_a_callback_says_and_leaves_the_weights_of_that_iteration(float64):
    model, data = valley([-1.2, 1.0])
    record = Record(last=3)
    model.fit(data, epochs=10**9, callbacks=[record])
    assert len(record.losses) == 3
    assert scipy.optimize.rosen(weights_of(model)) == pytest.approx(record.losses[-1], rel=1e-12)
    model.fit(data, initial_epoch=3, epochs=5, callbacks=[more := Record()])
    assert len(more.losses) == 2 and more.losses[-1] < record.losses[-1]


def test_its_curve_falls_is_resumed_and_survives_ctrl_c(tmp_path, monkeypatch):
    """The loss of the whole training set falls in every iteration, 1e-6 of it for rounding."""
    system = "Nonlinear_Oscillators"
    assert submit(system, "LBFGS", tmp_path, "--epochs", 4) == 0
    append = hig.runs.training.TrainingRun.on_epoch_end

    def and_interrupt(run, epoch, logs=None):
        if epoch + 1 == 7:
            signal.raise_signal(signal.SIGINT)
        append(run, epoch, logs)
    monkeypatch.setattr("hig.runs.training.TrainingRun.on_epoch_end", and_interrupt)
    assert submit(system, "LBFGS", tmp_path, "--resume") == 130
    curve = results(tmp_path)
    assert curve["epochs"].tolist() == list(range(8)) and curve["provenance"]["state"] == "interrupted"
    assert (curve["train_loss"][1:] < curve["train_loss"][:-1] * (1 + 1e-6)).all()
    assert curve["sim_par"]["batch_size"] == 4096 and curve["sim_par"]["memory"] == 100
    assert submit(system, "LBFGS", tmp_path, "--resume", "--epochs", 8) == 0


def test_a_run_that_finds_no_lower_loss_is_finished(tmp_path, monkeypatch):
    """Not an endless one."""
    monkeypatch.setattr(scipy.optimize, "minimize", lambda function, start,
                        **_: scipy.optimize.OptimizeResult(x=start))
    assert submit("Nonlinear_Oscillators", "LBFGS", tmp_path) == 0
    assert results(tmp_path)["provenance"]["state"] == "finished"
