"""The figures of plot.py: what is in their axes, the table, and what happens to input that cannot be drawn."""

import itertools
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from numpy.testing import assert_allclose, assert_array_equal

import plot
from hig.figures import curves, losses, reading, style
from hig.figures.table import table
from hig.runs.results import load_results, save_results

PROJECT = Path(plot.__file__).parent


def save(path, losses, seconds=None, test=None, state="finished", settings=None, updates=32, **more):
    """A pickle with these training losses; the test losses are 10 % larger unless they are given."""
    losses = np.asarray(losses, float)
    seconds = np.arange(len(losses)) * 2.0 if seconds is None else np.asarray(seconds, float)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_results(path, {
        "epochs": np.arange(len(losses)), "train_loss": losses,
        "test_loss": losses * 1.1 if test is None else np.asarray(test, float),
        "simulation_time": seconds, "epoch_time": np.diff(seconds), "sim_par": settings or {"seed": 1},
        "provenance": {"state": state, "updates_per_epoch": updates}, **more})
    return path


def falling(length=20, rate=0.5, start=1.0):
    return start * np.exp(-rate * np.arange(length))


def options(*arguments):
    return plot.parse(list(arguments))


def draw(paths, *arguments):
    """Axes of the figure that `plot.py PATHS ARGUMENTS` writes."""
    chosen = options(*map(str, paths), *arguments)
    return losses.make_figure(reading.collect(chosen.paths, chosen.x), chosen).axes


def lines(ax):
    """{name of the optimizer: line} of an axes; the crosses have no name."""
    return {line.get_label().split(":")[0]: line for line in ax.lines if not line.get_label().startswith("_")}


def crosses(ax):
    return [line for line in ax.lines if line.get_marker() == "x"]


# ---------------------------------------------------------------------------------------- curves

def test_losses_over_seconds(tmp_path):
    losses, seconds = falling(), np.cumsum(np.r_[0, np.linspace(1, 2, 19)])
    path = save(tmp_path / "NLO_HIG_RESULTS.pickle", losses, seconds)
    ax, *_ = draw([path])
    line = lines(ax)["HIG"]
    assert_array_equal(line.get_xdata(), seconds)
    assert_allclose(line.get_ydata(), 1.1 * losses, rtol=1e-12)  # one multiplication: rounding
    assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "log")
    assert ax.get_xlabel() == "training time in seconds" and ax.get_ylabel() == "test loss"
    assert ax.get_legend().get_title().get_text() == "Nonlinear oscillators"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [f"HIG: {1.1 * losses[-1]:.1e}"]


@pytest.mark.parametrize("axis,factor,label", [("epochs", 1, "epochs"), ("updates", 32, "updates")])
def test_other_axes(tmp_path, axis, factor, label):
    path = save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    ax, *_ = draw([path], "--x", axis, "--y", "train")
    assert_array_equal(lines(ax)["HIG"].get_xdata(), factor * np.arange(20))
    assert_array_equal(lines(ax)["HIG"].get_ydata(), falling())
    assert ax.get_xlabel() == label and ax.get_ylabel() == "training loss"


def test_the_paper_s_colours_and_the_order_of_the_legend(tmp_path):
    for name in ("HIG", "Adam", "GN", "Unheard", "SGD"):
        save(tmp_path / f"NLO_{name}_RESULTS.pickle", falling())
    ax, *_ = draw([tmp_path])
    assert list(lines(ax)) == ["Adam", "GN", "HIG", "SGD", "Unheard"]
    for name, color in (("Adam", "dodgerblue"), ("GN", "crimson"), ("HIG", "darkorchid")):
        assert to_rgba(lines(ax)[name].get_color()) == to_rgba(color)


@pytest.mark.parametrize("palette", style.COLORS)
def test_all_colours_differ(palette):
    colors = [color for key, color in style.COLORS[palette].items() if key != "others"] + style.COLORS[palette]["others"]
    values = np.array([to_rgba(color)[:3] for color in colors])
    distance = np.abs(values[:, None] - values[None]).sum(-1) + 9 * np.eye(len(values))
    assert distance.min() > 0.15  # of at most 3; two greens that a reader would confuse differ by less


@pytest.mark.parametrize("palette", style.COLORS)
def test_all_colours_can_be_read_on_a_dark_background(palette):
    """Contrast as WCAG 2 defines it, 3:1 is what it asks of graphics; trajectories and graded settings included."""
    def luminance(color):
        parts = np.array(to_rgba(color)[:3])
        return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    labels = [*curves_of_all(palette), *(f"HIG (batch_size={size})" for size in range(6))]
    colors = [*style.choose_colors(labels, palette, "dark").values(),
              *(style.readable(color, "dark") for color in style.TRAJECTORIES[palette])]
    background = luminance(style.STYLES["dark"]["axes.facecolor"])
    assert min((luminance(color) + 0.05) / (background + 0.05) for color in colors) > 3
    assert (luminance(style.COLORS["safe"]["others"][0]) + 0.05) / (background + 0.05) < 3      # as it is, it cannot


def curves_of_all(palette):
    return [*(name for name in style.COLORS[palette] if name != "others"), "A", "B", "C", "D"]


def test_styles_and_colours_are_applied(tmp_path):
    path = save(tmp_path / "NLO_GN_RESULTS.pickle", falling())
    (paper, *_), (dark, *_) = draw([path]), draw([path], "--style", "dark", "--colors", "safe")
    assert sum(to_rgba(paper.get_facecolor())[:3]) == 3 and sum(to_rgba(dark.get_facecolor())[:3]) < 0.5
    assert dark.xaxis.label.get_color() != paper.xaxis.label.get_color()
    assert to_rgba(lines(dark)["GN"].get_color()) == to_rgba("#D55E00")


