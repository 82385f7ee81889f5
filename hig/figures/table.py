"""The table that plot.py prints: a line for each run."""

from hig.figures.curves import final_loss, find_death, loss_kind, short, system, time_to_reach
from hig.figures.reading import group_runs, sort_into_cases


def table(runs):
    """Text: a line for each run with its final losses, and when its test loss reached the thresholds."""
    thresholds = sorted({level for run in runs for level in system(run.system).thresholds}, reverse=True)
    head = ["system", "optimizer", "epochs", "train loss", "test loss", "time [s]"]
    lines = [head + [f"to {threshold:.0e} [s]" for threshold in thresholds] + [""]]
    for title, case in sort_into_cases(runs).items():
        for label, members in group_runs(case).items():
            for run in members:
                state = run.results.get("provenance", {}).get("state", "finished")
                epochs, train, test, time = (run.results[key][-1] for key in
                                             ("epochs", "train_loss", "test_loss", "simulation_time"))
                test = test if find_death(run) else final_loss(run, "test")     # not every epoch is evaluated
                reached = [time_to_reach(run, threshold) for threshold in thresholds]
                remarks = [str(find_death(run) or ("" if state == "finished" else state)),
                           str(run.path) if len(members) > 1 else ""]
                lines.append([title, label, f"{epochs:.0f}", f"{train:.3e}",
                              "–" if loss_kind(run, "test") == "train" else f"{test:.3e}", short(time),
                              *("–" if seconds is None else short(seconds) for seconds in reached),
                              ", ".join(filter(None, remarks))])
    widths = [max(map(len, column)) for column in zip(*lines)]
    pads = [str.ljust, str.ljust, *[str.rjust] * (len(widths) - 3), str.ljust]
    rows = ([pad(cell, width) for pad, cell, width in zip(pads, line, widths)] for line in lines)
    return "\n".join("  ".join(row).rstrip() for row in rows)
