"""Training the Poisson problem by hand, behind the page of `dashboard.py --interactive Poisson`.

`Trainer` is the training: one network, an optimizer for each method, the present settings, and the curve. Its
pickle `POISSON_interactive_RESULTS.pickle` has the layout of the submit scripts' (hig.runs.results), and for
each entry also the settings of the update: `method` (its number in METHODS), `learning_rate`, `batch_size`,
`truncation`.

`Training` is the thread in which a trainer follows the commands of the page.
"""

import itertools
import math
import os
import queue
import sys
import threading
import time
import traceback
from types import SimpleNamespace

import keras
import numpy as np
import tensorflow as tf

from hig.runs.experiments import make_optimizer
from hig.runs.initialization import draw_published_weights
from hig.memory import require_memory
from hig.optimizers import JacobianPower
from hig.powers import check_settings
from hig.runs.provenance import provenance
from hig.runs.files import keep_earlier
from hig.runs.results import save_results, write_parameters
from hig.runs.training import SettingsError, load_weights, save_weights
from Poisson import EVALUATE_EVERY, METHODS, RESOLUTION
from Poisson.experiment import HELD_OUT, Evaluation, compile_model
from Poisson.fields import training_fields
from Poisson.network import build_network

SEED = 0
NAME = "POISSON_interactive"
REPORT_EVERY = 0.2          # seconds between two states for the page while playing
SAVE_EVERY = 1.0            # seconds between two savings while playing
CLOSED_AFTER = 90.0         # seconds without a look of the page: it is closed; hidden ones look once a minute
LARGEST = 1024              # fields in a batch
MAX_ENTRIES = 50_000        # of a curve, even so that halving keeps its last entry; a pickle of 5 MB
WEIGHTS = ".weights.h5"
DIVERGED = ("The loss is not finite any more. Reset to the initial weights or load others; then a smaller η, "
            "or for HIG and GN a larger τ, goes more safely.")


