"""Directions: found where they were planted, not where they were not; refusals; the gradient's."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeCV
from support.architectures import TOKENIZER, random_module
from support.planted import AXIS, MARGIN, planted_model, planted_questions

from calib import Reading, load_questions, metrics, open_model, read_branches, read_layers
from calib.mechanisms import unembedding_null_space
from calib.metrics import softmax
from calib.recalibration import Temperature
from calib.steering import (
    confidence_regression,
    correction_difference,
    difference_in_means,
    gradient_direction,
    make_direction,
    random_direction,
)


def reading_of(confidence, right, residuals):
    """Two layers, two options; the first is the answer, with this confidence, right or wrong."""
    confidence, right = np.asarray(confidence, dtype=float), np.asarray(right, dtype=bool)
    last = np.log(np.stack([confidence, 1 - confidence], axis=1))
    logits = np.stack([np.zeros_like(last)] * 2 + [last], axis=1)
    subjects = np.full(len(right), "s")
    return Reading(logits, (~right).astype(int), subjects, residuals=residuals)


def small_reading(residuals):
    """Of the residuals alone: the answers are of no account."""
    n_questions = len(next(iter(residuals.values())))
    return reading_of([0.75] * n_questions, [True] * n_questions, residuals)


def cosine(direction, axis):
    return direction.vector[axis]


# Directions by hand


def test_correction_difference_is_the_mean_change_by_hand():
    """Changes (3, 4, 1, 0), (3, 4, -1, 0), (3, 4, 0, 0) from streams of lengths 1, 5, 10."""
    start = np.array([[1, 0, 0, 0], [0, 3, 4, 0], [0, 0, 0, 10]], dtype=np.float32)
    change = np.array([[3, 4, 1, 0], [3, 4, -1, 0], [3, 4, 0, 0]], dtype=np.float32)
    direction = correction_difference(small_reading({1: start, 2: start + change}), 1, 2)
    np.testing.assert_allclose(direction.vector, [0.6, 0.8, 0, 0], atol=1e-15)
    assert (direction.layer, direction.scale, direction.name) == (1, 5.0, "correction difference")
    np.testing.assert_allclose(direction.push(2), [6, 8, 0, 0])
    np.testing.assert_allclose(direction.push(-0.5), [-1.5, -2, 0, 0])


def test_at_another_layer_the_vector_stays_and_the_scale_is_that_layers():
    reading = small_reading({1: np.diag([1, 5, 10]), 2: np.diag([2, 3, 40])})
    direction = make_direction([0, -2, 0], 1, reading, "by hand")
    moved = direction.at(2, reading)
    assert (direction.layer, direction.scale) == (1, 5.0)
    assert (moved.layer, moved.scale, moved.name) == (2, 3.0, "by hand")
    np.testing.assert_array_equal(moved.vector, [0, -1, 0])
    np.testing.assert_array_equal(moved.push(0.5), [0, -1.5, 0])


def test_difference_in_means_by_hand():
    """Bins of 20: the unsure, mostly wrong; the sure, mostly right; the surest, all right.

    Wrong answers stand out on axis 1 in the first bin, on axis 2 in the second. The whole first
    bin stands out on axis 0 and the whole third on axis 3, which tells their confidence only.
    """
    confidence = np.repeat([0.6, 0.8, 0.95], 20)
    right = np.repeat([False, True, False, True], [15, 5, 5, 35])
    residuals = np.zeros((60, 4), dtype=np.float32)
    residuals[:15, 1] = residuals[20:25, 2] = 1
    residuals[:20, 0] = residuals[40:, 3] = 100
    reading = reading_of(confidence, right, {1: residuals})
    direction = difference_in_means(reading, 1, n_bins=3)
    np.testing.assert_allclose(direction.vector, [0, 0.5**0.5, 0.5**0.5, 0], atol=1e-15)
    assert direction.name == "difference in means"


def test_difference_in_means_weighs_bins_by_their_questions():
    """41 questions in two bins: 21 that differ on axis 0, 20 that differ on axis 1."""
    residuals = np.zeros((41, 2), dtype=np.float32)
    wrong = np.tile([True, False], 21)[:41]
    residuals[:21, 0], residuals[21:, 1] = wrong[:21], wrong[21:]
    reading = reading_of(np.repeat([0.6, 0.9], [21, 20]), ~wrong, {1: residuals})
    vector = difference_in_means(reading, 1, n_bins=2).vector
    np.testing.assert_allclose(vector, [21 / 29, 20 / 29], atol=1e-15)  # 20, 21, 29: a right angle


# Directions planted in noise


N, WIDTH, CONFIDENCE, WRONG = 2000, 12, 1, 3  # questions, coordinates, and two of these


@pytest.fixture(scope="module")
def planted():
    """Confidence on one axis, ten times as large as what tells wrong answers on another.

    Wrong answers are the less confident ones mostly. Between the layers the stream moves along
    axis 7, unequally.
    """
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, N)
    right = rng.random(N) < confidence
    stream = rng.normal(scale=0.1, size=(N, WIDTH))
    stream[:, CONFIDENCE] += 10 * confidence
    stream[:, WRONG] += ~right
    later = stream + rng.normal(scale=0.1, size=(N, WIDTH))
    later[:, 7] += rng.exponential(size=N)
    return reading_of(confidence, right, {1: stream, 2: later})


def test_difference_in_means_finds_its_axis_and_is_not_fooled_by_confidence(planted):
    stream, right = planted.residuals[1], planted.labels == 0
    plain = make_direction(
        stream[~right].mean(axis=0) - stream[right].mean(axis=0), 1, planted, "without bins"
    )
    assert cosine(plain, CONFIDENCE) < -0.7  # what there is to be fooled by
    assert cosine(difference_in_means(planted, 1), WRONG) > 0.99


def test_correction_difference_finds_the_axis_of_the_change(planted):
    assert cosine(correction_difference(planted, 1, 2), 7) > 0.99


def test_confidence_regression_finds_the_axis_of_the_gap():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, N)
    right = rng.random(N) < 0.7
    stream = rng.normal(scale=0.05, size=(N, WIDTH)) + rng.normal(size=WIDTH)
    stream[:, 4] += 3 * (confidence - right)
    direction = confidence_regression(reading_of(confidence, right, {0: stream}), 0)
    assert cosine(direction, 4) > 0.99
    assert (direction.layer, direction.name) == (0, "confidence regression")


def test_confidence_regression_points_to_where_confidence_is_not_deserved(planted):
    """There the gap is confidence less rightness: the axes of both, in their scales."""
    vector = confidence_regression(planted, 1).vector
    others = np.delete(vector, [CONFIDENCE, WRONG])
    assert vector[WRONG] > 0.9 and vector[CONFIDENCE] > 0.05
    assert np.abs(others).max() < 0.05


def test_a_random_direction_finds_nothing(planted):
    vectors = np.stack([random_direction(planted, 1, seed).vector for seed in range(400)])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=0.06)  # its deviation is .014
    np.testing.assert_allclose((vectors**2).mean(axis=0), 1 / WIDTH, atol=0.025)  # .0055


def test_the_seed_decides_the_random_direction(planted):
    first, again, other = (random_direction(planted, 1, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.vector, again.vector)
    assert abs(first.vector @ other.vector) < 0.9
    assert (first.name, other.name) == ("random 1", "random 2")


FITS = {
    "correction difference": lambda reading: correction_difference(reading, 1, 2),
    "difference in means": lambda reading: difference_in_means(reading, 1),
    "confidence regression": lambda reading: confidence_regression(reading, 1),
    "random 0": lambda reading: random_direction(reading, 1, 0),
}


@pytest.mark.parametrize("name", FITS)
def test_every_direction_has_length_one_and_the_scale_of_its_layer(planted, name):
    direction = FITS[name](planted)
    assert (direction.name, direction.layer) == (name, 1)
    assert direction.vector.dtype == np.float64 and direction.vector.shape == (WIDTH,)
    assert np.linalg.norm(direction.vector) == pytest.approx(1, abs=1e-12)
    assert direction.scale == np.median(np.linalg.norm(planted.residuals[1], axis=1))


# The regression against scikit-learn


@pytest.mark.parametrize(("n", "noise"), [(400, 0.3), (400, 3), (60, 0.3), (30, 1), (30, 10)])
def test_confidence_regression_is_scikit_learns_ridge(n, noise):
    """In 50 dimensions: more questions than that, or fewer. The penalty is RidgeCV's choice."""
    rng = np.random.default_rng(n)
    confidence = rng.uniform(0.5, 1, n)
    right = rng.random(n) < 0.7
    along = rng.normal(size=50)
    stream = np.outer(confidence - right, along) + noise * rng.normal(size=(n, 50)) + 2
    reading = reading_of(confidence, right, {1: stream})
    gap = metrics.confidence_and_correct(reading.probabilities[-1], reading.labels)
    gap = gap[0] - gap[1]
    x = stream / np.median(np.linalg.norm(stream, axis=1))
    penalty = RidgeCV(n * np.logspace(-5, 1, 13)).fit(x, gap).alpha_  # by leaving one out
    expected = Ridge(penalty).fit(x, gap).coef_
    direction = confidence_regression(reading, 1)
    np.testing.assert_allclose(direction.vector, expected / np.linalg.norm(expected), atol=1e-6)


