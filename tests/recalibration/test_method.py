"""What every recalibration method keeps to: refusals, shapes, answers, probabilities."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from support.properties import arrays, given, settings, st

from calib import metrics
from calib.metrics import softmax
from calib.recalibration import (
    BatchCalibration,
    ContextualCalibration,
    FeatureClipping,
    FewShot,
    GLayers,
    HistogramBinning,
    Isotonic,
    LoRe,
    PriDe,
    Temperature,
    spread,
)
from calib.recalibration.top_label import TopLabel

N, OPTIONS, WIDTH = 200, 4, 6
ROWS = np.random.default_rng(7).normal(size=(OPTIONS, WIDTH))

METHODS = {
    "temperature": Temperature,
    "histogram_binning": HistogramBinning,
    "isotonic": Isotonic,
    "lore": LoRe,
    "clipping": lambda: FeatureClipping(ROWS, np.zeros(OPTIONS)),
    "clipping_above": lambda: FeatureClipping(ROWS, np.zeros(OPTIONS), two_sided=False),
    "g_layers": lambda: GLayers(max_epochs=30),
    "few_shot": lambda: FewShot(5, n_components=2, n_judged=20, n_steps=60),
    "batch": BatchCalibration,
    "contextual": ContextualCalibration,
    "pride": PriDe,
}
every_method = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
WITH_FEATURES = {name: make for name, make in METHODS.items() if make().needs_features}
every_method_with_features = pytest.mark.parametrize(
    "make", WITH_FEATURES.values(), ids=WITH_FEATURES
)
WITH_LABELS = {name: make for name, make in METHODS.items() if make().needs_labels}
every_method_with_labels = pytest.mark.parametrize("make", WITH_LABELS.values(), ids=WITH_LABELS)
with_equal_options = pytest.mark.parametrize(
    "make", [make for make in METHODS.values() if make().needs_equal_options]
)
of_any_options = pytest.mark.parametrize(
    "make", [make for make in METHODS.values() if not make().needs_equal_options]
)
of_any_columns = pytest.mark.parametrize(  # clipping has a row of the unembedding for each
    "make", [make for make in METHODS.values() if not make().changes_answer]
)
KEEPING = {name: make for name, make in METHODS.items() if not make().changes_answer}


def without(*names):
    kept = {name: make for name, make in METHODS.items() if name not in names}
    return pytest.mark.parametrize("make", kept.values(), ids=kept)


def problem(seed=0, n=N):
    """Logits, overconfident labels, and features that the logits are made of."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, WIDTH))
    logits = features @ ROWS.T
    labels = np.array([rng.choice(OPTIONS, p=p) for p in softmax(logits / 2)])
    return logits, labels, features


def bad(array, value, at=3):
    array = array.copy()
    array[at, 0] = value
    return array


def mixed_options(logits):
    """Every second question without its last option, every fourth without its last two."""
    logits = logits.copy()
    logits[::2, -1:] = -np.inf
    logits[::4, -2:] = -np.inf
    return logits


LOGITS, LABELS, FEATURES = problem()
MIXED = mixed_options(LOGITS)
MIXED_LABELS = np.minimum(LABELS, np.isfinite(MIXED).sum(axis=1) - 1)


def fit(method, logits, labels, features):
    """As a loop over all methods would, but for the two whose logits are of other questions."""
    if isinstance(method, PriDe):  # nothing moves with the options
        logits = np.repeat(np.asarray(logits)[:, None], np.shape(logits)[1], axis=1)
    if isinstance(method, ContextualCalibration):
        labels = None
    subjects = np.resize(["law", "music"], np.shape(logits)[:1] or 1)
    return method.fit(logits, labels, features, subjects)


@cache
def fitted_once(make):
    return fit(make(), LOGITS, LABELS, FEATURES)


# Refusals


