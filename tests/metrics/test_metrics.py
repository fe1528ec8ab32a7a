"""Metrics: refusals, numbers worked by hand, other libraries' numbers, then properties."""

import subprocess
import sys
from fractions import Fraction
from math import ceil, inf, log, nan, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from netcal.metrics import ECE, MCE
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

from calib import metrics
from calib.metrics.bins import bin_index
from calib.metrics.smooth import residual_spectrum, smoothed_error

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
FINE = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def two_options(confidence, correct):
    """Probabilities and labels with these confidences, at least 0.5, and outcomes."""
    confidence = np.asarray(confidence, dtype=float)
    return np.stack([confidence, 1 - confidence], axis=-1), 1 - np.asarray(correct)


def random_forecasts(seed, *lead, n=200, k=4, scale=2.0):
    """Probabilities without ties and labels that follow them loosely."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=scale, size=(*lead, n, k))
    labels = np.array([rng.choice(k, p=row) for row in softmax(logits.reshape(-1, n, k)[0] / 2)])
    return softmax(logits), labels


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


@pytest.mark.parametrize(
    "metric",
    [
        metrics.ece,
        metrics.mce,
        metrics.classwise_ece,
        metrics.debiased_l2,
        metrics.reliability_table,
        metrics.brier_decomposition,
    ],
)
@pytest.mark.parametrize(
    ("n_bins", "error"), [(0, ValueError), (-1, ValueError), (10.0, TypeError), (True, TypeError)]
)
def test_refuses_bins(metric, n_bins, error):
    with pytest.raises(error, match=f"n_bins is {n_bins}; it must be an integer of at least 1"):
        metric(FINE, [0, 1], n_bins=n_bins)


@pytest.mark.parametrize("metric", [metrics.ece, metrics.debiased_l2])
def test_refuses_unknown_binning(metric):
    with pytest.raises(ValueError, match=r"binning is 'mass'; .* equal-width, equal-mass"):
        metric(FINE, [0, 1], binning="mass")


def test_mce_refuses_when_no_bin_is_left():
    with pytest.raises(ValueError, match="min_count is 3; the fullest bin holds 1 questions"):
        metrics.mce(FINE, [0, 1], min_count=3)
    layers = [[FINE[0], FINE[0]], FINE]
    with pytest.raises(ValueError, match=r"at leading index \[1\] holds 1 questions"):
        metrics.mce(layers, [0, 1], min_count=2)
    with pytest.raises(ValueError, match="min_count is 0"):
        metrics.mce(FINE, [0, 1], min_count=0)


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


def test_ece_with_confidence_exactly_one():
    p, labels = two_options([1, 1, 1, 1, 0.95, 0.92], [1, 1, 1, 0, 1, 1])
    assert metrics.ece(p, labels, n_bins=10) == pytest.approx(0.145, abs=1e-12)


def test_edges_close_on_the_right():
    bin_of = {0.0: 0, 0.1: 0, 0.1000001: 1, 0.3: 2, 0.7: 6, 0.9: 8, 0.9000001: 9, 1.0: 9}
    assert bin_index(np.array(list(bin_of)), 10).tolist() == list(bin_of.values())


@pytest.mark.parametrize("n_bins", [2, 3, 7, 10, 15, 20, 100])
def test_edges_agree_with_exact_arithmetic(n_bins):
    pairs = [(k, m) for m in (10, 20, n_bins, 2 * n_bins) for k in range(1, m + 1)]
    exact = [ceil(Fraction(k, m) * n_bins) - 1 for k, m in pairs]
    assert bin_index(np.array([k / m for k, m in pairs]), n_bins).tolist() == exact


def test_reliability_table_by_hand():
    p, labels = two_options([0.5, 0.55, 0.6, 0.95, 1.0], [1, 0, 1, 1, 0])
    table = metrics.reliability_table(p, labels, n_bins=10)
    assert table.edges.tolist() == [k / 10 for k in range(11)]
    assert table.count.tolist() == [0, 0, 0, 0, 1, 2, 0, 0, 0, 2]
    np.testing.assert_allclose(table.confidence[[4, 5, 9]], [0.5, 0.575, 0.975])
    np.testing.assert_allclose(table.accuracy[[4, 5, 9]], [1, 0.5, 0.5])
    empty = table.count == 0
    assert np.isnan(table.confidence[empty]).all()
    assert np.isnan(table.accuracy[empty]).all()


def test_mce_leaves_small_bins_out():
    p, labels = two_options([0.55, 0.55, 0.55, 0.85], [1, 1, 0, 0])
    assert metrics.mce(p, labels) == pytest.approx(0.85)
    assert metrics.mce(p, labels, min_count=2) == pytest.approx(2 / 3 - 0.55)


def test_equal_mass_by_hand():
    p, labels = two_options([0.9, 0.6, 0.8, 0.7], [1, 0, 0, 1])
    by_two = metrics.ece(p, labels, n_bins=2, binning="equal-mass")
    assert by_two == pytest.approx((0.15 + 0.35) / 2)  # {.6, .7} and {.8, .9}
    by_three = metrics.ece(p, labels, n_bins=3, binning="equal-mass")
    assert by_three == pytest.approx((2 * 0.15 + 0.8 + 0.1) / 4)  # {.6, .7}, {.8} and {.9}
    alone = metrics.ece(p, labels, n_bins=9, binning="equal-mass")
    assert alone == pytest.approx((0.6 + 0.3 + 0.8 + 0.1) / 4)


@pytest.mark.parametrize("decimals", [1, 15], ids=["ties", "no ties"])
def test_equal_mass_equals_sorting_and_splitting(decimals):
    drawn = np.random.default_rng(1).uniform(0.5, 1, size=503).round(decimals)
    p, labels = two_options(drawn, np.arange(503) % 3 > 0)
    confidence, correct = metrics.confidence_and_correct(p, labels)
    parts = np.array_split(np.argsort(confidence, kind="stable"), 15)
    gaps = [abs(confidence[i].mean() - correct[i].mean()) * len(i) / 503 for i in parts]
    assert metrics.ece(p, labels, 15, "equal-mass") == pytest.approx(sum(gaps))


def test_kumars_example():
    p, labels = two_options(
        [0.5, 0.5, 0.5, 0.6, 0.5, 0.6, 0.6, 0.6, 0.6], [0, 1, 0, 1, 0, 1, 1, 1, 0]
    )
    assert metrics.ece(p, labels) == pytest.approx(0.222222, abs=1e-6)
    assert metrics.debiased_l2(p, labels) == pytest.approx(0, abs=1e-7)
    parts = metrics.brier_decomposition(p, labels)
    assert sqrt(parts.reliability) == pytest.approx(0.2236068, abs=1e-7)  # the plain L2
    assert parts.reliability == pytest.approx(0.05)
    assert parts.resolution == pytest.approx(0.0746914, abs=1e-7)
    assert parts.uncertainty == pytest.approx(0.2469136, abs=1e-7)
    assert parts.within == pytest.approx(0, abs=1e-15)
    assert parts.total == pytest.approx(2 / 9)


def test_debiased_l2_by_hand():
    # .95 with 1 of 4 right; .65, alone, adds nothing but counts among the questions
    p, labels = two_options([0.95] * 4 + [0.65], [1, 0, 0, 0, 0])
    squared = 4 / 5 * ((0.95 - 0.25) ** 2 - 0.25 * 0.75 / 3)
    assert metrics.debiased_l2(p, labels) == pytest.approx(sqrt(squared))


def test_debiased_l2_is_less_biased_than_the_plain():
    rng = np.random.default_rng(5)
    confidence = rng.uniform(0.5, 1, size=(200, 300))
    correct = rng.random(confidence.shape) < confidence
    p = np.stack([confidence, 1 - confidence], axis=-1)
    p = np.where(correct[..., None], p, p[..., ::-1])  # option 0 is right throughout
    labels = np.zeros(300, dtype=int)
    plain = np.mean(metrics.brier_decomposition(p, labels).reliability)
    assert np.mean(metrics.debiased_l2(p, labels) ** 2) < plain / 3


def test_classwise_ece_by_hand():
    p, labels = [[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]], [0, 1]
    assert metrics.classwise_ece(p, labels) == pytest.approx((0.2 + 0.3 + 0.1) / 3)


SMOOTH_CONFIDENCE = np.repeat([0.2, 0.8], 50)
SMOOTH_CORRECT = np.repeat([True, False, True, False], [20, 30, 30, 20])


def smoothed_by_sums(confidence, correct, sigma, n=4000):
    """The definition: Gaussians around every confidence and its mirror images, on a fine grid."""
    t = (np.arange(n) + 0.5) / n
    images = [2 * k + side * t for k in range(-3, 4) for side in (1, -1)]
    kernel = sum(np.exp(-(((image[:, None] - confidence) / sigma) ** 2) / 2) for image in images)
    kernel /= sigma * sqrt(2 * np.pi)
    return np.abs((kernel * (correct - confidence)).mean(axis=1)).mean()


@pytest.mark.parametrize("sigma", [0.02, 93 / 512, 0.6])
def test_smoothing_equals_the_definition(sigma):
    confidence = SMOOTH_CONFIDENCE**2  # not symmetric about the middle
    spectrum = residual_spectrum(confidence, SMOOTH_CORRECT)
    direct = smoothed_by_sums(confidence, SMOOTH_CORRECT, sigma)
    assert smoothed_error(spectrum, sigma) == pytest.approx(direct, abs=1e-6)


def test_smooth_ece_of_a_known_example():
    spectrum = residual_spectrum(SMOOTH_CONFIDENCE, SMOOTH_CORRECT)
    assert smoothed_error(spectrum, 0.180630) == pytest.approx(0.180630, abs=1e-6)
    # relplot 1.0.3 gives .181443 at width .181641, with its kernel cut off at a distance of 1/2.
    assert smoothed_error(spectrum, 0.181641) == pytest.approx(0.181443, abs=2e-3)
    # The same as two options: confidence .8 throughout, right for 60 of 100.
    p = np.stack([1 - SMOOTH_CONFIDENCE, SMOOTH_CONFIDENCE], axis=-1)
    assert metrics.smooth_ece(p, SMOOTH_CORRECT.astype(int)) == pytest.approx(0.2, abs=1e-6)


def test_smooth_ece_is_its_own_width():
    p, labels = random_forecasts(2, n=400)
    confidence, correct = metrics.confidence_and_correct(p, labels)
    value = metrics.smooth_ece(p, labels)
    assert smoothed_by_sums(confidence, correct, value) == pytest.approx(value, abs=1e-5)


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
    p, labels = continuous
    table = metrics.reliability_table(p, labels, n_bins)
    squares = np.nansum(table.count / 5000 * (table.confidence - table.accuracy) ** 2)
    ours = {
        "l1": metrics.ece(p, labels, n_bins),
        "l2": sqrt(squares),
        "max": metrics.mce(p, labels, n_bins),
    }
    theirs = {
        norm: multiclass_calibration_error(
            torch.tensor(p), torch.tensor(labels), num_classes=4, n_bins=n_bins, norm=norm
        ).item()
        for norm in ours
    }
    assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("n_bins", [10, 15])
def test_agrees_with_netcal(continuous, n_bins):
    assert metrics.ece(*continuous, n_bins) == pytest.approx(
        ECE(n_bins).measure(*continuous), abs=1e-6
    )
    assert metrics.mce(*continuous, n_bins) == pytest.approx(
        MCE(n_bins).measure(*continuous), abs=1e-6
    )


def test_agrees_with_scikit_learn(continuous):
    p, labels = continuous
    confidence, correct = metrics.confidence_and_correct(p, labels)
    assert metrics.nll(p, labels) == pytest.approx(log_loss(labels, p))
    assert metrics.brier(p, labels) == pytest.approx(
        brier_score_loss(labels, p, scale_by_half=False)
    )
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
