"""`plot.py trajectories`: what the pictures show, checked by physics; formats, and what cannot be drawn."""

import numpy as np
import pytest
from PIL import Image
from matplotlib.figure import Figure
from matplotlib.image import imread

import plot
from hig.figures import pictures
from hig.figures.style import TRAJECTORIES
from hig.runs.weights import load_weights, save_weights
from Nonlinear_Oscillators import experiment as oscillators
from Poisson.network import build_network as poisson_network
from Schroedinger import experiment as dipole
from tests.test_plot import falling, save
from Toy_Problem import experiment as toy

COLORS = TRAJECTORIES["paper"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folder of untrained networks: nlo, qmc, poisson and toy."""
    folder = tmp_path_factory.mktemp("weights")
    networks = {"nlo": oscillators.build_model(3).network, "qmc": dipole.build_model(3).network,
                "poisson": poisson_network(8), "toy": toy.build_model(3, 1.0).network}
    for name, network in networks.items():
        save_weights(network, folder / f"{name}.weights.h5")
    return folder


def solved(weights, name, seed=1):
    return pictures.solve(weights / f"{name}.weights.h5", seed)


def test_oscillators(weights):
    """Positions from the simulator's own end points; the curves in the axes are these positions."""
    drawer, solution = solved(weights, "nlo")
    assert drawer.__name__ == "Nonlinear_Oscillators.pictures"
    _, test, _ = oscillators.draw_data(1)
    model = oscillators.build_model(0)
    load_weights(model.network, weights / "nlo.weights.h5")
    states = test[:drawer.SAMPLES]
    free = model.simulator(states, np.zeros((drawer.SAMPLES, 96), np.float32))
    np.testing.assert_array_equal(solution["positions"][0], states[:, :2])
    for name, end in (("positions", model(states)), ("uncontrolled", free)):            # float32
        np.testing.assert_allclose(solution[name][-1], end[:, :2], atol=1e-5)
    figure = Figure()
    drawer.draw(figure, solution, [solution], COLORS)(0.5)
    panels, controls = figure.axes[::2], figure.axes[1::2]
    assert len(panels) == len(controls) == drawer.SAMPLES
    for sample, ax in enumerate(panels):
        drawn = {line.get_label(): line for line in ax.lines if line.get_label().startswith("$")}
        for i, name in enumerate(("$q_1$", "$q_2$")):  # half of the 96 steps, and the start
            np.testing.assert_allclose(drawn[name].get_xdata(), 0.125 * np.arange(49), atol=1e-6)
            np.testing.assert_array_equal(drawn[name].get_ydata(), solution["positions"][:49, sample, i])
        dotted = [line for line in ax.lines if line.get_linestyle() == ":"]
        np.testing.assert_array_equal(dotted[1].get_ydata(), solution["uncontrolled"][:, sample, 1])
        drawn = controls[sample].lines[0].get_ydata()
        np.testing.assert_array_equal(drawn, solution["controls"][:49, sample])


def test_files_side_by_side_have_the_same_scales(weights):
    drawer, one = solved(weights, "nlo")
    other = {**one, "positions": 3 * one["positions"], "controls": 5 * one["controls"] + 1}
    first, second = Figure(), Figure()
    for figure, solution in ((first, one), (second, other)):
        drawer.draw(figure, solution, [one, other], COLORS)
    scales = [ax.get_ylim() for ax in first.axes]
    assert scales == [ax.get_ylim() for ax in second.axes]
    assert scales[0][1] > other["positions"].max() and scales[1][1] > other["controls"].max()


def test_dipole(weights):
    """The norm is conserved and the beginning is sin²; float32 pairs give 1e-5."""
    drawer, solution = solved(weights, "qmc")
    assert drawer.__name__ == "Schroedinger.pictures" and solution["density"].shape == (385, 16)
    np.testing.assert_allclose(solution["density"].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(solution["target"].sum(), 1, atol=1e-5)
    sine = np.sin(np.pi * solution["x"] / 2) ** 2
    np.testing.assert_allclose(solution["density"][0], sine / sine.sum(), atol=1e-6)
    figure = Figure()
    show = drawer.draw(figure, solution, [solution], COLORS)
    heat, _, side, control = figure.axes                                    # the second one is the colour bar
    np.testing.assert_array_equal(heat.images[0].get_array(), solution["density"].T)
    target, state = side.lines
    np.testing.assert_array_equal(target.get_xdata(), solution["target"])
    np.testing.assert_array_equal(state.get_xdata(), solution["density"][-1])
    np.testing.assert_array_equal(control.lines[0].get_ydata(), solution["controls"])
    show(0.25)
    np.testing.assert_array_equal(state.get_xdata(), solution["density"][96])
    assert len(control.lines[0].get_ydata()) == 96 and heat.patches[0].get_x() == solution["time"][96]


def test_poisson(weights):
    """The source is the 5-point Laplacian of the true solution; float32 fields of size 10 give 1e-5."""
    drawer, solution = solved(weights, "poisson")
    x = np.pad(solution["true_solution"], 1)
    laplacian = x[2:, 1:-1] + x[:-2, 1:-1] + x[1:-1, 2:] + x[1:-1, :-2] - 4 * x[1:-1, 1:-1]
    assert drawer.__name__ == "Poisson.pictures" and np.abs(laplacian).max() > 0.1
    np.testing.assert_allclose(solution["source"], laplacian, atol=1e-5)
    assert not np.array_equal(solution["source"], solved(weights, "poisson", seed=2)[1]["source"])
    figure = Figure()
    drawer.draw(figure, solution, [solution], COLORS)(0.25)
    true = solution["true_solution"]
    error = np.linalg.norm(solution["solution"] - true) / np.linalg.norm(true)
    assert f"{100 * error:.2g} %" in figure.axes[0].get_title()
    assert figure.axes[0].azim == 30                                        # a quarter turn from −60


def test_figures_and_animations_are_written(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "FRAMES", 3)
    monkeypatch.setattr(pictures, "PAUSE", 0.25)
    files = [str(weights / f"{name}.weights.h5") for name in ("nlo", "qmc")]
    output, animated = tmp_path / "new" / "a.png", tmp_path / "a.gif"
    assert plot.main(["trajectories", "--weights", *files, "--style", "dark", "--output", str(output),
                      "--animate", str(animated)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(output), str(animated)]
    image, frames = imread(output), animated.read_bytes()
    assert image.shape[:2] == (1160, 1680) and len(np.unique(image)) > 100  # lines and text: not blank
    np.testing.assert_allclose(image[0, 0, :3], np.array([0x14, 0x17, 0x1c]) / 255, atol=1e-6)
    assert frames.startswith(b"GIF89a") and frames.count(b"\x21\xf9\x04") == 3         # one for each frame
    with Image.open(animated) as still:
        shown = [still.seek(frame) or still.info["duration"] for frame in range(3)]
        assert still.convert("RGB").getpixel((0, 0)) == (0x14, 0x17, 0x1c)
    assert 200 <= shown[-1] <= 400 and max(shown[:-1]) <= 100  # 10 frames a second or more, then a pause
    assert plot.main(["trajectories", "--weights", files[0], "--output", str(tmp_path / "a.svg")]) == 0
    assert "<text" in (tmp_path / "a.svg").read_text()
    assert plot.main(["trajectories", "--weights", *files]) == 0            # beside the weights
    assert (weights / "nlo_qmc_trajectories.png").stat().st_size > 10_000


def test_losses_beside_the_picture(weights, tmp_path, capsys):
    """All curves of a folder at the right, with their legend; curves of two systems or none are refused."""
    for seed in (1, 2):
        save(tmp_path / f"{seed}" / "NLO_HIG_RESULTS.pickle", falling(), settings={"seed": seed})
    command = ["trajectories", "--weights", str(weights / "nlo.weights.h5"), "--output",
               str(tmp_path / "a.svg"), "--losses"]
    assert plot.main([*command, str(tmp_path)]) == 0
    drawn = (tmp_path / "a.svg").read_text()
    for words in ("median of 2 runs", "training time (s)", ">updates<", "without control"):
        assert words in drawn
    save(tmp_path / "QMC_HIG_RESULTS.pickle", falling())
    for folder, words in ((tmp_path, "several"), (weights, "none")):
        assert plot.main([*command, str(folder)]) == 2
        assert words in capsys.readouterr().err.splitlines()[-1]


def test_weights_that_cannot_be_drawn(weights, tmp_path, capsys):
    damaged = tmp_path / "damaged.weights.h5"
    damaged.write_bytes(b"not HDF5")
    for path, output, words in (
            (weights / "toy.weights.h5", "a.png", "toy.weights.h5 does not hold a network"),
            (damaged, "a.png", f"{damaged} does not hold a network"),
            (tmp_path / "none.weights.h5", "a.png", "none.weights.h5: there is no such file"),
            (weights / "nlo.weights.h5", "damaged.weights.h5/a.png", "cannot be written")):
        assert plot.main(["trajectories", "--weights", str(path), "--output", str(tmp_path / output)]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
