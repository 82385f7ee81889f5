"""What a run survives: kills at random moments, damaged files, full disks; and what its checkpoints cost.

    python benchmarks/faults.py                       everything, 10 to 20 minutes
    python benchmarks/faults.py kills --kills 200     one part: kills, truncations, mutations, disks or cost

Each part prints one line per subject and ends the program with an error at the first fault not survived. The short
versions of these trials are in tests/test_faults.py.
"""

import argparse
import itertools
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from hig.runs.cli import parse, silent_start, standard_streams
from hig.runs.results import load_results

ROOT = Path(__file__).resolve().parents[1]
RUNS = {                                                # script → flags of a run that trains for some seconds
    "Nonlinear_Oscillators/submit_Adam.py": ["--epochs", "300"],
    "Nonlinear_Oscillators/submit_GN.py": ["--epochs", "6"],
    "Nonlinear_Oscillators/submit_HIG.py": ["--epochs", "6"],
    "Schroedinger/submit_Adam.py": ["--epochs", "12"],
    "Schroedinger/submit_GN.py": ["--epochs", "3"],
    "Schroedinger/submit_HIG.py": ["--epochs", "3"],
    "Poisson/submit_Adam.py": ["--epochs", "200"],
    "Poisson/submit_GN.py": ["--epochs", "60", "--batch-size", "8"],
    "Poisson/submit_HIG.py": ["--epochs", "60", "--batch-size", "8"],
    "Toy_Problem/submit_Adam.py": ["--epochs", "300", "--lambda", "0.01"],
    "Toy_Problem/submit_GN.py": ["--epochs", "300", "--lambda", "0.01"],
    "Toy_Problem/submit_HIG.py": ["--epochs", "300", "--lambda", "0.01"],
    "Linear_Chain/submit_Adam.py": ["--epochs", "300"],
    "Linear_Chain/submit_SIP.py": ["--epochs", "300"],
    "Linear_Chain/submit_HIG.py": ["--epochs", "30"],
}


def start(script, folder, flags, resume=False):
    """A run as a process."""
    command = [sys.executable, ROOT / script, "--output", folder, "--quiet", *flags, *["--resume"] * resume]
    return subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def require(condition, sentence):
    """Ends the program with the sentence unless the condition holds."""
    if not condition:
        sys.exit(f"NOT SURVIVED: {sentence}")


def check_prefix(curve, whole, keys, what):
    """Each of these arrays of `curve` must begin as in `whole`, or the other way round, bit for bit."""
    for key in keys:
        common = min(len(curve[key]), len(whole[key]))
        require(np.array_equal(curve[key][:common], whole[key][:common], equal_nan=True), f"{what}: {key} differs")


def kills(wanted, source):
    """kill -9 after a random time, resume, and again: every curve on the way must begin like the uninterrupted one."""
    losses = ("epochs", "train_loss", "test_loss")
    total = 0
    for number, (script, flags) in enumerate(RUNS.items()):
        share = wanted // len(RUNS) + (number < wanted % len(RUNS))
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            began = time.perf_counter()
            process = start(script, folder / "whole", flags)
            require(process.wait() == 0, f"{script}: {process.stderr.read()}")
            duration = time.perf_counter() - began
            file = next((folder / "whole").glob("*_RESULTS.pickle"))
            folders = (folder / str(i) for i in itertools.count())
            whole, interrupted = load_results(file), next(folders) / file.name
            count, resumed, seen = 0, 0, None
            while True:
                can_resume = bool(list(interrupted.parent.glob("*_CHECKPOINT.npz"))) and interrupted.exists()
                process = start(script, interrupted.parent, flags, can_resume)
                resumed += can_resume
                try:
                    process.wait(source.uniform(0.2, 1) * duration if count < share else None)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    count += 1
                else:
                    require(process.returncode == 0, f"{script} resumed: {process.stderr.read()}")
                    curve = load_results(interrupted)
                    require(len(curve["epochs"]) == len(whole["epochs"]), f"{script}: a curve of another length")
                    require(not list(interrupted.parent.glob(".*")), f"{script}: left hidden files")
                if interrupted.exists():                                # complete, and nothing seen before is lost
                    curve = load_results(interrupted)
                    check_prefix(curve, whole, losses, script)
                    if seen is not None:
                        check_prefix(curve, seen, (*losses, "simulation_time"), f"{script}, resumed")
                        require(len(curve["epochs"]) >= len(seen["epochs"]), f"{script}: resumed and shorter")
                    seen = curve
                if process.returncode == 0:
                    if count == share:
                        break
                    interrupted, seen = next(folders) / file.name, None    # finished before its kill: again
            total += count
            print(f"{script:40} {count:3} kills, {resumed:3} resumed, the same {len(whole['epochs'])} losses bit for bit",
                  flush=True)
    print(f"{total} kills survived")


