"""Weights of a network in Keras' format, *.weights.h5: written complete or not at all, and checked before
they are taken."""

import hashlib
import re

import h5py

from hig.runs.cli import SettingsError, writing_to


def save_weights(network, path):
    """Writes the network's weights; `path` ends in .weights.h5.

    Raises:
        OSError: if they cannot be written; an earlier file stays as it is.
    """
    beside = path.with_name(f".{path.name}.partial.weights.h5")
    try:
        with writing_to(path.parent):
            network.save_weights(beside)
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def load_weights(network, path):
    """Sets the network to weights that `save_weights` or Keras wrote.

    Raises:
        SettingsError: if the file is missing, damaged, or of a network of another shape.
    """
    try:
        found, expected = _shapes(path), [tuple(variable.shape) for variable in network.variables]
        if sorted(found) != sorted(expected):
            raise ValueError(f"it holds arrays of the shapes {_list(found)}, but the network has "
                             f"{_list(expected)}")
        network.load_weights(path)
    except (OSError, ValueError, KeyError, RuntimeError) as error:  # RuntimeError: h5py, of a damaged file
        raise SettingsError(f"cannot load the weights {path}: {str(error).splitlines()[0]}") from None


def name_and_hash(path):
    """What identifies a file of weights in `sim_par`: "adam.weights.h5 (sha256 0123456789abcdef)".

    Raises:
        SettingsError: if it cannot be read.
    """
    try:
        return f"{path.name} (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]})"
    except OSError as error:
        raise SettingsError(f"cannot load the weights {path}: {error.strerror}") from None


def _shapes(path):
    """Shapes of all arrays in the file, layer after layer."""
    shapes = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: shapes.update({name: item.shape} if isinstance(item, h5py.Dataset)
                                                         else {}))
    return [shapes[name] for name in sorted(shapes, key=lambda name: [int(part) if part.isdigit() else part
                                                                       for part in re.split(r"(\d+)", name)])]


def _list(shapes):
    return ", ".join(str(list(shape)) for shape in shapes) or "none at all"
