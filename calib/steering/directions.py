"""Candidate calibration directions: unit vectors in the residual stream, fitted from a reading.

Joshi, Ahmad & Modi [1]_ report a low-dimensional direction whose perturbation improves ECE and MCE
without harming accuracy. How they compute it is not known to us; these are *reconstructions*, to be
set side by side and against :func:`random_direction`. Fit them on a reading of the calibration
split, and judge them on the test split (:func:`calib.try_directions`).

References
----------
.. [1] Joshi, Ahmad & Modi, "Calibration Across Layers", EMNLP 2025.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from sklearn.linear_model import RidgeCV

from calib.metrics import confidence_and_correct
from calib.metrics.bins import bin_index
from calib.reading.reading import Reading

ENOUGH = 20  # questions of a class, to take a mean of them


@dataclass(frozen=True, eq=False)  # two are the same only if they are one
class Direction:
    """A direction at one layer.

    Attributes
    ----------
    vector : float64 array ``[d_model]``
        Of length 1.
    layer : int
        Whose residual stream it belongs to, 0 to L.
    scale : float
        Median length of that stream at the answer position: the unit of strength.
    name : str
    """

    vector: np.ndarray
    layer: int
    scale: float
    name: str

    def push(self, strength: float) -> np.ndarray:
        """What a strength adds to the residual stream, ``[d_model]``."""
        return strength * self.scale * self.vector

    def at(self, layer: int, reading: Reading) -> Direction:
        """The same vector at another layer, with that layer's scale."""
        return replace(self, layer=layer, scale=reading.scale(layer))


def make_direction(vector, layer: int, reading: Reading, name: str) -> Direction:
    """Any vector ``[d_model]`` as a direction: brought to length 1, with the layer's scale.

    Raises
    ------
    ValueError
        If the reading did not keep the layer's residuals, or the vector is of another width, not
        finite, or zero.

    Examples
    --------
    >>> from calib import load_questions, open_model, read_layers
    >>> questions = load_questions("almanac", "validation", limit=5)
    >>> reading = read_layers(open_model("almanac"), questions, keep_residuals=[6])
    >>> direction = make_direction([2.0] + [0.0] * 127, 6, reading, "first coordinate")
    >>> direction.vector[:2].tolist(), direction.layer
    ([1.0, 0.0], 6)
    """
    vector, scale = np.asarray(vector, dtype=np.float64), reading.scale(layer)
    d_model = reading.residuals[layer].shape[1]
    if vector.shape != (d_model,):
        raise ValueError(
            f"{name} has shape {vector.shape}; a direction in this residual stream has ({d_model},)"
        )
    if not np.isfinite(vector).all():
        at = int((~np.isfinite(vector)).argmax())
        raise ValueError(f"{name}[{at}] is {vector[at]}; every entry must be finite")
    length = np.linalg.norm(vector)
    if length == 0:
        raise ValueError(f"{name} is zero, and zero points nowhere; a direction needs a length")
    return Direction(vector / length, layer, scale, name)


def correction_difference(reading: Reading, start: int, end: int) -> Direction:
    """Mean change of the residual stream from layer ``start`` to ``end``, at ``start``.

    Over the correction phase: what the upper layers add on average, given in advance. For models
    whose upper layers do little, take it from one where they do, or move it with
    :meth:`Direction.at`.

    Raises
    ------
    ValueError
        If ``start`` is not below ``end``, and as :func:`make_direction`.

    Examples
    --------
    >>> from calib import load_questions, open_model, read_layers
    >>> questions = load_questions("almanac", "validation", limit=100)
    >>> reading = read_layers(open_model("almanac"), questions, keep_residuals=[6, 8])
    >>> correction_difference(reading, 6, 8).layer
    6
    """
    if not start < end:
        raise ValueError(f"start is {start} and end is {end}; the phase must end after it starts")
    change = (reading.stream(end) - reading.stream(start)).mean(axis=0)
    return make_direction(change, start, reading, "correction difference")


