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
operations, small and large rows of J get the same weight in this check, and the check is repeated at the
updates 1, 2, 4, 8, …, and when an untrained variable that the model reads has changed.
"""

import math
import time
from functools import partial
from typing import Callable, NamedTuple

import numpy as np
import tensorflow as tf

from hig.compiled import NotApplicable
from hig.functions import Functions
from hig.krylov import Products, ways
from hig.memory import keep_freed_memory
from hig.proof import Proof, moved
from hig.replicas import across, check_model, devices
from hig.rows import (batch_rows, by_batch, by_samples, factored, network_rows, one_by_one, own_rows,
                      sample_rows)

_LARGE = 6000               # rows of a matrix whose decomposition takes about ten seconds
_PROOF_SHARE = 0.02         # share of the updates' time that repeated proofs may take


class _Candidate(NamedTuple):
    """A route that may be right.

    Attributes:
        route: "factored", "per sample", "whole batch", or "krylov, " and a way of `hig.krylov`.
        make: function of (Functions, xla) → function (x, y*, sample weights) → loss, outcome, g, Jacobian.
        proven: whether the structure of the graph shows that the route is right.
        loops: whether the route vectorises a loop, which takes seconds to trace and which XLA cannot compile.
    """

    route: str
    make: Callable
    proven: bool
    loops: bool = False


def candidates(structure, eager):
    """The routes that the structure of the graph does not rule out, the fastest first.

    Args:
        structure: hig.structure.Structure.
        eager: whether the model runs as plain Python, so that there is no graph in which to find layers.
    """
    apart = not structure.mixing
    if not structure.certainly_mixed:
        if not structure.not_layered and not eager:
            yield _Candidate("factored", factored, apart)
        if structure.has_own_weights:
            yield _Candidate("per sample", partial(by_samples, own_rows), apart)
        if structure.network_alone:
            yield _Candidate("per sample", partial(by_samples, network_rows), apart,
                             structure.loop_in_network)
        yield _Candidate("per sample", partial(by_samples, sample_rows), apart, structure.loop)
    yield _Candidate("whole batch", partial(by_batch, batch_rows), True)
    yield _Candidate("whole batch", partial(by_batch, one_by_one), True)


def krylov_candidates(functions):
    """The ways to take products with J and Jᵀ that may be right, the fastest first."""
    optimizer, structure = functions.model.optimizer, functions.structure
    for way in ways(functions, structure.network_alone and not structure.certainly_mixed):
        yield _Candidate(
            f"krylov, {way}", lambda functions, xla, way=way: Products(
                functions, way, optimizer.krylov_chunk, xla).linearise,
            way != "through the network" or not structure.mixing)


class Derivatives:
    """Loss, gradient g and Jacobian J of a model, for batches of one shape and one set of trainable weights.

    Args:
        model: compiled PhysicsModel.
        compiler: hig.compiled.Compiler, which runs the users' functions and warns.
        x, y_true, sample_weight: the first batch, eager tensors, as Keras hands them to `train_step`.

    Attributes:
        functions: hig.functions.Functions.
        route: that of the `_Candidate` taken.

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
        if all(gradient is None for gradient in reference.product):
            raise ValueError("No gradients provided for any variable: the outcome does not depend on any "
                             "trainable weight, or not in a differentiable way.")
        broken = self.proof.not_finite(reference)
        if broken:
            raise ValueError(broken)
        if not self.krylov:
            functions.require_memory(3 * sum(shape[-1] for shape in functions.shapes if shape))  # of factors
            keep_freed_memory()
        self._untried = krylov_candidates(functions) if self.krylov else candidates(structure, compiler.eager)
        self._reasons = [] if self.krylov else [reason for reason in (
            structure.certainly_mixed and f"samples reach each other's outcomes by {structure.mixing}",
            structure.not_layered) if reason]
        self._updates = self._right_until = 0
        self._next_proof, self._seconds = 2, 0.0
        self._settings = [variable.numpy() for variable in structure.variables]
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
        if not self._proven and (self._updates >= self._next_proof or self._settings_have_changed()):
            self._seconds = time.perf_counter() - started
            result = self._prove_again((x, y_true, sample_weight), result)
        if devices() > 1:
            (loss, outcome, gradient, jacobian), share = result, self.functions.split.share
            result = across(share * loss), outcome, share * gradient, jacobian
        return result

    def _settings_have_changed(self):
        """Whether a variable that the model reads but does not train has changed since the last call."""
        before = self._settings
        self._settings = [variable.numpy() for variable in self.functions.structure.variables]
        return not all(map(np.array_equal, before, self._settings))

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
        for candidate in self._untried:
            may_compile = self.compiler.forced or self.compiler.xla and not candidate.loops
            for xla in (True, False) if may_compile else (False,):
                function, wrong, failure = candidate.make(self.functions, xla), None, None
                try:
                    wrong = self._disagreement(function, candidate, batch, reference)
                except (MemoryError, tf.errors.ResourceExhaustedError):
                    raise
                except NotApplicable as reason:
                    wrong = str(reason)
                    break
                except Exception as error:  # users' code fails on rows that are not those of its batch
                    failure = error
                    message = str(error).strip().splitlines()[0][:160]
                    wrong = f"the model fails on other rows than its batch ({message})"
                    break
                if not wrong:
                    break
            if not wrong:
                if not xla and may_compile:
                    self.compiler.differs("The Jacobian")
                elif self._reasons:
                    self.compiler.warn(f"The Jacobian takes the route {candidate.route!r}, as "
                                       f"{self._reasons[0]}. An update costs {self._costs(candidate.route)}.")
                self.route, self._linearise, self._proven = candidate.route, function, candidate.proven
                return
            self._reasons.append(wrong)
        if failure:
            raise failure
        self.proof.refuse(batch, self._reasons[-1])

    def _disagreement(self, function, candidate, batch, reference):
        wrong = self.proof.disagreement(function, batch, reference, weigh=not candidate.proven)
        if wrong:  # perhaps a unit is at its kink, where rounding decides: try other weights
            with moved(self.functions.weights):
                wrong = self.proof.disagreement(function, batch, self.proof.reference(*batch),
                                                weigh=not candidate.proven)
        return wrong

    def _prove_again(self, batch, result):
        """Repeats the proof on a batch. Returns `result`, or the next route's result if the proof fails."""
        started = time.perf_counter()
        wrong = self.proof.disagreement(lambda *_: result, batch, self.proof.reference(*batch), weigh=True)
        if wrong:
            self._reasons = [wrong]
            self.compiler.warn(f"The route {self.route!r} to the Jacobian stopped being right: {wrong}. "
                               f"Steps may have been wrong since update {self._right_until + 1}; this is "
                               f"update {self._updates}.")
            self._take_route(batch, self.proof.reference(*batch))
            result = self._linearise(*batch)
        self._right_until = self._updates
        pause = math.ceil((time.perf_counter() - started) / (_PROOF_SHARE * self._seconds))
        self._next_proof = self._updates + min(self._updates, max(1, pause))
        return result

    def _costs(self, route):
        n, p = self.functions.shape
        if self.krylov:
            return f"{min(self.krylov, n, p)} products with J and as many with its transpose"
        of_what = "one sample" if route == "per sample" else f"all {self.functions.batch} samples"
        return (f"{n} backward passes of {of_what} and {8 * n * p / 1e6:.3g} MB for J, n = {n} by p = {p}")
