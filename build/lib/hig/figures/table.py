"""The table that plot.py prints: for each system a line for each run, and one for the median of several seeds."""

import numpy as np

from hig.figures.curves import find_death, final_loss, loss_kind, short, state_of, system, time_to_reach
from hig.figures.reading import group_runs, sort_into_cases


def table(runs):
    """Text: final losses of each run, and when its test loss reached the thresholds of its system."""
    blocks = {}
    for title, case in sort_into_cases(runs).items():
        blocks.setdefault(case[0].system, []).append((title, case))
    return "\n\n".join(block(system(prefix).thresholds, cases) for prefix, cases in blocks.items())


def block(thresholds, cases):
    """Text: the table of one system.

    Args:
        thresholds: test losses.
        cases: list of (title, runs).
    """
    lines = [["system", "optimizer", "seed", "epochs", "train loss", "test loss", "time [s]",
              *(f"to {threshold:g} [s]" for threshold in thresholds), ""]]
    for title, case in cases:
        for label, members in group_runs(case).items():
            label = label.replace("_", " ")
            rows = [numbers(run, thresholds) for run in members]
            seeds = [str(run.results["sim_par"].get("seed", "–")) for run in members]
            for run, seed, row in zip(members, seeds, rows):
                state = str(find_death(run) or state_of(run))
                where = str(run.path) if seeds.count(seed) > 1 else ""
                remarks = ["" if state in ("finished", "unknown") else state, where]
                lines.append([title, label, seed, *texts(row, run), ", ".join(filter(None, remarks))])
            if len(members) > 1:
                middle = np.median(np.array(rows), axis=0)
                dead = sum(find_death(run) is not None for run in members)
                lines.append([title, label, "median", *texts(middle, members[0]),
                              f"of {len(members)}" + (f", {dead} died" if dead else "")])
    widths = [max(map(len, column)) for column in zip(*lines)]
    pads = [str.ljust, str.ljust, *[str.rjust] * (len(widths) - 3), str.ljust]
    rows = ([pad(cell, width) for pad, cell, width in zip(pads, line, widths)] for line in lines)
    return "\n".join("  ".join(row).rstrip() for row in rows)


def numbers(run, thresholds):
    """Epochs, final losses, seconds, seconds to each threshold; infinite where a run died or did not come there."""
    death = find_death(run)
    losses = [np.inf if death else final_loss(run, kind) for kind in ("train", loss_kind(run, "test"))]
    reached = [time_to_reach(run, threshold) for threshold in thresholds]
    return [run.results["epochs"][-1], *losses, run.results["simulation_time"][-1],
            *(np.inf if seconds is None else seconds for seconds in reached)]


def texts(row, run):
    """The cells of a row of `numbers`; of a run without test losses, or its median, there is none."""
    epochs, train, test, seconds, *reached = row
    return [f"{epochs:.0f}", f"{train:.3e}", "–" if loss_kind(run, "test") == "train" else f"{test:.3e}", short(seconds),
            *("–" if np.isinf(value) else short(value) for value in reached)]
