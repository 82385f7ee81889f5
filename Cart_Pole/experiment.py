"""The task: swing up N poles that hang from a cart, so that they stand upright after one second.

    L = mean over the poles of 1 − cos θ after 100 steps of 0.01 s

The network is in the loop: it sees the state at every step and returns a force, so that its weights act a
hundred times in one outcome. The task is that of Schnell and Thuerey, "Stabilizing Backpropagation Through
Time to Learn Complex Physics" (ICLR 2024), who train with Adam and modified gradients and show only figures.
The states are the same in every run; the seed of a run draws the weights and the order of the samples.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from Cart_Pole.network import build_network
from Cart_Pole.simulator import CartPoles, SwingUp
from hig.model import PhysicsModel
from hig.runs.experiments import mean_losses, train_on_fixed_data
from hig.runs.initialization import draw_published_weights

N_STEPS = 100
DT = 0.01                      # seconds
STRENGTH = 10.0                # N, the force of an output of 1
DATA_SEED = 42
SAMPLES = 256                  # in each of the training, test and validation sets
TOLERANCE = math.radians(12)   # up to which a pole counts as upright


def draw_data(n_poles):
    """First states, hanging poles: training, test and validation set, (256, 2 + 2N) float32 each.

    x, ẋ and θ̇ are uniform in (−1, 1), θ is uniform within π ± π/6.
    """
    unit = np.random.RandomState(DATA_SEED).uniform(-1, 1, (3, SAMPLES, 2 + 2 * n_poles))
    unit[..., 2:2 + n_poles] = math.pi + math.pi / 6 * unit[..., 2:2 + n_poles]
    return tuple(unit.astype(np.float32))


def loss(target, outcome):
    """Σ_poles y² for each sample, (B,), for outcomes y (B, N) of `SwingUp`; the targets (B, N) are zero."""
    return tf.reduce_sum(tf.square(outcome - target), axis=-1)


def build_model(n_poles, seed):
    """Network and simulator; the seed draws the initial weights."""
    network = build_network(2 + 2 * n_poles)
    draw_published_weights(network, seed)
    return PhysicsModel(network, SwingUp(CartPoles(n_poles, DT), network, N_STEPS, STRENGTH))


def evaluation(validation_data):
    """The `measure` of `train_on_fixed_data`: the losses, and how many of the test swings end upright.

    "upright" is the share of the test states from which every pole ends within TOLERANCE of upright.
    """
    def measure(model, train_data, test_data):
        losses = mean_losses(model, train_data, test_data, validation_data)
        largest = math.sqrt(2 / test_data[1].shape[1]) * math.sin(TOLERANCE / 2)

        @tf.function(jit_compile=True)
        def upright():
            there = tf.reduce_all(tf.abs(model(test_data[0], training=False)) < largest, axis=-1)
            return tf.reduce_mean(tf.cast(there, tf.float32))
        return lambda epoch, logs: {**losses(epoch, logs), "upright": float(upright())}
    return measure


def run(settings):
    """Trains with the settings of a submit script; returns how it ended, see `hig.runs.training.train`."""
    target = np.zeros((SAMPLES, settings.poles), np.float32)
    train_data, test_data, validation_data = ((states, target) for states in draw_data(settings.poles))
    constants = {"poles": settings.poles, "n_steps": N_STEPS, "dt": DT, "strength": STRENGTH}
    optimizer = None
    if getattr(settings, "clip_norm", None):
        constants["clip_norm"] = settings.clip_norm
        optimizer = keras.optimizers.Adam(settings.learning_rate, global_clipnorm=settings.clip_norm)
    model, prefix = build_model(settings.poles, settings.seed), f"POLES_{settings.poles}"
    return train_on_fixed_data(settings, prefix, model, loss, train_data, test_data, constants,
                               optimizer=optimizer, measure=evaluation(validation_data), shuffle=True)
