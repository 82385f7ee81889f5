"""What figures and pages show of the oscillators: the loss alone."""

from hig.figures.curves import System

SYSTEM = System("Nonlinear oscillators")
