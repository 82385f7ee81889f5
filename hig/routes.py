"""How the Jacobian J = ∂y/∂θ of a model is computed: three routes, and the checks that choose one.

θ are all trainable weights of the model, whether they act in the network, in the simulator or in
`network_input`. From the fastest to the most general, with the notation of `hig.jacobian`, the routes are:

factored      Every weight is the kernel or bias of a product z = a W + b of one row per sample. Every sample
              is repeated d times, row (b, k) is seeded with the unit cotangent e_k, and one backward pass
              gives the cotangents Δ of all z.
per sample    Row (b, k) of J is a vector-Jacobian product of sample b alone. If every row can have weights
              of its own (`hig.own_weights`), one backward pass gives all rows. Otherwise one vectorised pass
              gives them: through the network alone, from the cotangents of the controls, or through network
              and simulator.
whole batch   Row r of J is a vector-Jacobian product of the whole batch, in n backward passes of B samples.
              This is right for every differentiable function θ → y that gives the same y each time.

`hig.rows` computes these routes; with `krylov=k` the products of `hig.krylov` take their place. Two checks
decide which route is taken. First, the structure of the traced graph shows where weights act and whether
samples stay apart (`hig.structure`). A route that the graph rules out is never taken, whatever the numbers
are. Second, the route's numbers are checked with the first batch of each shape (`hig.proof`): for a random v,
Jᵀv by the route's factors or rows must equal that of the whole model, which automatic differentiation gives
at the cost of one backward pass. If the two differ, the next route is tried. If the graph has unknown
operations or random numbers, or the model runs as plain Python, small and large rows of J get the same weight
in this check, and the check is repeated at the updates 1, 2, 4, 8, …, and when an untrained variable that the
model reads has changed.
"""

import math
import time
from functools import partial

import numpy as np
import tensorflow as tf

from hig.functions import Functions
from hig.krylov import Products, ways
from hig.memory import keep_freed_memory
from hig.proof import Proof, moved
from hig.replicas import across, check_model, devices
from hig.rows import batch_rows, by_rows, factored, network_rows, one_by_one, own_rows, sample_rows

_LARGE = 6000               # rows of a matrix whose decomposition takes about ten seconds
_PROOF_SHARE = 0.02         # share of the updates' time that repeated proofs may take


def candidates(functions):
    """The routes that the structure of the graph does not rule out, the fastest first.

    Yields:
        (route, make, proven): "factored", "per sample", "whole batch", or "krylov, " and a way of
        `hig.krylov`; a function of xla → function (x, y*, sample weights) → loss, outcome, g, Jacobian; and
        whether the structure of the graph shows that the route is right.
    """
    structure, optimizer, compiler = functions.structure, functions.model.optimizer, functions.compiler
    possible, repeatable = not structure.certainly_mixed, not (structure.random or compiler.eager)
    apart = repeatable and not structure.mixing
    if optimizer.krylov:
        for way in ways(functions, structure.network_alone and possible):
            yield (f"krylov, {way}", lambda xla, way=way: Products(
                functions, way, optimizer.krylov_chunk, xla).linearise, apart or repeatable and not possible)
        return
    if possible:
        if not structure.not_layered and not compiler.eager:            # no graph in which to find layers
            yield "factored", partial(factored, functions), apart
        for rows, usable, loop in ((own_rows, structure.has_own_weights, False),
                                   (network_rows, structure.network_alone, structure.loop_in_network),
                                   (sample_rows, True, structure.loop)):
            if usable:  # XLA cannot compile vectorised loops, and takes seconds to find out
                yield ("per sample", lambda xla, rows=rows, loop=loop: by_rows(
                    functions, rows, xla and (compiler.forced or not loop)), apart)
    for rows in batch_rows, one_by_one:
        yield "whole batch", partial(by_rows, functions, rows, whole_batch=True), repeatable


