"""Local recalibration: the accuracy of similar questions, of about the same confidence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from scipy.spatial.distance import cdist

from calib._checks import check_count, check_positive
from calib.metrics.local import BLOCK, Projection
from calib.recalibration.top_label import TopLabel, equal_mass_edges


@dataclass(eq=False)
class LoRe(TopLabel):
    """The confidence becomes the accuracy around the question, on the calibration split [1]_.

    Of the calibration questions i in the bin of question x, by their similarity k to it,

        confidence(x) = Σ k(x, i) correct_i / Σ k(x, i),

    with k the :func:`calib.metrics.kernel` on the features'
    :class:`calib.metrics.Projection`. As γ grows this becomes
    :class:`~calib.recalibration.HistogramBinning` of as many bins, as γ falls the nearest
    question of the bin decides alone, right or wrong. Few components are kept, so that a
    neighbourhood is one: with many, all distances come close to each other, and a γ of .2 is as
    good as infinite. Never judge it on the questions it was fitted on: each is its own nearest.

    After [1]_; choices are the bins of equal mass, how many components are kept (there of PCA or
    t-SNE), their unit, which gives γ its meaning, and the defaults, of which γ and the number of
    components are those of :func:`calib.metrics.local_calibration_error`.

    Parameters
    ----------
    gamma : float
        Above 0, infinity allowed, in standard deviations of the features' first component.
    n_bins : int
        At most as many as there are calibration questions.
    n_components : int or None
        At most as many as there are features and calibration questions; None for the lesser of
        the two.

    References
    ----------
    .. [1] Luo et al., "Local calibration: metrics and recalibration", UAI 2022, arXiv 2102.10809.

    Examples
    --------
    >>> logits, x = [[1.0, 0.0]] * 4, [[0.0], [0.0], [9.0], [9.0]]
    >>> method = LoRe(n_bins=1, n_components=1).fit(logits, [0, 0, 0, 1], x)
    >>> method([[1.0, 0.0]] * 2, [[0.0], [9.0]]).max(axis=1).round(2).tolist()
    [1.0, 0.5]
    """

    needs_features: ClassVar[bool] = True

    gamma: float = 0.2
    n_bins: int = 5
    n_components: int | None = 3
    edges: np.ndarray = field(init=False, repr=False, default=None)
    projection: Projection = field(init=False, repr=False, default=None)
    points: np.ndarray = field(init=False, repr=False, default=None)
    bins: np.ndarray = field(init=False, repr=False, default=None)
    correct: np.ndarray = field(init=False, repr=False, default=None)

    def __post_init__(self):
        check_positive("gamma", self.gamma, 0.2)
        check_count("n_bins", self.n_bins)
        if self.n_components is not None:
            check_count("n_components", self.n_components)

    def _count(self):
        of_projection = self.projection.mean.size + self.projection.axes.size
        of_questions = self.points.size + self.bins.size + self.correct.size
        return self.edges.size + of_projection + of_questions

    def _fit_confidence(self, confidence, correct, features):
        self.edges = equal_mass_edges(confidence, self.n_bins)
        self.projection = Projection.fit(features, self.n_components)
        self.points = self.projection(features)  # [questions, components]
        self.bins = np.searchsorted(self.edges, confidence)
        self.correct = correct.astype(np.float64)

    def _recalibrate(self, confidence, features):
        bins, points = np.searchsorted(self.edges, confidence), self.projection(features)
        accuracy = np.empty(len(points))
        for b in np.unique(bins):
            asked, known = np.flatnonzero(bins == b), self.bins == b
            n_blocks = -(-len(asked) * known.sum() // BLOCK)
            for block in np.array_split(asked, n_blocks):
                weight = _weights(points[block], self.points[known], self.gamma)
                accuracy[block] = weight @ self.correct[known] / weight.sum(axis=1)
        return np.minimum(accuracy, 1)  # past which rounding may take it


def _weights(a, b, gamma: float) -> np.ndarray:
    """The kernel's values ``[m, n]`` over each row's largest: far from all they would all be 0."""
    distance = cdist(a, b, "cityblock")
    distance -= distance.min(axis=1, keepdims=True)
    return np.exp(distance / (-a.shape[1] * gamma))
