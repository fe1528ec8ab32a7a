"""Questions that differ in their number of options: columns for the largest, 0 beyond."""

from math import log

import numpy as np
import pytest
from support.properties import given, settings, st

from calib import metrics
from calib.metrics.options import check_n_options

MEANS = {
    "accuracy": metrics.accuracy,
    "mean_confidence": metrics.mean_confidence,
    "signed_gap": metrics.signed_gap,
    "nll": metrics.nll,
    "brier": metrics.brier,
    "entropy": metrics.entropy,
}
# Two questions with two options, one with four.
MIXED = [[0.75, 0.25, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]]
LABELS = [0, 1, 3]


def draw(counts, seed):
    """Probabilities ``[questions, options]`` and labels of questions with so many options."""
    rng = np.random.default_rng(seed)
    p = np.zeros((len(counts), max(counts)))
    for row, n in zip(p, counts, strict=True):
        row[:n] = rng.dirichlet(np.ones(n))
    return p, np.array([rng.integers(n) for n in counts])


@pytest.mark.parametrize(
    ("n_options", "error", "message"),
    [
        (
            [2, 2, 2],
            ValueError,
            r"probabilities\[2, 2\] is 0.25; question 2 has 2 options, and those",
        ),
        (2, ValueError, r"probabilities\[2, 2\] is 0.25"),
        ([1, 2, 4], ValueError, "n_options is 1 for question 0; .* whole number from 2 to 4"),
        ([2, 2, 5], ValueError, "n_options is 5 for question 2; with 4 columns"),
        ([2, 4], ValueError, r"n_options has shape \(2,\); .* one for each of the 3 questions"),
        ([2.0, 2.0, 4.0], TypeError, "n_options are float64; they must be integers"),
        (True, TypeError, "n_options are bool"),
    ],
)
def test_numbers_of_options_that_are_none_are_refused(n_options, error, message):
    with pytest.raises(error, match=message):
        metrics.uce(MIXED, LABELS, n_options=n_options)


def test_numbers_of_options_in_every_form():
    p = np.array(MIXED)
    assert check_n_options(None, p).tolist() == [4, 4, 4]
    assert check_n_options(4, p).tolist() == [4, 4, 4]
    assert check_n_options(np.array([2, 3, 4], dtype=np.uint8), p).tolist() == [2, 3, 4]
    assert check_n_options([2, 2, 4], np.stack([p, p])).tolist() == [2, 2, 4]  # of two layers


def test_scores_by_hand():
    assert metrics.accuracy(MIXED, LABELS) == pytest.approx(1 / 3)
    assert metrics.mean_confidence(MIXED, LABELS) == 0.5
    assert metrics.signed_gap(MIXED, LABELS) == pytest.approx(0.5 - 1 / 3)
    assert metrics.nll(MIXED, LABELS) == pytest.approx((log(4 / 3) + log(2) + log(4)) / 3)
    assert metrics.brier(MIXED, LABELS) == pytest.approx((0.125 + 0.5 + 0.75) / 3)
    h = 0.75 * log(4 / 3) + 0.25 * log(4)
    assert metrics.entropy(MIXED, LABELS) == pytest.approx((h + log(2) + log(4)) / 3)
    # In bins (.7, .8], (.4, .5] and (.2, .3]: |.75 - 1|, |.5 - 0| and |.25 - 0|.
    assert metrics.ece(MIXED, LABELS) == pytest.approx(1 / 3)
    assert metrics.mce(MIXED, LABELS) == 0.5


def test_by_option_an_absent_one_is_said_and_found_to_have_no_chance():
    """Gaps by column: A .25 in three bins, .25 + .5 + .25; B .25 + .5 + .25; C .25; D .75."""
    expected = (1 / 3 + 1 / 3 + 0.25 / 3 + 0.75 / 3) / 4
    assert metrics.classwise_ece(MIXED, LABELS) == pytest.approx(expected)


def test_the_uncertainty_of_even_options_is_1_however_many_they_are():
    """So its error is 1 less the error rate, 1/2; by log(4) for all, the first two have 1/2."""
    p, labels = [[0.5, 0.5, 0, 0]] * 2 + [[0.25] * 4] * 2, [0, 1, 0, 1]
    assert metrics.uce(p, labels, n_options=[2, 2, 4, 4]) == pytest.approx(0.5)
    assert metrics.uce(p, labels) == pytest.approx(0.25)
    assert metrics.uce(MIXED, LABELS, n_options=4) == metrics.uce(MIXED, LABELS)


counts_and_seed = given(
    counts=st.lists(st.integers(2, 6), min_size=2, max_size=12), seed=st.integers(0, 999)
)


@settings(max_examples=50, deadline=None)
@counts_and_seed
def test_a_mean_over_questions_is_that_of_its_parts(counts, seed):
    """Each part without the columns that it does not have, weighted by its questions."""
    p, labels = draw(counts, seed)
    counts = np.array(counts)
    for metric in MEANS.values():
        parts = [
            (counts == n).mean() * metric(p[counts == n, :n], labels[counts == n])
            for n in np.unique(counts)
        ]
        assert metric(p, labels) == pytest.approx(sum(parts), abs=1e-12)


@settings(max_examples=50, deadline=None)
@counts_and_seed
def test_columns_that_no_question_has_change_nothing(counts, seed):
    p, labels = draw(counts, seed)
    wide = np.hstack([p, np.zeros((len(p), 2))])
    for metric in (*MEANS.values(), metrics.ece, metrics.mce, metrics.aurc, metrics.smooth_ece):
        assert metric(wide, labels) == pytest.approx(metric(p, labels), abs=1e-12)
    uce = metrics.uce(p, labels, n_options=counts)
    assert metrics.uce(wide, labels, n_options=counts) == pytest.approx(uce, abs=1e-12)


def test_softmax_gives_an_absent_option_exactly_nothing_and_refuses_rows_without_any():
    p = metrics.softmax([[log(3), 0, -np.inf], [1000, 1000, -np.inf]])
    np.testing.assert_allclose(p, [[0.75, 0.25, 0], [0.5, 0.5, 0]], rtol=1e-15)
    assert (p[:, 2] == 0).all()
    with pytest.raises(ValueError, match=r"logits\[1\] are all -inf; a softmax needs an option"):
        metrics.softmax([[0.0, 1.0], [-np.inf, -np.inf]])
    with pytest.raises(ValueError, match="logits are all -inf"):
        metrics.softmax([-np.inf, -np.inf])
    for nothing in (3.0, []):
        with pytest.raises(ValueError, match=r"they must be \[..., options\]"):
            metrics.softmax(nothing)
