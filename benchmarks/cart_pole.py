"""How soon and how fast a network trains that acts at every step of a loop: half-inverse gradients, Krylov steps
and Adam on the cart poles.

    python benchmarks/cart_pole.py              one and four poles, about two minutes on a quiet machine
    python benchmarks/cart_pole.py --poles 1    one pole alone

The first update, compiling included, is that of a process of its own, which ends with it. The further ones are
medians of updates taken in turn, so that a busy machine slows all of them.
"""

import argparse

from hig.runs.cli import silent_start, standard_streams
from timing import ROOT, first_update, in_turn, repeated
