"""The task: bring two linearly coupled oscillators back to where they started, 24 steps later.

The task is from the HIG chapter of the Physics-based Deep Learning book. The network sees the target state
y*, the simulator starts from the initial state x, and x = y*. States and loss are those of the nonlinear
oscillators. The book fixes no seed and measures only the training loss; the test set, of the same size and
distribution, is ours.
"""

import keras

from hig.model import PhysicsModel
from hig.runs.experiments import train_on_fixed_data
from hig.runs.initialization import draw_published_weights
from Linear_Chain.network import build_network
from Linear_Chain.simulator import LinearChain, ScaleInvariant
from Nonlinear_Oscillators.experiment import draw_data, loss

N_OSCILLATORS = 2              # N
N_STEPS = 24                   # Nt
DT = 0.5                       # time step
COUPLING = 0.2                 # k
CONTROL_STRENGTH = 1.0         # c_N

CHAIN = LinearChain(N_OSCILLATORS, N_STEPS, DT, COUPLING, CONTROL_STRENGTH)


def build_model(seed, simulator=CHAIN):
    """Network and simulator; the seed draws the weights as in the book, Glorot-uniform with biases zero."""
    network = build_network(2 * N_OSCILLATORS, N_STEPS)
    draw_published_weights(network, seed)
    return PhysicsModel(network, simulator)


def run(settings):
    """Trains with the settings of a submit script; returns how it ended, see `hig.runs.training.train`.

    The optimizer "SIP" is Adam with the simulator `ScaleInvariant`.
    """
    train_data, test_data, _ = ((states, states) for states in draw_data(settings.seed))
    constants = {"n_oscillators": N_OSCILLATORS, "n_steps": N_STEPS, "dt": DT, "coupling": COUPLING,
                 "control_strength": CONTROL_STRENGTH}
    simulator, optimizer = CHAIN, None
    if settings.optimizer == "SIP":
        simulator = ScaleInvariant(CHAIN, settings.truncation)
        optimizer = keras.optimizers.Adam(settings.learning_rate)
    return train_on_fixed_data(settings, "CHAIN", build_model(settings.seed, simulator), loss, train_data,
                               test_data, constants, optimizer=optimizer)
