"""What a trained network does, as a picture: `python plot.py trajectories`.

Each system's folder may have a `pictures.py` with two functions, of which the first may load TensorFlow:

    solve(weights, seed)        what the network of a .weights.h5 file does, as a dict of numpy arrays
    draw(figure, solution, together, colors)
                                draws that into a (sub)figure, in the scales of all solutions `together`, in
                                the colours of `hig.figures.style.TRAJECTORIES`; returns a function of
                                progress in [0, 1], which shows so much of it

A file of weights does not tell its system: the one whose network has the shapes in the file is taken.
"""

import io
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from hig.figures.curves import SYSTEMS
from hig.figures.losses import draw as draw_losses
from hig.figures.reading import collect
from hig.figures.style import TRAJECTORIES, legible, readable, write_figure, write_file
from hig.figures.style import style as looks
from hig.runs.cli import SettingsError, load

FRAMES, FRAMES_PER_SECOND, PAUSE = 40, 12, 2.0      # of an animation; PAUSE: seconds on its last frame
COLORS_OF_A_GIF = 128
SIZE = 4.2, 5.8              # inches for each file of weights
ENDING = ".weights.h5"


def solve(weights, seed):
    """(module that draws, its solution) for a file of weights; arguments as in the module docstring.

    Raises:
        ValueError: no system has a network of these shapes, or the file cannot be read.
    """
    if not weights.is_file():
        raise ValueError(f"cannot load the weights {weights}: there is no such file")
    reasons = []
    for folder in SYSTEMS.values():
        if find_spec(f"{folder}.pictures"):
            pictures = load(f"{folder}.pictures")
            try:
                return pictures, pictures.solve(weights, seed)
            except SettingsError as error:
                reasons.append(str(error))
    raise ValueError(f"{weights} does not hold a network of which there are pictures ({reasons[0]})")


def make_picture(options):
    """A matplotlib figure: a column for each file of weights, with its name, and one of losses.

    Args:
        options: weights (list of Path), seed, style and colors of the command line; losses, a list of files
            or folders with curves of one system that are drawn at the right, or None.

    Returns:
        the figure, and a function of progress in [0, 1] that shows so much of it.

    Raises:
        ValueError: weights cannot be used, there are no such curves, or they are of several systems.
    """
    from matplotlib.figure import Figure

    solutions = [solve(path, options.seed) for path in options.weights]
    runs = collect(options.losses, "time") if options.losses else []
    if options.losses and len({run.system for run in runs}) != 1:
        found, paths = "those of several" if runs else "none", " ".join(map(str, options.losses))
        raise ValueError(f"--losses takes curves of one system, and in {paths} there are {found}")
    columns = len(solutions) + bool(runs)
    figure = Figure((SIZE[0] * columns, SIZE[1]), layout="constrained")
    places = figure.subfigures(1, columns, squeeze=False)[0]
    colors = [readable(color, options.style) for color in TRAJECTORIES[options.colors]]
    shows = []
    for column, (pictures, solution), path in zip(places, solutions, options.weights):
        together = [other for drawn_by, other in solutions if drawn_by is pictures]
        shows.append(pictures.draw(column, solution, together, colors))
        column.suptitle(legible(path.name.removesuffix(ENDING).replace("_", " ")))
    if runs:
        draw_losses(places[-1], runs, Namespace(x="time", y="test", smooth=None, size="column",
                                                style=options.style, colors=options.colors))

    return figure, lambda progress: [show(progress) for show in shows]


def animate(figure, show):
    """Bytes of a GIF of the figure as it grows, which stays on its last frame for PAUSE seconds.

    All frames have the colours of the last one, without dithering. What stands still is then stored once, and
    the file is a fifth of what matplotlib's own writer makes. Arguments are what `make_picture` returns.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.draw_without_rendering()
    figure.set_layout_engine("none")                                    # stays that of the whole picture
    canvas, frames = FigureCanvasAgg(figure), []
    for frame in range(FRAMES):
        show((frame + 1) / FRAMES)
        canvas.draw()
        frames.append(Image.fromarray(np.array(canvas.buffer_rgba())).convert("RGB"))
    palette, background = frames[-1].quantize(COLORS_OF_A_GIF), frames[-1].getpixel((0, 0))
    colors = np.reshape(palette.getpalette(), (-1, 3))
    colors[np.abs(colors - background).max(axis=1) < 16] = background   # exactly, where it was nearly
    palette.putpalette(colors.ravel().tolist())
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    durations, file = [1000 / FRAMES_PER_SECOND] * FRAMES, io.BytesIO()
    durations[-1] += 1000 * PAUSE
    first.save(file, "GIF", save_all=True, append_images=others, duration=durations, loop=0)
    return file.getvalue()


def moving_picture(*files, seed=1, style="paper", colors="paper"):
    """Bytes of the GIF that `plot.py trajectories` makes of files of weights; for notebooks.

    Raises:
        ValueError: weights cannot be used; one sentence.
    """
    with looks(style):
        return animate(*make_picture(Namespace(weights=list(map(Path, files)), seed=seed, style=style,
                                               colors=colors, losses=None)))


def draw_trajectories(options):
    """Draws what `plot.py trajectories` asks for and prints the names of the files.

    Without output or animation that is a PNG beside the first file of weights.

    Args:
        options: those of `make_picture`; output and animate (Path or None).

    Raises:
        ValueError: weights cannot be used, or a file cannot be written; one sentence.
    """
    output = options.output
    if not output and not options.animate:
        names = [path.name.removesuffix(ENDING) for path in options.weights]
        output = options.weights[0].with_name(f"{'_'.join(names)}_trajectories.png")
    with looks(options.style):
        figure, show = make_picture(options)
        if output:
            write_figure(figure, output, options.style)
            print(output)
        if options.animate:
            write_file(options.animate, animate(figure, show))
            print(options.animate)


def limits(arrays, margin=0.06):
    """Lowest and highest value of some arrays, with a margin: axes on which all of them fit."""
    low, high = min(array.min() for array in arrays), max(array.max() for array in arrays)
    return low - margin * (high - low) - 1e-9, high + margin * (high - low) + 1e-9
