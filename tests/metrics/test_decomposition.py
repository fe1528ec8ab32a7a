"""The parts of an ECE: by hand, then against the metrics they are parts of."""

import numpy as np
import pytest
from support.forecasts import forecasts, two_options
from support.properties import given, settings, st

from calib import metrics
from calib.metrics import ece_split


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[0.9, 0.2]], [0]), ValueError, r"probabilities\[0\] sums to 1.1"),
        (([[0.9, 0.1]], [2]), ValueError, r"labels\[0\] is 2"),
        (([[0.9, 0.1]], [0], 0), ValueError, "n_bins is 0"),
        (([[0.9, 0.1]], [0], 2.0), TypeError, "n_bins is 2.0"),
    ],
)
def test_refuses_input(arguments, error, message):
    with pytest.raises(error, match=message):
        ece_split(*arguments)


def test_by_hand():
    # One bin overconfident, .95 against 1/2; one underconfident, .55 against 2/3.
    split = ece_split(*two_options([0.95, 0.95, 0.55, 0.55, 0.55], [1, 0, 1, 1, 0]))
    assert split.over == pytest.approx(2 / 5 * 0.45)
    assert split.under == pytest.approx(3 / 5 * (2 / 3 - 0.55))
    assert split.wrong == pytest.approx((0.95 + 0.55) / 5)
    assert split.right == pytest.approx((0.05 + 0.45 + 0.45) / 5)
    assert split.holds is False
    assert abs(split.gap) < split.ece


def test_right_and_wrong_are_means_times_their_shares():
    p, labels = forecasts(scale=2)
    confidence, correct = metrics.confidence_and_correct(p, labels)
    a = correct.mean()
    split = ece_split(p, labels)
    assert split.wrong == pytest.approx((1 - a) * confidence[~correct].mean())
    assert split.right == pytest.approx(a * (1 - confidence[correct].mean()))


def test_where_no_bin_is_underconfident_the_ece_is_wrong_less_right():
    p, labels = two_options([0.95] * 4 + [0.75] * 4, [1, 1, 0, 0, 1, 0, 0, 0])
    split = ece_split(p, labels)
    assert split.holds is True
    assert split.wrong - split.right == pytest.approx(metrics.ece(p, labels), abs=1e-15)


def test_a_bin_without_a_gap_holds_though_sums_round():
    p, labels = two_options([0.9] * 10 + [0.7] * 10, [1] * 9 + [0] + [1] * 7 + [0] * 3)
    split = ece_split(p, labels)
    assert 0 < split.under < 1e-15
    assert split.holds is True


def test_a_bin_without_a_gap_holds_in_single_precision():
    """Where .7 is .69999999."""
    p, labels = two_options([0.9] * 10 + [0.7] * 10, [1] * 9 + [0] + [1] * 7 + [0] * 3)
    split = ece_split(p.astype(np.float32), labels)
    assert split.under > 1e-9
    assert split.holds is True
    p, labels = two_options([0.8999] * 10, [1] * 9 + [0])
    assert ece_split(p.astype(np.float32), labels).holds is False


@pytest.mark.parametrize(("answer", "wrong", "right"), [(0, 0.0, 0.25), (1, 0.75, 0.0)])
def test_all_right_or_all_wrong(answer, wrong, right):
    split = ece_split([[0.75, 0.25]] * 3, [answer] * 3)
    assert (split.wrong, split.right) == (wrong, right)
    assert (split.over, split.under) == (wrong, right)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 60),
    n_bins=st.integers(1, 25),
    scale=st.floats(0, 9),
)
def test_parts_add_up_to_the_metrics(seed, n, n_bins, scale):
    p, labels = forecasts(n=n, seed=seed, scale=scale)
    split = ece_split(p, labels, n_bins)
    assert split.ece == pytest.approx(metrics.ece(p, labels, n_bins), abs=1e-12)
    assert split.gap == pytest.approx(metrics.signed_gap(p, labels), abs=1e-12)
    assert split.over - split.under == pytest.approx(split.gap, abs=1e-12)
    assert abs(split.gap) <= split.ece + 1e-12


def test_layers_equal_one_at_a_time():
    p, labels = forecasts(2, 3, scale=2)
    together = ece_split(p, labels)
    assert together.holds.shape == together.gap.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        alone = ece_split(p[i, j], labels)
        assert isinstance(alone.over, float)
        for name in ("over", "under", "wrong", "right"):
            assert getattr(together, name)[i, j] == pytest.approx(getattr(alone, name), abs=1e-15)
