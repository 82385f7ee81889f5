"""The training data: random fields x_gt and their y* = Δ x_gt, a fresh batch for every update, as published.

The published run calls PhiFlow's `math.seed(s)` and then draws one `Noise` for each update, eagerly, from
TensorFlow's global generator. That generator works like this: the seed starts a `random.Random` of Python;
each draw takes its next 31-bit integer as the seed of the operation; the numbers are the Philox stream with
key s that starts at the counter (0, operation seed). A `Noise` makes two draws, for the real and the
imaginary part of its amplitudes.

An eager draw takes milliseconds, several times as long as an update by Adam. Here PhiFlow's `Noise` is traced
once into a tf.data pipeline, with a backend that hands it the same numbers from TensorFlow's stateless
generator. This gives the same fields (to rounding) without global state, and can begin at any update.
"""

import random

import numpy as np
import tensorflow as tf
from phi.tf import TENSORFLOW
from phi.tf.flow import CenteredGrid, Noise, batch, extrapolation, field

DRAWS = 2                   # of each Noise
BATCHES_AT_ONCE = 16        # traced into one call of the pipeline, which spares most of TensorFlow's own time
_PHILOX = 1                 # number of that algorithm in tf.random.Algorithm


class _SeededNormals(type(TENSORFLOW)):
    """PhiFlow's TensorFlow backend with normal numbers of given seeds.

    Use it in a `with` statement after `op_seeds`, uint64 (M, DRAWS), has been set. Row i of the j-th draw,
    (M, …), is what TensorFlow draws with the global seed and op_seeds[i, j].
    """

    def __init__(self, seed):
        super().__init__()
        self.key = tf.constant([seed % (2**31 - 1)], tf.uint64)         # as TensorFlow does with long seeds
        self.op_seeds, self.draw = None, 0

    def random_normal(self, shape, dtype):
        """Standard normal numbers, float32 of that shape; called by PhiFlow."""
        draws = [tf.raw_ops.StatelessRandomNormalV2(shape=shape[1:], key=self.key, alg=_PHILOX,
                                                    counter=tf.stack([tf.zeros((), tf.uint64), op_seed]))
                 for op_seed in tf.unstack(self.op_seeds[:, self.draw])]
        self.draw = (self.draw + 1) % DRAWS
        return tf.stack(draws)


def _sampler(seed, batch_size, resolution):
    """Function of op_seeds, uint64 (M, DRAWS) with M known → (x_gt, y*), each (M, B, resolution²) float32."""
    normals = _SeededNormals(seed)

    @tf.autograph.experimental.do_not_convert
    def sample(op_seeds):
        normals.op_seeds = op_seeds
        shape = batch(update=op_seeds.shape[0], batch=batch_size)
        with normals:
            x_gt = CenteredGrid(Noise(shape), extrapolation.ZERO, x=resolution, y=resolution)
        return tuple(tf.reshape(f.values.native("update,batch,x,y"), (-1, batch_size, resolution**2))
                     for f in (x_gt, field.laplace(x_gt)))

    return sample


def training_fields(seed, batch_size, resolution, first_update=0):
    """The batches that the published code draws after `math.seed(seed)`, without end.

    Args:
        seed: int, at least 0.
        batch_size: B, fields for each update.
        resolution: cells along each axis, of size 1.
        first_update: number of updates whose batches are left out, to continue a run.

    Returns:
        tf.data.Dataset of (x_gt, y*), float32 (B, resolution²) each. Every iterator begins with
        `first_update`.
    """
    def op_seeds():
        generator = random.Random(seed)
        for _ in range(DRAWS * first_update):
            generator.randint(0, 2**31 - 1)
        while True:
            yield np.array([[generator.randint(0, 2**31 - 1) for _ in range(DRAWS)]
                            for _ in range(BATCHES_AT_ONCE)], np.uint64)

    blocks = tf.data.Dataset.from_generator(
        op_seeds, output_signature=tf.TensorSpec((BATCHES_AT_ONCE, DRAWS), tf.uint64))
    return blocks.map(_sampler(seed, batch_size, resolution)).unbatch().prefetch(BATCHES_AT_ONCE)


def held_out_fields(count, resolution):
    """Fields that no training run sees: (x_gt, y*), float32 (count, resolution²) each, always the same.

    They come from operation seeds beyond 31 bits, which the generator of the training fields never gives.
    """
    sample = tf.function(_sampler(0, count, resolution))
    x_gt, y_target = sample(tf.constant([[2**31, 2**31 + 1]], tf.uint64))
    return x_gt[0], y_target[0]
