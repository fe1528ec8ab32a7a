"""Temperature scaling: one number that divides all logits, and three ways of choosing it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from calib.arrays import softmax
from calib.metrics import check

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
        TypeError, ValueError
            As :func:`calib.metrics.check`; if logits and target do not fit together, the logits are
            not finite, or the best temperature is 0 or infinite, as it is where every answer is
            right.

        Examples
        --------
        >>> Temperature.fit([[4.0, 0.0]] * 4, [0, 0, 0, 1]).value.__round__(3)
        3.641
        """
        logits, target = _check(logits, target)
        aimed = (target * logits).sum(axis=1).mean()

        def excess(log_t):  # of the mean logit: the slope of the cross-entropy in 1 / temperature
            return (softmax(logits / np.exp(log_t)) * logits).sum(axis=1).mean() - aimed

        return cls(
            _root(
                excess,
                f"no temperature from {LIMITS[0]:g} to {LIMITS[1]:g} is best: where every answer "
                "is right it would be 0, where confidence says nothing infinite; use other "
                "questions",
            )
        )

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

        return cls(
            _root(
                excess,
                f"no temperature gives these logits a mean confidence of {confidence}; it must lie "
                f"between {1 / logits.shape[1]:.3g} and 1",
            )
        )


def _root(excess, refusal: str) -> float:
    """The temperature at which an excess that falls with its logarithm is 0."""
    cold, hot = np.log(LIMITS)
    if not excess(cold) > 0 > excess(hot):
        raise ValueError(refusal)
    return float(np.exp(brentq(excess, cold, hot)))


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
    if target.ndim == 1:
        _, labels = check(softmax(logits), target)
        return logits, np.eye(logits.shape[1])[labels]
    target, _ = check(target, np.zeros(len(target), dtype=np.int64))
    return logits, target / target.sum(axis=1, keepdims=True)
