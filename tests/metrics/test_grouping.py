"""The grouping loss: refusals, glest's numbers, planted losses, and the laboratory's known one."""

import warnings

import numpy as np
import pytest

import calib
from calib.analysis import known_grouping_loss
from calib.metrics import grouping_loss
from calib.metrics.bins import bin_index
from calib.metrics.grouping import _estimate, _induced, _tally, between_regions, halves


def planted(n, spread, seed=0):
    """Confidence .5 to .8, and a chance of being right ``spread`` above or below, by feature 0."""
    rng = np.random.default_rng(seed)
    confidence, side = rng.uniform(0.5, 0.8, n), rng.choice([-1, 1], n)
    features = np.stack([side + rng.normal(scale=0.1, size=n), rng.normal(size=n)], axis=1)
    correct = rng.random(n) < confidence + spread * side
    return np.stack([confidence, 1 - confidence], axis=1), (~correct).astype(int), features


# Refusals


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"probabilities": np.ones((100, 2))}, ValueError, r"probabilities\[0\] sums to 2"),
        ({"probabilities": np.full((3, 100, 2), 0.5)}, ValueError, r"\(3, 100, 2\); .* one layer"),
        ({"labels": np.full(100, 2)}, ValueError, r"labels\[0\] is 2"),
        ({"features": np.zeros((99, 2))}, ValueError, r"\(99, 2\); they must be \[100, d\]"),
        ({"features": np.full((100, 2), np.nan)}, ValueError, r"features\[0, 0\] is nan"),
        ({"n_bins": 0}, ValueError, "n_bins is 0"),
        ({"min_region": 2.5}, TypeError, "min_region is 2.5"),
        ({"n_resamples": 0}, ValueError, "n_resamples is 0"),
        ({"level": 95}, ValueError, "level is 95; .* such as 0.95"),
        ({"binning": "mass"}, ValueError, "binning is 'mass'; it must be one of equal-width"),
        ({"partition": "forest"}, ValueError, "partition is 'forest'; .* tree, clusters"),
        ({"n_bins": 100}, ValueError, "the fullest bin has 1 questions to learn from, min_region"),
    ],
)
def test_refuses_arguments(arguments, error, message):
    probabilities, labels, features = planted(100, 0.2)
    given = {"probabilities": probabilities, "labels": labels, "features": features} | arguments
    with pytest.raises(error, match=message):
        grouping_loss(**given)


def test_one_question_is_refused():
    with pytest.raises(ValueError, match="no region holds two questions"):
        grouping_loss([[0.9, 0.1]], [0], [[1.0]])


# By hand


def test_sums_by_hand():
    # A bin with 2 of 2 and 1 of 2 right, one with 1 of 3 and nothing else, one region of one.
    right = [[2, 1, 0], [1, 0, 0], [0, 0, 1]]
    wrong = [[0, 1, 0], [2, 0, 0], [0, 0, 0]]
    plug_in, bias = between_regions(np.array([right, wrong]))
    assert plug_in == pytest.approx(4 / 7 * 0.25**2)
    # 2/4 · (1/4)/1 less (3/16)/3 in the first bin, nothing in the second
    assert bias == pytest.approx(4 / 7 * (1 / 8 - 1 / 16))


def test_halves_part_every_bin():
    index = np.random.default_rng(0).integers(7, size=501)
    teach, count = halves(index, np.random.default_rng(1))
    assert sorted([*teach, *count]) == list(range(501))
    sizes = [np.bincount(index[half], minlength=7) for half in (teach, count)]
    assert np.abs(np.subtract(*sizes)).max() <= 1


# Another library


@pytest.mark.parametrize(
    ("spread", "value", "plug_in", "bias", "induced"),
    [
        (0.2, 0.08486122057804, 0.09861278783840, 0.01199793508275, 0.00175363217761),
        (0.0, -0.00149635094320, 0.01715780760517, 0.01594982562031, 0.00270433292806),
    ],
)
def test_numbers_of_glest(spread, value, plug_in, bias, induced):
    """From glest 0.0.1 with scikit-learn 1.9.1, its Brier score of two classes being twice ours.

    GLEstimator(confidence[teach], Partitioner(DecisionTreeRegressor(min_samples_leaf=20,
    random_state=0), "apply", n_bins=15)).fit(features[teach], correct[teach], test_data=...) with
    (features, correct, confidence)[count], for the halves of equal-width bins and seed 0.
    """
    found = grouping_loss(*planted(4000, spread), binning="equal-width", n_resamples=10)
    numbers = [found.value, found.plug_in, found.bias, found.induced]
    np.testing.assert_allclose(2 * np.array(numbers), [value, plug_in, bias, induced], atol=1e-12)


