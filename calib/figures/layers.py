"""Metrics by layer, and the phases they show."""

from __future__ import annotations

import matplotlib.pyplot as plt

from calib.analysis.phases import Evolution
from calib.figures.style import COLORS, NAMES, SERIES, plot_band, spread_labels


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

    Examples
    --------
    >>> from calib import evolve, load_questions, open_model, read_layers
    >>> reading = read_layers(open_model("almanac"), load_questions("almanac", limit=200))
    >>> evolution = evolve(reading, n_resamples=100)
    >>> plot_metric({"base": evolution}, "ece", plt.figure().subplots()).get_ylabel()
    'ECE'
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
    _plot_layers(evolution, "confidence", ax, SERIES[1], "confidence")
    _plot_layers(evolution, "accuracy", ax, SERIES[0], "accuracy")
    baseline = evolution.baseline_accuracy
    ax.axhline(baseline, color=COLORS["control"], ls="--", lw=1)
    ax.annotate(
        "baseline", (1, baseline), xycoords=("axes fraction", "data"), xytext=(3, 0),
        textcoords="offset points", color=COLORS["control"], va="center",
    )  # fmt: skip
    ax.set(ylabel="share, probability", ylim=(0, 1))
    spread_labels(ax)
    return mark_phases(evolution, ax)


def _plot_layers(evolution, metric, ax, color, label):
    columns = (evolution.table[metric + end].to_numpy() for end in ("", "_low", "_high"))
    plot_band(evolution.table.index, *columns, ax, color=color, label=label)
    ax.set(xlabel="layer")
    ax.xaxis.get_major_locator().set_params(integer=True)


def mark_phases(evolution: Evolution, ax=None):
    """Mark onset and decision by a line, the correction phase by a shade, each with its name.

    >>> from calib import evolve, load_questions, open_model, read_layers
    >>> reading = read_layers(open_model("almanac"), load_questions("almanac", limit=200))
    >>> evolution = evolve(reading, n_resamples=100)
    >>> ax = mark_phases(evolution, plt.figure().subplots())
    >>> [text.get_text() for text in ax.texts][:2]
    ['onset', 'decision']
    """
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
