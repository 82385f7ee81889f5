"""Training the Poisson problem by hand, behind the page of `dashboard.py --interactive Poisson`.

Its pickle is that of a run (hig.runs.training) and also has the settings of each update: `method` (its
number in METHODS), `learning_rate`, `batch_size`, `truncation` (NaN for Adam).
"""

import math
import os
import queue
import re
import threading
import time
import traceback
from argparse import ArgumentTypeError, Namespace

import numpy as np
import tensorflow as tf

from hig.runs import cli
from hig.runs.experiments import make_optimizer
from hig.runs.progress import last_known
from hig.runs.training import SAVING_SHARE, TrainingRun
from hig.runs.weights import load_weights, save_weights
from Poisson import EVALUATE_EVERY, METHODS, RESOLUTION
from Poisson.experiment import HELD_OUT, Evaluation, compile_model, initial_network
from Poisson.fields import training_fields

SEED = 0
NAME = "POISSON_interactive"
DIVERGED = ("The loss is not finite any more. Reset to the initial weights or load others, and choose a "
            "smaller η, or a larger τ for HIG and GN.")
FLAGS = {"adam_rate": "learning_rate", "power_rate": "learning_rate", "truncation": "truncation",
         "batch_size": "batch_size", "entry": "seed"}      # flags of the submit scripts with the same values


