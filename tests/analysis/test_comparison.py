"""Comparisons: by hand, equal to the metrics, and paired."""

import numpy as np
import pytest

from calib import metrics
from calib.analysis import compare, correlate
from calib.analysis.comparison import METRICS
from calib.metrics import bootstrap
from calib.metrics.resampling import draw_counts

N = 400


@pytest.fixture(scope="module")
def truth():
    """Posteriors of four options, and labels drawn from them."""
    rng = np.random.default_rng(0)
    posterior = rng.dirichlet(np.ones(4), size=N)
    return posterior, np.array([rng.choice(4, p=q) for q in posterior])


@pytest.fixture(scope="module")
def ways(truth):
    """One that knows the truth with some noise, one nearly equal to it, and one far from it."""
    rng = np.random.default_rng(1)
    logits = np.log(truth[0] + 0.05) + rng.normal(scale=0.5, size=(N, 4))

    def answer(z):
        p = np.exp(z)
        return p / p.sum(axis=1, keepdims=True)

    return {
        "plain": answer(logits),
        "near": answer(1.02 * logits),
        "far": answer(0.4 * logits + rng.normal(size=(N, 4))),
    }


@pytest.fixture(scope="module")
def comparison(ways, truth):
    posterior, labels = truth
    return compare(ways, labels, "plain", posterior)


def test_a_comparison_by_hand():
    """Four questions, the last answered wrong. ``bold`` is always at .9; ``wary`` is at .9 but for
    the wrong answer, where it is at .6; ``meek`` is always at .7."""
    ways = {
        "bold": [[0.9, 0.1]] * 4,
        "wary": [[0.9, 0.1]] * 3 + [[0.6, 0.4]],
        "meek": [[0.7, 0.3]] * 4,
    }
    comparison = compare(ways, np.array([0, 0, 0, 1]), "bold", min_count=1)
    expected = {  # of bold, wary, meek
        "accuracy": [0.75, 0.75, 0.75],
        "confidence": [0.9, 0.825, 0.7],
        "ece": [0.15, 0.225, 0.05],  # wary's bins: .1 three times, .6 once
        "mce": [0.15, 0.6, 0.05],
        "nll": -np.log([0.9**3 * 0.1, 0.9**3 * 0.4, 0.7**3 * 0.3]) / 4,
        "auroc": [0.5, 1.0, 0.5],
    }
    assert list(comparison.table.index) == list(comparison.changes.index) == list(ways)
    columns = [name + end for name in expected for end in ("", "_low", "_high")]
    assert list(comparison.table) == list(comparison.changes) == columns
    assert comparison.reference == "bold"
    for name, values in expected.items():
        np.testing.assert_allclose(comparison.table[name], values, atol=1e-12)
        differences = np.subtract(values, values[0])
        np.testing.assert_allclose(comparison.changes[name], differences, atol=1e-12)
    assert comparison.interval("meek", "confidence") == pytest.approx((0.7, 0.7, 0.7))
    assert comparison.change("meek", "confidence") == pytest.approx((-0.2, -0.2, -0.2))


def test_the_values_are_the_metrics_of_each_way(comparison, ways, truth):
    plain = {
        "accuracy": metrics.accuracy,
        "confidence": metrics.mean_confidence,
        "ece": metrics.ece,
        "mce": lambda p, labels: metrics.mce(p, labels, min_count=20),
        "nll": metrics.nll,
        "auroc": metrics.auroc,
    }
    assert tuple(plain) == METRICS
    for name, metric in plain.items():
        for way, p in ways.items():
            assert comparison.interval(way, name)[0] == pytest.approx(metric(p, truth[1]))
            change = metric(p, truth[1]) - metric(ways["plain"], truth[1])
            assert comparison.change(way, name)[0] == pytest.approx(change, abs=1e-12)


def test_the_intervals_are_those_of_each_way_alone(comparison, ways, truth):
    for way, p in ways.items():
        alone = bootstrap(p, truth[1], METRICS, min_count=20)
        for name, interval in alone.items():
            own = (interval.value, interval.low, interval.high)
            assert comparison.interval(way, name) == pytest.approx(own)


def test_bins_and_level_are_passed_on(ways, truth):
    settings = {"n_bins": 4, "min_count": 50, "level": 0.5, "n_resamples": 100, "seed": 3}
    comparison = compare(ways, truth[1], "plain", truth[0], **settings)
    for way, p in ways.items():
        for name, interval in bootstrap(p, truth[1], ("ece", "mce"), **settings).items():
            own = (interval.value, interval.low, interval.high)
            assert comparison.interval(way, name) == pytest.approx(own)
    known = correlate(np.stack(list(ways.values())), truth[0], n_resamples=100, level=0.5, seed=3)
    for i, way in enumerate(ways):
        own = (known.value[i], known.low[i], known.high[i])
        assert comparison.interval(way, "truth") == pytest.approx(own)
    low, high = comparison.change("far", "ece")[1:]
    wide_low, wide_high = compare(ways, truth[1], "plain").change("far", "ece")[1:]
    assert high - low < (wide_high - wide_low) / 2


