"""Long calls of LAPACK that Ctrl-C can end.

Python handles a signal between two of its own instructions, and in the main thread alone, so that a decomposition of
seconds or minutes would hold Ctrl-C back until it returns. Here it runs in another thread, without the interpreter's
lock, while the main thread waits for either.
"""

import ctypes
import threading
import time

import numpy as np
from scipy.linalg import cython_lapack

LONG = 1200                 # rows of a matrix from which its decomposition is worth a thread: a tenth of a second
PATIENCE = 1.0              # seconds that a decomposition may take after the wish to stop
_LOOK_EVERY = 0.05          # seconds


def interruptible(function, stop=lambda: False):
    """The result of `function()`, computed in another thread.

    Args:
        function: of no arguments; what takes long in it must not hold the interpreter's lock (as `dsytrd` below).
        stop: function of no arguments, whether the result is no longer wanted; asked a few times a second.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, or `stop()` has been true for PATIENCE. The thread is left to itself; it
            ends with the process.
        whatever `function` raises.
    """
    outcome = {}

    def work():
        try:
            outcome["result"] = function()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    wished_at = None
    while thread.is_alive():
        thread.join(_LOOK_EVERY)
        wished_at = (wished_at or time.monotonic()) if stop() else None
        if wished_at and time.monotonic() > wished_at + PATIENCE and thread.is_alive():
            raise KeyboardInterrupt
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]


def _lapack(name, *argument_types):
    """A LAPACK routine as SciPy brings it, called without the interpreter's lock."""
    capsule, api = cython_lapack.__pyx_capi__[name], ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    api.PyCapsule_GetPointer.restype, api.PyCapsule_GetPointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule))
    return ctypes.CFUNCTYPE(None, *argument_types)(address)


def dsytrd(A, panel):
    """The Householder reduction of a symmetric matrix, as scipy.linalg.lapack.dsytrd(A, lower=1) without its lock.

    Args:
        A: (n, n) float64, Fortran-contiguous, its lower triangle used; overwritten.
        panel: columns reduced at a time.

    Returns:
        (A, d, e, tau, info) as there: reflectors, diagonal (n,), subdiagonal (n−1,), their scales (n−1,), 0 if all is well.
    """
    n = len(A)
    d, e, tau, work = np.empty(n), np.empty(n - 1), np.empty(n - 1), np.empty(panel * n)
    integer, array = ctypes.POINTER(ctypes.c_int), ctypes.c_void_p
    routine = _lapack("dsytrd", ctypes.c_char_p, integer, array, integer, array, array, array, array, integer, integer)
    size, length, info = ctypes.c_int(n), ctypes.c_int(len(work)), ctypes.c_int()
    routine(b"L", size, A.ctypes.data, size, d.ctypes.data, e.ctypes.data, tau.ctypes.data, work.ctypes.data, length, info)
    return A, d, e, tau, info.value
