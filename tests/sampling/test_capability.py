"""Capability: worked by hand, by exact expectation, by exact fractions and by brute force."""

import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from scipy.stats import binom
from support.properties import given, settings, st

from calib.sampling import allocate, capability_brier, expected_pass_at_k, pass_at_k

# pass@k


def test_pass_at_k_by_hand():
    """Of 10 answers 3 are right: all C(10, 5) = 252 choices of five but the C(7, 5) = 21 others."""
    assert pass_at_k(10, 3, 5) == pytest.approx(231 / 252, abs=1e-15)
    assert pass_at_k(10, 3, 5) == pytest.approx(0.916667, abs=5e-7)
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3, abs=1e-15)
    assert isinstance(pass_at_k(10, 3, 1), float)


def test_pass_at_k_at_its_ends():
    assert pass_at_k(10, [0, 0, 10, 10], 4).tolist() == [0, 0, 1, 1]
    assert pass_at_k(10, [0, 1, 6, 10], 10).tolist() == [0, 1, 1, 1]
    assert pass_at_k(10, 6, 5) == 1  # four wrong ones cannot fill five places


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), *[st.integers(0, n)] * 2)))
def test_pass_at_k_is_the_exact_fraction(numbers):
    n, c, k = numbers[0], numbers[1], max(numbers[2], 1)
    exact = 1 - Fraction(comb(n - c, k), comb(n, k))
    assert pass_at_k(n, c, k) == pytest.approx(float(exact), abs=1e-14)


def test_pass_at_k_of_many_samples():
    """Where the numbers of choices have thousands of digits."""
    n, k = 100_000, 3000
    c = np.array([[1, 7], [100, 50_000]])
    exact = [[1 - Fraction(comb(n - x, k), comb(n, k)) for x in row] for row in c.tolist()]
    np.testing.assert_allclose(pass_at_k(n, c, k), np.array(exact, dtype=float), rtol=1e-11)


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize(("n", "k"), [(10, 1), (10, 5), (10, 10), (40, 10)])
def test_pass_at_k_is_unbiased_and_a_share_in_its_place_is_not(n, k, p):
    """Both expectations exactly, over all numbers of right answers that n samples may hold."""
    c = np.arange(n + 1)
    weight = binom.pmf(c, n, p)
    truth = expected_pass_at_k(p, k)
    assert weight @ pass_at_k(n, c, k) == pytest.approx(truth, abs=1e-12)
    plugged_in = weight @ expected_pass_at_k(c / n, k)
    if k == 1:
        assert plugged_in == pytest.approx(truth, abs=1e-12)
    else:
        assert plugged_in < truth - 1e-9


def test_expected_pass_at_k_by_hand():
    assert expected_pass_at_k(0.1, 2) == pytest.approx(0.19)
    found = expected_pass_at_k([0, 0.1, 1], [[0], [1], [2]])
    np.testing.assert_allclose(found, [[0, 0, 0], [0, 0.1, 1], [0, 0.19, 1]])
    assert not np.signbit(found).any()


def test_a_small_chance_keeps_its_digits():
    """Next to 1, 1e-17 is nothing."""
    assert expected_pass_at_k(1e-17, 10) == pytest.approx(1e-16, rel=1e-12)
    assert expected_pass_at_k(1e-9, [1, 10**9])[1] == pytest.approx(1 - np.exp(-1), rel=1e-8)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((10, 3, 11), ValueError, "k is 11, n is 10; of n answers at most n"),
        ((10, 3, 0), ValueError, "k is 0; it must be an integer of at least 1"),
        ((10, 3, 2.0), TypeError, "k is 2.0; it must be an integer"),
        ((0, 0, 1), ValueError, "n is 0"),
        ((10, 11, 5), ValueError, "c runs from 11 to 11; it must lie between 0 and n, 10"),
        ((10, [3, -1], 5), ValueError, "c runs from -1 to 3"),
        ((10, [0.3], 5), TypeError, "c is float64; it must count right answers"),
    ],
)
def test_counts_that_cannot_be_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        pass_at_k(*arguments)


# The Brier score


def test_capability_brier_by_hand():
    """Half of four right: the share's own variance is taken as .25 / 3."""
    correct = [[True, False, True, False], [True, True, True, True]]
    assert capability_brier([0.5, 1.0], correct) == pytest.approx(-0.25 / 3 / 2)
    assert capability_brier([1.0, 0.5], correct) == pytest.approx((0.25 - 0.25 / 3 + 0.25) / 2)
    both = capability_brier([[0.5, 1.0], [1.0, 0.5]], correct)
    assert both == pytest.approx([-0.25 / 6, (0.5 - 0.25 / 3) / 2])


