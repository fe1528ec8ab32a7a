"""Temperatures: worked by hand, planted, and against scikit-learn and scipy."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from support.properties import given, settings, st

from calib import metrics
from calib.metrics import softmax
from calib.recalibration import Temperature


def overconfident(n=600, scale=3.0, seed=0):
    """Logits, and labels drawn from a flatter distribution than theirs."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 4))
    labels = np.array([rng.choice(4, p=p) for p in softmax(logits)])
    return scale * logits, labels


# By hand


def test_it_divides_the_logits():
    """Square roots of the odds 9, and their squares."""
    logits = np.log([[9.0, 1.0]])
    np.testing.assert_allclose(Temperature(1.0)(logits), [[0.9, 0.1]])
    np.testing.assert_allclose(Temperature(2.0)(logits), [[0.75, 0.25]])
    np.testing.assert_allclose(Temperature(0.5)(logits), [[81 / 82, 1 / 82]])


def test_it_takes_logits_of_any_leading_shape():
    logits = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    p = Temperature(1.7)(logits)
    assert (p.shape, p.dtype) == ((3, 5, 4), np.float64)
    np.testing.assert_array_equal(p[1, 2], Temperature(1.7)(logits[1, 2]))
    np.testing.assert_array_equal(p.argmax(axis=-1), logits.argmax(axis=-1))


def test_a_fit_by_hand():
    """Right three times of four: odds of 3, from odds of exp(4)."""
    fitted = Temperature().fit([[4.0, 0.0]] * 4, [0, 0, 0, 1])
    assert fitted.value == pytest.approx(4 / np.log(3), abs=1e-9)
    np.testing.assert_allclose(fitted([[4.0, 0.0]]), [[0.75, 0.25]], atol=1e-9)


def test_an_underconfident_model_gets_a_temperature_below_one():
    """Right seven times of eight among four options: odds of 21 to each other, from exp(1)."""
    logits, labels = [[0.0, 1.0, 0.0, 0.0]] * 8, [1] * 7 + [0]
    assert Temperature().fit(logits, labels).value == pytest.approx(1 / np.log(21), abs=1e-9)


def test_matching_by_hand():
    for confidence, value in ((0.75, 4 / np.log(3)), (0.9, 4 / np.log(9)), (0.6, 4 / np.log(1.5))):
        found = Temperature.matching([[4.0, 0.0]], confidence)
        assert found.value == pytest.approx(value, abs=1e-9)


# Planted


@pytest.mark.parametrize("value", [0.02, 0.4, 1.0, 2.5, 60.0])
def test_a_planted_temperature_is_found_from_probabilities(value):
    logits, _ = overconfident()
    found = Temperature().fit(logits, softmax(logits / value))
    assert found.value == pytest.approx(value, rel=1e-8)


def test_a_planted_temperature_is_found_from_single_precision():
    logits = overconfident()[0].astype(np.float32)
    target = softmax(logits / 2.5).astype(np.float32)
    assert Temperature().fit(logits, target).value == pytest.approx(2.5, abs=1e-5)


def test_rows_that_sum_to_one_only_nearly_are_taken_for_what_they_are():
    """Else a large shift of the logits, which means nothing, would weigh in with the excess."""
    logits, _ = overconfident()
    target = (1 + 5e-5) * softmax(logits / 2.5)
    assert Temperature().fit(logits + 1000, target).value == pytest.approx(2.5, rel=1e-8)


def test_labels_drawn_at_a_temperature_give_it_back_in_large_samples():
    """Its standard error here is .02."""
    logits, labels = overconfident(n=20_000)
    assert Temperature().fit(logits, labels).value == pytest.approx(3, abs=0.08)


def test_labels_are_the_probabilities_that_are_sure_of_them():
    logits, labels = overconfident()
    by_label, by_row = (Temperature().fit(logits, t).value for t in (labels, np.eye(4)[labels]))
    assert by_label == pytest.approx(by_row, rel=1e-12)


def test_scaled_logits_scale_the_temperature_and_shifted_ones_leave_it():
    logits, labels = overconfident()
    value = Temperature().fit(logits, labels).value
    shift = 50 * np.random.default_rng(1).normal(size=(600, 1))
    assert Temperature().fit(10 * logits, labels).value == pytest.approx(10 * value, rel=1e-9)
    assert Temperature().fit(logits + shift, labels).value == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(("scale", "value"), [(1, 3.641), (1000, 3641), (1 / 5000, 0.000728)])
def test_logits_of_any_size_have_a_temperature(scale, value):
    """Confidence 3/4 where it is 3 in 4: 4 / ln 3."""
    logits = scale * np.array([[4.0, 0.0]] * 4)
    for found in (Temperature().fit(logits, [0, 0, 0, 1]), Temperature.matching(logits, 0.75)):
        assert found.value == pytest.approx(scale * 4 / np.log(3), rel=1e-12)
        assert found.value == pytest.approx(value, rel=1e-3)


