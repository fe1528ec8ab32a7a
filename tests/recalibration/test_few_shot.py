"""Few-shot recalibration in planted worlds of two subjects, whose curves are known."""

import numpy as np
import pytest
from scipy.special import expit

from calib import metrics
from calib.metrics import softmax
from calib.recalibration import Curve, FewShot, Temperature, draw_mixtures
from calib.recalibration.curve import log_odds

BOASTFUL, SHY = 0.4, 2.0  # what the log-odds of each subject's confidence must be multiplied by


def planted(n=1000, told_by="confidence", seed=0):
    """Two options, half of the questions of each subject: logits, labels, subjects, features.

    One subject is overconfident, the other underconfident. They are told apart by their
    confidences, which overlap, or by the first of three features alone.
    """
    rng = np.random.default_rng(seed)
    boastful = np.arange(n) % 2 == 0
    z = rng.uniform(0, 3, size=n)
    if told_by == "confidence":
        z += boastful
    answer = rng.integers(2, size=n)
    right = rng.random(n) < expit(z * np.where(boastful, BOASTFUL, SHY))
    logits = np.zeros((n, 2))
    logits[np.arange(n), answer] = z
    features = rng.normal(size=(n, 3))
    features[:, 0] += np.where(boastful, 6, -6)
    subjects = np.where(boastful, "boastful", "shy")
    return logits, np.where(right, answer, 1 - answer), subjects, features


def fitted(told_by, **settings):
    logits, labels, subjects, features = planted(3000, told_by)
    method = FewShot(
        n_examples=10, n_components=int(told_by == "features"), n_steps=300, **settings
    )
    return method.fit(logits, labels, features, subjects)


@pytest.fixture(scope="module", params=["confidence", "features"])
def world(request):
    return request.param, fitted(request.param)


def mean_error(curve, factor):
    """Mean difference of the curve from the planted one, over confidences."""
    z = np.linspace(1, 3, 21)  # which both subjects have
    confidence = curve(np.stack([z, 0 * z], axis=1)).max(axis=1)
    return np.abs(confidence - expit(factor * z)).mean()


# Planted


def test_both_curves_are_learned_from_unlabelled_examples(world):
    told_by, method = world
    logits, labels, subjects, features = planted(3000, told_by, seed=1)
    for subject, factor in (("boastful", BOASTFUL), ("shy", SHY)):
        few = np.flatnonzero(subjects == subject)[:30]
        curve = method.given(logits[few], features[few])
        assert mean_error(curve, factor) < 0.05
    one_for_all = Temperature().fit(logits, labels)
    assert mean_error(one_for_all, BOASTFUL) > 0.1 or mean_error(one_for_all, SHY) > 0.1


def test_unseen_mixtures_gain_and_lose_it_with_another_mixtures_examples(world):
    told_by, method = world
    logits, labels, subjects, features = planted(told_by=told_by, seed=2)
    one_for_all = Temperature().fit(*planted(told_by=told_by)[:2])
    nll = []
    mixtures = draw_mixtures(subjects, 210, 20, concentration=0.2, seed=3)
    for mixture, other in zip(mixtures, np.roll(mixtures, 1, axis=0), strict=True):
        judged = mixture[10:]
        own, swapped = (method.given(logits[m[:10]], features[m[:10]]) for m in (mixture, other))
        p = [recalibrate(logits[judged]) for recalibrate in (own, swapped, one_for_all)]
        nll.append(metrics.nll(p, labels[judged]))
    own, swapped, one_for_all = np.mean(nll, axis=0)
    assert own < one_for_all - 0.02
    assert own < swapped - 0.02


def test_trained_on_one_example_it_does_not_overrate_it():
    """A log-odds of 2.8 is as likely in either subject: what is best is half way between both."""
    logits, labels, subjects, _ = planted(3000)
    method = FewShot(n_examples=1, n_steps=300).fit(logits, labels, subjects=subjects)
    one = np.array([[2.8, 0.0]])
    z = np.linspace(1, 3, 21)
    half_way = (expit(BOASTFUL * z) + expit(SHY * z)) / 2
    confidence = method.given(one)(np.stack([z, 0 * z], axis=1)).max(axis=1)
    assert np.abs(confidence - half_way).mean() < 0.04
    assert mean_error(method.given(one), BOASTFUL) > 0.1


def test_of_one_subject_it_is_a_curve_like_any_other():
    logits, labels, subjects, _ = planted(2000)
    logits, labels = logits[::2], labels[::2]
    method = FewShot(n_steps=300).fit(logits, labels, subjects=subjects[::2])
    assert mean_error(method.given(logits[:20]), BOASTFUL) < 0.03
    temperature = Temperature().fit(logits, labels)
    p = [method(logits), temperature(logits)]
    few_shot, one = metrics.nll(p, labels)
    assert few_shot == pytest.approx(one, abs=0.003)