class Training(threading.Thread):
    """A thread that trains one network by an optimizer for each method, as commands and settings say.

    A command is a function without arguments in the queue `commands`. If it fails, `error` is a sentence for
    the page, and the updates end. `left` is the number of updates that are still to be made, infinite while
    it plays. When none are left, the pickle holds the whole curve, like that of a finished run.

    Args:
        output: folder (Path) of the pickle and the weights.
        settings: dict of "method" (one of METHODS), "adam_rate" (η of Adam), "power_rate" (η of HIG and GN),
            "truncation" (τ), "batch_size" (B); what the page shows: "source" ("held out" or "batch") and
            "entry" of it.
    """

    def __init__(self, output, settings):
        super().__init__(daemon=True)
        tf.get_logger().setLevel("ERROR")           # nothing about functions traced again for other batches
        self.output, self.settings = output, dict(settings)
        self.network = initial_network(RESOLUTION, SEED)                # the start of the submit scripts
        self.models = {method: compile_model(self.network, RESOLUTION, make_optimizer(
            Namespace(optimizer=method, learning_rate=1.0, truncation=0.0))) for method in METHODS}
        self.evaluation = Evaluation(self.models["HIG"], None, None, EVALUATE_EVERY)
        self.batch = self.evaluation.held_out
        self.commands, self.left, self.error = queue.SimpleQueue(), 0, ""
        self.begin()

    def begin(self):
        """Starts a new curve with the present weights and fresh optimizers; the first update writes it."""
        for model in self.models.values():
            for variable in model.optimizer.variables:                  # moments and counts of updates
                variable.assign(tf.zeros_like(variable))
        limits = Namespace(optimizer="interactive", max_time=math.inf, epochs=None, quiet=True)
        sim_par = {"optimizer": "interactive", "seed": SEED, "resolution": RESOLUTION, "held_out": HELD_OUT,
                   "evaluate_every": EVALUATE_EVERY,
                   "methods": ", ".join(f"{i} {method}" for i, method in enumerate(METHODS))}
        self.curve = TrainingRun(self.output / NAME, self.measure, self.evaluation.snapshot, limits, sim_par,
                                 1, [(self.models["HIG"], math.inf)])
        self.curve.midway = True                                        # no checkpoint: nothing resumes it
        self.batch_size = None

    def measure(self, update, logs):
        """The entry of the curve after an update with these Keras logs, None for the untrained network."""
        used = {key: self.used[key] for key in ("learning_rate", "batch_size", "truncation")}
        return {**self.evaluation(update, logs), **used, "method": METHODS.index(self.used["method"])}

    def set(self, settings):
        """Changes settings (dict of texts, as the user typed them) from the next update on.

        Returns:
            whether all of them are allowed; if one is not, its former value stays and `error` says why.
        """
        self.error = ""
        for key, text in settings.items():
            try:
                self.settings[key] = cli.FLAGS[FLAGS[key]][0](text) if key in FLAGS else text
            except ArgumentTypeError as error:
                self.error = f"{key.replace('_', ' ')}: {error}; {self.settings[key]} stays"
        return not self.error

    def run(self):
        """Follows the commands until None; while there are none, it makes the updates that are left."""
        while True:
            try:
                command = self.commands.get(block=not self.left)
            except queue.Empty:
                command = self.update
            if command is None:
                return
            try:
                command()
            except Exception as error:                                  # whatever it is: the page shows it
                self.left, self.error = 0, sentence(error)
                if command != self.finish:
                    self.commands.put(self.finish)

    def go(self, updates):
        """Sets how many updates are made from now on: 0 pauses, infinity plays."""
        if not updates:
            self.finish()
        self.left = updates

    def update(self):
        """One update with the present settings, on fresh fields, and its entry in the curve.

        Raises:
            SettingsError: the loss is not finite.
        """
        run, used = self.curve, dict(self.settings)                     # the page may change them meanwhile
        model, size, self.used = self.models[used["method"]], used["batch_size"], used
        if used["method"] == "Adam":
            used |= {"learning_rate": used["adam_rate"], "truncation": math.nan}
        else:
            used["learning_rate"], model.optimizer.truncation = used["power_rate"], used["truncation"]
        model.optimizer.learning_rate = used["learning_rate"]
        if size != self.batch_size:
            self.batch_size = self.evaluation.batch_size = size
            self.batches = iter(training_fields(SEED, size, RESOLUTION, run.epoch))
        self.batch = next(self.batches)
        run.set_model(model)
        run.stages = [(model, math.inf)]
        if not run.curve["epochs"]:
            self.evaluation.first_batch = self.batch
            run.on_train_begin()
        run.state, run.saving_took = "running", SAVING_SHARE            # saved every second: somebody watches
        run.on_epoch_begin(run.epoch)
        model.reset_metrics()
        run.on_epoch_end(run.epoch, model.train_on_batch(self.batch[1], self.batch[1], return_dict=True))
        if run.state == "diverged":
            raise cli.SettingsError(DIVERGED)
        self.go(max(self.left - 1, 0))

    def finish(self):
        """Writes the curve, if there is an update in it, as a finished one; further updates continue it."""
        if self.curve.epoch:
            self.curve.close()

    def restart(self, weights=None):
        """Finishes the curve and begins a new one from the initial weights, or those in the file `weights`.

        Raises:
            SettingsError: there are none of this network in that file; then nothing changes.
        """
        self.go(0)
        if weights:
            load_weights(self.network, self.output / weights)
        else:
            self.network.set_weights(initial_network(RESOLUTION, SEED).get_weights())
        self.begin()

    def save_weights(self):
        """Writes the weights into a new file, named after the number of updates and the time."""
        date = time.strftime("%Y-%m-%d_%H%M%S")
        save_weights(self.network, self.output / f"{NAME}_{self.curve.epoch}_{date}.weights.h5")

    def end(self):
        """Ends the thread after the update that is under way; a second Ctrl-C ends the process at once."""
        print("ending after the update that is being computed; Ctrl-C again ends at once", flush=True)
        self.commands.put(self.finish)
        self.commands.put(None)
        try:
            self.join()
        except KeyboardInterrupt:                                       # what was saved last is whole
            os._exit(130)

    def status(self):
        """What is going on and the last numbers of the curve, as a text."""
        losses = [f"{kind} loss {last_known(self.curve.curve.get(key, [])):.3e}"
                  for kind, key in (("training", "train_loss"), ("test", "test_loss"))]
        return " · ".join(["training" if self.left else "paused", f"{self.curve.epoch} updates",
                           f"{self.curve.time:.1f} s", *losses * bool(self.curve.epoch)])

    def fields(self):
        """What the page shows of the network: {"x_gt", "y_target", "x", "y", "residual": a field, float32
        (resolution, resolution)}, of an entry of those held out or of the last batch."""
        batch = self.evaluation.held_out if self.settings["source"] == "held out" else self.batch
        entry = min(self.settings["entry"], len(batch[0]) - 1)
        x_gt, target = (fields[entry:entry + 1] for fields in batch)
        x = self.network(target, training=False)
        y = self.models["HIG"].simulator(target, x)
        fields = {"x_gt": x_gt, "y_target": target, "x": x, "y": y, "residual": y - target}
        return {name: np.reshape(field, (RESOLUTION, RESOLUTION)) for name, field in fields.items()}


def sentence(error):
    """An exception in one line; what is not foreseen goes to stderr as a whole."""
    if isinstance(error, (cli.SettingsError, OSError)):
        return str(error)
    traceback.print_exception(error)
    text = f"{type(error).__name__}: {error}"                           # TensorFlow's names what numpy said
    return (re.findall("(?:LinAlgError|MemoryError): .+", text) or text.splitlines())[0]
