"""Imports Keras with its TensorFlow backend, or fails with a message that says what to do."""

import os
import sys

try:
    import keras
    _found = keras.config.backend()
except (ImportError, ValueError) as error:  # an unknown backend, or one that is not installed
    _found = " ".join(str(error).split())
except (AssertionError, AttributeError, TypeError, OSError):  # for instance an unknown dtype
    if sys.flags.optimize > 1:
        raise ImportError("Keras needs its docstrings: leave out -OO and PYTHONOPTIMIZE=2, -O is "
                          "enough") from None
    _home = os.environ.get("KERAS_HOME", os.path.join(os.path.expanduser("~"), ".keras"))
    raise ImportError(f"Keras rejects its settings in {os.path.join(_home, 'keras.json')}: mend or remove "
                      "that file") from None
if _found != "tensorflow":
    raise ImportError(f"hig needs Keras with its TensorFlow backend, found: {_found}; set "
                      "KERAS_BACKEND=tensorflow") from None


def leaves(layer):
    """List of all layers of a network, with those of nested models in their place."""
    return [leaf for child in layer.layers for leaf in leaves(child)] if hasattr(layer, "layers") else [layer]


def share_gpus():
    """Lets TensorFlow take a GPU's memory as needed, so that two runs fit on one card.

    Call it before the first operation.
    """
    import tensorflow as tf
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