def test_losses_that_a_log_axis_cannot_show_are_left_out(tmp_path):
    losses = falling()
    losses[[3, 4]] = 0, -1e-8  # the fidelity of a quantum state can exceed 1 by rounding
    ax, *_ = draw([save(tmp_path / "QMC_HIG_RESULTS.pickle", losses)])
    assert_array_equal(lines(ax)["HIG"].get_xdata(), np.delete(np.arange(20) * 2.0, [3, 4]))


def test_poisson_is_logarithmic_in_time_and_needs_no_test_set(tmp_path):
    save(tmp_path / "POISSON_HIG_RESULTS.pickle", falling(), test=np.full(20, np.nan))
    ax, *_ = draw([tmp_path])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_ylabel() == "training loss"
    assert_array_equal(lines(ax)["HIG"].get_xdata(), np.arange(1, 20) * 2.0)  # time 0 has no place there
    assert_array_equal(lines(ax)["HIG"].get_ydata(), falling()[1:])


def test_test_losses_measured_now_and_then(tmp_path):
    test = np.full(20, np.nan)
    test[::5] = falling()[::5]
    ax, *_ = draw([save(tmp_path / "NLO_HIG_RESULTS.pickle", falling(), test=test)])
    assert_array_equal(lines(ax)["HIG"].get_xdata(), np.arange(20)[::5] * 2.0)
    assert not crosses(ax)


def test_an_example_of_the_best_run_has_a_panel_with_labelled_colour_scales(tmp_path):
    rng = np.random.default_rng(0)
    names = ("x", "x_ground_truth", "target", "residual")
    better, worse = ({f"example_{name}": rng.normal(size=(8, 8)) for name in names} for _ in range(2))
    save(tmp_path / "POISSON_HIG_RESULTS.pickle", falling(rate=0.5), **better)
    save(tmp_path / "POISSON_Adam_RESULTS.pickle", falling(rate=0.1), **worse)
    _, panel, *rest = draw([tmp_path])
    assert "HIG" in panel.get_title() and not rest                       # colour bars and images are insets
    images = {ax.get_title(): ax.images[0] for ax in panel.child_axes if ax.get_title()}
    expected = dict(zip(("predicted x", "true x", "target y*", "residual y − y*"), names))
    assert set(images) == set(expected)
    for title, name in expected.items():
        assert_array_equal(images[title].get_array(), better[f"example_{name}"])
    for together in (names[:2], names[2:3], names[3:]):                  # x and its truth; the target; the residual
        limit = max(np.abs(better[f"example_{name}"]).max() for name in together)
        for title in (title for title, name in expected.items() if name in together):
            assert images[title].get_clim() == (-limit, limit)
    share = np.linalg.norm(better["example_residual"]) / np.linalg.norm(better["example_target"])
    assert f"residual is {100 * share:.2g} % of the target" in panel.get_title()
    assert all(bar.get_ylabel() for bar in panel.child_axes if not bar.get_title())


@pytest.mark.parametrize("axis, position", [("time", 14.0), ("epochs", 7), ("updates", 7 * 32)])
def test_the_switch_of_a_pretrained_run_is_marked(tmp_path, axis, position):
    path = save(tmp_path / "POISSON_Adam_then_HIG_RESULTS.pickle", falling())
    ax, *_ = draw([path], "--x", axis)
    assert not ax.texts
    results = load_results(path)
    save_results(path, {**results, "provenance": {**results["provenance"], "switch_epoch": 7}})
    ax, *_ = draw([path], "--x", axis)
    assert [text.get_text() for text in ax.texts] == ["switch"] and ax.texts[0].xy[0] == position
    assert any(list(line.get_xdata()) == [position] * 2 for line in ax.lines)


def test_the_switch_is_marked_on_a_thinned_curve_without_its_epoch(tmp_path):
    path = save(tmp_path / "POISSON_Adam_then_HIG_RESULTS.pickle", falling())
    results = load_results(path)
    kept = {key: np.delete(values, 7) for key, values in results.items() if np.shape(values) == (20,)}
    save_results(path, {**results, **kept, "epoch_time": np.diff(kept["simulation_time"]),
                        "provenance": {**results["provenance"], "switch_epoch": 7}})
    ax, *_ = draw([path], "--x", "epochs")
    assert ax.texts[0].xy[0] == 6                                       # the last entry before


def test_one_measured_point_is_seen_and_the_table_has_the_last_one(tmp_path):
    """A short Poisson run: evaluated at updates 0, which a log axis has no place for, and 10 of 15."""
    losses = falling(15)
    test = np.where(np.arange(15) % 10 == 0, losses, np.nan)
    path = save(tmp_path / "POISSON_HIG_RESULTS.pickle", losses, test=test)
    ax, *_ = draw([path])
    line = lines(ax)["HIG"]
    assert_array_equal(line.get_xdata(), [20.0])
    assert line.get_marker() == "o"
    row = table(reading.collect([path], "time")).splitlines()[1]
    assert f"{losses[10]:.3e}" in row and "nan" not in row


def test_smoothing_is_a_geometric_mean_over_seconds():
    """The same seconds on both sides, however many entries are in them."""
    rng = np.random.default_rng(0)
    seconds, y = np.cumsum(rng.uniform(0.1, 2, size=50)), rng.lognormal(size=50)
    for width in (0.5, 3.0, 20.0):
        inside = (y[np.abs(seconds - moment) <= width / 2] for moment in seconds)
        expected = [np.prod(window) ** (1 / len(window)) for window in inside]
        assert_allclose(curves.smooth(seconds, y, width), expected, rtol=1e-10)  # a sum of 50 logarithms: rounding
    assert_array_equal(curves.smooth(seconds, y, None), y)


