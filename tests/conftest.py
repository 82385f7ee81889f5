"""What holds for every test."""

import os
import signal
import sys

import pytest
import threadpoolctl

# in the background of a script: children would ignore Ctrl-C, too
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """PhiFlow sets this variable when it is imported; the processes that tests start would inherit it, and
    take it for the user's wish to see TensorFlow's log (`hig.runs.cli.silent_start`). Before the fixtures of
    whatever scope.
    """
    os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)


@pytest.fixture
def float64():
    """Keras in double precision: data, networks and losses."""
    import keras  # here, as not every test needs it
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


@pytest.fixture
def one_blas_thread():
    """For small matrices, where several threads only make tests slow on a busy machine."""
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(autouse=True)
def as_graphs(request, monkeypatch):
    """XLA, which takes a quarter of the time, compiles models in `make test` only for tests marked `xla`.
    With the slow tests, as continuous integration runs them, it compiles all models.
    """
    model = sys.modules.get("hig.model")
    graphs = request.config.getoption("markexpr") == "not slow" and not request.node.get_closest_marker("xla")
    if model and graphs:
        monkeypatch.setitem(model.PhysicsModel.compile.__kwdefaults__, "jit_compile", False)


@pytest.fixture(params=[False, pytest.param("auto", marks=pytest.mark.slow)], ids=["graph", "xla"])
def jit_compile(request):
    """Long tables run as graphs in `make test`; continuous integration compiles each of their models, too."""
    return request.param


def pytest_collection_modifyitems(items):
    """The longest file first: at the end one process would run it while the other has nothing left to do."""
    items.sort(key=lambda item: item.path.name != "test_training.py")
