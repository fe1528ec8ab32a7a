"""Each layer recalibrated by itself, every question by what was fitted on others."""

import numpy as np
import pytest

from calib import Reading
from calib.metrics import nll
from calib.recalibration import (
    BiasCorrectedTemperature,
    Isotonic,
    LoRe,
    NoTemperature,
    Temperature,
    recalibrate_layers,
)

N = 600


@pytest.fixture
def reading():
    """Layer 0 says nothing, 1 the opposite, 2 is four times too large, 3 is right."""
    rng = np.random.default_rng(1)
    z = rng.normal(0, 1.5, (N, 4))
    labels = (z + rng.gumbel(size=z.shape)).argmax(axis=1)
    logits = np.stack([np.zeros_like(z), -z, 4 * z, z], axis=1)
    return Reading(logits, labels, np.array(["s"] * N))


def test_a_question_is_mended_by_what_was_fitted_on_the_others(reading):
    mended = recalibrate_layers(reading, Temperature(), n_folds=3, seed=5)
    fold = np.random.default_rng(5).permutation(N) % 3
    for f in range(3):
        held, at = fold == f, reading.logits[:, 2]
        method = Temperature().fit(at[~held], reading.labels[~held])
        np.testing.assert_allclose(mended.probabilities[2, held], method(at[held]), rtol=1e-12)


def test_a_factor_on_the_logits_is_gone(reading):
    mended = recalibrate_layers(reading, Temperature())
    np.testing.assert_allclose(mended.logits[:, 2], mended.logits[:, 3], atol=1e-9)
    assert nll(reading.probabilities[2], reading.labels) > nll(
        mended.probabilities[2], reading.labels
    ) + 0.3  # fmt: skip


def test_layers_that_say_nothing_are_even(reading):
    mended = recalibrate_layers(reading, Temperature())
    np.testing.assert_allclose(mended.probabilities[:2], 0.25)
    with_letters = recalibrate_layers(reading, BiasCorrectedTemperature())
    assert abs(with_letters.probabilities[:2] - 0.25).max() < 0.1  # the letters' shares


def test_questions_with_fewer_options_keep_them(reading):
    logits = reading.logits.astype(float)
    logits[:100, :, 3] = -np.inf
    labels = np.where(np.arange(N) < 100, reading.labels % 3, reading.labels)
    n_options = np.where(np.arange(N) < 100, 3, 4)
    some = Reading(logits, labels, reading.subjects, n_options=n_options)
    p = recalibrate_layers(some, Temperature()).probabilities
    np.testing.assert_allclose(p[0, :100], [[1 / 3] * 3 + [0]] * 100)
    np.testing.assert_allclose(p[0, 100:], 0.25)
    assert (p[2:, :100, 3] == 0).all()


def test_a_probability_too_small_for_a_float_is_no_reason_to_stop(reading):
    far = Reading(reading.logits * 1e4, reading.labels, reading.subjects)
    assert np.isfinite(recalibrate_layers(far, Isotonic()).logits).all()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"n_folds": 1}, "n_folds is 1; with fewer than 2"),
        ({"n_folds": N + 1}, f"there are {N} questions for {N + 1} folds"),
        ({"method": LoRe()}, "LoRe is fitted on features or subjects"),
    ],
)
def test_what_cannot_be_is_refused(reading, how, message):
    with pytest.raises(ValueError, match=message):
        recalibrate_layers(reading, **{"method": Temperature(), **how})


def test_a_temperature_of_zero_is_refused_and_told_from_an_infinite_one(reading):
    at = reading.logits[:, 3]
    for logits, infinite in ((-at, True), (np.zeros_like(at), True)):
        with pytest.raises(NoTemperature) as told:
            Temperature().fit(logits, reading.labels)
        assert told.value.infinite is infinite
    sure = [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]  # where they differ, they are right
    with pytest.raises(NoTemperature) as told:
        Temperature().fit(sure, [1, 0, 1])
    assert told.value.infinite is False
