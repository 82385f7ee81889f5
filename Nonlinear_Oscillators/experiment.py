"""The task: bring two coupled oscillators back to where they started, 96 steps later (figure 2 of the paper).

The network sees the target state y*, the simulator starts from the initial state x, and x = y*.
"""

import numpy as np
import tensorflow as tf

from hig.model import PhysicsModel
from hig.runs.experiments import train_on_fixed_data
from hig.runs.initialization import draw_published_weights
from Nonlinear_Oscillators.network import HIDDEN, build_network
from Nonlinear_Oscillators.simulator import Oscillators

N_OSCILLATORS = 2              # N
N_STEPS = 96                   # Nt
DT = 0.125                     # time step
CONTROL_STRENGTH = 3.0         # c_N
TRAIN_SAMPLES = TEST_SAMPLES = 4096
VALIDATION_SAMPLES = 1024      # settings are chosen by their loss


def draw_data(seed):
    """Initial states of training, test and validation set, uniform in [0, 1): (4096, 2N), (4096, 2N) and
    (1024, 2N) float32.

    The numbers are the published code's, which draws them from numpy's global generator after
    `np.random.seed(seed)`; those for validation follow them.
    """
    samples = TRAIN_SAMPLES + TEST_SAMPLES + VALIDATION_SAMPLES
    states = np.random.RandomState(seed).rand(samples, 2 * N_OSCILLATORS).astype(np.float32)
    return np.split(states, [TRAIN_SAMPLES, TRAIN_SAMPLES + TEST_SAMPLES])


def loss(target, outcome):
    """Σ_components (y − y*)² for each sample, (B,), from states (B, 2N)."""
    return tf.reduce_sum(tf.square(outcome - target), axis=-1)


def build_model(seed, hidden=HIDDEN):
    """Network and simulator, with the weights that the published runs start from."""
    network = build_network(2 * N_OSCILLATORS, N_STEPS, hidden=hidden)
    draw_published_weights(network, seed)
    return PhysicsModel(network, Oscillators(N_STEPS, DT, CONTROL_STRENGTH))


def run(settings):
    """Trains with the settings of a submit script; returns how it ended, see `hig.runs.training.train`."""
    train, test, validation = ((states, states) for states in draw_data(settings.seed))
    constants = {"n_oscillators": N_OSCILLATORS, "n_steps": N_STEPS, "dt": DT,
                 "control_strength": CONTROL_STRENGTH}
    return train_on_fixed_data(settings, "NLO", build_model(settings.seed, settings.hidden or HIDDEN), loss,
                               train, test, constants, validation_data=validation)