def test_smoothing_is_applied(tmp_path):
    path = save(tmp_path / "NLO_HIG_RESULTS.pickle", falling() * np.tile([1, 2], 10))
    (rough, *_), (smoothed, *_) = draw([path]), draw([path], "--smooth", "4")
    assert np.diff(np.log(lines(rough)["HIG"].get_ydata())).max() > 0
    assert np.diff(np.log(lines(smoothed)["HIG"].get_ydata())[:-1]).max() < 0


# ---------------------------------------------------------------------------------------- long curves

@pytest.mark.parametrize("logarithmic", [False, True])
def test_thinning_keeps_extremes_and_ends(logarithmic):
    rng = np.random.default_rng(1)
    x, y = np.cumsum(rng.random(30_000)) + 1, rng.lognormal(size=30_000)
    y[[777, 20_001]] = 1e-9, 1e9
    index = curves.thin(x, y, logarithmic, bins=100)
    assert len(index) <= 202 and np.all(np.diff(index) > 0)
    assert {0, 777, 20_001, 29_999} <= set(index)
    edges = np.linspace(*(np.log(x[[0, -1]]) if logarithmic else x[[0, -1]]), 101)
    bins = np.clip(np.digitize(np.log(x) if logarithmic else x, edges) - 1, 0, 99)
    for number in range(100):  # the naive way: search every bin
        inside = np.flatnonzero(bins == number)
        if len(inside):
            kept = y[index[np.isin(index, inside)]]
            assert kept.min() == y[inside].min() and kept.max() == y[inside].max()


def test_short_curves_stay_whole():
    x = np.arange(200.0)
    assert_array_equal(curves.thin(x, x, False, bins=100), np.arange(200))
    assert len(curves.thin(np.zeros(500), np.arange(500.0), False, bins=100)) == 2
    assert len(curves.thin(x[:0], x[:0], True)) == 0


def test_a_long_curve_is_thinned_in_the_figure(tmp_path):
    losses = np.full(50_000, 0.1)
    losses[31_415], losses[27_182] = 0.9, 0.001
    ax, *_ = draw([save(tmp_path / "NLO_Adam_RESULTS.pickle", losses)])
    y = lines(ax)["Adam"].get_ydata()
    assert len(y) <= 2 * curves.BINS + 2
    assert_allclose([y.min(), y.max()], [0.0011, 0.99], rtol=1e-12)


# ---------------------------------------------------------------------------------------- several seeds

def test_seeds_become_a_median_with_a_band(tmp_path):
    rng = np.random.default_rng(2)
    curves = [falling() * rng.lognormal(size=20) for _ in range(5)]
    for seed, losses in enumerate(curves):
        save(tmp_path / str(seed) / "NLO_HIG_RESULTS.pickle", losses, settings={"seed": seed, "eta": 1.0})
    ax, *_ = draw([tmp_path], "--y", "train")
    line = lines(ax)["HIG"]
    assert_array_equal(line.get_xdata(), np.arange(20) * 2.0)
    assert_allclose(line.get_ydata(), np.median(curves, axis=0), rtol=1e-12)  # exp of log: rounding
    (band,) = ax.collections
    vertices = band.get_paths()[0].vertices
    for i in range(20):
        here = vertices[vertices[:, 0] == 2.0 * i, 1]
        assert_allclose([here.min(), here.max()], [min(c[i] for c in curves), max(c[i] for c in curves)], rtol=1e-12)
    assert line.get_label() == f"HIG: {np.median([c[-1] for c in curves]):.1e}, median of 5 runs"


def curve(x, y, death=None, ended=True):
    return curves.Curve(np.asarray(x, float), np.asarray(y, float), death, ended)


def test_a_band_interpolates_the_logarithm():
    x, middle, low, high, count = curves.median_band([curve([0, 4], [1, 1e-4]), curve([0, 1, 2], [1, 0.5, 0.5])])
    assert_array_equal(x, [0, 1, 2, 4])
    assert_allclose(low, [1, 0.1, 0.01, 1e-4], rtol=1e-12)
    assert_allclose(high, [1, 0.5, 0.5, 0.5], rtol=1e-12)               # a run that has finished counts on
    assert_allclose(middle, np.sqrt(low * high), rtol=1e-12)            # median of two logarithms
    assert count == 2


def test_a_young_run_leaves_the_median_where_it_is():
    """Nine seeds have finished after 60 s, the tenth has just begun: it counts as far as it has come."""
    old = [curve([0, 60], [1, level]) for level in (1e-1, 1e-2, 1e-3)]
    young = curve([0, 6], [1, 1e-9], ended=False)
    x, middle, low, _, count = curves.median_band([*old, young])
    assert_array_equal(x, [0, 6, 60])
    assert_allclose(middle[-1], 1e-2, rtol=1e-12)
    assert low[1] < 1e-8 and low[2] == pytest.approx(1e-3) and count == 3
    x, *_, count = curves.median_band([curve([0, end], [1, 0.1], ended=False) for end in (1, 2, 3, 4)])
    assert x[-1] == 3 and count == 2                                    # no median of fewer than half of the runs


def test_the_legend_says_how_many_runs_the_median_is_of(tmp_path):
    for seed in range(4):
        save(tmp_path / str(seed) / "NLO_HIG_RESULTS.pickle", falling(20 if seed else 3), state="finished" if seed else "interrupted",
             settings={"seed": seed})
    ax, *_ = draw([tmp_path])
    assert lines(ax)["HIG"].get_label() == f"HIG: {1.1 * falling()[-1]:.1e}, median of 3 of 4 runs"
    assert lines(ax)["HIG"].get_xdata()[-1] == 38


def test_runs_of_different_budgets_are_not_mixed(tmp_path):
    for seed, budget in enumerate((60.0, 60.0, 6.0)):
        save(tmp_path / str(seed) / "NLO_HIG_RESULTS.pickle", falling(int(budget)), settings={"seed": seed, "max_time": budget})
    assert list(lines(draw([tmp_path])[0])) == ["HIG (6 s)", "HIG (60 s)"]


