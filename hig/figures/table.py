"""Runs as one DataFrame, sorted into cases and groups; the table that plot.py prints, and its CSV files."""

import re

import numpy as np

from hig.figures.curves import (SYSTEMS, drawn_points, final_loss, find_death, loss_curves, loss_kind, short,
                                state_of, system, time_to_reach)
from hig.figures.style import COLORS, SYMBOLS


def tabulate(runs, wanted="test"):
    """DataFrame with a row for each of some runs, in the order of figures, legends and tables.

    Columns: "Run"; "System", its prefix; "Case", the title of the system and of its case; "Optimizer";
    "Group", the name of the curve that the run is part of (`with_groups`); "Seed"; "Loss", the `final_loss`
    for `wanted` ("test" or "train"); and a column of texts for each setting, – where a file does not have it.
    """
    import pandas

    def row(run):
        kind, settings, name = system(run.system), run.results["sim_par"], run.label.split()[0]
        seed, (order, words) = str(settings.get("seed", "–")), kind.case(settings)
        place = ([*SYSTEMS, ""].index(run.system), order, [*COLORS["paper"], name].index(name), run.label,
                 natural(seed), natural(str(run.path)))
        return {**settings_of(run), "Run": run, "System": run.system, "Optimizer": run.label, "Seed": seed,
                "Case": ", ".join(filter(None, (kind.title, words))), "Place": place}

    rows = sorted(map(row, runs), key=lambda row: row.pop("Place"))
    table = pandas.DataFrame(rows).fillna("–").assign(Loss=[final_loss(row["Run"], wanted) for row in rows])
    return pandas.concat(with_groups(own) for _, own in table.groupby(["Case", "Optimizer"], sort=False))


def with_groups(table):
    """The rows of one case and one optimizer, sorted by "Group", their new column.

    A group is named after the optimizer and the settings in which these runs differ. The budget is such a
    setting, the seed is not. If more than two settings differ (the published files have other names for
    theirs), the group has the name of its folder instead (`folder_name`), and the largest one only that of
    the optimizer.
    """
    keys, order, unnamed = varied_settings(table), natural, ""
    table = table.assign(Group=[", ".join(map(setting, keys, values)) for values in table[keys].to_numpy()])
    if len(keys) > 2:
        table["Group"] = table["Run"].map(folder_name).groupby(table["Group"]).transform("first")
        largest, order = table["Group"].mode(), str
        unnamed = largest[0] if len(largest) == 1 else ""
    table = table.sort_values("Group", key=lambda words: words.map(order), kind="stable")
    words = table["Group"].map(lambda words: "" if words == unnamed else f" ({words})")
    return table.assign(Group=table["Optimizer"] + words)


def group_runs(table):
    """{name of a group: its runs}, of rows as `tabulate` returns them, in their order."""
    return {name: list(own["Run"]) for name, own in table.groupby("Group", sort=False)}


def varied_settings(table):
    """Names of the settings in which rows of `tabulate` differ, the learning rate last."""
    own = ["Run", "System", "Optimizer", "Seed", "Case", "Group", "Loss"]
    texts = table.drop(columns=own, errors="ignore")
    return sorted(texts.columns[texts.nunique() > 1], key=lambda key: (key == "learning_rate", key))


def folder_name(run):
    """Name of a run's folder; in a study the setting, for instance "krylov=8 batch size=64", not "seed_0"."""
    folder = run.path.resolve().parent
    if not re.fullmatch(r"seed_\d+", folder.name):
        return folder.name
    return folder.parent.name.removeprefix(f"{run.label}_").replace("_", " ")


def setting(key, value):
    """A setting as legends name it: `κ=-0.5`, `batch=64`, `60 s`."""
    return f"{value} s" if key == "max_time" else f"{SYMBOLS.get(key, key)}={value[:20]}"


def settings_of(run):
    """{name: text} of the settings of a run, without its seed, files and folders."""
    return {key: f"{value:g}" if isinstance(value, (int, float)) else str(value)
            for key, value in run.results["sim_par"].items()
            if not re.search("seed|output|folder|path", key, re.IGNORECASE)}


