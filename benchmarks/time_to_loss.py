"""Seconds of training until the test loss passes 1e-2 … 1e-6, of HIG as published and of adaptive methods.

    python benchmarks/time_to_loss.py                                   all, about an hour
    python benchmarks/time_to_loss.py --systems Nonlinear_Oscillators --seeds 1,2 --max-time 10

Settings are those of the submit scripts. All methods of a seed train in one process and in turn, a second
each, so that a busy machine slows all of them. The seconds include neither evaluation nor compiling, which
has a column of its own.
"""

import importlib
import math
import runpy
import time
from argparse import Namespace

import numpy as np

from hig.runs.cli import make_parser, positive, silent_start
from hig.runs.study import seed_range
from timing import ROOT, seconds

LEVELS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
METHODS = {"HIG as published": ("HIG", {}), "HIG adaptive": ("HIG_adaptive", {}),
           "κ = −3/4 adaptive": ("HIG_adaptive", {"optimizer": "Power_adaptive", "kappa": -0.75,
                                                  "damping": 0.1}),
           "LM": ("LM", {}), "GN": ("GN", {}), "Adam": ("Adam", {}),
           **{f"HIG adaptive, batch {size}": ("HIG_adaptive", {"batch_size": size}) for size in (64, 256)},
           **{f"Krylov {size} adaptive": ("HIG_adaptive", {"optimizer": "HIG_Krylov_adaptive", "krylov": 64,
                                                           "batch_size": size}) for size in (256, 512, 4096)}}
# seeds, seconds
SYSTEMS = {"Nonlinear_Oscillators": ([1, 2, 3, 4, 5, 22], 30.0), "Schroedinger": ([1, 2, 3, 4, 5], 120.0)}
SLICE = 1.0                # seconds of one turn


def main():
    """Measures and prints a table for each system."""
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=seed_range, metavar="1-5",
                        help="default: 1-5, and that of the published HIG")
    parser.add_argument("--max-time", type=positive, metavar="SECONDS",
                        help="of each run (default: 30, dipole 120)")
    parser.add_argument("--cpu", action="store_true",
                        help="count processor time, of all threads, instead of wall-clock time: for a "
                        "machine that others use, with this process held to one core (taskset -c 1 python …)")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    for system in options.systems:
        seeds, max_time = options.seeds or SYSTEMS[system][0], options.max_time or SYSTEMS[system][1]
        methods = [Method(system, name) for name in options.methods]
        reached = {name: [] for name in options.methods}
        for seed in seeds:
            for name, times in zip(options.methods, train_in_turn(methods, seed, max_time, time.process_time
                                                                  if options.cpu else time.perf_counter)):
                reached[name].append(times)
                print(f"{system}, seed {seed:3}, {name:24} {line(times)}", flush=True)
        print(f"\n{system}, seeds {', '.join(map(str, seeds))}: median seconds to a test loss of "
              f"{', '.join(f'{level:g}' for level in LEVELS)}; compiling")
        for method, (name, times) in zip(methods, reached.items()):
            print(f"{name:24} {line(np.median(times, axis=0))}{method.compiling:8.1f}", flush=True)


class Method:
    """One way to train one system: a compiled model, which takes one seed after the other."""

    def __init__(self, system, name):
        with silent_start():
            from hig.runs.experiments import fixed_batches, make_optimizer, mean_losses
            self.experiment = importlib.import_module(f"{system}.experiment")
        script, changed = METHODS[name]
        constants = runpy.run_path(str(ROOT / system / f"submit_{script}.py"))
        names = "batch_size", "learning_rate", "truncation", "damping", "krylov"
        settings = Namespace(**{"optimizer": script, **{name: constants.get(name.upper()) for name in names},
                                **changed})
        self.batched = lambda states: fixed_batches((states, states), settings.batch_size)
        self.losses, self.model = mean_losses, self.experiment.build_model(1)
        batches, updates = self.batched(self.experiment.draw_data(1)[0])
        self.model.compile(optimizer=make_optimizer(settings), loss=self.experiment.loss,
                           steps_per_execution=updates)
        self.model.optimizer.build(self.model.trainable_variables)
        self.untouched = [variable.numpy().copy() for variable in self.model.optimizer.variables]
        self.model.make_train_function()
        steps = iter(batches(0))
        first, *others = (seconds(lambda: self.model.train_function(steps)) for _ in range(3))
        self.compiling = first - min(others)

    def begin(self, seed):
        """Weights and data of that seed; the optimizer as new."""
        train, test, _ = self.experiment.draw_data(seed)
        self.steps, self.time, self.times = iter(self.batched(train)[0](0)), 0.0, [math.inf] * len(LEVELS)
        initial = self.experiment.build_model(seed)
        for variable, value in zip([*self.model.weights, *self.model.optimizer.variables],
                                   [*initial.weights, *self.untouched], strict=True):
            variable.assign(value)
        evaluate = self.losses(self.model, (test, test), (test, test))
        self.test_loss = lambda: evaluate(0, None)["test_loss"]

    def turn(self, max_time, clock):
        """Trains epoch after epoch until its turn or the run is over; returns whether the run is."""
        ends = min(self.time + SLICE, max_time)
        while self.time < ends:
            self.model.reset_metrics()
            began = clock()
            float(self.model.train_function(self.steps)["loss"])        # waits for the end of the epoch
            self.time += clock() - began
            loss = self.test_loss()
            self.times = [min(known, self.time if loss < level else math.inf)
                          for known, level in zip(self.times, LEVELS)]
            if loss < LEVELS[-1] or not math.isfinite(loss):
                return True
        return self.time >= max_time


def train_in_turn(methods, seed, max_time, clock):
    """The times at which each method reached the LEVELS."""
    for method in methods:
        method.begin(seed)
    left = list(methods)
    while left:
        left = [method for method in left if not method.turn(max_time, clock)]
    return [method.times for method in methods]


def line(times):
    """Seconds as text, a dash where there are none."""
    return " ".join(f"{t:7.1f}" if t < math.inf else "      –" for t in times)


if __name__ == "__main__":
    main()
