"""Training the Poisson problem by hand, behind the page of `dashboard.py --interactive Poisson`.

A thread trains one network by an optimizer for each method, with the settings that the page has at that
moment. Its pickle `POISSON_interactive_RESULTS.pickle` has the layout of the submit scripts'
(hig.runs.results), and for each entry also the settings of the update: `method` (its number in METHODS),
`learning_rate`, `batch_size`, `truncation`.
"""

import argparse
import itertools
import math
import os
import queue
import re
import threading
import time
import traceback
from types import SimpleNamespace

import keras
import numpy as np
import tensorflow as tf

from hig.memory import require_memory
from hig.optimizers import JacobianPower
from hig.runs import cli
from hig.runs.experiments import make_optimizer
from hig.runs.files import keep_earlier
from hig.runs.provenance import provenance
from hig.runs.results import save_results, write_parameters
from hig.runs.weights import load_weights, save_weights
from Poisson import EVALUATE_EVERY, METHODS, RESOLUTION
from Poisson.experiment import HELD_OUT, Evaluation, compile_model, initial_network
from Poisson.fields import training_fields

SEED = 0
NAME = "POISSON_interactive"
REPORT_EVERY, SAVE_EVERY = 0.2, 1.0     # seconds while playing, between two states for the page, two savings
MAX_ENTRIES = 50_000        # of a curve, a pickle of 5 MB; an even number, so that halving keeps the last entry
DIVERGED = ("The loss is not finite any more. Reset to the initial weights or load others; then a smaller η, "
            "or for HIG and GN a larger τ, goes more safely.")
KINDS = {"adam_rate": cli.positive, "power_rate": cli.positive, "truncation": cli.FLAGS["truncation"][0],
         "batch_size": lambda text: cli.number(text, int, lambda value: 1 <= value <= 1024,
                                               "a whole number from 1 to 1024"),
         "entry": lambda text: cli.number(text, int, lambda value: value >= 0, "a whole number from 0 on")}


