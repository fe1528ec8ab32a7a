"""How well confidence ranks right answers above wrong ones, whatever its scale."""

from __future__ import annotations

import numpy as np

from calib.metrics.inputs import Labels, Probabilities, Score, check, top
from calib.metrics.intervals import plain


def auroc(probabilities: Probabilities, labels: Labels) -> Score:
    """Probability that a right answer has higher confidence than a wrong one; ties count half.

    How well confidence ranks answers, whatever its scale: 0.5 is chance [1]_.

    Returns
    -------
    Score, 0 to 1
        nan where the answers are all right or all wrong, as with one question: a table of layers
        should not fail for one of them.

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