# Refusals


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ([1, 0], r"by hand has shape \(2,\); a direction .* has \(3,\)"),
        ([[1, 0, 0]], r"by hand has shape \(1, 3\)"),
        ([0, np.nan, 0], r"by hand\[1\] is nan; every entry must be finite"),
        ([0, 0, -np.inf], r"by hand\[2\] is -inf"),
        ([0, 0, 0], "by hand is zero, and zero points nowhere"),
    ],
)
def test_what_is_no_direction_is_refused(vector, message):
    with pytest.raises(ValueError, match=message):
        make_direction(vector, 1, small_reading({1: np.eye(3)}), "by hand")


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (2, r"kept the residuals of layers \[0, 1\], not of 2; .* keep_residuals=\[2\]"),
        (3, "layer is 3; this model's layers run from 0 to 2"),
        (-1, "layer is -1; this model's layers run from 0 to 2"),
    ],
)
def test_a_layer_that_was_not_kept_is_refused_by_all(layer, message):
    reading = reading_of([0.75] * 40, [True, False] * 20, {0: np.ones((40, 3)), 1: np.eye(40, 3)})
    direction = make_direction([1, 0, 0], 1, reading, "by hand")
    for fit in (
        lambda: make_direction([1, 0, 0], layer, reading, "by hand"),
        lambda: direction.at(layer, reading),
        lambda: difference_in_means(reading, layer),
        lambda: confidence_regression(reading, layer),
        lambda: random_direction(reading, layer, 0),
        lambda: correction_difference(reading, min(layer, 1), max(layer, 1)),
    ):
        with pytest.raises(ValueError, match=message):
            fit()