@pytest.mark.parametrize("chance", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("n_samples", [2, 3, 5])
def test_capability_brier_is_unbiased(chance, n_samples):
    """Its expectation exactly, over all outcomes of the samples."""
    outcomes = [np.array(row) for row in itertools.product([False, True], repeat=n_samples)]
    weights = [np.prod(np.where(row, chance, 1 - chance)) for row in outcomes]
    assert sum(weights) == pytest.approx(1)
    for confidence in (0.1, chance, 0.9):
        scores = [capability_brier([confidence], row[None]) for row in outcomes]
        assert np.dot(weights, scores) == pytest.approx((confidence - chance) ** 2, abs=1e-12)


def test_single_answers_cost_their_own_noise_on_top():
    rng = np.random.default_rng(0)
    chance, confidence = rng.random((2, 20_000))
    correct = rng.random((20_000, 10)) < chance[:, None]
    brier = ((confidence - correct[:, 0]) ** 2).mean()
    noise = (chance * (1 - chance)).mean()
    assert brier - capability_brier(confidence, correct) == pytest.approx(noise, abs=0.01)
    assert capability_brier(chance, correct) == pytest.approx(0, abs=0.001)


def test_a_confidence_from_the_samples_that_judge_it_is_judged_too_well():
    """Shares of five, about capabilities of Beta(2, 2): 1/25 from them, E μ (1 - μ) / 5."""
    rng = np.random.default_rng(0)
    chance = rng.beta(2, 2, 200_000)
    once, again = (rng.random((200_000, 5)) < chance[:, None] for _ in range(2))
    agreement = once.mean(axis=1)
    assert ((agreement - chance) ** 2).mean() == pytest.approx(0.04, abs=0.001)
    assert capability_brier(agreement, again) == pytest.approx(0.04, abs=0.001)
    assert capability_brier(agreement, once) == pytest.approx(-0.04, abs=0.001)


@pytest.mark.parametrize(
    ("confidence", "correct", "error", "message"),
    [
        ([0.5], [[1, 0]], TypeError, "correct is int64; it must be bool"),
        ([0.5], [[True]], ValueError, r"shape \(1, 1\); .* at least 2 samples"),
        ([0.5], [True, False], ValueError, r"shape \(2,\)"),
        ([], np.empty((0, 2), bool), ValueError, r"shape \(0, 2\)"),
        ([0.5, 0.5], [[True, False]], ValueError, r"confidence has shape \(2,\), correct \(1, 2"),
        (0.5, [[True, False]], ValueError, r"confidence has shape \(\)"),
        ([1.5], [[True, False]], ValueError, "confidence holds 1.5; it must lie between 0 and 1"),
        ([np.nan], [[True, False]], ValueError, "confidence holds nan"),
        (["sure"], [[True, False]], TypeError, "it must be real numbers from 0 to 1"),
    ],
)
def test_what_has_no_brier_score_is_refused(confidence, correct, error, message):
    with pytest.raises(error, match=message):
        capability_brier(confidence, correct)


# Allocation


def solved(chance, counts):
    return sum(1 - (1 - p) ** n for p, n in zip(chance, counts, strict=True))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=4), st.integers(1, 7))
def test_no_other_allocation_solves_more(chance, budget):
    counts = allocate(chance, budget)
    every = (
        c for c in itertools.product(range(budget + 1), repeat=len(chance)) if sum(c) <= budget
    )
    best = max(solved(chance, c) for c in every)
    assert counts.sum() <= budget
    assert solved(chance, counts) == pytest.approx(best, abs=1e-12)


def test_allocation_by_hand():
    """Gains .5, .25, .125, … and .3, .21, .147, …"""
    assert [allocate([0.5, 0.3], budget).tolist() for budget in (1, 2, 3, 4, 5, 6)] == [
        [1, 0], [1, 1], [2, 1], [2, 2], [2, 3], [3, 3],
    ]  # fmt: skip


def test_equal_questions_get_equal_shares_and_the_first_the_rest():
    assert allocate([0.25] * 4, 10).tolist() == [3, 3, 2, 2]


def test_nothing_is_spent_where_nothing_is_gained():
    assert allocate([1.0, 0.0], 10).tolist() == [1, 0]
    assert allocate([0.0, 0.0], 10).tolist() == [0, 0]


def test_a_small_budget_goes_to_easy_questions_and_a_large_one_to_hard_ones():
    chance = [0.9, 0.1]
    assert allocate(chance, 1).tolist() == [1, 0]
    few, many = allocate(chance, 200)
    assert few < 20 < many


@pytest.mark.parametrize(
    ("chance", "budget", "error", "message"),
    [
        ([0.5], 0, ValueError, "budget is 0; it must be an integer of at least 1"),
        ([0.5], 2.5, TypeError, "budget is 2.5"),
        ([1.2], 3, ValueError, "chance holds 1.2; it must lie between 0 and 1"),
        ([[0.5]], 3, ValueError, r"chance has shape \(1, 1\); it must be \[questions\]"),
        ([], 3, ValueError, r"chance has shape \(0,\)"),
    ],
)
def test_what_cannot_be_allocated_is_refused(chance, budget, error, message):
    with pytest.raises(error, match=message):
        allocate(chance, budget)


@pytest.mark.parametrize(
    ("chance", "k", "error", "message"),
    [
        (-0.1, 3, ValueError, "chance holds -0.1"),
        (0.1, -1, ValueError, "k is -1 at its least; it must not be negative"),
        (0.1, 1.5, TypeError, "k is float64; it must count answers"),
    ],
)
def test_what_has_no_chance_is_refused(chance, k, error, message):
    with pytest.raises(error, match=message):
        expected_pass_at_k(chance, k)
