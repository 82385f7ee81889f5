"""The command line that every submit script shares, and its exit codes.

    0    finished, or checkpointed after SIGTERM
    2    bad input, or results that cannot be written: one sentence on stderr, earlier results intact
    3    diverged: the loss became inf or NaN; the curve is kept
    4    failed: LAPACK did not converge, or memory did not suffice, in an update; the curve is kept
    130  interrupted by Ctrl-C; the curve is kept
"""

import argparse
import importlib
import math
import os
import sys
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

EXIT_CODES = {"finished": 0, "terminated": 0, "diverged": 3, "failed": 4, "interrupted": 130}


class SettingsError(ValueError):
    """The settings of a run do not fit the experiment or the files found; the message is one sentence."""


def number(kind, allowed, wanted):
    """A type for argparse: function of a text → the number in it, made by `kind` (int or float).

    If the text is no number, or `allowed` returns False for it, the user is told what is `wanted`, in words.
    """
    def read(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan                                            # never allowed
        if not allowed(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value
    return read


def weights_file(text):
    """The Path in `text`, for argparse."""
    if not text.endswith(".weights.h5"):
        raise argparse.ArgumentTypeError(f"{text} does not end in .weights.h5, which Keras asks for")
    return Path(text)


positive = number(float, lambda x: 0 < x < math.inf, "a positive finite number")
positive_integer = number(int, lambda n: n >= 1, "a positive whole number")
truncation = number(float, lambda x: 0 <= x < 1, "a number in [0, 1)")
seed = number(int, lambda n: 0 <= n < 2**32, "a whole number in [0, 2^32)")
FLAGS = {   # type, symbol and meaning; from "batch_size" on, a script has only the flags that it states
    "max_time": (positive, "SECONDS", "seconds of training, compiling included and evaluation excluded"),
    "epochs": (positive_integer, "N", "stop after N epochs if that is sooner"),
    "evaluate_every": (positive_integer, "N", "measure the test loss only every N epochs if it takes long; "
                       "the training loss is then the mean over the epoch's batches, each before its update"),
    "seed": (seed, "SEED", "of data and initial weights"),
    "output": (Path, "DIR", "folder of the results"),
    "load_weights": (weights_file, "FILE", "start from these weights (*.weights.h5)"),
    "save_weights": (weights_file, "FILE", "write the network's weights there (*.weights.h5)"),
    "batch_size": (positive_integer, "B", "number of samples in an update"),
    "learning_rate": (positive, "η", "size of the steps"),
    "truncation": (truncation, "τ", "drop singular values up to τ times the largest"),
    "damping": (positive, "μ", "damping to start from, in units of the mean eigenvalue of J Jᵀ"),
    "krylov": (positive_integer, "K", "number of products with J in an update"),
    "memory": (positive_integer, "M", "steps, each with its change of the gradient, that L-BFGS remembers"),
}


def submit(system, optimizer, description, **settings):
    """Parses the command line, trains, and exits the process; arguments as in `parse`. Warnings are sentences
    on stderr, without the place in the code.
    """
    settings = parse(system, optimizer, description, **settings)
    earlier = warnings.formatwarning
    warnings.formatwarning = lambda text, *_: f"{optimizer}: warning: {text}\n"
    try:
        check_writable(settings.output)
        if settings.save_weights:
            check_writable(settings.save_weights.parent)
        experiment = load(f"{system}.experiment")                       # TensorFlow loads after the checks
        state = experiment.run(settings)
    except (SettingsError, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:                                       # a second Ctrl-C, or one before training
        print(f"{optimizer}: interrupted; --resume continues after the last epoch saved, if any",
              file=sys.stderr)
        state = "interrupted"
    finally:
        warnings.formatwarning = earlier                                # of a notebook
    sys.exit(EXIT_CODES[state])


def parse(system, optimizer, description, *, flags=None, arguments=None, **settings):
    """The settings of a run as an argparse.Namespace; bad input ends the process.

    Args:
        system: folder of the physical system; its `experiment.run(settings)` does the training.
        optimizer: a name that `hig.runs.experiments.make_optimizer` knows; it names the result files too.
        description: text of --help, the script's docstring.
        flags: function of the argparse parser that adds what only this system has.
        arguments: the command line as a list; that of the process if None.
        **settings: defaults of FLAGS: seed, max_time, and those that the optimizer has; None is the same as
            left out.

    Raises:
        TypeError: a setting is not in FLAGS.
    """
    if unknown := set(settings) - set(FLAGS):
        raise TypeError(f"there is no setting {', '.join(unknown)}; there are {', '.join(FLAGS)}")
    parser = make_parser(description)
    parser.set_defaults(**dict.fromkeys(FLAGS), optimizer=optimizer, hidden=None)
    defaults = {"epochs": None, "evaluate_every": 1, "output": default_output(system), "load_weights": None,
                "save_weights": None, **{key: value for key, value in settings.items() if value is not None}}
    for name, (kind, symbol, text) in FLAGS.items():
        if name in defaults:
            default = defaults[name]
            parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=symbol, default=default,
                                help=text if default is None else f"{text} (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="continue the interrupted run in that folder")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    if flags is not None:
        flags(parser)
    options = parser.parse_args(arguments)
    if options.load_weights and not options.load_weights.is_file():
        fail(f"there is no file {options.load_weights} to load the weights from")
    return options


def load_keras():
    """Keras on TensorFlow; without it the process ends with a sentence."""
    try:
        with silent_start():
            from hig.backend import keras, share_gpus
            share_gpus()
    except ImportError as error:
        fail(str(error))
    return keras


def load(module):
    """Imports a module that needs TensorFlow; if a package is missing, the process ends with a sentence."""
    keras = load_keras()
    if keras.config.floatx() != "float32":
        fail(f"the experiments compute in float32, but Keras' default is {keras.config.floatx()}: "
             'set "floatx" to "float32" in ~/.keras/keras.json')
    try:
        with silent_start():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in ("phi", "phiml"):
            raise
        fail(f"the package {package} is not installed: pip install 'hig[poisson]'")


@contextmanager
def silent_start():
    """Drops the log of TensorFlow's C++ code during an import; a dozen of its lines cannot be switched off.

    A log level that the user has set is kept: TF_CPP_MIN_LOG_LEVEL=0 shows everything. Otherwise the level
    becomes 3, errors only, also in processes that are started from here.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") != "3":
        yield
        return
    stderr = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def fail(sentence):
    """Ends the process for bad input: the sentence on stderr, exit code 2."""
    print(f"{Path(sys.argv[0]).name}: error: {sentence}", file=sys.stderr)
    sys.exit(2)


def make_parser(description):
    """An argparse parser that shows the description as it is, and calls `fail` for bad flags.

    From then on standard output and error show "?" for characters that their encoding lacks, such as η.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):                              # not where a notebook has replaced it
            stream.reconfigure(errors="replace")
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda message: fail(f"{message} (--help lists the flags)")
    return parser


def default_output(system):
    """Folder of a system's results: in this checkout, or in the current folder if hig is installed."""
    root = Path(__file__).resolve().parents[2]
    return (root if (root / "pyproject.toml").is_file() else Path.cwd()) / system


def check_writable(folder):
    """Makes the folder (Path) if it is missing, and tries to write there; raises as `writing_to`."""
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


@contextmanager
def writing_to(folder):
    """Raises OSError with one sentence if writing to a folder fails: no space, no permission."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"cannot write to the folder {folder}: {reason}; what was saved before is "
                      "intact") from error


def hidden_flag(parser, default):
    """Adds --hidden to an argparse parser; without it settings.hidden is None, for the published widths."""
    parser.add_argument("--hidden", metavar="WIDTHS",
                        type=lambda text: tuple(map(positive_integer, text.split(","))),
                        help=f"neurons of the hidden layers (default: {','.join(map(str, default))})")
