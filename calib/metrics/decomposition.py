"""Errors in parts: an ECE by the sign of its gaps, a Brier score by what it is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calib._checks import check_count
from calib.metrics.bins import bin_index, bin_sums
from calib.metrics.inputs import Labels, Probabilities, check, top
from calib.metrics.intervals import plain

ROUNDING = 1e-6  # above what single precision leaves of a bin without a gap, below any real one


@dataclass(frozen=True)
class EceSplit:
    """Parts of an ECE and of the signed gap; see :func:`ece_split`.

    Attributes
    ----------
    over, under : float or float64 array of the leading shape, 0 to 1
        What overconfident and what underconfident bins add to the ECE.
    wrong : float or float64 array of the leading shape, 0 to 1
        What wrong answers add to the gap: the confidence spent on them, (1 - a) E[c | wrong].
    right : float or float64 array of the leading shape, 0 to 1
        What right answers take from it: the confidence missing from them, a (1 - E[c | right]).
    """

    over: float | np.ndarray
    under: float | np.ndarray
    wrong: float | np.ndarray
    right: float | np.ndarray

    @property
    def ece(self):
        """The ECE of the same bins, over + under."""
        return self.over + self.under

    @property
    def gap(self):
        """Mean confidence minus accuracy, wrong - right, which is over - under for any bins."""
        return self.wrong - self.right

    @property
    def holds(self):
        """Whether no bin is underconfident, so that the ECE is wrong - right; bool or array."""
        return self.under < ROUNDING


def ece_split(probabilities: Probabilities, labels: Labels, n_bins: int = 10) -> EceSplit:
    """Split the ECE by the sign of each bin's gap, and the signed gap by right and wrong answers.

    With weight w_b, mean confidence c_b and accuracy a_b of the bins, ECE = over + under with

    - over Σ w_b max(c_b - a_b, 0) and
    - under Σ w_b max(a_b - c_b, 0).

    An ECE alone cannot tell the underconfidence found in recent foundation models, on data like
    their training's [2]_, from the overconfidence of older classifiers; its two parts can.

    If a model is overconfident throughout, its ECE is a difference of two means over questions,

        ECE = (1 - a) E[c | wrong] - a (1 - E[c | right]) = wrong - right,

    and a small ECE may hide much confidence on wrong answers behind little on right ones. The
    condition matters, and ``holds`` says whether it is met: no bin is underconfident. Elsewhere
    wrong - right is still the signed gap, over - under, whose size is only a lower bound on the
    ECE. (After the idea of [1]_; the identity is derived here, and is not its decomposition.)

    Parameters
    ----------
    n_bins : int
        Equal-width bins, (lo, hi], 0 in the first. ``wrong`` and ``right`` do not depend on them.

    References
    ----------
    .. [1] Singh, Bay, Sengupta & Mirabile, "On the dark side of calibration for modern neural
       networks", arXiv 2106.09385, versions 1 and 2; version 3 withdraws it.
    .. [2] Hekler, Kuhn & Buettner, "Beyond overconfidence: foundation models redefine calibration
       in deep neural networks", arXiv 2506.09593.

    Examples
    --------
    >>> split = ece_split([[0.75, 0.25], [0.75, 0.25], [0.5, 0.5]], [0, 1, 0])
    >>> round(split.over, 6), round(split.under, 6), bool(split.holds)
    (0.166667, 0.166667, False)
    >>> split.wrong, split.right
    (0.25, 0.25)
    """
    confidence, correct = top(*check(probabilities, labels))
    n_bins = check_count("n_bins", n_bins)
    _, gap = bin_sums(bin_index(confidence, n_bins), n_bins, confidence - correct)  # [..., bins]
    n_questions = confidence.shape[-1]
    return EceSplit(
        over=plain(np.maximum(gap, 0).sum(axis=-1) / n_questions),
        under=plain(np.maximum(-gap, 0).sum(axis=-1) / n_questions),
        wrong=plain(np.where(correct, 0, confidence).mean(axis=-1)),
        right=plain(np.where(correct, 1 - confidence, 0).mean(axis=-1)),
    )


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


def brier_decomposition(
    probabilities: Probabilities, labels: Labels, n_bins: int = 10
) -> BrierDecomposition:
    """Split the top-label Brier score into reliability, resolution, uncertainty and a rest.

    The score split is binary, mean of (confidence - correct)², not :func:`calib.metrics.brier`.
    With weights w_b, mean confidence c_b and accuracy a_b of the bins, and accuracy a over all:

    - reliability Σ w_b (c_b - a_b)², 0 is best;
    - resolution Σ w_b (a_b - a)², large is best;
    - uncertainty a (1 - a), not the model's doing beyond its accuracy;
    - within, from confidence varying inside bins: mean of d² - 2 d e with d = confidence - c_b
      and e = correct - a_b. Murphy's three parts [1]_ are exact where confidence is constant in
      each bin and this is 0; elsewhere these are the two extra components of [2]_, as one.

    reliability - resolution + uncertainty + within is the score for every input.

    Parameters
    ----------
    n_bins : int
        Equal-width bins of confidence.

    Returns
    -------
    BrierDecomposition
        Each part 0 to 1, but ``within`` -1 to 1.

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
