"""Half-inverse gradients, Δθ = −η · J^κ · g with κ = −1/2, for networks that control a simulator.

    hig.PhysicsModel      network and simulator as one Keras model
    hig.HIG               the optimizer of the paper, κ = −1/2
    hig.GaussNewton       κ = −1
    hig.JacobianPower     any κ in [−1, 1]
    hig.LevenbergMarquardt   Gauss-Newton with damping
    hig.powers            J^κ on matrices (numpy and scipy only)

The names load on first use. `import hig` alone does not load TensorFlow, so that plot.py, which does not need
it, starts at once.
"""

import importlib

__version__ = "2.0.0"
_HOME = {"PhysicsModel": "hig.model", "HIG": "hig.optimizers", "GaussNewton": "hig.optimizers",
         "JacobianPower": "hig.optimizers", "LevenbergMarquardt": "hig.optimizers"}
__all__ = list(_HOME)


def __getattr__(name):
    if name == "powers":
        return importlib.import_module("hig.powers")
    if name in _HOME:
        importlib.import_module("hig.backend")
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'hig' has no attribute {name!r}")
