"""One training run of one experiment: time budget, evaluation, curve, checkpoint, resume.

`train` is Keras' `fit` with one callback that

- keeps the clock: `simulation_time` is the time spent in training steps, compiling in the first epoch
  included and evaluation excluded, as in the published curves;
- evaluates after every epoch and appends to the curve, whose entry 0 is the untrained network. The curve is
  thinned before its file becomes larger than a reader takes (`hig.runs.results.MAX_BYTES`);
- writes curve and checkpoint, so that a run can be interrupted at any moment and continued with `--resume`.

The files of a run, in `settings.output`, for instance for the prefix NLO and the optimizer HIG:

    NLO_HIG_RESULTS.pickle      the curve (hig.runs.results)
    NLO_HIG_PARAMETERS.txt      its settings
    NLO_HIG_CHECKPOINT.npz      weights, optimizer state and the pickle after the last epoch saved
    .NLO_HIG.lock               while the run lasts (hig.runs.locks)

A new run gives a dated name to the curve of an earlier run, and also to its checkpoint unless that run had
finished; the checkpoint of a finished run is removed. Each file is replaced as a whole. The checkpoint is
written first, and a run continues from the pickle in it, so that a process killed at any moment leaves
weights and curve that belong together.
"""

import io
import math
import os
import re
import signal
import sys
import threading
import time
from bisect import bisect_left
from contextlib import closing, contextmanager, suppress

import keras
import numpy as np
import tensorflow as tf

from hig.runs import results as curves
from hig.runs.cli import SettingsError, writing_to
from hig.runs.locks import locked
from hig.runs.progress import Progress, last_known, say
from hig.runs.provenance import peak_memory, provenance
from hig.runs.files import keep_earlier, write_atomically
from hig.runs.results import load_results, unpickled, write_parameters
from hig.runs.weights import load_weights, name_and_hash, save_weights

SAVING_SHARE = 0.02        # of the training time may be spent on writing; not all short epochs are written


def train(model, batches, updates_per_epoch, evaluate, settings, prefix, sim_par, *,
          pretraining=None, snapshot=dict, callbacks=(), label=None):
    """Trains until `settings.max_time` seconds or `settings.epochs` epochs are over, whichever comes first.

    Args:
        model: compiled PhysicsModel.
        batches: function of the number of epochs done → endless tf.data.Dataset with one (x, y) per update.
        updates_per_epoch: int; the curve has one entry per epoch.
        evaluate: function of the epoch (0 is the untrained network) and its Keras logs (None for that) → dict
            of floats with "train_loss" and "test_loss" (NaN where not evaluated); further entries become
            further curves, which have NaN where a later dict lacks them.
        settings: as `hig.runs.cli.parse` returns them; `train` uses optimizer, max_time, epochs, output,
            quiet, resume, load_weights and save_weights.
        prefix: of the file names, "NLO" for instance.
        sim_par: dict of builtins, the settings as they go into the pickle and the PARAMETERS file.
        pretraining: (another compiled PhysicsModel with the same network, seconds): it trains for the first
            seconds of the curve, and the epoch at which it ends is "switch_epoch" in the provenance.
        snapshot: function without arguments → dict of arrays with two axes, which go into the pickle at each
            saving.
        callbacks: further Keras callbacks, run after the clock has been read.
        label: str, what progress and messages call the run; the optimizer's name if None.

    Returns:
        "finished", "interrupted" (Ctrl-C), "terminated" (SIGTERM; "interrupted" in the pickle), "diverged"
        (loss inf or NaN) or "failed" (LAPACK did not converge or memory did not suffice; the reason is on
        stderr).

    Raises:
        SettingsError: if there is no run to resume, or if it had other settings or started from other
            weights; if `load_weights` cannot be used.
        BlockingIOError: if another process is writing these results.
        OSError: if the results cannot be written; what was written before stays as it is.
    """
    name = settings.output / f"{prefix}_{settings.optimizer}"
    stages = [(model, math.inf)] if pretraining is None else [pretraining, (model, math.inf)]
    if settings.load_weights:
        sim_par = {**sim_par, "load_weights": name_and_hash(settings.load_weights)}
    run = TrainingRun(name, evaluate, snapshot, settings, sim_par, updates_per_epoch, stages, label)
    for stage_model, _ in stages:
        stage_model.optimizer.build(stage_model.trainable_variables)
    with locked(name), closing(run.progress), _stop_on_signals(run):
        if settings.resume:
            run.resume()
        elif settings.load_weights:
            load_weights(model.network, settings.load_weights)
        try:
            done = None
            while not run.over() and run.epoch != done:                 # L-BFGS may find no further step
                done = run.epoch
                run.stage_model.fit(batches(run.epoch), steps_per_epoch=updates_per_epoch, verbose=0,
                                    initial_epoch=run.epoch, epochs=sys.maxsize, shuffle=False,
                                    callbacks=[run, *callbacks])            # run.over() ends it
        except (tf.errors.OpError, np.linalg.LinAlgError, MemoryError, KeyboardInterrupt) as error:
            run.give_up(error)
        run.close()
    if settings.save_weights:
        save_weights(model.network, settings.save_weights)
    stopped = run.state == "interrupted" and run.stop_signal == signal.SIGTERM
    return "terminated" if stopped else run.state


