"""The temperature of every layer: how much too certain its logits are, in one number."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import norm

from calib._checks import check_level
from calib.metrics import Interval
from calib.metrics.inputs import softmax
from calib.metrics.intervals import columns_of
from calib.reading.reading import Reading
from calib.recalibration.temperature import NoTemperature, Temperature


def layer_temperatures(reading: Reading, *, level: float = 0.95) -> pd.DataFrame:
    """The best temperature of every layer, by NLL, with its interval.

    With ``a = 1 / T``, the best one is where the mean over questions of
    ``g = Σ z (softmax(a z) - y)`` is 0: an M-estimate, whose variance is ``mean(g²) / (n H²)``,
    with H the mean variance of z under ``softmax(a z)`` [1]_. The interval is the normal one of a,
    turned over.

    Parameters
    ----------
    reading : Reading
    level : float
        Between 0 and 1.

    Returns
    -------
    pandas.DataFrame
        One row per layer: ``temperature``, ``temperature_low``, ``temperature_high``; infinity
        where the logits, to within chance, say nothing of the answer.

    References
    ----------
    .. [1] van der Vaart, "Asymptotic statistics", Cambridge 1998, theorem 5.21.

    Examples
    --------
    >>> from calib import load_reading
    >>> reading = load_reading("qwen2.5-coder-1.5b-instruct/zero-shot")
    >>> layer_temperatures(reading).loc[[24, 28]].round(2).values.tolist()
    [[4.29, 4.18, 4.4], [1.3, 1.26, 1.33]]
    """
    check_level(level)
    rows = [_temperature(at, reading.labels, level) for at in reading.logits.swapaxes(0, 1)]
    value, low, high = np.array(rows).T
    interval = Interval(value, low, high)
    return pd.DataFrame(columns_of({"temperature": interval})).rename_axis("layer")


def _temperature(logits, labels, level: float) -> tuple[float, float, float]:
    """Value, low and high of one layer's temperature."""
    try:
        value = Temperature().fit(logits, labels).value
    except NoTemperature as told:
        if not told.infinite:
            raise
        return np.inf, np.inf, np.inf
    z = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    z = np.where(np.isfinite(z), z, 0)  # an option that is not there has no chance
    p = softmax(logits.astype(np.float64) / value)
    mean = (p * z).sum(axis=1)
    g = mean - z[np.arange(len(labels)), labels]
    variance = (p * z**2).sum(axis=1) - mean**2
    half = norm.ppf((1 + level) / 2) * np.sqrt((g**2).mean() / len(g)) / variance.mean()
    inverse = 1 / value
    return value, 1 / (inverse + half), 1 / (inverse - half) if inverse > half else np.inf