def test_where_confidences_are_all_alike_it_learns_how_often_they_are_right():
    logits, labels = np.tile([2.0, 0.0], (200, 1)), np.arange(200) % 4 == 0
    method = FewShot(n_examples=5, n_steps=200)
    method.fit(logits, labels.astype(int), subjects=["law"] * 200)
    assert method(logits[:1]).max() == pytest.approx(0.75, abs=0.02)


# Properties


def test_order_and_number_of_examples(world):
    _, method = world
    logits, _, _, features = planted(60, seed=4)
    order = np.random.default_rng(0).permutation(60)
    curve = method.given(logits, features)
    shuffled = method.given(logits[order], features[order])
    np.testing.assert_allclose(shuffled.values, curve.values, atol=1e-12)
    twice = method.given(np.tile(logits, (2, 1)), np.tile(features, (2, 1)))
    np.testing.assert_allclose(twice.values, curve.values, atol=1e-12)
    assert np.isfinite(method.given(logits[:1], features[:1]).values).all()


def test_the_answer_stays_and_curves_rise(world):
    _, method = world
    rng = np.random.default_rng(0)
    for seed in range(5):
        logits, _, _, features = planted(20, seed=seed)
        curve = method.given(logits, features)
        assert (np.diff(curve.values) > 0).all()
        others = 10 * rng.normal(size=(3, 7, 4))
        p = curve(others)
        assert p.shape == others.shape
        np.testing.assert_allclose(p.sum(axis=-1), 1)
        np.testing.assert_array_equal(p.argmax(axis=-1), others.argmax(axis=-1))


def test_called_on_questions_it_takes_them_for_examples(world):
    _, method = world
    logits, _, _, features = planted(30, seed=5)
    np.testing.assert_array_equal(method(logits, features), method.given(logits, features)(logits))


def test_mixtures_are_not_mixed_with_each_other(world):
    """Each would be given the other's examples."""
    _, method = world
    logits, _, _, features = planted(30, seed=5)
    for shape in ((2, 15), (30, 1)):
        with pytest.raises(ValueError, match=r"examples of one mixture .*: give one mixture at a"):
            method(logits.reshape(*shape, 2), features.reshape(*shape, 3))
    with pytest.raises(ValueError, match=r"shape \(2,\); examples of one mixture"):
        method(logits[0], features[0])


def test_the_seed_decides_and_torch_keeps_its_own():
    import torch

    logits, labels, subjects, _ = planted(200)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    curves = [
        FewShot(5, n_steps=20, seed=seed).fit(logits, labels, None, subjects).given(logits[:5])
        for seed in (0, 0, 1)
    ]
    torch.testing.assert_close(torch.rand(3), expected)
    np.testing.assert_array_equal(curves[0].values, curves[1].values)
    assert (curves[0].values != curves[2].values).any()


def test_a_step_of_nothing_leaves_confidences():
    """Training starts from the curve that changes nothing: after one small step, nearly that."""
    logits, labels, subjects, _ = planted(200)
    method = FewShot(5, n_steps=1).fit(logits, labels, subjects=subjects)
    np.testing.assert_allclose(method(logits), softmax(logits), atol=0.01)


# Curves and mixtures by hand


def test_log_odds_by_hand():
    np.testing.assert_allclose(
        log_odds(np.log([[0.9, 0.05, 0.05], [0.2, 0.3, 0.5]])), np.log([9, 1])
    )
    assert log_odds(np.array([[5000.0, 0.0]])).tolist() == [5000]


@pytest.mark.parametrize(
    ("knots", "values", "error", "message"),
    [
        ([0.0, 1.0], [0.0], ValueError, r"knots have shape \(2,\), values \(1,\); both must be"),
        ([], [], ValueError, r"knots have shape \(0,\)"),
        (0.0, 1.0, ValueError, r"knots have shape \(\)"),
        ([1.0, 1.0], [0.0, 1.0], ValueError, "all must be finite, and knots rise"),
        ([0.0, 1.0], [0.0, np.inf], ValueError, "all must be finite, and knots rise"),
        (["low"], [0.0], TypeError, "knots are <U3; they must be real numbers"),
    ],
)
def test_points_that_make_no_curve_are_refused(knots, values, error, message):
    with pytest.raises(error, match=message):
        Curve(knots, values)


def test_a_curve_by_hand():
    """Odds 3, half way in log-odds from 1 to 9, become 6, half way from 2 to 18; ends are kept."""
    curve = Curve(np.log([1.0, 9.0]), np.log([2.0, 18.0]))
    confidence = curve(np.log([[0.75, 0.25], [0.5, 0.5], [0.999, 0.001]]))[:, 0]
    np.testing.assert_allclose(confidence, [6 / 7, 2 / 3, 18 / 19])


