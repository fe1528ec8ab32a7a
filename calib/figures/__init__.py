"""Figures: matplotlib axes in, matplotlib axes out.

One palette for everything, distinguishable without colour vision; direct labels
rather than legends, light backgrounds that stay readable in a dark page.
"""

from calib.figures.layers import mark_phases, plot_metric, plot_phases
from calib.figures.mechanisms import ROUTES, plot_attribution
from calib.figures.reliability import animate_reliability, plot_reliability, to_player
from calib.figures.steering import plot_changes, plot_map
from calib.figures.style import (
    COLORS,
    NAMES,
    SERIES,
    STYLE,
    label_end,
    plot_band,
    spread_labels,
    use_style,
)

__all__ = [
    "COLORS", "NAMES", "ROUTES", "SERIES", "STYLE", "animate_reliability", "label_end",
    "mark_phases", "plot_attribution", "plot_band", "plot_changes", "plot_map", "plot_metric",
    "plot_phases", "plot_reliability", "spread_labels", "to_player", "use_style",
]  # fmt: skip
