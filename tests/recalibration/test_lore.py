"""Local recalibration: by hand, its two limits, and against the sum written out."""

import inspect

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from calib import metrics
from calib.metrics import Projection, kernel, softmax
from calib.recalibration import HistogramBinning, LoRe, lore

TWO_GROUPS = [[0.0], [0.0], [9.0], [9.0]]


def problem(seed=0, n=300, d=5):
    """Questions that are right where their first feature is above 0, whatever their confidence."""
    rng = np.random.default_rng(seed)
    features, logits = rng.normal(size=(n, d)), rng.normal(size=(n, 4))
    right = rng.random(n) < np.where(features[:, 0] > 0, 0.9, 0.4)
    answer = logits.argmax(axis=1)
    return logits, np.where(right, answer, (answer + 1) % 4), features


def confidence_of(method, logits, features):
    return method(logits, features).max(axis=1)


def test_by_hand():
    """Two right at 0, one of two at 9, √3 of their standard deviations away."""
    method = LoRe(gamma=1, n_bins=1, n_components=1).fit([[1.0, 0.0]] * 4, [0, 0, 0, 1], TWO_GROUPS)
    weight = np.exp(-np.sqrt(3))
    expected = [(2 + weight) / (2 + 2 * weight), (2 * weight + 1) / (2 * weight + 2), 0.75]
    found = confidence_of(method, [[1.0, 0.0]] * 3, [[0.0], [9.0], [4.5]])
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found[0] == pytest.approx(0.92484, abs=1e-5)


def test_questions_of_another_bin_do_not_count():
    """The same features; those of low confidence are wrong half the time."""
    logits = [[1.0, 0.0]] * 2 + [[3.0, 0.0]] * 2
    method = LoRe(gamma=1000, n_bins=2, n_components=1)
    method.fit(logits, [0, 1, 0, 0], [[0.0], [1.0], [0.0], [1.0]])
    found = confidence_of(method, [[1.0, 0.0], [3.0, 0.0]], [[0.0], [0.0]])
    np.testing.assert_allclose(found, [0.5, 1], atol=0.003)


@pytest.mark.parametrize("gamma", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("n_components", [2, None])
def test_it_is_the_sum_over_the_bin(gamma, n_components):
    logits, labels, features = problem()
    asked, _, places = problem(seed=1, n=50)
    method = LoRe(gamma, 4, n_components).fit(logits, labels, features)
    projection = Projection.fit(features, n_components)
    confidence, correct = softmax(logits).max(axis=1), logits.argmax(axis=1) == labels
    bins = np.searchsorted(method.edges, confidence)
    expected = []
    for own, place in zip(softmax(asked).max(axis=1), places, strict=True):
        k = kernel(projection([place]), projection(features), gamma)[0]
        k = np.where(bins == np.searchsorted(method.edges, own), k, 0)
        expected.append((k * correct).sum() / k.sum())
    expected = np.maximum(expected, 0.25)
    np.testing.assert_allclose(confidence_of(method, asked, places), expected, atol=2e-6)


@pytest.mark.parametrize("gamma", [1e15, np.inf])
@pytest.mark.parametrize("n_bins", [1, 7, 15])
def test_a_wide_kernel_is_histogram_binning(gamma, n_bins):
    logits, labels, features = problem()
    asked, _, places = problem(seed=1)
    method = LoRe(gamma, n_bins).fit(logits, labels, features)
    binning = HistogramBinning(n_bins).fit(logits, labels)
    compare = np.testing.assert_array_equal if gamma == np.inf else np.testing.assert_allclose
    compare(method(asked, places), binning(asked))


def test_the_defaults_are_of_the_same_bins():
    assert LoRe().n_bins == HistogramBinning().n_bins


@pytest.mark.parametrize("metric", [metrics.local_calibration_error, metrics.mlce])
def test_neighbourhoods_are_those_of_the_metrics_by_default(metric):
    ours, theirs = (inspect.signature(what).parameters for what in (LoRe, metric))
    for name in ("gamma", "n_components"):
        assert ours[name].default == theirs[name].default


def test_by_default_a_neighbourhood_is_one():
    """Among 128 features, of which the first varies most; with all of them, it is the bin."""
    scale = np.where(np.arange(128) == 0, 3, 1)
    logits, labels, features = problem(n=2000, d=128)
    asked, _, places = problem(seed=1, n=500, d=128)
    apart = []
    for method in (LoRe(n_bins=1), LoRe(n_bins=1, n_components=None)):
        method.fit(logits, labels, features * scale)
        found, above = confidence_of(method, asked, places * scale), places[:, 0] > 0
        apart.append(found[above].mean() - found[~above].mean())
    assert apart[0] > 0.25
    assert apart[1] < 0.08


@pytest.mark.parametrize("gamma", [1e-6, 1e-300])
def test_a_narrow_kernel_is_the_nearest_neighbour(gamma):
    """Far away from all of them too, where every weight by itself would be 0."""
    logits, labels, features = problem()
    asked, _, places = problem(seed=1)
    places[::2] *= 1e6
    method = LoRe(gamma, n_bins=1, n_components=None).fit(logits, labels, features)
    nearest = KNeighborsClassifier(1, metric="manhattan")
    nearest.fit(Projection.fit(features)(features), logits.argmax(axis=1) == labels)
    expected = np.where(nearest.predict(Projection.fit(features)(places)), 1, 0.25)
    np.testing.assert_allclose(confidence_of(method, asked, places), expected, atol=2e-6)


def test_nearest_neighbours_at_equal_distance_share():
    method = LoRe(gamma=1e-300, n_bins=1, n_components=1)
    method.fit([[1.0, 0.0]] * 4, [0, 0, 0, 1], TWO_GROUPS)
    found = confidence_of(method, [[1.0, 0.0]] * 2, [[-1e9], [1e9]])
    np.testing.assert_allclose(found, [1, 0.5], atol=2e-6)


def test_where_questions_are_in_feature_space_is_all_that_counts():
    """Not the origin, the unit or the axes of the features."""
    logits, labels, features = problem()
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))
    turned = 40 * features @ turn + 7
    p = LoRe().fit(logits, labels, features)(logits, features)
    np.testing.assert_allclose(LoRe().fit(logits, labels, turned)(logits, turned), p, atol=1e-9)


