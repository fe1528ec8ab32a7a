"""What all figures share: colours, names of metrics, bands and labels."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

# Four colours mean the same in every figure; whatever else is compared takes one of the series, in
# order. With normal sight and each of the three colour-blindnesses the first four of the series
# keep a distance of 13 or more in CAM02-UCS from each other and from the four, and the fifth one of
# 6.9; each stands out from white by 3:1 at least (WCAG 2.2, 1.4.11).
SERIES = ("#332288", "#CC79A7", "#661100", "#4D4D4D", "#6699CC")
COLORS = {
    "base": "#0072B2",
    "tuned": "#D55E00",
    "truth": "#009E73",
    "control": "#767676",
    **dict(zip(("STEM", "humanities", "social sciences", "other"), SERIES, strict=False)),
}
NAMES = {
    "accuracy": "accuracy",
    "confidence": "mean confidence",
    "gap": "confidence − accuracy",
    "ece": "ECE",
    "mce": "MCE",
    "nll": "NLL (nats)",
    "brier": "Brier score",
    "entropy": "entropy (nats)",
    "auroc": "AUROC of confidence",
    "truth": "correlation with the truth",
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


def spread_labels(ax) -> None:
    """Move the names at the lines' ends apart where they collide; call once all lines are there."""
    bottom, top = ax.get_ylim()
    gap, last = 0.07 * (top - bottom), -np.inf
    for label in sorted(ax.findobj(lambda a: a.get_gid() == END), key=lambda a: a.xy[1]):
        last = max(label.xy[1], last + gap)
        label.xy = (label.xy[0], last)
