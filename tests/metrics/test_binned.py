"""Errors over bins: refusals, edges, then literal values by hand and from papers."""

from fractions import Fraction
from math import ceil, sqrt

import numpy as np
import pytest
from support.forecasts import two_options

from calib import metrics
from calib.metrics.bins import bin_index

FINE = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]


@pytest.mark.parametrize(
    "metric",
    [
        metrics.ece,
        metrics.mce,
        metrics.classwise_ece,
        metrics.debiased_l2,
        metrics.reliability_table,
        metrics.brier_decomposition,
    ],
)
@pytest.mark.parametrize(
    ("n_bins", "error"), [(0, ValueError), (-1, ValueError), (10.0, TypeError), (True, TypeError)]
)
def test_refuses_bins(metric, n_bins, error):
    with pytest.raises(error, match=f"n_bins is {n_bins}; it must be an integer of at least 1"):
        metric(FINE, [0, 1], n_bins=n_bins)


@pytest.mark.parametrize("metric", [metrics.ece, metrics.debiased_l2])
def test_refuses_unknown_binning(metric):
    with pytest.raises(ValueError, match=r"binning is 'mass'; .* equal-width, equal-mass"):
        metric(FINE, [0, 1], binning="mass")


def test_mce_refuses_when_no_bin_is_left():
    with pytest.raises(ValueError, match="min_count is 3; the fullest bin holds 1 questions"):
        metrics.mce(FINE, [0, 1], min_count=3)
    layers = [[FINE[0], FINE[0]], FINE]
    with pytest.raises(ValueError, match=r"at leading index \[1\] holds 1 questions"):
        metrics.mce(layers, [0, 1], min_count=2)
    with pytest.raises(ValueError, match="min_count is 0"):
        metrics.mce(FINE, [0, 1], min_count=0)


def test_ece_with_confidence_exactly_one():
    p, labels = two_options([1, 1, 1, 1, 0.95, 0.92], [1, 1, 1, 0, 1, 1])
    assert metrics.ece(p, labels, n_bins=10) == pytest.approx(0.145, abs=1e-12)


def test_edges_close_on_the_right():
    bin_of = {0.0: 0, 0.1: 0, 0.1000001: 1, 0.3: 2, 0.7: 6, 0.9: 8, 0.9000001: 9, 1.0: 9}
    assert bin_index(np.array(list(bin_of)), 10).tolist() == list(bin_of.values())


@pytest.mark.parametrize("n_bins", [2, 3, 7, 10, 15, 20, 100])
def test_edges_agree_with_exact_arithmetic(n_bins):
    pairs = [(k, m) for m in (10, 20, n_bins, 2 * n_bins) for k in range(1, m + 1)]
    exact = [ceil(Fraction(k, m) * n_bins) - 1 for k, m in pairs]
    assert bin_index(np.array([k / m for k, m in pairs]), n_bins).tolist() == exact


def test_reliability_table_by_hand():
    p, labels = two_options([0.5, 0.55, 0.6, 0.95, 1.0], [1, 0, 1, 1, 0])
    table = metrics.reliability_table(p, labels, n_bins=10)
    assert table.edges.tolist() == [k / 10 for k in range(11)]
    assert table.count.tolist() == [0, 0, 0, 0, 1, 2, 0, 0, 0, 2]
    np.testing.assert_allclose(table.confidence[[4, 5, 9]], [0.5, 0.575, 0.975])
    np.testing.assert_allclose(table.accuracy[[4, 5, 9]], [1, 0.5, 0.5])
    empty = table.count == 0
    assert np.isnan(table.confidence[empty]).all()
    assert np.isnan(table.accuracy[empty]).all()


def test_mce_leaves_small_bins_out():
    p, labels = two_options([0.55, 0.55, 0.55, 0.85], [1, 1, 0, 0])
    assert metrics.mce(p, labels) == pytest.approx(0.85)
    assert metrics.mce(p, labels, min_count=2) == pytest.approx(2 / 3 - 0.55)


def test_equal_mass_by_hand():
    p, labels = two_options([0.9, 0.6, 0.8, 0.7], [1, 0, 0, 1])
    by_two = metrics.ece(p, labels, n_bins=2, binning="equal-mass")
    assert by_two == pytest.approx((0.15 + 0.35) / 2)  # {.6, .7} and {.8, .9}
    by_three = metrics.ece(p, labels, n_bins=3, binning="equal-mass")
    assert by_three == pytest.approx((2 * 0.15 + 0.8 + 0.1) / 4)  # {.6, .7}, {.8} and {.9}
    alone = metrics.ece(p, labels, n_bins=9, binning="equal-mass")
    assert alone == pytest.approx((0.6 + 0.3 + 0.8 + 0.1) / 4)


@pytest.mark.parametrize("decimals", [1, 15], ids=["ties", "no ties"])
def test_equal_mass_equals_sorting_and_splitting(decimals):
    drawn = np.random.default_rng(1).uniform(0.5, 1, size=503).round(decimals)
    p, labels = two_options(drawn, np.arange(503) % 3 > 0)
    confidence, correct = metrics.confidence_and_correct(p, labels)
    parts = np.array_split(np.argsort(confidence, kind="stable"), 15)
    gaps = [abs(confidence[i].mean() - correct[i].mean()) * len(i) / 503 for i in parts]
    assert metrics.ece(p, labels, 15, "equal-mass") == pytest.approx(sum(gaps))


def test_kumars_example():
    p, labels = two_options(
        [0.5, 0.5, 0.5, 0.6, 0.5, 0.6, 0.6, 0.6, 0.6], [0, 1, 0, 1, 0, 1, 1, 1, 0]
    )
    assert metrics.ece(p, labels) == pytest.approx(0.222222, abs=1e-6)
    assert metrics.debiased_l2(p, labels) == pytest.approx(0, abs=1e-7)
    parts = metrics.brier_decomposition(p, labels)
    assert sqrt(parts.reliability) == pytest.approx(0.2236068, abs=1e-7)  # the plain L2
    assert parts.reliability == pytest.approx(0.05)
    assert parts.resolution == pytest.approx(0.0746914, abs=1e-7)
    assert parts.uncertainty == pytest.approx(0.2469136, abs=1e-7)
    assert parts.within == pytest.approx(0, abs=1e-15)
    assert parts.total == pytest.approx(2 / 9)


def test_debiased_l2_by_hand():
    # .95 with 1 of 4 right; .65, alone, adds nothing but counts among the questions
    p, labels = two_options([0.95] * 4 + [0.65], [1, 0, 0, 0, 0])
    squared = 4 / 5 * ((0.95 - 0.25) ** 2 - 0.25 * 0.75 / 3)
    assert metrics.debiased_l2(p, labels) == pytest.approx(sqrt(squared))


def test_debiased_l2_is_less_biased_than_the_plain():
    rng = np.random.default_rng(5)
    confidence = rng.uniform(0.5, 1, size=(200, 300))
    correct = rng.random(confidence.shape) < confidence
    p = np.stack([confidence, 1 - confidence], axis=-1)
    p = np.where(correct[..., None], p, p[..., ::-1])  # option 0 is right throughout
    labels = np.zeros(300, dtype=int)
    plain = np.mean(metrics.brier_decomposition(p, labels).reliability)
    assert np.mean(metrics.debiased_l2(p, labels) ** 2) < plain / 3


def test_classwise_ece_by_hand():
    p, labels = [[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]], [0, 1]
    assert metrics.classwise_ece(p, labels) == pytest.approx((0.2 + 0.3 + 0.1) / 3)
