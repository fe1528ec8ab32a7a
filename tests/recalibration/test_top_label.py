"""Histogram binning and isotonic regression: by hand, then other libraries' numbers."""

import numpy as np
import pytest
from scipy.optimize import isotonic_regression
from sklearn.isotonic import IsotonicRegression

from calib.recalibration import HistogramBinning, Isotonic
from calib.recalibration.top_label import equal_mass_edges


def two_options(confidence, correct):
    """Logits and labels with these confidences, at least .5, and outcomes."""
    confidence = np.asarray(confidence, dtype=float)
    return np.log(np.stack([confidence, 1 - confidence], axis=1)), 1 - np.asarray(correct)


def confidence_of(fitted, confidence):
    return fitted(two_options(confidence, np.ones(len(confidence)))[0])[:, 0]


def random_outcomes(n=400, seed=0, step=None):
    """Confidences, in steps if asked for, and outcomes less often right than they say."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.53, 0.97, size=n)
    if step:
        confidence = np.round(confidence / step) * step
    return confidence, (rng.random(n) < 0.5 + 0.6 * (confidence - 0.5)).astype(int)


# Histogram binning


def test_bins_by_hand():
    """Three bins of 2, 2 and 1: edges at the largest of each but the last, which go below."""
    fitted = HistogramBinning(n_bins=3).fit(
        *two_options([0.9, 0.6, 0.7, 0.55, 0.8], [1, 1, 0, 1, 1])
    )
    np.testing.assert_allclose(fitted.edges, [0.6, 0.8], atol=1e-15)
    np.testing.assert_array_equal(fitted.accuracies, [1, 0.5, 1])
    found = confidence_of(fitted, [0.51, 0.59, 0.61, 0.79, 0.81, 0.99])
    np.testing.assert_allclose(found, [1, 1, 0.5, 0.5, 1, 1], atol=2e-6)


def test_a_bin_of_wrong_answers_says_an_even_guess():
    logits = np.log([[0.4, 0.3, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1]])
    p = HistogramBinning(n_bins=2).fit(logits, [1, 0])(logits)
    np.testing.assert_allclose(p, [[0.25] * 4, [1, 0, 0, 0]], atol=2e-6)
    assert p[0].argmax() == 0


def test_equal_confidences_share_a_bin():
    """Two of four below .6 in a split by rank; all three of .6 are one bin here."""
    fitted = HistogramBinning(n_bins=2).fit(*two_options([0.6, 0.6, 0.9, 0.6], [1, 0, 1, 0]))
    np.testing.assert_allclose(confidence_of(fitted, [0.55, 0.6, 0.7]), [1 / 3 + 1 / 6, 0.5, 1],
                               atol=2e-6)  # fmt: skip
    np.testing.assert_array_equal(fitted.accuracies, [1 / 3, 1])


@pytest.mark.parametrize("n_bins", [1, 2, 3, 4])
def test_no_bin_is_empty(n_bins):
    """A last bin without questions would say 0 of every confidence above theirs."""
    fitted = HistogramBinning(n_bins=n_bins).fit(*two_options([0.6, 0.9, 0.9, 0.9], [1, 1, 1, 0]))
    assert len(fitted.accuracies) == len(fitted.edges) + 1 <= n_bins
    assert fitted.accuracies.min() > 0.5
    assert confidence_of(fitted, [0.95])[0] > 0.6


def test_all_of_one_confidence_are_one_bin():
    fitted = HistogramBinning(n_bins=3).fit(*two_options([0.8] * 4, [1, 1, 1, 0]))
    np.testing.assert_allclose(confidence_of(fitted, [0.6, 0.8, 0.9]), [0.75] * 3, atol=1e-12)


def test_bins_are_equally_full():
    confidence = np.random.default_rng(0).uniform(size=103)
    for n_bins in (1, 2, 7, 103):
        edges = equal_mass_edges(confidence, n_bins)
        count = np.bincount(np.searchsorted(edges, confidence))
        assert len(count) == n_bins
        assert count.max() - count.min() <= 1


def test_binning_is_netcals_where_bins_of_equal_mass_are_of_equal_width():
    rng = np.random.default_rng(0)
    low = np.repeat([0.5, 0.6, 0.7, 0.8, 0.9], 40)
    confidence = rng.permutation(low + rng.uniform(0.001, 0.099, size=200))
    correct = (rng.random(200) < confidence - 0.1).astype(int)
    theirs = (
        pytest.importorskip("netcal.binning").HistogramBinning(bins=10).fit(confidence, correct)
    )
    fitted = HistogramBinning(n_bins=5).fit(*two_options(confidence, correct))
    expected = np.maximum(theirs.transform(confidence), 0.5)
    np.testing.assert_allclose(confidence_of(fitted, confidence), expected, atol=2e-6)


def test_more_bins_than_questions_are_refused():
    with pytest.raises(ValueError, match="n_bins is 3, with 2 questions; each bin needs at least"):
        HistogramBinning(n_bins=3).fit(*two_options([0.6, 0.9], [0, 1]))


@pytest.mark.parametrize(("n_bins", "error"), [(0, ValueError), (2.0, TypeError)])
def test_what_is_no_number_of_bins_is_refused(n_bins, error):
    with pytest.raises(error, match=f"n_bins is {n_bins}; it must be an integer of at least 1"):
        HistogramBinning(n_bins=n_bins)


# Isotonic regression


def test_isotonic_by_hand():
    """.6, .7 and .8 say 1, 1, 0: pooled 2/3. Between .8 and .9 a line leads up to 1."""
    fitted = Isotonic().fit(*two_options([0.9, 0.8, 0.6, 0.7], [1, 0, 1, 1]))
    found = confidence_of(fitted, [0.55, 0.6, 0.75, 0.8, 0.85, 0.9, 0.99])
    np.testing.assert_allclose(found, [2 / 3, 2 / 3, 2 / 3, 2 / 3, 5 / 6, 1, 1], atol=1e-9)


def test_questions_of_equal_confidence_are_one():
    """.7 right twice of three times, .9 once of twice: pooled 3/5, above .6's 0."""
    fitted = Isotonic().fit(*two_options([0.6, 0.7, 0.7, 0.7, 0.9, 0.9], [0, 1, 0, 1, 1, 0]))
    np.testing.assert_allclose(confidence_of(fitted, [0.7, 0.9]), [0.6, 0.6], atol=1e-9)