@pytest.mark.parametrize(("start", "end"), [(1, 1), (2, 1)])
def test_a_phase_that_ends_before_it_starts_is_refused(planted, start, end):
    with pytest.raises(ValueError, match=f"start is {start} and end is {end}; the phase must end"):
        correction_difference(planted, start, end)


@pytest.mark.parametrize(
    ("n_right", "message"), [(19, "19 of 60 answers are right"), (41, "19 of 60 answers are wrong")]
)
def test_too_few_answers_of_a_kind_are_refused(n_right, message):
    confidence, right = np.full(60, 0.75), np.arange(60) < n_right
    stream = np.random.default_rng(0).normal(size=(60, 3))
    with pytest.raises(ValueError, match=f"{message}; a mean needs at least 20: use more"):
        difference_in_means(reading_of(confidence, right, {1: stream}), 1)
    enough = np.arange(60) < np.clip(n_right, 20, 40)
    assert difference_in_means(reading_of(confidence, enough, {1: stream}), 1).layer == 1


def test_where_confidence_tells_wrong_from_right_entirely_nothing_is_left():
    right = np.arange(40) < 20
    reading = reading_of(np.where(right, 0.9, 0.6), right, {1: np.eye(40)})
    with pytest.raises(ValueError, match="difference in means is zero, and zero points nowhere"):
        difference_in_means(reading, 1)


def test_a_regression_on_too_few_questions_is_refused(planted):
    with pytest.raises(ValueError, match="19 questions; a regression needs at least 20"):
        confidence_regression(planted.select(np.arange(19)), 1)
    assert confidence_regression(planted.select(np.arange(20)), 1).layer == 1


# By gradient, where the best push is known


