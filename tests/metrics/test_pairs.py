"""Confidences without options: the metrics of the pairs themselves."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from calib import metrics


def test_a_low_confidence_stays_the_answers():
    p, labels = metrics.from_pairs([0.1, 0.5, 1.0], [True, False, True])
    np.testing.assert_allclose(p.max(axis=1), [0.1, 0.5, 1.0])
    np.testing.assert_array_equal(p.argmax(axis=1), [0, 0, 0])
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert labels.tolist() == [0, 1, 0]


def test_metrics_are_those_of_the_pairs():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.02, 1, size=(3, 500))
    correct = rng.random(500) < confidence[0]
    p, labels = metrics.from_pairs(confidence, correct)
    assert metrics.accuracy(p, labels) == pytest.approx(np.full(3, correct.mean()))
    assert metrics.mean_confidence(p, labels) == pytest.approx(confidence.mean(axis=1))
    areas = [roc_auc_score(correct, row) for row in confidence]
    assert metrics.auroc(p, labels) == pytest.approx(areas)
    by_hand = 0  # ECE of the first row in two bins
    for inside in (confidence[0] <= 0.5, confidence[0] > 0.5):
        by_hand += abs((confidence[0] - correct)[inside].sum()) / 500
    assert metrics.ece(p[0], labels, n_bins=2) == pytest.approx(by_hand)


def test_the_least_confidence_takes_a_thousand_other_options():
    p, labels = metrics.from_pairs(np.maximum([0.0, 1.0], 0.001), [True, True])
    assert p.shape == (2, 1001)
    assert metrics.mean_confidence(p, labels) == pytest.approx(0.5005)
    assert metrics.accuracy(p, labels) == 1


@pytest.mark.parametrize(
    ("confidence", "correct", "error", "message"),
    [
        ([0.5, 0.0], [True, False], ValueError, r"holds 0.0; .* np.maximum\(confidence, 0.001\)"),
        ([0.5, 0.0009], [True, False], ValueError, "confidence holds 0.0009; it must lie between"),
        ([80, 95], [True, False], ValueError, r"confidence holds 80.0; .* percentages by 100"),
        ([0.5, 1.1], [True, False], ValueError, "confidence holds 1.1"),
        ([0.5, np.nan], [True, False], ValueError, "confidence holds nan"),
        ([0.5, 0.5], [1, 0], TypeError, "correct is int64; it must be bool"),
        ([0.5, 0.5, 0.5], [True, False], ValueError, r"shape \(3,\), correct \(2,\)"),
        ([[0.5], [0.5]], [True, False], ValueError, r"must be \[..., questions\]"),
    ],
)
def test_what_is_no_pair_is_refused(confidence, correct, error, message):
    with pytest.raises(error, match=message):
        metrics.from_pairs(confidence, correct)
