"""Metrics: refusals, numbers worked by hand, other libraries' numbers, then properties."""

import subprocess
import sys
from functools import partial
from math import inf, log, nan, sqrt

import numpy as np
import pytest
import scipy.special
import torch
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from support.forecasts import random_forecasts, two_options
from support.properties import given, settings, st

from calib import metrics

NUMBERS = {
    "accuracy": metrics.accuracy,
    "mean_confidence": metrics.mean_confidence,
    "signed_gap": metrics.signed_gap,
    "nll": metrics.nll,
    "brier": metrics.brier,
    "entropy": metrics.entropy,
    "auroc": metrics.auroc,
    "ece": metrics.ece,
    "mce": metrics.mce,
    "classwise_ece": metrics.classwise_ece,
    "debiased_l2": metrics.debiased_l2,
    "smooth_ece": metrics.smooth_ece,
}
every_number = pytest.mark.parametrize("metric", NUMBERS.values(), ids=NUMBERS)
softmax = partial(scipy.special.softmax, axis=-1)  # in the type that it is given
FINE = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]


# Refusals


@pytest.mark.parametrize(
    ("probabilities", "labels", "error", "message"),
    [
        ([["a", "b"]], [0], TypeError, "probabilities are <U1; they must be real numbers"),
        ([[1j, 0]], [0], TypeError, "probabilities are complex128"),
        ([0.5, 0.5], [0], ValueError, r"shape \(2,\); .* one question is p\[None, :\]"),
        ([[1.0], [1.0]], [0, 0], ValueError, r"1 options .* \[1 - p, p\]"),
        (np.ones((0, 4)), [], ValueError, r"shape \(0, 4\); no metric is defined on nothing"),
        (np.ones((0, 5, 4)), [0] * 5, ValueError, r"shape \(0, 5, 4\); no metric"),
        (FINE, [0], ValueError, r"labels have shape \(1,\).* shape \(2,\)"),
        (FINE, [[0, 1]], ValueError, r"labels have shape \(1, 2\)"),
        (FINE, [0.0, 1.0], TypeError, "labels are float64; they must be the integer index"),
        (FINE, [True, False], TypeError, "labels are bool"),
        (FINE, ["A", "B"], TypeError, "labels are <U1.*'ABCD'.index"),
        (FINE, [0, 3], ValueError, r"labels\[1\] is 3; with 3 options labels run from 0 to 2"),
        (FINE, [-1, 0], ValueError, r"labels\[0\] is -1"),
        ([FINE[0], [nan, 1, 0]], [0, 0], ValueError, r"\[1, 0\] is nan; .* must be finite"),
        ([FINE[0], [0, inf, 0]], [0, 0], ValueError, r"\[1, 1\] is inf; .* must be finite"),
        ([FINE[0], [1.1, 0, -0.1]], [0, 0], ValueError, r"\[1, 2\] is -0.1; no entry may be neg"),
        ([FINE[0], [3.2, 1, 0]], [0, 0], ValueError, r"\[1\] sums to 4.2; .* softmax"),
        ([FINE, [FINE[0], [0.5, 0.4, 0]]], [0, 0], ValueError, r"\[1, 1\] sums to 0.9;"),
    ],
)
@every_number
def test_refuses_input(metric, probabilities, labels, error, message):
    with pytest.raises(error, match=message):
        metric(probabilities, labels)


def test_importing_metrics_imports_numpy_alone():
    code = "import sys, calib.metrics; print({'torch', 'pandas', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_float32_softmax_is_accepted():
    logits = np.random.default_rng(0).normal(scale=4, size=(1000, 4))
    p = softmax(logits)
    single = softmax(logits.astype(np.float32))
    labels = np.arange(1000) % 4
    assert single.dtype == np.float32
    assert metrics.ece(single, labels) == pytest.approx(metrics.ece(p, labels), abs=1e-6)


# Numbers by hand


def test_one_question():
    p, labels = [[0.75, 0.25]], [1]
    values = {name: metric(p, labels) for name, metric in NUMBERS.items()}
    assert np.isnan(values.pop("auroc"))
    assert values == pytest.approx(
        {
            "accuracy": 0,
            "mean_confidence": 0.75,
            "signed_gap": 0.75,
            "nll": log(4),
            "brier": 2 * 0.75**2,
            "entropy": log(4) - 0.75 * log(3),
            "ece": 0.75,
            "mce": 0.75,
            "classwise_ece": 0.75,
            "debiased_l2": 0,
            "smooth_ece": 0.75,
        }
    )
    assert metrics.brier_decomposition(p, labels).total == pytest.approx(0.75**2)


