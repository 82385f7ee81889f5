"""What the experiments share: an optimizer by its name, batches and losses of a fixed data set, settings, one run of it all.

An experiment of a system states its constants, its data, its loss and its model, and ends in

    def run(settings):
        train_data, test_data = draw_data(settings.seed)
        return train_on_fixed_data(settings, "NLO", build_model(settings.seed), loss, train_data, test_data, CONSTANTS)
"""

import keras
import tensorflow as tf

from hig.optimizers import GaussNewton, HIG, JacobianPower
from hig.runs.cli import SettingsError
from hig.runs.training import train


def train_on_fixed_data(settings, prefix, model, loss, train_data, test_data, constants, *, measure=None, label=None,
                        optimizer=None):
    """Compiles and trains a model on a data set drawn once; an epoch is one pass over it, in its order.

    Args:
        settings: as `hig.runs.cli.parse` returns them.
        prefix: of the file names, "NLO" for instance.
        model: PhysicsModel, not compiled.
        loss: function of (y* (B, …), y (B, …)) → loss of each sample, (B,).
        train_data, test_data: (x, y*) each, float32 arrays with one row per sample, as many in both.
        constants: dict of builtins, what the system is besides the settings; it goes into `sim_par`.
        measure: function of (model, train_data, test_data) → the `evaluate` of `hig.runs.training.train`;
            `mean_losses` if None.
        label: see `hig.runs.training.train`.
        optimizer: of Keras; the one that the settings name if None.

    Returns:
        how the run ended, see `hig.runs.training.train`.

    Raises:
        SettingsError: if the batch size does not divide the number of samples; and as `train`.
        OSError: as `train`.
    """
    batches, updates_per_epoch = fixed_batches(train_data, settings.batch_size)
    model.compile(optimizer=optimizer or make_optimizer(settings), loss=loss, steps_per_execution=updates_per_epoch)
    evaluate = (measure or mean_losses)(model, train_data, test_data)
    sim_par = {**common_settings(settings), **constants,
               "train_samples": len(train_data[0]), "test_samples": len(test_data[0])}
    return train(model, batches, updates_per_epoch, evaluate, settings, prefix, sim_par, label=label)


def common_settings(settings):
    """The part of `sim_par` that every run has: dict of builtins."""
    common = {key: getattr(settings, key)
              for key in ("optimizer", "seed", "batch_size", "learning_rate", "truncation", "max_time", "epochs")}
    if getattr(settings, "kappa", None) is not None:
        common["kappa"] = settings.kappa
    if getattr(settings, "hidden", None):                               # only where it is not the published one
        common["hidden"] = ",".join(map(str, settings.hidden))
    return common


def make_optimizer(settings):
    """The Keras optimizer that `settings.optimizer` names: "HIG", "GN", "Power" (with `settings.kappa`), or a class of keras.optimizers like "Adam"."""
    if settings.optimizer == "HIG":
        return HIG(settings.learning_rate, settings.truncation)
    if settings.optimizer == "GN":
        return GaussNewton(settings.learning_rate, settings.truncation)
    if settings.optimizer == "Power":
        return JacobianPower(settings.learning_rate, settings.kappa, settings.truncation)
    return getattr(keras.optimizers, settings.optimizer)(settings.learning_rate)


def fixed_batches(data, batch_size):
    """Mini-batches of a fixed data set in its order, epoch after epoch.

    Args:
        data: (x, y), arrays with the same number of rows.
        batch_size: int that divides this number.

    Returns:
        (batches, updates per epoch), with batches as `hig.runs.training.train` wants it.

    Raises:
        SettingsError: if batch_size does not divide the number of rows.
    """
    rows = len(data[0])
    if batch_size < 1 or rows % batch_size:
        raise SettingsError(f"the batch size must divide the {rows} training samples, but is {batch_size}")
    batched = tuple(array.reshape(-1, batch_size, *array.shape[1:]) for array in data)
    dataset = tf.data.Dataset.from_tensor_slices(batched).cache().repeat().prefetch(2)
    return lambda epochs_done: dataset, rows // batch_size            # every epoch begins with the first sample


def mean_losses(model, train_data, test_data):
    """The `evaluate` of `hig.runs.training.train` for fixed data sets: mean losses over all their samples.

    Args:
        model: compiled PhysicsModel.
        train_data, test_data: (x, y*) each, of the same shapes (so that one compiled function serves both).
    """
    @tf.function(jit_compile=True)
    def loss(x, y):
        return model.compute_loss(x, y, model(x, training=False), training=False)

    return lambda epoch, logs: {"train_loss": float(loss(*train_data)), "test_loss": float(loss(*test_data))}