def natural(text):
    """A key that sorts texts by the numbers in them: "κ=-0.5" before "κ=0", "seed_2" before "seed_10"."""
    parts = re.split(r"((?:(?<!\w)-)?\d+(?:\.\d+)?(?:e[+-]?\d+)?)", text)
    return [float(part) if i % 2 else part for i, part in enumerate(parts)]


# ----------------------------------------------------------------------------------------------- the numbers

def numbers(run, thresholds):
    """Epochs, final losses, seconds, peak memory in MB, and seconds to each threshold (list of floats).

    The losses of a run that died are infinite, and so are the seconds to a threshold that a run has not
    reached. A test loss that was never measured is NaN, and so is a memory that the file does not tell.
    """
    test = final_loss(run, "test") if loss_kind(run, "test") == "test" else np.nan
    return [run.results["epochs"][-1], final_loss(run, "train"), test, run.results["simulation_time"][-1],
            run.results["provenance"].get("peak_memory", np.nan) / 1e6,
            *(time_to_reach(run, threshold) for threshold in thresholds)]


def summary(table):
    """DataFrame of the runs of one system: a row for each, and one for the median of several in a group.

    Columns: "system", "optimizer" and "seed" (or "median") are Case, Group and Seed of the table; then
    come those of `numbers`, and "remark".
    """
    import pandas

    ends, thresholds = ["system", "optimizer", "seed"], system(table["System"].iloc[0]).thresholds
    columns = ["epochs", "train loss", "test loss", "time [s]", "peak memory [MB]",
               *(f"to {level:g} [s]" for level in thresholds)]
    rows = table[["Case", "Group", "Seed"]].set_axis(ends, axis=1)
    rows[columns] = np.array([numbers(run, thresholds) for run in table["Run"]], float)
    rows["remark"] = list(map(remark, table["Run"], rows.duplicated(ends, keep=False)))
    rows["optimizer"] = rows["optimizer"].str.replace("_", " ")
    parts = []
    for _, own in rows.groupby(ends[:2], sort=False):
        died = np.isinf(own["train loss"]).sum()
        words = f"of {len(own)}" + f", {died} died" * bool(died)
        median = own[:1].assign(**own[columns].median(), seed="median", remark=words)
        parts += [own, median] if len(own) > 1 else [own]
    return pandas.concat(parts)


def remark(run, ambiguous):
    """How a run ended unless it finished, and its file if another one of its group has its seed, too."""
    state, reason = str(find_death(run) or state_of(run)), run.results["provenance"].get("reason")
    state = f"failed: {reason}" if reason else state
    return ", ".join([state] * (state != "finished") + [str(run.path)] * ambiguous)


def table(runs):
    """Text: for each system a row for each run, see `summary`."""
    return "\n\n".join(aligned(summary(own)) for _, own in tabulate(runs).groupby("System", sort=False))


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

    table, position = tabulate(runs), "seconds" if options.x == "time" else options.x
    ends = ["system", "optimizer", "seed"]
    parts = [summary(own).melt([*ends, "remark"], var_name="quantity")
             for _, own in table.groupby("System", sort=False)]
    for (title, name), own in table.groupby(["Case", "Group"], sort=False):
        logarithmic, members = system(own["System"].iloc[0]).log_x, list(own["Run"])
        x, y, band = drawn_points(loss_curves(members, options, logarithmic), logarithmic, True)
        low, high = band or (np.nan, np.nan)
        curve = pandas.DataFrame({position: x, "value": y, "lowest": low, "highest": high})
        parts.append(curve.assign(system=title, optimizer=name.replace("_", " "),
                                  seed=own["Seed"].iloc[0] if len(own) == 1 else "median",
                                  quantity=f"{loss_kind(members[0], options.y)} loss, curve"))
    return pandas.concat(parts)[[*ends, "quantity", position, "value", "lowest", "highest", "remark"]]
