"""The Brier score of confidence in parts: calibration, discrimination, and what is left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calib.metrics.bins import bin_index, bin_sums
from calib.metrics.inputs import check, check_count, plain, top


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
