"""Bootstrap: refusals, cases worked by hand, then equality with the plain metrics."""

import sys
from math import inf, sqrt

import numpy as np
import pytest
from support.forecasts import forecasts

from calib import metrics
from calib.metrics import bootstrap, resample
from calib.metrics.resampling import METRICS, draw_counts

ALL = tuple(METRICS)


def confident(confidence, n_right):
    """Two-option probabilities; the first ``n_right`` questions are answered right."""
    c = np.asarray(confidence, dtype=float)
    return np.stack([c, 1 - c], axis=-1), (np.arange(len(c)) >= n_right).astype(int)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"metrics": ("ece", "aurc")}, ValueError, "aurc.* names from accuracy, confidence, gap,"),
        ({"metrics": "ece"}, ValueError, "metrics is 'ece'; it must be a sequence of names"),
        ({"metrics": None}, ValueError, "metrics is None; it must be a sequence of names"),
        ({"metrics": [["ece"]]}, ValueError, r"metrics is \[\['ece'\]\]; it must be"),
        ({"level": 95}, ValueError, "level is 95; .* such as 0.95"),
        ({"level": 1.0}, ValueError, "level is 1.0"),
        ({"n_resamples": 0}, ValueError, "n_resamples is 0"),
        ({"n_resamples": 1e3}, TypeError, "n_resamples is 1000.0"),
        ({"n_bins": 0}, ValueError, "n_bins is 0"),
        ({"min_count": 0}, ValueError, "min_count is 0"),
        ({"min_count": 61}, ValueError, "min_count is 61; the fullest bin .* lower min_count"),
    ],
)
def test_refuses_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        bootstrap(*forecasts(n=60), **arguments)


def test_refuses_input():
    with pytest.raises(ValueError, match=r"probabilities\[0\] sums to 1.5"):
        bootstrap([[1.0, 0.5]], [0])


def test_one_question_has_no_width():
    intervals = bootstrap([[0.75, 0.25]], [1], n_resamples=5)
    assert list(intervals) == ["accuracy", "ece", "mce"]
    for name, value in {"accuracy": 0.0, "ece": 0.75, "mce": 0.75}.items():
        interval = intervals[name]
        assert (interval.value, interval.low, interval.high) == (value, value, value)
        assert interval.samples.tolist() == [value] * 5


def test_two_questions_resample_binomially():
    p, labels = confident([0.8, 0.8], n_right=1)
    samples = bootstrap(p, labels, ["accuracy"], n_resamples=8000)["accuracy"].samples
    values, counts = np.unique(samples, return_counts=True)
    assert values.tolist() == [0, 0.5, 1]
    np.testing.assert_allclose(counts / 8000, [0.25, 0.5, 0.25], atol=0.02)


def test_counts_are_resamples():
    counts = draw_counts(np.random.default_rng(0), n_questions=50, n_resamples=2000)
    assert counts.shape == (2000, 50)
    assert (counts.sum(axis=1) == 50).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.15)
    assert counts.var() == pytest.approx(49 / 50, abs=0.02)  # binomial, n = 50, p = 1/50


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_value_is_the_plain_metric(lead):
    p, labels = forecasts(*lead, n=60)
    intervals = bootstrap(p, labels, ALL, n_bins=7, min_count=5, n_resamples=10)
    assert tuple(intervals) == ALL
    options = {"ece": {"n_bins": 7}, "mce": {"n_bins": 7, "min_count": 5}}
    for name in ALL:
        plain = METRICS[name](p, labels, **options.get(name, {}))
        np.testing.assert_array_equal(intervals[name].value, plain)
        assert intervals[name].samples.shape == (10, *lead)
        assert np.shape(intervals[name].low) == np.shape(intervals[name].high) == lead
        assert lead or isinstance(intervals[name].low, float)


def test_samples_are_the_plain_metrics_of_the_resampled_questions():
    p, labels = forecasts(3, n=60)
    intervals = bootstrap(p, labels, ALL, n_bins=7, min_count=5, n_resamples=20, seed=4)
    counts = draw_counts(np.random.default_rng(4), 60, 20).astype(int)
    options = {"ece": {"n_bins": 7}, "mce": {"n_bins": 7, "min_count": 5}}
    for r in (0, 7, 19):
        drawn = np.repeat(np.arange(60), counts[r])
        for name in ALL:
            plain = METRICS[name](p[:, drawn], labels[drawn], **options.get(name, {}))
            np.testing.assert_allclose(intervals[name].samples[r], plain, rtol=1e-12)


def test_layers_share_their_resamples_and_equal_one_at_a_time():
    p, labels = forecasts(2, 2, n=60)
    p[1, 1] = p[0, 0]
    together = bootstrap(p, labels, ALL, n_resamples=30)
    alone = bootstrap(p[0, 1], labels, ALL, n_resamples=30)
    for name in ALL:
        samples = together[name].samples
        np.testing.assert_array_equal(samples[:, 0, 0], samples[:, 1, 1])
        assert not np.array_equal(samples[:, 0, 0], samples[:, 0, 1])
        np.testing.assert_allclose(samples[:, 0, 1], alone[name].samples, rtol=1e-12)
        assert together[name].low[0, 1] == pytest.approx(alone[name].low)


def test_chunks_change_nothing(monkeypatch):
    p, labels = forecasts(2, n=60)
    whole = bootstrap(p, labels, ALL, n_resamples=25)
    # By its entry in sys.modules: as an attribute the module is hidden by the function.
    monkeypatch.setattr(sys.modules[bootstrap.__module__], "CHUNK", 60 * 7)
    in_chunks = bootstrap(p, labels, ALL, n_resamples=25)
    for name in ALL:
        np.testing.assert_allclose(in_chunks[name].samples, whole[name].samples, rtol=1e-12)


