"""The figures of plot.py: what is in their axes."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from numpy.testing import assert_allclose, assert_array_equal

import plot
from hig.figures import losses, reading, style
from hig.figures.table import table
from hig.runs.files import write_atomically
from hig.runs.results import pickled


def save(path, losses, seconds=None, test=None, state="finished", settings=None, provenance={}, **more):
    """A pickle with these training losses; the test losses are 10 % larger unless they are given."""
    losses = np.asarray(losses, float)
    seconds = np.arange(len(losses)) * 2.0 if seconds is None else np.asarray(seconds, float)
    path.parent.mkdir(parents=True, exist_ok=True)
    if provenance is not None:
        more["provenance"] = {"state": state, "updates_per_epoch": 32, **provenance}
    write_atomically(path, pickled({
        "epochs": np.arange(len(losses)), "train_loss": losses,
        "test_loss": losses * 1.1 if test is None else np.asarray(test, float),
        "simulation_time": seconds, "epoch_time": np.diff(seconds), "sim_par": settings or {"seed": 1},
        **more}))
    return path


def falling(length=20, rate=0.5, start=1.0):
    return start * np.exp(-rate * np.arange(length))


def draw(paths, *arguments):
    """Axes of the figure that `plot.py PATHS ARGUMENTS` writes."""
    chosen = plot.parse([*map(str, paths), *arguments])
    return losses.make_figure(reading.collect(chosen.paths, chosen.x), chosen).axes


def lines(ax):
    """{name of the optimizer: line} of an axes; the crosses have no name."""
    return {line.get_label().split(":")[0]: line for line in ax.lines if not line.get_label().startswith("_")}


def crosses(ax):
    return [line for line in ax.lines if line.get_marker() == "x"]


# ---------------------------------------------------------------------------------------- curves

SECONDS = np.cumsum(np.r_[0, np.linspace(1, 2, 19)])


@pytest.mark.parametrize("axis, label, x, loss, test, words, factor", [
    ("time", "training time (s)", SECONDS, "test", None, "test loss", 1.1),
    ("time", "training time (s)", SECONDS, "test", np.full(20, np.nan), "training loss", 1),  # not measured
    ("epochs", "epochs", np.arange(20), "train", None, "training loss", 1),
    ("updates", "updates", 32 * np.arange(20), "train", None, "training loss", 1)])
def test_axes(tmp_path, axis, label, x, loss, test, words, factor):
    path = save(tmp_path / "NLO_HIG_RESULTS.pickle", falling(), SECONDS, test)
    ax, *_ = draw([path], "--x", axis, "--y", loss)
    assert_array_equal(lines(ax)["HIG"].get_xdata(), x)
    assert_allclose(lines(ax)["HIG"].get_ydata(), factor * falling(), rtol=1e-12)       # rounding
    assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "log")
    assert (ax.get_xlabel(), ax.get_ylabel()) == (label, words)
    assert ax.get_title(loc="left") == "Nonlinear oscillators"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [f"HIG: {factor * falling()[-1]:.1e}"]


def test_colours_of_the_paper_and_others_and_the_order_of_the_legend(tmp_path):
    for name in ("HIG", "Adam", "GN", "Unheard", "SGD"):
        save(tmp_path / f"NLO_{name}_RESULTS.pickle", falling())
    (paper, *_), (dark, *_) = draw([tmp_path]), draw([tmp_path], "--style", "dark", "--colors", "safe")
    assert list(lines(paper)) == ["Adam", "GN", "HIG", "SGD", "Unheard"]
    for name, color in (("Adam", "dodgerblue"), ("GN", "crimson"), ("HIG", "darkorchid")):
        assert to_rgba(lines(paper)[name].get_color()) == to_rgba(color)
    assert to_rgba(lines(dark)["GN"].get_color()) == to_rgba("#D55E00")
    assert sum(to_rgba(paper.get_facecolor())[:3]) == 3 and sum(to_rgba(dark.get_facecolor())[:3]) < 0.5
    assert dark.xaxis.label.get_color() != paper.xaxis.label.get_color()


@pytest.mark.parametrize("palette", style.COLORS)
def test_all_colours_differ(palette):
    *colors, others = style.COLORS[palette].values()
    values = np.array([to_rgba(color)[:3] for color in [*colors, *others]])
    distance = np.abs(values[:, None] - values[None]).sum(-1) + 9 * np.eye(len(values))
    assert distance.min() > 0.15  # of at most 3; two greens that a reader would confuse differ by less


@pytest.mark.parametrize("palette", style.COLORS)
def test_all_colours_can_be_read_on_a_dark_background(palette):
    """Contrast as WCAG 2 defines it, which asks for 3:1; trajectories and graded settings included."""
    def luminance(color):
        parts = np.array(to_rgba(color)[:3])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]
    names = [*(name for name in style.COLORS[palette] if name != "others"), "A", "B", "C", "D"]
    labels = [*names, *(f"HIG (batch_size={size})" for size in range(6))]
    colors = [*(look["color"] for look in style.choose_looks(labels, palette, "dark").values()),
              *(style.readable(color, "dark") for color in style.TRAJECTORIES[palette])]
    background = luminance(style.STYLES["dark"]["axes.facecolor"])
    assert min((luminance(color) + 0.05) / (background + 0.05) for color in colors) > 3
    unchanged = luminance(style.COLORS["safe"]["others"][0])
    assert (unchanged + 0.05) / (background + 0.05) < 3


@pytest.mark.parametrize("prefix, scale, change, shown", [
    ("QMC", "linear", {3: 0, 4: -1e-8}, np.delete(np.arange(20), [3, 4])),  # a fidelity above 1 by rounding
    ("POISSON", "log", {}, np.arange(1, 20)),                               # time 0 has no place there
    ("NLO", "linear", {i: np.nan for i in range(20) if i % 5}, np.arange(0, 20, 5)),      # measured so often
    ("POISSON", "log", {i: np.nan for i in range(20) if i % 15}, [15])])    # a single point is seen, too
def test_what_axes_cannot_show_is_left_out(tmp_path, prefix, scale, change, shown):
    test = falling()
    test[list(change)] = list(change.values())
    path = save(tmp_path / f"{prefix}_HIG_RESULTS.pickle", falling(), test=test)
    ax, *_ = draw([path])
    line = lines(ax)["HIG"]
    assert_array_equal(line.get_xydata(), np.transpose([2.0 * np.array(shown), test[shown]]))
    assert (ax.get_xscale(), ax.get_yscale()) == (scale, "log") and not crosses(ax)
    assert (line.get_marker() == "o") == (len(shown) == 1)
    row = table(reading.collect([path], "time")).splitlines()[1]
    assert f"{test[shown[-1]]:.3e}" in row and "nan" not in row


def test_an_example_of_the_best_run_has_a_panel_with_labelled_colour_scales(tmp_path):
    """x and its truth have one scale; the target and the residual one each."""
    rng = np.random.default_rng(0)
    names = {"predicted x": ["x", "x_ground_truth"], "true x": ["x_ground_truth", "x"],
             "target y*": ["target"], "residual y − y*": ["residual"]}
    better, worse = ({f"example_{name}": rng.normal(size=(8, 8)) for name, *_ in names.values()}
                     for _ in range(2))
    save(tmp_path / "POISSON_HIG_RESULTS.pickle", falling(rate=0.5), **better)
    save(tmp_path / "POISSON_Adam_RESULTS.pickle", falling(rate=0.1), **worse)
    _, panel, *rest = draw([tmp_path])
    assert "HIG" in panel.get_title() and not rest                       # colour bars and images are insets
    images = {ax.get_title(): ax.images[0] for ax in panel.child_axes if ax.get_title()}
    assert set(images) == set(names)
    for title, together in names.items():
        assert_array_equal(images[title].get_array(), better[f"example_{together[0]}"])
        limit = max(np.abs(better[f"example_{name}"]).max() for name in together)
        assert images[title].get_clim() == (-limit, limit)
    share = np.linalg.norm(better["example_residual"]) / np.linalg.norm(better["example_target"])
    assert f"residual is {100 * share:.2g} % of the target" in panel.get_title()
    assert all(bar.get_ylabel() for bar in panel.child_axes if not bar.get_title())


@pytest.mark.parametrize("axis, unit", [("time", 2.0), ("epochs", 1), ("updates", 32)])
@pytest.mark.parametrize("epochs, last", [(np.arange(20), 7), (np.delete(np.arange(21), 7), 6)])
def test_the_switch_of_a_pretrained_run_is_marked(tmp_path, axis, unit, epochs, last):
    """At the entry of that epoch, or in a thinned curve at the last one before."""
    path = save(tmp_path / "POISSON_Adam_then_HIG_RESULTS.pickle", falling(), 2.0 * epochs, epochs=epochs,
                provenance={"switch_epoch": 7})
    ax, *_ = draw([path], "--x", axis)
    assert [text.get_text() for text in ax.texts] == ["switch"] and ax.texts[0].xy[0] == last * unit
    assert any(list(line.get_xdata()) == [last * unit] * 2 for line in ax.lines)
    ax.figure.draw_without_rendering()
    place, mark = ax.get_legend().get_window_extent(), ax.transData.transform((last * unit, 1))[0]
    assert not place.x0 < mark < place.x1                               # the legend is beside it


@pytest.mark.parametrize("width", [0.5, 3.0, 20.0])
def test_smoothing_is_a_geometric_mean_over_seconds(tmp_path, width):
    """The same seconds on both sides, however many entries are in them."""
    rng = np.random.default_rng(0)
    seconds, y = np.cumsum(rng.uniform(0.1, 2, size=50)), rng.lognormal(size=50)
    path = save(tmp_path / "NLO_HIG_RESULTS.pickle", y, seconds, test=y)
    inside = (y[np.abs(seconds - moment) <= width / 2] for moment in seconds)
    expected = [np.prod(window) ** (1 / len(window)) for window in inside]
    drawn = lines(draw([path], "--smooth", str(width))[0])["HIG"].get_ydata()
    assert_allclose(drawn, expected, rtol=1e-10)                        # rounding of 50 logarithms


# ---------------------------------------------------------------------------------------- layout

@pytest.mark.parametrize("size", ["column", "wide"])
@pytest.mark.parametrize("names, levels", [("Adam HIG GN", (1, 1e-3, 1e-6)),
                                           ("Adam HIG GN SGD SIP LM Muon Adagrad", np.logspace(0, -6, 8))])
def test_a_legend_covers_no_curve(tmp_path, size, names, levels):
    """Falling curves leave the upper right to a legend, eight level ones no place inside the axes."""
    few = len(levels) == 3
    for name, level in zip(names.split(), levels):
        losses = falling(rate=1 / (1 + level)) if few else np.full(20, level)
        save(tmp_path / f"QMC_{name}_RESULTS.pickle", losses)
    ax, *_ = draw([tmp_path], "--size", size)
    ax.figure.draw_without_rendering()
    frame = ax.get_window_extent()
    place = (ax.get_legend() or ax.figure.legends[0]).get_window_extent()
    for line in lines(ax).values():
        assert not place.count_contains(ax.transData.transform(line.get_xydata()))
    assert (frame.padded(1).count_contains(place.corners()) == 4) == few
    assert few or (place.x0 > frame.x1 if size == "wide" else place.y0 >= frame.y1)
    assert ax.figure.bbox.padded(1).count_contains(place.corners()) == 4


def test_the_legends_of_a_wide_study_do_not_cover_each_other(tmp_path):
    """That of four level curves, which leave it no place, is beside the figure; the other at its panel."""
    for name, rate in itertools.product(("HIG", "GN"), (0.1, 0.2, 0.3, 0.4)):
        save(tmp_path / str(rate) / f"NLO_{name}_RESULTS.pickle", np.full(20, rate + (name == "GN")),
             settings={"learning_rate": rate})
    *_, study = axes = draw([tmp_path], "--size", "wide")
    study.figure.draw_without_rendering()
    beside, = axes[0].figure.legends
    assert study.get_xlabel() == "learning rate η"
    assert not beside.get_window_extent().overlaps(study.get_legend().get_window_extent())


@pytest.mark.parametrize("size, rows, columns", [("column", 4, 2), ("wide", 2, 4)])
def test_a_case_is_a_column_or_in_a_wide_figure_a_row(tmp_path, size, rows, columns):
    for factor, seed in itertools.product((0.01, 1.0), (0, 1)):
        save_toy(tmp_path / str(seed), "HIG", factor, seed=seed)
    axes = draw([tmp_path], "--size", size)
    assert len(axes) == 8 and {ax.get_gridspec().get_geometry() for ax in axes} == {(rows, columns)}
    width, height = axes[0].figure.get_size_inches()
    assert (width > height) == (size == "wide")


# ---------------------------------------------------------------------------------------- systems

def test_every_system_has_its_panel(tmp_path):
    """Each λ of the toy problem has one; a file that does not tell its λ, nor more, comes last."""
    for prefix in ("TOY", "POISSON", "QMC", "NLO"):
        save(tmp_path / f"{prefix}_HIG_RESULTS.pickle", falling())
    save_toy(tmp_path, "HIG", 0.01)
    titles = [ax.get_title(loc="left") for ax in draw([tmp_path]) if ax.axison]
    assert titles == ["Nonlinear oscillators", "Schroedinger equation", "Poisson problem",
                      "Toy problem, λ = 0.01", "Toy problem"]


def test_populations_of_the_dipole_have_a_panel_each(tmp_path):
    errors = {"population_error_2": falling(rate=0.2), "population_error_3": falling(rate=0.3)}
    save(tmp_path / "QMC_HIG_RESULTS.pickle", falling(), **errors)
    save(tmp_path / "QMC_Adam_RESULTS.pickle", falling(),  # of other shapes: its loss alone is drawn
         population_error_2=falling()[:5], population_error_3=np.ones((3, 3)))
    losses, *populations = draw([tmp_path])
    assert set(lines(losses)) == {"Adam", "HIG"}
    for panel, (key, values) in zip(populations, errors.items(), strict=True):
        line, = panel.lines
        assert_array_equal(line.get_ydata(), values)
        assert key[-1] in panel.get_ylabel() and panel.get_yscale() == "log"
        assert line.get_color() == lines(losses)["HIG"].get_color()
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    assert len(draw([tmp_path])) == 2  # with several systems only their losses


def save_toy(folder, name, factor, losses=falling(), seed=0, **more):
    """A pickle of the toy problem; the path goes from (0, 0) in equal steps to (1, 2)."""
    way = np.linspace(0, 1, len(losses))
    arrays = {"activation_mean": 0.1 + 0.8 * way, "activation_std": 0.2 * (1 - way), "path_y1": way,
              "path_y2": 2 * way, **more}
    settings = {"lambda": factor, "seed": seed, "path_target_y1": 1.0, "path_target_y2": 2.0}
    return save(folder / f"TOY_lambda_{factor:g}_{name}_RESULTS.pickle", losses, settings=settings, **arrays)


def test_the_toy_problem_has_three_panels_for_each_lambda(tmp_path):
    for name, factor in itertools.product(("Adam", "GN", "HIG"), (0.01, 1.0)):
        save_toy(tmp_path, name, factor)
    axes = draw([tmp_path])
    assert len(axes) == 6
    assert [ax.get_title(loc="left") for ax in axes[:2]] == ["Toy problem, λ = 1", "Toy problem, λ = 0.01"]
    for losses, activations, paths in (axes[::2], axes[1::2]):
        assert set(lines(losses)) == {"Adam", "GN", "HIG"} and losses.get_yscale() == "log"
        assert activations.get_yscale() == "linear" and activations.get_ylim()[0] == 0
        assert len(activations.collections) == 3
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
        assert paths.get_xscale() == paths.get_yscale() == "linear"
        assert paths.get_xlim() == pytest.approx((-0.6, 1.6))


def test_a_path_ends_where_the_run_died_and_does_not_widen_the_view(tmp_path):
    losses, path = falling(), np.linspace(0, 1, 20)
    losses[15:], path[10] = np.nan, 1e9
    paths = draw([save_toy(tmp_path, "GN", 1.0, losses, path_y1=path, path_y2=losses - 1)])[2]
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
    assert_allclose(bar.get_ydata(), 2 * [np.median([*finals[:3], np.inf])])  # the dead one counts as worst
    assert [text.get_text() for text in axes[3].texts] == ["1 died"]
    assert [text.get_text() for text in axes[3].get_xticklabels()] == ["HIG"]
    assert len(draw([tmp_path / "0"])) == 3
    save_toy(tmp_path, "HIG", 1.0)
    axes = draw([tmp_path])
    axes[0].figure.draw_without_rendering()
    assert min(ax.get_position().width for ax in axes) > 0.3  # a long legend does not squeeze the panels


def test_phiflow_scenes(tmp_path):
    scene = tmp_path / "sim_000000"
    scene.mkdir()
    (scene / "log_step_time.txt").write_text("1 9.0\n2 4.0\n3 4.5\n")
    (scene / "log_loss_HIG_0.txt").write_text("0 600.0\n1 100.0\n2 40.0\n3 nan\n")
    (scene / "log_loss_Adam_0.txt").write_text("0 600.0\n1 500.0\n")
    ax, *_ = draw([tmp_path])
    assert ax.get_title(loc="left") == "Poisson problem"
    assert_array_equal(lines(ax)["HIG"].get_xydata(), [[9, 100], [13, 40]])
    assert_array_equal(lines(ax)["Adam"].get_xydata(), [[9, 500]])
    assert lines(ax)["HIG"].get_label() == "HIG: died at NaN, t = 17.5 s"
    assert_array_equal(lines(draw([scene], "--x", "updates")[0])["HIG"].get_xdata(), [1, 2])
    for rest in ("3 1", "3", "3 1.2e", "3 "):                           # a line that is still being written
        (scene / "log_loss_HIG_0.txt").write_text("0 3.0\n1 2.0\n2 1.5\n" + rest)
        assert list(reading.read_run(scene / "log_loss_HIG_0.txt").results["train_loss"]) == [3, 2, 1.5]
    (scene / "log_loss_HIG_0.txt").write_text("zero one\n")
    with pytest.raises(ValueError, match="log_loss_HIG_0.txt cannot be used as a curve"):
        reading.read_run(scene / "log_loss_HIG_0.txt")


@pytest.mark.parametrize("name, expected", [
    ("NLO_HIG_RESULTS", "NLO|HIG"), ("QMC_Adam_RESULTS", "QMC|Adam"), ("NLO_LBFGS_RESULTS", "NLO|L-BFGS"),
    ("POISSON_HIG_pretrained_RESULTS", "POISSON|HIG_pretrained"), ("NLO_HIG_seed3_RESULTS", "NLO|HIG"),
    ("TOY_GN_RESULTS", "TOY|GN"), ("TOY_lambda_0.01_GN_RESULTS", "TOY|GN"), ("other", "|other"),
    ("TOY_lambda_1e-05_HIG_seed2_RESULTS", "TOY|HIG"), ("POLES_4_LM_RESULTS", "POLES|LM"),
    ("NLO_HIG_RESULTS_2026-11-23_093012", "NLO|HIG 2026-11-23_093012"),
    ("REGRESSION_toy_1d_HIG_adaptive_RESULTS", "REGRESSION|HIG_adaptive")])
def test_names(name, expected):
    assert reading.describe(f"{name}.pickle") == tuple(expected.split("|"))


def test_names_with_dollars_are_no_formulas(tmp_path):
    save(tmp_path / "NLO_a$b_$_RESULTS.pickle", falling())
    assert plot.main([str(tmp_path), "--output", str(tmp_path / "a.png")]) == 0
