"""The command line of plot.py: which figures it writes, the table, and bad input."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

import plot
from hig.figures import reading
from tests.test_plot import falling, save

PROJECT = Path(plot.__file__).parent
SYSTEMS = "Poisson/POISSON_HIG Poisson_seeds/seed_1/POISSON_HIG Oscillators/NLO_HIG"
EACH = {"Poisson": "Poisson", "Poisson_seeds": "seed_1", "Oscillators": "Oscillators",
        ".": "Oscillators Poisson seed_1"}
STUDIES = "Poisson/POISSON_HIG Poisson/studies/batch/b_1/POISSON_HIG Poisson/studies/kappa/k_1/POISSON_HIG"


@pytest.mark.parametrize("files, asked, figures", [
    ("Schroedinger/seed_1/QMC_HIG Poisson/POISSON_HIG", None,                           # all systems
     {"Schroedinger": "seed_1", "Poisson": "Poisson", "figures/overview.png": "Poisson seed_1"}),
    (SYSTEMS, ".", EACH), (SYSTEMS, "Poisson_seeds", {"Poisson_seeds": "seed_1"}),
    (f"{SYSTEMS} studies/many/seed_2/POISSON_HIG", ".", {**EACH, "studies/many": "seed_2"}),
    (STUDIES, None, {"Poisson": "Poisson"}),        # a single one needs no overview
    (STUDIES, "Poisson/studies", {"Poisson/studies/batch": "b_1", "Poisson/studies/kappa": "k_1"}),
    (STUDIES, "Poisson/studies/kappa", {"Poisson/studies/kappa": "k_1"})])
def test_which_folders_get_a_figure(tmp_path, monkeypatch, capsys, files, asked, figures):
    """`figures`: {folder of plot.png, or a figure: folders of its runs}. The figures' names are printed, and
    then the tables, that of a study under its name.
    """
    drawn = {}
    monkeypatch.setattr(plot, "make_figure", lambda runs, _: sorted(run.path.parent.name for run in runs))
    monkeypatch.setattr(plot, "write_figure", lambda runs, output, _: drawn.update({output: " ".join(runs)}))
    for name in files.split():
        save(tmp_path / f"{name}_RESULTS.pickle", falling())
    assert plot.main([] if asked is None else [str(tmp_path / asked)], root=tmp_path) == 0
    assert drawn == {tmp_path / name / ("plot.png" if "." not in name[1:] else ""): folders
                     for name, folders in figures.items()}
    studies, out = sum("studies" in name for name in figures), capsys.readouterr().out
    assert out.count("\nstudy ") == studies * (len(figures) > 1)
    assert out.startswith("".join(f"{path}\n" for path in drawn))


def test_where_the_figure_goes_and_that_vector_figures_hold_text_and_are_reproducible(tmp_path):
    path = save(tmp_path / "a" / "NLO_HIG_RESULTS.pickle", falling())
    assert plot.main([str(tmp_path)]) == 0
    pixels = np.asarray(Image.open(tmp_path / "plot.png"))
    assert pixels.shape[1] > 800 and pixels.shape[0] > 400
    assert len(np.unique(pixels)) > 20          # text and lines with smooth edges; a blank page has one value
    assert plot.main([str(path)]) == 0 and (tmp_path / "a" / "plot.png").exists()
    files = [tmp_path / name for name in ("a.svg", "b.svg", "new/figure.PDF")]
    assert [plot.main([str(path), "--output", str(file)]) for file in files] == [0, 0, 0]
    first, second, pdf = (file.read_bytes() for file in files)
    assert b"<text" in first and b"training time (s)" in first and first == second
    assert pdf.startswith(b"%PDF") and b"/CIDFontType2" in pdf                         # TrueType, no outlines


@pytest.fixture
def curves(tmp_path):
    """A run of the oscillators that failed and tells its memory; two of Poisson's without test losses."""
    losses = np.array([1.0, 0.05, 8e-3, 9e-4, 2e-3])
    save(tmp_path / "NLO_HIG_RESULTS.pickle", losses, seconds=[0, 1.5, 3, 4.5, 1234], test=losses,
         state="failed", provenance={"peak_memory": 830_000_000, "reason": "no SVD"})
    for seed in (1, 2):
        save(tmp_path / str(seed) / "POISSON_Adam_RESULTS.pickle", seed * falling(4), test=np.full(4, np.nan),
             settings={"seed": seed})
    return tmp_path


