"""Bootstrap intervals over questions: of the metrics all at once, and of any function."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np

from calib._checks import check_count, check_level
from calib.metrics.arrays import as_array
from calib.metrics.binned import ece, mce
from calib.metrics.bins import bin_index, ece_of, mce_of
from calib.metrics.inputs import Labels, Probabilities, check, top
from calib.metrics.intervals import Interval, plain
from calib.metrics.ranking import auroc, weighted_auroc
from calib.metrics.scores import (
    QUESTION_VALUES,
    accuracy,
    brier,
    entropy,
    mean_confidence,
    nll,
    signed_gap,
)

METRICS = {
    "accuracy": accuracy, "confidence": mean_confidence, "gap": signed_gap, "nll": nll,
    "brier": brier, "entropy": entropy, "ece": ece, "mce": mce, "auroc": auroc,
}  # fmt: skip
CHUNK = 2**22  # questions x resamples held at once; a few arrays of 32 MB


def bootstrap(
    probabilities: Probabilities,
    labels: Labels,
    metrics=("accuracy", "ece", "mce"),
    *,
    n_bins: int = 10,
    min_count: int = 1,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed=0,
) -> dict[str, Interval]:
    """Metrics with percentile bootstrap intervals over questions [1]_.

    The questions are drawn with replacement; layers and options are not.

    ECE and MCE are biased upwards, more in a resample than in the sample, since repeating
    questions adds to the chance deviations of bins. Their percentile interval can therefore lie
    wholly above the value, most for few questions and good calibration. It says how much the
    number would vary, not where the true error is; a difference of layers is rid of the bias only
    as far as they share it.

    Parameters
    ----------
    metrics : sequence of str
        From accuracy, confidence, gap, nll, brier, entropy, ece, mce, auroc.
    n_bins : int
        Equal-width bins of ECE and MCE.
    min_count : int
        Questions a bin needs, in each resample, to count towards MCE.
    n_resamples : int
    level : float
        Between 0 and 1. Limits are order statistics of the resampled values, rounded outwards.
    seed : int or numpy.random.Generator

    Returns
    -------
    dict of str to Interval
        In the order asked for; of no width for one question. A resample is nan, and left out of
        the limits, where its answers are all right or all wrong (auroc) or no bin holds
        ``min_count`` (mce).

    Raises
    ------
    TypeError, ValueError
        As :func:`calib.metrics.check` and :func:`calib.metrics.mce`, if a metric is unknown, or
        ``n_resamples`` or ``level`` is out of range.

    References
    ----------
    .. [1] Efron & Tibshirani, "An introduction to the bootstrap", Chapman & Hall 1993.

    Examples
    --------
    >>> p = [[0.8, 0.2], [0.6, 0.4], [0.7, 0.3], [0.9, 0.1]]
    >>> accuracy = bootstrap(p, [0, 1, 0, 0], ["accuracy"])["accuracy"]
    >>> accuracy.value, accuracy.low, accuracy.high
    (0.75, 0.25, 1.0)
    """
    p, labels = check(probabilities, labels)
    one = isinstance(metrics, str) or not isinstance(metrics, Iterable)
    if one or any(not isinstance(name, str) or name not in METRICS for name in metrics):
        raise ValueError(
            f"metrics is {metrics!r}; it must be a sequence of names from {', '.join(METRICS)}"
        )
    n_bins, min_count = check_count("n_bins", n_bins), check_count("min_count", min_count)
    n_resamples = check_count("n_resamples", n_resamples)
    check_level(level)

    options = {"ece": {"n_bins": n_bins}, "mce": {"n_bins": n_bins, "min_count": min_count}}
    values = {name: METRICS[name](p, labels, **options.get(name, {})) for name in metrics}
    lead, n_questions = p.shape[:-2], p.shape[-2]
    rows = p.reshape(-1, *p.shape[-2:])  # [rows, questions, options]
    resamplers = _resamplers(rows, labels, metrics, n_bins, min_count)
    samples = {name: np.empty((n_resamples, len(rows))) for name in METRICS}
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // n_questions)
    for start in range(0, n_resamples, step):
        stop = min(start + step, n_resamples)
        counts = draw_counts(rng, n_questions, stop - start)
        for values_of in resamplers:
            for name, resampled in values_of(counts).items():
                samples[name][start:stop] = resampled
    return {
        name: Interval.of(values[name], samples[name].reshape(-1, *lead), level) for name in metrics
    }


def draw_counts(rng, n_questions, n_resamples):
    """How often each question is drawn: float64 ``[resamples, questions]``, rows summing to n."""
    draws = rng.integers(n_questions, size=(n_resamples, n_questions))
    draws += np.arange(n_resamples)[:, None] * n_questions
    counts = np.bincount(draws.ravel(), minlength=n_resamples * n_questions)
    return counts.reshape(n_resamples, n_questions).astype(np.float64)


def _resamplers(p, labels, metrics, n_bins, min_count):
    """Functions from counts ``[resamples, questions]`` to ``[resamples, rows]`` for each name."""
    values = {name: QUESTION_VALUES[name](p, labels) for name in metrics if name in QUESTION_VALUES}
    resamplers = [partial(_means, values)]
    confidence, correct = top(p, labels)
    if "ece" in metrics or "mce" in metrics:
        index = bin_index(confidence, n_bins)
        resamplers.append(partial(_binned, index, confidence - correct, min_count))
    if "auroc" in metrics:
        resamplers.append(partial(_auroc, confidence, correct))
    return resamplers


# In the products below counts stand left: their rows are then split among the threads of the
# linear algebra library, which the few rows of the other side are not without much waiting.


def _means(values, counts):
    return {name: _mean(value, counts) for name, value in values.items()}


def _mean(value, counts):
    infinite = np.isinf(value)  # an nll; where such a question is not drawn, 0 times it is nan
    means = counts @ np.where(infinite, 0, value).T / counts.shape[1]  # [resamples, rows]
    if infinite.any():
        means[counts @ infinite.T > 0] = np.inf
    return means


def _binned(index, gap, min_count, counts):
    eces, mces = [], []
    for row_index, row_gap in zip(index, gap, strict=True):
        in_bin = row_index == np.unique(row_index)[:, None]  # [bins in use, questions]
        columns = np.concatenate([in_bin, np.where(in_bin, row_gap, 0)]).T
        count, gap_sum = np.split(counts @ columns, 2, axis=1)  # [resamples, bins in use]
        eces.append(ece_of(count, gap_sum))
        mces.append(mce_of(count, gap_sum, min_count))
    return {"ece": np.stack(eces, axis=1), "mce": np.stack(mces, axis=1)}


def _auroc(confidence, correct, counts):
    by_question = np.ascontiguousarray(counts.T)
    rows = zip(confidence, correct, strict=True)
    return {"auroc": np.stack([weighted_auroc(*row, by_question) for row in rows], axis=1)}


def resample(function, *arrays, n_resamples: int = 1000, level: float = 0.95, seed=0) -> Interval:
    """A function of questions with its percentile bootstrap interval.

    The function is called once on the arrays and once on each resample, questions drawn with
    replacement, the same ones in every array. The metrics of :func:`calib.metrics.bootstrap` are
    faster there; with the same seed both draw the same resamples.

    As there, a number that is biased, as binned errors are, is more so in a resample: the interval
    says how much it would vary.

    Parameters
    ----------
    function : callable
        From the arrays, cut down to a resample, to a number or an array of one fixed shape: several
        metrics at once, or the difference of two models on the same questions.
    *arrays : array_like ``[questions, ...]``
        Questions come first in each; probabilities of layers are
        ``np.moveaxis(p, -2, 0)``, for the function to move back.
    n_resamples : int
    level : float
        Between 0 and 1. Limits are order statistics of the resampled values, rounded outwards.
    seed : int or numpy.random.Generator

    Returns
    -------
    Interval
        Of what the function returns. Resampled values that are nan are left out of the limits.

    Raises
    ------
    TypeError, ValueError
        If ``n_resamples`` or ``level`` is out of range, there is no array, or the arrays do not
        hold equally many questions, at least 1; and whatever the function raises.

    Examples
    --------
    >>> interval = resample(np.mean, [0.0, 1.0, 1.0, 1.0])
    >>> interval.value, interval.low, interval.high
    (0.75, 0.25, 1.0)
    """
    n_resamples = check_count("n_resamples", n_resamples)
    check_level(level)
    arrays = [as_array("the arrays", array) for array in arrays]
    lengths = [array.shape[:1] for array in arrays]
    if len(set(lengths)) != 1 or lengths[0] in ((), (0,)):
        raise ValueError(
            f"the arrays have shapes {[array.shape for array in arrays]}; there must be one at "
            "least, and their first axis must be the same questions, at least 1"
        )
    (n_questions,) = lengths[0]
    value = np.asarray(function(*arrays), dtype=np.float64)
    rng = np.random.default_rng(seed)
    samples = np.empty((n_resamples, *value.shape))
    for i in range(n_resamples):
        drawn = rng.integers(n_questions, size=n_questions)
        samples[i] = function(*(array[drawn] for array in arrays))
    return Interval.of(plain(value), samples, level)
