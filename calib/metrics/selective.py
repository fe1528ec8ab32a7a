"""Does uncertainty sort out the errors: what is gained by leaving the doubtful questions out.

Two of these measures, :func:`aurc` and :func:`ause`, ask for the order of the questions only, as
:func:`calib.metrics.auroc` does; the third, :func:`uce`, for numbers that match. A model can do
well on either kind and badly on the other.
"""

from __future__ import annotations

import numpy as np

from calib._checks import check_count
from calib.metrics.bins import bin_index, bin_sums, ece_of
from calib.metrics.inputs import Labels, Probabilities, Score, check, top
from calib.metrics.intervals import plain
from calib.metrics.options import check_n_options
from calib.metrics.scores import QUESTION_VALUES


def aurc(probabilities: Probabilities, labels: Labels) -> Score:
    """Area under the risk-coverage curve: the error rate when only the most certain are answered.

    Mean over k = 1 ... n of the error rate among the k questions of highest confidence [1]_. The
    uncertainty of a question is 1 - confidence, and only its order matters.

    Between equal confidences no order is preferred: the error rates are the expected ones over all
    orders of tied questions, so the order of the questions is of no account.

    Returns
    -------
    Score, 0 to 1
        The error rate itself where confidence says nothing; lower is better. Models of different
        accuracy are better compared by :func:`ause`.

    References
    ----------
    .. [1] Geifman & El-Yaniv, "Selective classification for deep neural networks", NeurIPS 2017.

    Examples
    --------
    >>> aurc([[0.9, 0.1], [0.8, 0.2]], [0, 1]), aurc([[0.9, 0.1], [0.8, 0.2]], [1, 0])
    (0.25, 0.75)
    """
    return _by_row(
        lambda error, uncertainty: risks(error, uncertainty).mean(), probabilities, labels
    )


def ause(probabilities: Probabilities, labels: Labels) -> Score:
    """Area under the sparsification error: how far uncertainty is from the best order of errors.

    Questions are removed one by one, the most uncertain first, and the error rate of the others is
    compared with what it would be had the wrong answers been removed first: the mean gap of the
    two over removed fractions 0, 1/n ... (n - 1)/n [1]_ [2]_. Uncertainty is 1 - confidence, only
    its order matters, and tied questions count by expectation as in :func:`aurc`.

    It is :func:`aurc` less the AURC of the best order, known as excess AURC. Choices: the error is
    1 for a wrong answer, 0 for a right one, and the curves are not scaled to start at 1.

    Returns
    -------
    Score, 0 to 1
        0 where every right answer has higher confidence than every wrong one, and where all
        answers are right or all are wrong.

    References
    ----------
    .. [1] Ilg et al., "Uncertainty estimates and multi-hypotheses networks for optical flow",
       ECCV 2018.
    .. [2] Wolf, Balaji, Braun & Ulrich, "Decoupling of neural network calibration measures",
       arXiv 2406.02411.

    Examples
    --------
    >>> ause([[0.9, 0.1], [0.8, 0.2]], [0, 1]), ause([[0.9, 0.1], [0.8, 0.2]], [1, 0])
    (0.0, 0.5)
    """
    return _by_row(sparsification_error, probabilities, labels)


def uce(probabilities: Probabilities, labels: Labels, n_bins: int = 15, n_options=None) -> Score:
    """Uncertainty calibration error: normalised entropy against the error rate, in bins.

    Σ w_b |e_b - u_b| with weight w_b, error rate e_b and mean uncertainty u_b of the bins [1]_
    [2]_. Uncertainty is the entropy of the option probabilities divided by the log of the number
    of options that the question has.

    It is not 0 for a calibrated model, since entropy is no probability of error: among four equal
    options it is 1, the error rate 3/4. From 0 to 1.

    Parameters
    ----------
    n_bins : int
        Bins of equal width of the normalised entropy, (lo, hi], 0 in the first.
    n_options : int or int array ``[questions]``, optional
        Options of each question, as ``reading.n_options``, where they differ: an option of
        probability 0 does not tell whether it is there. All columns if not given.

    References
    ----------
    .. [1] Laves, Ihler, Kortmann & Ortmaier, "Well-calibrated model uncertainty with temperature
       scaling for dropout variational inference", NeurIPS workshop on Bayesian deep learning 2019.
    .. [2] Wolf, Balaji, Braun & Ulrich, "Decoupling of neural network calibration measures",
       arXiv 2406.02411.

    Examples
    --------
    >>> uce([[0.25, 0.25, 0.25, 0.25]] * 4, [0, 1, 2, 3])
    0.25
    """
    p, labels = check(probabilities, labels)
    n_bins = check_count("n_bins", n_bins)
    uncertainty = QUESTION_VALUES["entropy"](p, labels) / np.log(check_n_options(n_options, p))
    wrong = ~top(p, labels)[1]
    sums = bin_sums(bin_index(uncertainty, n_bins), n_bins, uncertainty - wrong)
    return plain(ece_of(*sums))


def risks(error, uncertainty):
    """Mean error of the k most certain ``[questions]``, k = 1 ... n, over all orders of ties.

    >>> risks([1, 0, 0], [0.2, 0.2, 0.5]).round(6).tolist()
    [0.5, 0.5, 0.333333]
    """
    _, group, size = np.unique(uncertainty, return_inverse=True, return_counts=True)
    # A mean of k errors is linear in them: its expectation is that of every question's expected
    # error at its place, and each place within ties expects the mean of the group.
    expected = np.repeat(np.bincount(group, error) / size, size)  # the most certain first
    return expected.cumsum() / np.arange(1, len(expected) + 1)


def mean_risk(error, uncertainty):
    """Mean of :func:`risks`.

    >>> round(float(mean_risk([0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.5])), 6)
    0.386667
    """
    return risks(error, uncertainty).mean()


def sparsification_error(error, uncertainty):
    """:func:`mean_risk` above that of an uncertainty in the order of the error itself.

    >>> round(float(sparsification_error([0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.5])), 6)
    0.1
    """
    return mean_risk(error, uncertainty) - mean_risk(error, error)


def _by_row(measure, probabilities, labels):
    confidence, correct = top(*check(probabilities, labels))
    n_questions = confidence.shape[-1]
    rows = zip(confidence.reshape(-1, n_questions), correct.reshape(-1, n_questions), strict=True)
    # -confidence has the order of 1 - confidence, and no ties from rounding.
    values = [measure(~right, -sure) for sure, right in rows]
    return plain(np.reshape(values, confidence.shape[:-1]))
