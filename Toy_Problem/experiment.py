"""The task: fit two sines through "physics" that scale one of them by λ.

    ŷ(x) = (sin 6x, cos 9x) ,  x ∈ [−1, 1] ,      L = ½ (y₁ − ŷ₁)² + ½ (λ y₂ − ŷ₂)²

The network's outputs are y₁ and y₂. A run trains one network for each λ in turn, each with its own curve.
Source: HIG chapter of the Physics-based Deep Learning book.
"""

from argparse import Namespace

import numpy as np
import tensorflow as tf

from hig.compiled import Compiler
from hig.model import PhysicsModel
from hig.runs.cli import SettingsError
from hig.runs.experiments import mean_losses, train_on_fixed_data
from hig.runs.initialization import draw_published_weights
from Toy_Problem.network import build_network
from Toy_Problem.simulator import Scaling

TRAIN_SAMPLES = TEST_SAMPLES = 256      # ours: no data set is published
PATH_X = 0.25  # ours: the sample whose path is recorded; ŷ = (0.997, −0.628), far from the start
ENDS = ("interrupted", "terminated")    # of runs that the user ended: no further λ is trained


def truth(x):
    """ŷ = (sin 6x, cos 9x), (B, 2), for points x (B, 1)."""
    return np.concatenate([np.sin(6 * x), np.cos(9 * x)], axis=1)


def draw_data(seed):
    """(train, test): points x uniform in [−1, 1) and their ŷ, (256, 1) and (256, 2) float32 each."""
    x = np.random.RandomState(seed).uniform(-1, 1, (TRAIN_SAMPLES + TEST_SAMPLES, 1))
    x, y = x.astype(np.float32), truth(x).astype(np.float32)
    return (x[:TRAIN_SAMPLES], y[:TRAIN_SAMPLES]), (x[TRAIN_SAMPLES:], y[TRAIN_SAMPLES:])


def loss(target, outcome):
    """½ Σ (y − ŷ)² for each sample, (B,), from outcomes (y₁, λ y₂) and targets ŷ, (B, 2) each."""
    return tf.reduce_sum(tf.square(outcome - target), axis=-1) / 2


def build_model(seed, factor):
    """Network and simulator for λ = factor; the network starts from Glorot-uniform weights, whatever λ is."""
    network = build_network()
    draw_published_weights(network, seed)
    return PhysicsModel(network, Scaling(factor))


def evaluation(model, train_data, test_data):
    """The `evaluate` of `hig.runs.training.train`: mean losses, and what the figure shows beside them.

    "activation_mean" and "activation_std" are mean and standard deviation of |tanh| over all hidden units and
    test samples; they are 1 and 0 if all are saturated. "path_y1" and "path_y2" are the network's outputs at
    x = PATH_X.
    """
    losses = mean_losses(model, train_data, test_data)
    hidden = model.network.get_layer("hidden")

    def inside():
        activations = tf.abs(hidden(test_data[0]))                                  # (B, 7)
        y = model.network(tf.constant([[PATH_X]]), training=False)[0]
        return {"activation_mean": tf.reduce_mean(activations),
                "activation_std": tf.math.reduce_std(activations), "path_y1": y[0], "path_y2": y[1]}
    compiled = Compiler().function(inside, "The evaluation")
    return lambda epoch, logs: losses(epoch, logs) | {key: float(value) for key, value in compiled().items()}


def run(settings):
    """Trains with the settings of a submit script, for each λ in turn.

    --resume continues the curves that have begun; a λ that the interrupted run had not reached begins as
    usual.

    Returns:
        how it ended, as in `hig.runs.training.train`; "finished" only if every λ has finished.

    Raises:
        SettingsError: as there, and if several networks would be written to one file.
    """
    names = [prefix(factor) for factor in settings.lambdas]
    if len(set(names)) < len(names):
        raise SettingsError(f"--lambda gives {', '.join(names)}: two runs cannot write the same files")
    if settings.save_weights and len(settings.lambdas) > 1:
        raise SettingsError("--save-weights writes one network: name one value with --lambda")
    begun = [factor for factor in settings.lambdas
             if (settings.output / f"{prefix(factor)}_{settings.optimizer}_CHECKPOINT.npz").exists()]
    states = []
    for factor in settings.lambdas:
        resume = settings.resume and (factor in begun or not begun)
        states.append(run_one(Namespace(**{**vars(settings), "resume": resume}), factor))
        if states[-1] in ENDS:
            break
    return next((state for state in (*ENDS, "failed", "diverged") if state in states), "finished")


def prefix(factor):
    """The prefix of the file names for λ = factor: "TOY_lambda_0.01"."""
    return f"TOY_lambda_{factor:g}"


def run_one(settings, factor):
    """Trains with λ = factor; returns how it ended."""
    train_data, test_data = draw_data(settings.seed)
    (sin, cos), = truth(np.array([[PATH_X]]))
    constants = {"lambda": factor, "path_x": PATH_X, "path_target_y1": float(sin),
                 "path_target_y2": float(cos) / factor}
    return train_on_fixed_data(settings, prefix(factor), build_model(settings.seed, factor), loss, train_data,
                               test_data, constants, measure=evaluation,
                               label=f"{settings.optimizer}, lambda {factor:g}")
