"""Calibration among similar questions: refusals, the definition, then its two limits."""

from math import exp, inf, nan

import numpy as np
import pytest
from sklearn.decomposition import PCA

from calib import metrics
from calib.metrics import Projection, kernel, local, local_calibration_error, mlce

P, LABELS, X = [[0.75, 0.25]] * 4, [0, 0, 1, 1], [[0.0, 1.0], [1.0, 0.0], [9.0, 2.0], [8.0, 5.0]]


def planted(n=300, d=5, seed=0):
    """Probabilities, labels and features of which the first varies most, the last least."""
    rng = np.random.default_rng(seed)
    p = np.exp(rng.normal(scale=1.5, size=(n, 4)))
    features = rng.normal(size=(n, d)) * np.arange(d, 0, -1) + 7
    return p / p.sum(axis=1, keepdims=True), rng.integers(4, size=n), features


# Refusals


@pytest.mark.parametrize("metric", [local_calibration_error, mlce])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"probabilities": [[0.9, 0.2]] * 4}, ValueError, r"probabilities\[0\] sums to 1.1"),
        ({"probabilities": [P]}, ValueError, r"shape \(1, 4, 2\); here .* pass one layer"),
        ({"labels": [0, 0, 1, 2]}, ValueError, r"labels\[3\] is 2"),
        ({"features": X[:3]}, ValueError, r"features have shape \(3, 2\); they must be \[4, d\]"),
        ({"features": [0, 1, 2, 3]}, ValueError, r"features have shape \(4,\)"),
        ({"features": np.empty((4, 0))}, ValueError, r"shape \(4, 0\); .* with d at least 1"),
        ({"features": [*X[:3], [0.0, nan]]}, ValueError, r"features\[3, 1\] is nan; .* finite"),
        ({"features": [*X[:3], [inf, 0.0]]}, ValueError, r"features\[3, 0\] is inf"),
        ({"features": [["a"]] * 4}, TypeError, "features are <U1; they must be real numbers"),
        ({"features": [[1.0, 2.0]] * 4}, ValueError, "features are the same for all questions"),
        ({"gamma": 0.0}, ValueError, "gamma is 0.0; it must be above 0, such as 0.2"),
        ({"gamma": -1}, ValueError, "gamma is -1"),
        ({"gamma": nan}, ValueError, "gamma is nan"),
        ({"gamma": "0.2"}, TypeError, "gamma is '0.2'; it must be a number"),
        ({"n_bins": 0}, ValueError, "n_bins is 0"),
        ({"n_components": 3}, ValueError, r"n_components is 3; .* \(4, 2\) .* pass None to keep"),
        ({"n_components": 0}, ValueError, "n_components is 0"),
        ({"n_components": 1.5}, TypeError, "n_components is 1.5"),
    ],
)
def test_refuses_arguments(metric, arguments, error, message):
    given = {"probabilities": P, "labels": LABELS, "features": X, "n_components": 2} | arguments
    with pytest.raises(error, match=message):
        metric(**given)


def test_a_projection_refuses_other_columns():
    projection = Projection.fit(X)
    with pytest.raises(ValueError, match="features have 3 columns, those this was fitted on 2"):
        projection(np.zeros((5, 3)))
    with pytest.raises(
        ValueError, match=r"features have shape \(2,\); they must be \[questions, d"
    ):
        projection([0.0, 1.0])


@pytest.mark.parametrize(
    ("a", "b", "gamma", "error", "message"),
    [
        (X, [[0.0]], 0.2, ValueError, "a has 2 columns, b 1; they must be of the same features"),
        (X, X[0], 0.2, ValueError, r"features have shape \(2,\)"),
        (X, X, 0.0, ValueError, "gamma is 0.0; it must be above 0"),
        (X, X, None, TypeError, "gamma is None; it must be a number"),
    ],
)
def test_a_kernel_refuses_what_cannot_be_compared(a, b, gamma, error, message):
    with pytest.raises(error, match=message):
        kernel(a, b, gamma)


# The parts


def test_kernel_by_hand():
    k = kernel([[0.0, 0.0], [1.0, 2.0]], [[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]], gamma=0.5)
    np.testing.assert_allclose(k, [[1, exp(-1), exp(-3)], [exp(-3), exp(-2), 1]])


