"""An update of Levenberg-Marquardt on the oscillators, here and by the package tf-levenberg-marquardt.

    python benchmarks/levenberg_marquardt.py            about two minutes on an idle machine

The package is installed into a virtual environment in a temporary folder; its dependencies are those of our
environment. Both train the same network in one process from the same start, with batches of 128 (n = 512
rows), and take their updates in turn. Ours has the settings of submit_LM.py, theirs its defaults.
"""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from hig.runs.cli import silent_start
from timing import in_turn, seconds

PACKAGE = "tf-levenberg-marquardt==1.0.3"
BATCH = 128
ROUNDS = 9


def main():
    """Installs the package, and measures in a process of that environment."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
                        PACKAGE], check=True, stderr=subprocess.DEVNULL)
        subprocess.run([python, __file__, "--measure"], check=True,
                       env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})


def measure():
    """Prints the times of one update, and their ratio."""
    with silent_start():
        import keras
        from tf_levenberg_marquardt.model import ModelWrapper

        import hig
        from hig.runs.experiments import fixed_batches
        from Nonlinear_Oscillators import experiment
    states = experiment.draw_data(22)[0]
    dataset = fixed_batches((states, states), BATCH)[0](0)
    steps, their_steps = iter(dataset), iter(dataset)

    model = experiment.build_model(22)
    model.compile(optimizer=hig.LevenbergMarquardt(damping=0.1), loss=experiment.loss)
    model.optimizer.build(model.trainable_variables)
    model.make_train_function()

    inputs = keras.Input(states.shape[1:])
    # it calls with arguments of Keras'
    theirs = ModelWrapper(keras.Model(inputs, experiment.build_model(22)(inputs)))
    theirs.compile()

    def ours():
        return float(model.train_function(steps)["loss"])

    def their_update():
        return theirs.train_step(next(their_steps))["loss"]

    print(f"first update, compiling: ours {seconds(ours):.1f} s, theirs {seconds(their_update):.1f} s")
    medians = in_turn([ours, their_update], ROUNDS)
    print(f"update of batch {BATCH}: ours {1e3 * medians[0]:.1f} ms, theirs {1e3 * medians[1]:.0f} ms, "
          f"{medians[1] / medians[0]:.0f} times as long")
    print(f"loss of the next batch, theirs divided by the 4 components of its mean: ours {ours():.1e}, "
          f"theirs {4 * their_update():.1e}")


if __name__ == "__main__":
    measure() if sys.argv[1:] == ["--measure"] else main()
