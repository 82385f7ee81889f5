"""The task: drive the paper's quantum dipole from its ground state into a superposition of the next two.

The network sees the target wave function y* = f1·|2⟩ + f2·|3⟩. The simulator always starts from |1⟩.
"""

from functools import partial

import numpy as np
import tensorflow as tf

from hig.compiled import Compiler
from hig.model import PhysicsModel
from hig.runs.experiments import train_on_fixed_data
from hig.runs.initialization import draw_published_weights
from Schroedinger.network import build_network
from Schroedinger.simulator import Dipole, to_complex, to_pairs

N_POINTS = 16                  # Nx, the walls included
N_STEPS = 384                  # Nt
DT = 0.05                      # time step
BOX = (0.0, 2.0)               # walls
TRAIN_SAMPLES = TEST_SAMPLES = VALIDATION_SAMPLES = 1024     # settings are chosen by the last set

DIPOLE = Dipole(N_POINTS, N_STEPS, DT, BOX)


def draw_data(seed):
    """Targets of training, test and validation set as pairs, (1024, 28) float32 each.

    The numbers are the published code's, which draws them from numpy's global generator after
    `np.random.seed(seed)`: for each sample two normal coefficients, and then two phases that it does not use.
    f1 and f2 are the coefficients divided by their norm. The numbers for validation follow.
    """
    generator = np.random.RandomState(seed)

    def coefficients():
        c = [generator.normal(), generator.normal()]
        generator.uniform(0, 2 * np.pi, size=2)  # the unused phases
        return c / np.linalg.norm(c)

    samples = TRAIN_SAMPLES + TEST_SAMPLES + VALIDATION_SAMPLES
    f = np.array([coefficients() for _ in range(samples)])                              # (3072, 2)
    targets = f @ np.array([DIPOLE.eigenstate(2), DIPOLE.eigenstate(3)])                # (3072, 14), real
    pairs = np.stack([targets, np.zeros_like(targets)], axis=-1).reshape(len(f), -1).astype(np.float32)
    return np.split(pairs, [TRAIN_SAMPLES, TRAIN_SAMPLES + TEST_SAMPLES])


class FromGroundState:
    """The simulator of the task: every sample starts from |1⟩, whatever x, the target, is."""

    def __init__(self, dipole):
        self.dipole = dipole

    def _ground_state(self, controls):
        pairs = to_pairs(tf.constant(self.dipole.eigenstate(1)[None], tf.complex128), controls.dtype)
        return tf.repeat(pairs, tf.shape(controls)[0], axis=0)

    def __call__(self, target, controls):
        """The final wave functions (B, 2m) under controls (B, Nt)."""
        return self.dipole(self._ground_state(controls), controls)

    def linearize(self, target, controls):
        """The same and its derivatives by the controls, (B, 2m, Nt), as in `Dipole.linearize`."""
        return self.dipole.linearize(self._ground_state(controls), controls)


def loss(target, outcome):
    """Infidelity 1 − |⟨y*|y⟩|² of each sample, (B,), from pairs (B, 2m), computed in double precision."""
    overlap = tf.reduce_sum(tf.math.conj(to_complex(target)) * to_complex(outcome), axis=-1)
    return tf.cast(1 - tf.math.real(overlap) ** 2 - tf.math.imag(overlap) ** 2, outcome.dtype)


def population(n, pairs):
    """|⟨n|ψ⟩|² of each sample, (B,): the probability of the state |n⟩ of the empty box."""
    return 1 - loss(to_pairs(tf.constant(DIPOLE.eigenstate(n)[None], tf.complex128)), pairs)


def unit(pairs):
    """Wave functions (B, 2m) divided by their norms, float64."""
    return tf.math.l2_normalize(tf.cast(pairs, tf.float64), axis=-1)


def build_model(seed, dipole=DIPOLE):
    """Network and simulator, with the weights that the published runs start from."""
    network = build_network(2 * len(dipole.x), dipole.n_steps)
    draw_published_weights(network, seed)
    return PhysicsModel(network, FromGroundState(dipole))


def evaluation(model, train_data, test_data, validation_data=None):
    """The `evaluate` of `hig.runs.training.train`: mean losses, and what the transition achieved.

    Wave functions are divided by their norms first. In float32 their norm is 1 + 4e-8 from |1⟩ on. Without
    the division a small loss would measure the norm, and often be negative.

    "population_error_2" and "population_error_3" are the mean absolute errors of the populations of |2⟩ and
    |3⟩ over the test samples.
    """
    def measure(targets):
        targets, outcome = unit(targets), unit(model(targets, training=False))
        return tf.reduce_mean(loss(targets, outcome)), {
            f"population_error_{n}": tf.reduce_mean(tf.abs(population(n, outcome) - population(n, targets)))
            for n in (2, 3)}
    compiled = Compiler().function(measure, "The evaluation")

    def evaluate(epoch, logs):
        (train_loss, _), (test_loss, errors) = compiled(train_data[1]), compiled(test_data[1])
        losses = {"train_loss": float(train_loss), "test_loss": float(test_loss)}
        if validation_data:
            losses["validation_loss"] = float(compiled(validation_data[1])[0])
        return {**losses, **{key: float(value) for key, value in errors.items()}}
    return evaluate


def run(settings):
    """Trains with the settings of a submit script; returns how it ended, see `hig.runs.training.train`."""
    train, test, validation = ((targets, targets) for targets in draw_data(settings.seed))
    constants = {"n_points": N_POINTS, "n_steps": N_STEPS, "dt": DT, "box": list(BOX)}
    return train_on_fixed_data(settings, "QMC", build_model(settings.seed), loss, train, test, constants,
                               measure=partial(evaluation, validation_data=validation))
