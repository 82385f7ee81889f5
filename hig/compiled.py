"""TensorFlow functions of users' code, compiled by XLA where that works and run as a graph where it does not.

XLA makes a time loop ten times faster, but has no kernels for some operations (sparse matrices,
`tf.numpy_function`, the loops of recurrent layers under `tf.vectorized_map`), and takes minutes for a Python
loop of hundreds of time steps.
"""

import contextlib
import re
import warnings

import tensorflow as tf

# of a graph that XLA compiles under "auto"; on a busy machine 1,800 took 29 s, and 7,400 took 191 s
MOST_OPERATIONS = 4000


@contextlib.contextmanager
def full_precision():
    """A context in which products of float32 matrices have full precision on GPUs, too.

    On GPUs from Ampere on, TensorFlow by default rounds the factors to ten bits (TF32). The error of 5e-4 is
    more than the check of `hig.proof` allows, and makes a truncation of 1e-6 meaningless.
    """
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


class Compiler:
    """Compiles and runs the functions of one model, and gives each warning once.

    Args:
        jit_compile: as in `keras.Model.compile`. True: XLA compiles, or an error is raised. False: a graph
            without XLA. "auto": XLA compiles what it can.
        eager: True to run the functions as plain Python.

    Attributes:
        values: what the model held in Python after the last update, None before the first one; if it changes,
            all is compiled again.
    """

    def __init__(self, jit_compile="auto", eager=False):
        self.xla, self.forced, self.eager = bool(jit_compile), jit_compile is True, eager
        self.said, self.values = set(), None

    def warn(self, sentence):
        """Gives a UserWarning, but each sentence only once."""
        if sentence not in self.said:
            self.said.add(sentence)
            warnings.warn(sentence, stacklevel=2)

    def without_xla(self, what, error):
        """Warns that something runs without XLA, because XLA could not compile it."""
        self._slower(what, f"XLA cannot compile it ({own_sentence(error)[:160]})")

    def differs(self, what):
        """Warns that something runs without XLA, because XLA gave another result."""
        self._slower(what, "XLA gives another loss or gradient than TensorFlow does, as for a norm at zero "
                           "or for a decomposition")

    def is_small(self, concrete_function, what):
        """Whether a graph has so few operations that XLA compiles it in seconds; warns if not.

        The operations in the body of a loop count once.
        """
        definition = concrete_function.graph.as_graph_def()
        count = len(definition.node) + sum(len(function.node_def) for function in definition.library.function)
        if count > MOST_OPERATIONS:
            self._slower(what, f"its graph has {count} operations, which XLA would compile for minutes. If "
                               "it loops over time steps in Python, a tf.while_loop with maximum_iterations "
                               "makes it small")
        return count <= MOST_OPERATIONS

    def _slower(self, what, reason):
        """Warns that something runs without XLA, for this reason."""
        self.warn(f"{what} runs without XLA, which is slower: {reason}. compile(jit_compile=False) says so "
                  "from the start.")

    def function(self, python_function, what, xla=True, without_xla=None):
        """The compiled form of a function of nested tensors, for arguments of fixed shapes.

        Args:
            python_function: what it computes, in TensorFlow.
            what: str, its name in warnings, as the beginning of a sentence.
            xla: False for a graph without XLA.
            without_xla: a function that computes the same and replaces it if XLA does not compile it.

        Returns:
            a function of the same arguments. It raises what `python_function` raises; the message of an
            operation's error is shortened by `own_sentence`.
        """
        without_xla = without_xla or python_function
        if self.eager:
            return without_xla
        return _Function(self, python_function, without_xla, what, self.xla and xla)

    def trace(self, python_function, *arguments, **options):
        """The graph of a Python function, traced without AutoGraph, as in Keras.

        AutoGraph is used only if the function has an `if` or `for` over tensors.
        """
        try:
            return tf.function(python_function, autograph=False, **options).get_concrete_function(*arguments)
        except tf.errors.OperatorNotAllowedInGraphError:
            return tf.function(python_function, autograph=True, **options).get_concrete_function(*arguments)


class _Function:
    def __init__(self, compiler, python_function, without_xla, what, xla):
        self.compiler, self.python_function, self.without_xla = compiler, python_function, without_xla
        self.what, self.xla = what, xla                                 # whether XLA runs, or may run, it
        self.ready = None                                               # the form that works

    def __call__(self, *arguments):
        try:
            if self.ready:
                return self.ready(*arguments)
            self.ready, result = self._choose(*arguments)
            return result
        except tf.errors.OpError as error:
            raise type(error)(error.node_def, error.op, own_sentence(error)) from None

    def _choose(self, *arguments):
        """(the fastest form of the function that works, its result); raises what the function raises."""
        failure, xla, self.xla = None, self.xla, False
        try:
            if xla:
                compiled = self.compiler.trace(self.python_function, *arguments, jit_compile=True)
                if self.compiler.forced or self.compiler.is_small(compiled, self.what):
                    try:
                        result = compiled(*arguments)
                        self.xla = True
                        return compiled, result
                    except tf.errors.OpError as error:  # without memory, no other form works either
                        if self.compiler.forced or isinstance(error, tf.errors.ResourceExhaustedError):
                            raise
                        failure = error
            graph = self.compiler.trace(self.without_xla, *arguments)
        except tf.errors.OpError:
            raise
        except Exception as error:
            result = self.without_xla(*arguments)  # raises again unless the graph caused the error
            reason = (str(error).strip() or repr(error)).splitlines()[-1][:160]
            self.compiler.warn(f"{self.what} runs operation by operation, which is much slower: TensorFlow "
                               f"cannot make a graph of it ({reason})")
            return self.without_xla, result
        result = graph(*arguments)
        if failure:
            self.compiler.without_xla(self.what, failure)
        return graph, result


def own_sentence(error):
    """The message of an error, TensorFlow's for instance, in one line, without the graph and the traces."""
    message = str(getattr(error, "message", error))
    traces = re.compile(r"\s*$|Graph execution error|Detected at node|\s+File |\s*<ipython|\s*\^")
    line = next((line for line in message.splitlines() if not traces.match(line)), message)
    line = re.sub(r"\{\{[^}]*\}\}|\[\[\{\{.*|\[Op:.*?\]", "", line).strip()
    unsupported = re.search(r"Detected unsupported operations .* on \S+: (.*?)\s*(?:$|\()", line)
    return f"it has no kernel for {unsupported[1]}" if unsupported else line
