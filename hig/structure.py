"""Where the weights of a model act, read from its traced graph.

If a weight W acts only in a product z = a W + b, on one row a per sample, then its part of row r of J is
a_r ⊗ ∂y_r/∂z, and the factors a and ∂y/∂z are enough. `layer_products` follows the value of every weight to
the operations that use it, including those whose result is multiplied by 0 for now.
"""

import math
from typing import NamedTuple

import tensorflow as tf


class Product(NamedTuple):
    """One layer product z = a W + b of a graph.

    Attributes:
        inputs: symbolic tensor a, (rows, in); None where the kernel W is not trained.
        sums: symbolic tensor z, (rows, out).
        kernel, bias: places of W and b among the weights; None if there is none.
    """

    inputs: tf.Tensor
    sums: tf.Tensor
    kernel: int | None
    bias: int | None


def weight_operations(graph, weights, outcome):
    """For each weight, the operations that use its value and on which the outcome depends.

    Args:
        graph: FuncGraph in which the outcome was computed.
        weights: list of Keras variables.
        outcome: symbolic tensor of the graph.

    Returns:
        for each weight a list of (operation, index of its input that is the weight). Casts and copies are
        replaced by the operations that use their result. A nested function (a loop, a branch, a call) counts
        as one operation.
    """
    needed, waiting = set(), [outcome.op]
    while waiting:
        operation = waiting.pop()
        if operation not in needed:
            needed.add(operation)
            waiting.extend(tensor.op for tensor in operation.inputs)
    inner = {id(outside): inside for outside, inside in graph.captures}

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


def layer_products(graph, weights, outcome, rows):
    """The products z = a W + b in which all weights of a graph act.

    Args:
        graph, weights, outcome: as in `weight_operations`.
        rows: int, how many rows each a must have.

    Returns:
        (products, reason): a list of `Product` and ""; or None and a clause that names a weight that acts
        differently.
    """
    kernels, biases = {}, {}
    for index, (weight, uses) in enumerate(zip(weights, weight_operations(graph, weights, outcome))):
        if len(uses) != 1:
            return None, f"{weight.path!r} acts {len(uses)} times"
        operation, position = uses[0]
        output = operation.outputs[0]
        one_row_each = output.shape.rank == 2 and output.shape[0] == rows
        if operation.type == "MatMul" and position == 1 and one_row_each and not (
                operation.get_attr("transpose_a") or operation.get_attr("transpose_b")):
            kernels[index] = operation
        elif operation.type in ("BiasAdd", "AddV2") and one_row_each and len(weight.shape) == 1 and (
                operation.inputs[1 - position].shape == output.shape):
            biases[index] = operation, position
        else:
            return None, (f"{weight.path!r} acts in {operation.type} {list(output.shape)}, not in a product "
                          f"of {rows} rows")
    products, joined = [], {}
    for bias, (operation, position) in biases.items():
        before = operation.inputs[1 - position]
        joined[before.op] = bias, operation.outputs[0]
    for kernel, operation in kernels.items():
        bias, sums = None, operation.outputs[0]
        if operation in joined and len(operation.outputs[0].consumers()) == 1:
            bias, sums = joined.pop(operation)
        products.append(Product(operation.inputs[0], sums, kernel, bias))
    products.extend(Product(None, sums, None, bias) for bias, sums in joined.values())
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
            if node.op in ("While", "StatelessWhile"):
                limit = constants.get(node.input[1].split(":")[0])
                times = int(tf.make_ndarray(limit.attr["value"].tensor)) if limit else 1
                total += max(times, 1) * memory(bodies[node.attr["body"].func.name])
            elif node.op in ("PartitionedCall", "StatefulPartitionedCall"):
                total += memory(bodies[node.attr["f"].func.name])
        return total
    return memory(definition.node)
