"""Feature clipping: by hand, its two ends, what it chooses, and the models it agrees with."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.architectures import CONFIGS, N_LAYERS, TOKENIZER, random_module

from calib import load_questions, metrics, open_model, read_layers
from calib.metrics import softmax
from calib.recalibration import FeatureClipping, final_features

ROWS, BIAS = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]]), np.array([0.5, 0.0])
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.bfloat16: 2e-2}


def problem(n=400, outlier=12.0, seed=0):
    """Features whose last is large in a tenth of the questions, where it says nothing."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 3))
    rare = rng.random(n) < 0.1
    usual = softmax(features @ ROWS.T + BIAS)
    labels = (rng.random(n) < usual[:, 1]).astype(int)
    features[:, 2] += np.where(rare, outlier * rng.choice([-1, 1], size=n), 0)
    return features @ ROWS.T + BIAS, labels, features


def clipped_at(threshold, **settings):
    """Fitted, then set to a threshold."""
    method = FeatureClipping(ROWS, BIAS, **settings).fit(*problem())
    method.threshold = threshold
    return method


def logits_of(features):
    return np.asarray(features) @ ROWS.T + BIAS


# By hand


def test_clipping_by_hand():
    """(3, -4, 1) at 2 becomes (2, -2, 1), or (2, -4, 1) from above alone."""
    features = [[3.0, -4.0, 1.0]]
    logits = logits_of(features)
    np.testing.assert_array_equal(logits, [[5.5, -5]])
    both, above = clipped_at(2.0), clipped_at(2.0, two_sided=False)
    np.testing.assert_allclose(both(logits, features), softmax([[4.5, -3.0]]), rtol=1e-14)
    np.testing.assert_allclose(above(logits, features), softmax([[4.5, -5.0]]), rtol=1e-14)


def test_a_soft_cap_comes_after_clipping():
    features = [[3.0, -4.0, 1.0]]
    capped = 2 * np.tanh(logits_of(features) / 2)
    method = FeatureClipping(ROWS, BIAS, cap=2.0)
    logits, labels, many = problem()
    method.fit(2 * np.tanh(logits / 2), labels, many).threshold = 2.0
    expected = softmax(2 * np.tanh(np.array([[4.5, -3.0]]) / 2))
    np.testing.assert_allclose(method(capped, features), expected, rtol=1e-12)


def test_an_answer_can_change():
    features = [[0.0, 1.0, 8.0], [0.0, 3.0, 8.0]]
    p = clipped_at(0.5)(logits_of(features), features)
    assert logits_of(features).argmax(axis=1).tolist() == [0, 0]
    np.testing.assert_allclose(p, softmax([[1.5, 0], [1.5, 0]]))
    features = [[-4.0, 4.0, 3.0]]
    assert logits_of(features).argmax() == 0
    assert clipped_at(0.5)(logits_of(features), features).argmax() == 0
    assert clipped_at(0.5, two_sided=False)(logits_of(features), features).argmax() == 1


# The two ends


@pytest.mark.parametrize("two_sided", [True, False])
def test_at_infinity_the_probabilities_are_the_models_own(two_sided):
    logits, _, features = problem()
    method = clipped_at(np.inf, two_sided=two_sided)
    np.testing.assert_array_equal(method(logits, features), softmax(logits))
    rounded = logits.astype(np.float32)
    np.testing.assert_array_equal(method(rounded, features), softmax(rounded))


def test_at_zero_the_answer_is_always_the_bias():
    logits, _, features = problem()
    p = clipped_at(0.0)(logits, features)
    np.testing.assert_allclose(p, np.tile(softmax(BIAS), (400, 1)), rtol=1e-12)


def test_above_the_largest_feature_nothing_changes():
    logits, _, features = problem()
    largest = np.abs(features).max()
    np.testing.assert_array_equal(clipped_at(largest)(logits, features), softmax(logits))
    assert np.abs(clipped_at(0.9 * largest)(logits, features) - softmax(logits)).max() > 0


# What is chosen


@pytest.mark.parametrize("two_sided", [True, False])
def test_features_too_large_are_clipped(two_sided):
    logits, labels, features = problem()
    method = FeatureClipping(ROWS, BIAS, two_sided).fit(logits, labels, features)
    assert 0.5 < method.threshold < 12
    asked, right, places = problem(seed=1)
    assert metrics.nll(method(asked, places), right) < metrics.nll(softmax(asked), right)


def test_features_that_mean_what_they_say_are_left():
    logits, labels, features = problem(n=4000, outlier=0)
    nothing = FeatureClipping(ROWS, BIAS).fit(logits, labels, features)
    assert nothing.threshold > np.quantile(np.abs(features), 0.95)


def test_the_threshold_has_the_least_nll_on_a_finer_grid():
    logits, labels, features = problem()
    method = FeatureClipping(ROWS, BIAS, n_thresholds=200).fit(logits, labels, features)
    best = metrics.nll(method(logits, features), labels)
    for method.threshold in [*np.linspace(0, 15, 300), np.inf]:
        assert metrics.nll(method(logits, features), labels) > best - 1e-3


def test_between_equal_thresholds_it_is_infinity():
    """Where the features that clipping would change are not read."""
    rows = np.array([[1.0, 0.0], [0.0, 0.0]])
    features = np.array([[1.0, 5.0], [1.0, 9.0], [1.0, 7.0], [1.0, 6.0]])
    method = FeatureClipping(rows, [0, 0], n_thresholds=2).fit(
        features @ rows.T, [0, 0, 0, 1], features
    )
    assert method.threshold == np.inf