@pytest.mark.parametrize(
    ("logits", "labels", "error", "message"),
    [
        (LOGITS[:0], LABELS[:0], ValueError, r"shape \(0, 4\); there is no question"),
        (LOGITS[0], LABELS, ValueError, r"logits have shape \(4,\); to fit, they must be \[que"),
        (LOGITS[None], LABELS, ValueError, r"logits have shape \(1, 200, 4\); to fit"),
        (LOGITS[:, :1], LABELS, ValueError, "at least 2 options"),
        (np.float64(1), LABELS, ValueError, r"logits have shape \(\)"),
        (bad(LOGITS, np.nan), LABELS, ValueError, "logits must be finite"),
        (bad(LOGITS, np.inf), LABELS, ValueError, r"logits\[3, 0\] is inf; logits must be finite"),
        (bad(LOGITS, -np.inf), LABELS, ValueError, r"logits\[3, 0\] is -inf; only options that"),
        (LOGITS.astype(str), LABELS, TypeError, "logits are <U.*; they must be real numbers"),
        (LOGITS + 1j, LABELS, TypeError, "logits are complex128"),
    ],
)
@without("pride")  # whose logits are of another shape, see test_option_prior.py
def test_logits_that_cannot_be_fitted_are_refused(make, logits, labels, error, message):
    with pytest.raises(error, match=message):
        fit(make(), logits, labels, FEATURES)


@pytest.mark.parametrize(
    ("logits", "labels", "error", "message"),
    [
        (LOGITS, None, ValueError, r"is fitted on labels; pass fit\(logits, labels"),
        (LOGITS, LABELS[:-1], ValueError, r"labels have shape \(199,\)"),
        (LOGITS, LABELS.astype(float), TypeError, "labels are float64"),
        (LOGITS, np.where(LABELS == 3, 4, LABELS), ValueError, "is 4; with 4 options labels run"),
        (LOGITS, LOGITS.argmax(axis=1), ValueError, "all 200 answers are right; .* more questions"),
        (LOGITS, LOGITS.argmin(axis=1), ValueError, "all 200 answers are wrong"),
    ],
)
@every_method_with_labels
def test_labels_that_cannot_be_fitted_are_refused(make, logits, labels, error, message):
    with pytest.raises(error, match=message):
        fit(make(), logits, labels, FEATURES)


BAD_FEATURES = [
    (None, ValueError, r"reads features too; pass features= of shape \[questions, d\]"),
    (FEATURES[:-1], ValueError, r"features have shape \(199, 6\); .* \[200, 'd'\]"),
    (FEATURES[:, 0], ValueError, r"features have shape \(200,\)"),
    (FEATURES[None], ValueError, r"features have shape \(1, 200, 6\)"),
    (FEATURES[:, :0], ValueError, r"\(200, 0\); .* d at least 1"),
    (bad(FEATURES, np.nan), ValueError, r"features\[3, 0\] is nan"),
    (bad(FEATURES, np.inf), ValueError, r"features\[3, 0\] is inf"),
    (FEATURES.astype(str), TypeError, "features are <U"),
]


@pytest.mark.parametrize(("features", "error", "message"), BAD_FEATURES)
@every_method_with_features
def test_bad_features_are_refused(make, features, error, message):
    with pytest.raises(error, match=message):
        fit(make(), LOGITS, LABELS, features)
    with pytest.raises(error, match=message):
        fitted_once(make)(LOGITS, features)


@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        (LOGITS[:0], ValueError, "there is no question"),
        (bad(LOGITS, np.nan), ValueError, "logits must be finite"),
        (LOGITS.astype(str), TypeError, "logits are <U"),
    ],
)
@every_method
def test_what_cannot_be_called_on_is_refused(make, logits, error, message):
    with pytest.raises(error, match=message):
        fitted_once(make)(logits, FEATURES)


@every_method
def test_before_fitting_there_is_nothing_to_call_or_count(make):
    refused = pytest.raises(RuntimeError, match=r"has not been fitted; call fit\(logits, labels")
    with refused:
        make()(LOGITS, FEATURES)
    with refused:
        _ = make().n_fitted


@every_method
def test_after_a_failed_refit_it_is_not_fitted(make):
    """Rather than called as it was before, which nobody would notice."""
    method = fit(make(), LOGITS, LABELS, FEATURES)
    with pytest.raises(ValueError, match="logits must be finite"):
        fit(method, bad(LOGITS, np.nan), LABELS, FEATURES)
    with pytest.raises(RuntimeError, match="has not been fitted"):
        method(LOGITS, FEATURES)


@with_equal_options
def test_questions_of_more_options_than_it_was_fitted_on_are_refused(make):
    with pytest.raises(ValueError, match="logits have 5 options, those this was fitted on 4"):
        fitted_once(make)(np.hstack([LOGITS, LOGITS[:, :1]]), FEATURES)