def test_auroc_counts_ties_half_and_is_nan_where_undefined():
    p, labels = two_options([0.9, 0.7, 0.7, 0.6], [1, 1, 0, 0])
    assert metrics.auroc(p, labels) == (1 + 1 + 0.5 + 1) / 4
    layers = np.stack([p, p[:, ::-1], np.full_like(p, 0.5)])
    values = metrics.auroc(layers, np.zeros(4, dtype=int))
    assert np.isnan(values).all()


# Other libraries


@pytest.fixture(scope="module")
def continuous():
    return random_forecasts(3, n=5000)


@pytest.mark.parametrize("n_bins", [10, 15])
def test_agrees_with_torchmetrics(continuous, n_bins):
    theirs = pytest.importorskip("torchmetrics.functional.classification")
    p, labels = continuous
    table = metrics.reliability_table(p, labels, n_bins)
    squares = np.nansum(table.count / 5000 * (table.confidence - table.accuracy) ** 2)
    ours = {
        "l1": metrics.ece(p, labels, n_bins),
        "l2": sqrt(squares),
        "max": metrics.mce(p, labels, n_bins),
    }
    theirs = {
        norm: theirs.multiclass_calibration_error(
            torch.tensor(p), torch.tensor(labels), num_classes=4, n_bins=n_bins, norm=norm
        ).item()
        for norm in ours
    }
    assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("n_bins", [10, 15])
def test_agrees_with_netcal(continuous, n_bins):
    netcal = pytest.importorskip("netcal.metrics")
    assert metrics.ece(*continuous, n_bins) == pytest.approx(
        netcal.ECE(n_bins).measure(*continuous), abs=1e-6
    )
    assert metrics.mce(*continuous, n_bins) == pytest.approx(
        netcal.MCE(n_bins).measure(*continuous), abs=1e-6
    )


def test_agrees_with_scikit_learn(continuous):
    p, labels = continuous
    confidence, correct = metrics.confidence_and_correct(p, labels)
    assert metrics.nll(p, labels) == pytest.approx(log_loss(labels, p))
    by_option = [brier_score_loss(labels == option, p[:, option]) for option in range(4)]
    assert metrics.brier(p, labels) == pytest.approx(sum(by_option))
    assert metrics.auroc(p, labels) == pytest.approx(roc_auc_score(correct, confidence))
    assert metrics.brier_decomposition(p, labels).total == pytest.approx(
        brier_score_loss(correct, confidence)
    )


def test_auroc_with_many_ties_agrees_with_scikit_learn(continuous):
    p, labels = continuous
    coarse = np.eye(4)[p.argmax(axis=-1)] * np.round(p.max(axis=-1), 1)[:, None]
    coarse = coarse + (1 - coarse.sum(axis=-1, keepdims=True)) / 4
    confidence, correct = metrics.confidence_and_correct(coarse, labels)
    assert len(np.unique(confidence)) < 12
    assert metrics.auroc(coarse, labels) == pytest.approx(roc_auc_score(correct, confidence))


# Properties


