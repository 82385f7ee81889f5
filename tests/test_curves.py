"""What plot.py makes of many runs: long curves, medians of seeds, studies over settings, runs that died."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from numpy.testing import assert_allclose, assert_array_equal

from hig.figures import curves, reading, style
from hig.figures.table import group_runs, table, tabulate
from tests.test_plot import crosses, draw, falling, lines, save


# ---------------------------------------------------------------------------------------- long curves

@pytest.mark.parametrize("logarithmic", [False, True])
def test_thinning_keeps_extremes_and_ends(logarithmic):
    rng = np.random.default_rng(1)
    x, y = np.cumsum(rng.random(30_000)) + 1, rng.lognormal(size=30_000)
    y[[777, 20_001]] = 1e-9, 1e9
    index = curves.thin(x, y, logarithmic, bins=100)
    assert len(index) <= 202 and np.all(np.diff(index) > 0)
    assert {0, 777, 20_001, 29_999} <= set(index)
    position = np.log(x) if logarithmic else x
    bins = np.clip(np.digitize(position, np.linspace(position[0], position[-1], 101)) - 1, 0, 99)
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
    for i, at_once in enumerate(np.transpose(curves)):
        here = vertices[vertices[:, 0] == 2.0 * i, 1]
        assert_allclose([here.min(), here.max()], [at_once.min(), at_once.max()], rtol=1e-12)
    assert line.get_label() == f"HIG: {np.median([c[-1] for c in curves]):.1e}, median of 5 runs"


def curve(x, y, death=None, ended=True):
    return curves.Curve(np.asarray(x, float), np.asarray(y, float), death, ended)


def test_a_band_interpolates_the_logarithm():
    both = [curve([0, 4], [1, 1e-4]), curve([0, 1, 2], [1, 0.5, 0.5])]
    x, middle, low, high, count = curves.median_band(both)
    assert_array_equal(x, [0, 1, 2, 4])
    assert_allclose(low, [1, 0.1, 0.01, 1e-4], rtol=1e-12)
    assert_allclose(high, [1, 0.5, 0.5, 0.5], rtol=1e-12)           # a run that has finished counts on
    assert_allclose(middle, (low + high) / 2, rtol=1e-12)           # of the losses, not of their logarithms
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
    assert x[-1] == 3 and count == 2  # no median of fewer than half of the runs


def test_dead_runs_count_as_infinite_in_the_median():
    alive = [curve(np.arange(4), np.full(4, level)) for level in (1.0, 2.0, 3.0)]
    dead = [curve(np.arange(2), np.full(2, 0.1), death=(2.0, 0.1))] * 2
    x, middle, low, high, _ = curves.median_band(alive + dead)
    assert_array_equal(x, np.arange(4))
    assert_allclose([middle, low, high], [[1, 1, 3, 3], [0.1, 0.1, 1, 1], [3, 3, 3, 3]], rtol=1e-12)
    assert_array_equal(curves.median_band(alive[:1] + dead)[1][2:], [np.inf, np.inf])


# ---------------------------------------------------------------------------------------- settings

@pytest.mark.parametrize("files, labels", [
    ({f"{seed}/NLO_HIG": {"seed": seed, "max_time": budget} for seed, budget in enumerate((60.0, 60.0, 6.0))},
     ["HIG (6 s)", "HIG (60 s)"]),
    ({f"{widths}/NLO_HIG": {"hidden": widths} for widths in ("160,160,160", "20,20,20", "80,80,80")},
     ["HIG (hidden=20,20,20)", "HIG (hidden=80,80,80)", "HIG (hidden=160,160,160)"]),
    ({"a/NLO_HIG": {"eta": 1.0}, "b/NLO_HIG": {"eta": 1.0}, "c/NLO_HIG": {"eta": 0.5}},
     ["HIG (eta=0.5)", "HIG (eta=1)"]),
    ({"ours/NLO_HIG": {"eta": 1, "tau": 1}, "published/NLO_HIG": {"learningrate": 1, "trunc": 1e-6}},
     ["HIG (ours)", "HIG (published)"]),
    ({**{f"{folder}/NLO_HIG": {"seed": i, "a": 1, "b": 2, "c": 3}
         for i, folder in enumerate(("seed_0", "1", "2"))}, "odd/NLO_HIG": {}}, ["HIG (odd)", "HIG"]),
    ({"NLO_HIG_seed1": {"seed": 1}, "NLO_HIG_seed2": {"seed": 2}}, ["HIG"])])
def test_runs_are_told_apart_by_their_settings_but_the_seed(tmp_path, files, labels):
    """In numeric order; by their folder where files name the settings in their own way."""
    for name, settings in files.items():
        save(tmp_path / f"{name}_RESULTS.pickle", falling(), settings=settings)
    assert list(group_runs(tabulate(reading.collect([tmp_path], "time")))) == labels


def test_up_to_three_settings_of_an_optimizer_have_its_colour_and_differ_in_their_lines(tmp_path):
    for name, budgets in (("Adam", (60, 180, 600)), ("HIG", (60,)), ("GN", (60, 180))):
        for budget in budgets:
            path = tmp_path / str(budget) / f"NLO_{name}_RESULTS.pickle"
            save(path, falling(), settings={"max_time": budget})
    ax, *_ = draw([tmp_path])
    looks = {name: (line.get_color(), line.get_linestyle()) for name, line in lines(ax).items()}
    assert looks == {"Adam (60 s)": ("dodgerblue", "-"), "Adam (180 s)": ("dodgerblue", "--"),
                     "Adam (600 s)": ("dodgerblue", "-."), "GN (60 s)": ("crimson", "-"),
                     "GN (180 s)": ("crimson", "--"), "HIG": ("darkorchid", "-")}


def test_many_settings_are_graded_in_numeric_order(tmp_path):
    for size in (16, 128, 64, 512, 32, 1024):
        save(tmp_path / str(size) / "NLO_HIG_RESULTS.pickle", falling(), settings={"batch_size": size})
    ax, _, final = draw([tmp_path])
    assert [name.split("=")[1] for name in lines(ax)] == ["16)", "32)", "64)", "128)", "512)", "1024)"]
    brightness = [sum(to_rgba(line.get_color())[:3]) for line in lines(ax).values()]
    assert np.all(np.diff(brightness) > 0)
    assert final.get_xlabel() == "batch size"
    assert [label.get_text() for label in final.get_xticklabels()] == ["16", "32", "64", "128", "512", "1024"]


# ---------------------------------------------------------------------------------------- studies

def study(folder, name, losses, **settings):
    """Three seeds of a setting, with these final training losses; NaN for one that died."""
    for seed, final in enumerate(losses):
        place = folder / name / "_".join(map(str, settings.values())) / f"seed_{seed}"
        save(place / f"NLO_{name}_RESULTS.pickle", [1.0, 0.5, final], test=[1.0, 0.5, final],
             settings={"seed": seed, **settings})


def test_a_study_shows_final_losses_over_its_setting(tmp_path):
    for eta, losses in ((0.1, (1e-2, 2e-2, 4e-2)), (1, (1e-4, 3e-4, np.nan)), (10, (np.nan, np.nan, 1e-3))):
        study(tmp_path, "GN", losses, learning_rate=eta)
    *_, panel = draw([tmp_path])
    medians = lines(panel)["GN"]
    assert_array_equal(medians.get_xdata(), [0, 1, 2])                  # the values in a row
    assert_allclose(medians.get_ydata(), [2e-2, 3e-4, np.nan])
    ranges = [(line.get_xdata()[0], *line.get_ydata()) for line in panel.lines if line.get_linewidth() == 5]
    assert_allclose(ranges, [(0, 1e-2, 4e-2), (1, 1e-4, 3e-4), (2, 1e-3, 1e-3)])
    assert [line.get_xdata()[0] for line in crosses(panel)] == [1, 2]
    assert [text.get_text() for text in panel.texts] == ["1/3", "2/3"]
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["0.1", "1", "10"]


def test_a_study_of_two_settings_is_a_heat_map(tmp_path):
    """If their pairs fill a grid: three of the four in "three" do not."""
    table = {(eta, tau): eta * 1e-3 + tau for eta in (1, 2) for tau in (1e-6, 1e-5, 1e-4)}
    for eta, tau in ((1, 1e-6), (1, 1e-5), (2, 1e-5)):
        study(tmp_path / "three", "HIG", 3 * (1e-3,), learning_rate=eta, truncation=tau)
    assert not any("final" in ax.get_title(loc="left") for ax in draw([tmp_path]))
    for (eta, tau), final in table.items():
        study(tmp_path / "six", "HIG", (final, final, np.nan if eta == 2 else final), learning_rate=eta,
              truncation=tau)
    panel, = (ax for ax in draw([tmp_path / "six"])
              if ax.get_title(loc="left") == "HIG: median of the final test loss")
    (image,) = panel.collections
    assert_allclose(np.reshape(image.get_array(), (3, 2)),
                    [[table[eta, tau] for eta in (1, 2)] for tau in (1e-6, 1e-5, 1e-4)])
    assert panel.get_ylabel() == "truncation τ" and panel.get_xlabel() == "learning rate η"
    assert image.colorbar.ax.get_ylabel() == "lower is better"
    assert sum("1/3 died" in text.get_text() for text in panel.texts) == 3


def test_of_many_settings_the_best_partner_of_each_leading_value_is_in_colour(tmp_path):
    """Seven κ with two η each. The larger one is better where κ is negative; for κ = 1 it dies."""
    rates = {kappa: 1.0 if kappa < 0 else 0.1 for kappa in (-1, -0.75, -0.5, -0.25, 0, 0.5, 1)}
    for kappa, best in rates.items():
        for eta in (0.1, 1.0):
            final = 1e-4 if eta == best else np.nan if kappa == 1 else 1e-2
            study(tmp_path, "Power", 3 * (final,), kappa=kappa, learning_rate=eta)
    ax, _, heat, bar = draw([tmp_path])
    *coloured, others = lines(ax)
    assert ax.get_title(loc="left") == "Nonlinear oscillators, Power: median of 3 runs"
    shown = [text.get_text() for text in (ax.get_legend() or ax.figure.legends[0]).get_texts()]
    assert shown == ["other settings", *(f"κ={kappa:g}, η={eta:g}: 1.0e-04" for kappa, eta in rates.items())]
    grey = [line for line in ax.lines if line.get_color() == style.GREY["paper"] and len(line.get_xdata())]
    assert len(grey) == 7 and not crosses(ax) and len(ax.collections) == 7  # the grey ones have no band
    assert max(line.get_zorder() for line in grey) < min(line.get_zorder() for line in lines(ax).values()
                                                         if line not in grey)
    colors = [line.get_color() for label, line in lines(ax).items() if label != "other settings"]
    frames = {(frame.get_x() // 1, frame.get_y() // 1): to_rgba(frame.get_edgecolor())
              for frame in heat.patches}
    assert frames == {(float(eta == 1), float(i)): to_rgba(color)
                      for i, (eta, color) in enumerate(zip(rates.values(), colors))}
    greys = heat.collections[0].to_rgba(np.array([1e-4, 1e-3, 1e-2]))
    assert_allclose(greys[:, 0], greys[:, 2]), np.all(np.diff(greys[:, 0]) < 0)  # the lower the lighter


# ---------------------------------------------------------------------------------------- runs that died

def cut(count, value=np.nan, losses=falling()):
    """Losses of which the first ones are left, and then this value."""
    return np.where(np.arange(len(losses)) < count, losses, value)


@pytest.mark.parametrize("losses, state, said, drawn, cross", [
    (cut(12), "diverged", "died at NaN, t = 24 s", 12, 24),
    (cut(12, np.inf), "diverged", "died at inf, t = 24 s", 12, 24),
    ([1.0, np.nan], "diverged", "died at NaN, t = 2 s", 1, 2),
    ([np.nan], "diverged", "died at NaN, t = 0 s", 0, None),
    (np.r_[falling(5), np.nan, falling(14)], "finished", None, 19, None),       # it came back
    (falling(), "diverged", "died at NaN, t = 38 s", 20, 38)])                  # it did not record the value
def test_a_dead_run_ends_in_a_cross(tmp_path, losses, state, said, drawn, cross):
    ax, *_ = draw([save(tmp_path / "NLO_GN_RESULTS.pickle", losses, state=state)])
    line, found = lines(ax)["GN"], crosses(ax)
    assert len(line.get_xdata()) == drawn and len(found) == (cross is not None)
    assert line.get_label() == f"GN: {said}" if said else "died" not in line.get_label()
    for mark in found:                                                  # when and where
        assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (cross, line.get_ydata()[-1])
        assert mark.get_color() == line.get_color()


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


@pytest.mark.parametrize("runs, said, died", [
    ([falling()] * 3 + [falling(3)], f"{1.1 * falling()[-1]:.1e}, median of 3 of 4 runs", []),
    ([cut(10), falling(), falling()], f"{1.1 * falling()[-1]:.1e}, median of 3 runs, 1 died", [20]),
    ([cut(10), falling(), falling(), cut(0), cut(0)], "3 of 5 died", [20]),
    ([np.r_[falling(count), np.nan] for count in (1, 3, 8)], "3 of 3 died", [2, 6, 16])])
def test_the_legend_says_what_the_median_is_of_and_how_many_died(tmp_path, runs, said, died):
    for seed, losses in enumerate(runs):
        save(tmp_path / str(seed) / "NLO_GN_RESULTS.pickle", losses, settings={"seed": seed},
             state="interrupted" if len(losses) == 3 else "finished")
    ax, *_ = draw([tmp_path])
    assert lines(ax)["GN"].get_label() == f"GN: {said}"
    assert sorted(cross.get_xdata()[0] for cross in crosses(ax)) == died
    ax.figure.draw_without_rendering()                                  # also where nothing is left to draw
    count = sum(not np.isfinite(losses).all() for losses in runs)
    row = table(reading.collect([tmp_path], "time")).splitlines()[-1]
    assert row.endswith(f"of {len(runs)}" + f", {count} died" * bool(count))


def test_seeds_are_in_numeric_order(tmp_path):
    for seed in (10, 9, 1, 2):
        save(tmp_path / f"seed_{seed}" / "NLO_HIG_RESULTS.pickle", falling(), settings={"seed": seed})
    rows = table(reading.collect([tmp_path], "time")).splitlines()[1:]
    assert [row.split()[3] for row in rows] == ["1", "2", "9", "10", "median"]
    assert not any(str(tmp_path) in row for row in rows)
    save(tmp_path / "again" / "NLO_HIG_RESULTS.pickle", falling(), settings={"seed": 9})
    rows = table(reading.collect([tmp_path], "time")).splitlines()[1:]
    assert sum("again" in row for row in rows) == 1                     # of two runs of one seed, the files