def test_the_table(curves, capsys):
    assert plot.main([str(curves), "--output", str(curves / "a.png")]) == 0
    head, *rows = capsys.readouterr().out.splitlines()[1:]
    head, first, third, fifth = (re.split(r"  +", line) for line in (head, rows[0], rows[3], rows[5]))
    assert head == ["system", "optimizer", "seed", "epochs", "train loss", "test loss", "time [s]",
                    "peak memory [MB]", "to 0.01 [s]", "to 0.001 [s]", "to 0.0001 [s]"]
    assert first == ["Nonlinear oscillators", "HIG", "1", "4", "2.000e-03", "2.000e-03", "1234", "830", "3",
                     "4.5", "–", "failed: no SVD"]
    assert third[5:] == ["–", "6", "not recorded", "0", "0", "0", "–"]                  # to 100, 10, 1, 0.1
    assert fifth[2:] == ["median", "3", f"{1.5 * falling(4)[-1]:.3e}", "–", "6", "not recorded", "0", "0",
                         "2", "–", "of 2"]


def test_the_csv_file_holds_the_table_and_the_curves_that_are_drawn(curves, capsys):
    """Six digits: 1e-5."""
    assert plot.main([str(curves), "--csv", str(curves / "all.csv")]) == 0
    assert str(curves / "all.csv") in capsys.readouterr().out
    rows = pandas.read_csv(curves / "all.csv", dtype={"seed": str})
    table = rows[rows["seconds"].isna()].pivot(index=["system", "optimizer", "seed"], columns="quantity",
                                               values="value")
    one = table.loc["Nonlinear oscillators", "HIG", "1"]
    numbers = one[["test loss", "to 0.001 [s]", "to 0.0001 [s]", "peak memory [MB]"]]
    assert list(numbers) == [2e-3, 4.5, np.inf, 830]
    median = table.loc["Poisson problem", "Adam", "median"]
    assert median["train loss"] == pytest.approx(1.5 * falling(4)[-1], rel=1e-5)
    curve = rows[rows["quantity"] == "test loss, curve"]
    np.testing.assert_array_equal(curve[["seconds", "value"]],
                                  [[0, 1], [1.5, 0.05], [3, 8e-3], [4.5, 9e-4], [1234, 2e-3]])
    band = rows[rows["quantity"] == "train loss, curve"]
    assert set(band["seed"]) == {"median"} and list(band["seconds"]) == [2, 4, 6]       # no 0 on a log axis
    np.testing.assert_allclose(band[["lowest", "value", "highest"]], np.outer(falling(4)[1:], [1, 1.5, 2]),
                               rtol=1e-5)


def test_without_a_name_each_figure_has_its_csv_file(curves):
    for folder, prefix in (("a", "NLO"), ("b", "QMC")):
        save(curves / "studies" / folder / f"{prefix}_HIG_RESULTS.pickle", falling())
    assert plot.main([str(curves / "studies"), "--x", "epochs", "--csv"]) == 0
    files = {path.relative_to(curves / "studies").as_posix() for path in curves.rglob("*.csv")}
    assert files == {"a/plot.csv", "b/plot.csv"}
    assert "epochs" in pandas.read_csv(curves / "studies/a/plot.csv").columns
    assert plot.main([str(curves / "studies"), "--csv", str(curves / "both.csv")]) == 0
    figures = {str(curves / "studies" / name / "plot.png") for name in "ab"}
    assert set(pandas.read_csv(curves / "both.csv")["figure"]) == figures


