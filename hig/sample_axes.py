"""Whether a traced graph keeps samples apart: the axis of the samples is followed from x to y.

Only operations count, not values: one that mixes samples counts even if its result is multiplied by 0. Nested
functions (loops, branches, calls) are followed, too. An unknown operation leaves the answer open.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Mixed(NamedTuple):
    """Why a row of a tensor may depend on several samples.

    Attributes:
        operation: str, name of the operation.
        certain: True if this operation mixes samples, False if it is not known whether it does.
    """

    operation: str
    certain: bool


_ELEMENTWISE = frozenset("""
    Abs Acos Acosh Add AddN AddV2 Angle ApproximateEqual Asin Asinh Atan Atan2 Atanh BesselI0 BesselI0e
    BesselI1 BesselI1e BesselJ0 BesselJ1 BesselK0 BesselK0e BesselK1 BesselK1e BesselY0 BesselY1 Betainc
    BitwiseAnd BitwiseOr BitwiseXor Cast Ceil CheckNumerics ClipByValue Complex ComplexAbs Conj Cos Cosh
    Digamma Div DivNoNan Elu EluGrad EnsureShape Equal Erf Erfc Erfinv Exp Expm1 Floor FloorDiv FloorMod
    FresnelCos FresnelSin Greater GreaterEqual Identity IdentityN Igamma Igammac Imag Inv InvGrad Invert
    IsFinite IsInf IsNan LeakyRelu LeakyReluGrad LeftShift Less LessEqual Lgamma Log Log1p LogicalAnd
    LogicalNot LogicalOr Maximum Minimum Mod Mul MulNoNan Ndtri Neg NextAfter NotEqual OnesLike Polygamma
    Pow PreventGradient Real RealDiv Reciprocal ReciprocalGrad Relu Relu6 Relu6Grad ReluGrad RightShift
    Rint Round Rsqrt RsqrtGrad SelectV2 Select Selu SeluGrad Sigmoid SigmoidGrad Sign Sin Sinh Snapshot
    Softplus SoftplusGrad Softsign SoftsignGrad Spence Sqrt SqrtGrad Square SquaredDifference StopGradient
    Sub Tan Tanh TanhGrad TruncateDiv TruncateMod Xdivy Xlog1py Xlogy ZerosLike Zeta""".split())
_WITHIN_LAST_AXES = {op: count for count, ops in {                      # how many
    1: "Softmax LogSoftmax FFT IFFT RFFT IRFFT TopKV2 MatrixDiag MatrixDiagV3",
    2: """FFT2D IFFT2D RFFT2D IRFFT2D MatrixInverse Cholesky SelfAdjointEigV2 Svd Qr MatrixDeterminant Lu Eig
       LogMatrixDeterminant MatrixDiagPart MatrixDiagPartV3 MatrixBandPart MatrixExponential
       MatrixSquareRoot""",
    3: """FFT3D IFFT3D RFFT3D IRFFT3D Conv2D DepthwiseConv2dNative MaxPool MaxPoolV2 AvgPool Dilation2D LRN
       FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 ResizeBilinear ResizeNearestNeighbor ResizeBicubic
       ResizeArea SpaceToDepth DepthToSpace""",
    4: "Conv3D MaxPool3D AvgPool3D"}.items() for op in ops.split()}
_PRODUCTS = {"MatMul": ("transpose_a", "transpose_b"), "MatrixSolve": ("adjoint",),     # with their flags
             "MatrixTriangularSolve": ("adjoint",), "MatrixSolveLs": (),
             **dict.fromkeys(("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), ("adj_x", "adj_y"))}
_OUTPUTS = {"TopKV2": ("values", "indices"), "SelfAdjointEigV2": ("e", "v"), "Svd": ("s", "u", "v"),
            "Qr": ("q", "r"),
            "Lu": ("lu", "p"), "TensorListPopBack": ("output_handle", "tensor"), "Eig": ("e", "v"),
            "LogMatrixDeterminant": ("sign", "log_abs_determinant"),
            "FusedBatchNormV3": ("y", "batch_mean", "batch_variance", "reserve_space_1", "reserve_space_2",
                                 "reserve_space_3")}
LOOPS = "While", "StatelessWhile"
CALLS = "PartitionedCall", "StatefulPartitionedCall"
BRANCHES = "If", "StatelessIf", "Case", "StatelessCase"


_ARITHMETIC = {                                                         # to compute axes and shapes
    "Identity": lambda value: value, "Cast": lambda value: value, "AddV2": np.add, "Sub": np.subtract,
    "Mul": np.multiply, "GreaterEqual": np.greater_equal, "Less": np.less, "FloorMod": np.mod,
    "Range": np.arange, "SelectV2": np.where}


def _reduced(attributes, out, array, axes):
    keep = slice(0, 1) if attributes["keep_dims"].b else 0
    reduced = np.atleast_1d(axes) % array.ndim
    return array[tuple(keep if axis in reduced else slice(None) for axis in range(array.ndim))]


def _strided(attributes, out, array, begin, end, strides):
    def masked(name, i):
        return attributes[f"{name}_mask"].i >> i & 1

    def index(i):
        if masked("ellipsis", i) or masked("new_axis", i):
            return Ellipsis if masked("ellipsis", i) else None
        if masked("shrink_axis", i):
            return 0
        if begin is None and not masked("begin", i) or end is None and not masked("end", i):
            return slice(0, 1)                                          # an unknown part: one entry of it
        return slice(None if masked("begin", i) else int(begin[i]), None if masked("end", i) else int(end[i]),
                     int(strides[i]))
    return array[tuple(index(i) for i in range(len(strides)))]


def _sliced(attributes, out, array, begin, size):
    if begin is None:                                   # unknown: not from 0 on where the output is smaller
        begin = [size != count for size, count in zip(array.shape, out)]
    return array[tuple(slice(int(first), first + count) for first, count in zip(begin, out))]


# operations that pick or reorder entries, as functions of (attributes, shape of the output, *inputs)
_MOVES = {
    **dict.fromkeys("Sum Mean Prod Max Min Any All ArgMax ArgMin EuclideanNorm".split(), _reduced),
    **dict.fromkeys(("Transpose", "ConjugateTranspose"),
                    lambda _, out, array, order: array.transpose([*order])),
    "BroadcastTo": lambda _, out, array, shape: np.broadcast_to(array, out),
    "Reshape": lambda _, out, array, shape: np.reshape(array, shape if out is None else out),
    "ExpandDims": lambda _, out, array, axis: np.expand_dims(array, int(axis)),
    "Squeeze": lambda attributes, out, array: array.squeeze(tuple(attributes["squeeze_dims"].list.i) or None),
    "Pack": lambda attributes, out, *arrays: np.stack(arrays, attributes["axis"].i),
    "ConcatV2": lambda _, out, *inputs: np.concatenate([*map(np.atleast_1d, inputs[:-1])], int(inputs[-1])),
    "Unpack": lambda attributes, out, array: np.moveaxis(array, attributes["axis"].i, 0)[0],
    "Split": lambda _, out, axis, array: array[tuple(map(slice, out))],
    "SplitV": lambda _, out, array, sizes, axis: array[tuple(map(slice, out))],
    "Slice": _sliced, "StridedSlice": _strided,
    "ReverseV2": lambda _, out, array, axes: np.flip(array, tuple(axes)),
    "OneHot": lambda attributes, out, array, *_: np.expand_dims(array, attributes["axis"].i)}


class SampleAxes:
    """Follows the axis of the samples through the operations of a graph.

    The state of a tensor, or of the elements of a list of tensors in a loop, is one of

        None            it does not depend on the samples
        (axis, inner)   the samples lie along this axis: `inner` rows of the first sample, then `inner` of the
                        second, and so on; the whole may be repeated. Each row depends only on its own sample.
        Mixed           neither of these; the object says why

    Args:
        function: tf.ConcreteFunction with the graph; its first output is y, samples along the first axis.
        leaves: int, how many of its arguments are data; these come first.
        batch: B > 1, number of samples. Data with B rows have one row for each; others are shared by all.
    """

    def __init__(self, function, leaves, batch):
        definition = function.graph.as_graph_def(add_shapes=True)
        self.batch = batch
        self.functions = {body.signature.name: body for body in definition.library.function}
        arguments = {tensor.op.name: (((0, 1) if tensor.shape.rank and tensor.shape[0] == batch else None),
                                      _sizes(tensor.shape))
                     for tensor in function.inputs[:leaves]}
        self.nodes = _Nodes(self, definition.node, arguments)
        self.outcome = self.nodes.look_up(function.outputs[0].op.name)[0]

    def verdict(self):
        """Why a row of y may depend on other samples than its own, as a `Mixed`; "" if none does."""
        if isinstance(self.outcome, Mixed):
            return self.outcome
        return "" if self.outcome in (None, (0, 1)) else Mixed("the outcome", True)

    def one_row_each(self, tensor):
        """Whether a tensor of the graph has one row for each sample, which depends only on this sample."""
        return self.nodes.look_up(tensor.op.name)[0] == (0, 1)

    def call(self, name, arguments):
        """[(state, shape)] of the outputs of a function of the graph, from those of its arguments."""
        body = self.functions[name]
        nodes = _Nodes(self, body.node_def,
                       {arg.name: given for arg, given in zip(body.signature.input_arg, arguments)})
        return [nodes.look_up(body.ret[output.name]) for output in body.signature.output_arg]


class _Nodes:
    """The nodes of one graph or function body, and the states of their tensors, computed when asked for."""

    def __init__(self, owner, nodes, arguments):
        self.owner, self.batch = owner, owner.batch
        self.nodes, self.arguments = {node.name: node for node in nodes}, arguments
        self.states = {}  # by node: one state for all its outputs, or a list of (state, shape)

    def look_up(self, reference):
        """(state, shape) of the tensor with this name. The nodes before it are visited without recursion."""
        name = reference.split(":")[0]
        waiting = [name]
        while waiting:
            current = waiting[-1]
            if current in self.states or current in self.arguments:
                waiting.pop()
                continue
            node = self.nodes[current]
            missing = [source for source in (_source(i) for i in node.input if i[0] != "^")
                       if source not in self.states and source not in self.arguments]
            if missing:
                waiting.extend(missing)
            else:
                self.states[current] = self._state(node)
                waiting.pop()
        if name in self.arguments:
            return self.arguments[name]
        return self._output(self.nodes[name], self.states[name], reference)

    def _output(self, node, state, reference):
        parts, names = reference.split(":"), _OUTPUTS.get(node.op, ())
        if len(parts) == 3 and parts[1] in names:
            index = names.index(parts[1])
        else:
            index = int(parts[-1]) if len(parts) > 1 else 0
        if isinstance(state, list):
            return state[index]
        shapes = node.attr["_output_shapes"].list.shape
        return state, _sizes(shapes[index]) if index < len(shapes) else None

    def _constant(self, reference):
        """The value of a tensor (for instance an axis) if it follows from constants, else None."""
        node = self.nodes.get(_source(reference))
        if node is None or node.op not in (*_ARITHMETIC, "Const", "Pack", "ConcatV2", "Reshape"):
            return None
        if node.op == "Const":
            return tf.make_ndarray(node.attr["value"].tensor)
        values = [self._constant(i) for i in node.input if i[0] != "^"]
        if any(value is None for value in values):
            return None
        function = _ARITHMETIC.get(node.op) or partial(_MOVES[node.op], node.attr, None)
        return function(*values)

    def _state(self, node):
        """One state for all outputs of a node, or a list of (state, shape), from those of its inputs."""
        references = [reference for reference in node.input if reference[0] != "^"]
        inputs = [self.look_up(reference) for reference in references]
        if node.op in LOOPS:
            return self._loop(node, inputs)
        if node.op in CALLS:
            return self.owner.call(node.attr["f"].func.name, inputs)
        if node.op in BRANCHES:
            return self._branches(node, inputs)
        mixed = next((state for state, _ in inputs if isinstance(state, Mixed)), None)
        if mixed:
            return mixed
        if all(state is None for state, _ in inputs):
            return None
        try:
            return self._rule(node, references, inputs)
        except (TypeError, ValueError, IndexError):                     # a shape is not known
            return Mixed(node.op, False)

    # --------------------------------------------------------------------------------------- nested functions

    def _loop(self, node, inputs):
        """[(state, shape)] of a loop's variables, valid after any number of iterations."""
        present = list(inputs)
        for _ in range(2 * len(inputs) + 2):
            after = self.owner.call(node.attr["body"].func.name, present)
            joined = [(_join(node.op, state, new), shape) for (state, shape), (new, _) in zip(present, after)]
            if joined == present:
                break
            present = joined
        condition = self.owner.call(node.attr["cond"].func.name, present)[0][0]
        if condition is not None:  # the number of iterations depends on the samples
            reason = condition if isinstance(condition, Mixed) else Mixed(node.op, True)
            return [(reason, shape) for _, shape in present]
        return present

    def _branches(self, node, inputs):
        branches = [node.attr[key].func for key in ("then_branch", "else_branch")] \
            if "then_branch" in node.attr else node.attr["branches"].list.func
        (condition, _), *arguments = inputs
        if condition is not None:
            return condition if isinstance(condition, Mixed) else Mixed(node.op, True)
        results = [self.owner.call(branch.name, arguments) for branch in branches]
        return [(_join(node.op, *(state for state, _ in outputs)), outputs[0][1])
                for outputs in zip(*results)]

    # --------------------------------------------------------------------------------------------- operations

    def _rule(self, node, references, inputs):
        op = node.op
        mixing, unknown = Mixed(op, True), Mixed(op, False)
        states, shapes = [state for state, _ in inputs], [shape for _, shape in inputs]
        state, shape = inputs[0]
        out_shapes = [_sizes(proto) for proto in node.attr["_output_shapes"].list.shape]
        out = out_shapes[0] if out_shapes else None

        def constant(index):
            return self._constant(references[index])

        one_entry_for_each_row = op == "Select" and shape is not None and len(shape) == 1 < len(out)
        if one_entry_for_each_row or op in ("MaxPoolGrad", "AvgPoolGrad", "MaxPool3DGrad", "AvgPool3DGrad",
                                            "SpaceToBatchND", "BatchToSpaceND"):
            return (0, 1) if all(s in (None, (0, 1)) for s in states) else unknown
        if op == "IdentityN":
            return inputs
        if out_shapes and node.attr["T"].type == tf.variant.as_datatype_enum:        # a list, copied or added
            return _join(op, *states)
        if op in ("BiasAdd", "Tile"):
            return state if states[1] is None else unknown
        if op in _ELEMENTWISE:
            return self._broadcast(states, shapes, out, op)
        if op in ("Shape", "ShapeN", "Rank", "Size", "BroadcastGradientArgs", "BroadcastArgs",
                  "InvertPermutation", "TensorListLength"):
            return None
        if op in _MOVES:
            return self._moved(node, references, inputs, out_shapes)
        if op in ("Pad", "PadV2", "MirrorPad"):
            return state if out[state[0]] == shape[state[0]] else mixing
        if op in ("Roll", "Cumsum", "Cumprod", "CumulativeLogsumexp"):
            axes = np.atleast_1d(constant(2 if op == "Roll" else 1)) % len(shape)
            return mixing if state[0] in axes else state
        if op in _PRODUCTS:
            flags = [*(node.attr[name].b for name in _PRODUCTS[op]), False, False]
            terms = [term[:-2] + term[:-3:-1] if flag else term for term, flag in zip(("...ij", "...jk"),
                                                                                      flags)]
            # a solution depends on all rows of the right-hand side, and on all entries of the matrix
            terms[0] = "...ab" if "Solve" in op else terms[0]
            return self._einsum(f"{terms[0]},{terms[1]}->...ik", states, shapes, out, op)
        if op == "Einsum":
            return self._einsum(node.attr["equation"].s.decode(), states, shapes, out, op)
        if op in _WITHIN_LAST_AXES:
            if any(s is not None for s in states[1:]):
                return unknown
            whole_batch = op.startswith("FusedBatchNorm") and node.attr["is_training"].b
            return mixing if whole_batch or state[0] >= len(shape) - _WITHIN_LAST_AXES[op] else state
        if op in ("Conv2DBackpropInput", "Conv3DBackpropInputV2", "DepthwiseConv2dNativeBackpropInput"):
            return states[2] if states[:2] == [None, None] and states[2][0] == 0 else mixing
        if op == "SparseTensorDenseMatMul":                             # a sparse matrix times a dense one
            *matrix, dense = states
            along = 1 - node.attr["adjoint_b"].b
            return (1, dense[1]) if dense and dense[0] == along and not any(matrix) else mixing
        if op in ("ResourceGather", "GatherV2", "Gather"):
            return self._gather(node, op, states, shapes, constant(2) if op == "GatherV2" else 0)
        if op in ("GatherNd", "ResourceGatherNd"):
            depth = shapes[1][-1]
            if states[1] is None and state[0] >= depth:
                return len(shapes[1]) - 1 + state[0] - depth, state[1]
            return states[1] if state is None and states[1][0] < len(shapes[1]) - 1 else unknown
        if op in ("TensorScatterUpdate", "TensorScatterAdd", "TensorScatterSub", "TensorScatterMax",
                  "TensorScatterMin"):
            depth = shapes[1][-1]
            moved = states[2] and (states[2][0] - (len(shapes[1]) - 1) + depth, states[2][1])
            joined = _join(op, state, moved)
            return joined if states[1] is None and joined[0] >= depth else unknown
        if op == "TensorListFromTensor":
            return (state[0] - 1, state[1]) if state[0] else unknown
        if op in ("TensorListStack", "TensorListGather"):
            return (state[0] + 1, state[1]) if state else unknown
        if op in ("TensorListSetItem", "TensorListPushBack", "TensorListGetItem", "TensorListPopBack",
                  "TensorListResize"):
            data = {"TensorListSetItem": 2, "TensorListPushBack": 1}.get(op)
            if op in ("TensorListSetItem", "TensorListGetItem") and states[1] is not None:
                return mixing
            return _join(op, state, states[data]) if data else state
        return unknown

    def _broadcast(self, states, shapes, out, op):
        found = None
        for state, shape in zip(states, shapes):
            if state is None:
                continue
            axis = state[0] + len(out) - len(shape)
            if out[axis] != shape[state[0]]:
                return Mixed(op, False)
            if found not in (None, (axis, state[1])):
                return Mixed(op, True)                          # samples along two axes: all pairs meet
            found = axis, state[1]
        return found

    def _moved(self, node, references, inputs, out_shapes):
        """The state after an operation that picks or reorders entries: NumPy does so with their samples."""
        count, op = len(inputs), node.op
        data = {"Pack": range(count), "ConcatV2": range(count - 1), "Split": (1,)}.get(op, (0,))
        arguments = [self._samples(*inputs[i]) if i in data else self._constant(references[i])
                     for i in range(count)]
        return _join(op, *(self._along(_MOVES[op](
            node.attr, [size if size >= 0 else None for size in out], *arguments), op) for out in out_shapes))

    def _samples(self, state, shape):
        """The number of the sample to which each entry of a tensor belongs, or −1: a broadcast array."""
        sizes = [max(size, 1) for size in shape]                        # unknown sizes play no part
        if state is None:
            return np.broadcast_to(-1, sizes)
        axis, inner = state
        sizes[axis] = shape[axis] if shape[axis] > 0 else self.batch * inner
        samples = np.arange(sizes[axis]) // inner % self.batch
        return np.broadcast_to(samples.reshape([-1 if i == axis else 1 for i in range(len(sizes))]), sizes)

    def _along(self, samples, op):
        """The state of a tensor whose entries belong to these samples."""
        some = samples[tuple(slice(None) if stride else slice(0, 1) for stride in samples.strides)]
        for axis, count in enumerate(some.shape):
            along = some.max(axis=tuple(i for i in range(some.ndim) if i != axis), keepdims=True)
            inner = int(np.argmax(along.ravel() != along.ravel()[0]))
            if inner and count % (inner * self.batch) == 0 and ((some == along) | (some < 0)).all() and (
                    along.ravel() == np.arange(count) // inner % self.batch).all():
                return axis, inner
        return Mixed(op, True)

    def _einsum(self, equation, states, shapes, out, op):
        def written_out(labels, rank):                          # digits for the axes of "...", from the last
            before, dots, after = labels.partition("...")
            return before + "0123456789"[10 - (rank - len(before + after)) if dots else 10:] + after

        operands, result = equation.split("->")
        found = {(written_out(labels, len(shape))[state[0]], state[1]) for labels, state, shape
                 in zip(operands.split(","), states, shapes) if state is not None}
        label, inner = found.pop()
        axis = written_out(result, len(out)).find(label)
        return Mixed(op, True) if found or axis < 0 else (axis, inner)

    def _gather(self, node, op, states, shapes, axis):
        params, indices = states[:2]
        rank = len(shapes[0]) if op != "ResourceGather" else None
        axis = int(axis) % (rank or 1)
        batch_dims = node.attr["batch_dims"].i
        if batch_dims:
            return params if params is not None and params == indices and params[0] < batch_dims else Mixed(
                op, False)
        if params is None:
            return axis + indices[0], indices[1]
        if indices is not None or params[0] == axis:
            return Mixed(op, True)
        return params[0] if params[0] < axis else params[0] + len(shapes[1]) - 1, params[1]


def _join(op, *states):
    """The state of a tensor that may have any of these states: one that holds for all."""
    found = None
    for state in states:
        if isinstance(state, Mixed):
            return state
        if None not in (found, state) and found != state:
            return Mixed(op, False)
        found = state if found is None else found
    return found


def _source(reference):
    return reference.split(":")[0]


def _sizes(shape):
    """A TensorShape or its protocol buffer as a list, −1 for unknown sizes; None if the rank is unknown."""
    shape = tf.TensorShape(shape)
    return None if shape.rank is None else [-1 if size is None else size for size in shape]
