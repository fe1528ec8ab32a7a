"""A confidence curve: what a confidence becomes, drawn through a few points in log-odds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logsumexp

from calib.metrics.arrays import as_reals
from calib.metrics.inputs import softmax
from calib.recalibration.logits import check_logits, count_present
from calib.recalibration.top_label import spread


@dataclass(frozen=True, eq=False)
class Curve:
    """A line through some points, from log-odds of the confidence to those of what it becomes.

    Beyond the first and the last point it stays what it is there.

    Attributes
    ----------
    knots, values : float64 array ``[points]``
        Log-odds of the confidence, rising, and of what it becomes.

    Raises
    ------
    TypeError, ValueError
        If knots and values are not finite numbers, equally many, or the knots do not rise.

    Examples
    --------
    Odds of 9 become odds of 3:

    >>> Curve(np.log([1.0, 81.0]), np.log([1.0, 9.0]))(np.log([[0.9, 0.1]])).round(3).tolist()
    [[0.75, 0.25]]
    """

    knots: np.ndarray
    values: np.ndarray

    def __post_init__(self):
        knots, values = (as_reals(n, getattr(self, n), "[points]") for n in ("knots", "values"))
        if knots.ndim != 1 or not knots.size or knots.shape != values.shape:
            raise ValueError(
                f"knots have shape {knots.shape}, values {values.shape}; both must be [points], at "
                "least 1"
            )
        if not np.isfinite([knots, values]).all() or (np.diff(knots) <= 0).any():
            raise ValueError(
                f"knots are {knots}, values {values}; all must be finite, and knots rise: sort "
                "them, and leave out repeated ones"
            )
        object.__setattr__(self, "knots", knots)
        object.__setattr__(self, "values", values)

    def __call__(self, logits, features=None) -> np.ndarray:
        """Option probabilities, float64 ``[..., options]``, the answers kept; reads no features."""
        logits = check_logits(logits)
        rows = logits.reshape(-1, logits.shape[-1])
        confidence = expit(np.interp(log_odds(rows), self.knots, self.values))
        return spread(softmax(rows), confidence, count_present(rows)).reshape(logits.shape)


def log_odds(logits) -> np.ndarray:
    """Of the answer against all other options, float64 ``[questions]``; finite however sure it is.

    >>> log_odds([[1000.0, 0.0], [2.0, 2.0]]).tolist()
    [1000.0, 0.0]
    """
    ordered = np.sort(logits, axis=1)
    return ordered[:, -1] - logsumexp(ordered[:, :-1], axis=1)
