"""Figures: matplotlib axes in, matplotlib axes out.

One palette for everything (Okabe & Ito, distinguishable without colour vision), direct labels
rather than legends, light backgrounds that stay readable in a dark page.
"""

from __future__ import annotations

import html

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation

from calib.evolution import Evolution
from calib.metrics import ReliabilityTable, ece, reliability_table
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
END = "name at a line's end"  # by this spread_labels finds them
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
    return np.maximum(center - half, 0), np.minimum(center + half, 1)  # rounding may pass the ends


def plot_band(x, value, low, high, ax=None, *, color=COLORS["base"], label=None):
    """A line with its interval as a band around it, both ``[points]``, and its name at its end.

    Returns
    -------
    matplotlib axes
    """
    ax = ax or plt.gca()
    ax.fill_between(x, low, high, color=color, alpha=0.2, lw=0)
    ax.plot(x, value, color=color, marker="o", ms=4)
    if label:
        ax.annotate(
            label, (x[-1], value[-1]), xytext=(8, 0), textcoords="offset points",
            color=color, va="center", annotation_clip=False, gid=END,
        )  # fmt: skip
    return ax


def plot_metric(evolutions: dict[str, Evolution], metric: str, ax=None, *, colors=COLORS):
    """One metric by layer with its interval, a line for each evolution, labelled at its end.

    Parameters
    ----------
    evolutions : dict of str to Evolution
        By the name written beside the line; ``colors`` is looked up by it.
    metric : str
        A metric of :attr:`Evolution.table`.

    Returns
    -------
    matplotlib axes
    """
    ax = ax or plt.gca()
    for name, evolution in evolutions.items():
        color = colors.get(name, COLORS["control"])
        _plot_layers(evolution, metric, ax, color, name)
    spread_labels(ax)
    ax.set(ylabel=NAMES[metric])
    return ax


def plot_phases(evolution: Evolution, ax=None):
    """Accuracy and mean confidence by layer, with onset, decision and correction marked.

    Returns
    -------
    matplotlib axes

    Examples
    --------
    >>> from calib import evolve, load_questions, open_model, read_layers
    >>> reading = read_layers(open_model("almanac"), load_questions("almanac", limit=200))
    >>> plot_phases(evolve(reading, n_resamples=100)).get_xlabel()
    'layer'
    """
    ax = ax or plt.gca()
    _plot_layers(evolution, "confidence", ax, COLORS["tuned"], "confidence")
    _plot_layers(evolution, "accuracy", ax, COLORS["base"], "accuracy")
    ax.axhline(evolution.chance, color=COLORS["control"], ls="--", lw=1)
    ax.annotate(
        "chance", (0, evolution.chance), xytext=(0, -12), textcoords="offset points",
        color=COLORS["control"], ha="center",
    )  # fmt: skip
    ax.set(ylabel="share, probability", ylim=(0, 1))
    spread_labels(ax)
    return mark_phases(evolution, ax)


def _plot_layers(evolution, metric, ax, color, label):
    columns = (evolution.table[metric + end].to_numpy() for end in ("", "_low", "_high"))
    plot_band(evolution.table.index, *columns, ax, color=color, label=label)
    ax.set(xlabel="layer")
    ax.xaxis.get_major_locator().set_params(integer=True)


def spread_labels(ax) -> None:
    """Move the names at the lines' ends apart where they collide; call once all lines are there."""
    bottom, top = ax.get_ylim()
    gap, last = 0.07 * (top - bottom), -np.inf
    for label in sorted(ax.findobj(lambda a: a.get_gid() == END), key=lambda a: a.xy[1]):
        last = max(label.xy[1], last + gap)
        label.xy = (label.xy[0], last)


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
    """The reliability diagram, one frame a layer; :func:`to_player` puts it on a page.

    Returns
    -------
    matplotlib.animation.FuncAnimation
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
    """
    return animation.to_jshtml().replace("<img id=", f'<img alt="{html.escape(alt)}" id=')
