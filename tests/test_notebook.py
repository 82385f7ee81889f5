"""The notebook runs from the top to the end, stays small, and what it draws of the toy problem's first step
is right.

To store its outputs anew: `jupyter execute --inplace notebooks/half_inverse_gradients.ipynb`, then empty the
output of the moving picture, which is too large.
"""

import nbformat
import numpy as np
import pytest
import tensorflow as tf
from nbclient import NotebookClient

from tests.browser import ROOT
from tests.reference import jacobian_by_rows, power_by_svd
from Toy_Problem import experiment, steps, submit_GN, submit_HIG

NOTEBOOK = ROOT / "notebooks" / "half_inverse_gradients.ipynb"
BUDGETS = "TOY, OSCILLATORS, EPOCHS = "


def outputs_of(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    """With half seconds of training, in a folder of its own."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))           # no history in the home of the user
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    budgets, = [cell for cell in notebook.cells if cell.source.startswith(BUDGETS)]
    budgets.source = BUDGETS + "0.5, 0.5, 2"
    NotebookClient(notebook, timeout=300, kernel_name="python3",
                   resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = outputs_of(notebook)
    pictures = [kind for output in outputs for kind in output.get("data", {}) if kind.startswith("image/")]
    assert pictures == ["image/png"] * 4 + ["image/gif", "image/png"]
    text = "".join(output.get("text", "") for output in outputs)
    assert "HIG: finished after" in text and "per sample" in text
    assert not any(word in text for word in ("UsageError", "SystemExit", "Traceback"))          # of %run


def test_the_stored_notebook_is_small_and_without_errors():
    assert NOTEBOOK.stat().st_size < 200_000
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    outputs = outputs_of(notebook)
    assert {output.output_type for output in outputs} <= {"stream", "execute_result", "display_data"}
    assert not any("Error" in output.get("text", "") or "/home/" in output.get("text", "")
                   for output in outputs)


def test_settings_are_those_of_the_submit_scripts():
    for name, script in (("HIG", submit_HIG), ("Gauss-Newton", submit_GN)):
        assert steps.METHODS[name][1] == script.LEARNING_RATE
        assert (steps.TRUNCATION, steps.BATCH) == (script.TRUNCATION, script.BATCH_SIZE)


@pytest.fixture(scope="module")
def start():
    """Model for λ = 0.01 and a batch."""
    (x, target), _ = experiment.draw_data(3)
    return experiment.build_model(3, 0.01), x[:8], target[:8]


def test_jacobian(start):
    """Against one backward pass for each output; the same float32 sums in another order."""
    model, x, _ = start
    expected = jacobian_by_rows(lambda: model(x), model.trainable_variables)
    np.testing.assert_allclose(steps.jacobian(model, x), expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("kappa", [1.0, -0.5, -1.0])
def test_losses_along_a_step(start, kappa):
    """At η against the update done by hand; for short steps the promise is kept, for η = 0 nothing changes.

    The remainder of the first order is quadratic: a tenth of the step, a hundredth of it.
    """
    model, x, target = start
    before = model.network.get_weights()
    outcome = model(x).numpy().astype(float)
    rows = jacobian_by_rows(lambda: model(x), model.trainable_variables)
    direction = power_by_svd(rows, kappa, steps.TRUNCATION) @ ((outcome - target).ravel() / 8)
    rate = 0.5 / np.linalg.norm(direction)                                  # weights of size 2 move by 0.5
    length, promised, actual = steps.losses_along(model, x, target, kappa, [0, rate / 10, rate])
    np.testing.assert_allclose(length, np.linalg.norm(direction), rtol=1e-2)    # float32's weak values of σ
    assert all(np.array_equal(a, b) for a, b in zip(before, model.network.get_weights()))
    np.testing.assert_allclose([promised[0], actual[0]], tf.reduce_mean(experiment.loss(target, outcome)),
                               rtol=1e-6)
    first, second = np.abs(actual - promised)[1:]
    assert first < 0.02 * second + 1e-6 and second > 1e-4  # 1e-6: rounding of float32 derivatives and losses


def test_figures(tmp_path):
    """One update of HIG and Gauss-Newton is marked where the loss is."""
    left, middle, right = steps.draw_step().axes
    assert [line.get_label() for line in left.lines] == ["λ = 1", "λ = 0.01"]
    slopes = [np.polyfit(*np.log(line.get_data()), 1)[0] for line in middle.lines]
    np.testing.assert_allclose(slopes, [2, 0.5, 0], atol=1e-9)              # κ + 1
    dots = [line for line in right.lines if line.get_marker() == "o" and len(line.get_xdata())]
    curves = [line for line in right.lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 1]
    for dot, curve in zip(dots, curves, strict=True):
        (x,), (y,) = dot.get_data()
        np.testing.assert_allclose(y, np.interp(x, *curve.get_data()), rtol=1e-6)
    model = experiment.build_model(0, 0.01)
    model.network.save_weights(tmp_path / "a.weights.h5")
    untrained, same = steps.draw_trained({"HIG": tmp_path / "a.weights.h5"}).axes[0].lines
    np.testing.assert_array_equal(untrained.get_ydata(), same.get_ydata())