def test_numbers_of_glest_for_a_given_partition():
    """GLEstimator(confidence, partitioner=None).fit(features, correct, partition=region)."""
    p, labels, features = planted(4000, 0.2)
    region = 2 * (features[:, 0] > 0) + (features[:, 1] > 0)
    correct, index = labels == 0, bin_index(p[:, 0], 15)
    plug_in, bias = between_regions(_tally(index, region, correct, 15))
    induced = _induced(p[:, 0], correct, index, 15)
    assert 2 * plug_in == pytest.approx(0.08375569029834623, abs=1e-12)
    assert 2 * bias == pytest.approx(0.001263134050571431, abs=1e-12)
    assert 2 * induced == pytest.approx(0.0018114900652867123, abs=1e-12)


# Planted


@pytest.mark.parametrize("binning", ["equal-mass", "equal-width"])
@pytest.mark.parametrize("partition", ["tree", "clusters"])
def test_a_planted_loss_is_found(binning, partition):
    """The chance of being right is .2 off on either side: a loss of .04."""
    data = planted(12_000, 0.2)
    found = grouping_loss(*data, binning=binning, partition=partition, min_region=100)
    assert found.value == pytest.approx(0.04, abs=0.004)
    assert 0.03 < found.low < 0.04 < found.high < 0.05
    assert found.value == pytest.approx(found.plug_in - found.bias - found.induced)
    assert found.n_regions >= 30


def test_where_there_is_none_the_plug_in_is_chance():
    found = [
        grouping_loss(*planted(2000, 0.0, seed), n_resamples=200, seed=seed) for seed in range(10)
    ]
    plug_in, debiased = (
        np.mean([f.plug_in for f in found]),
        np.mean([f.plug_in - f.bias for f in found]),
    )
    assert plug_in > 0.005
    assert abs(debiased) < 0.001
    assert sum(f.low > 0 for f in found) == 0


def test_features_that_say_nothing_find_nothing():
    p, labels, features = planted(3000, 0.2)
    found = grouping_loss(p, labels, features[:, 1:])
    assert found.low < 0 < found.high < 0.01
    assert found.plug_in == pytest.approx(found.bias, abs=0.003)


@pytest.mark.parametrize("partition", ["tree", "clusters"])
@pytest.mark.parametrize("answer", [0, 1])
def test_all_right_or_all_wrong_is_no_loss(partition, answer):
    p, _, features = planted(300, 0.2)
    found = grouping_loss(p, np.full(300, answer), features, n_bins=3, partition=partition)
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert (found.plug_in, found.bias, found.induced) == (0, 0, 0)


@pytest.mark.parametrize("partition", ["tree", "clusters"])
def test_where_no_bin_can_be_split_nothing_is_said(partition):
    """Of 300 questions, 75 a bin, 37 or 38 teach: too few for two regions of 20."""
    p, labels, features = planted(300, 0.2)
    message = (
        "the fullest bin has 38 questions to learn from, min_region is 20: no bin can be split; "
        "pass more questions, or lower n_bins or min_region"
    )
    with pytest.raises(ValueError, match=message):
        grouping_loss(p, labels, features, n_bins=4, partition=partition)
    found = grouping_loss(p, labels, features, n_bins=4, partition=partition, min_region=19)
    assert found.n_regions > 4
    assert found.low < found.high