def test_dead_runs_count_as_infinite_in_the_median():
    alive = [curve(np.arange(4), np.full(4, level)) for level in (1.0, 2.0, 3.0)]
    dead = [curve(np.arange(2), np.full(2, 0.1), death=(2.0, 0.1))] * 2
    x, middle, low, high, _ = curves.median_band(alive + dead)
    assert_array_equal(x, np.arange(4))
    assert_allclose(middle, [1, 1, 3, 3], rtol=1e-12)
    assert_allclose(low, [0.1, 0.1, 1, 1], rtol=1e-12)
    assert_allclose(high, [3, 3, 3, 3], rtol=1e-12)
    assert_array_equal(curves.median_band(alive[:1] + dead)[1][2:], [np.inf, np.inf])


def test_many_settings_are_graded_in_numeric_order(tmp_path):
    for size in (16, 128, 64, 512, 32, 1024):
        save(tmp_path / str(size) / "NLO_HIG_RESULTS.pickle", falling(), settings={"seed": 1, "batch_size": size})
    ax, final, _ = draw([tmp_path])
    assert [name.split("=")[1] for name in lines(ax)] == ["16)", "32)", "64)", "128)", "512)", "1024)"]
    brightness = [sum(to_rgba(line.get_color())[:3]) for line in lines(ax).values()]
    assert np.all(np.diff(brightness) > 0)
    assert final.get_xlabel() == "batch size" and final.get_xscale() == "log"


def test_one_odd_file_does_not_tear_a_band_apart(tmp_path):
    for seed in range(4):
        save(tmp_path / f"seed_{seed}" / "NLO_HIG_RESULTS.pickle", falling(), settings={"seed": seed, "a": 1, "b": 2, "c": 3})
    save(tmp_path / "odd" / "NLO_HIG_RESULTS.pickle", falling(), settings={"seed": 9})
    assert list(lines(draw([tmp_path])[0])) == ["HIG (odd)", "HIG"]


# ---------------------------------------------------------------------------------------- studies

def study(folder, name, losses, **settings):
    """Three seeds of a setting, with these final training losses; NaN for one that died."""
    for seed, final in enumerate(losses):
        save(folder / name / "_".join(map(str, settings.values())) / f"seed_{seed}" / f"NLO_{name}_RESULTS.pickle",
             [1.0, 0.5, final], test=[1.0, 0.5, final], settings={"seed": seed, **settings})


def test_a_study_shows_final_losses_over_its_setting(tmp_path):
    for eta, losses in ((0.1, (1e-2, 2e-2, 4e-2)), (1, (1e-4, 3e-4, np.nan)), (10, (np.nan, np.nan, 1e-3))):
        study(tmp_path, "GN", losses, learning_rate=eta)
    _, panel, _ = draw([tmp_path])
    medians = lines(panel)["GN"]
    assert_array_equal(medians.get_xdata(), [0.1, 1, 10])
    assert_allclose(medians.get_ydata(), [2e-2, 3e-4, np.nan])
    ranges = [(line.get_xdata()[0], *line.get_ydata()) for line in panel.lines if line.get_linewidth() == 5]
    assert_allclose(ranges, [(0.1, 1e-2, 4e-2), (1, 1e-4, 3e-4), (10, 1e-3, 1e-3)])
    assert [line.get_xdata()[0] for line in crosses(panel)] == [1, 10]
    assert [text.get_text() for text in panel.texts] == ["1/3", "2/3"]
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["0.1", "1", "10"]


def test_a_study_of_two_settings_is_a_heat_map(tmp_path):
    table = {(eta, tau): eta * 1e-3 + tau for eta in (1, 2) for tau in (1e-6, 1e-5, 1e-4)}
    for (eta, tau), final in table.items():
        study(tmp_path, "HIG", (final, final, np.nan if eta == 2 else final), learning_rate=eta, truncation=tau)
    panel = draw([tmp_path])[1]
    (image,) = panel.collections
    assert_allclose(np.reshape(image.get_array(), (2, 3)), [[table[eta, tau] for tau in (1e-6, 1e-5, 1e-4)] for eta in (1, 2)])
    assert panel.get_xlabel() == "truncation" and panel.get_ylabel() == "learning rate" and "HIG" in panel.get_title(loc="left")
    assert sum("1/3 died" in text.get_text() for text in panel.texts) == 3


def test_runs_with_other_settings_are_not_mixed(tmp_path):
    for place, eta in (("a", 1.0), ("b", 1.0), ("c", 0.5)):
        save(tmp_path / place / "NLO_HIG_RESULTS.pickle", falling(), settings={"seed": place, "eta": eta, "tau": 1e-6})
    assert list(lines(draw([tmp_path])[0])) == ["HIG (eta=0.5)", "HIG (eta=1)"]
    published = {"learningrate": 1, "batchsize": 128, "trunc": 1e-6}
    save(tmp_path / "published" / "NLO_HIG_RESULTS.pickle", falling(), settings=published)
    ax, *_ = draw([tmp_path / "a", tmp_path / "published"])
    assert list(lines(ax)) == ["HIG (a)", "HIG (published)"]
    assert len({line.get_color() for line in lines(ax).values()}) == 2


def test_a_seed_in_the_name_is_no_other_optimizer(tmp_path):
    for seed in (1, 2):
        save(tmp_path / f"NLO_HIG_seed{seed}_RESULTS.pickle", falling())
    assert list(lines(draw([tmp_path])[0])) == ["HIG"]


# ---------------------------------------------------------------------------------------- runs that died