@st.composite
def forecasts(draw, ties=True):
    """Probabilities and labels; half of them in twentieths, so on edges and with ties."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, k = draw(st.integers(1, 40)), draw(st.integers(2, 5))
    p = softmax(rng.normal(scale=draw(st.sampled_from([0.1, 1.0, 5.0])), size=(n, k)))
    if ties and draw(st.booleans()):
        p = np.array([rng.multinomial(20, row) for row in p]) / 20
    return p, rng.integers(k, size=n)


def close(value, expected):
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-7)


quick = settings(max_examples=40, deadline=None, derandomize=True)


@every_number
@quick
@given(forecasts(), st.randoms(use_true_random=False))
def test_order_of_questions_does_not_matter(metric, forecast, random):
    p, labels = forecast
    order = random.sample(range(len(labels)), len(labels))
    close(metric(p[order], labels[order]), metric(p, labels))


@pytest.mark.parametrize("name", [name for name in NUMBERS if name != "debiased_l2"])
@quick
@given(forecasts())
def test_duplicated_questions_change_nothing(name, forecast):
    p, labels = forecast
    twice = np.concatenate([p, p]), np.concatenate([labels, labels])
    close(NUMBERS[name](*twice), NUMBERS[name](p, labels))


@every_number
@quick
@given(forecasts(ties=False), st.randoms(use_true_random=False))
def test_names_of_options_do_not_matter(metric, forecast, random):
    p, labels = forecast
    order = np.array(random.sample(range(p.shape[1]), p.shape[1]))
    close(metric(p[:, order], np.argsort(order)[labels]), metric(p, labels))


@every_number
def test_leading_axes_equal_one_at_a_time(metric):
    p, labels = random_forecasts(4, 2, 3, n=50)
    together = metric(p, labels)
    assert together.shape == (2, 3)
    one_at_a_time = [[metric(layer, labels) for layer in row] for row in p]
    assert isinstance(one_at_a_time[0][0], float)
    np.testing.assert_array_equal(together, one_at_a_time)
    # and wherever in memory the layers lie
    strided = np.moveaxis(np.ascontiguousarray(np.moveaxis(p, 2, 0)), 0, 2)
    np.testing.assert_array_equal(metric(strided, labels), together)


def test_leading_axes_of_tables_equal_one_at_a_time():
    p, labels = random_forecasts(4, 3, n=50)
    tables = metrics.reliability_table(p, labels)
    parts = metrics.brier_decomposition(p, labels)
    mass = metrics.ece(p, labels, binning="equal-mass")
    for i in range(3):
        table = metrics.reliability_table(p[i], labels)
        np.testing.assert_array_equal(tables.count[i], table.count)
        np.testing.assert_array_equal(tables.confidence[i], table.confidence)
        np.testing.assert_array_equal(tables.accuracy[i], table.accuracy)
        assert parts.total[i] == metrics.brier_decomposition(p[i], labels).total
        assert mass[i] == metrics.ece(p[i], labels, binning="equal-mass")


@quick
@given(forecasts(), st.integers(1, 30))
def test_errors_are_ordered_and_in_range(forecast, n_bins):
    ece, mce = metrics.ece(*forecast, n_bins), metrics.mce(*forecast, n_bins)
    assert abs(metrics.signed_gap(*forecast)) <= ece + 1e-12
    assert ece <= mce + 1e-12
    assert mce <= 1
    assert 0 <= metrics.classwise_ece(*forecast, n_bins) <= 1
    assert 0 <= metrics.debiased_l2(*forecast, n_bins) <= mce + 1e-12
    assert 0 <= metrics.smooth_ece(*forecast) <= 1
    assert 0 <= metrics.brier(*forecast) <= 2


@quick
@given(forecasts(), st.integers(1, 30))
def test_brier_parts_add_up(forecast, n_bins):
    confidence, correct = metrics.confidence_and_correct(*forecast)
    parts = metrics.brier_decomposition(*forecast, n_bins)
    assert parts.total == pytest.approx(np.mean((confidence - correct) ** 2), abs=1e-12)
    assert min(parts.reliability, parts.resolution, parts.uncertainty) >= 0


@quick
@given(forecasts(ties=False), st.floats(0.1, 10))
def test_temperature_leaves_accuracy_alone(forecast, temperature):
    p, labels = forecast
    tempered = softmax(np.log(p) / temperature)
    assert metrics.accuracy(tempered, labels) == metrics.accuracy(p, labels)


def test_perfect_forecasts_have_no_error():
    tenths = [(c, [1] * c + [0] * (10 - c)) for c in (5, 6, 7, 8, 9, 10)]
    confidence = [c / 10 for c, outcomes in tenths for _ in outcomes]
    p, labels = two_options(confidence, [y for _, outcomes in tenths for y in outcomes])
    for metric in (metrics.signed_gap, metrics.ece, metrics.mce, metrics.classwise_ece):
        assert metric(p, labels) == pytest.approx(0, abs=1e-12)
    assert metrics.debiased_l2(p, labels) == 0
    assert metrics.smooth_ece(p, labels) == pytest.approx(0, abs=1e-6)
    assert metrics.brier_decomposition(p, labels).reliability == pytest.approx(0, abs=1e-12)
    # and overconfidence by a tenth in every bin shows as such
    worse = np.stack([np.minimum(p[:, 0] + 0.1, 1), np.maximum(p[:, 1] - 0.1, 0)], axis=-1)
    assert metrics.ece(worse[:-10], labels[:-10]) == pytest.approx(0.1)
    assert metrics.signed_gap(worse[:-10], labels[:-10]) == pytest.approx(0.1)
