"""Sweeps over layers and strengths, and differences from a reference."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patheffects import withStroke

from calib.analysis.comparison import Comparison
from calib.figures.style import COLORS, NAMES


def plot_map(layers, strengths, values, ax=None, *, metric: str, crossed=None):
    """A metric by layer and strength as a map, with the places crossed out that do harm.

    Parameters
    ----------
    layers, strengths : sequence
        Of the rows and the columns.
    values : array ``[layers, strengths]``
    metric : str
        What the colours show.
    crossed : bool array ``[layers, strengths]``, optional

    Returns
    -------
    matplotlib axes

    Examples
    --------
    >>> plot_map([6, 7], [-1, 0, 1], np.zeros((2, 3)), metric="ece").get_ylabel()
    'layer'
    """
    ax = ax or plt.gca()
    mesh = ax.pcolormesh(strengths, layers, values, cmap="cividis_r", shading="nearest", vmin=0)
    if crossed is not None and np.any(crossed):
        row, column = np.nonzero(crossed)
        ax.scatter(
            np.asarray(strengths)[column], np.asarray(layers)[row],
            marker="x", s=12, lw=0.8, color="white",
            path_effects=[withStroke(linewidth=2.2, foreground="black")],
        )  # fmt: skip
    ax.figure.colorbar(mesh, ax=ax, label=NAMES[metric])
    ax.set(xlabel="strength (median residual lengths)", ylabel="layer", yticks=list(layers))
    return ax


def plot_changes(comparison: Comparison, metric: str, names, ax=None, *, colors=COLORS):
    """Differences of one metric from the reference, with intervals, one row per way.

    Parameters
    ----------
    names : sequence of str
        Which ways, from top to bottom; ``colors`` is looked up by name.

    Returns
    -------
    matplotlib axes

    Examples
    --------
    >>> from calib.analysis import compare
    >>> ways = {"bold": [[0.9, 0.1]] * 4, "meek": [[0.7, 0.3]] * 4}
    >>> comparison = compare(ways, np.array([0, 0, 0, 1]), "bold", min_count=1)
    >>> plot_changes(comparison, "ece", ["meek"]).get_xlabel()
    'change of ECE'
    """
    ax = ax or plt.gca()
    rows = np.arange(len(names))[::-1]
    for row, name in zip(rows, names, strict=True):
        value, low, high = comparison.change(name, metric)
        color = colors.get(name, COLORS["control"])
        ax.hlines(row, low, high, color=color, lw=2)
        ax.plot(value, row, "o", color=color, ms=6)
    ax.axvline(0, color=COLORS["control"], lw=1, ls="--")
    ax.set(yticks=rows, yticklabels=names, xlabel=f"change of {NAMES[metric]}")
    return ax
