"""Uncertainty against error: known vectors, ties by all their orders, then properties."""

from itertools import permutations
from math import log

import numpy as np
import pytest
from support.forecasts import two_options

from calib import metrics
from calib.metrics.selective import mean_risk, risks, sparsification_error

ERROR, UNCERTAINTY = [0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.5]


def forecasts(*lead, n=80, decimals=15, seed=0):
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.5, 1, size=(*lead, n)).round(decimals)
    correct = rng.random(n) < 0.7
    return two_options(confidence, correct)


every = pytest.mark.parametrize("metric", [metrics.aurc, metrics.ause, metrics.uce])


@every
@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [([[0.9, 0.2]], [0], r"probabilities\[0\] sums to 1.1"), ([[0.9, 0.1]], [2], "labels.0. is 2")],
)
def test_refuses_input(metric, probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        metric(probabilities, labels)


def test_uce_refuses_bins():
    with pytest.raises(ValueError, match="n_bins is 0"):
        metrics.uce([[0.9, 0.1]], [0], n_bins=0)


# Numbers by hand


def test_known_vectors():
    np.testing.assert_allclose(risks(ERROR, UNCERTAINTY), [0, 1 / 2, 1 / 3, 1 / 2, 3 / 5])
    assert mean_risk(ERROR, UNCERTAINTY) == pytest.approx(0.386667, abs=1e-6)
    assert sparsification_error(ERROR, UNCERTAINTY) == pytest.approx(0.1)
    p, labels = two_options(1 - np.array(UNCERTAINTY), 1 - np.array(ERROR))
    assert metrics.aurc(p, labels) == pytest.approx(0.386667, abs=1e-6)
    assert metrics.ause(p, labels) == pytest.approx(0.1)


def test_sparsification_is_the_mean_gap_over_removed_fractions():
    """As it is defined: remove the most uncertain, or the worst, and look at what is left."""
    p, labels = forecasts()
    confidence, correct = metrics.confidence_and_correct(p, labels)
    by_certainty = ~correct[np.argsort(-confidence)]
    best_first = np.sort(~correct)
    n = len(correct)
    gaps = [by_certainty[: n - k].mean() - best_first[: n - k].mean() for k in range(n)]
    assert min(gaps) >= 0
    assert metrics.ause(p, labels) == pytest.approx(np.mean(gaps))


def test_uce_by_hand():
    p, labels = [[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.5, 0.5]], [0, 1, 0, 1]
    # entropy 0 with half wrong, entropy 1 with half wrong
    assert metrics.uce(p, labels) == pytest.approx(0.5)
    assert metrics.uce(p, labels, n_bins=1) == pytest.approx(0)
    h = -(0.75 * log(0.75) + 0.25 * log(0.25)) / log(2)
    assert metrics.uce([[0.75, 0.25]] * 4, [0, 0, 0, 1]) == pytest.approx(h - 0.25)


def test_uce_is_not_zero_for_a_calibrated_model():
    p, labels = [[0.25] * 4] * 4, [0, 1, 2, 3]
    assert metrics.ece(p, labels) == 0
    assert metrics.uce(p, labels) == pytest.approx(0.25)


# Ties


def test_ties_count_by_expectation_over_all_their_orders():
    error, uncertainty = np.array([1, 0, 0, 1, 0, 1]), np.array([0.3, 0.1, 0.3, 0.3, 0.4, 0.4])
    orders = [o for o in permutations(range(6)) if (np.diff(uncertainty[list(o)]) >= 0).all()]
    assert len(orders) == 1 * 6 * 2
    each = [error[list(o)].cumsum() / np.arange(1, 7) for o in orders]
    np.testing.assert_allclose(risks(error, uncertainty), np.mean(each, axis=0), atol=1e-15)


@every
def test_the_order_of_the_questions_is_of_no_account(metric):
    p, labels = forecasts(decimals=1)
    assert len(np.unique(p.max(axis=-1))) < 7
    value = metric(p, labels)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(labels))
        assert metric(p[order], labels[order]) == pytest.approx(value, abs=1e-12)


def test_a_constant_confidence_has_the_error_rate_for_area():
    p, labels = two_options([0.8] * 10, [1, 0, 0, 1, 1, 1, 1, 1, 0, 1])
    assert metrics.aurc(p, labels) == pytest.approx(0.3)


# Properties


@pytest.mark.parametrize("metric", [metrics.aurc, metrics.ause])
def test_only_the_order_of_confidence_matters(metric):
    p, labels = forecasts()
    confidence, correct = metrics.confidence_and_correct(p, labels)
    squeezed = two_options(0.5 + (confidence - 0.5) ** 3, correct)
    assert metric(*squeezed) == pytest.approx(metric(p, labels), abs=1e-12)
    assert abs(metrics.uce(*squeezed) - metrics.uce(p, labels)) > 0.1


def test_a_perfect_order_has_no_sparsification_error_and_a_reversed_one_the_most():
    correct = np.arange(50) < 35
    best, _ = two_options(np.linspace(0.99, 0.51, 50), correct)
    labels = 1 - correct
    worst = best[::-1]
    assert metrics.ause(best, labels) == 0
    assert metrics.aurc(best, labels) == pytest.approx(
        np.maximum(0, 1 - 35 / np.arange(1, 51)).mean()
    )
    assert metrics.ause(worst, labels) > metrics.ause(*forecasts(n=50)) > 0


@pytest.mark.parametrize(("answer", "area"), [(0, 0.0), (1, 1.0)])
def test_all_right_or_all_wrong(answer, area):
    p = forecasts(n=9)[0]
    assert metrics.aurc(p, [answer] * 9) == area
    assert metrics.ause(p, [answer] * 9) == 0


@every
def test_layers_equal_one_at_a_time(metric):
    p, labels = forecasts(2, 3, decimals=2)
    together = metric(p, labels)
    assert together.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        alone = metric(p[i, j], labels)
        assert isinstance(alone, float)
        assert together[i, j] == pytest.approx(alone, abs=1e-15)
