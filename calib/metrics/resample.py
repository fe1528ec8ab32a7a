"""Bootstrap intervals of any function of questions, where :func:`bootstrap` knows no shortcut."""

from __future__ import annotations

import numpy as np

from calib.metrics.inputs import check_count, plain
from calib.metrics.resampling import Interval, interval_of


def resample(function, *arrays, n_resamples: int = 1000, level: float = 0.95, seed=0) -> Interval:
    """A function of questions with its percentile bootstrap interval [1]_.

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

    References
    ----------
    .. [1] Efron & Tibshirani, "An introduction to the bootstrap", Chapman & Hall 1993.

    Examples
    --------
    >>> interval = resample(np.mean, [0.0, 1.0, 1.0, 1.0])
    >>> interval.value, interval.low, interval.high
    (0.75, 0.25, 1.0)
    """
    n_resamples = check_count("n_resamples", n_resamples)
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie between 0 and 1, such as 0.95")
    arrays = [np.asarray(array) for array in arrays]
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
    return interval_of(plain(value), samples, level)
