"""What the traced graph of a model says: where its weights act, and whether samples stay apart.

If a weight W acts only in a product z = a W + b, on one row a per sample, then its part of row r of J is
a_r ⊗ ∂y_r/∂z, and the factors a and ∂y/∂z are enough. `layer_products` follows the value of every weight to
the operations that use it, including those whose result is multiplied by 0 for now.
"""

import math
import re
from typing import NamedTuple

import tensorflow as tf

from hig.own_weights import own_weights
from hig.sample_axes import BRANCHES, CALLS, LOOPS, SampleAxes

_RANDOM = re.compile("Random|Normal|Uniform|Multinomial|Rng")          # in names of operations


class Structure:
    """What the graph of x → y says about a model: which routes to its Jacobian can be right.

    Args:
        functions: hig.functions.Functions, of which d, n, shape and penalties are not yet set.
        x: the first batch.

    Attributes:
        outputs: d, numbers in the outcome of a sample.
        penalties: how many `losses` the model has after a call on a batch.
        not_layered: "" if all weights act in products of one row per sample (`layer_products`), else a clause
            that says why not.
        mixing: "" if samples stay apart, else the operation by which they may reach each other's outcomes,
            or a clause that says that the graph cannot be read.
        certainly_mixed: whether samples do reach each other's outcomes.
        network_alone: whether weights act only in the network.
        loop, loop_in_network: whether there is a loop, and whether there is one in the network.
        reads_inside: whether a loop, a branch or a tf.function reads variables itself.
        has_own_weights: whether every row can have weights of its own (`hig.own_weights`), in a model
            without the factored route.
        random: whether the graph has random numbers, which may be multiplied by 0 for now.
        variables: what the model reads but does not train.
        memory: about how many bytes the tensors of a forward pass of the batch take; 0 if unknown.
    """

    def __init__(self, functions, x):
        model, data, batch, network_span = functions.model, x, functions.batch, [0, 0]

        def outcome_of(x):
            operations = tf.compat.v1.get_default_graph().get_operations
            if model.composed:
                inputs = model.network_input(x)
                before = len(operations())
                controls = model.network(inputs, training=False)
                network_span[:] = before, len(operations())
                outcome = model.simulator(x, controls)
            else:
                outcome = model(x, training=False)
            self.penalties = len(model.losses)
            return tf.identity(functions.flat(outcome, batch))

        self.not_layered, self.mixing = "the graph of the model cannot be read", "its graph cannot be read"
        self.certainly_mixed = self.network_alone = self.has_own_weights = self.random = False
        self.loop = self.loop_in_network = self.reads_inside = False
        self.variables, self.memory = (), 0
        try:
            traced = functions.compiler.trace(outcome_of, data)
            self.outputs = int(traced.graph.outputs[0].shape[1])
            if batch == 1:  # a second sample shows whether samples stay apart
                data, batch = functions.of_samples(lambda t: tf.repeat(t, 2, axis=0), x), 2
                traced = functions.compiler.trace(outcome_of, data)
        except Exception:  # the model runs only as plain Python
            batch = functions.batch
            self.outputs = int(outcome_of(x).shape[1])
            return
        graph, outcome = traced.graph, traced.graph.outputs[0]
        self.memory, definition = graph_memory(graph) * functions.batch // batch, graph.as_graph_def()
        bodies = definition.node, *(body.node_def for body in definition.library.function)
        names = {node.op for nodes in bodies for node in nodes}
        self.random, self.loop = any(map(_RANDOM.search, names)), not names.isdisjoint(LOOPS)
        trained = {id(weight.value.handle) for weight in functions.weights}
        self.variables = [variable for variable in traced.variables if id(variable.handle) not in trained]
        axes = SampleAxes(traced, len(tf.nest.flatten(x)), batch)
        products, self.not_layered = layer_products(outcome, functions.weights, batch)
        if products and not all(axes.one_row_each(product.sums) for product in products):
            self.not_layered = "a layer is called on rows that are not those of the samples"
        mixed = axes.verdict()
        self.mixing, self.certainly_mixed = mixed and mixed.operation, bool(mixed) and mixed.certain
        uses = weight_operations(outcome, functions.weights)
        nested = {operation for operation in graph.get_operations()
                  if operation.type in (*LOOPS, *CALLS, *BRANCHES)}
        self.reads_inside = any(held.dtype == tf.resource for each in nested for held in each.inputs)
        inside = set(graph.get_operations()[slice(*network_span)])              # of the network
        self.loop_in_network = self.loop and not nested.isdisjoint(inside)
        self.network_alone = all(operation in inside for each in uses for operation, _ in each)
        self.has_own_weights = (bool(self.not_layered) or functions.compiler.eager) and not self.mixing and (
            not any(map(_custom_gradient_of_variables, bodies)) and _may_have_own_weights(
                functions, data, batch))


def _custom_gradient_of_variables(nodes):
    """Whether variables act in a function with a custom gradient, as in tf.recompute_grad.

    Such a function has derivatives by its arguments and by variables, but not by other tensors.
    """
    reads = {node.name for node in nodes if node.op == "ReadVariableOp"}
    return any(node.op == "IdentityN" and any(held.split(":")[0] in reads for held in node.input)
               for node in nodes)


