"""Reliability diagrams, still and moving."""

from __future__ import annotations

import html

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation

from calib.figures.style import COLORS
from calib.metrics import ReliabilityTable, ece, reliability_table
from calib.metrics.intervals import wilson
from calib.reading.reading import Reading


def plot_reliability(table: ReliabilityTable, ax=None, *, color=COLORS["base"], label=None):
    """A reliability diagram: accuracy against confidence, bin by bin.

    Discs stand at each bin's mean confidence and accuracy, their area proportional to the bin's
    questions; whiskers are 95 % Wilson intervals of the accuracy. On the diagonal, confidence is
    right.

    Parameters
    ----------
    table : ReliabilityTable
        Of one layer: arrays ``[bins]``.
    ax : matplotlib axes, optional
    color, label
        Of the discs; the label is written beside the largest.

    Returns
    -------
    matplotlib axes

    Examples
    --------
    >>> import numpy as np
    >>> from calib.metrics import reliability_table
    >>> p = np.array([[0.8, 0.2], [0.6, 0.4]])
    >>> ax = plot_reliability(reliability_table(p, np.array([0, 1])))
    >>> ax.get_xlabel()
    'confidence'
    """
    ax = ax or plt.gca()
    ax.plot([0, 1], [0, 1], color=COLORS["control"], lw=1, ls="--", zorder=1)
    full = table.count > 0
    count, confidence, accuracy = table.count[full], table.confidence[full], table.accuracy[full]
    low, high = wilson(accuracy, count)
    ax.vlines(confidence, low, high, color=color, lw=1.5, zorder=3)  # no disc hides its own
    area = 400 * count / count.sum()
    ax.scatter(confidence, accuracy, s=area + 20, color=color, alpha=0.4, lw=0, zorder=2)
    if label:
        i = int(np.argmax(count))
        ax.annotate(
            label, (confidence[i], accuracy[i]), xytext=(-8, 8), textcoords="offset points",
            color=color, ha="right", weight="bold",
        )  # fmt: skip
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy", aspect="equal")
    return ax


def animate_reliability(reading: Reading, *, n_bins: int = 10, color=COLORS["base"]):
    """The reliability diagram, one frame per layer; :func:`to_player` puts it on a page.

    Returns
    -------
    matplotlib.animation.FuncAnimation

    Examples
    --------
    >>> two_layers = Reading(np.zeros((3, 2, 4)), np.array([0, 1, 0]), np.array(["s"] * 3))
    >>> animation = animate_reliability(two_layers)
    >>> to_player(animation, "one disc at a quarter").count("one disc at a quarter")
    1
    """
    figure, ax = plt.subplots(figsize=(4.2, 4.4))

    def draw(layer):
        ax.clear()
        p, labels = reading.probabilities[layer], reading.labels
        plot_reliability(reliability_table(p, labels, n_bins), ax, color=color)
        error = ece(p, labels, n_bins)
        ax.set_title(f"Layer {layer} of {reading.n_layers}: ECE {error:.3f}")

    plt.close(figure)  # or a notebook would show the last frame beside the player
    return FuncAnimation(figure, draw, frames=reading.n_layers + 1, interval=600)


def to_player(animation: FuncAnimation, alt: str) -> str:
    """The animation as HTML with buttons and a slider, its pictures described by ``alt``.

    It holds all its frames and needs no network.

    >>> two_layers = Reading(np.zeros((3, 2, 4)), np.array([0, 1, 0]), np.array(["s"] * 3))
    >>> "<script" in to_player(animate_reliability(two_layers), "one disc at a quarter")
    True
    """
    return animation.to_jshtml().replace("<img id=", f'<img alt="{html.escape(alt)}" id=')
