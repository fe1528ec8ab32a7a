"""Intervals: read off resamples by hand, written into columns and read back; Wilson's by SciPy."""

import numpy as np
import pytest
from scipy.stats import binomtest

from calib.metrics import Interval, mean_interval, wilson
from calib.metrics.intervals import columns_of

# Of 21 values from 0 to 20 the middle half reaches from 5 to 15; two that are nan do not count.
SAMPLES = np.array([*np.random.default_rng(0).permutation(np.arange(21.0)), np.nan, np.nan])


def test_limits_are_order_statistics_and_nan_is_left_out():
    interval = Interval.of(9.5, SAMPLES, level=0.5)
    assert (interval.value, interval.low, interval.high) == (9.5, 5.0, 15.0)
    assert tuple(interval) == (9.5, 5.0, 15.0)


def test_limits_between_two_values_are_rounded_outwards():
    assert tuple(Interval.of(0.5, np.arange(4.0), level=0.5)) == (0.5, 0.0, 3.0)


def test_where_all_resamples_are_nan_so_are_the_limits():
    assert np.isnan([*Interval.of(0.5, np.full(3, np.nan), level=0.5)][1:]).all()


def test_a_part_of_the_leading_shape_is_an_interval_of_its_own():
    samples = np.stack([SAMPLES, 2 * SAMPLES], axis=1)
    both = Interval.of(np.array([9.5, 19.0]), samples, level=0.5)
    assert tuple(both[1]) == (19.0, 10.0, 30.0)
    np.testing.assert_array_equal(both[1].samples, 2 * SAMPLES)


def test_columns_are_read_back():
    interval = Interval.of(9.5, SAMPLES, level=0.5)
    columns = columns_of({"ece": interval, "nll": Interval(1.0, 0.5, 2.0, SAMPLES)})
    assert list(columns) == ["ece", "ece_low", "ece_high", "nll", "nll_low", "nll_high"]
    assert Interval.read(columns, "ece") == (9.5, 5.0, 15.0)
    assert Interval.read(columns, "nll") == (1.0, 0.5, 2.0)


@pytest.mark.parametrize(("right", "n"), [(0, 40), (3, 40), (20, 40), (40, 40), (997, 1000)])
def test_wilson_is_scipys_and_stays_within_0_and_1(right, n):
    exact = binomtest(right, n).proportion_ci(method="wilson")
    low, high = wilson(right / n, n)
    assert (low, high) == pytest.approx((exact.low, exact.high), abs=1e-4)
    assert 0 <= low <= high <= 1


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([], ValueError, r"values have shape \(0,\); they must be \[questions\], at least 1"),
        (0.5, ValueError, r"values have shape \(\)"),
        ([[0.5]], ValueError, r"values have shape \(1, 1\)"),
        ([0.5, np.nan], ValueError, r"values\[1\] is nan; a mean needs finite ones"),
        (["a"], TypeError, "values are <U1; they must be real numbers"),
    ],
)
def test_a_mean_of_nothing_or_of_no_numbers_is_refused(values, error, message):
    with pytest.raises(error, match=message):
        mean_interval(values)


@pytest.mark.parametrize(
    ("z", "error", "message"),
    [(-1.96, ValueError, "z is -1.96"), ("1.96", TypeError, "z is '1.96'; it must be a number")],
)
def test_widths_that_are_none_are_refused(z, error, message):
    for interval in (lambda: wilson(0.5, 10, z), lambda: mean_interval([0.5], z)):
        with pytest.raises(error, match=message):
            interval()


def test_a_mean_interval_by_hand_and_of_right_and_wrong():
    """Of 0, 0, 0, 1: standard deviation √3 / 4, its standard error half of that."""
    half = 1.96 * np.sqrt(3) / 8
    for values in ([0.0, 0.0, 0.0, 1.0], [False, False, False, True]):
        np.testing.assert_allclose(mean_interval(values), (0.25, 0.25 - half, 0.25 + half))
    assert mean_interval([0.5]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("share", "count", "error", "message"),
    [
        (1.5, 10, ValueError, "^share is 1.5; it must lie between 0 and 1"),
        ([0.5, np.nan], 10, ValueError, r"^share\[1\] is nan"),
        ([0.5, 0.5], [3, 0], ValueError, r"^count\[1\] is 0.0; it must be above 0"),
        ("all", 10, TypeError, "shares are <U3"),
    ],
)
def test_what_is_no_share_of_a_count_is_refused(share, count, error, message):
    with pytest.raises(error, match=message):
        wilson(share, count)
