"""Scores without bins: accuracy, confidence, likelihood, Brier and its parts, AUROC."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calib.metrics.binned import bin_index, bin_sums
from calib.metrics.checks import check, check_count, plain, top


def _accuracy(p, labels):
    return top(p, labels)[1].astype(np.float64)


def _confidence(p, labels):
    return top(p, labels)[0]


def _gap(p, labels):
    confidence, correct = top(p, labels)
    return confidence - correct


def _nll(p, labels):
    with np.errstate(divide="ignore"):
        return -np.log(p[..., np.arange(len(labels)), labels])


def _brier(p, labels):
    return np.square(p - np.eye(p.shape[-1])[labels]).sum(axis=-1)


# Each gives [..., questions]; the metric is its mean over the questions.
QUESTION_VALUES = {
    "accuracy": _accuracy,
    "confidence": _confidence,
    "gap": _gap,
    "nll": _nll,
    "brier": _brier,
}


def _mean(name, probabilities, labels):
    return plain(QUESTION_VALUES[name](*check(probabilities, labels)).mean(axis=-1))


def accuracy(probabilities, labels):
    """Share of questions whose most probable option is the right one.

    Parameters
    ----------
    probabilities : array_like ``[..., questions, options]``
        The first of equal largest probabilities is the answer.
    labels : array_like of int ``[questions]``

    Returns
    -------
    float, or float64 array of the leading shape, 0 to 1

    Raises
    ------
    TypeError, ValueError
        As :func:`calib.metrics.check`.

    Examples
    --------
    >>> accuracy([[0.7, 0.3], [0.6, 0.4]], [0, 1])
    0.5
    """
    return _mean("accuracy", probabilities, labels)


def mean_confidence(probabilities, labels):
    """Mean over questions of the largest option probability.

    The labels change nothing, and are asked for so that all metrics are called alike.

    Parameters
    ----------
    probabilities : array_like ``[..., questions, options]``
    labels : array_like of int ``[questions]``

    Returns
    -------
    float, or float64 array of the leading shape, 1/options to 1

    Raises
    ------
    TypeError, ValueError
        As :func:`calib.metrics.check`.

    Examples
    --------
    >>> mean_confidence([[0.75, 0.25], [0.5, 0.5]], [0, 1])
    0.625
    """
    return _mean("confidence", probabilities, labels)


def signed_gap(probabilities, labels):
    """Mean confidence minus accuracy: positive is overconfident, negative underconfident.

    Its size never exceeds the ECE, which does not let bins cancel.

    Parameters
    ----------
    probabilities : array_like ``[..., questions, options]``
    labels : array_like of int ``[questions]``

    Returns
    -------
    float, or float64 array of the leading shape, -1 to 1

    Raises
    ------
    TypeError, ValueError
        As :func:`calib.metrics.check`.

    Examples
    --------
    >>> signed_gap([[0.75, 0.25], [0.5, 0.5]], [0, 1])
    0.125
    """
    return _mean("gap", probabilities, labels)


def nll(probabilities, labels):
    """Mean negative log probability of the right option, in nats.

    Nothing is clipped: a right option of probability 0 makes it infinite.

    Parameters
    ----------
    probabilities : array_like ``[..., questions, options]``
    labels : array_like of int ``[questions]``

    Returns
    -------
    float, or float64 array of the leading shape, 0 to infinity

    Raises
    ------
    TypeError, ValueError
        As :func:`calib.metrics.check`.

    Examples
    --------
    >>> round(nll([[0.5, 0.5]], [0]), 6)
    0.693147
    """
    return _mean("nll", probabilities, labels)


def brier(probabilities, labels):
    """Brier score: mean over questions of the squared error summed over all options [1]_.

    Brier's own scale, 0 to 2; with two options it is twice the binary score.

    Parameters
    ----------
    probabilities : array_like ``[..., questions, options]``
    labels : array_like of int ``[questions]``

    Returns
    -------
    float, or float64 array of the leading shape, 0 to 2

    Raises
    ------
    TypeError, ValueError
        As :func:`calib.metrics.check`.

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


@dataclass(frozen=True)
class BrierDecomposition:
    """Parts of the top-label Brier score; see :func:`brier_decomposition`.

    Attributes
    ----------
    reliability, resolution, uncertainty, within : float or float64 array of the leading shape
    """

    reliability: float | np.ndarray
    resolution: float | np.ndarray
    uncertainty: float | np.ndarray
    within: float | np.ndarray

    @property
    def total(self):
        """The top-label Brier score, mean of (confidence - correct) squared."""
        return self.reliability - self.resolution + self.uncertainty + self.within


