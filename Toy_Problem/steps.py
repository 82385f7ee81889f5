"""One step of gradient descent, HIG and Gauss-Newton on the toy problem, as figures for the notebook.

    Δθ = −η J^κ g ,   J = U Σ Vᵀ (n, p) ,   so that to first order   Δy = J Δθ = −η U Σ^(κ+1) Uᵀ g

Along the i-th left singular vector a step removes a share of the error that is proportional to σ_i^(κ+1). For
that it moves the weights along the i-th right one by σ_i^κ. The smaller κ is, the more even are the shares,
and the larger are the steps of the weights.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

from hig.figures.style import COLORS, style
from hig.powers import jacobian_power
from hig.runs.weights import load_weights
from Toy_Problem.experiment import build_model, draw_data, loss

TRUNCATION, BATCH = 1e-6, 32            # as in the submit scripts
# κ, η (for HIG and Gauss-Newton as in the submit scripts), and the optimizer whose colour it has
METHODS = {"gradient descent": (1.0, 1.0, "SGD"), "HIG": (-0.5, 1.0, "HIG"),
           "Gauss-Newton": (-1.0, 0.1, "GN")}


def jacobian(model, x):
    """J = ∂y/∂θ, (2B, 30) float64, of a model at points x (B, 1)."""
    with tf.GradientTape(persistent=True) as tape:
        y = tf.reshape(model(x), [-1])
    blocks = tape.jacobian(y, model.trainable_variables, experimental_use_pfor=False)
    return np.concatenate([np.reshape(block, (len(y), -1)) for block in blocks], axis=1).astype(np.float64)


def losses_along(model, x, target, kappa, rates):
    """Losses after steps −η J^κ g with several η: by the first order of the outcome's expansion, and actual.

    Args:
        model: PhysicsModel; its weights are restored in the end.
        x, target: (B, 1) and (B, 2).
        kappa: κ.
        rates: (m,), the η.

    Returns:
        length: ‖J^κ g‖, of the step with η = 1. promised, actual: (m,) float64 each.
    """
    outcome = model(x).numpy().astype(float)
    matrix = jacobian(model, x)
    # g of the mean loss
    direction = -jacobian_power(matrix, kappa, TRUNCATION)[0] @ (outcome - target).ravel() / len(x)
    change = (matrix @ direction).reshape(outcome.shape)
    start = model.network.get_weights()
    shares = np.split(direction, np.cumsum([weight.size for weight in start])[:-1])
    promised, actual = [], []
    for rate in rates:
        model.network.set_weights([weight + rate * share.reshape(weight.shape)
                                   for weight, share in zip(start, shares)])
        promised.append(float(tf.reduce_mean(loss(target, outcome + rate * change))))
        actual.append(float(tf.reduce_mean(loss(target, model(x)))))
    model.network.set_weights(start)
    return np.linalg.norm(direction), np.array(promised), np.array(actual)


def draw_step(seed=0, factor=0.01):
    """Figure of the first step for λ = factor: singular values, shares of the error removed, and losses."""
    from matplotlib.figure import Figure

    model, ((x, target), _) = build_model(seed, factor), draw_data(seed)
    x, target = x[:BATCH], target[:BATCH]
    with style("paper"):
        figure = Figure((11, 3.4), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        draw_spectra(left, "before training: singular values",
                     {f"λ = {other:g}": jacobian(build_model(seed, other), x) for other in (1.0, factor)})
        sigma = np.linalg.svd(jacobian(model, x), compute_uv=False)
        sigma = sigma[sigma > TRUNCATION * sigma[0]]
        for name, (kappa, rate, owner) in METHODS.items():
            color = COLORS["paper"][owner]
            middle.plot(sigma / sigma[0], (sigma / sigma[0]) ** (kappa + 1), "o-", color=color,
                        label=f"{name}, $κ={kappa:g}$", markersize=4)
            rates = rate * np.geomspace(1e-4, 1e3, 71)                  # the 41st is η
            length, promised, actual = losses_along(model, x, target, kappa, rates)
            shown = np.arange(len(rates)) <= max(promised.argmin(), 40)
            right.plot(length * rates[shown], promised[shown], ":", color=color)
            right.plot(length * rates[shown], actual[shown], color=color)
            right.plot(length * rate, actual[40], "o", color=color)
        middle.set(xscale="log", yscale="log", xlabel="$σ_i/σ_1$", ylabel="relative share")
        middle.set_title("share of the error that a step removes", fontsize=10, loc="left")
        middle.legend()
        for words, looks in (("what the first order promises", {"linestyle": ":"}), ("what it is", {}),
                             ("one update", {"marker": "o", "linestyle": ""})):
            right.plot([], [], color="gray", label=words, **looks)
        right.legend()
        right.set(xscale="log", yscale="log", ylim=(0.1, 1e7), xlabel="length of the step of the weights",
                  ylabel="loss")
        right.set_title("loss along the step", fontsize=10, loc="left")
    return figure


def draw_trained(files, seed=0, factor=0.01):
    """Figure of the singular values after training for λ = factor, beside those before.

    Args:
        files: {optimizer: *.weights.h5}.

    Raises:
        SettingsError: a file is not one of this network.
    """
    from matplotlib.figure import Figure

    x, matrices, colors = draw_data(seed)[0][0][:BATCH], {}, {}
    for name, path in {"untrained": None, **files}.items():
        model = build_model(seed, factor)
        if path:
            load_weights(model.network, Path(path))
        matrices[name], colors[name] = jacobian(model, x), COLORS["paper"].get(name, "gray")
    with style("paper"):
        figure = Figure((5, 3.4), layout="constrained")
        draw_spectra(figure.subplots(), f"after training: singular values, λ = {factor:g}", matrices, colors)
    return figure


def draw_spectra(ax, title, matrices, colors=None):
    """The singular values of some Jacobians, {label: (n, p)}, above rounding (of float32 derivatives)."""
    for label, matrix in matrices.items():
        sigma = np.linalg.svd(matrix, compute_uv=False)
        sigma = sigma[sigma > np.finfo(np.float32).eps * sigma[0]]
        ax.plot(np.arange(1, len(sigma) + 1), sigma, ".-", label=label, color=colors and colors[label])
    ax.set(yscale="log", xlabel="$i$", ylabel="$σ_i$ of $J$")
    ax.set_title(title, fontsize=10, loc="left")
    ax.legend()