def test_the_truth_is_numpys_correlation(comparison, ways, truth):
    assert list(comparison.table)[-3:] == ["truth", "truth_low", "truth_high"]
    reliability = truth[0].max(axis=1)
    expected = {w: np.corrcoef(p.max(axis=1), reliability)[0, 1] for w, p in ways.items()}
    for way, correlation in expected.items():
        value, low, high = comparison.interval(way, "truth")
        assert value == pytest.approx(correlation, abs=1e-12)
        assert low < correlation < high
        change = comparison.change(way, "truth")[0]
        assert change == pytest.approx(correlation - expected["plain"], abs=1e-12)


def test_without_a_posterior_there_is_no_truth(ways, truth):
    comparison = compare(ways, truth[1], "plain", n_resamples=10)
    assert not [name for name in comparison.table if "truth" in name]


def test_equal_ways_do_not_differ_in_any_resample(ways, truth):
    posterior, labels = truth
    twice = {"a": ways["plain"], "far": ways["far"], "b": ways["plain"]}
    comparison = compare(twice, labels, "a", posterior)
    assert comparison.changes.shape == (3, 21)
    for name in (*METRICS, "truth"):
        assert comparison.change("a", name) == (0, 0, 0)
        assert comparison.change("b", name) == pytest.approx((0, 0, 0), abs=1e-14)
        low, high = comparison.change("far", name)[1:]
        assert low < high


@pytest.mark.parametrize("metric", ["confidence", "nll", "auroc", "truth"])
def test_a_small_difference_is_surer_than_the_values(comparison, metric):
    """The same questions make both ways look good or bad, and drop out of their difference."""
    _, low, high = comparison.interval("near", metric)
    change, low_change, high_change = comparison.change("near", metric)
    assert 0 < high_change - low_change < (high - low) / 10
    assert low_change <= change <= high_change


def test_a_changes_interval_is_that_of_the_paired_differences(ways, truth):
    """Of accuracy and confidence, which are means: resampled here question by question."""
    labels = truth[1]
    comparison = compare(ways, labels, "plain", n_resamples=300, seed=5, level=0.9)
    counts = draw_counts(np.random.default_rng(5), N, 300).astype(int)
    per_question = {
        "accuracy": {w: (p.argmax(axis=1) == labels).astype(float) for w, p in ways.items()},
        "confidence": {w: p.max(axis=1) for w, p in ways.items()},
    }
    for name, values in per_question.items():
        difference = values["far"] - values["plain"]
        samples = [np.repeat(difference, count).mean() for count in counts]
        limits = (
            np.quantile(samples, 0.05, method="lower"),
            np.quantile(samples, 0.95, method="higher"),
        )
        assert comparison.change("far", name)[1:] == pytest.approx(tuple(limits), abs=1e-12)


def test_the_reference_decides_the_sign(ways, truth):
    labels = truth[1]
    there, back = (compare(ways, labels, way, n_resamples=200) for way in ("plain", "far"))
    np.testing.assert_array_equal(there.table, back.table)
    for name in METRICS:
        value, low, high = there.change("far", name)
        assert back.change("plain", name) == pytest.approx((-value, -high, -low))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": "unsteered"}, "reference is 'unsteered'; it must be one of a, b"),
        ({"labels": [0, 2]}, r"labels\[1\] is 2; with 2 options"),
        ({"labels": [0, 1, 1]}, r"labels have shape \(3,\)"),
        ({"min_count": 20}, "min_count is 20; the fullest bin .* holds 2 questions"),
        (
            {"ways": {"a": [[0.9, 0.1]] * 2, "b": [[0.7, 0.2, 0.1]] * 2}},
            r"the ways have shapes \[\(2, 2\), \(2, 3\)\]; all must be probabilities of the same",
        ),
        ({"ways": {"a": [[0.9, 0.1], [1.0]]}}, "no array can be made of probabilities of 'a'"),
        ({"posterior": [[0.9, 0.1]]}, r"shape \(2, 2, 2\), the posterior \(1, 2\); they must be"),
        ({"posterior": [[0.9, 0.2]] * 2}, r"of the posterior: probabilities\[0\] sums to 1.1"),
        ({"ways": {"a": [[0.9, 0.3]] * 2, "b": [[0.7, 0.3]] * 2}}, "sums to 1.2"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, message):
    arguments = {
        "ways": {"a": [[0.9, 0.1]] * 2, "b": [[0.7, 0.3]] * 2},
        "labels": [0, 1],
        "reference": "a",
        "min_count": 1,
    }
    assert compare(**arguments).reference == "a"
    with pytest.raises(ValueError, match=message):
        compare(**arguments | change)
