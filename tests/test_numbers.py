"""The numbers in README and in the pages of results are those that `plot.py results` prints."""

import re
import runpy
from decimal import Decimal
from fnmatch import fnmatch

import numpy as np
import pytest

from hig.figures.reading import collect
from hig.figures.table import numbers, tabulate
from tests.browser import ROOT

README, RESULTS, STUDIES, BUDGETS, CART_POLE = ((ROOT / folder / "README.md").read_text() for folder in (
    "", "results", "results/studies", "results/Published_Budgets", "results/Cart_Pole"))
THRESHOLDS = (1e-2, 1e-3, 1e-4)


def rows(text, first):
    """{script or name in the first column: further cells} of the table whose header begins so."""
    lines = text[re.search(rf"\| ?{re.escape(first)} ?\|", text).start():].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {re.sub(r"`(?:submit_)?(\w+?)(?:\.py.*)?`", r"\1", row[0]).strip("`"): row[1:] for row in cells}


def agree(text, number):
    """Whether the text is the number, rounded to the digits that the text has."""
    if text == "–":
        return np.isinf(number)
    written = Decimal(text.replace(",", ""))
    return abs(float(written) - number) <= 0.501 * 10.0 ** written.as_tuple().exponent


def assert_agree(texts, numbers, where):
    """Each text is its number."""
    for text, number in zip(texts, numbers, strict=True):
        assert agree(text, number), (where, text, number)


@pytest.mark.parametrize("text, number, expected", [
    ("5.1e-5", 5.119e-5, True), ("5.2e-5", 5.119e-5, False), ("42", 41.9, True), ("41", 41.9, False),
    ("–", np.inf, True), ("0.077", 0.0762, False)])
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
        epochs, train, test, _, _, *reached = numbers(run, THRESHOLDS)
        assert_agree(cells[1:-1], [epochs, train, test, *reached], name)
        settings = run.results["sim_par"]
        assert f"seed {settings['seed']}" in cells[0] and f"batch {settings['batch_size']}" in cells[0]


@pytest.mark.parametrize("folder, system, budget, sentence", [
    ("oscillators", "Nonlinear_Oscillators", 3600,
     r"hour\]\S* Adam is at (\S+), Gauss-Newton at (\S+), HIG at (\S+)\."),
    ("dipole", "Schroedinger", 5400, r"After 90 minutes Adam is at (\S+) and HIG at (\S+)\.")])
def test_published_budgets(folder, system, budget, sentence):
    """Epochs, last and lowest test loss, seconds to each of four losses; README has the last losses."""
    written, runs = rows(BUDGETS, f"`python {system}/`"), of(f"Published_Budgets/{folder}")
    assert set(written) == set(runs)
    for (name, cells), short in zip(written.items(), re.search(sentence, README).groups(), strict=True):
        (run,) = runs[name]
        epochs, _, test, seconds, _, *reached = numbers(run, (1e-4, 1e-5, 1e-6, 1e-7))
        found = [epochs, test, np.nanmin(run.results["test_loss"]), *reached]
        assert_agree([*cells[1:-1], short], [*found, test], name)
        settings = run.results["sim_par"]
        assert f"batch {settings['batch_size']}" in cells[0] and cells[0].endswith(f"seed {settings['seed']}")
        assert run.results["provenance"]["state"] == "finished" and budget == settings["max_time"] <= seconds


def test_poisson():
    written, runs = rows(RESULTS, "`python Poisson/`"), of("Poisson")
    assert set(written) == set(runs)
    for name, cells in written.items():
        (run,) = runs[name]
        updates, train, test, _, _, *reached = numbers(run, (100, 30, 10, 0.1, 0.06))
        assert sum(int(part.replace(",", "")) for part in cells[1].split("+")) == updates
        seconds = [text.split(", ")[-1].removesuffix(" s") for text in cells[5:-1]]
        assert_agree([*cells[3:5], *seconds], [train, test, *reached], name)


