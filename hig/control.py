"""Adaptive steps: the size of an update follows from how it changes the loss of its own batch.

A step s = −η d along d = J^κ g changes the outcome by J s = −η J d. According to its quadratic model, the
loss falls by

    L(θ) − L(θ + s) ≈ predicted = η a − ½ η² c ,     a = gᵀ J d ,     c = (J d)ᵀ H (J d) ,     H = ∂²L/∂y²

For every κ this is the model of the Gauss-Newton method; only the direction differs. H J d is a
Hessian-vector product of the loss in y. It is exact for all sums of squares, however weighted. If the loss
has negative curvature in y, H is replaced by 2/B, the curvature of the mean of Σ (y − y*)² over B samples.
(The dipole's infidelity is such a loss: it has a minimum only because y stays on a sphere.) Quadratic
penalties are further rows of J and g (`hig.penalties`).

The loss of the same batch after the step gives the ratio ρ = actual/predicted decrease (Nocedal and Wright,
Numerical Optimization, algorithm 4.1; Moré 1978). A step with ρ ≤ 1e-4, or to a loss that is not finite, is
taken back, and a smaller one is tried, up to TRIALS times per update. One variable of the optimizer adapts:

    powers                 η. A step is also never longer than η* = a/c, the minimum of the model along d.
                           If ρ < 1/4, η becomes a quarter of the η tried. If ρ > 3/4 and η itself was tried
                           (not η*), η is doubled. The damping is μ = damping · (L/L₀) · tr K/n, where
                           L₀ is the loss of the very first batch.
    Levenberg-Marquardt    q, with the damping μ = q · (L/L₀) · tr K/n. If ρ < 1/4, q becomes four times as
                           large. If ρ > 3/4, it is divided by 1.5.

The damping falls with the loss (Yamashita and Fukushima 2001; Fan and Yuan 2005). If L or L₀ is not positive,
as in likelihoods, 1 takes the place of L/L₀. The damping does not fall just because steps succeed: a batch
with fewer outputs than the network has weights can be fitted exactly from the start, at the expense of all
other samples, and the loss of the same batch does not show this.

A step lowers the loss of its own batch, and perhaps the loss of the next batch. The ratio of these two
decreases shows whether a batch determines the weights. Measuring it takes one more forward pass (the loss of
the next batch with the step taken back), at each of the first MEMORY updates and at every EVERY-th later one.
The ratio is one of running means over MEMORY measurements. The trust t in [0, 1] is this ratio divided by
ENOUGH, at most 1. It is 1 if a third of the decrease or more reaches the next batch, as with the simulators
here, and near 0 if steps fit single batches. Then η* is the minimum for one batch only, and the damping that
suits one batch is too small for the others. Trust therefore limits the steps:

    powers                 η ≤ (1 + t)/2 · η*. For t = 0 a step goes half way to the minimum along d.
    Levenberg-Marquardt    η is (1 + t)/2 · learning_rate, and q is at least (1 − t) · damping.

Steps are not optimised for the next batch, because they would become so small that the loss falls more slowly
in the long run (short-horizon bias; Wu et al. 2018).
"""

import warnings

import numpy as np

TRIALS = 4                  # of step sizes in one update
ACCEPTED = 1e-4             # ρ from which a step is kept
EVERY, MEMORY = 4, 30       # updates between measurements of trust; measurements in its means
FIRST = 5                   # number of measurements below which t = 1
ENOUGH = 1 / 3              # share of the decrease that reaches the next batch if t = 1
UNTRUSTED = 0.3             # t below which a warning is given, after MEMORY measurements


def step(optimizer, loss, power, quadratic_model, loss_after):
    """The direction of an update: J^κ g for fixed steps, a multiple of it for adaptive ones.

    Args:
        optimizer: JacobianPower; its variables for step control are changed.
        loss: L before the step, a scalar.
        power: function of L → (d, numbers to log), d (p,) float64.
        quadratic_model: function of d → (a, c).
        loss_after: function of s, (p,) float64 → the loss with the weights θ − s.

    Returns:
        (direction, numbers): the direction of the optimizer's step −η · direction, (p,) float64, or None if
        no step is to be made; and the numbers that `optimizer.logged` names.
    """
    if not optimizer.adaptive:
        return power(loss)
    loss, direction = float(loss), None
    optimizer.record_first_loss(loss)
    measure_trust(optimizer, loss, loss_after)
    for _ in range(TRIALS):
        if direction is None or optimizer.adapts == "damping":
            direction, numbers = power(loss)
            # a diverged run is not stopped here, but shows in its loss
            if not (np.isfinite(loss) and np.isfinite(direction).all()):
                return np.full_like(direction, np.nan), [np.nan] * len(optimizer.logged)
            if float(optimizer.learning_rate) == 0:                         # during a warm-up
                break
            slope, curvature = quadratic_model(direction)
            if slope == 0:  # a batch that fits exactly, or an outcome times 0
                break
        rate, bounded = optimizer.rate(slope, curvature)
        after = loss_after(rate * direction)
        predicted = rate * slope - rate**2 * curvature / 2
        ratio = (loss - after) / predicted if predicted > 0 and np.isfinite(after) else -1.0
        optimizer.adapt(ratio, rate, bounded)
        if ratio > ACCEPTED:
            if float(optimizer.measurements) < MEMORY or int(optimizer.iterations) % EVERY == 0:
                optimizer.last_decrease.assign(loss - after)
                optimizer.last_step.assign(rate * direction)
            share = rate / float(optimizer.learning_rate)                   # the optimizer multiplies by η
            return share * direction, [*numbers, *optimizer.adapted(loss)]
    return None, [*numbers, *optimizer.adapted(loss)]


def measure_trust(optimizer, loss, loss_after):
    """Compares the decreases that the last step made in the loss of this batch and of its own batch.

    Arguments as in `step`. Changes the optimizer's `own_decrease`, `next_decrease` and `measurements`.
    """
    own = float(optimizer.last_decrease)
    if not own > 0:
        return
    optimizer.last_decrease.assign(0.0)
    decrease = loss_after(-optimizer.last_step.numpy().astype(float)) - loss
    count = float(optimizer.measurements)
    if not np.isfinite(decrease):
        return
    for mean, value in ((optimizer.own_decrease, own), (optimizer.next_decrease, decrease)):
        mean.assign(float(mean) + (value - float(mean)) / min(count + 1, MEMORY))
    optimizer.measurements.assign(count + 1)
    if (count + 1 >= MEMORY and optimizer.trust() < UNTRUSTED and loss > 0.01 * float(optimizer.first_loss)
            and not optimizer.warned):
        optimizer.warned = True
        warnings.warn("Steps fit single batches: of what a step takes off the loss of its own batch, "
                      f"{optimizer.trust() * ENOUGH:.0%} is taken off that of the next one. Adaptive steps "
                      "are shorter then; larger batches may do better", stacklevel=2)