@settings(max_examples=50, deadline=None)
@given(exponent=st.floats(-6, 6), seed=st.integers(0, 99), mixed=st.booleans())
def test_the_temperature_is_as_many_times_higher_as_the_logits_are_larger(exponent, seed, mixed):
    logits, labels = overconfident(n=60, seed=seed)
    if mixed:
        logits[::3, 2:], labels[::3] = -np.inf, labels[::3] % 2
    c = 10**exponent
    for fit in (lambda z: Temperature().fit(z, labels), lambda z: Temperature.matching(z, 0.8)):
        assert fit(c * logits).value == pytest.approx(c * fit(logits).value, rel=1e-9)


def test_one_question_of_huge_logits_does_not_hide_the_others():
    """It is right at any temperature that the others could have."""
    logits = np.array([[4.0, 0.0]] * 4 + [[1e18, 0.0]])
    assert Temperature().fit(logits, [0, 0, 0, 1, 0]).value == pytest.approx(4 / np.log(3))


def test_an_option_that_is_absent_has_no_say():
    """By labels and by probabilities; questions of three equal options beside it say nothing."""
    two, three = [4.0, 0.0, -np.inf], [0.0, 0.0, 0.0]
    logits = [two] * 4 + [three] * 2
    target = [[1, 0, 0]] * 3 + [[0, 1, 0]] + [[1 / 3] * 3] * 2
    for labels in ([0, 0, 0, 1, 2, 0], target):
        assert Temperature().fit(logits, labels).value == pytest.approx(4 / np.log(3))
    p = Temperature.matching(logits, (4 * 0.75 + 2 / 3) / 6)(logits)
    np.testing.assert_allclose(p[0], [0.75, 0.25, 0], atol=1e-9)
    assert p[0, 2] == 0


def test_the_lowest_confidence_is_that_of_each_questions_own_options():
    """1/2 and 1/4."""
    logits = [[4.0, 0.0, -np.inf, -np.inf], [4.0, 0.0, 0.0, 0.0]]
    assert Temperature.matching(logits, 0.38).value > 100
    with pytest.raises(ValueError, match=r"confidence of 0.37; it must lie between 0.375 and 1"):
        Temperature.matching(logits, 0.37)


@pytest.mark.parametrize("confidence", [0.26, 0.4, 0.8, 0.999])
def test_matching_gives_the_confidence_asked_for(confidence):
    logits, labels = overconfident()
    p = Temperature.matching(logits, confidence)(logits)
    assert metrics.mean_confidence(p, labels) == pytest.approx(confidence, abs=1e-9)


