"""The task: the paper's Poisson problem, to solve Δx = y* for random fields y* = Δ x_gt on an 8 × 8 grid.

The network turns y* into x, and the simulator x into y = Δx. Every update gets fresh fields. One epoch is
therefore one update, and the training loss is an unbiased but noisy estimate of the true loss. A held-out
batch gives the test loss.
"""

import math
import time

import keras
import numpy as np
import tensorflow as tf
from phi.tf.flow import Scene

from hig.memory import require_memory
from hig.model import PhysicsModel
from hig.optimizers import JacobianPower
from hig.runs.cli import SettingsError, check_writable
from hig.runs.experiments import train_on_fresh_data
from hig.runs.initialization import draw_published_weights
from hig.runs.weights import name_and_hash
from Poisson.fields import held_out_fields, training_fields
from Poisson.network import HIDDEN, build_network
from Poisson.simulator import Laplace

HELD_OUT = 256              # fields, for the test loss


class HalfSquaredError(keras.losses.Loss):
    """½ Σ (y − y*)² over batch and cells, a sum and not a mean, so that g = y − y*."""

    def __init__(self):
        super().__init__(reduction="sum")

    def call(self, target, outcome):
        """½ Σ_cells (y − y*)² for each sample, (B,), from fields (B, resolution²)."""
        return tf.reduce_sum(tf.square(outcome - target), axis=-1) / 2


def build_model(resolution, seed, optimizer, hidden=HIDDEN):
    """Network and simulator, compiled, with the initial weights of that seed."""
    return compile_model(initial_network(resolution, seed, hidden), resolution, optimizer)


def initial_network(resolution, seed, hidden=HIDDEN):
    """The network, untrained; the seed draws its weights, Glorot-uniform with biases zero.

    The published runs did not fix the weights. Fields are drawn with `seed` and weights with `seed + 1`,
    because with the same seed both would come from the same random numbers.
    """
    network = build_network(resolution, hidden)
    draw_published_weights(network, seed + 1)
    return network


def compile_model(network, resolution, optimizer):
    """The compiled PhysicsModel of a network; its metric x_distance_l1 is the mean of |x − x_gt|.

    The error of the solution follows from the residual: x − x_gt = Δ⁻¹(y − y*).
    """
    laplace = Laplace(resolution)

    def x_distance_l1(target, outcome):
        return tf.reduce_mean(tf.abs(laplace.inverse(outcome - target)), axis=-1)          # (B,)

    model = PhysicsModel(network, laplace)
    model.compile(optimizer=optimizer, loss=HalfSquaredError(), metrics=[x_distance_l1])
    return model


class Evaluation:
    """The `evaluate` and `snapshot` of `hig.runs.training.train`: losses, and one held-out field.

    Args:
        model: compiled model of `compile_model`.
        first_batch: (x_gt, y*), the fields of the first update.
        batch_size: B, the number of fields in the training loss.
        every: int, updates from one test loss to the next.
    """

    def __init__(self, model, first_batch, batch_size, every):
        self.model, self.first_batch, self.batch_size, self.every = model, first_batch, batch_size, every
        self.resolution = model.simulator.resolution
        self.held_out = held_out_fields(HELD_OUT, self.resolution)
        self._errors = tf.function(self._trace_errors)

    def _trace_errors(self, x_gt, target):
        solution = self.model.network(target, training=False)
        outcome = self.model.simulator(target, solution)
        return (self.model.compute_loss(target, target, outcome, training=False) / len(target),
                tf.reduce_mean(tf.abs(solution - x_gt)))

    def __call__(self, epoch, logs):
        """Losses per field, Σ_cells ½ (y − y*)², and mean |x − x_gt|; the test loss every `every` updates.

        As in the published logs, the entry of an update has the losses before it, on its batch. Entry 0 is
        the untrained network on the first batch, and thus equals entry 1.
        """
        if logs is None:
            loss, distance = (float(value) for value in self._errors(*self.first_batch))
        else:
            loss, distance = float(logs["loss"]) / self.batch_size, float(logs["x_distance_l1"])
        evaluated = epoch % self.every == 0
        return {"train_loss": loss, "x_distance_l1": distance,
                "test_loss": float(self._errors(*self.held_out)[0]) if evaluated else math.nan}

    def snapshot(self):
        """The first held-out field with the present network: example_*, (resolution, resolution) each."""
        x_gt, target = self.held_out[0][:1], self.held_out[1][:1]
        solution = self.model.network(target, training=False)
        outcome = self.model.simulator(target, solution)
        fields = {"target": target, "x_ground_truth": x_gt, "x": solution, "residual": outcome - target}
        return {f"example_{name}": np.reshape(f, (self.resolution, self.resolution)) for name,
                f in fields.items()}


