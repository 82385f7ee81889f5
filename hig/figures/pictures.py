"""What a trained network does, as a picture: `python plot.py trajectories`.

Each system's folder has a `pictures.py` with two functions, of which the first may load TensorFlow:

    solve(weights, seed)                        what the network of a .weights.h5 file does, as a dict of numpy arrays
    draw(figure, solution, style, progress)     draws that into a (sub)figure; progress in [0, 1] for animations

A file of weights does not tell its system: the one whose network has the shapes in the file is taken.
"""

import importlib
import tempfile
from pathlib import Path

from hig.figures.curves import SYSTEMS
from hig.figures.style import legible, style, write_figure, write_file
from hig.runs.cli import silent_start

WRITERS = {".gif": "pillow", ".mp4": "ffmpeg"}     # of matplotlib
FRAMES, FRAMES_PER_SECOND = 48, 12
SIZE = (4.2, 5.0)            # inches for each file of weights


def solve(weights, seed, root):
    """(module that draws, its solution) for a file of weights; arguments as in the module docstring.

    Args:
        root: folder with the systems' folders.

    Raises:
        ValueError: no system has a network of these shapes, or the file cannot be read.
    """
    with silent_start():
        from hig.runs.training import SettingsError
    reasons = []
    for folder in SYSTEMS.values():
        if (root / folder / "pictures.py").is_file():
            with silent_start():
                pictures = importlib.import_module(f"{folder}.pictures")
            try:
                return pictures, pictures.solve(weights, seed)
            except SettingsError as error:
                reasons.append(str(error))
    if not weights.is_file():
        raise ValueError(f"cannot load the weights {weights}: there is no such file")
    raise ValueError(f"{weights} does not hold a network of which there are pictures ({reasons[0]})")


def make_picture(solutions, names, style, progress=1.0):
    """A matplotlib figure with one column for each (module, solution) of `solve`, titled with its name."""
    from matplotlib.figure import Figure

    figure = Figure((SIZE[0] * len(solutions), SIZE[1]), layout="constrained")
    fill(figure, solutions, names, style, progress)
    return figure


def fill(figure, solutions, names, style, progress):
    """Draws into a figure that has been cleared; arguments as in `make_picture`."""
    columns = figure.subfigures(1, len(solutions), squeeze=False)[0]
    for column, (pictures, solution), name in zip(columns, solutions, names):
        pictures.draw(column, solution, style, progress)
        column.suptitle(legible(name))


def animate(solutions, names, style, output):
    """Writes an animation by matplotlib's own writers; the suffix of `output` decides the format.

    Raises:
        ValueError: the format is mp4 and there is no ffmpeg, or the file cannot be written.
    """
    from matplotlib import animation

    kind = output.suffix.lower()
    if not animation.writers.is_available(WRITERS[kind]):
        raise ValueError(f"{output} cannot be written: {kind[1:]} needs the program {WRITERS[kind]}, which is not"
                         " installed; a name that ends in .gif does without")
    figure = make_picture(solutions, names, style, 0.0)
    writer = animation.writers[WRITERS[kind]](fps=FRAMES_PER_SECOND)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"animation{kind}")
        with writer.saving(figure, str(file), dpi=100):
            for frame in range(FRAMES):
                figure.clear()
                fill(figure, solutions, names, style, (frame + 1) / FRAMES)
                writer.grab_frame(facecolor=figure.get_facecolor())
        write_file(output, file.read_bytes())


def draw_trajectories(options, root):
    """Draws what `plot.py trajectories` asks for and prints the names of the files.

    Args:
        options: weights (list of Path), seed, output and animate (Path or None), style and colors.
        root: folder with the systems' folders.

    Raises:
        ValueError: weights cannot be used, or a file cannot be written; one sentence.
    """
    solutions = [solve(path, options.seed, root) for path in options.weights]
    names = [path.name.removesuffix(".weights.h5") for path in options.weights]
    with style(options.style):
        if options.output:
            write_figure(make_picture(solutions, names, options.style), options.output, options.style)
            print(options.output)
        if options.animate:
            animate(solutions, names, options.style, options.animate)
            print(options.animate)


def box_axes(figure, position, aspect, zoom=1.0):
    """A 3-d axes without matplotlib's grey walls; `position` as in GridSpec entries, `aspect` lengths of the three axes."""
    from matplotlib.ticker import MaxNLocator

    ax = figure.add_subplot(position, projection="3d")
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.pane.set_visible(False)
        axis.set_major_locator(MaxNLocator(4))
        axis.labelpad = -5
    ax.tick_params(pad=-1, labelsize=8)
    ax.set_box_aspect(aspect, zoom=zoom)
    return ax
