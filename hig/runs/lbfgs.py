"""L-BFGS on the whole training set, by SciPy, in the training loop of the other optimizers.

SciPy's `minimize` has a loop of its own, which takes the place of Keras' `fit`: it asks for the loss and its
gradient as often as its line search wants, and calls back after each iteration, which is an epoch here. The
steps are float64; loss and gradient have the precision of the network. The loop ends by itself if rounding
leaves no lower loss to be found along its direction.

Source: Byrd, Lu, Nocedal and Zhu, A limited memory algorithm for bound constrained optimization, 1995.
"""

import keras
import numpy as np
import scipy.optimize
import tensorflow as tf

from hig.model import PhysicsModel

LINE_SEARCH = 50            # evaluations in one iteration at most


class ByLBFGS(PhysicsModel):
    """A PhysicsModel whose `fit` is SciPy's L-BFGS-B, without bounds.

    It is compiled with any Keras optimizer, of which only `iterations` is used: the number of evaluations of
    the gradient.

    Args:
        model: PhysicsModel, whose network, simulator and network_input it takes over.
        memory: number of pairs (step, change of the gradient) that make the Hessian. Each `fit` begins
            without any.
    """

    def __init__(self, model, memory):
        super().__init__(model.network, model.simulator, model.network_input)
        self.memory = memory

    def fit(self, dataset, initial_epoch=0, epochs=1, callbacks=(), **options):
        """Iterates on the dataset's first batch, from epoch `initial_epoch` to `epochs`.

        It ends sooner if a callback sets `stop_training` or no lower loss is found. Further options of Keras'
        fit are ignored.
        """
        x, y_true = next(iter(dataset))
        callbacks, epoch = keras.callbacks.CallbackList(callbacks, model=self), initial_epoch
        dtype = self.trainable_variables[0].dtype
        loss_and_gradient = self.compiler.function(self._trace_loss_and_gradient, "Loss and gradient")

        def evaluate(weights):
            self.optimizer.iterations.assign_add(1)  # before the weights change to those of a trial
            loss, gradient = loss_and_gradient(weights.astype(dtype), x, y_true)
            return float(loss), gradient.numpy().astype(np.float64)

        def accept(intermediate_result):
            nonlocal epoch
            self._assign(intermediate_result.x.astype(dtype))
            callbacks.on_epoch_end(epoch, {"loss": intermediate_result.fun})
            epoch += 1
            if self.stop_training or epoch >= epochs:
                raise StopIteration
            callbacks.on_epoch_begin(epoch)

        self.stop_training = False
        callbacks.on_train_begin()
        callbacks.on_epoch_begin(epoch)
        start = np.concatenate([np.ravel(w) for w in self.trainable_variables]).astype(np.float64)
        found = scipy.optimize.minimize(evaluate, start, jac=True, method="L-BFGS-B", callback=accept,
                                        options={
            "maxcor": self.memory, "maxls": LINE_SEARCH, "ftol": 0.0, "gtol": 0.0, "maxiter": 10**9,
            "maxfun": 10**9})
        self._assign(found.x.astype(dtype))                             # not those of the last trial
        callbacks.on_train_end()

    def _assign(self, weights):
        """Sets the trainable weights to those in one vector (p,)."""
        shares = tf.split(weights, [w.shape.num_elements() for w in self.trainable_variables])
        for share, variable in zip(shares, self.trainable_variables):
            variable.assign(tf.reshape(share, variable.shape))

    def _trace_loss_and_gradient(self, weights, x, y_true):
        """Loss of the batch and its gradient (p,) with these weights (p,), which stay in the model."""
        self._assign(weights)
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y_true, self(x, training=True), training=True)
        gradients = tape.gradient(loss, self.trainable_variables)
        return loss, tf.concat([tf.reshape(g, [-1]) for g in gradients], axis=0)