def test_toy_problem():
    """A row for each optimizer, of Gauss-Newton for each η; – where λ = 1 was not run."""
    written = rows(RESULTS, "optimizer | our settings")
    cases = tabulate(collect([ROOT / "results" / "Toy_Problem"], "time")).groupby("Case", sort=False)
    for (title, table), (first, second) in zip(cases, ((1, 2), (3, 4))):
        for name, cells in written.items():
            rate = float(re.search(r"η = ([\d.e-]+)", cells[0])[1])
            own = [run for run in table["Run"] if run.label == name.split(",")[0]
                   and run.results["sim_par"]["learning_rate"] == rate]
            finals = [numbers(run, THRESHOLDS)[2] for run in own]
            assert len(own) == 10 or (cells[first], cells[second], own) == ("–", "–", [])
            low, _, high = cells[second].partition(" to ")
            assert not own or (agree(cells[first], np.median(finals)) and agree(low, min(finals))
                               and agree(high, max(finals))), (title, name)
            if "0.01" in title:
                assert cells[5] == f"{sum(final > 0.1 for final in finals)} of {len(finals)}"


def test_the_table_of_README():
    """Times and losses of HIG and Adam there."""
    written = rows(README, "folder")
    for folder, threshold in (("Nonlinear_Oscillators", 1e-4), ("Schroedinger", 1e-2)):
        runs = of(folder)
        level, *texts = re.fullmatch(r"(\S+) in (\S+) s instead of (\S+) s", written[folder][2]).groups()
        assert float(level) == threshold
        assert_agree(texts, [numbers(runs[name][0], (threshold,))[-1] for name in ("HIG", "Adam")], folder)
    texts = re.fullmatch(r"(\S+) against (\S+) after 20 s", written["Toy_Problem"][2]).groups()
    badly_scaled = {name: [run for run in runs if run.results["sim_par"]["lambda"] == 0.01]
                    for name, runs in of("Toy_Problem").items()}
    assert_agree(texts, [medians(badly_scaled[name])[2] for name in ("HIG", "Adam")], "Toy_Problem")


def settings(folder):
    """{setting: its runs} of a study's folder in results, in the order of the seeds."""
    found = {}
    for run in sorted(collect([ROOT / "results" / folder], "time"),
                      key=lambda run: run.results["sim_par"]["seed"]):
        found.setdefault(run.path.parents[1].name, []).append(run)
    return found


def constants(script, runs):
    """Seeds and budget of a study's script, which are those of these runs."""
    found = runpy.run_path(str(ROOT / script))
    assert [run.results["sim_par"]["seed"] for run in runs] == list(found["SEEDS"])
    assert {run.results["sim_par"]["max_time"] for run in runs} == {found["MAX_TIME"]}


def finals_agree(runs, median, limits, died):
    """Whether these texts are those of the final losses."""
    finals = np.array([numbers(run, THRESHOLDS)[2] for run in runs])
    low, _, high = limits.partition(" to ")
    alive = finals[np.isfinite(finals)]
    return (agree(median, np.median(finals)) and died == f"{np.isinf(finals).sum()} of {len(runs)}"
            and (agree(low, min(alive)) and agree(high or low, max(alive)) if len(alive) else limits == "–"))


SYSTEMS = {"oscillators": "Nonlinear_Oscillators", "dipole": "Schroedinger", "poisson": "Poisson"}
STUDIED = {f"studies/{path.name}":
           f"{SYSTEMS[path.name.split('_')[0]]}/study_{path.name.partition('_')[2]}.py"
           for path in sorted((ROOT / "results" / "studies").iterdir()) if path.is_dir()}


@pytest.mark.parametrize("folder, script", [*STUDIED.items(), ("Peers/poisson", "Poisson/study_peers.py")])
def test_studies(folder, script):
    """Median, range and deaths of each setting."""
    written, runs = rows(RESULTS + STUDIES, f"`{script}`"), settings(folder)
    assert set(written) == set(runs)
    for setting, cells in written.items():
        constants(script, runs[setting])
        assert finals_agree(runs[setting], *cells[-3:]), setting


def test_cart_pole():
    """Medians of updates, peak memory, seconds and updates to two losses; median, range and deaths."""
    written, runs = rows(CART_POLE, "`Cart_Pole/study_peers.py`"), settings("Cart_Pole")
    assert set(written) == set(runs)
    for setting, (updates, memory, *reached, median, limits, died) in written.items():
        own = runs[setting]
        constants("Cart_Pole/study_peers.py", own)
        per_epoch = own[0].results["provenance"]["updates_per_epoch"]
        measured = np.median([numbers(run, (1e-2, 1e-4)) for run in own], axis=0)
        first = np.median([[next((epoch for epoch, loss in zip(*map(run.results.get, ("epochs", "test_loss")))
                                  if loss <= threshold), np.inf) for threshold in (1e-2, 1e-4)]
                           for run in own], axis=0)
        peak = max(run.results["provenance"]["peak_memory"] for run in own) / 1e6
        found = [per_epoch * measured[0], peak, *measured[5:], *(per_epoch * first)]
        assert_agree([updates, memory, *reached], found, setting)
        assert finals_agree(own, median, limits, died), setting