@with_equal_options
def test_what_keeps_numbers_for_each_option_refuses_questions_that_differ_in_options(make):
    mixed = mixed_options(LOGITS)
    refused = pytest.raises(
        ValueError, match=r"-inf; .* keeps numbers for each option, so all .*n\]$"
    )
    with refused:
        fit(make(), mixed, np.minimum(LABELS, 1), FEATURES)
    with refused:
        fitted_once(make)(mixed, FEATURES)


@every_method_with_features
def test_features_of_another_width_are_refused(make):
    with pytest.raises(ValueError, match="features have 5 columns, those this was fitted on 6"):
        fitted_once(make)(LOGITS, FEATURES[:, :5])


# Shapes and types


@every_method
def test_fit_returns_the_method(make):
    method = make()
    assert fit(method, LOGITS, LABELS, FEATURES) is method


@without("few_shot")  # to which all questions are one mixture, see test_few_shot.py
def test_probabilities_have_the_shape_of_the_logits(make):
    fitted = fitted_once(make)
    flat = fitted(LOGITS, FEATURES)
    assert (flat.shape, flat.dtype) == ((N, OPTIONS), np.float64)
    deep = fitted(LOGITS.reshape(4, 50, OPTIONS), FEATURES.reshape(4, 50, WIDTH))
    np.testing.assert_allclose(deep.reshape(N, OPTIONS), flat, rtol=0, atol=1e-13)
    np.testing.assert_allclose(fitted(LOGITS[3], FEATURES[3]), flat[3], rtol=0, atol=1e-13)


@every_method
def test_lists_and_single_precision_do(make):
    single, features = LOGITS.astype(np.float32), FEATURES.astype(np.float32)
    p = fit(make(), single, LABELS.astype(np.int32), features)(single, features)
    assert p.dtype == np.float64
    wide = fit(make(), LOGITS.tolist(), LABELS.tolist(), FEATURES.tolist())
    # A step of the isotonic function, say, may move with a confidence; NLL does not notice.
    assert np.abs(p - wide(LOGITS, FEATURES)).mean() < 1e-4