@pytest.mark.parametrize("value", ["NaN", "inf"])
def test_a_dead_run_ends_in_a_cross(tmp_path, value):
    losses = falling()
    losses[12:] = float(value)
    ax, *_ = draw([save(tmp_path / "NLO_GN_RESULTS.pickle", losses, state="diverged")])
    line, (cross,) = lines(ax)["GN"], crosses(ax)
    assert_array_equal(line.get_xdata(), np.arange(12) * 2.0)
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (24, line.get_ydata()[-1])   # when and where
    assert cross.get_color() == line.get_color()
    assert line.get_label() == f"GN: died at {value}, t = 24 s"


def test_a_run_that_explodes_does_not_flatten_the_others(tmp_path):
    losses = falling()
    losses[10:] = 10.0 ** np.linspace(2, 38, 10)
    losses[-1] = np.inf
    save(tmp_path / "NLO_GN_RESULTS.pickle", losses)
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    ax, *_ = draw([tmp_path])
    bottom, top = ax.get_ylim()
    assert top == pytest.approx(1.1e3) and 1e-6 < bottom < 1.1 * falling()[-1]
    assert crosses(ax)[0].get_ydata()[0] == top and crosses(ax)[0].get_xdata()[0] == 38


def test_runs_that_die_at_once_or_not_at_all(tmp_path):
    dead = save(tmp_path / "NLO_GN_RESULTS.pickle", [1.0, np.nan], state="diverged")
    ax, *_ = draw([dead])
    assert len(crosses(ax)) == 1 and "died at NaN, t = 2 s" in lines(ax)["GN"].get_label()
    ax, *_ = draw([save(tmp_path / "NLO_SGD_RESULTS.pickle", [np.nan], state="diverged")])
    assert "died at NaN, t = 0 s" in lines(ax)["SGD"].get_label()
    passing = falling()
    passing[5] = np.nan
    ax, *_ = draw([save(tmp_path / "NLO_Adam_RESULTS.pickle", passing)])
    assert not crosses(ax) and len(lines(ax)["Adam"].get_xdata()) == 19
    ax, *_ = draw([save(tmp_path / "NLO_SIP_RESULTS.pickle", falling(), state="diverged")])
    assert len(crosses(ax)) == 1 and len(lines(ax)["SIP"].get_xdata()) == 20


def test_dead_seeds_are_counted(tmp_path):
    for seed in range(3):
        losses = falling()
        losses[10:] = np.nan if seed == 0 else losses[10:]
        save(tmp_path / str(seed) / "NLO_GN_RESULTS.pickle", losses)
    ax, *_ = draw([tmp_path])
    assert lines(ax)["GN"].get_label().endswith("median of 3 runs, 1 died") and len(crosses(ax)) == 1
    losses[:] = np.nan
    save(tmp_path / "3" / "NLO_GN_RESULTS.pickle", losses)
    save(tmp_path / "4" / "NLO_GN_RESULTS.pickle", losses)
    assert lines(draw([tmp_path])[0])["GN"].get_label() == "GN: 3 of 5 runs died"


def test_a_folder_of_dead_runs_only(tmp_path, capsys):
    for seed, lived in enumerate((1, 3, 8)):
        save(tmp_path / str(seed) / "NLO_GN_RESULTS.pickle", np.r_[falling(lived), np.nan], settings={"seed": seed}, state="diverged")
    ax, *_ = draw([tmp_path])
    assert sorted(cross.get_xdata()[0] for cross in crosses(ax)) == [2, 6, 16]
    assert lines(ax)["GN"].get_label() == "GN: 3 of 3 runs died"
    save(tmp_path / "NLO_HIG_RESULTS.pickle", [np.nan], state="diverged")
    assert plot.main([str(tmp_path)]) == 0 and plot.main([str(tmp_path / "NLO_HIG_RESULTS.pickle")]) == 0
    assert "of 3, 3 died" in capsys.readouterr().out


@pytest.mark.parametrize("name, position", [("NLO", 0.0), ("POISSON", 20.0)])
def test_axes_around_a_single_point_are_wide_enough_to_be_read(tmp_path, name, position):
    losses = np.full(15, np.nan)
    losses[[0, 10] if name == "POISSON" else 0] = 0.5
    ax, *_ = draw([save(tmp_path / f"{name}_HIG_RESULTS.pickle", falling(15) if name == "POISSON" else [0.5], test=losses[:15 if name == "POISSON" else 1])])
    (low, high), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert low < position < high and (high / low >= 99 if name == "POISSON" else high - low >= 2)
    assert top / bottom >= 99 and bottom < 0.5 < top


def test_seeds_are_in_numeric_order(tmp_path):
    for seed in (10, 9, 1, 2):
        save(tmp_path / f"seed_{seed}" / "NLO_HIG_RESULTS.pickle", falling(), settings={"seed": seed})
    rows = table(reading.collect([tmp_path], "time")).splitlines()[1:]
    assert [row.split()[3] for row in rows] == ["1", "2", "9", "10", "median"]
    assert not any(str(tmp_path) in row for row in rows)
    save(tmp_path / "again" / "NLO_HIG_RESULTS.pickle", falling(), settings={"seed": 9})
    rows = table(reading.collect([tmp_path], "time")).splitlines()[1:]
    assert sum("again" in row for row in rows) == 1                     # of two runs of one seed, the files


# ---------------------------------------------------------------------------------------- systems

def test_every_system_has_its_panel(tmp_path):
    for prefix in ("TOY", "POISSON", "QMC", "NLO"):
        save(tmp_path / f"{prefix}_HIG_RESULTS.pickle", falling())
    titles = [ax.get_title(loc="left") for ax in draw([tmp_path]) if ax.axison]
    assert titles == ["Nonlinear oscillators", "Schroedinger equation", "Poisson problem", "Toy problem"]


