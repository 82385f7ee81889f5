"""Training the Poisson problem by hand: the process behind the page of `dashboard.py --interactive Poisson`.

`Trainer` is the training: one network, an optimizer for each method, the present settings, and the curve, whose pickle
`POISSON_interactive_RESULTS.pickle` has the layout of the submit scripts' (hig.runs.results). Besides, it holds for each
entry what the update was made with: `method` (its number in METHODS), `learning_rate`, `batch_size`, `truncation`.

`work` lets a trainer follow the commands that come through a pipe, and sends back what the page shows.
"""

import itertools
import math
import sys
import time
import traceback
from contextlib import suppress
from types import SimpleNamespace

import keras
import numpy as np
import tensorflow as tf

from hig.figures.curves import thin
from hig.runs.experiments import make_optimizer
from hig.runs.initialization import draw_published_weights
from hig.runs.locks import locked
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
REPORT_EVERY = 0.2          # seconds between two states sent while playing
SAVE_EVERY = 1.0            # seconds between two savings while playing
LARGEST = 1024              # fields in a batch
MAX_ENTRIES = 50_000        # of a curve, even so that halving keeps its last entry; a pickle of 5 MB
SHOWN_BINS = 400            # of the curve as the page gets it
WEIGHTS = ".weights.h5"
DIVERGED = ("The loss is not finite any more. Reset to the initial weights or load others; then a smaller η, or for HIG and GN "
            "a larger τ, goes more safely.")


