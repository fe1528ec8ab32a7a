"""The smooth error against its definition, as sums over a grid."""

from math import sqrt

import numpy as np
import pytest
from support.forecasts import random_forecasts

from calib import metrics
from calib.metrics.smooth import residual_spectrum, smoothed_error

SMOOTH_CONFIDENCE = np.repeat([0.2, 0.8], 50)
SMOOTH_CORRECT = np.repeat([True, False, True, False], [20, 30, 30, 20])


def smoothed_by_sums(confidence, correct, sigma, n=4000):
    """The definition: Gaussians around every confidence and its mirror images, on a fine grid."""
    t = (np.arange(n) + 0.5) / n
    images = [2 * k + side * t for k in range(-3, 4) for side in (1, -1)]
    kernel = sum(np.exp(-(((image[:, None] - confidence) / sigma) ** 2) / 2) for image in images)
    kernel /= sigma * sqrt(2 * np.pi)
    return np.abs((kernel * (correct - confidence)).mean(axis=1)).mean()


@pytest.mark.parametrize("sigma", [0.02, 93 / 512, 0.6])
def test_smoothing_equals_the_definition(sigma):
    confidence = SMOOTH_CONFIDENCE**2  # not symmetric about the middle
    spectrum = residual_spectrum(confidence, SMOOTH_CORRECT)
    direct = smoothed_by_sums(confidence, SMOOTH_CORRECT, sigma)
    assert smoothed_error(spectrum, sigma) == pytest.approx(direct, abs=1e-6)


def test_smooth_ece_of_a_known_example():
    spectrum = residual_spectrum(SMOOTH_CONFIDENCE, SMOOTH_CORRECT)
    assert smoothed_error(spectrum, 0.180630) == pytest.approx(0.180630, abs=1e-6)
    # relplot 1.0.3 gives .181443 at width .181641, with its kernel cut off at a distance of 1/2.
    assert smoothed_error(spectrum, 0.181641) == pytest.approx(0.181443, abs=2e-3)
    # The same as two options: confidence .8 throughout, right for 60 of 100.
    p = np.stack([1 - SMOOTH_CONFIDENCE, SMOOTH_CONFIDENCE], axis=-1)
    assert metrics.smooth_ece(p, SMOOTH_CORRECT.astype(int)) == pytest.approx(0.2, abs=1e-6)


def test_smooth_ece_is_its_own_width():
    p, labels = random_forecasts(2, n=400)
    confidence, correct = metrics.confidence_and_correct(p, labels)
    value = metrics.smooth_ece(p, labels)
    assert smoothed_by_sums(confidence, correct, value) == pytest.approx(value, abs=1e-5)
