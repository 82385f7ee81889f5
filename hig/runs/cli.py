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
from contextlib import contextmanager
from pathlib import Path

EXIT_CODES = {"finished": 0, "terminated": 0, "diverged": 3, "failed": 4, "interrupted": 130}


class SettingsError(ValueError):
    """The settings of a run do not fit the experiment or the files found; the message is one sentence for the
    user."""


def submit(system, optimizer, description, **settings):
    """Parses the command line, trains, and exits the process; arguments as `parse`."""
    standard_streams()
    settings = parse(system, optimizer, description, **settings)
    try:
        experiment = load(f"{system}.experiment")  # TensorFlow loads only now, after the checks
        try:
            state = experiment.run(settings)
        except (SettingsError, OSError) as error:
            fail(str(error))
    except KeyboardInterrupt:  # the second Ctrl-C, or one before training
        print(f"{optimizer}: interrupted; --resume continues after the last epoch saved, if any",
              file=sys.stderr)
        sys.exit(EXIT_CODES["interrupted"])
    sys.exit(EXIT_CODES[state])


def parse(system, optimizer, description, *, seed, max_time, flags=None, arguments=None, **settings):
    """The settings of a run as an argparse.Namespace; bad input ends the process with exit code 2 before
    anything is written.

    Args:
        system: folder of the physical system; its `experiment.run(settings)` does the training.
        optimizer: a name that `hig.runs.experiments.make_optimizer` knows; it names the result files too.
        description: text of --help, the script's docstring.
        seed, max_time: int and seconds of training, which the flags of the same names replace.
        flags: function of the argparse parser that adds what only this system has.
        arguments: the command line as a list; that of the process if None.
        **settings: those of SETTINGS that the optimizer has, again the defaults of flags; None is the same as
        left out.

    Raises:
        TypeError: a setting is not in SETTINGS.
    """
    if unknown := set(settings) - set(SETTINGS):
        raise TypeError(f"there is no setting {', '.join(unknown)}; there are {', '.join(SETTINGS)}")
    parser = make_parser(description)
    add = parser.add_argument
    add("--max-time", type=positive, default=max_time, metavar="SECONDS",
        help=f"seconds of training, compiling included and evaluation excluded (default: {max_time:g})")
    add("--epochs", type=positive_integer, metavar="N", help="stop after N epochs if that is sooner")
    add("--evaluate-every", type=positive_integer, default=1, metavar="N",
        help="measure the test loss only every N epochs, where that takes long (default: %(default)s); the "
             "training loss is then the mean over the epoch's batches, each before its update")
    add("--seed", type=_seed, default=seed, help=f"of data and initial weights (default: {seed})")
    for name, (kind, symbol, text) in SETTINGS.items():
        if settings.get(name) is not None:
            add(f"--{name.replace('_', '-')}", type=kind, default=settings[name], metavar=symbol,
                help=f"{text} (default: {settings[name]:g})")
    add("--output", type=Path, metavar="DIR", help=f"folder of the results (default: {system})")
    add("--resume", action="store_true", help="continue the interrupted run in that folder")
    add("--load-weights", type=_weights_file, metavar="FILE", help="start from these weights (*.weights.h5)")
    add("--save-weights", type=_weights_file, metavar="FILE",
        help="write the network's weights there (*.weights.h5)")
    add("--quiet", action="store_true", help="print nothing but errors")
    if flags is not None:
        flags(parser)
    options = parser.parse_args(arguments)
    options.optimizer = optimizer
    for name in (*SETTINGS, "hidden"):
        setattr(options, name, getattr(options, name, None))
    options.output = options.output or default_output(system)
    if options.load_weights and not options.load_weights.is_file():
        fail(f"there is no file {options.load_weights} to load the weights from")
    try:
        check_writable(options.output)
        if options.save_weights:
            check_writable(options.save_weights.parent)
    except SettingsError as error:
        fail(str(error))
    return options


# module: which extra of hig installs it
EXTRAS = {"phi": "poisson", "phiml": "poisson", "dash": "live", "submitit": "cluster"}


def load_keras():
    """Keras on TensorFlow; where it is not to be had, the process ends with a sentence."""
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        if not (os.environ.get(name) or "0").isdecimal():
            fail(f"the environment variable {name} is {os.environ[name]!r}, not a whole number of threads")
    try:
        with silent_start():
            from hig.backend import keras, share_gpus
            share_gpus()
    except ImportError as error:
        fail(str(error))
    return keras


def load(module):
    """A module of a system that needs TensorFlow, by its name; what it lacks ends the process with a
    sentence."""
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

    If the import fails, they are shown. A log level set by the user is respected; 3, errors only, is ours,
    which processes started from here inherit.
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
    """Has characters that the encoding of standard output and error lacks, η for instance, printed as "?"."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):                            # not where a notebook has replaced it
            stream.reconfigure(errors="replace")


def fail(sentence):
    """Ends the process for bad input: the sentence on stderr, exit code 2."""
    print(f"{Path(sys.argv[0]).name}: error: {sentence}", file=sys.stderr)
    sys.exit(2)


def make_parser(description):
    """An argparse parser that shows the description as it is and answers bad flags with one sentence, exit
    code 2."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda message: fail(f"{message} (--help lists the flags)")
    return parser


def default_output(system):
    """Folder of the results if the user names none: the system's in this checkout; in the working directory
    where hig is installed without its source."""
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
    """Makes one sentence of what goes wrong in writing to a folder: no space, no permission, a curve too
    long.

    Raises:
        OSError: with that sentence.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"cannot write to the folder {folder}: {reason}; "
                      "what was saved before is intact") from error


def number(text, kind, allowed, wanted):
    """A number from the command line, for argparse.

    Args:
        text: str.
        kind: int or float.
        allowed: function of the number → bool.
        wanted: what is allowed, in words.

    Raises:
        argparse.ArgumentTypeError: it is none, or not allowed.
    """
    try:
        value = kind(text)
    except ValueError:
        value = math.nan                                                # which is never allowed
    if not allowed(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return value


def positive(text):
    """A positive finite float from the command line."""
    return number(text, float, lambda value: 0 < value < math.inf, "a positive finite number")


def positive_integer(text):
    """A positive int from the command line."""
    return number(text, int, lambda value: value >= 1, "a positive whole number")


def _truncation(text):
    return number(text, float, lambda value: 0 <= value < 1, "a number in [0, 1)")


def _seed(text):
    return number(text, int, lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295")


def _weights_file(text):
    if not text.endswith(".weights.h5"):
        raise argparse.ArgumentTypeError(f"{text} does not end in .weights.h5, which Keras asks for")
    return Path(text)


def hidden_flag(parser, default):
    """Adds --hidden to an argparse parser; settings.hidden stays None without it, for networks of the
    published widths."""
    parser.add_argument("--hidden", metavar="WIDTHS",
                        type=lambda text: tuple(map(positive_integer, text.split(","))),
                        help=f"neurons of the hidden layers (default: {','.join(map(str, default))})")


SETTINGS = {    # of an optimizer: type, symbol and meaning of the flag
    "batch_size": (positive_integer, "B", "samples of each update"),
    "learning_rate": (positive, "η", "size of the steps"),
    "truncation": (_truncation, "τ", "singular values up to τ times the largest are dropped"),
    "damping": (positive, "μ", "damping to start from, in units of the mean eigenvalue of J Jᵀ"),
    "krylov": (positive_integer, "K", "products with J and with Jᵀ of each update"),
    "memory": (positive_integer, "M", "pairs of steps and gradients that it remembers"),
}