def test_seed_decides():
    p, labels = forecasts(n=60)
    first, again = (bootstrap(p, labels, seed=3, n_resamples=9)["ece"] for _ in range(2))
    other = bootstrap(p, labels, seed=4, n_resamples=9)["ece"]
    np.testing.assert_array_equal(first.samples, again.samples)
    assert not np.array_equal(first.samples, other.samples)
    assert first.value == other.value


def test_limits_enclose_the_quantiles_narrowly():
    p, labels = forecasts(2, n=300)
    for interval in bootstrap(p, labels, ALL, level=0.9).values():
        low, high = np.quantile(interval.samples, [0.05, 0.95], axis=0)
        lower, higher = np.quantile(interval.samples, [0.048, 0.952], axis=0)
        assert ((lower <= interval.low) & (interval.low <= low)).all()
        assert ((high <= interval.high) & (interval.high <= higher)).all()


def test_accuracy_interval_is_the_normal_one_in_large_samples():
    p, labels = confident(np.full(2000, 0.8), n_right=1400)
    interval = bootstrap(p, labels, ["accuracy"], n_resamples=4000)["accuracy"]
    half = 1.959964 * sqrt(0.7 * 0.3 / 2000)
    assert interval.low == pytest.approx(0.7 - half, abs=half / 10)
    assert interval.high == pytest.approx(0.7 + half, abs=half / 10)


def test_wider_level_wider_interval():
    p, labels = forecasts(n=60)
    narrow, wide = (bootstrap(p, labels, ["nll"], level=level)["nll"] for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_interval_of_ece_can_lie_above_it():
    confidence = np.repeat([0.6, 0.7, 0.8, 0.9], 10)
    p = np.stack([confidence, 1 - confidence], axis=-1)
    labels = np.concatenate([[0] * right + [1] * (10 - right) for right in (6, 7, 8, 9)])
    interval = bootstrap(p, labels, ["ece"])["ece"]
    assert interval.value == pytest.approx(0, abs=1e-12)
    assert interval.low > 0.02


def test_infinite_nll_spreads_only_to_resamples_that_hold_it():
    p, labels = confident([1.0, 0.8, 0.7, 0.6], n_right=4)
    labels[0] = 1
    interval = bootstrap(p, labels, ["nll"], n_resamples=400)["nll"]
    drawn = draw_counts(np.random.default_rng(0), 4, 400)[:, 0] > 0
    assert 0 < drawn.sum() < 400
    np.testing.assert_array_equal(np.isinf(interval.samples), drawn)
    assert not np.isnan(interval.samples).any()
    assert (interval.value, interval.high) == (inf, inf)
    assert interval.low < 1


def test_undefined_auroc_is_left_out_of_the_limits():
    p, labels = confident([0.9, 0.8, 0.7], n_right=2)
    interval = bootstrap(p, labels, ["auroc"], n_resamples=200)["auroc"]
    wrong = draw_counts(np.random.default_rng(0), 3, 200)[:, 2]
    undefined = (wrong == 0) | (wrong == 3)
    assert 0 < undefined.sum() < 200
    np.testing.assert_array_equal(np.isnan(interval.samples), undefined)
    assert (interval.value, interval.low, interval.high) == (1, 1, 1)
    never = bootstrap(p, [0, 0, 0], ["auroc"], n_resamples=5)["auroc"]
    assert np.isnan([never.value, never.low, never.high, *never.samples]).all()


def test_mce_is_undefined_where_a_resample_has_no_full_bin():
    p, labels = confident([0.55, 0.55, 0.55, 0.65, 0.75, 0.85, 0.95], n_right=7)
    interval = bootstrap(p, labels, ["mce"], min_count=3, n_resamples=300)["mce"]
    counts = draw_counts(np.random.default_rng(0), 7, 300)
    fullest = np.concatenate([counts[:, :3].sum(axis=1, keepdims=True), counts[:, 3:]], axis=1)
    undefined = fullest.max(axis=1) < 3
    assert 0 < undefined.sum() < 300
    np.testing.assert_array_equal(np.isnan(interval.samples), undefined)
    assert interval.value == pytest.approx(0.45)
    assert interval.high == pytest.approx(0.45)
    assert metrics.mce(p, labels, min_count=3) == interval.value


# Of any function


def dirichlet_forecasts(n=60, seed=0):
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
def test_refuses_arguments_of_any_function(arrays, arguments, error, message):
    with pytest.raises(error, match=message):
        resample(lambda *arrays: 0.0, *arrays, **arguments)


def test_a_mean_by_hand():
    interval = resample(np.mean, [0.0, 1.0], n_resamples=4000)
    assert interval.value == 0.5
    values, counts = np.unique(interval.samples, return_counts=True)
    assert values.tolist() == [0, 0.5, 1]
    np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.03)


def test_one_question_has_no_width_of_any_function():
    interval = resample(np.mean, [0.25], n_resamples=5)
    assert (interval.value, interval.low, interval.high) == (0.25, 0.25, 0.25)
    assert interval.samples.tolist() == [0.25] * 5


@pytest.mark.parametrize("name", ["accuracy", "ece", "mce", "auroc"])
def test_equals_the_bootstrap_of_the_same_seed(name):
    p, labels = dirichlet_forecasts()
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
    p, labels = dirichlet_forecasts()
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
