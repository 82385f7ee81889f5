"""The numbers in README and results/README.md are those that `plot.py results` prints, as far as it prints them."""

import re
import runpy
from decimal import Decimal

import numpy as np
import pytest

from hig.figures.reading import collect, sort_into_cases
from hig.figures.table import numbers
from tests.browser import ROOT

README, RESULTS = ((ROOT / name).read_text() for name in ("README.md", "results/README.md"))
THRESHOLDS = (1e-2, 1e-3, 1e-4)


def rows(text, first):
    """{script or name in the first column: further cells} of the table whose header begins with these words."""
    lines = text[re.search(rf"\| ?{re.escape(first)} ?\|", text).start():].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {re.sub(r"`(?:submit_)?(\w+?)(?:\.py.*)?`", r"\1", row[0]): row[1:] for row in cells}


def agree(text, number):
    """Whether the text is the number, rounded to the digits that the text has."""
    if text == "–":
        return np.isinf(number)
    written = Decimal(text.replace(",", ""))
    return abs(float(written) - number) <= 0.501 * 10.0 ** written.as_tuple().exponent


@pytest.mark.parametrize("text, number, expected", [("5.1e-5", 5.119e-5, True), ("5.2e-5", 5.119e-5, False), ("42", 41.9, True),
                                                    ("41", 41.9, False), ("–", np.inf, True), ("0.077", 0.0762, False)])
def test_agreement(text, number, expected):
    assert agree(text, number) == expected


def medians(runs):
    return np.median([numbers(run, THRESHOLDS) for run in runs], axis=0)


def of(folder):
    """{name: [runs]} of a folder of results."""
    found = {}
    for run in collect([ROOT / "results" / folder], "time"):
        found.setdefault(run.label, []).append(run)
    return found


@pytest.mark.parametrize("folder", ["Nonlinear_Oscillators", "Schroedinger"])
def test_published_seeds(folder):
    written, runs = rows(RESULTS, f"`python {folder}/`"), of(folder)
    assert set(written) == set(runs)
    for name, cells in written.items():
        (run,) = runs[name]
        epochs, train, test, _, *reached = numbers(run, THRESHOLDS)
        for text, number in zip(cells[1:], [epochs, train, test, *reached], strict=True):
            assert agree(text, number), (name, text, number)
        settings = run.results["sim_par"]
        assert f"seed {settings['seed']}" in cells[0] and f"batch {settings['batch_size']}" in cells[0]


def test_poisson():
    written, runs = rows(RESULTS, "`python Poisson/`"), of("Poisson")
    assert set(written) == set(runs)
    for name, cells in written.items():
        (run,) = runs[name]
        updates, train, test, _, *reached = numbers(run, (100, 30, 10, 0.1, 0.06))
        assert sum(int(part.replace(",", "")) for part in cells[1].split("+")) == updates
        assert agree(cells[3], train) and agree(cells[4], test), name
        for text, seconds in zip(cells[5:], reached, strict=True):
            assert agree(text.split(", ")[-1].removesuffix(" s"), seconds), (name, text, seconds)


def test_toy_problem():
    written = rows(RESULTS, "optimizer | our settings")
    cases = sort_into_cases(collect([ROOT / "results" / "Toy_Problem"], "time"))
    for (title, runs), (first, second) in zip(cases.items(), ((1, 2), (3, 4))):
        for name, cells in written.items():
            finals = [numbers(run, THRESHOLDS)[2] for run in runs if run.label == name]
            low, high = cells[second].split(" to ")
            assert agree(cells[first], np.median(finals)) and agree(low, min(finals)) and agree(high, max(finals)), (title, name)
            if "0.01" in title:
                assert cells[5] == f"{sum(final > 0.1 for final in finals)} of {len(finals)}"


