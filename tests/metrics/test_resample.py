"""Resampling any function: refusals, by hand, then against the bootstrap that knows its metrics."""

from math import sqrt

import numpy as np
import pytest

from calib import metrics
from calib.metrics import resample


def forecasts(n=60, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(4), size=n), rng.integers(4, size=n)


@pytest.mark.parametrize(
    ("arrays", "arguments", "error", "message"),
    [
        ([], {}, ValueError, r"shapes \[\]; there must be one at least"),
        ([1.0], {}, ValueError, r"shapes \[\(\)\]"),
        ([[]], {}, ValueError, r"shapes \[\(0,\)\]; .* at least 1"),
        ([[1.0, 2.0], [1.0]], {}, ValueError, r"\[\(2,\), \(1,\)\]; .* the same questions"),
        ([[1.0]], {"level": 95}, ValueError, "level is 95; .* such as 0.95"),
        ([[1.0]], {"n_resamples": 0}, ValueError, "n_resamples is 0"),
        ([[1.0]], {"n_resamples": 1e3}, TypeError, "n_resamples is 1000.0"),
    ],
)
def test_refuses_arguments(arrays, arguments, error, message):
    with pytest.raises(error, match=message):
        resample(lambda *arrays: 0.0, *arrays, **arguments)


def test_a_mean_by_hand():
    interval = resample(np.mean, [0.0, 1.0], n_resamples=4000)
    assert interval.value == 0.5
    values, counts = np.unique(interval.samples, return_counts=True)
    assert values.tolist() == [0, 0.5, 1]
    np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.03)


def test_one_question_has_no_width():
    interval = resample(np.mean, [0.25], n_resamples=5)
    assert (interval.value, interval.low, interval.high) == (0.25, 0.25, 0.25)
    assert interval.samples.tolist() == [0.25] * 5


@pytest.mark.parametrize("name", ["accuracy", "ece", "mce", "auroc"])
def test_equals_the_bootstrap_of_the_same_seed(name):
    p, labels = forecasts()
    known = metrics.bootstrap(p, labels, [name], n_resamples=200, level=0.9, seed=7)[name]
    ours = resample(getattr(metrics, name), p, labels, n_resamples=200, level=0.9, seed=7)
    np.testing.assert_allclose(ours.samples, known.samples, atol=1e-12)
    assert ours.value == known.value
    assert (ours.low, ours.high) == pytest.approx((known.low, known.high), abs=1e-12)


def test_a_mean_has_the_normal_interval_in_large_samples():
    x = np.random.default_rng(0).normal(size=1000)
    interval = resample(np.mean, x, n_resamples=2000)
    half = 1.96 * x.std() / sqrt(1000)
    assert interval.low == pytest.approx(x.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(x.mean() + half, abs=0.1 * half)


def test_arrays_of_values_and_differences():
    p, labels = forecasts()
    sharper = p**2 / (p**2).sum(axis=1, keepdims=True)

    def both(p, q, labels):
        one, other = metrics.ause(p, labels), metrics.ause(q, labels)
        return [[one, other], [one - other, metrics.uce(p, labels) - metrics.uce(q, labels)]]

    interval = resample(both, p, sharper, labels, n_resamples=50)
    assert interval.samples.shape == (50, 2, 2)
    assert interval.value.shape == interval.low.shape == interval.high.shape == (2, 2)
    np.testing.assert_allclose(
        interval.samples[:, 1, 0], interval.samples[:, 0, 0] - interval.samples[:, 0, 1], atol=1e-15
    )


def test_undefined_resamples_are_left_out_of_the_limits():
    """With one wrong answer of three, a third of the resamples has none or nothing else."""
    p, labels = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], [0, 1, 0]
    interval = resample(metrics.auroc, p, labels)
    undefined = np.isnan(interval.samples).mean()
    assert undefined == pytest.approx((2 / 3) ** 3 + (1 / 3) ** 3, abs=0.05)
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_what_the_function_raises_is_raised():
    with pytest.raises(ValueError, match="labels have shape"):
        resample(lambda p: metrics.ece(p, [0]), [[0.9, 0.1]] * 3)
