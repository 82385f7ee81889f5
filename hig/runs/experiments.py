"""What the experiments share: optimizers by name, batches and losses of a data set, and training with them.

An experiment of a system states its constants, its data, its loss and its model, and ends in

    def run(settings):
        train_data, test_data = draw_data(settings.seed)
        return train_on_fixed_data(settings, "NLO", build_model(settings.seed), loss, train_data, test_data,
                                   CONSTANTS)
"""

import math
from argparse import Namespace
from functools import partial

import keras
import tensorflow as tf

from hig.compiled import Compiler
from hig.optimizers import GaussNewton, HIG, JacobianPower, LevenbergMarquardt
from hig.runs.cli import SettingsError
from hig.runs.lbfgs import ByLBFGS
from hig.runs.training import train

OWN = {     # class, and its settings beside the learning rate; all but LM also with "_adaptive"
    "HIG": (HIG, "truncation"), "HIG_Krylov": (HIG, "truncation", "krylov"),
    "GN": (GaussNewton, "truncation"), "Power": (JacobianPower, "truncation", "kappa"),
    "LM": (LevenbergMarquardt, "damping")}


def train_on_fixed_data(settings, prefix, model, loss, train_data, test_data, constants, *, measure=None,
                        label=None, optimizer=None, validation_data=None, shuffle=False):
    """Compiles and trains a model on a data set drawn once; an epoch is one pass over it.

    Args:
        settings: as `hig.runs.cli.parse` returns them; the batch of "LBFGS" is the whole set.
        prefix: of the file names, "NLO" for instance.
        model: PhysicsModel, not compiled.
        loss: function of (y* (B, …), y (B, …)) → loss of each sample, (B,).
        train_data, test_data: (x, y*) each, two float32 arrays with a row for each sample.
        constants: dict of builtins, the system's constants, which go into `sim_par`.
        measure: function of (model, train_data, test_data) → the `evaluate` of `hig.runs.training.train`;
            `mean_losses` if None.
        label: see `hig.runs.training.train`.
        optimizer: a Keras optimizer; the one that the settings name if None.
        validation_data: (x, y*) for a further curve, "validation_loss", or None.
        shuffle: whether each epoch has an order of its own, see `shuffled_batches`.

    Returns:
        how the run ended, as in `hig.runs.training.train`.

    Raises:
        SettingsError: if the batch size does not divide the number of samples; and as in `train`.
        OSError: as in `train`.
    """
    if settings.optimizer == "LBFGS":
        settings = Namespace(**{**vars(settings), "batch_size": len(train_data[0])})
        model, optimizer = ByLBFGS(model, settings.memory), keras.optimizers.SGD()
    batches, updates_per_epoch = (shuffled_batches(train_data, settings.batch_size, settings.seed) if shuffle
                                  else fixed_batches(train_data, settings.batch_size))
    model.compile(optimizer=optimizer or make_optimizer(settings), loss=loss,
                  steps_per_execution=updates_per_epoch)
    evaluate = (measure(model, train_data, test_data) if measure
                else mean_losses(model, train_data, test_data, validation_data))
    sim_par = {**common_settings(settings), **constants,
               "train_samples": len(train_data[0]), "test_samples": len(test_data[0])}
    if settings.evaluate_every > 1:
        evaluate = sometimes(evaluate, settings.evaluate_every)
        sim_par["evaluate_every"] = settings.evaluate_every
    return train(model, batches, updates_per_epoch, evaluate, settings, prefix, sim_par, label=label)


def train_on_fresh_data(settings, prefix, compiled, batches, measure, constants, *,
                        callbacks=lambda sim_par: []):
    """Trains a model with fresh samples for every update; an epoch is one update.

    An optimizer called "Adam_then_HIG", for instance, is HIG after `settings.pretrain_time` seconds of Adam
    with `settings.pretrain_learning_rate`.

    Args:
        settings: as `hig.runs.cli.parse` returns them.
        prefix: of the file names, "POISSON" for instance.
        compiled: function of a Keras optimizer → PhysicsModel compiled with it; all of them share one
            network.
        batches: function of the number of updates done → tf.data.Dataset of (x, y*), without end.
        measure: function of the compiled model → the `evaluate` of `hig.runs.training.train`, with a method
            `snapshot` as there.
        constants: as in `train_on_fixed_data`.
        callbacks: function of `sim_par` → list of further Keras callbacks.

    Returns:
        how the run ended, as in `hig.runs.training.train`.

    Raises:
        SettingsError: if pretraining leaves no time for the rest; and as in `train`.
        OSError: as in `train`.
    """
    name, before = settings.optimizer.removeprefix("Adam_then_"), getattr(settings, "pretrain_time", None)
    if before and before >= settings.max_time:
        raise SettingsError(f"the pretraining of {before:g} s (--pretrain-time) leaves nothing of the "
                            f"{settings.max_time:g} s (--max-time) for {name}")
    model = compiled(make_optimizer(Namespace(**{**vars(settings), "optimizer": name})))
    sim_par, pretraining = {**common_settings(settings), **constants}, None
    if before:
        pretraining = compiled(keras.optimizers.Adam(settings.pretrain_learning_rate)), before
        sim_par |= {"pretrain_time": before, "pretrain_learning_rate": settings.pretrain_learning_rate}
    evaluate = measure(model)
    return train(model, batches, 1, evaluate, settings, prefix, sim_par, pretraining=pretraining,
                 snapshot=evaluate.snapshot, callbacks=callbacks(sim_par))