def test_bad_pickles_named_are_refused(tmp_path, capsys):
    good = save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    truncated, foreign, malicious = (tmp_path / f"NLO_{name}_RESULTS.pickle" for name in "ABC")
    truncated.write_bytes(good.read_bytes()[:-20])
    foreign.write_bytes(b"\x80\x03}.")
    malicious.write_bytes(b"\x80\x03cos\nsystem\nX\x04\0\0\0true\x85R.")
    for path, reason in [(tmp_path / "none.pickle", "no such file"), (truncated, "truncated"),
                         (foreign, "no entry"), (malicious, "'os.system'")]:
        assert plot.main([str(good), str(path)]) == 2
        out, error = capsys.readouterr()
        assert not out and error.startswith(f"plot.py: {path} cannot be used as a curve") and reason in error
        assert error.count("\n") == 1
    assert not list(tmp_path.glob("*.png"))
    assert plot.main([str(tmp_path)]) == 0  # in a folder they are reported, and the good one is drawn
    out, error = capsys.readouterr()
    assert error.count("cannot be used as a curve") == 3 and "HIG" in out and (tmp_path / "plot.png").exists()
    good.unlink()
    assert plot.main([str(tmp_path)]) == 2 and plot.main([], root=tmp_path / "empty") == 2
    assert capsys.readouterr().err.count("no curves in") == 2


def test_updates_of_a_file_that_does_not_count_them(tmp_path, capsys):
    path = save(tmp_path / "NLO_HIG_RESULTS.pickle", falling(), provenance=None)
    assert plot.main([str(path), "--x", "updates"]) == 2
    assert "how many updates an epoch has" in capsys.readouterr().err
    assert plot.main([str(path), "--x", "epochs"]) == 0


@pytest.mark.parametrize("line, words", [
    *((line, line.split()[0]) for line in ("--x days", "--size x", "--csv a.txt", "--output figure.gif",
                                           "--output png", "--smooth 0", "--smooth -1.5", "--what",
                                           "--style x", "--colors x", "--y x")),
    ("trajectories", "--weights"), ("trajectories --weights a.h5", ".weights.h5"),
    ("trajectories --weights a.weights.h5 --output a.gif", ".png"),
    ("trajectories --weights a.weights.h5 --animate a.mp4", ".gif"),
    ("trajectories --weights a.weights.h5 --seed -1", "--seed")])
def test_bad_options(line, words, capsys):
    with pytest.raises(SystemExit) as status:
        plot.main(line.split())
    assert status.value.code == 2 and words in capsys.readouterr().err


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
    for name in ("NLO_HIG_RESULTS_2026-11-23_093012.pickle", ".NLO_HIG_RESULTS.pickle",
                 ".old/NLO_HIG_RESULTS.pickle"):
        save(tmp_path / name, falling())
    assert reading.find_files(tmp_path) == []
    path = save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    assert reading.find_files(tmp_path) == [path]
    assert len(reading.collect([tmp_path, path], "time")) == 1  # named twice, drawn once


@pytest.mark.parametrize("word, kept_out, status", [
    ("NLO_HIG_RESULTS.pickle", {"tensorflow", "keras", "phi", "scipy"}, 0),
    ("--help", {"matplotlib", "pandas"}, 0), ("none", {"matplotlib", "pandas"}, 2)])
def test_the_program_itself_and_what_it_starts_without(tmp_path, word, kept_out, status):
    save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())
    program = (f"import runpy, sys\nsys.argv = {[str(PROJECT / 'plot.py'), word]}\n"
               "try: runpy.run_path(sys.argv[0], run_name='__main__')\nfinally: print(*sys.modules)")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == status and not kept_out & set(done.stdout.splitlines()[-1].split())
    assert done.stderr == "plot.py: none cannot be used as a curve: there is no such file\n" * (status == 2)
    assert (tmp_path / "plot.png").exists() == ("NLO" in word)


def test_a_table_that_nobody_reads_to_its_end_is_no_error(tmp_path):
    """As with `| head`: the figure is there, and no traceback."""
    program = [sys.executable, PROJECT / "plot.py", save(tmp_path / "NLO_HIG_RESULTS.pickle", falling())]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == "" and (tmp_path / "plot.png").exists()