def test_the_table_of_README():
    """Times and losses of HIG and Adam there."""
    written = rows(README, "folder")
    for folder, threshold in (("Nonlinear_Oscillators", 1e-4), ("Schroedinger", 1e-2)):
        runs = of(folder)
        level, ours, theirs = re.fullmatch(r"(\S+) in (\S+) s instead of (\S+) s", written[folder][2]).groups()
        assert float(level) == threshold
        for text, name in ((ours, "HIG"), (theirs, "Adam")):
            assert agree(text, numbers(runs[name][0], (threshold,))[-1]), (folder, name)
    runs = [run for run in collect([ROOT / "results" / "Toy_Problem"], "time") if run.results["sim_par"]["lambda"] == 0.01]
    texts = re.fullmatch(r"(\S+) against (\S+) after 20 s", written["Toy_Problem"][2]).groups()
    for text, name in zip(texts, ("HIG", "Adam")):
        assert agree(text, medians([run for run in runs if run.label == name])[2])


SYSTEMS = {"oscillators": "Nonlinear_Oscillators", "dipole": "Schroedinger", "poisson": "Poisson"}
STUDIES = sorted(path.name for path in (ROOT / "results" / "studies").iterdir())


@pytest.mark.parametrize("folder", STUDIES)
def test_studies(folder):
    """Median, range and deaths of each setting, with the seeds and the budget that the study's script has."""
    system, _, name = folder.partition("_")
    script = runpy.run_path(str(ROOT / SYSTEMS[system] / f"study_{name}.py"))
    written, runs = rows(RESULTS, f"`{SYSTEMS[system]}/study_{name}.py`"), {}
    for run in collect([ROOT / "results" / "studies" / folder], "time"):
        runs.setdefault(run.path.parents[1].name, []).append(run)
    assert {setting.strip("`") for setting in written} == set(runs)
    for setting, cells in written.items():
        own = runs[setting.strip("`")]
        finals = np.array([numbers(run, THRESHOLDS)[2] for run in own])
        assert sorted(run.results["sim_par"]["seed"] for run in own) == list(script["SEEDS"])
        assert {run.results["sim_par"]["max_time"] for run in own} == {script["MAX_TIME"]}
        alive = finals[np.isfinite(finals)]
        low, _, high = cells[-2].partition(" to ")
        assert agree(cells[-3], np.median(finals)), setting
        assert cells[-2] == "–" if not len(alive) else agree(low, min(alive)) and agree(high or low, max(alive)), setting
        assert cells[-1] == f"{np.isinf(finals).sum()} of {len(own)}", setting


@pytest.mark.parametrize("folder, title", [("oscillators", "`Nonlinear_Oscillators/study_peers.py`"),
                                           ("dipole", "`Schroedinger/study_peers.py`")])
def test_what_one_would_use_today(folder, title):
    """Three seeds of each method: median, range, deaths, and the median of the times to 1e-4, which is README's, too."""
    written, runs = rows(RESULTS, title), of(f"Peers/{folder}")
    assert set(written) == {name.replace("_", " ") for name in runs}
    for name, own in runs.items():
        cells = written[name.replace("_", " ")]
        assert [run.results["sim_par"]["seed"] for run in own] == [1, 2, 3]
        finals, times = [numbers(run, THRESHOLDS)[2] for run in own], np.array([numbers(run, (1e-4,))[-1] for run in own])
        low, _, high = cells[2].partition(" to ")
        assert agree(cells[1], np.median(finals)) and agree(low, min(finals)) and agree(high or low, max(finals)), name
        assert cells[3] == f"{np.isinf(finals).sum()} of 3"
        median = np.median(np.where(np.isnan(times), np.inf, times))
        assert agree(cells[4], median), name
        column = ["Adam", "Muon", "L-BFGS", "GN", "HIG", "HIG_adaptive", "LM"].index(name)
        short = rows(README, "problem")[folder][column]
        assert np.isinf(median) if short == "died" or short.startswith("over ") else agree(short, median), name
