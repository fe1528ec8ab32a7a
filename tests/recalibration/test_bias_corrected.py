"""A temperature with an offset for each letter: worked by hand, then against a plain search."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from calib.metrics import accuracy, nll
from calib.recalibration import BiasCorrectedTemperature, Temperature


@pytest.fixture
def drawn():
    """Logits three times too large, with 2 added to the first letter's; labels from the truth."""
    rng = np.random.default_rng(0)
    z = rng.normal(0, 1, (4000, 4))
    labels = (z + rng.gumbel(size=z.shape)).argmax(axis=1)
    return 3 * z + [2, 0, 0, 0], labels


def test_two_letters_by_hand():
    logits, labels = [[3.0, 1.0], [2.0, 2.0]] * 4, [0, 1] * 3 + [1, 0]
    method = BiasCorrectedTemperature().fit(logits, labels)
    assert method.value == pytest.approx(1 / np.log(3), rel=1e-5)
    np.testing.assert_allclose(method.offsets, [-np.log(3) / 2, np.log(3) / 2], rtol=1e-5)
    np.testing.assert_allclose(method(logits[:2]), [[0.75, 0.25], [0.25, 0.75]], rtol=1e-5)
    assert method.n_fitted == 3


def test_what_was_put_in_is_found(drawn):
    method = BiasCorrectedTemperature().fit(*drawn)
    assert method.value == pytest.approx(3, rel=0.05)
    # 2 / 3 too much at the first letter, with the mean taken off.
    np.testing.assert_allclose(method.offsets, [-0.5, 1 / 6, 1 / 6, 1 / 6], atol=0.08)
    p, labels = method(drawn[0]), drawn[1]
    plain = Temperature().fit(*drawn)(drawn[0])
    assert nll(p, labels) < nll(plain, labels) - 0.02
    assert accuracy(p, labels) > accuracy(plain, labels) + 0.01


def test_no_search_from_elsewhere_finds_less(drawn):
    logits, labels = drawn[0][:300], drawn[1][:300]

    def loss(x):
        scores = logits * np.exp(x[0]) + [*x[1:], 0]
        return -log_softmax(scores, axis=1)[np.arange(300), labels].mean()

    least = minimize(loss, [0.5, 1, 1, 1], method="Nelder-Mead", options={"xatol": 1e-9}).fun
    assert nll(BiasCorrectedTemperature().fit(logits, labels)(logits), labels) <= least + 1e-9


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_larger_logits_have_a_higher_temperature(drawn, size):
    method = BiasCorrectedTemperature().fit(drawn[0] * size, drawn[1])
    plain = BiasCorrectedTemperature().fit(*drawn)
    assert method.value == pytest.approx(plain.value * size, rel=1e-4)
    np.testing.assert_allclose(method.offsets, plain.offsets, atol=1e-4)


def test_logits_that_say_the_opposite_leave_the_shares_of_the_letters(drawn):
    logits, labels = drawn
    method = BiasCorrectedTemperature().fit(-logits + [4, 0, 0, 0], labels)
    assert method.value == np.inf
    shares = np.bincount(labels) / len(labels)
    np.testing.assert_allclose(method(logits[:2]), [shares, shares], atol=1e-5)


def test_questions_of_unlike_options_are_refused():
    with pytest.raises(ValueError, match="keeps numbers for each option"):
        BiasCorrectedTemperature().fit([[1.0, 0.0, -np.inf], [0.0, 1.0, 2.0]], [0, 1])