def test_rounding_makes_nothing_more_than_certain():
    """All of a bin's answers right: a sum of weights over another sum of the same."""
    logits, labels, features = problem()
    confident = softmax(logits).max(axis=1) > np.median(softmax(logits).max(axis=1))
    labels = np.where(confident, logits.argmax(axis=1), labels)
    p = LoRe(n_bins=2).fit(logits, labels, features)(logits, features)
    metrics.check(p, labels)
    assert (p.max(axis=1)[confident] >= 1 - 1e-12).all()


def test_blocks_do_not_show(monkeypatch):
    logits, labels, features = problem()
    asked, _, places = problem(seed=1)
    method = LoRe().fit(logits, labels, features)
    whole = method(asked, places)
    monkeypatch.setattr(lore, "BLOCK", 100)
    np.testing.assert_allclose(method(asked, places), whole, rtol=0, atol=1e-14)


def test_features_tell_what_confidence_does_not():
    """Accuracies .9 and .4, by the first feature's sign alone."""
    method = LoRe(gamma=0.3, n_bins=1, n_components=1).fit(*problem(n=2000, d=1))
    asked, _, places = problem(seed=1, n=500, d=1)
    found = confidence_of(method, asked, places)
    assert np.median(found[places[:, 0] > 0.5]) == pytest.approx(0.9, abs=0.06)
    assert np.median(found[places[:, 0] < -0.5]) == pytest.approx(0.4, abs=0.06)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"gamma": 0}, ValueError, "gamma is 0; it must be above 0"),
        ({"gamma": -1}, ValueError, "gamma is -1; it must be above 0"),
        ({"gamma": np.nan}, ValueError, "gamma is nan; it must be above 0"),
        ({"gamma": "0.2"}, TypeError, "gamma is '0.2'; it must be a number"),
        ({"n_bins": 0}, ValueError, "n_bins is 0; it must be an integer of at least 1"),
        ({"n_bins": 2.5}, TypeError, "n_bins is 2.5"),
        ({"n_components": 0}, ValueError, "n_components is 0; it must be an integer of at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        LoRe(**settings)


def test_what_does_not_fit_the_questions_is_refused():
    logits, labels, features = problem()
    with pytest.raises(ValueError, match=r"n_components is 6; features of shape \(300, 5\)"):
        LoRe(n_components=6).fit(logits, labels, features)
    with pytest.raises(
        ValueError, match=r"n_components is 3; .* at most 2: lower it, or pass None"
    ):
        LoRe().fit(logits, labels, features[:, :2])
    with pytest.raises(ValueError, match="n_bins is 301, with 300 questions"):
        LoRe(n_bins=301).fit(logits, labels, features)
    with pytest.raises(ValueError, match="features are the same for all questions"):
        LoRe().fit(logits, labels, np.ones((300, 5)))