def test_the_steps_are_scipys():
    confidence, correct = random_outcomes()
    order = np.argsort(confidence)
    expected = np.empty(400)
    expected[order] = isotonic_regression(correct[order]).x
    fitted = Isotonic().fit(*two_options(confidence, correct))
    np.testing.assert_allclose(
        confidence_of(fitted, confidence), np.maximum(expected, 0.5), atol=2e-6
    )


@pytest.mark.parametrize("step", [None, 0.05])
def test_between_and_beyond_the_steps_it_is_scikit_learns(step):
    confidence, correct = random_outcomes(step=step)
    asked = np.linspace(0.501, 0.999, 333)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(confidence, correct).predict(asked)
    fitted = Isotonic().fit(*two_options(confidence, correct))
    np.testing.assert_allclose(confidence_of(fitted, asked), np.maximum(theirs, 0.5), atol=2e-6)


def test_a_single_confidence_gives_one_number():
    fitted = Isotonic().fit(*two_options([0.8] * 4, [1, 1, 1, 0]))
    np.testing.assert_allclose(confidence_of(fitted, [0.6, 0.8, 0.9]), [0.75] * 3, atol=1e-9)


def test_more_confident_is_never_less_often_right():
    confidence, correct = random_outcomes(seed=1)
    fitted = Isotonic().fit(*two_options(confidence, correct))
    assert (np.diff(confidence_of(fitted, np.sort(confidence))) >= -1e-12).all()