class Trainer:
    """A network in training, its settings and its curve.

    Args:
        output: folder (Path) of the pickle and the weights.
        settings: dict of "method" (one of METHODS), "adam_rate" (η of Adam), "power_rate" (η of HIG and GN),
            "truncation" (τ), "batch_size" (B); what the page shows: "source" ("held out" or "batch") and "entry" of it.
    """

    def __init__(self, output, settings):
        self.output, self.settings, self.before = output, {}, None
        output.mkdir(parents=True, exist_ok=True)
        for key, value in settings.items():
            self.set(key, value)
        self.network = build_network(RESOLUTION)
        draw_published_weights(self.network, SEED + 1)                  # the start of the submit scripts
        self.initial_weights = self.network.get_weights()
        self.models, self.fresh = {}, {}
        for method in METHODS:
            optimizer = make_optimizer(SimpleNamespace(optimizer=method, learning_rate=self._learning_rate(method),
                                                       truncation=self.settings["truncation"]))
            self.models[method] = compile_model(self.network, RESOLUTION, optimizer)
            optimizer.build(self.network.trainable_variables)
            self.fresh[method] = [variable.numpy() for variable in optimizer.variables]
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
        elif key in ("batch_size", "entry"):
            low, high = (1, LARGEST) if key == "batch_size" else (0, LARGEST - 1)
            name = key.replace("_", " ")
            value = _number(name, value)
            if value != int(value) or not low <= value <= high:
                raise ValueError(f"the {name} is {value:g}, but must be a whole number from {low} to {high}")
            value = int(value)
        elif key in ("adam_rate", "power_rate"):
            value = _number("learning rate", value)
            if not value > 0:
                raise ValueError(f"the learning rate is {value:g}, but must be positive")
        elif key == "truncation":
            value = _number(key, value)
            check_settings(-0.5, value)
        else:
            raise ValueError(f"there is no setting {key!r}")
        self.settings[key] = value

    @property
    def batch_size(self):
        """B of the next update."""
        return self.settings["batch_size"]

    def _learning_rate(self, method):
        return self.settings["adam_rate" if method == "Adam" else "power_rate"]

    def compiles(self):
        """Whether the next update has to be compiled first, which takes seconds."""
        return (self.settings["method"], self.batch_size) not in self.ready

    # -------------------------------------------------------------------------------------------- training

    def begin(self):
        """Starts a new curve with the present weights and fresh optimizers; the file of the last one is not touched."""
        for method, values in self.fresh.items():
            for variable, value in zip(self.models[method].optimizer.variables, values):
                variable.assign(value)
        self.curve, self.spectrum = {}, {"rank": [], "sigma_max": [], "sigma_min": []}
        self.updates, self.seconds, self.state = 0, 0.0, "running"
        self.saved_updates, self.saved_state = 0, None                  # what the file says; 0 before there is one
        self._draw_from_here()
        self.batch = next(self.batches)
        self._draw_from_here()                                          # the first update sees the same
        self.evaluation = Evaluation(self.models["HIG"], self.batch, self.batch_size, EVALUATE_EVERY)
        self._append(None)

    def _draw_from_here(self):
        self.drawn_size = self.batch_size
        self.batches = iter(training_fields(SEED, self.drawn_size, RESOLUTION, self.updates))

    def step(self):
        """One update with the present settings, on fresh fields, and its entry in the curve.

        Raises:
            SettingsError: the weights are not finite, or the memory does not suffice for this batch.
        """
        if self.state == "diverged":
            raise SettingsError(DIVERGED)
        method = self.settings["method"]
        model = self.models[method]
        power = isinstance(model.optimizer, JacobianPower)
        if power and self.compiles():
            try:
                require_memory(self.batch_size * RESOLUTION**2, self.network, "choose a smaller batch")
            except MemoryError as error:
                raise SettingsError(str(error)) from None
        model.optimizer.learning_rate = self._learning_rate(method)
        if power:
            model.optimizer.truncation = self.settings["truncation"]
        if self.batch_size != self.drawn_size:
            self._draw_from_here()
        self.batch = next(self.batches)
        began = time.perf_counter()
        model.reset_metrics()
        logs = model.train_on_batch(self.batch[1], self.batch[1], return_dict=True)
        self.seconds += time.perf_counter() - began
        self.ready.add((method, self.batch_size))
        self.updates += 1
        self.state = "running"
        self._append(logs)

    def _append(self, logs):
        method = self.settings["method"]
        self.evaluation.batch_size = self.batch_size
        entry = {"epochs": self.updates, "simulation_time": self.seconds, **self.evaluation(self.updates, logs),
                 "method": METHODS.index(method), "learning_rate": self._learning_rate(method),
                 "batch_size": self.batch_size,
                 "truncation": math.nan if method == "Adam" else self.settings["truncation"]}
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
        self.before = self._shown_curve()[0]
        self.network.set_weights(self.initial_weights)
        self.begin()

    # -------------------------------------------------------------------------------------------- files

    def save(self):
        """Writes the curve; an earlier one, of another training, is kept under its date. Nothing before the first update."""
        if not self.updates or (self.updates, self.state) == (self.saved_updates, self.saved_state):
            return
        path = self.output / f"{NAME}_RESULTS.pickle"
        sim_par = {"optimizer": "interactive", "seed": SEED, "resolution": RESOLUTION, "held_out": HELD_OUT,
                   "evaluate_every": EVALUATE_EVERY, "methods": ", ".join(f"{i} {m}" for i, m in enumerate(METHODS))}
        if not self.saved_updates:
            keep_earlier(path)
            write_parameters(self.output / f"{NAME}_PARAMETERS.txt", sim_par)
        save_results(path, {
            **{key: np.array(values) for key, values in self.curve.items()},
            "epoch_time": np.diff(self.curve["simulation_time"]), **self.evaluation.snapshot(), "sim_par": sim_par,
            "provenance": {**self.origin, "state": self.state,
                           **{key: np.array(values) for key, values in self.spectrum.items()}}})
        self.saved_updates, self.saved_state = self.updates, self.state

    def finish(self):
        """Writes the curve as a finished one, or as one that diverged. Training may go on, which continues it."""
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
            SettingsError: there are none of that name, or they cannot be used; then everything stays as it is.
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
        self.network.set_weights(before)                                # which the file of the curve so far shows
        self.finish()
        self.before = self._shown_curve()[0]
        self.network.set_weights(loaded)
        self.begin()

    # -------------------------------------------------------------------------------------------- what is shown

    def view(self):
        """What the page shows: dict of builtins and arrays.

        settings (dict), updates, seconds, state, weights (names); curve: dict of arrays (M,), the entries of the
        curve that can be told apart, with "rank" (NaN without one); tested: the same of the entries with a test loss,
        epochs, simulation_time and test_loss; before: the curve that a reset has ended, like curve, or None; fields: x_gt, y_target, x, y, residual, (resolution, resolution) each, of the entry
        "entry" out of "entries".
        """
        curve, tested = self._shown_curve()
        batch = self.evaluation.held_out if self.settings["source"] == "held out" else self.batch
        entry = min(self.settings["entry"], len(batch[0]) - 1)
        x_gt, target = batch[0][entry:entry + 1], batch[1][entry:entry + 1]
        x = self.network(target, training=False)
        y = self.models["HIG"].simulator(target, x)
        fields = {"x_gt": x_gt, "y_target": target, "x": x, "y": y, "residual": y - target}
        return {"settings": dict(self.settings), "updates": self.updates, "seconds": self.seconds, "state": self.state,
                "weights": self.weights_files(), "entry": entry, "entries": len(batch[0]),
                "curve": curve, "tested": tested, "before": self.before,
                "fields": {key: np.reshape(f, (RESOLUTION, RESOLUTION)) for key, f in fields.items()}}


    def _shown_curve(self):
        """"curve" and "tested" of `view`."""
        curve = {key: np.array(self.curve[key]) for key in ("epochs", "simulation_time", "train_loss", "test_loss", "method")}
        curve["rank"] = np.concatenate([[np.nan], self.spectrum["rank"]])
        index = thin(curve["epochs"], curve["train_loss"], False, SHOWN_BINS)
        measured = np.flatnonzero(np.isfinite(curve["test_loss"]))
        measured = measured[thin(measured, curve["test_loss"][measured], False, SHOWN_BINS)]
        return ({key: values[index] for key, values in curve.items()},
                {key: curve[key][measured] for key in ("epochs", "simulation_time", "test_loss")})


