"""The task: bring two coupled oscillators back to where they started, 96 steps later (figure 2 of the paper).

The network sees the target state y*, the simulator starts from the initial state x, and x = y*.
"""

import numpy as np
import tensorflow as tf

from hig.runs.initialization import draw_published_weights
from hig.model import PhysicsModel
from hig.runs.training import fixed_batches, make_optimizer, mean_losses, train
from Nonlinear_Oscillators.network import build_network
from Nonlinear_Oscillators.simulator import Oscillators

N_OSCILLATORS = 2              # N
N_STEPS = 96                   # Nt
DT = 0.125                     # time step
CONTROL_STRENGTH = 3.0         # c_N
TRAIN_SAMPLES = TEST_SAMPLES = 4096


def draw_data(seed):
    """Initial states, uniform in [0, 1): (train, test), (4096, 2N) float32 each, as the published code draws them.

    One draw of numpy's legacy global generator after `np.random.seed(seed)`, here from a generator of our own.
    """
    states = np.random.RandomState(seed).rand(TRAIN_SAMPLES + TEST_SAMPLES, 2 * N_OSCILLATORS).astype(np.float32)
    return states[:TRAIN_SAMPLES], states[TRAIN_SAMPLES:]


def loss(target, outcome):
    """Σ_components (y − y*)² for each sample, (B,), from states (B, 2N)."""
    return tf.reduce_sum(tf.square(outcome - target), axis=-1)


def build_model(seed):
    """Network and simulator, with the weights that the published runs start from."""
    network = build_network(2 * N_OSCILLATORS, N_STEPS)
    draw_published_weights(network, seed)
    return PhysicsModel(network, Oscillators(N_STEPS, DT, CONTROL_STRENGTH))


def run(settings):
    """Trains with the settings of a submit script; returns how it ended, see `hig.runs.training.train`."""
    train_states, test_states = draw_data(settings.seed)
    batches, updates_per_epoch = fixed_batches((train_states, train_states), settings.batch_size)
    model = build_model(settings.seed)
    model.compile(optimizer=make_optimizer(settings), loss=loss, steps_per_execution=updates_per_epoch)
    evaluate = mean_losses(model, (train_states, train_states), (test_states, test_states))
    sim_par = {"optimizer": settings.optimizer, "seed": settings.seed, "batch_size": settings.batch_size,
               "learning_rate": settings.learning_rate, "truncation": settings.truncation,
               "max_time": settings.max_time, "epochs": settings.epochs,
               "n_oscillators": N_OSCILLATORS, "n_steps": N_STEPS, "dt": DT, "control_strength": CONTROL_STRENGTH,
               "train_samples": TRAIN_SAMPLES, "test_samples": TEST_SAMPLES}
    return train(model, batches, updates_per_epoch, evaluate, settings, "NLO", sim_par)