@every_method
def test_input_is_left_as_it_was(make):
    logits, labels, features = problem()
    fit(make(), logits, labels, features)(logits, features)
    for ours, theirs in zip((logits, labels, features), problem(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@every_method
def test_a_method_may_be_fitted_again_on_other_questions(make):
    """The second fit is all that counts."""
    other = problem(seed=1)
    again = fit(fit(make(), LOGITS, LABELS, FEATURES), *other)
    np.testing.assert_array_equal(again(LOGITS, FEATURES), fit(make(), *other)(LOGITS, FEATURES))


def test_a_method_may_be_fitted_again_on_other_widths():
    method = LoRe().fit(LOGITS, LABELS, FEATURES)
    labels = np.minimum(LABELS, 2)
    assert method.fit(LOGITS[:, :3], labels, FEATURES[:, :5])(
        LOGITS[:, :3], FEATURES[:, :5]
    ).shape == (N, 3)


@every_method
def test_what_is_kept_is_counted_once_fitted(make):
    n_fitted = fitted_once(make).n_fitted
    assert isinstance(n_fitted, int)
    assert n_fitted > 0


def test_what_is_kept_by_hand():
    count = {name: fitted_once(make).n_fitted for name, make in METHODS.items()}
    assert count["temperature"] == count["clipping"] == count["clipping_above"] == 1
    assert count["histogram_binning"] == 4 + 5  # inner edges, accuracies
    assert count["batch"] == count["contextual"] == count["pride"] == 4
    assert count["g_layers"] == (4 * 16 + 16) + (16 * 4 + 4) + 1  # two layers, the unit
    lore = LoRe(n_bins=7, n_components=3).fit(LOGITS, LABELS, FEATURES)
    assert lore.n_fitted == 6 + (6 + 6 * 3) + 200 * (3 + 1 + 1)


# Properties


@every_method_with_labels
def test_it_helps_on_new_questions(make):
    """Of an overconfident model; each method as far as it can."""
    fitted = fit(make(), *problem(seed=1, n=2000))
    logits, labels, features = problem(seed=2, n=2000)
    p, before = fitted(logits, features), softmax(logits)
    assert metrics.signed_gap(before, labels) > 0.12
    assert metrics.brier(p, labels) < metrics.brier(before, labels)
    assert metrics.ece(p, labels) < metrics.ece(before, labels) - 0.015


quarters = st.integers(-400, 400).map(lambda i: i / 4)


@settings(max_examples=100, deadline=None)
@given(features=arrays(np.float64, st.tuples(st.integers(1, 8), st.just(WIDTH)), elements=quarters))
def test_probabilities_are_valid_and_answers_stay(features):
    """For any question, one between equal options too: all features zero."""
    logits = features @ ROWS.T
    answer = softmax(logits).argmax(axis=1)
    for name, make in METHODS.items():
        p = fitted_once(make)(logits, features)
        metrics.check(p, answer)  # finite, not negative, of sum 1
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=0, atol=1e-12)
        if name in KEEPING:
            assert (p[np.arange(len(p)), answer] == p.max(axis=1)).all(), name


@without("clipping", "clipping_above")
def test_a_shift_of_all_logits_means_nothing(make):
    """To clipping it does: logits have to be those of the features."""
    shift = np.random.default_rng(1).normal(size=(N, 1))
    fitted = fitted_once(make)
    np.testing.assert_allclose(
        fitted(LOGITS + shift, FEATURES), fitted(LOGITS, FEATURES), rtol=0, atol=1e-12
    )


# Questions that differ in their number of options


@of_any_options
@pytest.mark.parametrize(
    ("at", "options", "message"),
    [
        (
            1,
            1,
            r"logits\[1, 1\] is -inf; only options that a question does not have are, at the end",
        ),
        (
            1,
            [1, 2, 3],
            r"logits\[1\] have 1 options that are not -inf; a question needs at least 2",
        ),
        (1, [0, 1, 2, 3], r"logits\[1\] have 0 options"),
    ],
)
def test_minus_infinity_elsewhere_is_refused(make, at, options, message):
    logits = MIXED.copy()
    logits[at, options] = -np.inf
    with pytest.raises(ValueError, match=message):
        fit(make(), logits, MIXED_LABELS, FEATURES)
    with pytest.raises(ValueError, match=message):
        fitted_once(make)(logits, FEATURES)


@of_any_options
def test_a_label_of_an_absent_option_is_refused(make):
    labels = MIXED_LABELS.copy()
    labels[4] = 3
    with pytest.raises(
        ValueError, match=r"labels\[4\] is 3; question 4 has 2 options: drop the qu"
    ):
        fit(make(), MIXED, labels, FEATURES)


@of_any_options
def test_absent_options_get_exactly_nothing(make):
    p = fit(make(), MIXED, MIXED_LABELS, FEATURES)(MIXED, FEATURES)
    assert (p[np.isneginf(MIXED)] == 0).all() and (p >= 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=0, atol=1e-12)


@of_any_columns
def test_an_absent_option_is_one_of_a_very_low_logit_to_the_fitted_number(make):
    """But for even shares, which go by the number of options."""
    low = np.where(np.isneginf(MIXED), -1e4, MIXED)
    one = fit(make(), MIXED, MIXED_LABELS, FEATURES)(MIXED, FEATURES)
    other = fit(make(), low, MIXED_LABELS, FEATURES)(low, FEATURES)
    certain = one.max(axis=1) > 0.51  # below, shares are moved towards even ones
    np.testing.assert_allclose(one[certain], other[certain], rtol=0, atol=1e-5)


@of_any_columns
def test_with_other_columns_nothing_changes_but_the_columns(make):
    wide = np.hstack([MIXED, np.full((N, 2), -np.inf)])
    fitted = fit(make(), MIXED, MIXED_LABELS, FEATURES)
    p = fitted(wide, FEATURES)
    np.testing.assert_allclose(p[:, :OPTIONS], fitted(MIXED, FEATURES), rtol=0, atol=1e-12)
    assert (p[:, OPTIONS:] == 0).all()


# Confidence written back into probabilities


@pytest.mark.parametrize(
    ("p", "confidence", "n_options", "error", "message"),
    [
        ([[0.6, 0.4, 0.0]], [0.7], 1, ValueError, "n_options is 1 for question 0; .* from 2 to 3"),
        (
            [[0.6, 0.3, 0.1]],
            [0.7],
            [2],
            ValueError,
            r"probabilities\[0, 2\] is 0.1; question 0 has 2",
        ),
        ([[0.6, 0.4, 0.0]], [0.7], 2.0, TypeError, "n_options are float64; they must be integers"),
        ([[0.6, 0.4]], [70], None, ValueError, r"confidence\[0\] is 70.0; it must be at most 1"),
        ([[0.6, 0.4]], [0.7, 0.8], None, ValueError, r"confidence has shape \(2,\)"),
        ([[6, 4]], [0.7], None, ValueError, r"probabilities\[0\] sums to 10"),
        ([0.6, 0.4], [0.7], None, ValueError, r"shape \(2,\); they must be \[questions, options"),
        ([["a", "b"]], [0.7], None, TypeError, "probabilities are <U1"),
    ],
)
def test_spread_refuses(p, confidence, n_options, error, message):
    with pytest.raises(error, match=message):
        spread(p, confidence, n_options)


def test_the_rest_is_shared_among_the_options_of_the_question():
    """Evenly .4 among one other and .3 among two; of three options none goes below 1/3."""
    p = [[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.5, 0.3, 0.2, 0.0]]
    new = spread(p, [0.6, 0.4, 0.2], n_options=[2, 3, 3])
    expected = [[0.6, 0.4, 0, 0], [0.4, 0.3, 0.3, 0], [1 / 3, 1 / 3, 1 / 3, 0]]
    np.testing.assert_allclose(new, expected, rtol=0, atol=2e-6)
    assert (new[[0, 0, 1, 2], [2, 3, 3, 3]] == 0).all()


def test_the_rest_is_shared_as_before():
    p, confidence = np.array([[0.15, 0.8, 0.05]] * 2), np.array([0.6, 1.0])
    np.testing.assert_allclose(spread(p, confidence), [[0.3, 0.6, 0.1], [0, 1, 0]], atol=1e-15)


def test_where_all_was_one_options_the_rest_is_shared_evenly():
    p = spread(np.array([[0.0, 1.0, 0.0, 0.0]]), np.array([0.7]))
    np.testing.assert_allclose(p, [[0.1, 0.7, 0.1, 0.1]], atol=1e-15)


def test_no_other_option_passes_the_answer():
    """.6 to share as 49 : 1 would give .588, above .4."""
    p = spread(np.array([[0.5, 0.49, 0.01]]), np.array([0.4]))
    np.testing.assert_allclose(p, [[0.4, 0.4, 0.2]], atol=1e-6)
    assert p[0, 0] > p[0, 1]


def test_an_answer_is_never_denied():
    p = spread(np.array([[0.3, 0.5, 0.2]]), np.array([0.1]))
    np.testing.assert_allclose(p, [[1 / 3, 1 / 3, 1 / 3]], atol=2e-6)
    assert p.argmax() == 1


@settings(max_examples=100, deadline=None)
@given(
    weights=st.integers(2, 10).flatmap(
        lambda k: arrays(np.float64, (5, k), elements=st.integers(0, 1000).map(float))
    ),
    confidence=arrays(np.float64, 5, elements=st.floats(0, 1)),
)
def test_spread_keeps_answer_order_and_confidence(weights, confidence):
    weights[:, -1] += 1
    p = weights / weights.sum(axis=1, keepdims=True)
    k = p.shape[1]
    new = spread(p, confidence)
    metrics.check(new, np.zeros(5, dtype=int))
    rows, answer = np.arange(5), p.argmax(axis=1)
    np.testing.assert_allclose(new.sum(axis=1), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(new[rows, answer], np.maximum(confidence, 1 / k), rtol=0, atol=2e-6)
    others = np.where(np.eye(k, dtype=bool)[answer], -1, new)
    assert (new[rows, answer] > others.max(axis=1)).all()
    for before, after, a in zip(p, new, answer, strict=True):
        order = [i for i in np.argsort(before, kind="stable") if i != a]
        assert all(after[i] <= after[j] + 1e-12 for i, j in pairwise(order))


def test_every_top_label_method_keeps_its_answer_strictly():
    """No tie may arise that another option wins."""
    methods = [make() for make in METHODS.values() if isinstance(make(), TopLabel)]
    assert len(methods) == 3
    for method in methods:
        p = method.fit(LOGITS, LABELS, FEATURES)(LOGITS, FEATURES)
        np.testing.assert_array_equal(p.argmax(axis=1), LOGITS.argmax(axis=1))
        ordered = np.sort(p, axis=1)
        assert (ordered[:, -1] > ordered[:, -2]).all()
