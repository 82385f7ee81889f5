"""Sums over the devices among which a tf.distribute strategy splits a batch.

Each device ("replica") computes in a thread or process of its own and holds its samples' rows of J and g.
Sums over samples, such as Jᵀu and inner products of vectors with n entries, are sums over the devices, taken
by `across`. Vectors with p entries are the same on all devices. All devices must take the same sums in the
same order; what is computed next must therefore not depend on what only one device knows.
"""

import numpy as np
import tensorflow as tf


_context = tf.distribute.get_replica_context


def devices():
    """Number of devices, int, among which the present batch is split; 1 outside of a strategy's `run`."""
    return _context().num_replicas_in_sync if _context() else 1


def place():
    """Number of this device, int from 0; only for Python, not within graphs."""
    return int(_context().replica_id_in_sync_group) if devices() > 1 else 0


def across(tensor):
    """The sum of a tensor over all devices, of the same shape everywhere; on one device the tensor itself."""
    if devices() == 1:
        return tensor
    context = _context()
    if tf.executing_eagerly():
        return context.merge_call(_sum, args=(tensor,))
    # a copy, because all_reduce needs a tensor on a device, and an argument of a graph is on none
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(tensor))


def anywhere(flag):
    """Whether a bool is True on at least one device, so that all devices decide alike."""
    return bool(flag) if devices() == 1 else float(across(tf.constant(float(flag)))) > 0


def once(tensor):
    """A tensor that all devices have, as parts to be summed: itself on the first device, 0 elsewhere."""
    if devices() == 1:
        return tensor
    return tf.where(tf.equal(_context().replica_id_in_sync_group, 0), tensor, tf.zeros_like(tensor))


@tf.function(autograph=False)
def _sum(strategy, tensor):
    return strategy.run(across, args=(tensor,))


def check_model(functions):
    """Refuses models whose loss on a batch is not made up of the losses on its parts.

    Args:
        functions: hig.functions.Functions.

    Raises:
        ValueError: samples reach each other's outcomes, or layers add to the loss.
    """
    structure = functions.structure
    if structure.certainly_mixed:
        raise ValueError(f"samples reach each other's outcomes by {structure.mixing}, so that a batch cannot "
                         "be split among devices: train on one")
    if structure.mixing:
        functions.compiler.warn("It is not known whether samples reach each other's outcomes "
                                f"({structure.mixing}): on several devices they do so within each device "
                                "alone")
    if functions.loss_reads_weights or structure.penalties > sum(
            weight.regularizer is not None for weight in functions.weights):
        raise ValueError("layers add to the loss (add_loss, activity regularisers), or the loss reads "
                         "weights itself. How such losses of parts of a batch make up that of the whole "
                         "batch is not known: leave them out, or train on one device")


class Together:
    """A function of tensors with sums over the devices, compiled for all devices of this process at once.

    In a graph the devices of a process work in parallel, and sums are a few times faster than in Python.

    Args:
        function: what one device computes, in TensorFlow, with arguments of fixed shapes. It may differ
            between devices. Sums must not lie in a loop or branch of the graph.
    """

    def __init__(self, function):
        self.function, self.compiled = function, {}

    def __call__(self, *arguments):
        return _context().merge_call(self._of_all, args=(self.function, *arguments))

    def _of_all(self, strategy, functions, *arguments):
        key = strategy.experimental_local_results(functions)
        if key not in self.compiled:
            self.compiled[key] = tf.function(lambda *each: strategy.run(
                lambda function, *own: function(*own), args=(functions, *each)), autograph=False)
        return self.compiled[key](*arguments)


class Split:
    """How the samples of a batch are split among the devices.

    Args:
        count: B of this device.
        means: whether the loss is a mean over samples; else it is a sum.

    Attributes:
        samples: B of all devices together.
        before: number of samples on the devices before this one.
        share: factor of this device's loss with which the sum over devices is the loss of the whole batch.
            Keras divides a mean over this device's samples by the number of devices, which is right only if
            all have equally many. Sums need no factor.

    Raises:
        ValueError: a device has no samples.
    """

    def __init__(self, count, means=True):
        self.samples, self.before, self.share = count, 0, 1.0
        if devices() > 1:
            counts = across(count * tf.one_hot(place(), devices(), dtype=tf.float64)).numpy().astype(int)
            self.samples, self.before = int(counts.sum()), int(counts[:place()].sum())
            if not counts.all():
                raise ValueError(f"a batch of {self.samples} samples leaves {np.sum(counts == 0)} of "
                                 f"{len(counts)} devices without any: leave out the rest of the data, for "
                                 "instance by tf.data.Dataset.batch(…, drop_remainder=True)")
            self.share = len(counts) * count / self.samples if means else 1.0