class Trainer:
    """A network in training, its settings and its curve.

    Args:
        output: folder (Path) of the pickle and the weights.
        settings: dict of "method" (one of METHODS), "adam_rate" (η of Adam), "power_rate" (η of HIG and GN),
            "truncation" (τ), "batch_size" (B); what the page shows: "source" ("held out" or "batch") and
            "entry" of it.

    Attributes: kept, the file (Path) to which the curve before this one was moved, or None.
    """

    def __init__(self, output, settings):
        self.output, self.settings, self.kept = output, {}, None
        output.mkdir(parents=True, exist_ok=True)
        for key, value in settings.items():
            self.set(key, value)
        self.network = build_network(RESOLUTION)
        draw_published_weights(self.network, SEED + 1)                  # the start of the submit scripts
        self.initial_weights = self.network.get_weights()
        self.models, self.fresh = {}, {}
        for method in METHODS:
            optimizer = make_optimizer(SimpleNamespace(
                optimizer=method, learning_rate=_learning_rate(method, self.settings),
                truncation=self.settings["truncation"]))
            self.models[method] = compile_model(self.network, RESOLUTION, optimizer)
            optimizer.build(self.network.trainable_variables)
            self.fresh[method] = [variable.numpy() for variable in optimizer.variables]
        self.evaluation = Evaluation(self.models["HIG"], None, None, EVALUATE_EVERY)
        self.ready = set()                                              # (method, batch size): compiled
        self.origin = {**provenance(), "dtype": keras.config.floatx(), "updates_per_epoch": 1}
        self.begin()

    # -------------------------------------------------------------------------------------------- settings

    def set(self, key, value):
        """Changes a setting from the next update on.

        Args:
            value: as in the class; numbers may be texts, as the user typed them.

        Raises:
            ValueError: the setting or its value is not one that is allowed; the former value stays.
        """
        choices = {"method": METHODS, "source": ("held out", "batch")}
        if key in choices:
            if value not in choices[key]:
                raise ValueError(f"{key} is {value!r}, allowed are {', '.join(choices[key])}")
            self.settings[key] = value
            return
        name = "learning rate" if key.endswith("rate") else key.replace("_", " ")
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"the {name} is {value!r}, but must be a number")
        if key == "truncation":
            check_settings(-0.5, number)
        elif key.endswith("rate"):
            if number <= 0:
                raise ValueError(f"the {name} is {number:g}, but must be positive")
        else:
            low, high = (1, LARGEST) if key == "batch_size" else (0, LARGEST - 1)
            if number != int(number) or not low <= number <= high:
                raise ValueError(f"the {name} is {number:g}, but must be a whole number from {low} to {high}")
            number = int(number)
        self.settings[key] = number

    def compiles(self):
        """Whether the next update has to be compiled first, which takes seconds."""
        return (self.settings["method"], self.settings["batch_size"]) not in self.ready

    # -------------------------------------------------------------------------------------------- training

    def begin(self):
        """Starts a new curve with the present weights and fresh optimizers; the last one's file stays."""
        for method, values in self.fresh.items():
            for variable, value in zip(self.models[method].optimizer.variables, values):
                variable.assign(value)
        self.curve, self.spectrum = {}, {"rank": [], "sigma_max": [], "sigma_min": []}
        self.updates, self.seconds, self.state = 0, 0.0, "running"
        self.saved_updates, self.saved_state = 0, None  # what the file says; 0 before there is one
        self._draw_from_here(self.settings["batch_size"])
        self.batch = next(self.batches)
        self._draw_from_here(self.drawn_size)                           # the first update sees the same
        self.evaluation.first_batch = self.batch
        self._append(self.settings, None)

    def _draw_from_here(self, batch_size):
        self.drawn_size = batch_size
        self.batches = iter(training_fields(SEED, batch_size, RESOLUTION, self.updates))

    def step(self):
        """One update with the present settings, on fresh fields, and its entry in the curve.

        Raises:
            SettingsError: the weights are not finite, or the memory does not suffice for this batch.
        """
        if self.state == "diverged":
            raise SettingsError(DIVERGED)
        settings = dict(self.settings)                                  # the page may change them meanwhile
        method, batch_size = settings["method"], settings["batch_size"]
        model = self.models[method]
        model.optimizer.learning_rate = _learning_rate(method, settings)
        if isinstance(model.optimizer, JacobianPower):
            model.optimizer.truncation = settings["truncation"]
            try:  # each time, because the free memory changes
                require_memory(batch_size * RESOLUTION**2, self.network, "choose a smaller batch")
            except MemoryError as error:
                raise SettingsError(str(error)) from None
        if batch_size != self.drawn_size:
            self._draw_from_here(batch_size)
        self.batch = next(self.batches)
        began = time.perf_counter()
        model.reset_metrics()
        logs = model.train_on_batch(self.batch[1], self.batch[1], return_dict=True)
        self.seconds += time.perf_counter() - began
        self.ready.add((method, batch_size))
        self.updates += 1
        self.state = "running"
        self._append(settings, logs)

    def _append(self, settings, logs):
        method = settings["method"]
        self.evaluation.batch_size = settings["batch_size"]
        entry = {"epochs": self.updates, "simulation_time": self.seconds,
                 **self.evaluation(self.updates, logs), "method": METHODS.index(method),
                 "learning_rate": _learning_rate(method, settings),
                 "batch_size": settings["batch_size"],
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

    # -------------------------------------------------------------------------------------------- files

    def save(self):
        """Writes the curve, if there is an update in it; that of another training is kept under its date."""
        if not self.updates or (self.updates, self.state) == (self.saved_updates, self.saved_state):
            return
        path = self.output / f"{NAME}_RESULTS.pickle"
        sim_par = {"optimizer": "interactive", "seed": SEED, "resolution": RESOLUTION, "held_out": HELD_OUT,
                   "evaluate_every": EVALUATE_EVERY,
                   "methods": ", ".join(f"{i} {method}" for i, method in enumerate(METHODS))}
        if not self.saved_updates:
            self.kept = keep_earlier(path)
            write_parameters(self.output / f"{NAME}_PARAMETERS.txt", sim_par)
        save_results(path, {
            **{key: np.array(values) for key, values in self.curve.items()},
            "epoch_time": np.diff(self.curve["simulation_time"]), **self.evaluation.snapshot(),
            "sim_par": sim_par,
            "provenance": {**self.origin, "state": self.state,
                           **{key: np.array(values) for key, values in self.spectrum.items()}}})
        self.saved_updates, self.saved_state = self.updates, self.state

    def finish(self):
        """Writes the curve as a finished one, or as one that diverged; further training continues it."""
        self.state = "diverged" if self.state == "diverged" else "finished"
        self.save()

    def save_weights(self):
        """Writes the weights into a new file, named after the number of updates; returns its name."""
        for count in itertools.count(1):
            name = f"{NAME}_{self.updates}{f'-{count}' if count > 1 else ''}{WEIGHTS}"
            if name not in self.weights_files():
                save_weights(self.network, self.output / name)
                return name

    def weights_files(self):
        """Names of the weights in the output folder, which are all that can be loaded."""
        return sorted(path.name for path in self.output.glob(f"*{WEIGHTS}") if not path.name.startswith("."))

    def load_weights(self, name):
        """Takes weights of the output folder; the curve so far is finished, and a new one begins.

        Raises:
            SettingsError: there are none of that name, or they cannot be used; then nothing changes.
        """
        if name not in self.weights_files():
            raise SettingsError(f"there are no weights {name!r} in {self.output}")
        before = self.network.get_weights()
        try:
            load_weights(self.network, self.output / name)
        except SettingsError:
            self.network.set_weights(before)
            raise
        loaded = self.network.get_weights()
        self.network.set_weights(before)  # which the file of the curve so far shows
        self.finish()
        self.network.set_weights(loaded)
        self.begin()

  # -------------------------------------------------------------------------------------------- what is shown

    def view(self):
        """What the page shows beside the curve: state, status (text), weights (names of files), fields.

        "fields" are x_gt, y_target, x, y and residual, float32 (resolution, resolution) each, of the entry
        "entry" out of "entries".
        """
        batch = self.evaluation.held_out if self.settings["source"] == "held out" else self.batch
        entry = min(self.settings["entry"], len(batch[0]) - 1)
        x_gt, target = batch[0][entry:entry + 1], batch[1][entry:entry + 1]
        x = self.network(target, training=False)
        y = self.models["HIG"].simulator(target, x)
        fields = {"x_gt": x_gt, "y_target": target, "x": x, "y": y, "residual": y - target}
        tested = [loss for loss in self.curve["test_loss"] if not math.isnan(loss)]
        rank = (self.spectrum["rank"] or [math.nan])[-1]
        status = [f"{self.updates} updates", f"{self.seconds:.1f} s",
                  f"training loss {self.curve['train_loss'][-1]:.3e}",
                  *[f"test loss {loss:.3e}" for loss in tested[-1:]],
                  *[f"rank {rank:.0f}"] * math.isfinite(rank)]
        return {"state": self.state, "status": " · ".join(status), "weights": self.weights_files(),
                "entry": entry, "entries": len(batch[0]),
                "fields": {key: np.reshape(field, (RESOLUTION, RESOLUTION)) for key, field in fields.items()}}


def _learning_rate(method, settings):
    return settings["adam_rate" if method == "Adam" else "power_rate"]


# --------------------------------------------------------------------------------- the thread

class Training(threading.Thread):
    """Trains in a thread of its own as the page commands, so that the page answers during an update.

    Commands are "play", "pause" (which leaves a finished pickle), "step", "reset", "save_weights",
    "load_weights" with a name, and "end". Whatever goes wrong becomes a sentence on the page; the curve
    stays, and the training can go on.

    Args:
        trainer: Trainer; once the thread has started, it alone calls its methods, but for `set`.

    Attributes: state, what the page shows: `Trainer.view` with "playing" (bool), "error" (a sentence or
        empty) and "version", which counts upwards.
    """

    def __init__(self, trainer):
        super().__init__(daemon=True)
        tf.get_logger().setLevel("ERROR")  # about functions traced again for other batches
        self.trainer, self.commands, self.playing, self.error = trainer, queue.Queue(), False, ""
        self.state = {"version": time.time_ns()}  # above those of pages of an earlier process
        self.saved, self.seen = -math.inf, math.inf
        self._report("paused")

    def set(self, settings):
        """Changes settings (dict) from the next update on. False if one is refused; the page shows why."""
        self.error = ""
        for key, value in settings.items():
            try:
                self.trainer.set(key, value)
            except ValueError as error:
                self.error = str(error)
        self.send("show")
        return not self.error

    def send(self, *command):
        """Hands over a command and its arguments."""
        self.commands.put(command)

    def look(self):
        """The state, for a page that is open."""
        self.seen = time.monotonic()
        return self.state

    def run(self):
        """Follows commands until "end"; the curve is left as a finished one."""
        command = None
        while command != "end":
            try:
                command, *arguments = self.commands.get(block=not self.playing)
                self.error = self.error if command == "show" else ""
            except queue.Empty:
                closed = time.monotonic() - self.seen > CLOSED_AFTER
                command, arguments = "pause" if closed else "step", []
            try:
                self._follow(command, arguments)
            except (SettingsError, OSError) as error:                   # what the user can mend
                self.playing, self.error = False, str(error)
            except Exception as error:                                  # whatever it is: the page shows it
                traceback.print_exc(file=sys.stderr)
                self.playing, self.error = False, _sentence(error)
            if not self.playing or time.monotonic() - self.reported > REPORT_EVERY:
                idle = "diverged" if self.trainer.state == "diverged" else "paused"
                self._report("training" if self.playing else idle)

    def _follow(self, command, arguments):
        trainer = self.trainer
        if command in ("play", "step") and trainer.compiles():
            self._report("compiling the update for this method and batch size")
        elif command == "step" and not self.playing:
            self._report("computing an update")
        if command in ("play", "pause", "reset", "load_weights", "end"):
            self.playing = command == "play"
        try:
            if command in ("step", "reset", "save_weights", "load_weights"):
                getattr(trainer, command)(*arguments)
            if command in ("pause", "end"):
                trainer.finish()
            if trainer.state == "diverged":
                self.playing, self.error = False, DIVERGED
        except Exception:
            self.playing = False
            raise
        finally:
            if not self.playing or time.monotonic() - self.saved > SAVE_EVERY:
                trainer.save()
                self.saved = time.monotonic()

    def _report(self, doing):
        view = self.trainer.view()
        self.state = {**view, "status": f"{doing} · {view['status']}", "playing": self.playing,
                      "error": self.error, "version": self.state["version"] + 1}
        self.reported = time.monotonic()

    def end(self):
        """Ends the thread after the update that is under way; a second Ctrl-C ends the process at once."""
        self.send("end")
        try:
            self.join(1.0)
            if self.is_alive():
                print("ending after the update that is being computed; Ctrl-C again ends at once", flush=True)
            self.join()
        except KeyboardInterrupt:                                       # what was saved last is whole
            os._exit(130)


def _sentence(error):
    """An exception in one line; of a TensorFlow error, the line that names what happened in numpy."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if line.startswith(("LinAlgError: ", "MemoryError: "))]
    return (named or [f"{type(error).__name__}: {lines[0] if lines else ''}"])[0]
