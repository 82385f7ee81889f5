"""What figures and pages show of the linear chain: the loss."""

from hig.figures.curves import System

SYSTEM = System("Linear chain", thresholds=(1e-3, 1e-4, 1e-5, 1e-6))
