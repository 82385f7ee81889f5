"""Steps that control themselves: the size of an update follows from how the loss of its own batch changes.

A step s = −η d along d = J^κ g changes the outcome by J s = −η J d, and the loss by what its quadratic model says,

    L(θ) − L(θ + s) ≈ predicted = η a − ½ η² c ,     a = gᵀ J d ,     c = (J d)ᵀ H (J d) ,     H = ∂²L/∂y²

whatever κ is: the model is Gauss-Newton's, only the direction differs. H J d is a Hessian-vector product of
the loss in y, exact for all sums of squares, however weighted. If the loss bends down in y, H is taken as
2/B, which is that of the mean of Σ (y − y*)² over B samples. (The dipole's infidelity bends down; it has a
minimum only because y stays on a sphere.) Quadratic penalties are further rows of J and g (`hig.penalties`).

The loss of the same batch after the step gives the ratio ρ = actual/predicted decrease (Nocedal and Wright, Numerical
Optimization, algorithm 4.1; Moré 1978). A step with ρ ≤ 1e-4, or to a loss that is not finite, is taken back and tried
again smaller, up to TRIALS times per update. What adapts is a variable of the optimizer:

    powers                 η, which is also never larger than the minimum of the model along d, η* = a/c. ρ < 1/4: η is a
                           quarter of what was tried; ρ > 3/4 and η was tried, not η*: twice as large. A damping μ falls with
                           the loss, μ = damping · (L/L₀) · tr K/n.
    Levenberg-Marquardt    the damping μ = q · (L/L₀) · tr K/n; L₀ is the loss of the very first batch. ρ < 1/4: q is four
                           times as large; ρ > 3/4: divided by 1.5.

The damping falls with the loss (Yamashita and Fukushima 2001; Fan and Yuan 2005). It does not fall just
because steps have gone well: a batch with fewer outputs than the network has weights can be fitted exactly
from the start, at the expense of all other samples, and control by the same batch does not notice that. If
every batch holds new samples, a damping that falls with the loss is not enough either. Control of steps is
for fixed data.
"""

import numpy as np

TRIALS = 4                  # of a step in one update
ACCEPTED = 1e-4             # ρ from which a step is kept


def step(optimizer, loss, power, quadratic_model, loss_after):
    """The direction of an update: J^κ g for fixed steps, and for adaptive ones that of the first good step.

    Args:
        optimizer: JacobianPower, whose variables for step control change.
        loss: L before the step, a scalar.
        power: function of L → (d, numbers to log), d (p,) float64.
        quadratic_model: function of d → (a, c).
        loss_after: function of a direction → the loss after the optimizer's step along it.

    Returns:
        (direction, numbers): the direction along which the optimizer is to step, (p,) float64, or None if it
        is to stay where it is; and the numbers that `optimizer.logged` names.
    """
    if not optimizer.adaptive:
        return power(loss)
    loss, direction = float(loss), None
    optimizer.record_first_loss(loss)
    for _ in range(TRIALS):
        if direction is None or optimizer.damping_adapts:
            direction, numbers = power(loss)
            if not (np.isfinite(loss) and np.isfinite(direction).all()):
                return np.full_like(direction, np.nan), [np.nan] * len(optimizer.logged)    # seen in the loss, not stopped
            if float(optimizer.learning_rate) == 0:                                         # a warm-up: nothing to judge
                break
            slope, curvature = quadratic_model(direction)
        rate, bounded = optimizer.rate(slope, curvature)
        after = loss_after(rate / float(optimizer.learning_rate) * direction)               # the optimizer multiplies by η
        predicted = rate * slope - rate**2 * curvature / 2
        ratio = (loss - after) / predicted if predicted > 0 and np.isfinite(after) else -1.0
        optimizer.adapt(ratio, rate, bounded)
        if ratio > ACCEPTED:
            return rate / float(optimizer.learning_rate) * direction, [*numbers, optimizer.adapted(loss)]   # η may be new
    return None, [*numbers, optimizer.adapted(loss)]