def _number(name, value):
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"the {name} is {value!r}, but must be a number")
    return number


# ---------------------------------------------------------------------------------------------------- the process

def work(connection, output, settings):
    """Trains as commanded until the other end of the pipe is closed; then the curve is left as a finished one.

    Commands are tuples: ("play",), ("pause",), ("step",), ("set", key, value), ("reset",), ("save_weights",),
    ("load_weights", name), ("finish",): pause and leave a finished pickle, ("end",): the same, and end the process.
    After each of them and now and then while playing comes a state: the dict of `Trainer.view` with "playing" (bool),
    "busy" and "error" (sentences or empty) and "refused" (how many settings were not taken so far), or only the latter two where there is no trainer (yet).

    Args:
        connection: multiprocessing Connection.
        output: folder (Path).
        settings: as in Trainer.
    """
    tf.get_logger().setLevel("ERROR")                                   # about functions traced again for other batches
    try:
        with locked(output / NAME):
            trainer = Trainer(output, settings)
            try:
                _follow(connection, trainer)
            except (EOFError, ConnectionError):                         # the server is gone
                pass
            finally:
                trainer.finish()
    except Exception as error:
        with suppress(OSError):                                         # of a server that is gone
            connection.send({"busy": "", "error": _sentence(error)})
        if isinstance(error, OSError):                                  # the lock, or a folder or disk: no bug
            sys.exit(_sentence(error))
        raise


def _follow(connection, trainer):
    playing, error, refused, reported, saved = False, "", 0, -math.inf, -math.inf

    def report(busy=""):
        connection.send({**trainer.view(), "playing": playing, "busy": busy, "error": error, "refused": refused})

    report()
    while True:
        commanded = not playing or connection.poll()
        command, *arguments = connection.recv() if commanded else ("step",)
        if command == "end":
            return
        try:
            if commanded:
                error = ""
            if command in ("play", "pause", "finish"):
                playing = command == "play"
            if command in ("play", "step") and trainer.compiles():
                report(busy="compiling the update for this method and batch size")
            elif command == "step" and (commanded or time.monotonic() - reported > REPORT_EVERY):
                report(busy="computing an update")
            if command in ("step", "reset", "save_weights", "finish"):
                getattr(trainer, command)()
            elif command in ("set", "load_weights"):
                getattr(trainer, command)(*arguments)
            playing = playing and command not in ("reset", "load_weights") and trainer.state != "diverged"
            error = DIVERGED if trainer.state == "diverged" and command == "step" else error
            if not playing or time.monotonic() - saved > SAVE_EVERY:
                trainer.save()
                saved = time.monotonic()
        except (SettingsError, ValueError, OSError) as problem:         # what the user can mend
            refused += command == "set"
            playing, error = playing and command == "set", _sentence(problem)
        except Exception as problem:                                    # whatever it is: the page shows it
            traceback.print_exc(file=sys.stderr)
            playing, error = False, _sentence(problem)
        if commanded or not playing or time.monotonic() - reported > REPORT_EVERY:
            report()
            reported = time.monotonic()


def _sentence(error):
    """The last line of an exception's text, which of a TensorFlow error is the host's, or its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = next((line for line in lines if line.split(":")[0] in ("LinAlgError", "MemoryError")), None)
    text = named or (lines[0] if lines else "")
    plain = type(error) in (SettingsError, ValueError) or isinstance(error, OSError)
    return text if plain and text else f"{type(error).__name__}: {text}"
