"""What plot.py says of runs in numbers: the table that it prints, and the CSV file of table and curves."""

import numpy as np

from hig.figures.curves import (SYSTEMS, drawn_points, end_loss, final_loss, find_death, loss_curves,
                                loss_kind, short, state_of, system, time_to_reach)
from hig.figures.reading import group_runs, sort_into_cases


def numbers(run, thresholds):
    """Epochs, final losses, seconds, peak memory in MB, and seconds to each threshold (list of floats).

    They are infinite where a run died or did not get, and NaN where a file does not tell: the test loss of a
    run that has never measured one, and the memory.
    """
    train = np.inf if find_death(run) else final_loss(run, "train")
    test = end_loss(run, "test") if loss_kind(run, "test") == "test" else np.nan
    reached = [time_to_reach(run, threshold) for threshold in thresholds]
    return [run.results["epochs"][-1], train, test, run.results["simulation_time"][-1],
            run.results["provenance"].get("peak_memory", np.nan) / 1e6,
            *(np.inf if seconds is None else seconds for seconds in reached)]


def summary(runs):
    """DataFrame of the runs of one system: a row for each, and one for the median of several seeds.

    Columns: "system" (with its case), "optimizer" (as `hig.figures.reading.group_runs` names it), "seed" or
    "median", those of `numbers`, and "remark".
    """
    import pandas

    thresholds, parts = system(runs[0].system).thresholds, []
    columns = ["epochs", "train loss", "test loss", "time [s]", "peak memory [MB]",
               *(f"to {level:g} [s]" for level in thresholds)]
    for title, case in sort_into_cases(runs).items():
        for label, members in group_runs(case).items():
            rows = pandas.DataFrame([numbers(run, thresholds) for run in members], None, columns, float)
            middle, died = rows.median(), np.isinf(rows["train loss"]).sum()
            rows["seed"] = seeds = [seed_of(run) for run in members]
            rows["remark"] = [remark(run, seeds.count(seed) == 1) for run, seed in zip(members, seeds)]
            if len(members) > 1:
                words = f"of {len(members)}" + (f", {died} died" if died else "")
                rows.loc[len(rows)] = {**middle, "seed": "median", "remark": words}
            parts.append(rows.assign(system=title, optimizer=label.replace("_", " ")))
    return pandas.concat(parts)[["system", "optimizer", "seed", *columns, "remark"]]


def seed_of(run):
    """The seed of a run as text, – if its file does not tell."""
    return str(run.results["sim_par"].get("seed", "–"))


def remark(run, alone):
    """How a run ended unless it finished, and its file unless its seed is `alone` in its group."""
    state, reason = str(find_death(run) or state_of(run)), run.results["provenance"].get("reason")
    state = f"failed: {reason}" if reason else state
    return ", ".join([state] * (state != "finished") + [str(run.path)] * (not alone))


def table(runs):
    """Text: for each system a row for each run, see `summary`."""
    return "\n\n".join(aligned(summary(own)) for own in by_system(runs))


def by_system(runs):
    """The runs of each system, in the order of SYSTEMS: list of lists."""
    return [own for prefix in (*SYSTEMS, "") if (own := [run for run in runs if run.system == prefix])]


def cell(name, value):
    """Text of a value in the column of that name."""
    if isinstance(value, str):
        return value
    if name == "peak memory [MB]":
        return "not recorded" if np.isnan(value) else f"{value:.0f}"
    if name.endswith("loss"):
        return "–" if np.isnan(value) else f"{value:.3e}"
    return f"{value:.0f}" if name == "epochs" else "–" if np.isinf(value) else short(value)


def aligned(rows):
    """Text of a `summary`."""
    columns = []
    for name in rows:
        cells = [name.replace("remark", ""), *(cell(name, value) for value in rows[name])]
        pad = str.ljust if name in ("system", "optimizer", "remark") else str.rjust
        columns.append([pad(cell, max(map(len, cells))) for cell in cells])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns))


def tidy(runs, options):
    """DataFrame of the table and of the loss curves that a figure of these runs shows, a number in each row.

    Columns: "system", "optimizer" and "seed" as in `summary`; "quantity"; the position on the x axis
    ("seconds", "epochs" or "updates"), NaN for numbers of the table; "value"; "lowest" and "highest" of the
    band around a curve of several seeds, which is their median; "remark" of the table.

    Args:
        runs: list of Run, not empty.
        options: x, y and smooth of the command line.
    """
    import pandas

    ends, position = ["system", "optimizer", "seed"], "seconds" if options.x == "time" else options.x
    parts = [summary(own).melt([*ends, "remark"], var_name="quantity") for own in by_system(runs)]
    for title, case in sort_into_cases(runs).items():
        logarithmic = system(case[0].system).log_x
        for label, members in group_runs(case).items():
            x, y, band = drawn_points(loss_curves(members, options, logarithmic), logarithmic, True)
            low, high = band or (np.nan, np.nan)
            seed = seed_of(members[0]) if len(members) == 1 else "median"
            curve = pandas.DataFrame({position: x, "value": y, "lowest": low, "highest": high})
            parts.append(curve.assign(system=title, optimizer=label.replace("_", " "), seed=seed,
                                      quantity=f"{loss_kind(members[0], options.y)} loss, curve"))
    return pandas.concat(parts)[[*ends, "quantity", position, "value", "lowest", "highest", "remark"]]
