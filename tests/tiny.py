"""The smallest experiment: a whole run of hig.runs.training.train in a tenth of a second, for what holds for
all systems; and submit scripts in this process, which has loaded TensorFlow already.
"""

import runpy
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from unittest import mock

import keras
import numpy as np

import hig
from hig import optimizers, powers
from hig.runs.cli import parse
from hig.runs.experiments import fixed_batches, mean_losses
from hig.runs.results import load_results
from hig.runs.training import train

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 3
STATES = np.random.default_rng(0).uniform(-1, 1, (8, 2)).astype(np.float32)


def run(folder, seed=1, epochs=EPOCHS, optimizer="HIG", simulator=None, eager=True, **changed):
    """Trains a network of 3 neurons, not compiled by default, with `changed` settings of
    hig.runs.training.train, whose state it returns; makes the folder.
    """
    folder.mkdir(exist_ok=True)
    model = build_model(seed, simulator)
    learning = {"HIG": lambda: hig.HIG(0.1, truncation=1e-5), "LM": hig.LevenbergMarquardt,
                "HIG_Krylov": lambda: hig.HIG(0.1, truncation=1e-5, krylov=4),
                "HIG_adaptive": lambda: hig.HIG(0.1, truncation=1e-5, adaptive=True)}.get(
        optimizer, lambda: keras.optimizers.get({"class_name": optimizer,
                                                 "config": {"learning_rate": 0.1}}))()
    model.compile(optimizer=learning, loss="mse", run_eagerly=eager)
    batches, updates = fixed_batches((STATES, 0 * STATES), 4)

    def evaluate(epoch, logs):
        mean = float(np.mean(np.square(model(STATES))))
        return {"train_loss": mean, "test_loss": mean}

    settings = Namespace(**{"optimizer": optimizer, "max_time": 1000.0, "epochs": epochs, "output": folder,
                            "quiet": True, "resume": False, "load_weights": None, "save_weights": None,
                            **changed})
    return train(model, batches, updates, evaluate, settings, "TINY", {"seed": seed, "epochs": epochs})


def settings(system, optimizer, folder, *arguments, **defaults):
    """As a submit script with these defaults makes them, for a quiet run into that folder."""
    own = {"seed": 0, "batch_size": 32, "learning_rate": 1.0, "max_time": 1000.0, **defaults}
    return parse(system, optimizer, "", **own,
                 arguments=["--output", str(folder), "--quiet", *map(str, arguments)])


def curve(experiment, optimizer, seed, batch_size, epochs):
    """[(train loss, test loss)] of a system whose targets are its inputs, from the untrained network on."""
    train, test = ((states, states) for states in experiment.draw_data(seed)[:2])
    batches, updates = fixed_batches(train, batch_size)
    model, dataset = experiment.build_model(seed), batches(0)
    model.compile(optimizer=optimizer, loss=experiment.loss)
    evaluate = mean_losses(model, train, test)
    found = [list(evaluate(0, None).values())]
    for _ in range(epochs):
        model.fit(dataset, steps_per_epoch=updates, verbose=0)
        found.append(list(evaluate(0, None).values()))
    return np.array(found)


def build_model(seed, simulator=None):
    """The network and its simulator, x + u · (1, 0.1) by default, with the initial weights of that seed."""
    keras.utils.set_random_seed(seed)
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation="tanh"),
                                keras.layers.Dense(2)])
    return hig.PhysicsModel(network, simulator or (lambda x, u: x + u * [1.0, 0.1]))


def pickle_of(folder, optimizer="HIG"):
    """Path of what `run` writes."""
    return folder / f"TINY_{optimizer}_RESULTS.pickle"


def losses(folder, optimizer="HIG"):
    """The training losses that `run` has written."""
    return load_results(pickle_of(folder, optimizer))["train_loss"]


def before_update(patch, number, action):
    """Has `action()` called before the decomposition of the update with that number, by pytest's `patch`."""
    count = iter(range(1, 1000))

    def compute(*arguments, **options):
        if next(count) == number:
            action()
        return powers.gram_coefficients(*arguments, **options)
    patch.setattr(optimizers, "gram_coefficients", compute)


def contents(folder):
    """Name → bytes of the files in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def submit(script, *flags):
    """Runs a submit script, "Poisson/submit_Adam.py" for instance, in this process; returns its exit code."""
    path = ROOT / script
    with mock.patch.object(sys, "argv", [str(path), *map(str, flags)]):
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as ended:
            return ended.code


def process(script, *flags):
    """A submit script in a process of its own, with its outputs in pipes."""
    command = [sys.executable, str(ROOT / script), *map(str, flags)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