class TrainingRun(keras.callbacks.Callback):
    """The state of a run between two epochs, and what happens there. Arguments as in `train`."""

    def __init__(self, name, evaluate, snapshot, settings, sim_par, updates_per_epoch, stages, label=None):
        super().__init__()
        self.results, self.parameters, self.checkpoint = (name.with_name(name.name + ending) for ending in (
            "_RESULTS.pickle", "_PARAMETERS.txt", "_CHECKPOINT.npz"))
        self.evaluate, self.snapshot, self.settings = evaluate, snapshot, settings
        self.sim_par = dict(sim_par)
        self.stages = stages                                # [(model, seconds at which the next takes over)]
        self.curve = {"epochs": [], "simulation_time": []}  # one entry per epoch, the untrained one first
        self.logged = getattr(stages[-1][0].optimizer, "logged", ())    # goes into the curve, too
        self.provenance = {**provenance(),
                           "tensorflow_threads": tf.config.threading.get_intra_op_parallelism_threads()
                           or int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0),
                           "dtype": keras.config.floatx(), "updates_per_epoch": updates_per_epoch}
        self.state = "running"
        self.stop_signal = None                             # set by a signal handler
        self.midway = False                                 # whether it ended within an epoch
        self.saved_at, self.saving_took = -math.inf, 0.0
        self.label = label or settings.optimizer
        self.progress = Progress(self.label, settings.max_time, settings.epochs, settings.quiet)

    @property
    def epoch(self):
        """Number of epochs done."""
        return self.curve["epochs"][-1] if self.curve["epochs"] else 0

    @property
    def time(self):
        """Seconds of training so far."""
        return self.curve["simulation_time"][-1] if self.curve["epochs"] else 0.0

    @property
    def stage_model(self):
        """The model whose turn it is."""
        return next(model for model, until in self.stages if self.time < until)

    def over(self):
        """Whether the run has reached its end, one way or another."""
        limits = self.settings
        return (self.state != "running" or self.time >= limits.max_time
                or (limits.epochs is not None and self.epoch >= limits.epochs))

    # --------------------------------------------------------------------------------------- what Keras calls

    def on_train_begin(self, logs=None):
        self.progress.message("compiling")
        if not self.curve["epochs"]:
            self._append(0.0, None)
            with writing_to(self.results.parent):
                with suppress(ValueError, KeyError):        # no earlier run, damaged, or the published code's
                    if load_results(self.results)["provenance"]["state"] == "finished":
                        self.checkpoint.unlink(missing_ok=True)
                self._keep(self.results, self.checkpoint)
                write_parameters(self.parameters, self.sim_par)
            self._save()

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        elapsed = time.perf_counter() - self.epoch_began
        self._append(self.time + elapsed, logs)
        if self.state == "running" and self.stop_signal:
            self.state = "interrupted"
        if self.over() or self.stage_model is not self.model:
            self.model.stop_training = True
        elif self.time - self.saved_at > self.saving_took / SAVING_SHARE:
            self._save()
        self.progress.update(self.epoch, self.time, self.curve)

    def _append(self, seconds, logs):
        epoch = 0 if logs is None else self.epoch + 1
        quantities = {"epochs": epoch, "simulation_time": seconds, **self.evaluate(epoch, logs),
                      **{key: float((logs or {}).get(key, math.nan)) for key in self.logged}}
        for key in {**self.curve, **quantities}:
            self.curve.setdefault(key, []).append(quantities.get(key, math.nan))
        if not math.isfinite(quantities["train_loss"]):
            self.state = "diverged"

    def _thin(self):
        """Halves the curve's entries, where they are closest in time; raises ValueError if there are few."""
        entries = len(self.curve["epochs"])
        if entries < 6:
            raise ValueError(f"a curve of {entries} entries takes more than {curves.MAX_BYTES} bytes")
        kept = entries_to_keep(np.array(self.curve["simulation_time"]), np.isfinite(self.curve["test_loss"]),
                               entries // 2)
        self.curve = {key: [values[i] for i in kept] for key, values in self.curve.items()}

    # ---------------------------------------------------------------------------------------- files

    def _keep(self, *paths):
        """Gives files a dated name, and says so."""
        moved = [path.name for path in map(keep_earlier, paths) if path]
        if moved:
            self.progress.message(f"earlier results moved to {' and '.join(moved)}")

    def _save(self):
        """Writes the checkpoint, then the curve."""
        began = time.perf_counter()
        with writing_to(self.results.parent):
            while len(data := curves.pickled(self._content())) > curves.MAX_BYTES:
                self._thin()
            if self.state != "diverged" and not self.midway:            # else of no use
                content = io.BytesIO()
                np.savez(content, results=np.frombuffer(data, np.uint8),
                         **{f"state_{i}": v.numpy() for i, v in enumerate(_variables(self.stage_model))})
                write_atomically(self.checkpoint, content.getvalue())
            write_atomically(self.results, data)
        self.saved_at, self.saving_took = self.time, time.perf_counter() - began

    def _content(self):
        """What goes into the pickle."""
        curve = {key: np.array(values) for key, values in self.curve.items()}
        found = {**self.provenance, "peak_memory": peak_memory(), "state": self.state,
                 **{key: curve.pop(key)[1:] for key in self.logged}}
        if self.time >= self.stages[0][1]:                              # the end of pretraining
            found["switch_epoch"] = self.curve["epochs"][bisect_left(self.curve["simulation_time"],
                                                                     self.stages[0][1])]
        return {**curve, "epoch_time": np.diff(curve["simulation_time"]),
                **self.snapshot(), "sim_par": self.sim_par, "provenance": found}

    def resume(self):
        """Takes curve, weights and optimizer state from the checkpoint of an interrupted run.

        The pickle beside it gets a dated name if it holds another curve, as after a loss that was not finite.

        Raises:
            SettingsError: if the checkpoint is missing or damaged, or belongs to a run with other settings.
        """
        if not self.checkpoint.exists():
            raise SettingsError(f"there is no interrupted run to resume in {self.results.parent}: it takes "
                                f"{self.checkpoint.name}")
        try:
            with open(self.checkpoint, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                data = file["results"].tobytes()
                values = [file[key] for key in file.files if key.startswith("state_")]
            results = unpickled(data)
            spectrum = {key: [math.nan, *results["provenance"][key].tolist()] for key in self.logged}
        except Exception as error:                          # zipfile and numpy raise a dozen kinds
            raise SettingsError(f"cannot resume: {self.checkpoint} is damaged "
                                f"({' '.join(str(error).split())[:200] or type(error).__name__})") from None
        now, before = self.sim_par, results["sim_par"]
        if "load_weights" in before:                        # where it began is kept
            now.setdefault("load_weights", before["load_weights"])
        unequal = [f"{key} is {now.get(key)} but was {before.get(key)}" for key in {**before, **now}
                   if key not in ("max_time", "epochs") and now.get(key) != before.get(key)]
        if unequal:
            raise SettingsError(f"cannot resume with other settings: {', '.join(unequal)}")
        self.curve = {key: entries.tolist() for key, entries in results.items()
                      if np.ndim(entries) == 1 and key != "epoch_time"} | spectrum
        variables = _variables(self.stage_model)            # of the stage at the end of that curve
        if [v.shape for v in values] != [tuple(v.shape) for v in variables]:
            raise SettingsError(f"cannot resume: {self.checkpoint} holds weights of other shapes")
        for variable, value in zip(variables, values):
            variable.assign(value)
        if self.results.exists() and self.results.read_bytes() != data:
            self._keep(self.results)
        self.saved_at = self.time

    def close(self):
        """Writes the final state, and tells the user how the run ended and where the curve is."""
        if self.state == "running":
            self.state = "finished"
        self._save()
        self.progress.close()
        self.progress.message(f"{self.state} after {self.epoch} epochs and {self.time:.1f} s of training: "
                            f"train loss {self.curve['train_loss'][-1]:.4g}, test loss "
                            f"{last_known(self.curve['test_loss']):.4g}")
        self.progress.message(f"curve in {self.results}")
        if self.state == "interrupted":
            self.progress.message("continue with --resume")
        told = {"failed": f"stopped in epoch {self.epoch + 1}: {self.provenance.get('reason')}",
                "diverged": f"diverged: the loss is not finite after epoch {self.epoch} ({self.time:.1f} s "
                            "of training)"}.get(self.state)
        if told:
            say(f"{self.label} {told}; the curve up to there is in {self.results}")

    def give_up(self, error):
        """Ends the run after a second Ctrl-C or an error in an update; the epoch under way is lost.

        An error within a compiled step arrives as a TensorFlow error that names it in its text. The
        provenance keeps the sentence of a failure as "reason".

        Raises:
            KeyboardInterrupt: if the run had not begun.
            tensorflow.errors.OpError: the error itself, a bug, if it is neither LAPACK's nor about memory.
        """
        text = f"\n{type(error).__name__}: {error}"
        told = re.search(r"\n(?:LinAlgError|MemoryError): (.+)", text)
        if "\nKeyboardInterrupt: " in text and self.curve["epochs"]:
            self.state = "interrupted"
        elif told or isinstance(error, (tf.errors.ResourceExhaustedError, MemoryError)):
            self.state = "failed"
            self.provenance["reason"] = told[1] if told else "the memory does not suffice for an update"
        else:
            raise error
        self.midway = True


def entries_to_keep(times, measured, intervals):
    """Ascending indices (int) of a thinned curve: first, last, and the last measured entry of each interval.

    Args:
        times: (N,) float, ascending seconds.
        measured: (N,) bool, whether an entry has a test loss; an interval without such keeps its last entry.
        intervals: int, number of equal intervals from 0 to times[-1], which must be positive.
    """
    interval = times // (times[-1] / intervals)
    order = np.lexsort((measured, interval))                # stable: in an interval the measured ones last
    last = order[np.flatnonzero(np.diff(interval[order], append=np.inf))]
    return np.union1d([0, len(times) - 1], last)


def _variables(model):
    """All variables that a checkpoint holds."""
    return [*model.weights, *model.optimizer.variables]


@contextmanager
def _stop_on_signals(run):
    """Ctrl-C and SIGTERM end the run after this epoch; a second Ctrl-C interrupts Python at once."""
    def stop(number, frame):
        run.stop_signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run.progress.message("stopping after this epoch"
                             + "; Ctrl-C again stops at once" * (number == signal.SIGINT))

    handled = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    earlier = {number: signal.signal(number, stop) for number in handled}  # only the main thread may set them
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