@pytest.mark.parametrize(
    ("n_right", "layer", "sign"), [(3, 0, 1), (3, 1, 1), (3, 2, 1), (6, 0, -1), (6, 2, -1)]
)
def test_the_gradient_finds_the_axis_that_scales_all_logits(n_right, layer, sign):
    """Half of the answers are right at a confidence of .85: no push is better than one along the
    axis. All are right: none is better than one against it, which makes the stream shorter."""
    direction = gradient_direction(planted_model(), planted_questions(n_right), layer)
    assert sign * cosine(direction, AXIS) > 0.9999
    assert direction.scale == pytest.approx(1 if layer == 0 else 2, abs=1e-4)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_push_along_it_is_a_temperature_and_the_best_there_is(layer):
    """Right half of the time, each other letter a sixth: NLL can fall to log(12) / 2, where the
    margin is log(3). It is MARGIN at length 2, whose square is 3 and the square along AXIS."""
    model, questions = planted_model(), planted_questions(3)
    reading = read_layers(model, questions, keep_residuals=[layer])
    direction = make_direction(np.eye(8)[AXIS], layer, reading, "axis")
    length = 2 * MARGIN / np.log(3)
    strength = (np.sqrt(length**2 - 3) - 1) / direction.scale
    still, pushed = read_branches(model, questions, [(direction, 0), (direction, strength)])
    assert metrics.nll(softmax(pushed), reading.labels) == pytest.approx(np.log(12) / 2, abs=1e-5)
    np.testing.assert_allclose(still, pushed * length / 2, atol=1e-5)
    for target in (softmax(pushed), reading.labels):
        assert Temperature().fit(still, target).value == pytest.approx(length / 2, abs=1e-5)


def test_the_null_space_of_the_planted_model_is_what_no_letter_reads():
    space = unembedding_null_space(planted_model(), 8)
    np.testing.assert_allclose(space.shares, [0] * 5 + [1 / 3] * 3, atol=1e-6)
    kept = np.diag([0, 0, 0, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(space.basis[:5].T @ space.basis[:5], kept, atol=1e-6)


# By gradient, in small random models


GRADIENT = ("llama", "gpt2", "bloom", "gptj", "gemma2")  # gptj's blocks return tuples
PLACES = (
    [("llama", ell) for ell in range(4)]
    + [(name, ell) for name in ("gpt2", "gptj") for ell in (0, 3)]
    + [("bloom", 2), ("gemma2", 1)]
)
STRENGTHS = (-0.2, -0.1, 0.0, 0.05, 0.1, 0.2, 0.4, 0.8)


@pytest.fixture(scope="module")
def questions():
    return load_questions("almanac", "validation", limit=16, seed=1)


@pytest.mark.parametrize(("name", "layer"), PLACES)
def test_the_gradient_lowers_nll_and_leaves_the_model_as_it_was(name, layer, questions):
    module = random_module(name)
    model = open_model((module, TOKENIZER))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    direction = gradient_direction(model, questions, layer, max_steps=5)
    assert (direction.layer, direction.name) == (layer, "gradient")
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    logits = read_branches(model, questions, [(direction, s) for s in STRENGTHS])
    nll = metrics.nll(softmax(logits), np.array(questions["answer"]))
    assert nll.min() < nll[STRENGTHS.index(0)] - 0.01
    assert STRENGTHS[nll.argmin()] > 0


@pytest.mark.parametrize("name", GRADIENT)
def test_the_first_step_goes_down_the_slope(name, questions):
    """The slope of a coordinate here is the difference of two branches pushed up and down it."""
    model = open_model((random_module(name), TOKENIZER))
    vector = gradient_direction(model, questions, 2, max_steps=1).vector
    reading, coordinates = read_layers(model, questions, keep_residuals=[2]), range(0, 64, 5)
    steps = [make_direction(np.eye(64)[i], 2, reading, f"step {i}") for i in coordinates]
    branches = [(step, strength) for step in steps for strength in (0.01, -0.01)]
    p = softmax(read_branches(model, questions, branches))
    up, down = metrics.nll(p, reading.labels).reshape(13, 2).T
    expected, found = down - up, vector[coordinates]
    alike = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
    assert alike > 0.999


def test_what_is_learned_does_not_depend_on_the_batches(questions):
    model = open_model((random_module("llama"), TOKENIZER))
    whole, parts = (
        gradient_direction(model, questions, 2, max_steps=3, batch_tokens=n).vector
        for n in (8192, 60)
    )
    np.testing.assert_allclose(whole, parts, atol=1e-4)


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_gradient_at_no_layer_of_the_model_is_refused(layer, questions):
    model = open_model((random_module("llama"), TOKENIZER))
    with pytest.raises(ValueError, match="layers run from 0 to 3"):
        gradient_direction(model, questions, layer)


def test_a_gradient_through_a_model_with_a_state_is_refused(questions):
    model = open_model((random_module("llama"), TOKENIZER))
    model.module._is_stateful = True
    with pytest.raises(ValueError, match="keeps more of earlier tokens than keys and values"):
        gradient_direction(model, questions, 2)