def test_ece_would_choose_a_constant_answer():
    """That is right as often as it says, at threshold 0, and knows nothing: hence NLL."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2000, 1))
    rows, bias = np.array([[3.0], [0.0]]), np.array([1.0, 0.0])
    logits = features @ rows.T + bias
    labels = (rng.random(2000) > softmax(0.6 * logits)[:, 0]).astype(int)
    bias_alone = np.tile(
        softmax([np.log(np.mean(labels == 0)), np.log(np.mean(labels))]), (2000, 1)
    )
    assert metrics.ece(bias_alone, labels) < 1e-9
    method = FeatureClipping(rows, bias).fit(logits, labels, features)
    assert metrics.nll(method(logits, features), labels) < metrics.nll(bias_alone, labels)
    assert method.threshold > 0.3


# Refusals


def test_rows_and_bias_that_do_not_fit_are_refused():
    for rows, bias in ((ROWS, [0.0]), (ROWS[0], BIAS), (ROWS, 0.0)):
        with pytest.raises(ValueError, match=r"rows have shape .* \[options, d\] and \[options\]"):
            FeatureClipping(rows, bias)
    with pytest.raises(TypeError, match="rows are <U1; they must be real numbers"):
        FeatureClipping([["a"]], [0.0])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"n_thresholds": 0}, ValueError, "n_thresholds is 0"),
        ({"cap": 0.0}, ValueError, "cap is 0.0; it must be above 0"),
        ({"cap": "30"}, TypeError, "cap is '30'; it must be a number"),
        ({"tolerance": -1e-4}, ValueError, "tolerance is -0.0001"),
    ],
)
def test_settings_are_checked(settings, error, message):
    with pytest.raises(error, match=message):
        FeatureClipping(ROWS, BIAS, **settings)


def test_features_of_another_layer_are_refused():
    logits, labels, features = problem()
    with pytest.raises(ValueError, match=r"not those of the features; .*allowed 1e-04"):
        FeatureClipping(ROWS, BIAS).fit(logits, labels, features + 0.01)
    fitted = FeatureClipping(ROWS, BIAS).fit(logits, labels, features)
    with pytest.raises(ValueError, match="not those of the features"):
        fitted(logits, features[::-1])
    with pytest.raises(ValueError, match="not those of the features"):
        fitted(2 * logits, features)


def test_other_options_or_widths_than_the_rows_are_refused():
    logits, labels, features = problem()
    with pytest.raises(ValueError, match=r"2 options and features 2 columns; .* rows are \[2, 3\]"):
        FeatureClipping(ROWS, BIAS).fit(logits, labels, features[:, :2])
    with pytest.raises(ValueError, match="3 options and features 3 columns"):
        FeatureClipping(ROWS, BIAS).fit(np.c_[logits, logits[:, 0]], labels, features)


# Models


def opened(name, dtype=torch.float32):
    return open_model((random_module(name).to(dtype), TOKENIZER))


def read(model, limit=24):
    questions = load_questions("almanac", "validation", limit=limit)
    return read_layers(model, questions, keep_residuals=[model.n_layers - 1, model.n_layers])


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float32) for name in CONFIGS]
    + [("phi", torch.bfloat16), ("gemma2", torch.bfloat16), ("cohere", torch.float64)],
)
def test_logits_of_the_final_features_are_the_models(name, dtype):
    model = opened(name, dtype)
    reading = read(model)
    logits, features = reading.logits[:, -1], final_features(model, reading.residuals[N_LAYERS])
    method = FeatureClipping.of(model)
    ours = features @ method.rows.T + method.bias
    if model.soft_cap is not None:
        ours = model.soft_cap * np.tanh(ours / model.soft_cap)
    assert np.abs(ours - logits).max() <= TOLERANCE[dtype] * np.abs(logits).max()
    method.fit(logits, reading.labels, features).threshold = np.inf
    np.testing.assert_array_equal(method(logits, features), softmax(logits))
    with pytest.raises(ValueError, match="not those of the features"):
        method(logits, final_features(model, reading.residuals[N_LAYERS - 1]))


def test_every_model_has_what_makes_it_different():
    assert opened("cohere").logit_scale == 0.3
    assert opened("gemma2").soft_cap == 2.0
    assert FeatureClipping.of(opened("phi")).bias.any()
    assert not FeatureClipping.of(opened("llama")).bias.any()


def test_rows_are_of_as_many_options_as_asked_for():
    model = opened("llama")
    assert FeatureClipping.of(model, n_options=3).rows.shape == (3, 64)
    np.testing.assert_array_equal(
        FeatureClipping.of(model, 3).rows, FeatureClipping.of(model).rows[:3]
    )


def test_a_remote_model_is_refused():
    model = replace(opened("llama"), remote=True, name="far/away")
    for call in (FeatureClipping.of, lambda m: final_features(m, np.zeros((1, 64)))):
        with pytest.raises(ValueError, match="the weights of far/away are on the server"):
            call(model)


def test_residuals_that_are_none_are_refused():
    model = opened("llama")
    with pytest.raises(ValueError, match=r"residuals have 63 columns; those of .* have 64"):
        final_features(model, np.zeros((2, 63)))
    with pytest.raises(ValueError, match=r"\[0, 1\] is nan"):
        final_features(model, np.array([[0.0, np.nan] * 32]))
    with pytest.raises(ValueError, match=r"shape \(64,\)"):
        final_features(model, np.zeros(64))
