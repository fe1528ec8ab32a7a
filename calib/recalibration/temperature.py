"""Temperature scaling: one number that divides all logits, and ways of choosing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.optimize import brentq

from calib._checks import check_real
from calib.metrics import check
from calib.metrics.arrays import as_array
from calib.metrics.inputs import softmax
from calib.metrics.options import check_n_options
from calib.recalibration.logits import check_logits, count_present
from calib.recalibration.method import Method

# Temperatures tried, in units of the largest difference of logits. Even two logits that lie next to
# each other there are certain at the first; at the second all options are equal to the last digit.
LIMITS = (1e-30, 1e15)
ROUNDING = 1e-12  # of an excess: closer to 0 than this at the second, the best one is infinite


class NoTemperature(ValueError):
    """No positive finite temperature is best.

    Attributes
    ----------
    infinite : bool
        Whether it would be infinite, for the logits say nothing of the target; else it would be 0.
    """

    def __init__(self, message: str, infinite: bool):
        super().__init__(message)
        self.infinite = infinite


@dataclass
class Temperature(Method):
    """Divides logits by a number: above 1 confidence falls, below 1 it rises; answers stay [1]_.

    Fitted, it is the temperature of lowest cross-entropy to a target. With labels this is the
    usual fit by NLL. In place of labels, ``fit`` also takes probabilities ``[questions, options]``:
    it is then the temperature that comes closest to them in Kullback-Leibler divergence, and shows
    how much of what they are is a temperature of these logits. Fitting raises
    :class:`NoTemperature`, a ValueError, where the best temperature is 0 or infinite. Logits c
    times as large have a temperature c times as high.

    Attributes
    ----------
    value : float or None
        Positive; None until it is fitted or given.

    References
    ----------
    .. [1] Guo, Pleiss, Sun & Weinberger, "On calibration of modern neural networks", ICML 2017.

    Examples
    --------
    >>> Temperature(2.0)([[np.log(9.0), 0.0]]).round(2).tolist()
    [[0.75, 0.25]]
    >>> Temperature().fit([[4.0, 0.0]] * 4, [0, 0, 0, 1]).value.__round__(3)
    3.641
    """

    value: float | None = None

    def __post_init__(self):
        if self.value is None:
            return
        check_real("value", self.value)
        if not 0 < self.value < np.inf:
            raise ValueError(f"value is {self.value}; a temperature is positive and finite")

    def fit(self, logits, labels=None, features=None, subjects=None) -> Self:
        """Fit the temperature and return the method; labels may be ``[questions, options]`` too."""
        self.value = None
        return super().fit(logits, labels)

    def _count(self):
        return 1

    def _fit(self, logits, target, features, subjects):
        z, unit = _scaled(logits)
        present = np.where(np.isfinite(z), z, 0)  # 0 times -inf would be nan

        def excess(log_t):  # of the mean logit: the slope of the cross-entropy in 1 / temperature
            return ((softmax(z / np.exp(log_t)) - target) * present).sum(axis=1).mean()

        self.value = unit * _root(
            excess,
            "no temperature is best: where every answer is right it would be 0, where confidence "
            "says nothing infinite; use other questions",
        )

    def _apply(self, logits, features):
        return softmax(logits / self.value)

    def _check_labels(self, logits, labels):
        """Target probabilities ``[questions, options]``."""
        labels = None if labels is None else as_array("labels", labels)
        if labels is None or labels.ndim != 2:
            return np.eye(logits.shape[1])[super()._check_labels(logits, labels)]
        if labels.shape != logits.shape:
            raise ValueError(
                f"the target has shape {labels.shape}; for logits {logits.shape} it must be "
                f"labels {logits.shape[:1]} or probabilities {logits.shape}"
            )
        target, _ = check(labels, np.zeros(len(labels), dtype=np.int64))
        check_n_options(count_present(logits), target)
        return target / target.sum(axis=1, keepdims=True)

    def _check_fitted(self):
        if self.value is None:  # given, it fits any number of options
            super()._check_fitted()

    @classmethod
    def matching(cls, logits, confidence: float) -> Temperature:
        """The temperature at which the mean confidence is a given number.

        Parameters
        ----------
        logits : float array ``[questions, options]``
        confidence : float
            Between the mean over questions of 1/options, and 1.

        Raises
        ------
        TypeError, ValueError
            If the logits are no logits, the confidence is no number, or no temperature gives this
            mean confidence.

        Examples
        --------
        >>> Temperature.matching([[4.0, 0.0]], 0.75).value.__round__(3)
        3.641
        """
        logits = check_logits(logits)
        if logits.ndim != 2:
            raise ValueError(f"logits have shape {logits.shape}; they must be [questions, options]")
        check_real("confidence", confidence)
        z, unit = _scaled(logits)

        def excess(log_t):
            return softmax(z / np.exp(log_t)).max(axis=1).mean() - confidence

        lowest = (1 / count_present(logits)).mean()
        refusal = (
            f"no temperature gives these logits a mean confidence of {confidence}; it must lie "
            f"between {lowest:.3g} and 1"
        )
        return cls(unit * _root(excess, refusal))


def _scaled(logits) -> tuple[np.ndarray, float]:
    """Logits less the largest of their question, in units of their largest difference, and it."""
    z = logits - logits.max(axis=1, keepdims=True)
    unit = float(-z[np.isfinite(z)].min())
    if unit == 0:
        raise NoTemperature(
            "all options of every question have the same logit; no temperature changes that: use "
            "other questions, or another layer's logits",
            infinite=True,
        )
    return z / unit, unit


def _root(excess, refusal: str) -> float:
    """The temperature at which an excess that falls with its logarithm is 0."""
    cold, hot = np.log(LIMITS)
    if not excess(cold) > 0:
        raise NoTemperature(refusal, infinite=False)
    if not excess(hot) < -ROUNDING:
        raise NoTemperature(refusal, infinite=True)
    return float(np.exp(brentq(excess, cold, hot)))