# Against other libraries


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose scores are the logits it is given."""

    def fit(self, _, labels):
        self.classes_ = np.unique(labels)
        return self

    def decision_function(self, logits):
        return logits

    def predict(self, logits):
        return self.classes_[logits.argmax(axis=1)]


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0, 20.0])
def test_a_fit_is_scikit_learns(scale):
    pytest.importorskip("sklearn", "1.8", reason="older ones fit no temperature")
    logits, labels = overconfident(scale=scale)
    given = FrozenEstimator(Given().fit(logits, labels))
    theirs = CalibratedClassifierCV(given, method="temperature").fit(logits, labels)
    ours = Temperature().fit(logits, labels)
    np.testing.assert_allclose(ours(logits), theirs.predict_proba(logits), atol=1e-6)
    (calibrated,) = theirs.calibrated_classifiers_
    assert ours.value == pytest.approx(1 / calibrated.calibrators[0].beta_, rel=1e-5)


def test_a_fit_to_probabilities_has_the_least_cross_entropy_scipy_finds():
    """To probabilities that are no temperature of the logits."""
    logits, _ = overconfident()
    target = np.random.default_rng(1).dirichlet(np.ones(4), size=600) / 2 + softmax(logits) / 2
    found = minimize(
        lambda b: -(target * log_softmax(b[0] * logits, axis=1)).sum(), [1.0], method="BFGS"
    )
    assert Temperature().fit(logits, target).value == pytest.approx(1 / found.x[0], rel=1e-5)


def test_a_fit_lowers_nll_and_keeps_the_answers():
    logits, labels = overconfident()
    fitted = Temperature().fit(logits, labels)
    best = metrics.nll(fitted(logits), labels)
    for value in (1.0, 0.999 * fitted.value, 1.001 * fitted.value):
        assert metrics.nll(Temperature(value)(logits), labels) > best
    np.testing.assert_array_equal(fitted(logits).argmax(axis=1), logits.argmax(axis=1))


# Refusals


@pytest.mark.parametrize("scale", [0.1, 1, 4, 30, 300])
def test_where_every_answer_is_right_there_is_no_best_temperature(scale):
    """NLL is 0 to the last digit over a wide range: any of it would be an accident."""
    for seed in range(20):
        logits = scale * np.random.default_rng(seed).normal(size=(30, 4))
        labels = logits.argmax(axis=1)
        with pytest.raises(ValueError, match="all 30 answers are right"):
            Temperature().fit(logits, labels)
        with pytest.raises(ValueError, match="where every answer is right it would be 0"):
            Temperature().fit(logits, np.eye(4)[labels])


def test_where_confidence_says_nothing_there_is_none_either():
    with pytest.raises(ValueError, match="where confidence says nothing infinite"):
        Temperature().fit([[4.0, 0.0]] * 4, [0, 0, 1, 1])


@pytest.mark.parametrize("value", [-1, 0, np.inf, np.nan])
def test_a_number_that_is_no_temperature_is_refused(value):
    with pytest.raises(ValueError, match=f"value is {value}; a temperature is positive and finite"):
        Temperature(value)


def test_a_temperature_is_a_number():
    with pytest.raises(TypeError, match="value is '2'; it must be a number"):
        Temperature("2")


def test_calling_before_fitting_is_refused():
    with pytest.raises(RuntimeError, match="has not been fitted; call fit"):
        Temperature()([[4.0, 0.0]])


def test_given_or_fitted_it_divides_the_logits_of_any_number_of_options():
    for temperature in (Temperature(2.0), Temperature().fit([[4.0, 0.0]] * 4, [0, 0, 0, 1])):
        assert [temperature(np.zeros((1, n))).shape for n in (2, 5)] == [(1, 2), (1, 5)]


def test_of_a_failed_fit_no_value_is_left():
    """Neither the one of the fit before nor one that was given."""
    for temperature in (Temperature(2.0), Temperature().fit([[4.0, 0.0]] * 4, [0, 0, 0, 1])):
        with pytest.raises(ValueError, match="where confidence says nothing infinite"):
            temperature.fit([[4.0, 0.0]] * 4, [0, 0, 1, 1])
        assert temperature.value is None
        with pytest.raises(RuntimeError, match="has not been fitted"):
            temperature([[4.0, 0.0]])


@pytest.mark.parametrize(
    ("logits", "target", "error", "message"),
    [
        ([4.0, 0.0], [0], ValueError, r"logits have shape \(2,\); to fit, they must be \[quest"),
        ([[[4.0, 0.0]]], [0], ValueError, r"logits have shape \(1, 1, 2\)"),
        ([[4.0, np.nan]], [0], ValueError, "logits must be finite"),
        ([[4.0, -np.inf]], [0], ValueError, r"logits\[0\] have 1 options that are not -inf"),
        ([[4.0, 0.0]] * 3, [0, 1], ValueError, r"labels have shape \(2,\), .* one label per q"),
        ([[4.0, 0.0]], [[0.5, 0.3, 0.2]], ValueError, r"target has shape \(1, 3\); .* \(1, 2\) it"),
        ([[4.0, 0.0]], 0, ValueError, r"labels have shape \(\)"),
        ([[4.0, 0.0]], None, ValueError, "is fitted on labels"),
        (np.empty((0, 4)), np.empty(0, int), ValueError, "there is no question"),
        ([[4.0, 0.0]] * 2, [0, 2], ValueError, r"labels\[1\] is 2; .* run from 0 to 1"),
        ([[4.0, 0.0]] * 2, [-1, 0], ValueError, r"labels\[0\] is -1"),
        ([[4.0, 0.0]] * 2, [0.0, 1.0], TypeError, "labels are float64"),
        ([[4.0, 0.0]], [[0.5, np.nan]], ValueError, r"probabilities\[0, 1\] is nan"),
        ([[4.0, 0.0]], [[1.5, -0.5]], ValueError, r"probabilities\[0, 1\] is -0.5"),
        ([[4.0, 0.0]], [[4.0, 0.0]], ValueError, r"probabilities\[0\] sums to 4"),
        (
            [[4.0, 0.0, -np.inf]],
            [[0.5, 0.3, 0.2]],
            ValueError,
            r"probabilities\[0, 2\] is 0.2; quest",
        ),
        ([[1.5, 1.5]] * 2, [0, 1], ValueError, "all options of every question have the same logit"),
        ([[4.0, 0.0], [1.0]], [0, 1], ValueError, "no array can be made of logits; rows"),
    ],
)
def test_what_cannot_be_fitted_is_refused(logits, target, error, message):
    with pytest.raises(error, match=message):
        Temperature().fit(logits, target)


@pytest.mark.parametrize("confidence", [0.0, 0.25, 1.0, 1.2, 80, np.nan])
def test_a_confidence_that_no_temperature_gives_is_refused(confidence):
    logits, _ = overconfident()
    with pytest.raises(ValueError, match=f"confidence of {confidence}; it must lie between 0.25"):
        Temperature.matching(logits, confidence)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        ([[4.0, np.nan]], "logits must be finite"),
        ([[[4.0, 0.0]]], r"they must be \[questions, options\]"),
        ([4.0, 0.0], r"they must be \[questions, options\]"),
        (np.empty((0, 4)), "there is no question"),
        ([[0.1, 0.1, 0.1]], "all options of every question have the same logit; no temperature"),
    ],
)
def test_matching_refuses_logits_too(logits, message):
    with pytest.raises(ValueError, match=message):
        Temperature.matching(logits, 0.75)
