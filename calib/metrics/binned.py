"""Calibration errors over bins of confidence.

Bins are (lo, hi], 0 belongs to the first and 1 to the last, and edges are compared in float64.
With four options no confidence is below 0.25, so 10 equal-width bins are 8 in use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calib._checks import check_count
from calib.metrics.bins import bin_index, bin_sums, check_some_bin, ece_of, mce_of
from calib.metrics.inputs import Labels, Probabilities, Score, check, top
from calib.metrics.intervals import plain


@dataclass(frozen=True)
class ReliabilityTable:
    """What a reliability diagram shows; see :func:`reliability_table`.

    Attributes
    ----------
    edges : float64 array ``[bins + 1]``
    count : int64 array ``[..., bins]``
    confidence, accuracy : float64 array ``[..., bins]``
        Means over the questions of the bin, nan where it is empty.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability_table(
    probabilities: Probabilities, labels: Labels, n_bins: int = 10
) -> ReliabilityTable:
    """Count, mean confidence and accuracy of each equal-width bin of confidence.

    Parameters
    ----------
    n_bins : int
        Bins of equal width on 0 to 1, (lo, hi], 0 in the first.

    Examples
    --------
    >>> table = reliability_table([[0.8, 0.2], [0.6, 0.4], [0.9, 0.1]], [0, 0, 1], n_bins=4)
    >>> table.count.tolist(), table.accuracy[2:].tolist()
    ([0, 0, 1, 2], [1.0, 0.5])
    """
    confidence, correct = top(*check(probabilities, labels))
    n_bins = check_count("n_bins", n_bins)
    index = bin_index(confidence, n_bins)
    count, confident, right = bin_sums(index, n_bins, confidence, correct)
    with np.errstate(invalid="ignore"):
        return ReliabilityTable(
            edges=np.arange(n_bins + 1) / n_bins,
            count=count.astype(np.int64),
            confidence=confident / count,
            accuracy=right / count,
        )


def ece(
    probabilities: Probabilities, labels: Labels, n_bins: int = 10, binning: str = "equal-width"
) -> Score:
    """Expected calibration error: mean over questions of their bin's |confidence - accuracy|.

    Biased upwards: chance deviations of bins do not cancel, the more so the fewer questions each
    holds. :func:`debiased_l2` corrects for this, :func:`smooth_ece` needs no bins. One question
    gives |confidence - correct|. From 0 to 1.

    Parameters
    ----------
    n_bins : int
    binning : {"equal-width", "equal-mass"}
        Equal-width bins are (lo, hi], 0 in the first [1]_. Equal-mass bins hold equally many
        questions to within one, split after a stable sort [2]_; equal confidences may then fall in
        different bins, by the order of the questions.

    Raises
    ------
    TypeError, ValueError
        As :func:`calib.metrics.check`, if ``n_bins`` is not an integer of at least 1, or
        ``binning`` is unknown.

    References
    ----------
    .. [1] Guo, Pleiss, Sun & Weinberger, "On calibration of modern neural networks", ICML 2017,
       section 2.
    .. [2] Nixon et al., "Measuring calibration in deep learning", CVPR workshops 2019.

    Examples
    --------
    >>> ece([[0.75, 0.25], [0.75, 0.25]], [0, 1])
    0.25
    """
    confidence, correct = top(*check(probabilities, labels))
    return plain(ece_of(*_count_and_gap(confidence, correct, n_bins, binning)))


def _count_and_gap(confidence, correct, n_bins, binning="equal-width"):
    n_bins = check_count("n_bins", n_bins)
    return bin_sums(bin_index(confidence, n_bins, binning), n_bins, confidence - correct)


def mce(
    probabilities: Probabilities, labels: Labels, n_bins: int = 10, min_count: int = 1
) -> Score:
    """Maximum calibration error: the largest |confidence - accuracy| of an equal-width bin [1]_.

    Bins of one question dominate it, with an error of at least 1 - confidence; ask for a minimum
    count, and see the counts in :func:`reliability_table`. From 0 to 1.

    Parameters
    ----------
    n_bins : int
    min_count : int
        Bins with fewer questions are left out.

    Raises
    ------
    TypeError, ValueError
        As :func:`calib.metrics.check`, if ``n_bins`` or ``min_count`` is not an integer of at
        least 1, or no bin holds ``min_count`` questions.

    References
    ----------
    .. [1] Guo, Pleiss, Sun & Weinberger, "On calibration of modern neural networks", ICML 2017,
       section 2.

    Examples
    --------
    >>> p = [[0.75, 0.25], [0.75, 0.25], [0.5, 0.5]]
    >>> mce(p, [0, 1, 0]), mce(p, [0, 1, 0], min_count=2)
    (0.5, 0.25)
    """
    confidence, correct = top(*check(probabilities, labels))
    min_count = check_count("min_count", min_count)
    count, gap = _count_and_gap(confidence, correct, n_bins)
    check_some_bin(count, min_count)
    return plain(mce_of(count, gap, min_count))


def classwise_ece(probabilities: Probabilities, labels: Labels, n_bins: int = 10) -> Score:
    """Mean over options of the ECE of that option's probability against its being right [1]_.

    Looks at every option, not only the most probable; equal-width bins. From 0 to 1.

    Parameters
    ----------
    n_bins : int

    References
    ----------
    .. [1] Kull et al., "Beyond temperature scaling: obtaining well-calibrated multiclass
       probabilities with Dirichlet calibration", NeurIPS 2019.

    Examples
    --------
    >>> classwise_ece([[0.75, 0.25], [0.75, 0.25]], [0, 1])
    0.25
    """
    p, labels = check(probabilities, labels)
    by_option = np.moveaxis(p, -1, -2)  # [..., options, questions]
    is_right = labels == np.arange(p.shape[-1])[:, None]  # [options, questions]
    return plain(ece_of(*_count_and_gap(by_option, is_right, n_bins)).mean(axis=-1))


def debiased_l2(
    probabilities: Probabilities, labels: Labels, n_bins: int = 10, binning: str = "equal-width"
) -> Score:
    """Root mean square calibration error over bins, less what chance alone would add [1]_.

    The root of Σ w_b [(c_b - a_b)² - a_b (1 - a_b) / (n_b - 1)], or 0 where the sum is negative,
    with weight w_b, mean confidence c_b, accuracy a_b and n_b questions in bin b. Bins of one
    question add 0. From 0 to 1.

    Parameters
    ----------
    n_bins : int
    binning : {"equal-width", "equal-mass"}
        As in :func:`ece`.

    References
    ----------
    .. [1] Kumar, Liang & Ma, "Verified uncertainty calibration", NeurIPS 2019.

    Examples
    --------
    >>> p = [[1.0, 0.0]] * 4
    >>> debiased_l2(p, [1, 1, 1, 1]), debiased_l2(p, [0, 0, 0, 1])
    (1.0, 0.0)
    """
    confidence, correct = top(*check(probabilities, labels))
    n_bins = check_count("n_bins", n_bins)
    index = bin_index(confidence, n_bins, binning)
    count, gap, right = bin_sums(index, n_bins, confidence - correct, correct)
    a = right / np.maximum(count, 1)
    squared = (gap / np.maximum(count, 1)) ** 2 - a * (1 - a) / np.maximum(count - 1, 1)
    weight = np.where(count >= 2, count, 0) / confidence.shape[-1]
    return plain(np.sqrt(np.maximum((weight * squared).sum(axis=-1), 0)))