def test_five_minutes_of_cart_poles():
    """Updates, peak memory, median, range and deaths of the settings that were run."""
    written = rows(CART_POLE, "`Cart_Pole/study_five_minutes.py`")
    runs = settings("Peers/cart_pole_five_minutes")
    assert set(written) == set(runs)
    for setting, (updates, memory, *losses) in written.items():
        own = runs[setting]
        provenance = [run.results["provenance"] for run in own]
        made = np.median([run.results["epochs"][-1] * each["updates_per_epoch"]
                          for run, each in zip(own, provenance)])
        assert {run.results["sim_par"]["max_time"] for run in own} == {300}
        assert agree(updates, made) and agree(memory, max(each["peak_memory"] for each in provenance) / 1e6)
        assert finals_agree(own, *losses), setting


@pytest.mark.parametrize("task, row, readmes_row", [
    ("toy_1d", "toy 1D", "a curve in one variable"),
    ("polynomial", "random polynomial", "a random polynomial in six variables")])
def test_independent_benchmark(task, row, readmes_row):
    """Mean ± standard deviation of 15 seeds with each method, and where there is one the median."""
    runs, short = settings("Regression"), README.split(f"|{readmes_row}|")[1].split("|")
    page = (ROOT / "results/Regression/README.md").read_text().split(f"| {row}, HIG |")[1]
    after_adam = page.split(f"| {row}, Adam |")[1]
    for name, text in [("HIG", short[1]), ("Adam", short[3]), ("HIG_adaptive", short[4]),
                       ("HIG", page.split("|")[1]), ("Adam", after_adam.split("|")[1]),
                       ("HIG_adaptive", page.split("HIG adaptive")[1].split("|")[0]),
                       ("LM", page.split("Levenberg-Marquardt")[1].split("|")[0])]:
        losses = np.array([numbers(run, THRESHOLDS)[2] for run in runs[f"{name}_task={task}"]])
        written = re.findall(r"\d[\d.e-]*", text.split("(")[0])
        assert len(losses) == 15 and len(written) >= 2, (name, text)
        assert_agree(written, [losses.mean(), losses.std(), np.median(losses)][:len(written)], (name, text))


PEERS = {"Adam": "Adam", "Adam, best batch": "Adam_batch_size=*", "Adam, chosen": "Adam_learning_rate=*",
         "Muon": "Muon", "L-BFGS": "LBFGS", "GN": "GN", "HIG": "HIG", "HIG, chosen": "HIG_learning_rate=*",
         "HIG adaptive": "HIG_adaptive", "LM": "LM"}


@pytest.mark.parametrize("folder, script", [("oscillators", "Nonlinear_Oscillators/study_peers.py"),
                                            ("dipole", "Schroedinger/study_peers.py")])
def test_what_one_would_use_today(folder, script):
    """Median, range, deaths of each method, and the median of the times to 1e-4, which is README's, too."""
    written, runs = rows(RESULTS, f"`{script}`"), settings(f"Peers/{folder}")
    methods = {**PEERS, "GN, chosen": "GN_learning_rate=*"}
    short = dict(zip(PEERS, rows(README, "problem")[folder], strict=True))
    assert set(written) <= set(methods) and len(runs) == len(written) >= len(PEERS)
    for name, (_, median, limits, died, seconds, memory) in written.items():
        own, = [own for setting, own in runs.items() if fnmatch(setting, methods[name])]
        constants(script, own)
        assert finals_agree(own, median, limits, died), name
        reached = np.median([numbers(run, (1e-4,))[-1] for run in own])
        assert agree(seconds, reached), name
        text = short.get(name, seconds)
        assert np.isinf(reached) if text == "died" or text.startswith("over ") else agree(text, reached), name
        peaks = [run.results["provenance"]["peak_memory"] / 1e6 for run in own
                 if "peak_memory" in run.results["provenance"]]
        assert not peaks or agree(memory, max(peaks)), name
