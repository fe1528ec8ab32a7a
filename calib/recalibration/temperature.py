"""Temperature scaling: one number that divides all logits, and three ways of choosing it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, minimize_scalar

from calib.arrays import softmax

LIMITS = (1e-3, 1e3)


@dataclass(frozen=True)
class Temperature:
    """Divides logits by a number: above 1 confidence falls, below 1 it rises; answers stay.

    Attributes
    ----------
    value : float

    References
    ----------
    .. [1] Guo, Pleiss, Sun & Weinberger, "On calibration of modern neural networks", ICML 2017.

    Examples
    --------
    >>> Temperature(2.0)([[np.log(9.0), 0.0]]).round(2).tolist()
    [[0.75, 0.25]]
    """

    value: float

    def __call__(self, logits) -> np.ndarray:
        """Option probabilities ``[..., options]`` of logits ``[..., options]``."""
        return softmax(np.asarray(logits, dtype=np.float64) / self.value)

    @classmethod
    def fit(cls, logits, target) -> Temperature:
        """The temperature of lowest cross-entropy to a target.

        With labels this is the usual fit by NLL [1]_. With probabilities it is the temperature
        that comes closest to them in Kullback-Leibler divergence: how much of what they are is a
        temperature of these logits.

        Parameters
        ----------
        logits : float array ``[questions, options]``
        target : int array ``[questions]``, or float array ``[questions, options]``
            Labels or probabilities.

        Raises
        ------
        ValueError
            If logits and target do not fit together, the logits are not finite, or the best
            temperature is 0 or infinite, as it is where every answer is right.

        Examples
        --------
        >>> Temperature.fit([[4.0, 0.0]] * 4, [0, 0, 0, 1]).value.__round__(3)
        3.641
        """
        logits, target = _check(logits, target)

        def loss(log_t):
            scaled = logits / np.exp(log_t)
            largest = scaled.max(axis=1, keepdims=True)
            log_p = scaled - largest - np.log(np.exp(scaled - largest).sum(axis=1, keepdims=True))
            return -(target * log_p).sum(axis=1).mean()

        found = minimize_scalar(
            loss, bounds=np.log(LIMITS), method="bounded", options={"xatol": 1e-9}
        )
        return cls(_inside(np.exp(found.x)))

    @classmethod
    def matching(cls, logits, confidence: float) -> Temperature:
        """The temperature at which the mean confidence is a given number.

        Raises
        ------
        ValueError
            If no temperature gives this mean confidence.

        Examples
        --------
        >>> Temperature.matching([[4.0, 0.0]], 0.75).value.__round__(3)
        3.641
        """
        logits, _ = _check(logits, np.zeros(len(logits), dtype=np.int64))

        def excess(log_t):
            return softmax(logits / np.exp(log_t)).max(axis=1).mean() - confidence

        ends = np.log(LIMITS)
        if not excess(ends[0]) > 0 > excess(ends[1]):
            raise ValueError(
                f"no temperature gives these logits a mean confidence of {confidence}; it must lie "
                f"between {1 / logits.shape[1]:.3g} and 1"
            )
        return cls(float(np.exp(brentq(excess, *ends))))


def _check(logits, target):
    """Float64 logits and target probabilities ``[questions, options]``."""
    logits, target = np.asarray(logits, dtype=np.float64), np.asarray(target)
    if logits.ndim != 2 or not np.isfinite(logits).all():
        raise ValueError(
            f"logits have shape {logits.shape}; they must be finite and [questions, options]"
        )
    if target.shape not in (logits.shape, logits.shape[:1]):
        raise ValueError(
            f"the target has shape {target.shape}; for logits {logits.shape} it must be labels "
            f"{logits.shape[:1]} or probabilities {logits.shape}"
        )
    return logits, np.eye(logits.shape[1])[target] if target.ndim == 1 else target


def _inside(value: float) -> float:
    if not 1.01 * LIMITS[0] < value < LIMITS[1] / 1.01:
        raise ValueError(
            f"the best temperature is at the end of its range, {value:.3g}: where every answer is "
            "right it would be 0, where confidence says nothing infinite; use other questions"
        )
    return float(value)
