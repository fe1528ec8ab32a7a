"""Scores that are means over questions: accuracy, confidence, likelihood, Brier, entropy."""

from __future__ import annotations

import numpy as np

from calib.metrics.inputs import Labels, Probabilities, Score, check, top
from calib.metrics.intervals import plain


def _accuracy(p, labels):
    return top(p, labels)[1].astype(np.float64)


def _confidence(p, labels):
    return top(p, labels)[0]


def _gap(p, labels):
    confidence, correct = top(p, labels)
    return confidence - correct


def _nll(p, labels):
    right = (p * _one_hot(p, labels)).sum(axis=-1)
    with np.errstate(divide="ignore"):
        return -np.log(right)


def _brier(p, labels):
    return np.square(p - _one_hot(p, labels)).sum(axis=-1)


def _one_hot(p, labels):
    return np.eye(p.shape[-1])[labels]  # [questions, options]


def _entropy(p, labels):
    surprise = -np.log(np.where(p > 0, p, 1))
    return (p * surprise).sum(axis=-1)


# Each gives [..., questions]; the metric is its mean over the questions.
QUESTION_VALUES = {
    "accuracy": _accuracy,
    "confidence": _confidence,
    "gap": _gap,
    "nll": _nll,
    "brier": _brier,
    "entropy": _entropy,
}


def _mean(name, probabilities, labels):
    return plain(QUESTION_VALUES[name](*check(probabilities, labels)).mean(axis=-1))


def accuracy(probabilities: Probabilities, labels: Labels) -> Score:
    """Share of questions whose most probable option is the right one, the first of equal ones.

    From 0 to 1.

    Examples
    --------
    >>> accuracy([[0.7, 0.3], [0.6, 0.4]], [0, 1])
    0.5
    """
    return _mean("accuracy", probabilities, labels)


def mean_confidence(probabilities: Probabilities, labels: Labels) -> Score:
    """Mean over questions of the largest option probability.

    The labels change nothing, and are asked for so that all metrics are called alike.
    From the mean of 1/options to 1.

    Examples
    --------
    >>> mean_confidence([[0.75, 0.25], [0.5, 0.5]], [0, 1])
    0.625
    """
    return _mean("confidence", probabilities, labels)


def signed_gap(probabilities: Probabilities, labels: Labels) -> Score:
    """Mean confidence minus accuracy: positive is overconfident, negative underconfident.

    Its size never exceeds the ECE, which does not let bins cancel. From -1 to 1.

    Examples
    --------
    >>> signed_gap([[0.75, 0.25], [0.5, 0.5]], [0, 1])
    0.125
    """
    return _mean("gap", probabilities, labels)


def nll(probabilities: Probabilities, labels: Labels) -> Score:
    """Mean negative log probability of the right option, in nats.

    Nothing is clipped: a right option of probability 0 makes it infinite. From 0 to infinity.

    Examples
    --------
    >>> round(nll([[0.5, 0.5]], [0]), 6)
    0.693147
    """
    return _mean("nll", probabilities, labels)


def brier(probabilities: Probabilities, labels: Labels) -> Score:
    """Brier score: mean over questions of the squared error summed over all options [1]_.

    Brier's own scale, 0 to 2; with two options it is twice the binary score. From 0 to 2.

    References
    ----------
    .. [1] Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather
       Review 78, 1950.

    Examples
    --------
    >>> brier([[0.5, 0.5], [1.0, 0.0]], [0, 0])
    0.25
    """
    return _mean("brier", probabilities, labels)


def entropy(probabilities: Probabilities, labels: Labels) -> Score:
    """Mean over questions of the entropy of the option probabilities, in nats.

    The labels change nothing, as in :func:`mean_confidence`. From 0 to the mean of log(options).

    Examples
    --------
    >>> round(entropy([[0.5, 0.5], [1.0, 0.0]], [0, 0]), 6)
    0.346574
    """
    return _mean("entropy", probabilities, labels)