class SceneLogs(keras.callbacks.Callback):
    """Logs of the published layout in a new PhiFlow scene: a line "number of updates, value" for each update.

        log_step_time.txt            seconds of the update just done
        log_loss_<optimizer>_0.txt   loss per field of the network before the update

    Args:
        folder: the scene becomes its sub-folder sim_000000, or the next number that is free.
        optimizer: name of the optimizer.
        batch_size: B.
        sim_par: settings, for the scene's description.json.

    Raises:
        SettingsError: the folder holds a sim_… that is no PhiFlow scene.
        OSError: it cannot be written.
    """

    def __init__(self, folder, optimizer, batch_size, sim_par):
        super().__init__()
        self.folder, self.optimizer, self.batch_size, self.sim_par = folder, optimizer, batch_size, sim_par
        self.scene = None
        check_writable(next(path for path in (folder, *folder.absolute().parents) if path.exists()))
        odd = [path.name for path in folder.glob("sim_*") if not path.name[4:].isdigit()]
        if odd:  # PhiFlow takes what follows "sim_" for a number
            raise SettingsError(f"no PhiFlow scene can be added to the folder {folder}, which holds {odd[0]}")

    def on_train_begin(self, logs=None):                                # before that, the run may be refused
        if self.scene is None:                                          # after pretraining the scene goes on
            self.scene = Scene.create(str(self.folder), copy_calling_script=False)
            self.scene.put_properties(self.sim_par)
        # buffering=1 writes each line at once
        self.times, self.losses = (open(self.scene.subpath(f"log_{name}.txt"), "a", buffering=1)
                                   for name in ("step_time", f"loss_{self.optimizer}_0"))

    def on_train_end(self, logs=None):
        self.times.close()
        self.losses.close()

    def on_train_batch_begin(self, batch, logs=None):
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.elapsed = time.perf_counter() - self.began

    def on_epoch_end(self, epoch, logs=None):
        self.times.write(f"{epoch + 1} {self.elapsed}\n")
        self.losses.write(f"{epoch} {float(logs['loss']) / self.batch_size}\n")


def run(settings):
    """Trains with the settings of a submit script; returns how it ended, see `hig.runs.training.train`."""
    resolution, batch_size = settings.resolution, settings.batch_size
    network = initial_network(resolution, settings.seed, settings.hidden or HIDDEN)

    def compiled(optimizer):
        if isinstance(optimizer, JacobianPower) and not optimizer.krylov:
            factors = 3 * sum(variable.shape[-1] for variable in network.trainable_variables)
            try:
                require_memory(batch_size * resolution**2, network.count_params(), factors,
                               "batch size times resolution² is the number of rows: reduce either, or take "
                               "HIG_Krylov")
            except MemoryError as error:
                raise SettingsError(str(error)) from None
        return compile_model(network, resolution, optimizer)

    def fields(updates_done=0):
        return training_fields(settings.seed, batch_size, resolution, updates_done)

    def batches(updates_done):
        return fields(updates_done).map(lambda x_gt, target: (target, target))

    def measure(model):
        return Evaluation(model, next(iter(fields())), batch_size, settings.evaluate_every)

    def scene(sim_par):
        loaded = {"load_weights": name_and_hash(settings.load_weights)} if settings.load_weights else {}
        return [SceneLogs(settings.scene, settings.optimizer, batch_size, {**sim_par,
            **loaded})] if settings.scene else []

    constants = {"resolution": resolution, "held_out": HELD_OUT, "evaluate_every": settings.evaluate_every}
    return train_on_fresh_data(settings, "POISSON", compiled, batches, measure, constants, callbacks=scene)