def test_features_of_few_kinds_make_as_many_clusters():
    """Without scikit-learn's warning that it finds no more."""
    p, labels, features = planted(600, 0.2)
    kinds = np.sign(features[:, :1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = grouping_loss(p, labels, kinds, n_bins=2, partition="clusters")
    assert found.n_regions == 4
    assert found.low > 0


def test_induced_is_chance_where_questions_are_few():
    """Answers are right as often at every confidence, so that it is of nothing but chance."""
    rng = np.random.default_rng(0)
    for n, expected in ((300, 0.008), (1000, 0.002), (4000, 0.0006)):
        found = []
        for _ in range(50):
            confidence, correct = rng.uniform(0.25, 1, n // 2), rng.random(n // 2) < 0.7
            found.append(_induced(confidence, correct, bin_index(confidence, 5, "equal-mass"), 5))
        assert np.mean(found) == pytest.approx(expected, rel=0.25)


def test_seeds_decide():
    data = planted(600, 0.2)
    one, again, other = (grouping_loss(*data, n_bins=5, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one.value != other.value


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.15])
def test_the_interval_covers_what_the_value_estimates(spread):
    """Regions of known chances, counted anew 200 times; where there is no loss it is cautious."""
    rng = np.random.default_rng(3)
    chance = 0.7 + spread * rng.choice([-1, 1], size=(10, 4))
    share = rng.dirichlet(np.full(40, 5.0)).reshape(10, 4)
    bin_share = share.sum(axis=1, keepdims=True)
    bin_chance = (share * chance).sum(axis=1, keepdims=True) / bin_share
    truth = (share * (chance - bin_chance) ** 2).sum()
    found = []
    for _ in range(200):
        n = rng.multinomial(1500, share.ravel()).reshape(10, 4)
        right = rng.binomial(n, chance)
        found.append(_estimate(np.stack([right, n - right]), 0.0, 150, 0.95, rng))
    assert np.mean([f.value for f in found]) == pytest.approx(truth, abs=5e-4)
    assert np.mean([f.low <= truth <= f.high for f in found]) > 0.93
    assert np.mean([f.low <= truth for f in found]) > 0.96


# The laboratory


@pytest.fixture(scope="module")
def readings():
    questions = calib.load_questions("almanac", "test", limit=500)
    return {
        name: calib.read_layers(calib.open_model(name), questions, keep_residuals=[8])
        for name in ("almanac", "almanac-tuned")
    }


def test_residual_streams_bound_the_known_loss_from_below(readings):
    for reading in readings.values():
        p = reading.probabilities[-1]
        truth = known_grouping_loss(p, reading.posterior)
        found = grouping_loss(p, reading.labels, reading.residuals[8], n_bins=5)
        assert found.n_regions > 5
        assert found.low < truth
        assert found.low < 0  # and so few questions show none of it


def test_the_posterior_shows_most_of_the_known_loss(readings):
    """With every question asked thirty times, its answers drawn from its posterior."""
    truth, found = {}, {}
    for name, reading in readings.items():
        p, posterior = reading.probabilities[-1], reading.posterior
        truth[name] = known_grouping_loss(p, posterior)
        drawn = np.random.default_rng(1).random((500, 30, 1))
        labels = (drawn > posterior.cumsum(axis=1)[:, None, :-1]).sum(axis=-1)
        found[name] = grouping_loss(
            p.repeat(30, axis=0), labels.ravel(), posterior.repeat(30, axis=0), seed=1
        )
        assert 0 < found[name].low < truth[name]
        assert found[name].value > 0.6 * truth[name]
    assert truth["almanac-tuned"] > 1.3 * truth["almanac"]
    assert found["almanac-tuned"].value > 1.3 * found["almanac"].value


def test_the_known_loss_by_hand():
    p = [[0.71, 0.29], [0.29, 0.71], [0.71, 0.29], [0.95, 0.05]]
    posterior = [[0.9, 0.1], [0.3, 0.7], [0.5, 0.5], [0.0, 1.0]]
    # chances .9, .7 and .5 in one bin: variance .08 / 2; the fourth is alone
    assert known_grouping_loss(p, posterior) == pytest.approx(0.04)
    both = known_grouping_loss([p, p[::-1]], posterior)
    assert both[0] == pytest.approx(0.04)
    assert both.shape == (2,)


def test_the_known_loss_of_reliable_confidence_is_none_but_for_the_width_of_bins(readings):
    posterior = readings["almanac"].posterior
    assert known_grouping_loss(posterior, posterior, 100) < 0.01**2 / 4


@pytest.mark.parametrize(
    ("posterior", "n_bins", "message"),
    [
        ([[0.5, 0.5]], 100, r"shape \(2, 2\), the posterior \(1, 2\)"),
        ([0.5, 0.5], 100, r"the posterior \(2,\)"),
        ([[0.5, 0.5]] * 2, 100, "n_bins is 100; no bin holds two questions: lower it"),
    ],
)
def test_the_known_loss_refuses(posterior, n_bins, message):
    with pytest.raises(ValueError, match=message):
        known_grouping_loss([[0.7, 0.3], [0.9, 0.1]], posterior, n_bins)
