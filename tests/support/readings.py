"""Readings whose layers are right as often, and as sure, as they are asked to be."""

import numpy as np

from calib import Reading


def planted(accuracies, confidences, n=2000, options=4, seed=0):
    """A reading whose layers have the given accuracy and the given confidence on every question.

    Layers that answer agree with one another: the right questions of one are right in the next.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(options, size=n)
    luck = rng.random(n)
    logits = np.empty((n, len(accuracies), options), np.float32)
    for layer, (accuracy, confidence) in enumerate(zip(accuracies, confidences, strict=True)):
        answer = np.where(luck < accuracy, labels, (labels + 1) % options)
        p = np.full((n, options), (1 - confidence) / (options - 1))
        p[np.arange(n), answer] = confidence
        logits[:, layer] = np.log(p)
    return Reading(logits, labels, np.full(n, "astronomy"))
