"""A network that controls a differentiable simulator, as one Keras model: y = P(x, u), u = network(input)."""

import contextlib
from functools import partial

import numpy as np
import tensorflow as tf

from hig.backend import keras, leaves
from hig.compiled import Compiler, full_precision
from hig.control import step
from hig.functions import samples
from hig.optimizers import JacobianPower
from hig.proof import moved, tolerance_of
from hig.replicas import Split, anywhere, once, place
from hig.routes import Derivatives

PARTS = "network", "simulator", "network_input"
NUMBERS = int, float, str, np.generic                                   # what a part of a model may hold
ARRAYS = np.ndarray, tf.Tensor, tf.Variable, keras.Variable
KEPT_SHAPES = 48            # batch shapes whose compiled functions are kept, 5 to 30 MB each


@keras.saving.register_keras_serializable("hig")
class PhysicsModel(keras.Model):
    """Network and simulator in a row, trained on a loss of the simulator's outcome.

    With an ordinary Keras optimizer it trains by plain gradients; with an optimizer of `hig` each step is
    Δθ = −η · J^κ · g. θ are all trainable weights of the model: those of the network, and those of
    `simulator` and `network_input` if these are Keras layers. L2 regularisers are part of J and g, so that
    training ends at the minimum of the whole loss. Other penalties add their plain gradient to J^κ g, and
    adaptive steps refuse them (`hig.penalties`). Compile, fit, evaluate, callbacks and saving are Keras'.

    Args:
        network: built keras.Model (or layer). It returns the controls u, a tensor or a structure of tensors.
            With a Jacobian power it runs in inference mode: no dropout noise, no batch statistics.
        simulator: function or Keras layer (x, u) → y, differentiable TensorFlow code. x is what `fit` is
            given, an array or a structure of arrays with B rows; u are the controls; y is real, with B rows.
            While training, numbers and arrays that are its attributes may be replaced, and a tf.Variable may
            be assigned. What else it takes from Python, entries of an array set in place for instance, stays
            as it was in the first batch, until `compile` is called.
            Loop over time steps by `tf.while_loop(..., maximum_iterations=...)`, which XLA can compile with
            its derivatives. An optional method linearize(x, u) → (y, ∂y/∂u), with ∂y/∂u of shape
            (B, d, *shape of a sample's u), replaces automatic differentiation with respect to u.
        network_input: function or Keras layer of x that returns what the network sees; by default x itself.
            If the simulator takes a state and the network a target, for instance, pass both: x = (state,
            target) and `network_input=lambda x: x[1]`.

    Attributes:
        route: how the Jacobian of the last update was computed: "factored", "per sample" or "whole batch"
            (`hig.routes`), or "krylov, " and a way of `hig.krylov`. None before the first update.
    """

    def __init__(self, network, simulator, network_input=None, **options):
        super().__init__(**options)
        self.network, self.simulator, self.network_input = network, simulator, network_input or _same
        self.route, self._in_place = None, None
        self.reset_metrics()
        self.built = all(part.built for part in (network, simulator, network_input)
                         if isinstance(part, keras.layers.Layer))

    def compile(self, optimizer="rmsprop", loss=None, *, jit_compile="auto", **options):
        """Keras' compile. The loss is any Keras loss or a function (y_true, y) → one value per sample.

        Args:
            jit_compile: True: XLA compiles everything, or an error is raised. False: XLA compiles nothing.
                "auto": XLA compiles what it can, and a warning names the rest.

        Raises:
            ValueError: the optimizer is a Jacobian power, and the loss is scaled; or there are several
                devices, which the optimizer or the loss does not support.
        """
        power = getattr(optimizer, "inner_optimizer", optimizer)
        if isinstance(power, JacobianPower):
            scaled = power is not optimizer and type(optimizer).__name__
            if scaled or "mixed_float16" in (self.dtype_policy.name, keras.config.dtype_policy().name):
                raise ValueError(f"optimizer {power.name!r} under {scaled or 'the policy mixed_float16'}: "
                                 "loss scaling is for gradients, and a Jacobian power takes none; use "
                                 "float32, float64, bfloat16 or mixed_bfloat16 without it")
        self.asked_to_jit = jit_compile                         # Keras turns "auto" into True or False
        super().compile(optimizer=optimizer, loss=loss, jit_compile=jit_compile, **options)
        if isinstance(power, JacobianPower):
            self._check_devices()
        self.compiler = Compiler(jit_compile, self.run_eagerly)
        self._derivatives = {}  # by shapes of the batch, trainable weights, schedule, device and k

    def _check_devices(self):
        """Refuses what is not supported if a tf.distribute strategy splits a batch among devices."""
        strategy, reductions = self.distribute_strategy, self._reductions()
        if strategy.num_replicas_in_sync == 1:
            return
        refused = None
        if not self.optimizer.krylov:
            refused = ("the exact J^κ g takes the Jacobian of the whole batch: set krylov=16 or so in the "
                       "optimizer, or compile outside the strategy's scope")
        elif self.optimizer.adaptive:
            refused = ("adaptive steps are for one device: set adaptive=False in the optimizer, or compile "
                       "outside the strategy's scope")
        elif not reductions <= {"sum_over_batch_size", "mean"} and reductions != {"sum"}:
            refused = (f"losses with the reductions {sorted(map(str, reductions))} cannot be combined from "
                       'parts of a batch: take "sum_over_batch_size" for all losses, or "sum" for all')
        elif not all(isinstance(variable.value, tf.distribute.DistributedValues)
                     for variable in (*self.variables, *self.optimizer.variables)):
            refused = ("model or optimizer were made for one: make network, simulator, PhysicsModel and "
                       "optimizer within the strategy's scope")
        if refused:
            raise ValueError(f"{type(strategy).__name__} splits a batch among "
                             f"{strategy.num_replicas_in_sync} devices, but {refused}")

    def _reductions(self):
        return {getattr(loss, "reduction", "mean") for loss in tf.nest.flatten(self.loss)}

    # ------------------------------------------------------------------------------------------- Keras' model

    def call(self, x, training=False):
        """The outcome y = P(x, network(input)) for a batch, (B, …)."""
        return self.simulator(x, self.network(self.network_input(x), training=training))

    @property
    def composed(self):
        """Whether y = P(x, network(input)): False if a subclass has its own `call`."""
        return type(self).call is PhysicsModel.call

    @property
    def losses(self):
        """The penalties that layers add to the loss, as in every Keras model; replaced in `data_loss`."""
        if self._in_place is None:
            return super().losses
        with tf.init_scope():  # not recorded: only how many there are, and their dtypes
            dtypes = [loss.dtype for loss in super().losses]
        return [tf.cast(self._in_place, dtype) for dtype in dtypes]

    def data_loss(self, x, y_true, outcome, sample_weight, penalty=0.0, measured=False):
        """The loss of an outcome, scalar, with `penalty` in place of each penalty.

        Metrics and what a subclass' own compute_loss keeps in variables are left unchanged. If `measured`,
        they change as in an update by Keras, except the metric of the loss itself.
        """
        own = type(self).compute_loss is not keras.Model.compute_loss
        if self.loss is None and not own and self.losses:               # the loss consists of penalties alone
            return 0.0 * tf.add_n([tf.cast(tf.reduce_sum(leaf), keras.config.floatx())
                                   for leaf in tf.nest.flatten(outcome)])
        variables = [variable for metric in self.metrics if not measured or metric.name == "loss"
                     for variable in metric.variables]
        if own and not measured:
            variables += self.non_trainable_variables
        self._in_place = penalty
        try:  # Keras' form, which leaves out `training` if a subclass' own compute_loss does not take it
            with _unchanged(variables):
                return self._compute_loss(x, y_true, outcome, sample_weight, training=False)
        finally:
            self._in_place = None

    def predict_step(self, data):
        """What `predict` returns for each batch: {"controls": u, "outcome": y}."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        x = self.dtype_policy.convert_input(x, self.autocast, self.input_dtype)
        controls = self.network(self.network_input(x), training=False)
        return {"controls": controls, "outcome": self.simulator(x, controls)}

    def get_config(self):
        """Network, simulator and network_input, serialised: what `save` writes and `from_config` takes.

        Raises:
            ValueError: one of them is a function that Keras cannot serialise.
        """
        config = super().get_config()
        for name in PARTS:
            part = getattr(self, name)
            if not (part is _same or isinstance(part, keras.layers.Layer) or part is
                    keras.saving.get_registered_object(keras.saving.get_registered_name(part))):
                raise ValueError(f"{name} is {part!r}, which Keras cannot write to a file: make it a Keras "
                                 "layer or register it with keras.saving.register_keras_serializable, or "
                                 "save the network alone: model.network.save(…)")
            config[name] = None if part is _same else keras.saving.serialize_keras_object(part)
        return config

    @classmethod
    def from_config(cls, config):
        """The model that `get_config` describes."""
        parts = {name: keras.saving.deserialize_keras_object(config.pop(name)) for name in PARTS}
        return cls(**parts, **config)

    def compile_from_config(self, config):
        """Compiles a loaded model as it was compiled when saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)              # else its state cannot be loaded

    def save(self, filepath, *arguments, **options):
        """Keras' save. If `get_config` cannot serialise a part, it raises before anything is written."""
        self.get_config()
        super().save(filepath, *arguments, **options)

    def make_train_function(self, force=False):
        """Makes the function that Keras' fit calls for each `steps_per_execution` batches.

        A step of a Jacobian power is compiled in parts, and Python calls them in turn, because LAPACK runs
        between them. A step of an ordinary optimizer is compiled as a whole, by XLA if possible.
        """
        if self.train_function is not None and not force:
            return
        if isinstance(self.optimizer, JacobianPower):
            self.train_function = self._train_by_parts
            return
        eager = self.run_eagerly or self.compiler.eager
        may_compile = self.asked_to_jit == "auto" and not eager and all(
            layer.supports_jit for part in (self.network, self.simulator, self.network_input)
            if isinstance(part, keras.layers.Layer) for layer in leaves(part))
        if may_compile:
            self.train_function = self._train_first
        else:
            self.jit_compile = self.asked_to_jit is True
            super().make_train_function(force=True)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Builds the model before training, as Keras does, but on several hosts from a batch of this process.

        Keras 3.12 would take the mean of the batches of all devices, which fails across processes.
        """
        strategy = self.distribute_strategy
        if iterator is not None and isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            _, _, batches = next(iter(iterator))
            iterator, data_batch = None, tf.nest.map_structure(
                lambda t: strategy.experimental_local_results(t)[0], next(iter(batches)))
        super()._maybe_symbolic_build(iterator, data_batch)

    def _train_by_parts(self, iterator):
        logs, several = None, self.distribute_strategy.num_replicas_in_sync > 1

        def one_step(data):
            return self.train_step(keras.tree.map_structure(
                lambda t: None if isinstance(t, tf.experimental.Optional) else t, data))
        if self.compiler.values not in (None, self._python_values()):
            self.compiler.warn("A part of the model, or a number or an array that it holds, has changed: all "
                               "is compiled again, which takes seconds; a tf.Variable changes without")
            self._derivatives, self.test_function, self.predict_function = {}, None, None
        if several:
            self._check_devices()                                       # settings may have changed
            with self.distribute_strategy.scope():
                self.optimizer.build_for(self.trainable_variables)
        for _, data in zip(range(self.steps_per_execution), iterator):
            with full_precision():
                logs = self.distribute_strategy.run(one_step, (data,)) if several else one_step(data)
        self.compiler.values = self._python_values()
        if several and logs is not None:                                # of all devices together
            logs = {**self.get_metrics_result(), **self.mean_spectrum()}
        if logs is None:
            raise StopIteration
        return logs

    def _python_values(self):
        """What graphs keep as it was when they were made: the parts of the model, the weights' regularisers,
        and the numbers, strings, arrays and variables that these hold.

        Numbers and strings count as changed if their values do, all else if another object takes its place.
        """
        held = [self.network, self.simulator, self.network_input]
        held += filter(None, [weight.regularizer for weight in self.variables])
        found = [id(holder) for holder in held]
        for holder in held:
            for name, value in getattr(getattr(holder, "__self__", holder), "__dict__", {}).items():
                if isinstance(value, NUMBERS) and name[0] != "_":
                    found.append((name, value))
                elif isinstance(value, ARRAYS) and name[0] != "_" and not tf.is_symbolic_tensor(value):
                    found.append((name, id(value)))
        return found

    def _train_first(self, iterator):
        """The first call of the train function: it finds out whether XLA may compile the steps."""
        batches = [data for _, data in zip(range(self.steps_per_execution), iterator)]
        if not batches:
            raise StopIteration
        same = batches if not isinstance(iterator, tf.data.Iterator) else tf.data.Dataset.from_generator(
            lambda: batches, output_signature=iterator.element_spec)
        failure = None
        try:
            if self._agrees_with_xla(batches[0]):
                self.jit_compile = True
                super().make_train_function(force=True)
                return self.train_function(iter(same))
        except (MemoryError, tf.errors.ResourceExhaustedError):
            raise
        except Exception as error:  # of users' code, or of XLA in what a layer does only in training
            failure = error
        self.jit_compile = False                                        # Keras' "auto": no XLA on a CPU
        super().make_train_function(force=True)
        logs = self.train_function(iter(same))  # raises again unless XLA caused the error
        if failure:
            self.compiler.without_xla("The step", failure)
        return logs

    def _agrees_with_xla(self, data):
        """Whether XLA compiles the loss and gradient of a batch, and gives the right gradient."""
        batch = keras.utils.unpack_x_y_sample_weight(data)

        def gradient(x, y_true, sample_weight):
            with tf.GradientTape() as tape:
                loss = self.data_loss(x, y_true, self(x, training=False), sample_weight)
            gradients = tape.gradient(loss, [weight.value for weight in self.trainable_variables])
            return [tf.cast(t, tf.float64) for t in (loss, *gradients) if t is not None]
        with_xla, without = (self.compiler.function(gradient, "The step", xla) for xla in (True, False))
        tolerance = 10 * tolerance_of(self)
        for share in 0, 0.01:  # at a minimum the gradient is only rounding errors: try other weights
            with moved(self.trainable_variables, share):
                found = with_xla(*batch)
                if not with_xla.xla:
                    return False
                wanted = without(*batch)
            sizes = [float(tf.norm(t)) for t in wanted]
            allowed = [tolerance * max(size, 0.01 * max(sizes[1:], default=0.0)) for size in sizes]
            if all(not np.isfinite(size) or float(tf.norm(one - other)) <= error
                   for one, other, size, error in zip(found, wanted, sizes, allowed)):
                return True
        self.compiler.differs("The step")
        return False

    # ------------------------------------------------------------------------------------------------ a step

    def train_step(self, data):
        """One update of the weights: by Keras with an ordinary optimizer, else along a power of the Jacobian.

        `hig.routes` computes the loss L, the outcome y, g and J of the batch. `JacobianPower.power` computes
        J^κ g by `hig.powers`, `hig.control` scales it, and the optimizer applies it.
        """
        if not isinstance(self.optimizer, JacobianPower):
            return super().train_step(data)
        x, y_true, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x = self.dtype_policy.convert_input(x, self.autocast, self.input_dtype)  # as Keras does before `call`
        batch = x, y_true, sample_weight
        split = Split(samples(x, y_true), self._reductions() != {"sum"})
        derivatives = self.derivatives_for(*batch)
        functions = derivatives.functions
        functions.split = split
        for _ in range(2):  # again if J^κ g is not finite because of XLA alone
            loss, outcome, gradient, jacobian = derivatives.linearise(*batch)               # L, y, g, J
            loss, gradient, jacobian, rest = functions.penalties.extend(                    # + regularisers
                batch, outcome, loss, gradient, jacobian,
                lambda: functions.curvature(batch, outcome, gradient)[0])
            if functions.loss_reads_weights:
                rest = (0 if rest is None else rest) + functions.loss_slope(*batch, outcome).numpy()
            power = self.optimizer.power(jacobian, gradient, split.samples, rest)           # J^κ g
            direction, numbers = step(                                          # of fixed or adaptive size
                self.optimizer, loss, power,
                partial(functions.quadratic_model, batch, outcome, gradient, jacobian),
                partial(functions.loss_after, batch))
            finite = direction is None or bool(tf.reduce_all(tf.math.is_finite(direction)))
            if finite or not anywhere(derivatives.mended(batch)):
                break
        self.route, to_record = derivatives.route, (loss, x, y_true, outcome, sample_weight)
        if direction is None:                                                   # no step was good enough
            results = functions.record(*to_record)
        else:
            results = functions.apply(tf.convert_to_tensor(direction), *to_record)    # θ ← θ − η · direction
        if np.size(self._spectrum_sum) != len(numbers):                 # krylov has been set or unset
            self._spectrum_sum, self._spectrum_count = 0.0, 0
        self._spectrum_sum += np.array(numbers, float)
        self._spectrum_count += 1
        return {**results, **self.mean_spectrum(), **results}  # in a clash of names, metrics win

    def derivatives_for(self, x, y_true, sample_weight):
        """The Derivatives for batches of this shape, checked with the first of them."""
        if not self.built:  # a simulator may make its weights in its first call
            self(x, training=False)
        weights = self.trainable_variables
        key = place(), self.optimizer.krylov, self.optimizer.schedule, tuple(map(id, weights)), str(
            tf.nest.map_structure(lambda t: t is not None and (tuple(t.shape), t.dtype),
                                  (x, y_true, sample_weight)))
        if key not in self._derivatives:
            while len(self._derivatives) >= KEPT_SHAPES:
                del self._derivatives[next(iter(self._derivatives))]
            derivatives = Derivatives(self, self.compiler, x, y_true, sample_weight)
            self._derivatives[key] = derivatives
        functions = self._derivatives[key].functions
        functions.penalties = functions.penalties.now()
        self.optimizer.check(weights, functions.loss_reads_weights and "what the loss takes from weights "
                             "other than by the outcome" or functions.penalties.irregular)
        self.optimizer.build_for(weights)
        self._derivatives[key] = self._derivatives.pop(key)             # the latest comes last
        return self._derivatives[key]

    def trace_update(self, direction, *to_record):
        """Updates the metrics as `trace_record` does, and moves the weights by −η · direction, (p,)."""
        results = self.trace_record(*to_record)
        self.optimizer.apply_directions(self.shares(once(direction)), self.trainable_variables)
        return results

    def trace_record(self, loss, x, y_true, outcome, sample_weight):
        """Updates Keras' metrics with a batch; returns their values."""
        self.data_loss(x, y_true, outcome, sample_weight, measured=True)        # of each outcome's loss
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss, sample_weight=tf.shape(tf.nest.flatten(outcome)[0])[0])
        return self.compute_metrics(x, y_true, outcome, sample_weight)

    def shares(self, direction):
        """A direction (p,) split into a tensor for each weight, of its shape and dtype."""
        weights = self.trainable_variables
        shares = tf.split(direction, [w.shape.num_elements() for w in weights])
        return [tf.cast(tf.reshape(share, w.shape), w.dtype) for share, w in zip(shares, weights)]

    # ------------------------------------------------------------------------------------------ what fit logs

    def reset_metrics(self):
        """Resets Keras' metrics and the means of `mean_spectrum`; called at the start of an epoch."""
        super().reset_metrics()
        self._spectrum_sum, self._spectrum_count = 0.0, 0

    def mean_spectrum(self):
        """Means since the last reset of the numbers that `optimizer.logged` names, for instance "rank"."""
        return dict(zip(self.optimizer.logged, (self._spectrum_sum / self._spectrum_count).tolist()))


@contextlib.contextmanager
def _unchanged(variables):
    """A context after which variables have the values from before it, in graphs, too."""
    before = [tf.identity(variable.value) for variable in variables]
    yield
    for variable, value in zip(variables, before):
        variable.assign(value)


def _same(x):
    """The default `network_input`: the network sees x itself."""
    return x