def test_populations_of_the_dipole_have_a_panel(tmp_path):
    errors = {"population_error_2": falling(rate=0.2), "population_error_3": falling(rate=0.3)}
    save(tmp_path / "QMC_HIG_RESULTS.pickle", falling(), **errors)
    save(tmp_path / "QMC_Adam_RESULTS.pickle", falling())
    losses, populations = draw([tmp_path])
    assert set(lines(losses)) == {"Adam", "HIG"}
    drawn = lines(populations)
    assert {name: line.get_linestyle() for name, line in drawn.items()} == {"HIG, |2⟩": "-", "HIG, |3⟩": "--"}
    for state in (2, 3):
        assert_array_equal(drawn[f"HIG, |{state}⟩"].get_ydata(), errors[f"population_error_{state}"])
    assert drawn["HIG, |2⟩"].get_color() == lines(losses)["HIG"].get_color()
    assert populations.get_yscale() == "log"
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    assert len(draw([tmp_path])) == 2  # with several systems only their losses


def save_toy(folder, name, factor, losses=None, seed=0, **more):
    """A pickle of the toy problem; the path goes from (0, 0) in equal steps to (1, 2)."""
    losses = falling() if losses is None else losses
    way = np.linspace(0, 1, len(losses))
    arrays = {"activation_mean": 0.1 + 0.8 * way, "activation_std": 0.2 * (1 - way), "path_y1": way, "path_y2": 2 * way}
    settings = {"lambda": factor, "seed": seed, "path_target_y1": 1.0, "path_target_y2": 2.0}
    return save(folder / f"TOY_lambda_{factor:g}_{name}_RESULTS.pickle", losses, settings=settings, **arrays, **more)


def test_the_toy_problem_has_three_panels_for_each_lambda(tmp_path):
    for name, factor in itertools.product(("Adam", "GN", "HIG"), (0.01, 1.0)):
        save_toy(tmp_path, name, factor)
    axes = draw([tmp_path])
    assert len(axes) == 6
    assert [ax.get_legend().get_title().get_text() for ax in axes[:2]] == ["Toy problem, λ = 1", "Toy problem, λ = 0.01"]
    for losses, activations, paths in (axes[::2], axes[1::2]):
        assert set(lines(losses)) == {"Adam", "GN", "HIG"} and losses.get_yscale() == "log"
        assert activations.get_yscale() == "linear" and activations.get_ylim()[0] == 0 and len(activations.collections) == 3
        assert_array_equal(activations.lines[2].get_ydata(), 0.1 + 0.8 * np.linspace(0, 1, 20))
        vertices = activations.collections[2].get_paths()[0].vertices
        at_start = vertices[vertices[:, 0] == 0, 1]
        assert_allclose([at_start.min(), at_start.max()], [-0.1, 0.3], atol=1e-12)      # 0.1 ± 0.2: rounding
        whole = [line for line in paths.lines if len(line.get_xdata()) == 20]
        assert len(whole) == 3 and {to_rgba(line.get_color()) for line in whole} == {
            to_rgba(color) for color in ("dodgerblue", "crimson", "darkorchid")}
        assert_array_equal(whole[0].get_ydata(), np.linspace(0, 2, 20))
        marks = {line.get_marker(): (line.get_xdata()[0], line.get_ydata()[0]) for line in paths.lines
                 if line.get_marker() in "o*"}
        assert marks == {"o": (0, 0), "*": (1, 2)}
        assert paths.get_xscale() == paths.get_yscale() == "linear" and paths.get_xlim() == pytest.approx((-0.6, 1.6))


def test_a_path_ends_where_the_run_died_and_does_not_widen_the_view(tmp_path):
    losses = falling()
    losses[15:] = np.nan
    path = save_toy(tmp_path, "GN", 1.0, losses)
    results = load_results(path)
    results["path_y1"][10], results["path_y2"][15:] = 1e9, np.nan
    save_results(path, results)
    paths = draw([path])[2]
    assert len(paths.lines[0].get_xdata()) == 15 and paths.get_xlim()[1] < 2


def test_final_losses_of_several_seeds_have_a_panel(tmp_path):
    finals = []
    for seed in range(4):
        losses = falling(start=1.0 + seed)
        losses[10:] = np.nan if seed == 3 else losses[10:]
        finals.append(losses[-1])
        save_toy(tmp_path / str(seed), "HIG", 0.01, losses, seed)
    axes = draw([tmp_path], "--y", "train")
    assert len(axes) == 4 and axes[3].get_ylabel() == "final training loss" and axes[3].get_yscale() == "log"
    dots, bar = axes[3].lines
    assert_allclose(dots.get_ydata(), finals[:3])
    assert_allclose(bar.get_ydata(), 2 * [np.median([*finals[:3], np.inf])])            # the dead one counts as worst
    assert [text.get_text() for text in axes[3].texts] == ["1 died"]
    assert [text.get_text() for text in axes[3].get_xticklabels()] == ["HIG"]
    assert len(draw([tmp_path / "0"])) == 3
    save_toy(tmp_path, "HIG", 1.0)
    axes = draw([tmp_path])
    axes[0].figure.draw_without_rendering()
    assert min(ax.get_position().width for ax in axes) > 0.3           # a long legend does not squeeze the panels


def test_the_toy_problem_beside_other_systems_shows_its_losses(tmp_path):
    save_toy(tmp_path, "HIG", 0.01)
    save(tmp_path / "TOY_HIG_RESULTS.pickle", falling())                # one that does not tell its λ, nor more
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    titles = [ax.get_title(loc="left") for ax in draw([tmp_path]) if ax.axison]
    assert titles == ["Nonlinear oscillators", "Toy problem, λ = 0.01", "Toy problem"]