def _may_have_own_weights(functions, x, batch):
    """Whether weights act only in Dense layers, and samples stay apart if each row has its own weights."""
    leaves, weights = tf.nest.flatten(x), functions.weights

    def outcome_of(*arguments):
        own = dict(zip(map(id, weights), arguments[len(leaves):]))
        with own_weights(own, shared=False):
            return tf.identity(functions.flat(functions.outcome_of(
                tf.nest.pack_sequence_as(x, arguments[:len(leaves)])), batch))
    try:
        traced = functions.compiler.trace(outcome_of, *leaves, *(
            tf.zeros((batch, *weight.shape), weight.dtype) for weight in weights))
    except Exception:  # the rows of a layer are not the samples
        return False
    held = {id(outside) for outside, _ in traced.graph.captures}
    return not any(id(weight.value.handle) in held for weight in weights) and (
        SampleAxes(traced, len(leaves) + len(weights), batch).verdict() == "")


class Product(NamedTuple):
    """One layer product z = a W + b of a graph.

    Attributes:
        inputs: symbolic tensor a, (rows, in); None where the kernel W is not trained.
        sums: symbolic tensor z, (rows, out).
        kernel, bias: places of W and b among the trained weights; None where W or b is not one of them.
    """

    inputs: tf.Tensor
    sums: tf.Tensor
    kernel: int | None
    bias: int | None


def weight_operations(outcome, weights):
    """For each weight, the operations that use its value and on which the outcome depends.

    Args:
        outcome: symbolic tensor of a FuncGraph.
        weights: list of Keras variables.

    Returns:
        for each weight a list of (operation, index of its input that is the weight). In place of a cast or a
        copy of the weight it has the operations that use this copy. A nested function (a loop, a branch, a
        call) counts as one operation.
    """
    needed, waiting = set(), [outcome.op]
    while waiting:
        operation = waiting.pop()
        if operation not in needed:
            needed.add(operation)
            waiting.extend(tensor.op for tensor in operation.inputs)
    inner = {id(outside): inside for outside, inside in outcome.graph.captures}

    def uses(tensor):
        for operation in tensor.consumers():
            if operation not in needed:
                continue
            if operation.type in ("ReadVariableOp", "Identity", "Cast"):
                yield from uses(operation.outputs[0])
            else:
                yield from ((operation, index) for index, held in enumerate(operation.inputs)
                            if held is tensor)

    handles = [inner.get(id(weight.value.handle)) for weight in weights]
    return [[] if handle is None else list(dict.fromkeys(uses(handle))) for handle in handles]


def layer_products(outcome, weights, rows):
    """The products z = a W + b in which all weights of a graph act.

    Args:
        outcome, weights: as in `weight_operations`.
        rows: int, how many rows each a must have.

    Returns:
        (products, reason): a list of `Product` and ""; or [] and a clause that names a weight that acts
        differently.
    """
    kernels, biases = {}, {}
    for index, (weight, uses) in enumerate(zip(weights, weight_operations(outcome, weights))):
        if len(uses) != 1:
            return [], f"{weight.path!r} acts {len(uses)} times"
        operation, position = uses[0]
        output = operation.outputs[0]
        one_row_each = output.shape.rank == 2 and output.shape[0] == rows
        if operation.type == "MatMul" and position == 1 and one_row_each and not (
                operation.get_attr("transpose_a") or operation.get_attr("transpose_b")):
            kernels[index] = operation
        elif operation.type in ("BiasAdd", "AddV2") and one_row_each and (
                output.shape[1:] == weight.shape and operation.inputs[1 - position].shape == output.shape):
            biases[index] = operation
        else:
            return [], (f"{weight.path!r} acts in {operation.type} {list(output.shape)}, not in a product "
                          f"of {rows} rows")
    products = []
    for kernel, operation in kernels.items():
        sums, used_by = operation.outputs[0], operation.outputs[0].consumers()
        bias = next((bias for bias, addition in biases.items() if used_by == [addition]), None)
        if bias is not None:
            sums = biases.pop(bias).outputs[0]
        products.append(Product(operation.inputs[0], sums, kernel, bias))
    products.extend(Product(None, addition.outputs[0], None, bias) for bias, addition in biases.items())
    return products, ""


def graph_memory(graph):
    """About how many bytes (int) the tensors of a FuncGraph take together, as derivatives keep all of them.

    A loop counts `maximum_iterations` times, or once if it has no such limit. Tensors of unknown size do not
    count.
    """
    definition = graph.as_graph_def(add_shapes=True)
    bodies = {body.signature.name: body.node_def for body in definition.library.function}

    def memory(nodes):
        constants, total = {node.name: node for node in nodes if node.op == "Const"}, 0
        for node in nodes:
            dtype = tf.as_dtype(node.attr["T"].type or node.attr["dtype"].type or tf.float32)
            shapes = [[dim.size for dim in shape.dim] for shape in node.attr["_output_shapes"].list.shape
                      if not shape.unknown_rank]
            total += dtype.size * sum(math.prod(shape) for shape in shapes if min(shape, default=0) >= 0)
            if node.op in LOOPS:
                limit = constants.get(node.input[1].split(":")[0])
                times = int(tf.make_ndarray(limit.attr["value"].tensor)) if limit else 1
                total += max(times, 1) * memory(bodies[node.attr["body"].func.name])
            elif node.op in CALLS:
                total += memory(bodies[node.attr["f"].func.name])
        return total
    return memory(definition.node)
