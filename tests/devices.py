"""A process that trains on several devices, for tests/test_devices.py; it writes weights and history.

    python -m tests.devices one|mirrored|workers|slurm FOLDER

"one" is the yardstick. "mirrored" makes two logical devices of the CPU, which has to be done before
TensorFlow starts. "workers" is one of the processes that TF_CONFIG names, "slurm" one of those that Slurm's
variables name.
"""

import os
import sys
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import hig  # noqa: E402
from tests.networks import FEATURES, Physics, simulator, stack  # noqa: E402

SAMPLES = 21


class Penalty(keras.regularizers.Regularizer):
    """Σ |w|^power/1000: Keras' own are tensors in single precision, which start TensorFlow."""

    def __init__(self, power):
        self.power = power

    def __call__(self, w):
        return tf.reduce_sum(tf.abs(w)**self.power) / 1000


ALL = 10**6
# name: (network, simulator, optimizer, batch size, loss, whether with sample weights); 21 samples end in
# batches that two devices share unevenly
CASES = {
    "half-inverse": (lambda: stack(7, 2), lambda: simulator,
                     lambda: hig.HIG(0.5, 1e-3, krylov=5), 6, "mse", True),
    "more rows than weights": (lambda: stack(2), lambda: simulator,
                               lambda: hig.HIG(0.5, 1e-3, krylov=4, krylov_tolerance=0), 8, "mse", True),
    "a weight in the simulator": (                              # products go through the whole model
        lambda: stack(4, 2), lambda: Physics(lambda self, x, u: simulator(x, u * self.mass), mass=1.0),
        lambda: hig.GaussNewton(0.5, 1e-2, krylov=ALL, krylov_tolerance=0), 8, "mse", False),
    "damping and L2": (lambda: stack(4, 2, kernel_regularizer=Penalty(2)), lambda: simulator,
                       lambda: hig.LevenbergMarquardt(0.1, adaptive=False, krylov=4), 6, "mse", True),
    "sums, L1, clipping": (lambda: stack(4, 2, kernel_regularizer=Penalty(1)), lambda: simulator,
                           lambda: hig.HIG(0.01, 1e-2, krylov=4, global_clipnorm=10.0), 6,
                           keras.losses.MeanSquaredError("sum"), False)}

BETWEEN_PROCESSES = "half-inverse", "damping and L2"


def train(name, strategy):
    """Weights (p,) after an epoch of a case, and the history of fit."""
    make_network, make_simulator, make_optimizer, batch, loss, weighted = CASES[name]
    keras.utils.set_random_seed(4)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(SAMPLES, FEATURES)), random.normal(size=(SAMPLES, 3))
    with strategy.scope():
        model = hig.PhysicsModel(make_network(), make_simulator())
        model.compile(make_optimizer(), loss, metrics=["mae"],
                      jit_compile="auto" if name == "half-inverse" else False)
    weights = np.linspace(0.5, 1.5, SAMPLES) if weighted else None
    data = tf.data.Dataset.from_tensor_slices((x, y) if weights is None else (x, y, weights)).batch(batch)
    history = model.fit(data, epochs=1, verbose=0, shuffle=False).history
    return np.concatenate([np.ravel(w) for w in model.get_weights()]), history


def main(kind, folder):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    warnings.simplefilter("error")
    if kind == "mirrored":
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0],
                                                   [tf.config.LogicalDeviceConfiguration()] * 2)
        strategy = tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"])
    else:
        strategy = {"one": tf.distribute.get_strategy,
                    "workers": tf.distribute.MultiWorkerMirroredStrategy,
                    "slurm": lambda: tf.distribute.MultiWorkerMirroredStrategy(
                        tf.distribute.cluster_resolver.SlurmClusterResolver(
                            port_base=int(os.environ["PORT"]), gpus_per_node=2, gpus_per_task=1,
                            auto_set_gpu=False))}[kind]()               # it counts tasks by GPUs
    results = {}
    for name in CASES if kind in ("one", "mirrored") else BETWEEN_PROCESSES:
        results[name], history = train(name, strategy)
        results |= {f"{name}/{key}": value for key, value in history.items()}
    number = os.environ.get("SLURM_PROCID", os.environ.get("WORKER"))
    np.savez(os.path.join(folder, f"{kind}{number}.npz"), **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
