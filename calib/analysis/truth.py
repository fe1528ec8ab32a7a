"""What a known truth adds: the best possible scores, and how well confidence follows it.

Where every question's posterior is known, so is the **known probability** of its best answer, the
largest of the posterior, and calibration can be judged without the noise of recorded answers.
"""

from __future__ import annotations

import numpy as np

from calib._checks import check_count, check_level
from calib.metrics import Interval, check
from calib.metrics.arrays import as_array, as_reals
from calib.metrics.binned import bin_index, bin_sums, ece_of
from calib.metrics.inputs import AXES
from calib.metrics.intervals import plain
from calib.metrics.resampling import draw_counts
from calib.reading.reading import Reading


def bayes_scores(reading: Reading) -> dict[str, float]:
    """Expected accuracy and NLL of a forecaster who knows the posterior of every question.

    No model can expect to do better on these questions.

    Examples
    --------
    >>> import numpy as np
    >>> one = Reading(np.zeros((1, 1, 2)), np.array([0]), np.array(["s"]), np.array([[0.8, 0.2]]))
    >>> {name: round(score, 4) for name, score in bayes_scores(one).items()}
    {'accuracy': 0.8, 'nll': 0.5004}
    """
    posterior = reading.known_posterior
    surprise = -np.log(np.where(posterior > 0, posterior, 1))
    return {
        "accuracy": float(posterior.max(axis=1).mean()),
        "nll": float((posterior * surprise).sum(axis=1).mean()),
    }


def true_ece(reading: Reading, n_bins: int = 10) -> np.ndarray:
    """ECE of every layer with the chance of being right in place of being right or wrong.

    The binned calibration error that endless recorded answers to these questions would give: it
    has no sampling noise, so no upward bias, in its accuracies.

    Returns
    -------
    float64 array ``[layers + 1]``
        0 to 1.

    Examples
    --------
    >>> p, truth = [[[0.8, 0.2]]], np.array([[0.7, 0.3]])
    >>> true_ece(Reading(np.log(p), np.array([0]), np.array(["s"]), truth)).round(6).tolist()
    [0.1]
    """
    posterior, p = reading.known_posterior, reading.probabilities
    confidence, answer = p.max(axis=-1), p.argmax(axis=-1)
    chance_right = np.take_along_axis(posterior[None], answer[..., None], axis=-1)[..., 0]
    index = bin_index(confidence, n_bins)
    count, gap = bin_sums(index, n_bins, confidence - chance_right)
    return ece_of(count, gap)


def known_grouping_loss(probabilities, posterior, n_bins: int = 100):
    """The grouping loss that :func:`calib.metrics.grouping_loss` bounds from below.

    Mean over bins of the variance, with n - 1, of the chance of being right. Fine bins are asked
    for, since confidence that differs within a bin adds to it.

    Parameters
    ----------
    probabilities : float array ``[..., questions, options]``
    posterior : float array ``[questions, options]``
        0, like the probabilities, at options that a question does not have.
    n_bins : int
        Equal-width bins of confidence; those with one question are left out.

    Returns
    -------
    float, or float64 array of the leading shape, not negative

    Raises
    ------
    TypeError, ValueError
        As :func:`calib.metrics.check`, of either array; if the shapes do not fit together,
        ``n_bins`` is not an integer of at least 1, or no bin holds two questions.

    Examples
    --------
    >>> p = [[0.7, 0.3], [0.7, 0.3]]
    >>> round(known_grouping_loss(p, [[0.9, 0.1], [0.5, 0.5]]), 6)  # 2 (0.2)²
    0.08
    """
    n_bins = check_count("n_bins", n_bins)
    p, posterior = _check_both(probabilities, posterior)
    index = bin_index(p.max(axis=-1), n_bins)
    chance_right = posterior[np.arange(len(posterior)), p.argmax(axis=-1)]  # [..., questions]
    count, total = bin_sums(index, n_bins, chance_right)  # [..., bins]
    mean = np.take_along_axis(total / np.maximum(count, 1), index, axis=-1)
    _, squares = bin_sums(index, n_bins, (chance_right - mean) ** 2)
    counted = np.where(count > 1, count, 0)
    if not counted.any(axis=-1).all():
        raise ValueError(f"n_bins is {n_bins}; no bin holds two questions: lower it")
    variance = squares / np.maximum(count - 1, 1)
    return plain((counted * variance).sum(axis=-1) / counted.sum(axis=-1))


