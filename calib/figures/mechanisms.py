"""What components do to a metric, by writing and through the norm."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from calib.figures.style import COLORS, NAMES, SERIES

ROUTES = {"write": SERIES[0], "norm": SERIES[1]}


def plot_attribution(effects: pd.DataFrame, metric: str, ax=None):
    """An attribution's effects as bars, two per component: by writing, and through the norm.

    Parameters
    ----------
    effects : pandas.DataFrame
        Of :meth:`calib.mechanisms.Attribution.effects`.
    metric : str
        What they are effects on.

    Returns
    -------
    matplotlib axes

    Examples
    --------
    >>> columns = {r + end: [0.1, 0.2] for r in ROUTES for end in ("", "_low", "_high")}
    >>> effects = pd.DataFrame(columns, index=["MLP 8", "all"])
    >>> [label.get_text() for label in plot_attribution(effects, "ece").get_yticklabels()]
    ['MLP 8', 'all']
    """
    ax = ax or plt.gca()
    rows = np.arange(len(effects))[::-1]
    for (route, color), shift in zip(ROUTES.items(), (0.2, -0.2), strict=True):
        value = effects[route]
        spread = abs(effects[[f"{route}_low", f"{route}_high"]].T - value)
        ax.barh(rows + shift, value, 0.36, color=color, label=route)
        ax.errorbar(value, rows + shift, xerr=spread, fmt="none", ecolor="#333333", lw=1)
    ax.axvline(0, color=COLORS["control"], lw=1)
    ax.set(yticks=rows, yticklabels=effects.index, xlabel=f"change of {NAMES[metric]}")
    return ax
