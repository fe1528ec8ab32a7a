"""The temperature of each layer, with an interval that a bootstrap gives too."""

import numpy as np
import pytest

from calib import Reading
from calib.analysis import layer_temperatures
from calib.metrics import resample
from calib.recalibration import Temperature


def drawn(seed, n=500):
    """Layer 0 says nothing; layer 1 is three times too large, layer 2 right."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1.5, (n, 4))
    labels = (z + rng.gumbel(size=z.shape)).argmax(axis=1)
    return Reading(np.stack([0 * z, 3 * z, z], axis=1), labels, np.array(["s"] * n))


def test_two_options_by_hand():
    # Logits differ by 4 and 3 of 4 answers are right: T = 4 / log 3. There g is 4 (.75 - y), of
    # mean square 16 * 3 / 16 = 3, and H = 16 * 3 / 16 = 3, so 1 / T varies by 1 / (3 n).
    n = 400
    reading = Reading(np.full((n, 1, 2), [4.0, 0.0]), np.arange(n) % 4 // 3, np.array(["s"] * n))
    value, low, high = layer_temperatures(reading).loc[0]
    half = 1.959964 / np.sqrt(3 * n)
    assert value == pytest.approx(4 / np.log(3))
    assert low == pytest.approx(1 / (np.log(3) / 4 + half), rel=1e-6)
    assert high == pytest.approx(1 / (np.log(3) / 4 - half), rel=1e-6)


def test_the_interval_is_about_the_bootstraps():
    reading = drawn(0)
    own = layer_temperatures(reading)

    def fit(logits, labels):
        return Temperature().fit(logits, labels).value

    for layer in (1, 2):
        value, low, high = own.loc[layer]
        other = resample(fit, reading.logits[:, layer], reading.labels, n_resamples=400)
        assert value == pytest.approx(other.value, rel=1e-9)
        assert high - low == pytest.approx(other.high - other.low, rel=0.2)
    assert own.temperature[1] == pytest.approx(3 * own.temperature[2], rel=1e-9)


def test_19_in_20_intervals_hold_the_truth():
    tables = [layer_temperatures(drawn(seed, 300)) for seed in range(200)]
    held = [t.temperature_low[2] <= 1 <= t.temperature_high[2] for t in tables]
    assert 0.91 <= np.mean(held) <= 0.985


def test_a_layer_that_says_nothing_has_an_infinite_temperature():
    reading = drawn(2)
    assert layer_temperatures(reading).loc[0].tolist() == [np.inf] * 3
    rng = np.random.default_rng(3)
    noise = Reading(rng.normal(size=(300, 1, 4)), reading.labels[:300], reading.subjects[:300])
    assert layer_temperatures(noise).temperature_high[0] == np.inf


def test_options_that_a_question_does_not_have_say_nothing():
    reading = drawn(4)
    wide = np.concatenate([reading.logits, np.full((500, 3, 1), -np.inf)], axis=2)
    n_options = np.full(500, 4)
    same = Reading(wide, reading.labels, reading.subjects, n_options=n_options)
    np.testing.assert_allclose(layer_temperatures(same), layer_temperatures(reading))