def _check_both(probabilities, posterior) -> tuple[np.ndarray, np.ndarray]:
    """Both as :func:`calib.metrics.check` gives them, of the same questions and options."""
    p = as_reals("probabilities", probabilities, AXES)
    truth = as_array("the posterior", posterior)
    if truth.ndim != 2 or p.shape[-2:] != truth.shape:
        raise ValueError(
            f"probabilities have shape {p.shape}, the posterior {truth.shape}; they must be "
            "[..., questions, options] and [questions, options]"
        )
    unused = np.zeros(len(truth), dtype=np.int64)
    p, _ = check(p, unused)
    try:
        truth, _ = check(truth, unused)
    except (TypeError, ValueError) as error:
        raise type(error)(f"of the posterior: {error}") from None
    return p, truth


def truth_correlation(
    reading: Reading, *, n_resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Correlation of every layer's confidence with the known probability, over questions.

    Calibration on average says nothing about single questions; this does: does the model doubt the
    questions that deserve it?

    Returns
    -------
    Interval
        Pearson correlations ``[layers + 1]``, -1 to 1, with percentile bootstrap intervals; nan
        where a layer's confidence is the same for all questions, as the embedding's is.

    Examples
    --------
    >>> from calib import load_questions, open_model, read_layers
    >>> reading = read_layers(open_model("almanac"), load_questions("almanac", limit=300))
    >>> bool(truth_correlation(reading, n_resamples=100).low[8] > 0.7)
    True
    """
    return correlate(
        reading.probabilities,
        reading.known_posterior,
        n_resamples=n_resamples,
        level=level,
        seed=seed,
    )


def correlate(
    probabilities, posterior, *, n_resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """:func:`truth_correlation` of any probabilities ``[ways, questions, options]``.

    Raises TypeError or ValueError as :func:`known_grouping_loss` does.

    >>> p = np.array([[[0.9, 0.1], [0.6, 0.4], [0.5, 0.5]]])
    >>> round(float(correlate(p, p[0]).value[0]), 6)
    1.0
    """
    p, posterior = _check_both(probabilities, posterior)
    n_resamples = check_count("n_resamples", n_resamples)
    check_level(level)
    confidence, known = p.max(axis=-1), posterior.max(axis=-1)  # [ways, questions], [questions]
    n_questions = len(known)
    counts = draw_counts(np.random.default_rng(seed), n_questions, n_resamples)
    value = _correlation(confidence, known, np.ones((1, n_questions)))[0]
    samples = _correlation(confidence, known, counts)  # [resamples, ways]
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Interval(value, low, high, samples)


def _correlation(x, y, counts):
    """Correlations ``[resamples, layers]`` of ``x [layers, questions]`` with ``y [questions]``."""
    x, y = (x - x.mean(axis=1, keepdims=True)).T, (y - y.mean())[:, None]  # [questions, ...]
    weights = counts / counts.sum(axis=1, keepdims=True)  # [resamples, questions]
    mean_x, mean_y = weights @ x, weights @ y
    covariance = weights @ (x * y) - mean_x * mean_y
    variance_x, variance_y = weights @ x**2 - mean_x**2, weights @ y**2 - mean_y**2
    variance_x = np.where(variance_x > 1e-12, variance_x, np.nan)
    return covariance / np.sqrt(variance_x * variance_y)
