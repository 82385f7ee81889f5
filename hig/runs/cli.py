"""The command line that every submit script shares, and its exit codes.

    0    finished, or checkpointed after SIGTERM
    2    bad input, or results that cannot be written: one sentence on stderr, earlier results intact
    3    diverged: the loss became inf or NaN; the curve is kept
    4    failed: LAPACK did not converge, or memory did not suffice, in an update; the curve is kept
    130  interrupted by Ctrl-C; the curve is kept
"""

import argparse
import importlib
import io
import math
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

EXIT_CODES = {"finished": 0, "terminated": 0, "diverged": 3, "failed": 4, "interrupted": 130}


class SettingsError(ValueError):
    """The settings of a run do not fit the experiment or the files found; the message is one sentence for the user."""


def submit(system, optimizer, description, *, seed, batch_size, learning_rate, truncation=None, damping=None, memory=None,
           max_time, flags=None):
    """Parses the command line, trains, and exits the process.

    Args:
        system: folder of the physical system; its `experiment.run(settings)` does the training.
        optimizer: a name that `hig.runs.experiments.make_optimizer` knows; it names the result files too.
        description: text of --help, the script's docstring.
        seed, batch_size, learning_rate (η), truncation (τ), damping (μ), memory (of L-BFGS), max_time (seconds of training):
            the settings, which the flags of the same names replace; None for what an optimizer does not have.
        flags: function of the argparse parser that adds what only this system has.
    """
    standard_streams()
    settings = parse(system, optimizer, description, seed=seed, batch_size=batch_size, learning_rate=learning_rate,
                     truncation=truncation, damping=damping, memory=memory, max_time=max_time, flags=flags)
    try:
        experiment = load(f"{system}.experiment")                    # TensorFlow loads only now, after the checks
        try:
            state = experiment.run(settings)
        except (SettingsError, OSError) as error:
            fail(str(error))
    except KeyboardInterrupt:                                        # the second Ctrl-C, or one before training
        print(f"{optimizer}: interrupted; --resume continues after the last epoch saved, if any", file=sys.stderr)
        sys.exit(EXIT_CODES["interrupted"])
    sys.exit(EXIT_CODES[state])


EXTRAS = {"phi": "poisson", "phiml": "poisson", "dash": "live", "submitit": "cluster"}      # module: which extra of hig installs it


def load_keras():
    """Keras on TensorFlow; where it is not to be had, the process ends with a sentence."""
    try:
        with silent_start():
            from hig.backend import keras
    except ImportError as error:
        fail(str(error))
    return keras


def load(module):
    """A module of a system that needs TensorFlow, by its name; what it lacks ends the process with a sentence."""
    keras = load_keras()
    if keras.config.floatx() != "float32":
        fail(f"the experiments compute in float32, but Keras' default is {keras.config.floatx()}: "
             'set "floatx" to "float32" in ~/.keras/keras.json')
    try:
        with silent_start():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS:
            raise
        fail(f"the package {package} is not installed: pip install 'hig[{EXTRAS[package]}]'")


@contextmanager
def silent_start():
    """Holds back what TensorFlow's C++ logs while it is imported (a dozen lines, no way to switch them off).

    If the import fails, they are shown. A log level set by the user is respected; 3, errors only, is ours, which
    processes started from here inherit.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3") != "3":
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"                          # for what comes after the import
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except BaseException:
            held_back.seek(0)
            os.write(stderr, held_back.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def standard_streams():
    """Makes standard output and error fit to print to, whatever the caller made of them; a program calls it first.

    One that is closed (`2>&-`) leads nowhere, instead of into the first file that is opened; characters that its encoding
    has not are printed as "?"; what nobody reads any more (`| head`) is dropped, and the program goes on.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)                            # takes the lowest number that is free: this one
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):                     # and not the work of a test or a notebook
            binary = io.BufferedWriter(_Stream(number, "w", closefd=False))
            encoding = stream.encoding if stream else "utf-8"
            setattr(sys, name, io.TextIOWrapper(binary, encoding, errors="replace", line_buffering=True))


class _Stream(io.FileIO):
    """Standard output or error that drops what cannot be written; results on a full disk end the program, a log does not."""

    lost = False

    def write(self, data):
        if not self.lost:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = True
                if self.fileno() == 1 and not isinstance(error, BrokenPipeError):
                    fail(f"cannot write to the standard output: {error.strerror}")
        return len(data)


def fail(sentence):
    """Ends the process for bad input: the sentence on stderr, exit code 2."""
    print(f"{Path(sys.argv[0]).name}: error: {sentence}", file=sys.stderr)
    sys.exit(2)


