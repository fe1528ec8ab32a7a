"""Methods that recalibrate the confidence alone: what the answer is, they do not touch.

Recalibrating the most probable option is a problem in one dimension, confidence against right or
wrong, which several of the methods solve each in its way. What they say is written back into option
probabilities by :func:`spread`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from sklearn.isotonic import IsotonicRegression

from calib._checks import check_count
from calib.metrics.arrays import as_reals
from calib.metrics.inputs import check, softmax
from calib.metrics.options import check_n_options
from calib.recalibration.logits import count_present
from calib.recalibration.method import Method

MARGIN = 1e-6  # by which an answer stays above the other options


class TopLabel(Method):
    """A method that gives the answer a new confidence, never below an even guess.

    A confidence below 1/options of the question would deny the answer itself; it is raised to just
    above that.
    """

    def _fit(self, logits, labels, features, subjects):
        p = softmax(logits)
        self._fit_confidence(p.max(axis=1), p.argmax(axis=1) == labels, features)

    def _apply(self, logits, features):
        p = softmax(logits)
        return spread(p, self._recalibrate(p.max(axis=1), features), count_present(logits))

    def _fit_confidence(self, confidence, correct, features) -> None:
        raise NotImplementedError

    def _recalibrate(self, confidence, features) -> np.ndarray:
        raise NotImplementedError


def spread(p, confidence, n_options=None) -> np.ndarray:
    """Probabilities with the same answers and the given confidences.

    The other options share the rest in proportion to what they had; where one of them would then
    pass the answer, they are moved towards equal shares just as far as prevents it.

    Parameters
    ----------
    p : float array ``[questions, options]``
    confidence : float array ``[questions]``
        At most 1; raised to just above 1/options where it is lower.
    n_options : int or int array ``[questions]``, optional
        Options of each question, as ``reading.n_options``, where they differ: those beyond keep a
        probability of 0. All columns if not given.

    Returns
    -------
    float64 array ``[questions, options]``

    Raises
    ------
    TypeError, ValueError
        If the rows of ``p`` are no probabilities, a confidence is above 1 or not a number, or
        ``n_options`` does not fit to them.

    Examples
    --------
    >>> spread([[0.8, 0.15, 0.05]], [0.6]).round(3).tolist()
    [[0.6, 0.3, 0.1]]
    >>> spread([[1.0, 0.0, 0.0]], [0.6], n_options=2).round(3).tolist()
    [[0.6, 0.4, 0.0]]
    """
    p, confidence = _check_spread(p, confidence)
    n_options = check_n_options(n_options, p)[:, None]
    confidence = np.maximum(confidence[:, None], 1 / n_options + MARGIN)
    columns = np.arange(p.shape[1])
    answer = columns == p.argmax(axis=1)[:, None]
    others, most = np.where(answer, 0, p), 1 / (n_options - 1)
    total = others.sum(axis=1, keepdims=True)
    even = np.where(answer | (columns >= n_options), 0, most)
    share = np.divide(others, total, out=even.copy(), where=total > 0)
    largest = share.max(axis=1, keepdims=True)
    # The largest share that stays below the answer. Where the answer has all, there is no limit.
    limit = (confidence - MARGIN / 2) / np.maximum(1 - confidence, MARGIN)
    excess = np.clip((largest - limit) / np.maximum(largest - most, MARGIN), 0, 1)
    share = (1 - excess) * share + excess * even
    return np.where(answer, confidence, (1 - confidence) * share)


def _check_spread(p, confidence) -> tuple[np.ndarray, np.ndarray]:
    p = as_reals("probabilities", p, "[questions, options]")
    if p.ndim != 2:
        raise ValueError(f"probabilities have shape {p.shape}; they must be [questions, options]")
    p, _ = check(p, np.zeros(len(p), dtype=np.int64))
    confidence = as_reals("confidences", confidence, "[questions]")
    if confidence.shape != p.shape[:1]:
        raise ValueError(
            f"confidence has shape {confidence.shape}; there must be one for each of the {len(p)} "
            "questions"
        )
    wrong = ~(confidence <= 1)
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(
            f"confidence[{at}] is {confidence[at]}; it must be at most 1: divide percentages by 100"
        )
    return p, confidence


@dataclass(eq=False)
class HistogramBinning(TopLabel):
    """The confidence becomes the accuracy of its bin on the calibration split [1]_.

    Bins hold equally many calibration questions, to within one and up to ties; where ties would
    leave a bin empty, there is one less. A bin whose answers were all right makes the method
    certain, and NLL infinite where it then errs.

    Parameters
    ----------
    n_bins : int
        At most as many as there are calibration questions.

    Attributes
    ----------
    edges : float array ``[bins - 1]``
        The largest confidence of every bin but the last.
    accuracies : float array ``[bins]``

    References
    ----------
    .. [1] Zadrozny & Elkan, "Obtaining calibrated probability estimates from decision trees and
       naive Bayesian classifiers", ICML 2001.

    Examples
    --------
    >>> logits = np.log([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.7, 0.3]])
    >>> HistogramBinning(n_bins=2).fit(logits, [0, 0, 0, 1])(logits).max(axis=1).round(3).tolist()
    [1.0, 1.0, 0.5, 0.5]
    """

    n_bins: int = 5
    edges: np.ndarray = field(init=False, repr=False, default=None)
    accuracies: np.ndarray = field(init=False, repr=False, default=None)

    def __post_init__(self):
        check_count("n_bins", self.n_bins)

    def _count(self):
        return len(self.edges) + len(self.accuracies)

    def _fit_confidence(self, confidence, correct, features):
        self.edges = equal_mass_edges(confidence, self.n_bins)
        index = np.searchsorted(self.edges, confidence)
        self.accuracies = np.bincount(index, correct) / np.bincount(index)

    def _recalibrate(self, confidence, features):
        return self.accuracies[np.searchsorted(self.edges, confidence)]


def equal_mass_edges(confidence, n_bins: int) -> np.ndarray:
    """Inner edges ``[bins - 1]``: the largest confidence of every bin but the last.

    Equal confidences share a bin, (lo, hi]. Bins that this would leave empty are left out, the
    last one too: it would say what no question has said.

    >>> equal_mass_edges(np.array([0.4, 0.9, 0.6, 0.5]), 2).tolist()
    [0.5]
    """
    if n_bins > len(confidence):
        raise ValueError(
            f"n_bins is {n_bins}, with {len(confidence)} questions; each bin needs at least one"
        )
    parts = np.array_split(np.sort(confidence), n_bins)
    edges = np.unique([part[-1] for part in parts])
    return edges[:-1]  # the last is the largest confidence of all


@dataclass(eq=False)
class Isotonic(TopLabel):
    """The confidence passes through the monotone function of least squares [1]_.

    Fitted by scikit-learn: steps, joined by lines between neighbouring calibration questions.
    Beyond the calibration split's range it stays what it is at the end.
    Like a bin, a step can be certain, and NLL then infinite.

    Attributes
    ----------
    confidences, accuracies : float arrays ``[corners]``
        Corners of the function.

    References
    ----------
    .. [1] Zadrozny & Elkan, "Transforming classifier scores into accurate multiclass probability
       estimates", KDD 2002.

    Examples
    --------
    >>> logits = np.log([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.7, 0.3]])
    >>> Isotonic().fit(logits, [0, 1, 0, 0])(logits).max(axis=1).round(3).tolist()
    [1.0, 0.667, 0.667, 0.667]
    """

    confidences: np.ndarray = field(init=False, repr=False, default=None)
    accuracies: np.ndarray = field(init=False, repr=False, default=None)

    def _count(self):
        return len(self.confidences) + len(self.accuracies)

    def _fit_confidence(self, confidence, correct, features):
        curve = IsotonicRegression(y_min=0, y_max=1).fit(confidence, correct)
        self.confidences, self.accuracies = curve.X_thresholds_, curve.y_thresholds_

    def _recalibrate(self, confidence, features):
        return np.interp(confidence, self.confidences, self.accuracies)
