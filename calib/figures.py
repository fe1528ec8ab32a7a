"""Figures: matplotlib axes in, matplotlib axes out.

One palette for everything (Okabe & Ito, distinguishable without colour vision), direct labels
rather than legends, light backgrounds that stay readable in a dark page.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation

from calib.evolution import Evolution
from calib.metrics import ReliabilityTable, reliability_table
from calib.reading import Reading

COLORS = {
    "base": "#0072B2",
    "tuned": "#D55E00",
    "truth": "#009E73",
    "control": "#767676",
    "STEM": "#0072B2",
    "humanities": "#D55E00",
    "social sciences": "#CC79A7",
    "other": "#4D4D4D",
}
NAMES = {
    "accuracy": "accuracy",
    "confidence": "mean confidence",
    "gap": "confidence − accuracy",
    "ece": "ECE",
    "mce": "MCE",
    "nll": "NLL (nats)",
    "brier": "Brier score",
    "auroc": "AUROC of confidence",
}
STYLE = {
    "figure.facecolor": "white",
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "font.size": 10,
    "svg.hashsalt": "calib",
}


def use_style() -> None:
    """Set matplotlib's defaults to the book's."""
    plt.rcParams.update(STYLE)


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
    ax.vlines(confidence, low, high, color=color, lw=1.5, zorder=2)
    area = 400 * count / count.sum()
    ax.scatter(confidence, accuracy, s=area + 8, color=color, alpha=0.75, lw=0, zorder=3)
    if label:
        i = int(np.argmax(count))
        ax.annotate(
            label, (confidence[i], accuracy[i]), xytext=(-8, 8), textcoords="offset points",
            color=color, ha="right", weight="bold",
        )  # fmt: skip
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy", aspect="equal")
    return ax


def wilson(share, count, z: float = 1.96):
    """Wilson's 95 % interval of a share ``[...]`` out of a count ``[...]``.

    >>> np.round(wilson(0.5, 100), 4).tolist()
    [0.4038, 0.5962]
    """
    center = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return center - half, center + half


def plot_metric(evolutions: dict[str, Evolution], metric: str, ax=None, *, colors=COLORS):
    """One metric by layer with its interval, a line for each evolution, labelled at its end.

    Parameters
    ----------
    evolutions : dict of str to Evolution
        By the name written beside the line; ``colors`` is looked up by it.
    metric : str
        A column of :attr:`Evolution.table`.

    Returns
    -------
    matplotlib axes
    """
    ax = ax or plt.gca()
    ends = {}
    for name, evolution in evolutions.items():
        table, color = evolution.table, colors.get(name, COLORS["control"])
        low, high = table[f"{metric}_low"], table[f"{metric}_high"]
        ax.fill_between(table.index, low, high, color=color, alpha=0.2, lw=0)
        ax.plot(table.index, table[metric], color=color, marker="o", ms=4)
        ends[name] = (table.index[-1], table[metric].iloc[-1], color)
    label_ends(ax, ends)
    ax.set(xlabel="layer", ylabel=NAMES[metric])
    ax.xaxis.get_major_locator().set_params(integer=True)
    return ax


def label_ends(ax, ends: dict[str, tuple]) -> None:
    """Write each line's name to the right of its last point, moved apart where they collide."""
    bottom, top = ax.get_ylim()
    gap = 0.07 * (top - bottom)
    written = -np.inf
    for name, (x, y, color) in sorted(ends.items(), key=lambda end: end[1][1]):
        written = max(y, written + gap)
        ax.annotate(
            name, (x, written), xytext=(8, 0), textcoords="offset points",
            color=color, va="center", annotation_clip=False,
        )  # fmt: skip


def mark_phases(evolution: Evolution, ax=None):
    """Mark onset and decision by a line, the correction phase by a shade, each with its name."""
    ax = ax or plt.gca()
    at_top = {"xycoords": ("data", "axes fraction"), "fontsize": 9, "color": "#333333"}
    for name, layer, height in (
        ("onset", evolution.onset, 1.01),
        ("decision", evolution.decision, 1.06),
    ):
        if layer is not None:
            ax.axvline(layer, color="#333333", lw=0.8, ls=":", zorder=0)
            ax.annotate(name, (layer, height), ha="center", **at_top)
    if evolution.correction:
        start, end = evolution.correction.start, evolution.correction.end
        ax.axvspan(start, end, color="#F0E442", alpha=0.3, lw=0, zorder=0)
        ax.annotate("correction", ((start + end) / 2, 1.01), ha="center", **at_top)
    return ax


def animate_reliability(reading: Reading, *, n_bins: int = 10, color=COLORS["base"]):
    """The reliability diagram scrubbed from layer to layer.

    Returns
    -------
    matplotlib.animation.FuncAnimation
        One frame a layer; ``.to_jshtml()`` makes a player that needs no network.
    """
    tables = [reliability_table(p, reading.labels, n_bins) for p in reading.probabilities]
    figure, ax = plt.subplots(figsize=(4.2, 4.4))

    def draw(layer):
        ax.clear()
        table = tables[layer]
        plot_reliability(table, ax, color=color)
        full = table.count > 0
        gaps = np.abs(table.confidence - table.accuracy)[full]
        ece = (table.count[full] * gaps).sum() / table.count.sum()
        ax.set_title(f"Layer {layer} of {reading.n_layers}: ECE {ece:.3f}")

    return FuncAnimation(figure, draw, frames=len(tables), interval=600)