def interrupted_run(folder):
    """A finished oscillator run in `folder`, and a TrainingRun that may resume it."""
    with silent_start():
        from hig.runs.experiments import make_optimizer
        from hig.runs.training import TrainingRun
        from Nonlinear_Oscillators import experiment
    arguments = dict(seed=1, batch_size=512, learning_rate=3e-4, truncation=None, max_time=60.0)
    settings = parse("Nonlinear_Oscillators", "Adam", None, **arguments,
                     arguments=["--epochs", "20", "--quiet", "--output", str(folder)])
    require(experiment.run(settings) == "finished", "a run of 20 epochs")
    model = experiment.build_model(5)                                   # other weights than those saved
    model.compile(optimizer=make_optimizer(settings), loss=experiment.loss)
    model.optimizer.build(model.trainable_variables)
    file = folder / "NLO_Adam_RESULTS.pickle"
    sim_par = load_results(file)["sim_par"]
    run = TrainingRun(folder / "NLO_Adam", None, None, settings, sim_par, 8, [(model, np.inf)])
    return run, [*model.network.variables, *model.optimizer.variables]


class Damage:
    """Tries damaged contents of the files of one run.

    Attributes:
        slowest: seconds of the slowest attempt to resume.
    """

    def __init__(self, folder):
        self.run, self.variables = interrupted_run(folder)
        self.untouched = [v.numpy() for v in self.variables]
        self.run.resume()
        self.saved = [v.numpy() for v in self.variables]
        self.curve = {key: np.array(values) for key, values in self.run.curve.items()}
        self.slowest = 0.0

    def survived(self, path, content):
        """Whether resuming refused this content of the file with a sentence; otherwise all must be as it was saved."""
        from hig.runs.training import SettingsError
        whole = path.read_bytes()
        for variable, value in zip(self.variables, self.untouched):
            variable.assign(value)
        path.write_bytes(content)
        began = time.perf_counter()
        try:
            self.run.resume()
            refused = False
        except SettingsError as error:
            refused = True
            require("\n" not in str(error), f"several lines: {error}")
        self.slowest = max(self.slowest, time.perf_counter() - began)
        path.write_bytes(whole)
        expected = self.untouched if refused else self.saved
        require(all(np.array_equal(v.numpy(), value) for v, value in zip(self.variables, expected)),
                f"{path.name} was damaged, and the weights are wrong")
        return refused


def truncations(every):
    """The checkpoint and the curve cut off at every `every`-th byte: resuming must refuse with a sentence."""
    with tempfile.TemporaryDirectory() as folder:
        damage = Damage(Path(folder))
        for path in (damage.run.checkpoint, damage.run.results):
            content = path.read_bytes()
            lengths = range(0, len(content), every)
            for length in lengths:
                require(damage.survived(path, content[:length]), f"{path.name} of {length} bytes was taken for whole")
            print(f"{path.name:40} {len(lengths):5} truncations of {len(content)} bytes, all refused", flush=True)


def mutate(content, source):
    """One to five changes: bytes and bits altered, cut out, repeated."""
    content = bytearray(content)
    for _ in range(source.choice((1, 1, 2, 5))):
        # half of them at the ends, where the formats keep what is not numbers
        i = source.randrange(len(content)) if source.random() < 0.5 else source.choice((1, -1)) * source.randrange(
            min(2000, len(content)))
        i %= len(content)
        change = source.randrange(4)
        if change == 0:
            content[i] = source.randrange(256)
        elif change == 1:
            content[i] ^= 1 << source.randrange(8)
        elif change == 2:
            del content[i:i + source.choice((1, 4, 40))]
        else:
            content[i:i] = content[i:i + 40]
        content = content or bytearray(b"\0")
    return bytes(content)


