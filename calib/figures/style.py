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
    """Set matplotlib's defaults to the book's.

    >>> with plt.rc_context():
    ...     use_style()
    ...     plt.rcParams["axes.titlesize"]
    11.0
    """
    plt.rcParams.update(STYLE)


def plot_band(x, value, low, high, ax=None, *, color=COLORS["base"], label=None):
    """A line with its interval as a band around it, both ``[points]``, and its name at its end.

    Returns
    -------
    matplotlib axes

    Examples
    --------
    >>> ax = plt.figure().subplots()
    >>> ax = plot_band([1, 2], [0.1, 0.2], [0.0, 0.1], [0.2, 0.3], ax, label="ECE")
    >>> [text.get_text() for text in ax.texts]
    ['ECE']
    """
    ax = ax or plt.gca()
    ax.fill_between(x, low, high, color=color, alpha=0.2, lw=0)
    ax.plot(x, value, color=color, marker="o", ms=4)
    if label:
        label_end(ax, label, x[-1], value[-1], color=color)
    return ax


def label_end(ax, label: str, x, y, *, color, fontsize=None) -> None:
    """Write a name beside a line's end; :func:`spread_labels` keeps such names apart.

    >>> ax = plt.figure().subplots()
    >>> label_end(ax, "ECE", 2, 0.2, color="black")
    >>> ax.texts[0].xy
    (2, 0.2)
    """
    ax.annotate(
        label, (x, y), xytext=(8, 0), textcoords="offset points", color=color, va="center",
        annotation_clip=False, gid=END, fontsize=fontsize,
    )  # fmt: skip


def spread_labels(ax) -> None:
    """Move the names at the lines' ends apart where they collide; call once all lines are there.

    >>> ax = plt.figure().subplots()
    >>> for name, y in {"ECE": 0.50, "MCE": 0.51}.items():
    ...     label_end(ax, name, 1, y, color="black")
    >>> spread_labels(ax)
    >>> [f"{text.xy[1]:.2f}" for text in ax.texts]
    ['0.50', '0.57']
    """
    bottom, top = ax.get_ylim()
    gap, last = 0.07 * (top - bottom), -np.inf
    for label in sorted(ax.findobj(lambda a: a.get_gid() == END), key=lambda a: a.xy[1]):
        last = max(label.xy[1], last + gap)
        label.xy = (label.xy[0], last)
