"""Probabilities and labels to try metrics on."""

import numpy as np
from scipy.special import softmax


def two_options(confidence, correct):
    """Probabilities and labels with these confidences, at least 0.5, and outcomes."""
    confidence = np.asarray(confidence, dtype=float)
    return np.stack([confidence, 1 - confidence], axis=-1), 1 - np.asarray(correct)


def forecasts(*lead, n=200, seed=0, scale=1.0):
    """Probabilities of four options, and labels that have nothing to do with them."""
    rng = np.random.default_rng(seed)
    p = np.exp(scale * rng.normal(size=(*lead, n, 4)))
    return p / p.sum(axis=-1, keepdims=True), rng.integers(4, size=n)


def random_forecasts(seed, *lead, n=200, k=4, scale=2.0):
    """Probabilities without ties, and labels that follow them loosely."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=scale, size=(*lead, n, k))
    odds = softmax(logits.reshape(-1, n, k)[0] / 2, axis=-1)
    return softmax(logits, axis=-1), np.array([rng.choice(k, p=row) for row in odds])