def make_parser(description):
    """An argparse parser that shows the description as it is and answers bad flags with one sentence, exit code 2."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.error = lambda message: fail(f"{message} (--help lists the flags)")
    return parser


def parse(system, optimizer, description, *, seed, batch_size, learning_rate, truncation=None, damping=None, memory=None,
          max_time, flags=None, arguments=None):
    """The settings of a run as an argparse.Namespace; arguments as in `submit`, and the command line as a list.

    Bad input ends the process with exit code 2; then nothing has been written.
    """
    parser = make_parser(description)
    add = parser.add_argument
    add("--max-time", type=positive, default=max_time, metavar="SECONDS",
        help=f"seconds of training, compiling included and evaluation excluded (default: {max_time:g})")
    add("--epochs", type=positive_integer, metavar="N", help="stop after N epochs if that is sooner")
    add("--evaluate-every", type=positive_integer, default=1, metavar="N",
        help="measure the test loss only every N epochs, where that takes long (default: %(default)s); the training loss is "
             "then the mean over the epoch's batches, each before its update")
    add("--seed", type=_seed, default=seed, help=f"of data and initial weights (default: {seed})")
    if batch_size is not None:
        add("--batch-size", type=positive_integer, default=batch_size, metavar="B", help=f"default: {batch_size}")
    if learning_rate is not None:
        add("--learning-rate", type=positive, default=learning_rate, metavar="η", help=f"default: {learning_rate:g}")
    if truncation is not None:
        add("--truncation", type=_truncation, default=truncation, metavar="τ",
            help=f"singular values up to τ times the largest are dropped (default: {truncation:g})")
    if damping is not None:
        add("--damping", type=positive, default=damping, metavar="μ",
            help=f"damping to start from, in units of the mean eigenvalue of J Jᵀ (default: {damping:g})")
    if memory is not None:
        add("--memory", type=positive_integer, default=memory, metavar="M",
            help=f"pairs of steps and gradients that it remembers (default: {memory})")
    add("--output", type=Path, metavar="DIR", help=f"folder of the results (default: {system})")
    add("--resume", action="store_true", help="continue the interrupted run in that folder")
    add("--load-weights", type=_weights_file, metavar="FILE", help="start from these weights (*.weights.h5)")
    add("--save-weights", type=_weights_file, metavar="FILE", help="write the network's weights there (*.weights.h5)")
    add("--quiet", action="store_true", help="print nothing but errors")
    if flags is not None:
        flags(parser)
    settings = parser.parse_args(arguments)
    settings.optimizer = optimizer
    for name in ("batch_size", "learning_rate", "truncation", "damping", "memory", "hidden"):
        setattr(settings, name, getattr(settings, name, None))
    settings.output = settings.output or default_output(system)
    if settings.load_weights and not settings.load_weights.is_file():
        fail(f"there is no file {settings.load_weights} to load the weights from")
    try:
        check_writable(settings.output)
        if settings.save_weights:
            check_writable(settings.save_weights.parent)
    except SettingsError as error:
        fail(str(error))
    return settings


def default_output(system):
    """Folder of the results if the user names none: the system's in this checkout; in the working directory where hig
    is installed without its source."""
    root = Path(__file__).resolve().parents[2]
    return (root if (root / "pyproject.toml").is_file() else Path.cwd()) / system


def check_writable(folder):
    """Makes the folder (Path) if it is missing, and tries to write there.

    Raises:
        SettingsError: if that fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise SettingsError(f"cannot write to the folder {folder}: {error.strerror}") from None


@contextmanager
def writing_to(folder):
    """Makes one sentence of what goes wrong in writing to a folder: no space, no permission, a curve too long.

    Raises:
        OSError: with that sentence.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"cannot write to the folder {folder}: {reason}; what was saved before is intact") from error


def positive(text):
    """A positive finite float from the command line."""
    value = _number(float, text, "a number")
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is not positive and finite")
    return value


def _truncation(text):
    value = positive(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text} is not below 1: nothing would be left")
    return value


def positive_integer(text):
    """A positive int from the command line."""
    value = _number(int, text, "a whole number")
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def hidden_flag(parser, default):
    """Adds --hidden to an argparse parser; settings.hidden stays None without it, for networks of the published widths."""
    parser.add_argument("--hidden", type=_widths, metavar="WIDTHS",
                        help=f"neurons of the hidden layers (default: {','.join(map(str, default))})")


def _widths(text):
    return tuple(positive_integer(part) for part in text.split(","))


def _seed(text):
    value = _number(int, text, "a whole number")
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 4294967295")
    return value


def _weights_file(text):
    if not text.endswith(".weights.h5"):
        raise argparse.ArgumentTypeError(f"{text} does not end in .weights.h5, which Keras asks for")
    return Path(text)


def _number(kind, text, wanted):
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from None
