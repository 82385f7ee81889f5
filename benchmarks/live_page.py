"""What a refresh of the watching page costs: 200 pickles of 5,000 points, one of which is rewritten again and again.

    python -m benchmarks.live_page               from the top folder, about two minutes; with Chromium if it is installed

Prints for 200 optimizers (a curve each) and for 200 seeds of one (a median with a band): the server's seconds and
megabytes for the first refresh, for one after a rewriting, and for one without changes; and in headless Chromium the
seconds from the rewriting to the new points on the page. Medians and maxima of ten.
"""

import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
from dash.exceptions import PreventUpdate
from plotly.io.json import to_json_plotly

from benchmarks.timing import seconds
from hig.runs.cli import standard_streams
from hig.runs.results import save_results
from hig.live.page import refresh as refresh_page
from hig.live.watching import Watcher
from tests.browser import graph, serve, start_chromium, stop, until

FILES, LENGTH, ROUNDS = 200, 5000, 10


def write(folder, number, length, same):
    """A pickle with a noisy falling loss; `same`: another seed of one optimizer."""
    rng = np.random.default_rng(number)
    times = np.cumsum(rng.uniform(0.5, 1.5, length))
    losses = np.exp(-times / 1000 + 0.3 * rng.normal(size=length))
    place = folder / f"{number:03}"
    place.mkdir(exist_ok=True)
    save_results(place / f"NLO_{'HIG' if same else f'Method{number}'}_RESULTS.pickle", {
        "epochs": np.arange(length), "train_loss": losses, "test_loss": losses * 1.1, "simulation_time": times,
        "epoch_time": np.diff(times), "sim_par": {"seed": number, "batch_size": 128, "learning_rate": 1.0},
        "provenance": {"state": "finished", "updates_per_epoch": 32, "rank": losses[1:]}})


def on_the_server(folder, same):
    """Prints what refreshes cost the server."""
    watcher, page = Watcher([folder]), {"case": None, "shown": {}}
    sizes, reads = [], []

    def refresh():
        before = watcher.files_read
        try:
            sent = to_json_plotly(refresh_page(watcher, page["case"], "time", "test_loss", ["log_y", "bands"],
                                                    "1e-2, 1e-3, 1e-4", page["shown"]))
        except PreventUpdate:
            sent = "{}"
        page.update(json.loads(sent))
        sizes.append(len(sent) / 1e6)
        reads.append(watcher.files_read - before)

    first, times = seconds(refresh), []
    for i in range(ROUNDS):
        write(folder, 7, LENGTH + 10 * i + 10, same)
        times.append(seconds(refresh))
    print(f"  server: first {first:.2f} s, {sizes[0]:.2f} MB; after a rewriting {statistics.median(times):.3f} s "
          f"(at most {max(times):.3f}), {sizes[-1]:.2f} MB, files read again {max(reads[1:])}; "
          f"without changes {seconds(refresh):.3f} s", flush=True)


def in_the_browser(chrome, folder, same):
    """Prints how long it takes from the rewriting of a pickle to its points on the page."""
    process = serve(folder, cwd=folder)
    try:
        def last():                                                     # the end of the curve that is rewritten
            return graph(chrome, "curves", "Math.max(...g._fullData.map(t => t.x?.length ? t.x[t.x.length - 1] : 0))")
        drawn = seconds(lambda: (chrome.get(process.url), until(chrome, last, "the curves are drawn")))
        times = []
        for i in range(ROUNDS):
            before = last()
            for number in range(FILES) if same else (7,):              # a band ends with the shortest of its curves
                write(folder, number, LENGTH + 200 * (i + 2), same)
            times.append(seconds(lambda: until(chrome, lambda: last() > before, "new points")))
        print(f"  Chromium: page drawn after {drawn:.2f} s; new points after {statistics.median(times):.2f} s "
              f"(at most {max(times):.2f})", flush=True)
    finally:
        stop(process)


def main():
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as profile:
        chrome = start_chromium(profile)
        for same, title in ((False, f"{FILES} optimizers"), (True, f"{FILES} seeds of one optimizer")):
            with tempfile.TemporaryDirectory() as name:
                for number in range(FILES):
                    write(Path(name), number, LENGTH, same)
                print(title, flush=True)
                on_the_server(Path(name), same)
                if chrome:
                    in_the_browser(chrome, Path(name), same)
        if chrome:
            chrome.quit()
        else:
            print("no Chromium: only the server was measured")


if __name__ == "__main__":
    standard_streams()
    main()
