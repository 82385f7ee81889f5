"""Weights of a network in Keras' format, *.weights.h5: written as a whole, checked before use."""

import hashlib

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
    shapes = []
    try:
        with h5py.File(path) as file:
            file.visititems(lambda _, item: shapes.append(item.shape) if hasattr(item, "shape") else None)
        found, expected = sorted(shapes), sorted(tuple(variable.shape) for variable in network.variables)
        if found != expected:
            raise ValueError(f"it holds arrays of the shapes {found}, but the network has {expected}")
        network.load_weights(path)
    except (OSError, ValueError, KeyError, RuntimeError) as error:      # h5py, of a damaged file
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