class Training(threading.Thread):
    """A network in training, its settings and its curve; as a thread it follows the commands of the page.

    Commands are "play", "pause" (which leaves a finished pickle), "step", "reset", "save_weights",
    "load_weights" with a name, "report", and "end". Whatever goes wrong becomes a sentence on the page; the
    curve stays, and the training can go on.

    Args:
        output: folder (Path) of the pickle and the weights.
        settings: dict of "method" (one of METHODS), "adam_rate" (η of Adam), "power_rate" (η of HIG and GN),
            "truncation" (τ), "batch_size" (B); what the page shows: "source" ("held out" or "batch") and
            "entry" of it.

    Attributes:
        kept: the file (Path) to which the curve before this one was moved, or None.
        shown: what the page shows, see `view`; the thread replaces it as a whole.
    """

    def __init__(self, output, settings):
        super().__init__(daemon=True)
        tf.get_logger().setLevel("ERROR")           # nothing about functions traced again for other batches
        self.output, self.settings = output, dict(settings)
        self.network = initial_network(RESOLUTION, SEED)                # the start of the submit scripts
        self.initial_weights = self.network.get_weights()
        self.models = {}
        for method in METHODS:
            chosen = SimpleNamespace(optimizer=method, learning_rate=1.0, truncation=settings["truncation"])
            self.models[method] = compile_model(self.network, RESOLUTION, make_optimizer(chosen))
            self.models[method].optimizer.build(self.network.trainable_variables)
        self.evaluation = Evaluation(self.models["HIG"], None, None, EVALUATE_EVERY)
        self.origin = {**provenance(), "dtype": keras.config.floatx(), "updates_per_epoch": 1}
        self.commands, self.compiled, self.kept = queue.SimpleQueue(), set(), None
        self.playing, self.error, self.shown, self.saved_at = False, "", {"version": 0}, 0.0
        self.begin()
        self.report("paused")

    def set(self, settings):
        """Changes settings (dict of texts, as the user typed them) from the next update on.

        Returns:
            whether all of them are allowed; if one is not, its former value stays and the page shows why.
        """
        self.error = ""
        for key, text in settings.items():
            try:
                self.settings[key] = KINDS[key](text) if key in KINDS else text
            except argparse.ArgumentTypeError as error:
                self.error = f"{key.replace('_', ' ')}: {error}; {self.settings[key]} stays"
        self.commands.put(["report"])
        return not self.error

    def run(self):
        """Follows commands until "end"; the curve is left as a finished one."""
        command = None
        while command != "end":
            try:
                command, *arguments = self.commands.get(block=not self.playing)
                self.error = self.error if command == "report" else ""
            except queue.Empty:
                command, arguments = "step", []
            try:
                self.follow(command, arguments)
            except Exception as error:                                  # whatever it is: the page shows it
                self.error = sentence(error)
            if not self.playing or time.monotonic() - self.reported > REPORT_EVERY:
                self.report("training" if self.playing else "paused")

    def follow(self, command, arguments):
        """Does what one command says, and saves the curve."""
        update = self.settings["method"], self.settings["batch_size"]
        if command in ("play", "step") and update not in self.compiled:
            self.report("compiling the update for this method and batch size")
        elif command == "step" and not self.playing:
            self.report("computing an update")
        if command in ("play", "pause", "reset", "load_weights", "end"):
            self.playing = command == "play"
        try:
            if command in ("pause", "end"):
                self.finish()
            elif command not in ("play", "report"):
                getattr(self, command)(*arguments)
        except Exception:
            self.playing = False
            raise
        finally:
            if not self.playing or time.monotonic() - self.saved_at > SAVE_EVERY:
                self.save()

    def end(self):
        """Ends the thread after the update that is under way; a second Ctrl-C ends the process at once."""
        self.commands.put(["end"])
        try:
            self.join(1.0)
            if self.is_alive():
                print("ending after the update that is being computed; Ctrl-C again ends at once", flush=True)
            self.join()
        except KeyboardInterrupt:                                       # what was saved last is whole
            os._exit(130)

    def begin(self):
        """Starts a new curve with the present weights and fresh optimizers; the last one's file stays."""
        for model in self.models.values():
            for variable in model.optimizer.variables:                  # moments and counts of updates
                variable.assign(tf.zeros_like(variable))
        self.curve, self.spectrum = {}, {"rank": [], "sigma_max": [], "sigma_min": []}
        self.updates, self.seconds, self.state, self.saved = 0, 0.0, "running", (0, "")
        self.drawn_size = None                                          # the first update sees the same batch
        first = training_fields(SEED, self.settings["batch_size"], RESOLUTION)
        self.batch = self.evaluation.first_batch = next(iter(first))
        self.append(self.settings, None)

    def step(self):
        """One update with the present settings, on fresh fields, and its entry in the curve.

        Raises:
            SettingsError: the weights are not finite, or the memory does not suffice for this batch.
        """
        if self.state == "diverged":
            raise cli.SettingsError(DIVERGED)
        settings = dict(self.settings)                                  # the page may change them meanwhile
        method, batch_size = settings["method"], settings["batch_size"]
        model = self.models[method]
        model.optimizer.learning_rate = learning_rate(settings)
        if isinstance(model.optimizer, JacobianPower):
            model.optimizer.truncation = settings["truncation"]
            try:  # each time, because the free memory changes
                require_memory(batch_size * RESOLUTION**2, self.network, "choose a smaller batch")
            except MemoryError as error:
                raise cli.SettingsError(str(error)) from None
        if batch_size != self.drawn_size:
            self.drawn_size = batch_size
            self.batches = iter(training_fields(SEED, batch_size, RESOLUTION, self.updates))
        self.batch = next(self.batches)
        began = time.perf_counter()
        model.reset_metrics()
        logs = model.train_on_batch(self.batch[1], self.batch[1], return_dict=True)
        self.seconds += time.perf_counter() - began
        self.compiled.add((method, batch_size))
        self.updates += 1
        self.state = "running"
        self.append(settings, logs)
        if self.state == "diverged":
            raise cli.SettingsError(DIVERGED)

    def append(self, settings, logs):
        """An entry of the curve, after an update with these Keras logs, None for the untrained network."""
        method = settings["method"]
        self.evaluation.batch_size = settings["batch_size"]
        entry = {"epochs": self.updates, "simulation_time": self.seconds,
                 **self.evaluation(self.updates, logs), "method": METHODS.index(method),
                 "learning_rate": learning_rate(settings), "batch_size": settings["batch_size"],
                 "truncation": math.nan if method == "Adam" else settings["truncation"]}
        for key, value in entry.items():
            self.curve.setdefault(key, []).append(value)
        for key, values in self.spectrum.items() if logs else ():
            values.append(float(logs.get(key, math.nan)))               # NaN for Adam
        if self.updates and len(self.curve["epochs"]) > MAX_ENTRIES:
            self.curve = {key: values[::2] for key, values in self.curve.items()}
            self.spectrum = {key: values[1::2] for key, values in self.spectrum.items()}
        if not math.isfinite(entry["train_loss"]):
            self.state = "diverged"

    def reset(self):
        """Goes back to the initial weights; the curve so far is finished, and a new one begins."""
        self.finish()
        self.network.set_weights(self.initial_weights)
        self.begin()

    def save(self):
        """Writes the curve, if there is an update in it; that of another training is kept under its date."""
        if not self.updates or (self.updates, self.state) == self.saved:
            return
        path = self.output / f"{NAME}_RESULTS.pickle"
        sim_par = {"optimizer": "interactive", "seed": SEED, "resolution": RESOLUTION, "held_out": HELD_OUT,
                   "evaluate_every": EVALUATE_EVERY,
                   "methods": ", ".join(f"{i} {method}" for i, method in enumerate(METHODS))}
        if not self.saved[0]:
            self.kept = keep_earlier(path)
            write_parameters(self.output / f"{NAME}_PARAMETERS.txt", sim_par)
        save_results(path, {
            **{key: np.array(values) for key, values in self.curve.items()},
            "epoch_time": np.diff(self.curve["simulation_time"]), **self.evaluation.snapshot(),
            "sim_par": sim_par,
            "provenance": {**self.origin, "state": self.state,
                           **{key: np.array(values) for key, values in self.spectrum.items()}}})
        self.saved, self.saved_at = (self.updates, self.state), time.monotonic()

    def finish(self):
        """Writes the curve as a finished one, or as one that diverged; further training continues it."""
        self.state = "diverged" if self.state == "diverged" else "finished"
        self.save()

    def save_weights(self):
        """Writes the weights into a new file, named after the number of updates; returns its name."""
        for count in itertools.count(1):
            name = f"{NAME}_{self.updates}{f'-{count}' if count > 1 else ''}.weights.h5"
            if name not in self.weights_files():
                save_weights(self.network, self.output / name)
                return name

    def weights_files(self):
        """Names of the weights in the output folder."""
        return sorted(path.name for path in self.output.glob("[!.]*.weights.h5"))

    def load_weights(self, name):
        """Takes weights of the output folder; the curve so far is finished, and a new one begins.

        Raises:
            SettingsError: they cannot be used; then nothing changes.
        """
        self.finish()
        load_weights(self.network, self.output / name)
        self.begin()

    def report(self, doing):
        """Replaces `shown`: `view`, "playing" (bool), "diverged" (bool), "error" (a sentence or empty) and
        "version", which counts upwards."""
        view = self.view()
        self.shown = {**view, "status": f"{doing} · {view['status']}", "playing": self.playing,
                      "error": self.error, "diverged": self.state == "diverged",
                      "version": self.shown["version"] + 1}
        self.reported = time.monotonic()

    def view(self):
        """What the page shows beside the curve: "status" (text), "weights" (names of files), and "fields":
        x_gt, y_target, x, y and residual, float32 (resolution, resolution) each, of the "entry" out of
        "entries"."""
        batch = self.evaluation.held_out if self.settings["source"] == "held out" else self.batch
        entry = min(self.settings["entry"], len(batch[0]) - 1)
        x_gt, target = batch[0][entry:entry + 1], batch[1][entry:entry + 1]
        x = self.network(target, training=False)
        y = self.models["HIG"].simulator(target, x)
        fields = {"x_gt": x_gt, "y_target": target, "x": x, "y": y, "residual": y - target}
        tested = [loss for loss in self.curve["test_loss"] if not math.isnan(loss)]
        rank = (self.spectrum["rank"] or [math.nan])[-1]
        status = [f"{self.updates} updates", f"{self.seconds:.1f} s",
                  f"training loss {self.curve['train_loss'][-1]:.3e}", f"test loss {tested[-1]:.3e}",
                  *[f"rank {rank:.0f}"] * math.isfinite(rank)]
        return {"status": " · ".join(status), "weights": self.weights_files(),
                "entry": entry, "entries": len(batch[0]),
                "fields": {key: np.reshape(field, (RESOLUTION, RESOLUTION)) for key, field in fields.items()}}


def learning_rate(settings):
    """η of the method that the settings name."""
    return settings["adam_rate" if settings["method"] == "Adam" else "power_rate"]


def sentence(error):
    """An exception in one line, of a TensorFlow error that which names what happened in numpy; what is not
    foreseen goes to stderr as a whole."""
    if isinstance(error, (cli.SettingsError, OSError)):
        return str(error)
    traceback.print_exception(error)
    named = re.search(r"(LinAlgError|MemoryError): .+", str(error))
    return named[0] if named else f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