def difference_in_means(reading: Reading, layer: int, n_bins: int = 10) -> Direction:
    """Difference in means: wrong answers less right ones, among answers of equal confidence.

    The last layer's confidence is cut into bins of equally many questions, the difference is taken
    in each bin that has both kinds, and averaged by the bins' sizes: what tells wrong from right
    beyond what the confidence says already. After the mean shift of [1]_, there for truthful
    against untruthful answers.

    Raises
    ------
    ValueError
        If fewer than 20 answers are right or fewer than 20 wrong, and as :func:`make_direction`.

    References
    ----------
    .. [1] Li et al., "Inference-time intervention: eliciting truthful answers from a language
       model", NeurIPS 2023.

    Examples
    --------
    >>> from calib import load_questions, open_model, read_layers
    >>> questions = load_questions("almanac", "validation", limit=200)
    >>> reading = read_layers(open_model("almanac-tuned"), questions, keep_residuals=[6])
    >>> difference_in_means(reading, 6).name
    'difference in means'
    """
    residuals = reading.stream(layer)
    confidence, right = confidence_and_correct(reading.probabilities[-1], reading.labels)
    for kind, count in (("right", right.sum()), ("wrong", (~right).sum())):
        if count < ENOUGH:
            raise ValueError(
                f"{count} of {len(reading)} answers are {kind}; a mean needs at least {ENOUGH}: "
                "use more questions"
            )
    index = bin_index(confidence, n_bins, "equal-mass")
    total = np.zeros(residuals.shape[1])
    for b in range(n_bins):
        here, wrong = residuals[index == b], ~right[index == b]
        if 0 < wrong.sum() < len(wrong):
            total += len(here) * (here[wrong].mean(axis=0) - here[~wrong].mean(axis=0))
    return make_direction(total, layer, reading, "difference in means")


def confidence_regression(reading: Reading, layer: int) -> Direction:
    """Ridge regression of the last layer's signed gap on a layer's residual stream.

    The gap of a question is its confidence minus 1 if the answer is right, minus 0 if it is wrong;
    the coefficients point to where answers are more confident than they deserve. The penalty is
    the one with the smallest leave-one-out error [1]_ on these questions.

    Raises
    ------
    ValueError
        If there are fewer than 20 questions, and as :func:`make_direction`.

    References
    ----------
    .. [1] Allen, "The relationship between variable selection and data augmentation and a method
       for prediction", Technometrics 16, 1974.

    Examples
    --------
    >>> from calib import load_questions, open_model, read_layers
    >>> questions = load_questions("almanac", "validation", limit=200)
    >>> reading = read_layers(open_model("almanac-tuned"), questions, keep_residuals=[6])
    >>> confidence_regression(reading, 6).name
    'confidence regression'
    """
    if len(reading) < ENOUGH:
        raise ValueError(f"{len(reading)} questions; a regression needs at least {ENOUGH}")
    x = reading.stream(layer)
    x = (x - x.mean(axis=0)) / reading.scale(layer)  # [questions, d_model]
    confidence, right = confidence_and_correct(reading.probabilities[-1], reading.labels)
    gap = confidence - right
    penalties = len(x) * np.logspace(-5, 1, 13)
    coefficients = RidgeCV(alphas=penalties).fit(x, gap).coef_  # by leaving one out
    return make_direction(coefficients, layer, reading, "confidence regression")


def random_direction(reading: Reading, layer: int, seed: int) -> Direction:
    """A direction drawn uniformly: the control that every candidate has to beat.

    Examples
    --------
    >>> from calib import load_questions, open_model, read_layers
    >>> questions = load_questions("almanac", "validation", limit=5)
    >>> reading = read_layers(open_model("almanac"), questions, keep_residuals=[6])
    >>> random_direction(reading, 6, seed=1).name
    'random 1'
    """
    d_model = reading.stream(layer).shape[1]
    vector = np.random.default_rng(seed).normal(size=d_model)
    return make_direction(vector, layer, reading, f"random {seed}")