def test_mixtures_hold_each_question_once_in_shares_that_vary():
    """Whatever the size of a subject, as long as it lasts."""
    subjects = np.repeat(["law", "music", "botany"], [60, 100, 500])
    drawn = draw_mixtures(subjects, 30, 2000, concentration=0.3, seed=1)
    assert all(len(set(row)) == 30 for row in drawn.tolist())
    shares = (subjects[drawn] == "law").mean(axis=1)
    # The mean of the first Dirichlet weight is 1/3, its variance (1/3)(2/3) / (3 · 0.3 + 1).
    assert shares.mean() == pytest.approx(1 / 3, abs=0.03)
    assert shares.std() == pytest.approx(np.sqrt(2 / 9 / 1.9), abs=0.05)
    even = draw_mixtures(subjects, 30, 50, concentration=1e6)
    assert (subjects[even] == "law").mean(axis=1).std() < 0.1
    first, last = subjects[drawn[:, :10]] == "law", subjects[drawn[:, -10:]] == "law"
    assert first.mean() == pytest.approx(last.mean(), abs=0.03)


def test_a_mixture_can_be_all_there_is():
    subjects = ["law"] * 3 + ["music"] * 2
    drawn = draw_mixtures(subjects, 5, 20, concentration=0.001)
    assert np.sort(drawn, axis=1).tolist() == [[0, 1, 2, 3, 4]] * 20


# Refusals


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"n_examples": 0}, ValueError, "n_examples is 0; it must be an integer of at least 1"),
        ({"n_examples": 2.0}, TypeError, "n_examples is 2.0"),
        ({"n_components": -1}, ValueError, "n_components is -1"),
        ({"n_pieces": 0}, ValueError, "n_pieces is 0"),
        ({"n_judged": 0}, ValueError, "n_judged is 0"),
        ({"n_steps": 0}, ValueError, "n_steps is 0"),
        ({"concentration": 0}, ValueError, "concentration is 0; it must be above 0"),
        ({"concentration": np.nan}, ValueError, "concentration is nan"),
        ({"concentration": None}, TypeError, "concentration is None; it must be a number"),
    ],
)
def test_settings_are_checked(settings, error, message):
    with pytest.raises(error, match=message):
        FewShot(**settings)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"subjects": None}, ValueError, r"is fitted on subjects too; pass fit\(\.\.\., subjects"),
        ({"subjects": ["law"]}, ValueError, r"subjects have shape \(1,\); .* each of the 200 que"),
        ({"subjects": "law"}, ValueError, r"subjects have shape \(\)"),
        ({"subjects": ["law", None] * 100}, TypeError, r"subjects\[1\] is None; .* is a str"),
        ({"subjects": ["law", np.nan] * 100}, TypeError, r"subjects\[1\] is nan"),
        ({"subjects": np.arange(200)}, TypeError, r"subjects\[0\] is 0; "),
        ({"labels": None}, ValueError, "is fitted on labels"),
        ({"features": None}, ValueError, "reads features too"),
        ({"features": np.zeros((200, 3))}, ValueError, "features are the same for all questions"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, error, message):
    logits, labels, subjects, features = planted(200)
    given = {"labels": labels, "features": features, "subjects": subjects} | change
    with pytest.raises(error, match=message):
        FewShot(n_components=1).fit(logits, **given)


def test_too_few_questions_are_refused():
    logits, labels, subjects, _ = planted(60)
    with pytest.raises(
        ValueError, match="mixture is to have 70 questions, there are 60; draw fewer"
    ):
        FewShot().fit(logits, labels, subjects=subjects)


def test_examples_are_checked(world):
    told_by, method = world
    logits, _, _, features = planted(5)
    with pytest.raises(RuntimeError, match=r"FewShot.* has not been fitted"):
        FewShot().given(logits)
    with pytest.raises(ValueError, match=r"shape \(2,\); examples of one mixture must be"):
        method.given(logits[0])
    with pytest.raises(ValueError, match="there is no question"):
        method.given(logits[:0])
    if told_by == "features":
        with pytest.raises(ValueError, match="reads features too"):
            method.given(logits)
        with pytest.raises(ValueError, match="features have 2 columns"):
            method.given(logits, features[:, :2])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((["law"], 2, 1), ValueError, "mixture is to have 2 questions, there are 1"),
        (([["law"]], 1, 1), ValueError, r"subjects have shape \(1, 1\)"),
        ((["law"], 0, 1), ValueError, "n_questions is 0"),
        ((["law"], 1, 1.5), TypeError, "n_mixtures is 1.5"),
        ((["law"], 1, 1, -1), ValueError, "concentration is -1"),
    ],
)
def test_mixtures_that_cannot_be_drawn_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        draw_mixtures(*arguments)