def mutations(wanted, source):
    """Damaged at random: refused with a sentence, or the damage is of no consequence (a time stamp in the archive)."""
    with tempfile.TemporaryDirectory() as folder:
        damage = Damage(Path(folder))
        for path in (damage.run.checkpoint, damage.run.results):
            content = path.read_bytes()
            damage.slowest = 0.0
            refused = sum(damage.survived(path, mutate(content, source)) for _ in range(wanted))
            print(f"{path.name:40} {wanted:6} mutations, {refused} refused, the others without consequence for the run; "
                  f"slowest {1e3 * damage.slowest:.0f} ms", flush=True)


def disks():
    """A run into a file system of some hundred kB: it must end with exit code 2, one sentence, and no half file."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        print("no file system can be mounted here (unshare): skipped")
        return
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        process = start("Nonlinear_Oscillators/submit_Adam.py", folder / "whole", ["--epochs", "20"])
        require(process.wait() == 0, process.stderr.read())
        whole = load_results(folder / "whole" / "NLO_Adam_RESULTS.pickle")
        checkpoint = (folder / "whole" / "NLO_Adam_CHECKPOINT.npz").stat().st_size
        for number, size in enumerate((8192, checkpoint // 2, checkpoint + 16384, checkpoint * 3 // 2)):
            disk, copy = folder / f"disk{number}", folder / f"copy{number}"
            disk.mkdir()
            script = f"mount -t tmpfs -o size={size} none {disk} && {sys.executable} " \
                     f"{ROOT}/Nonlinear_Oscillators/submit_Adam.py --epochs 100000 --quiet --output {disk}; code=$?; " \
                     f"cp -r {disk} {copy}; exit $code"
            process = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True)
            require(process.returncode == 2 and len(process.stderr.splitlines()) == 1 and "No space" in process.stderr,
                    f"{process.returncode}: {process.stderr}")
            for file in copy.iterdir():
                require(not file.name.startswith("."), f"left {file.name}")
                if file.suffix == ".pickle":
                    check_prefix(load_results(file), whole, ("epochs", "train_loss", "test_loss"), "full disk")
                elif file.suffix == ".npz":
                    np.load(file)["curve_epochs"]
            print(f"disk of {size:8} bytes: exit code 2, left whole: {', '.join(sorted(p.name for p in copy.iterdir())) or 'nothing'}",
                  flush=True)


def cost(seconds):
    """Seconds spent in writing, as a share of the training time, with the published settings."""
    with silent_start():
        from hig.runs import training
        from Nonlinear_Oscillators import experiment
    save, spent = training.TrainingRun._save, []

    def timed(run):
        began = time.perf_counter()
        save(run)
        spent.append(time.perf_counter() - began)
    training.TrainingRun._save = timed
    for name, batch_size, rate, truncation in (("Adam", 512, 3e-4, None), ("HIG", 128, 1.0, 1e-6)):
        with tempfile.TemporaryDirectory() as folder:
            spent.clear()
            experiment.run(parse("Nonlinear_Oscillators", name, None, seed=1, batch_size=batch_size, learning_rate=rate,
                                 truncation=truncation, max_time=seconds, arguments=["--quiet", "--output", folder]))
            curve = load_results(next(Path(folder).glob("*.pickle")))
        share = sum(spent) / curve["simulation_time"][-1]
        print(f"oscillators, {name:5} {len(spent):4} times written in {len(curve['epochs']) - 1:5} epochs, "
              f"{100 * share:.2f} % of {curve['simulation_time'][-1]:.0f} s of training")


def main():
    """Runs the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("kills", "truncations", "mutations", "disks", "cost")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(parts)}; all by default")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--every", type=int, default=100, metavar="BYTES", help="between two truncations")
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30.0, help="of training, to measure the cost of checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(parts):
        parser.error(f"there is no part {', '.join(unknown)}")
    source = random.Random(options.seed)
    trials = {"truncations": lambda: truncations(options.every), "mutations": lambda: mutations(options.mutations, source),
              "disks": disks, "cost": lambda: cost(options.seconds), "kills": lambda: kills(options.kills, source)}
    for part in options.parts or parts:
        print(f"--- {part}", flush=True)
        trials[part]()


if __name__ == "__main__":
    standard_streams()
    main()
