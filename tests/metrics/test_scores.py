"""Means over questions, by hand."""

from math import inf, log

import pytest

from calib import metrics


def test_scores_by_hand():
    p, labels = [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5]], [0, 2, 2]
    assert metrics.accuracy(p, labels) == pytest.approx(2 / 3)
    assert metrics.mean_confidence(p, labels) == pytest.approx(0.6)
    assert metrics.signed_gap(p, labels) == pytest.approx(0.6 - 2 / 3)
    assert metrics.nll(p, labels) == pytest.approx((log(2) + log(10) + log(2)) / 3)
    # .25 + .09 + .04; .01 + .64 + .81; .0625 + .0625 + .25
    assert metrics.brier(p, labels) == pytest.approx((0.38 + 1.46 + 0.375) / 3)
    # .5 log 2 + .3 log 10/3 + .2 log 5; .2 log 10 + .8 log 5/4; log 2 / 2 + log 4 / 2
    assert metrics.entropy(p, labels) == pytest.approx((1.029653 + 0.639032 + 1.039721) / 3)
    assert metrics.auroc(p, labels) == 0


def test_first_of_equal_options_is_the_answer():
    confidence, correct = metrics.confidence_and_correct([[0.5, 0.5], [0.5, 0.5]], [0, 1])
    assert confidence.tolist() == [0.5, 0.5]
    assert correct.tolist() == [True, False]


def test_nll_of_an_option_ruled_out_is_infinite():
    assert metrics.nll([[1.0, 0.0], [0.5, 0.5]], [1, 0]) == inf
    assert str(metrics.nll([[1.0, 0.0]], [0])) == "0.0"  # of a certain one 0, and not -0


def test_entropy_is_the_logarithm_of_equal_options_and_nothing_of_a_certain_one():
    assert metrics.entropy([[0.25] * 4], [3]) == pytest.approx(log(4), abs=1e-15)
    assert str(metrics.entropy([[0.0, 1.0, 0.0]], [0])) == "0.0"  # and not -0
    found = metrics.bootstrap([[0.25] * 4, [0, 0, 1, 0]], [0, 2], ["entropy"], n_resamples=500)
    assert found["entropy"].value == pytest.approx(log(4) / 2)
    assert (found["entropy"].low, found["entropy"].high) == pytest.approx((0, log(4)))
