"""What the known truth adds, on readings small enough to work out by hand."""

import numpy as np
import pytest

from calib import Reading
from calib.analysis import bayes_scores, known_grouping_loss, true_ece, truth_correlation


def reading_of(probabilities, posterior):
    """Probabilities ``[layers + 1, questions, options]``; labels are of no account here."""
    logits = np.log(np.array(probabilities, dtype=float)).transpose(1, 0, 2)
    labels = np.zeros(logits.shape[0], dtype=int)
    return Reading(logits, labels, np.full(len(labels), "s"), np.array(posterior))


def test_without_a_posterior_there_is_no_truth():
    unknown = Reading(np.zeros((2, 1, 4)), np.zeros(2, int), np.array(["s", "s"]))
    with pytest.raises(ValueError, match="have no posterior"):
        bayes_scores(unknown)


def test_bayes_scores_by_hand():
    scores = bayes_scores(reading_of([[[0.5, 0.5], [0.5, 0.5]]], [[0.5, 0.5], [1.0, 0.0]]))
    assert scores["accuracy"] == 0.75
    assert scores["nll"] == pytest.approx(np.log(2) / 2)


def test_true_ece_puts_the_chance_of_being_right_in_place_of_being_right():
    """Confidence .85 in one bin: right with chance .9 and .6, so |.85 - .75|; layer 1 is exact."""
    reading = reading_of(
        [[[0.85, 0.15], [0.15, 0.85]], [[0.9, 0.1], [0.4, 0.6]]], [[0.9, 0.1], [0.4, 0.6]]
    )
    np.testing.assert_allclose(true_ece(reading), [0.1, 0.0], atol=1e-12)


@pytest.fixture
def reading():
    rng = np.random.default_rng(0)
    posterior = rng.dirichlet(np.ones(3), size=400)
    noisy = [rng.dirichlet(20 * q + 1) for q in posterior]
    return reading_of([np.full((400, 3), 1 / 3), noisy], posterior)


def test_the_correlation_is_numpys_and_undefined_for_a_constant(reading):
    correlation = truth_correlation(reading, n_resamples=200)
    confidence = reading.probabilities[1].max(axis=1)
    expected = np.corrcoef(confidence, reading.posterior.max(axis=1))[0, 1]
    assert np.isnan(correlation.value[0])
    assert correlation.value[1] == pytest.approx(expected, abs=1e-12)
    assert correlation.low[1] < expected < correlation.high[1]


def test_the_correlation_interval_is_near_fishers(reading):
    """Fisher's z: half-width 1.96 / sqrt(n - 3) on the atanh scale."""
    correlation = truth_correlation(reading, n_resamples=2000)
    z = np.arctanh(correlation.value[1])
    half = 1.96 / np.sqrt(397)
    assert correlation.low[1] == pytest.approx(np.tanh(z - half), abs=0.02)
    assert correlation.high[1] == pytest.approx(np.tanh(z + half), abs=0.02)


P = [[0.7, 0.3]] * 2


@pytest.mark.parametrize(
    ("probabilities", "posterior", "n_bins", "error", "message"),
    [
        ([[3.0, -1.0]] * 2, P, 100, ValueError, r"^probabilities\[0, 1\] is -1; .* take the soft"),
        ([[0.7, np.nan]] * 2, P, 100, ValueError, r"^probabilities\[0, 1\] is nan"),
        ([[0.7, 0.3j]] * 2, P, 100, TypeError, "^probabilities are complex128"),
        (P, [[0.7, 0.3], [0.9, 0.9]], 100, ValueError, r"^of the posterior: .*\[1\] sums to 1.8"),
        (P, [[0.7, np.nan]] * 2, 100, ValueError, r"^of the posterior: .*\[0, 1\] is nan"),
        (P, [["a", "b"]] * 2, 100, TypeError, "^of the posterior: probabilities are <U1"),
        (np.empty((0, 2)), np.empty((0, 2)), 100, ValueError, r"shape \(0, 2\); no metric is def"),
        (np.empty((0, 2, 2)), P, 100, ValueError, r"shape \(0, 2, 2\); no metric is defined"),
        (P, P, 0, ValueError, "n_bins is 0; it must be an integer of at least 1"),
        (P, P, 10.0, TypeError, "n_bins is 10.0"),
    ],
)
def test_the_known_grouping_loss_refuses_what_metrics_refuse(
    probabilities, posterior, n_bins, error, message
):
    with pytest.raises(error, match=message):
        known_grouping_loss(probabilities, posterior, n_bins)


# Questions that differ in their number of options


@pytest.fixture
def mixed():
    """Two questions with two options and one with three, of layer 0 the same to all options."""
    posterior = np.array([[0.75, 0.25, 0.0], [0.5, 0.5, 0.0], [0.2, 0.2, 0.6]])
    even = [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [1 / 3] * 3]
    with np.errstate(divide="ignore"):
        logits = np.log(np.stack([even, posterior], axis=1))
    n_options = np.array([2, 2, 3])
    return Reading(logits, np.array([0, 1, 2]), np.full(3, "s"), posterior, n_options=n_options)


def test_the_truth_of_differing_numbers_of_options_by_hand(mixed):
    """Layer 1 says the truth; layer 0's bins: two questions .5 against .625, one 1/3 against .2."""
    first = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    last = -(0.4 * np.log(0.2) + 0.6 * np.log(0.6))
    scores = bayes_scores(mixed)
    assert scores["accuracy"] == pytest.approx((0.75 + 0.5 + 0.6) / 3)
    assert scores["nll"] == pytest.approx((first + np.log(2) + last) / 3)
    np.testing.assert_allclose(true_ece(mixed), [(0.25 + 1 / 3 - 0.2) / 3, 0], atol=1e-12)
    assert truth_correlation(mixed, n_resamples=20).value[1] == pytest.approx(1)
    # Of layer 0, right with .75 and .5 in one bin; the question with three is alone in its own.
    loss = known_grouping_loss(mixed.probabilities[0], mixed.posterior)
    assert loss == pytest.approx(2 * 0.125**2)


def test_columns_that_no_question_has_do_not_change_the_truth(mixed):
    wide = Reading(
        np.concatenate([mixed.logits, np.full((3, 2, 1), -np.inf)], axis=2),
        mixed.labels,
        mixed.subjects,
        np.hstack([mixed.posterior, np.zeros((3, 1))]),
        n_options=mixed.n_options,
    )
    assert bayes_scores(wide) == pytest.approx(bayes_scores(mixed))
    np.testing.assert_allclose(true_ece(wide), true_ece(mixed), atol=1e-12)
