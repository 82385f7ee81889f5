"""How soon and how fast a network trains that acts at every step of a loop: the cart poles.

    python benchmarks/cart_pole.py              one and four poles, two minutes on a quiet machine
    python benchmarks/cart_pole.py --poles 1    one pole alone

The first update is measured in a process of its own and includes compiling; the seconds from the start of
that process include the imports, too. Further updates are medians of calls taken in turn, so that a busy
machine slows all of them.
"""

from hig.runs.cli import make_parser, silent_start
from timing import in_turn, repeated, start_up

BATCH_SIZE = 32
ROUNDS = 15
OPTIMIZERS = {"HIG": "hig.HIG(0.3, 1e-5)", "HIG, krylov=16": "hig.HIG(0.3, 1e-5, krylov=16)",
              "Adam": "'adam'"}
IMPORTS = "import hig; from Cart_Pole.experiment import *"
FIRST_UPDATE = IMPORTS + """
m = build_model({poles}, 0)
m.compile({optimizer}, loss)
m.train_on_batch(draw_data({poles})[0][:{batch}], np.zeros(({batch}, {poles}), np.float32))
"""


def measure(poles):
    """Prints the rows of one number of poles."""
    import numpy as np

    import hig
    from Cart_Pole import experiment
    batch = experiment.draw_data(poles)[0][:BATCH_SIZE], np.zeros((BATCH_SIZE, poles), np.float32)
    steps, imports = {}, start_up(IMPORTS)
    for name, optimizer in OPTIMIZERS.items():
        model = experiment.build_model(poles, 0)
        model.compile(eval(optimizer, {"hig": hig}), experiment.loss)
        steps[name] = repeated(model, *batch)
    medians = in_turn(steps, ROUNDS)
    for name, median in medians.items():
        first = start_up(FIRST_UPDATE.format(poles=poles, optimizer=OPTIMIZERS[name], batch=BATCH_SIZE))
        print(f"{poles:5} {BATCH_SIZE * poles:5} {name:15} {first - imports:10.1f} s {first:10.1f} s "
              f"{1e3 * median:9.1f} ms {median / medians['Adam']:8.1f}", flush=True)


def main():
    """Prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--poles", type=int, nargs="+", choices=(1, 2, 3, 4), default=(1, 4))
    chosen = parser.parse_args().poles
    with silent_start():
        import tensorflow  # noqa: F401
    print("poles     n                 first update   from start       update   / Adam's")
    for poles in chosen:
        measure(poles)


if __name__ == "__main__":
    main()