def test_phiflow_scenes(tmp_path):
    scene = tmp_path / "sim_000000"
    scene.mkdir()
    (scene / "log_step_time.txt").write_text("1 9.0\n2 4.0\n3 4.5\n")
    (scene / "log_loss_HIG_0.txt").write_text("0 600.0\n1 100.0\n2 40.0\n3 nan\n")
    (scene / "log_loss_Adam_0.txt").write_text("0 600.0\n1 500.0\n")
    ax, *_ = draw([tmp_path])
    assert ax.get_legend().get_title().get_text() == "Poisson problem"
    assert_array_equal(lines(ax)["HIG"].get_xydata(), [[9, 100], [13, 40]])
    assert_array_equal(lines(ax)["Adam"].get_xydata(), [[9, 500]])
    assert lines(ax)["HIG"].get_label() == "HIG: died at NaN, t = 17.5 s"
    assert_array_equal(lines(draw([scene], "--x", "updates")[0])["HIG"].get_xdata(), [1, 2])
    (scene / "log_loss_HIG_0.txt").write_text("zero one\n")
    with pytest.raises(ValueError, match="log_loss_HIG_0.txt cannot be used as a curve"):
        reading.read_runs(scene)


@pytest.mark.parametrize("name,expected", [
    ("NLO_HIG_RESULTS.pickle", ("NLO", "HIG")), ("QMC_Adam_RESULTS.pickle", ("QMC", "Adam")),
    ("POISSON_HIG_pretrained_RESULTS.pickle", ("POISSON", "HIG_pretrained")), ("TOY_GN_RESULTS.pickle", ("TOY", "GN")),
    ("TOY_lambda_0.01_GN_RESULTS.pickle", ("TOY", "GN")), ("TOY_lambda_1e-05_HIG_seed2_RESULTS.pickle", ("TOY", "HIG")),
    ("NLO_HIG_seed3_RESULTS.pickle", ("NLO", "HIG")), ("other.pickle", ("", "other")),
    ("NLO_HIG_RESULTS_2026-11-23_093012.pickle", ("NLO", "HIG 2026-11-23_093012")),
])
def test_names(name, expected):
    assert reading.describe(name) == expected


def test_names_with_dollars_are_no_formulas(tmp_path):
    save(tmp_path / "NLO_a$b_$_RESULTS.pickle", falling())
    assert plot.main([str(tmp_path), "--output", str(tmp_path / "a.png")]) == 0


# ---------------------------------------------------------------------------------------- command line

def pixels(file):
    """Grey values of a PNG written without interlacing, by hand: the figure must not depend on its own library here."""
    data = file.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height, depth, color = struct.unpack(">IIBB", data[16:26])
    assert depth == 8 and color == 6
    chunks, position = b"", 8
    while position < len(data):
        length, kind = struct.unpack(">I4s", data[position:position + 8])
        chunks += data[position + 8:position + 8 + length] if kind == b"IDAT" else b""
        position += 12 + length
    return width, height, np.frombuffer(zlib.decompress(chunks), np.uint8).reshape(height, 1 + 4 * width)


def test_everything_is_drawn_by_default(tmp_path, capsys):
    save(tmp_path / "Nonlinear_Oscillators" / "NLO_HIG_RESULTS.pickle", falling())
    save(tmp_path / "Schroedinger" / "seed_1" / "QMC_HIG_RESULTS.pickle", falling())
    assert plot.main([], root=tmp_path) == 0
    figures = [tmp_path / "Nonlinear_Oscillators/plot.png", tmp_path / "Schroedinger/plot.png",
               tmp_path / "figures/overview.png"]
    assert sorted(tmp_path.rglob("*.p*ng")) == sorted(figures)
    for figure in figures:
        width, height, rows = pixels(figure)
        assert width > 800 and height > 500
        assert len(np.unique(rows[:, 1:])) > 20  # text and lines with smooth edges; a blank page has one value
    assert capsys.readouterr().out.splitlines()[:3] == [str(figure) for figure in figures]


def test_one_system_needs_no_overview(tmp_path):
    save(tmp_path / "Poisson" / "POISSON_HIG_RESULTS.pickle", falling())
    assert plot.main([], root=tmp_path) == 0
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")] == ["Poisson/plot.png"]


def test_a_folder_of_several_systems_gets_a_figure_for_each_of_its_folders(tmp_path, monkeypatch):
    for name in ("Poisson/POISSON_HIG", "Poisson_seeds/seed_1/POISSON_HIG", "Oscillators/NLO_HIG"):
        save(tmp_path / f"{name}_RESULTS.pickle", falling())
    drawn = {}
    monkeypatch.setattr(plot, "make_figure", lambda runs, options: sorted(run.path.parent.name for run in runs))
    monkeypatch.setattr(plot, "write_figure", lambda runs, output, look: drawn.update({str(output.relative_to(tmp_path)): runs}))
    assert plot.main([str(tmp_path)]) == 0
    assert drawn == {"Poisson/plot.png": ["Poisson"], "Poisson_seeds/plot.png": ["seed_1"],
                     "Oscillators/plot.png": ["Oscillators"], "plot.png": ["Oscillators", "Poisson", "seed_1"]}
    drawn.clear()
    assert plot.main([str(tmp_path / "Poisson_seeds")]) == 0 and drawn == {"Poisson_seeds/plot.png": ["seed_1"]}


def test_where_the_figure_goes(tmp_path):
    path = save(tmp_path / "a" / "NLO_HIG_RESULTS.pickle", falling())
    assert plot.main([str(tmp_path)]) == 0 and (tmp_path / "plot.png").exists()
    assert plot.main([str(path)]) == 0 and (tmp_path / "a" / "plot.png").exists()
    assert plot.main([str(path), "--output", str(tmp_path / "new" / "figure.PDF")]) == 0
    assert (tmp_path / "new" / "figure.PDF").read_bytes().startswith(b"%PDF")