class Derivatives:
    """Loss, gradient g and Jacobian J of a model, for batches of one shape and one set of trainable weights.

    Args:
        model: compiled PhysicsModel.
        compiler: hig.compiled.Compiler, which runs the users' functions and warns.
        x, y_true, sample_weight: the first batch, eager tensors, as Keras hands them to `train_step`.

    Attributes:
        functions: hig.functions.Functions.
        route: the name of the route taken; see `candidates`.

    Raises:
        ValueError: no weight is trainable, or none acts on the outcome; the outcome does not have one row per
            sample; a derivative of the model is not finite; or no route is right.
        TypeError: a weight or the outcome is not real.
        MemoryError: an update takes more memory than is free.
    """

    def __init__(self, model, compiler, x, y_true, sample_weight):
        self.functions = functions = Functions(model, compiler, x, y_true)
        self.compiler, self.krylov, structure = compiler, model.optimizer.krylov, functions.structure
        self.proof, batch = Proof(functions), (x, y_true, sample_weight)
        reference = self.proof.reference(*batch)
        if devices() > 1:
            check_model(functions)
        if functions.loss_reads_weights:
            compiler.warn("The loss reads weights itself, besides the outcome: this part of the loss has no "
                          "Jacobian and adds its plain gradient, as in gradient descent")
        if all(gradient is None for gradient in reference.product):
            raise ValueError("No gradients provided for any variable: the outcome does not depend on any "
                             "trainable weight, or not in a differentiable way.")
        broken = self.proof.not_finite(reference)
        if broken:
            raise ValueError(broken)
        self._untried = ((*candidate, xla) for candidate in candidates(functions)
                         for xla in ((True, False) if compiler.xla else (False,)))
        self._reasons = []
        if not self.krylov:
            functions.require_memory(3 * sum(shape[-1] for shape in functions.shapes if shape))  # of factors
            keep_freed_memory()
            if structure.certainly_mixed:
                self._reasons.append(f"samples reach each other's outcomes by {structure.mixing}")
            if structure.not_layered:
                self._reasons.append(structure.not_layered)
        self._updates, self._right_until, self._next_proof, self._settings = 0, 0, 2, ()
        self._take_route(batch, reference)
        smaller = min(functions.shape)
        if smaller > _LARGE and not self.krylov:
            compiler.warn(f"An update decomposes a matrix of {smaller} × {smaller} numbers on the host, "
                          f"which takes about {3 * (smaller / 4096)**3:.0f} s; the optimizer's krylov=16 "
                          "never forms it")

    def linearise(self, x, y_true, sample_weight):
        """Loss, outcome, g (n,) and J of a batch: (float tensor, tensors, numpy array, Jacobian).

        With several devices, the loss is that of the whole batch, and g and J are this device's rows.
        """
        started = time.perf_counter()
        result = self._linearise(x, y_true, sample_weight)
        self._updates += 1
        if not self._proven:
            result = self._prove_again((x, y_true, sample_weight), result, time.perf_counter() - started)
        if devices() > 1:
            (loss, outcome, gradient, jacobian), share = result, self.functions.split.share
            result = across(share * loss), outcome, share * gradient, jacobian
        return result

    def mended(self, batch):
        """Called if J^κ g is not finite. Takes another route and returns True if only XLA is to blame.

        If derivatives without XLA are not finite either, it warns, names the weights, and returns False.
        """
        reference = self.proof.reference(*batch)
        broken = self.proof.not_finite(reference)
        if broken:
            self.compiler.warn(broken)
        finite = not broken and np.isfinite(reference.loss) and np.isfinite(reference.gradient).all()
        if finite:
            self._take_route(batch, reference)
        return finite

    def _take_route(self, batch, reference):
        """Takes the first untried route that agrees with the reference on a batch."""
        failure = None
        for route, make, proven, xla in self._untried:
            function, failure = make(xla), None
            try:
                wrong = self.proof.disagreement(function, batch, reference, not proven)
                if wrong:  # perhaps a unit is at its kink, where rounding decides: try other weights
                    with moved(self.functions.weights):
                        wrong = self.proof.disagreement(function, batch, self.proof.reference(*batch),
                                                        not proven)
            except (MemoryError, tf.errors.ResourceExhaustedError):
                raise
            except Exception as error:  # users' code fails on rows that are not those of its batch
                failure, message = error, (str(error).strip() or repr(error)).splitlines()[0][:160]
                wrong = f"a faster route, perhaps with other rows than the batch, fails ({message})"
            if not wrong:
                if self.compiler.xla and not xla:
                    self.compiler.differs("The Jacobian")
                elif self._reasons:
                    self.compiler.warn(f"The Jacobian takes the route {route!r}, because "
                                       f"{self._reasons[0]}. An update costs {self._costs(route)}.")
                self.route, self._linearise, self._proven = route, function, proven
                return
            if not xla:
                self._reasons.append(wrong)
        if failure:
            raise failure
        self.proof.refuse(batch, self._reasons[-1])

    def _prove_again(self, batch, result, seconds):
        """Repeats the proof if it is due. Returns `result`, or the next route's result if the proof fails."""
        started, before = time.perf_counter(), self._settings
        self._settings = [variable.numpy() for variable in self.functions.structure.variables]
        if self._updates < self._next_proof and all(map(np.array_equal, before, self._settings)):
            return result
        wrong = self.proof.disagreement(lambda *_: result, batch, self.proof.reference(*batch), weigh=True)
        if wrong:
            self._reasons = [wrong]
            self.compiler.warn(f"The route {self.route!r} to the Jacobian stopped being right: {wrong}. "
                               f"Steps may have been wrong since update {self._right_until + 1}; this is "
                               f"update {self._updates}.")
            self._take_route(batch, self.proof.reference(*batch))
            result = self._linearise(*batch)
        self._right_until = self._updates
        pause = math.ceil((time.perf_counter() - started) / (_PROOF_SHARE * seconds))
        self._next_proof = self._updates + min(self._updates, max(1, pause))
        return result

    def _costs(self, route):
        n, p = self.functions.shape
        if self.krylov:
            return f"{min(self.krylov, n, p)} products with J and as many with its transpose"
        of_what = "one sample" if route == "per sample" else f"all {self.functions.batch} samples"
        return (f"{n} backward passes of {of_what} and {8 * n * p / 1e6:.3g} MB for J, n = {n} by p = {p}")