def sometimes(evaluate, every):
    """An `evaluate` of `hig.runs.training.train` that calls the given one in epochs 0, `every`, 2 · `every` …

    In the other epochs all but the training loss is NaN. The training loss of all epochs but 0 is Keras' mean
    over the epoch's batches, each before its update (with L-BFGS that of the whole set after the update). A
    curve therefore has one kind of training loss.
    """
    def evaluate_or_not(epoch, logs):
        measured = {} if epoch % every else evaluate(epoch, logs)
        return {"test_loss": math.nan, **measured, **({"train_loss": float(logs["loss"])} if logs else {})}
    return evaluate_or_not


def common_settings(settings):
    """The part of `sim_par` that every run has: dict of builtins."""
    given = vars(settings)
    every = "optimizer", "seed", "batch_size", "learning_rate", "truncation", "max_time", "epochs"
    some = [key for key in ("damping", "krylov", "memory", "kappa") if given.get(key) is not None]
    hidden = {"hidden": ",".join(map(str, settings.hidden))} if given.get("hidden") else {}
    return {**{key: given[key] for key in (*every, *some)}, **hidden}


def make_optimizer(settings):
    """The Keras optimizer that `settings.optimizer` names.

    It is "HIG", "HIG_Krylov" (with `settings.krylov`), "GN" or "Power" (with `settings.kappa`), each also
    with adaptive steps ("HIG_adaptive"); "LM" (with `settings.damping`); or a class of keras.optimizers like
    "Adam". Muon has no weight decay, like the others, and trains the output layer by its own Adam, as its
    authors recommend.

    Raises:
        SettingsError: there is no such optimizer, or the submit script states too little for it.
    """
    theirs = {name: (kind,) for name, kind in vars(keras.optimizers).items() if isinstance(kind, type)
              and issubclass(kind, keras.Optimizer) and name not in ("Optimizer", "LossScaleOptimizer")}
    adaptive = {f"{name}_adaptive": (partial(kind, adaptive=True), *needed)
                for name, (kind, *needed) in OWN.items() if name != "LM"}
    muon = partial(Muon, weight_decay=None, exclude_layers=["controls"])
    known = {**theirs, "Muon": (muon,), **OWN, **adaptive}
    if settings.optimizer not in known:
        raise SettingsError(f"there is no optimizer {settings.optimizer!r}; there are "
                            f"{', '.join([*OWN, *sorted(theirs)])}")
    kind, *needed = known[settings.optimizer]
    given = {key: getattr(settings, key, None) for key in ("learning_rate", *needed)}
    for key in given:
        if given[key] is None:
            raise SettingsError(f"the optimizer {settings.optimizer} takes a {key}: state it in the call of "
                                "submit")
    if getattr(settings, "damping", None):                              # also of a power
        given["damping"] = settings.damping
    return kind(**given)


class Muon(keras.optimizers.Muon):
    """Keras' Muon. In Keras 3.12 its update needs Keras variables, but gets TensorFlow's."""

    def build(self, variables):
        """As Keras' own; remembers the Keras variable of each TensorFlow variable."""
        self._of_keras = {id(variable.value): variable for variable in variables}
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        """As Keras' own."""
        super().update_step(gradient, self._of_keras.get(id(variable), variable), learning_rate)


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
    if not batch_size or batch_size < 1 or rows % batch_size:
        raise SettingsError(f"the batch size must divide the {rows} training samples, but is {batch_size}")
    batched = tuple(array.reshape(-1, batch_size, *array.shape[1:]) for array in data)
    dataset = tf.data.Dataset.from_tensor_slices(batched).cache().repeat().prefetch(2)
    return lambda epochs_done: dataset, rows // batch_size  # every epoch begins with the first sample


def shuffled_batches(data, batch_size, seed):
    """Mini-batches of a fixed data set, in another order in each epoch.

    The order follows from seed and epoch alone, so that a run can be resumed at any epoch.

    Args:
        data: (x, y), arrays with the same number of rows.
        batch_size: int; rows that do not fill a batch at the end of an epoch are dropped.
        seed: int.

    Returns:
        (batches, updates per epoch), with batches as `hig.runs.training.train` wants it.

    Raises:
        SettingsError: if there are fewer rows than a batch has.
    """
    rows, data = len(data[0]), tuple(map(tf.constant, data))
    updates = rows // batch_size
    if not updates:
        raise SettingsError(f"the batch size must not exceed the {rows} training samples, but is "
                            f"{batch_size}")

    def order(epoch):
        shuffled = tf.random.experimental.stateless_shuffle(tf.range(rows), (seed, epoch))
        chosen = shuffled[:updates * batch_size]
        return tf.data.Dataset.from_tensor_slices(tf.reshape(chosen, (updates, batch_size)))

    def batches(epochs_done):
        chosen = tf.data.Dataset.counter(epochs_done).flat_map(order)
        return chosen.map(lambda rows: tuple(tf.gather(array, rows) for array in data)).prefetch(2)
    return batches, updates


def mean_losses(model, train_data, test_data, validation_data=None):
    """The `evaluate` of `hig.runs.training.train` for fixed data sets: mean losses over all their samples.

    Args:
        model: compiled PhysicsModel.
        train_data, test_data: (x, y*) each; one compiled function serves those of the same shapes.
        validation_data: (x, y*) for a "validation_loss", or None.
    """
    def loss(x, y):
        return model.compute_loss(x, y, model(x, training=False), training=False)

    sets = {"train_loss": train_data, "test_loss": test_data}
    if validation_data:
        sets["validation_loss"] = validation_data
    compiled = {len(data[1]): Compiler().function(loss, "The evaluation") for data in sets.values()}
    return lambda epoch, logs: {name: float(compiled[len(data[1])](*data)) for name, data in sets.items()}