def test_vector_figures_hold_text_as_text_and_are_reproducible(tmp_path):
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    contents = []
    for name in ("a.svg", "b.svg"):
        assert plot.main([str(tmp_path), "--output", str(tmp_path / name)]) == 0
        contents.append((tmp_path / name).read_text())
    assert "<text" in contents[0] and "training time in seconds" in contents[0]
    assert contents[0] == contents[1]
    assert plot.main([str(tmp_path), "--output", str(tmp_path / "a.pdf")]) == 0
    assert b"/CIDFontType2" in (tmp_path / "a.pdf").read_bytes()  # TrueType, not outlines


def test_the_table(tmp_path, capsys):
    losses = np.array([1.0, 0.05, 8e-3, 9e-4, 2e-3])
    save(tmp_path / "NLO_HIG_RESULTS.pickle", losses, seconds=[0, 1.5, 3, 4.5, 1234], test=losses, state="interrupted")
    save(tmp_path / "POISSON_Adam_RESULTS.pickle", falling(4), test=np.full(4, np.nan))
    assert plot.main([str(tmp_path)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()[1:]
    assert re.split(r"  +", head) == ["system", "optimizer", "seed", "epochs", "train loss", "test loss", "time [s]",
                                      "to 0.01 [s]", "to 0.001 [s]", "to 0.0001 [s]"]
    assert re.split(r"  +", rows[0]) == ["Nonlinear oscillators", "HIG", "1", "4", "2.000e-03", "2.000e-03", "1234",
                                         "3", "4.5", "–", "interrupted"]
    assert re.split(r"  +", rows[3])[5:] == ["–", "6", "0", "0", "0", "–"]   # to 100, 10, 1, 0.1


def test_bad_pickles_named_are_refused(tmp_path, capsys):
    good = save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    truncated, foreign, malicious = (tmp_path / f"NLO_{name}_RESULTS.pickle" for name in "ABC")
    truncated.write_bytes(good.read_bytes()[:-20])
    foreign.write_bytes(b"\x80\x03}.")
    malicious.write_bytes(b"\x80\x03cos\nsystem\nX\x04\0\0\0true\x85R.")
    for path, reason in [(tmp_path / "none.pickle", "no such file"), (truncated, "truncated"), (foreign, "no entry"),
                         (malicious, "'os.system'")]:
        assert plot.main([str(good), str(path)]) == 2
        out, error = capsys.readouterr()
        assert not out and error.startswith(f"plot.py: {path} cannot be used as a curve") and reason in error
        assert error.count("\n") == 1
    assert not list(tmp_path.glob("*.png"))
    assert plot.main([str(tmp_path)]) == 0  # in a folder they are reported, and the good one is drawn
    out, error = capsys.readouterr()
    assert error.count("cannot be used as a curve") == 3 and "HIG" in out and (tmp_path / "plot.png").exists()
    good.unlink()
    assert plot.main([str(tmp_path)]) == 2
    assert "no curves" in capsys.readouterr().err


def test_nothing_to_draw(tmp_path, capsys):
    assert plot.main([], root=tmp_path) == 2
    assert plot.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("no curves in") == 2


def test_updates_of_a_file_that_does_not_count_them(tmp_path, capsys):
    path = save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    results = load_results(path)
    del results["provenance"]
    save_results(path, results)
    assert plot.main([str(path), "--x", "updates"]) == 2
    assert "how many updates an epoch has" in capsys.readouterr().err
    assert plot.main([str(path), "--x", "epochs"]) == 0


@pytest.mark.parametrize("arguments", [
    ["--x", "days"], ["--output", "figure.gif"], ["--output", "png"], ["--smooth", "0"], ["--smooth", "-1.5"], ["--what"],
    ["--style", "x"], ["--colors", "x"], ["--y", "x"]])
def test_bad_options(arguments, capsys):
    with pytest.raises(SystemExit) as status:
        plot.main(arguments)
    assert status.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_figure_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    path = save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    assert plot.main([str(path)]) == 0
    earlier = (tmp_path / "plot.png").read_bytes()
    (tmp_path / "file").write_text("")
    assert plot.main([str(path), "--output", str(tmp_path / "file" / "a.png")]) == 2

    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    assert plot.main([str(path), "--style", "dark"]) == 2
    assert "plot.png cannot be written: No space left on device" in capsys.readouterr().err
    assert (tmp_path / "plot.png").read_bytes() == earlier and not list(tmp_path.glob(".*"))


def test_dated_and_hidden_curves_are_not_found_by_themselves(tmp_path):
    for name in ("NLO_HIG_RESULTS_2026-11-23_093012.pickle", ".NLO_HIG_RESULTS.pickle", ".old/NLO_HIG_RESULTS.pickle"):
        save(tmp_path / name, falling())
    assert reading.find_files(tmp_path) == []
    path = save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    assert reading.find_files(tmp_path) == [path]
    assert len(reading.collect([tmp_path, path], "time")) == 1  # named twice, drawn once


def test_plotting_does_without_tensorflow(tmp_path):
    path = save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    program = ("import sys, plot; status = plot.main(sys.argv[1:]);"
               "print(sorted({'tensorflow', 'keras', 'phi', 'scipy', 'pandas'} & set(sys.modules)), status)")
    done = subprocess.run([sys.executable, "-c", program, str(path)], cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[] 0", done.stderr


def test_the_help_needs_no_matplotlib():
    program = ("import sys, plot\ntry: plot.main(['--help'])\n"
               "except SystemExit as end: print('matplotlib' in sys.modules, end.code)")
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False 0", done.stderr


def test_the_program_itself(tmp_path):
    path = save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    program = [sys.executable, str(PROJECT / "plot.py")]
    done = subprocess.run([*program, path.name], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr and (tmp_path / "plot.png").exists()
    done = subprocess.run([*program, "none"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "plot.py: none cannot be used as a curve: there is no such file\n"