def brier_decomposition(probabilities, labels, n_bins: int = 10) -> BrierDecomposition:
    """Split the top-label Brier score into reliability, resolution, uncertainty and a rest.

    The score split is binary, mean of (confidence - correct)², not :func:`brier`. With weights
    w_b, mean confidence c_b and accuracy a_b of the bins, and accuracy a over all:

    - reliability Σ w_b (c_b - a_b)², 0 is best;
    - resolution Σ w_b (a_b - a)², large is best;
    - uncertainty a (1 - a), not the model's doing beyond its accuracy;
    - within, from confidence varying inside bins: mean of d² - 2 d e with d = confidence - c_b
      and e = correct - a_b. Murphy's three parts [1]_ are exact where confidence is constant in
      each bin and this is 0; elsewhere these are the two extra components of [2]_, as one.

    reliability - resolution + uncertainty + within is the score for every input.

    Parameters
    ----------
    probabilities : array_like ``[..., questions, options]``
        One question gives resolution and uncertainty 0.
    labels : array_like of int ``[questions]``
    n_bins : int
        Equal-width bins of confidence.

    Returns
    -------
    BrierDecomposition
        Each part 0 to 1, but ``within`` -1 to 1.

    Raises
    ------
    TypeError, ValueError
        As :func:`calib.metrics.check`, or if ``n_bins`` is not an integer of at least 1.

    References
    ----------
    .. [1] Murphy, "A new vector partition of the probability score", Journal of Applied
       Meteorology 12, 1973.
    .. [2] Stephenson, Coelho & Jolliffe, "Two extra components in the Brier score
       decomposition", Weather and Forecasting 23, 2008.

    Examples
    --------
    >>> parts = brier_decomposition([[0.75, 0.25], [0.75, 0.25]], [0, 1])
    >>> parts.reliability, parts.uncertainty, parts.total
    (0.0625, 0.25, 0.3125)
    """
    confidence, correct = top(*check(probabilities, labels))
    n_bins = check_count("n_bins", n_bins)
    index = bin_index(confidence, n_bins)
    count, *sums = bin_sums(index, n_bins, confidence, correct)
    weight = count / correct.shape[-1]  # [..., bins]
    c, a = (total / np.maximum(count, 1) for total in sums)  # [..., bins]
    mean = correct.mean(axis=-1)
    d = confidence - np.take_along_axis(c, index, axis=-1)  # [..., questions]
    e = correct - np.take_along_axis(a, index, axis=-1)
    return BrierDecomposition(
        reliability=plain((weight * (c - a) ** 2).sum(axis=-1)),
        resolution=plain((weight * (a - mean[..., None]) ** 2).sum(axis=-1)),
        uncertainty=plain(mean * (1 - mean)),
        within=plain((d**2 - 2 * d * e).mean(axis=-1)),
    )


def auroc(probabilities, labels):
    """Probability that a right answer has higher confidence than a wrong one; ties count half.

    How well confidence ranks answers, whatever its scale: 0.5 is chance [1]_.

    Parameters
    ----------
    probabilities : array_like ``[..., questions, options]``
    labels : array_like of int ``[questions]``

    Returns
    -------
    float, or float64 array of the leading shape, 0 to 1
        nan where the answers are all right or all wrong, as with one question: a table of layers
        should not fail for one of them.

    Raises
    ------
    TypeError, ValueError
        As :func:`calib.metrics.check`.

    References
    ----------
    .. [1] Hanley & McNeil, "The meaning and use of the area under a receiver operating
       characteristic (ROC) curve", Radiology 143, 1982.

    Examples
    --------
    >>> auroc([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3]], [0, 0, 1])
    0.5
    """
    confidence, correct = top(*check(probabilities, labels))
    n_questions = confidence.shape[-1]
    rows = zip(confidence.reshape(-1, n_questions), correct.reshape(-1, n_questions), strict=True)
    once = np.ones((n_questions, 1))
    areas = [weighted_auroc(*row, once)[0] for row in rows]
    return plain(np.reshape(areas, confidence.shape[:-1]))


def weighted_auroc(confidence, correct, counts):
    """AUROC ``[resamples]`` of questions counting ``[questions, resamples]`` times each."""
    order = np.argsort(confidence[~correct])
    wrong = confidence[~correct][order]
    # Row i: how many wrong answers are among the i least confident of them.
    below = np.zeros((len(wrong) + 1, counts.shape[1]))
    np.cumsum(counts[~correct][order], axis=0, out=below[1:])
    right, right_counts = confidence[correct], counts[correct]
    lower = below[np.searchsorted(wrong, right, side="left")]  # [right, resamples]
    lower_or_equal = below[np.searchsorted(wrong, right, side="right")]
    twice_won = np.einsum("qr,qr->r", right_counts, lower + lower_or_equal)
    with np.errstate(invalid="ignore"):
        return twice_won / (2 * right_counts.sum(axis=0) * below[-1])