def test_a_projection_is_pca_in_units_of_its_first_component():
    _, _, features = planted()
    theirs = PCA(3).fit(features)
    ours = Projection.fit(features, 3)
    other = planted(seed=1)[2]
    np.testing.assert_allclose(
        np.abs(ours(other)), np.abs(theirs.transform(other)) / theirs.explained_variance_[0] ** 0.5
    )
    assert ours(features)[:, 0].std(ddof=1) == pytest.approx(1)
    assert ours(other).shape == (300, 3)


def test_components_left_out_are_all_of_them():
    assert Projection.fit(planted()[2]).axes.shape == (5, 5)
    assert Projection.fit(planted(n=4)[2]).axes.shape == (5, 4)


def test_shift_rotation_and_scale_change_nothing():
    p, labels, features = planted()
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))
    moved = 30 * features @ turn - 4
    for n_components in (2, None):
        one, other = (
            local_calibration_error(p, labels, x, n_components=n_components)
            for x in (features, moved)
        )
        np.testing.assert_allclose(one, other, atol=1e-9)


# The definition


def test_equals_the_definition():
    p, labels, features = planted(n=60)
    confidence, correct = metrics.confidence_and_correct(p, labels)
    x = PCA(2).fit_transform(features)
    x /= x[:, 0].std(ddof=1)
    found = local_calibration_error(p, labels, features, gamma=0.3, n_bins=4, n_components=2)
    for i in range(60):
        inside = np.ceil(4 * confidence) == np.ceil(4 * confidence[i])
        weight = np.exp(-np.abs(x[inside] - x[i]).sum(axis=1) / (2 * 0.3))
        expected = abs(weight @ (confidence - correct)[inside]) / weight.sum()
        assert found[i] == pytest.approx(expected, abs=1e-12)
    assert mlce(p, labels, features, 0.3, 4, 2) == found.max()


def test_sees_what_cancels_within_bins():
    """One half of the questions is overconfident by .25, the other underconfident by as much."""
    side = np.arange(400) % 2
    right = np.where(side, 1, np.arange(400) // 2 % 2)
    p = np.full((400, 2), [0.75, 0.25])
    features = side[:, None] + np.random.default_rng(0).normal(scale=0.01, size=(400, 3))
    assert metrics.mce(p, 1 - right) == 0
    np.testing.assert_allclose(
        local_calibration_error(p, 1 - right, features, n_components=1), 0.25, atol=0.02
    )


def test_blocks_change_nothing(monkeypatch):
    p, labels, features = planted()
    whole = local_calibration_error(p, labels, features, n_bins=3)
    monkeypatch.setattr(local, "BLOCK", 500)
    blocks = local_calibration_error(p, labels, features, n_bins=3)
    np.testing.assert_allclose(blocks, whole, atol=1e-14)


# Limits


@pytest.mark.parametrize("gamma", [1e9, inf])
def test_a_wide_kernel_gives_the_gap_of_the_bin(gamma):
    p, labels, features = planted()
    table = metrics.reliability_table(p, labels, n_bins=15)
    index = np.ceil(15 * p.max(axis=1)).astype(int) - 1
    gaps = np.abs(table.confidence - table.accuracy)[index]
    error = local_calibration_error(p, labels, features, gamma)
    np.testing.assert_allclose(error, gaps, atol=1e-7)
    mce = metrics.mce(p, labels, n_bins=15, min_count=1)
    assert mlce(p, labels, features, gamma) == pytest.approx(mce, abs=1e-7)


def test_a_narrow_kernel_gives_the_error_of_the_question():
    p, labels, features = planted()
    confidence, correct = metrics.confidence_and_correct(p, labels)
    error = local_calibration_error(p, labels, features, gamma=1e-9)
    np.testing.assert_allclose(error, np.abs(confidence - correct), atol=1e-12)


def test_questions_with_the_same_features_share_their_error():
    features = [[0.0, 1.0], [0.0, 1.0], [3.0, 1.0], [3.0, 1.0]]
    error = local_calibration_error(P, [0, 1, 1, 1], features, gamma=1e-9, n_components=2)
    np.testing.assert_allclose(error, [0.25, 0.25, 0.75, 0.75], atol=1e-12)
