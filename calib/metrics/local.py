"""Calibration among similar questions: similar in confidence, and in what the model holds of them.

Similarity is a kernel on features, such as residual streams, reduced by principal components.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calib._checks import check_count, check_positive
from calib.metrics.bins import bin_index
from calib.metrics.inputs import (
    Features,
    Labels,
    Probabilities,
    check_features,
    check_with_features,
    top,
)

BLOCK = 2**22  # kernel values held at once, 32 MB


@dataclass(frozen=True)
class Projection:
    """Principal components of features, in units of the first one's standard deviation.

    One unit for all components is a choice: it keeps the shape of the cloud, where a unit each
    would give components of noise as much say as those that carry the most. Distances of projected
    features do not change with the origin or the scale of the features, nor with a rotation of
    them unless components vary equally.

    Attributes
    ----------
    mean : float64 array ``[d]``
    axes : float64 array ``[d, components]``
        Principal directions divided by the unit.
    """

    mean: np.ndarray
    axes: np.ndarray

    @classmethod
    def fit(cls, features, n_components: int | None = None) -> Projection:
        """The components of these features, to project others with.

        Parameters
        ----------
        features : array_like ``[questions, d]``
        n_components : int, optional
            At most d and the number of questions; left out, the lesser of the two.

        Raises
        ------
        TypeError, ValueError
            If the features are not finite ``[questions, d]`` or the same for all questions, or
            ``n_components`` is out of range.

        Examples
        --------
        >>> projection = Projection.fit([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]], n_components=1)
        >>> abs(projection([[4.0, 5.0]])).tolist()
        [[2.0]]
        """
        from sklearn.decomposition import PCA

        features = check_features(features)
        most = min(features.shape)
        n_components = most if n_components is None else check_count("n_components", n_components)
        if n_components > most:
            raise ValueError(
                f"n_components is {n_components}; features of shape {features.shape} have at most "
                f"{most}: lower it, or pass None to keep all"
            )
        if not np.ptp(features, axis=0).any():
            raise ValueError(
                "features are the same for all questions; nothing tells which are alike: pass "
                "another layer's"
            )
        pca = PCA(n_components, random_state=0).fit(features)
        unit = np.sqrt(pca.explained_variance_[0])
        return cls(pca.mean_, pca.components_.T / unit)

    def __call__(self, features) -> np.ndarray:
        """Projected features, float64 ``[questions, components]``."""
        features = check_features(features)
        if features.shape[1] != len(self.mean):
            raise ValueError(
                f"features have {features.shape[1]} columns, those this was fitted on "
                f"{len(self.mean)}; pass the same layer's"
            )
        return (features - self.mean) @ self.axes


def kernel(a, b, gamma: float) -> np.ndarray:
    """Similarity 0 to 1 of each row of a to each row of b, exp(-‖a - b‖₁ / (d γ)).

    Parameters
    ----------
    a : float array ``[m, d]``
    b : float array ``[n, d]``
    gamma : float
        Above 0, infinity allowed: the mean distance per dimension over which similarity falls to
        1/e.

    Returns
    -------
    float64 array ``[m, n]``

    Raises
    ------
    TypeError, ValueError
        If a or b is not finite ``[questions, d]`` of the same d, or ``gamma`` is out of range.

    Examples
    --------
    >>> kernel([[0.0, 0.0]], [[0.0, 0.0], [0.2, 0.2]], gamma=0.2).round(4).tolist()
    [[1.0, 0.3679]]
    """
    from scipy.spatial.distance import cdist

    a, b = check_features(a), check_features(b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"a has {a.shape[1]} columns, b {b.shape[1]}; they must be of the same features"
        )
    check_positive("gamma", gamma, 0.2)
    return np.exp(cdist(a, b, "cityblock") / (-a.shape[1] * gamma))


def local_calibration_error(
    probabilities: Probabilities,
    labels: Labels,
    features: Features,
    gamma: float = 0.2,
    n_bins: int = 15,
    n_components: int | None = 3,
) -> np.ndarray:
    """Calibration error around every question: LCE of Luo et al. [1]_.

    Of the questions i in the bin of question x, by their similarity k to it,

        LCE(x) = |Σ k(x, i) (confidence_i - correct_i)| / Σ k(x, i),

    with k the :func:`kernel` on the features' :class:`Projection`. As γ grows it becomes the
    |confidence - accuracy| of the bin, as γ falls the |confidence - correct| of the question
    itself, which is one of its own neighbours. Chance deviations add to it, most where γ is small.

    After [1]_, whose kernel this is; choices are the equal-width bins, how many components are
    kept (there of PCA or t-SNE), and their unit, which gives γ its meaning. Distances are means
    over components, so that late ones, which vary little, bring all questions closer together:
    with many, γ must be lower for the same neighbourhoods. Few are kept, so that a neighbourhood
    is one; :class:`calib.recalibration.LoRe` has the same γ and number of components.

    Parameters
    ----------
    gamma : float
        Above 0, in standard deviations of the first component.
    n_bins : int
        Bins of equal width, (lo, hi], 0 in the first.
    n_components : int or None
        None for all; at most the columns of the features, and the questions.

    Returns
    -------
    float64 array ``[questions]``, 0 to 1
        Takes time with the square of the questions in a bin.

    Raises
    ------
    TypeError, ValueError
        As :func:`calib.metrics.check` and :meth:`Projection.fit`, or if another argument is out of
        range.

    References
    ----------
    .. [1] Luo et al., "Local calibration: metrics and recalibration", UAI 2022, arXiv 2102.10809.

    Examples
    --------
    >>> p, x = [[0.75, 0.25]] * 4, [[0.0], [0.0], [9.0], [9.0]]
    >>> local_calibration_error(p, [0, 0, 1, 1], x, n_components=1).round(3).tolist()
    [0.25, 0.25, 0.75, 0.75]
    """
    p, labels, features = check_with_features(probabilities, labels, features)
    n_bins = check_count("n_bins", n_bins)
    check_positive("gamma", gamma, 0.2)
    x = Projection.fit(features, n_components)(features)
    confidence, correct = top(p, labels)
    index = bin_index(confidence, n_bins)
    error = np.empty(len(x))
    for b in np.unique(index):
        members = np.flatnonzero(index == b)
        gap = (confidence - correct)[members]
        for block in np.array_split(members, -(-(len(members) ** 2) // BLOCK)):
            k = kernel(x[block], x[members], gamma)  # [block, members]
            error[block] = np.abs(k @ gap) / k.sum(axis=1)
    return error


def mlce(
    probabilities: Probabilities,
    labels: Labels,
    features: Features,
    gamma: float = 0.2,
    n_bins: int = 15,
    n_components: int | None = 3,
) -> float:
    """Maximum local calibration error: the largest of :func:`local_calibration_error`.

    It takes what that takes. As γ grows it becomes :func:`calib.metrics.mce` of the same bins; as
    that, it is a maximum of noisy numbers, and lonely questions dominate it where γ is small.

    Examples
    --------
    >>> p, x = [[0.75, 0.25]] * 4, [[0.0], [0.0], [9.0], [9.0]]
    >>> round(mlce(p, [0, 0, 1, 1], x, n_components=1), 3)
    0.75
    """
    return float(
        local_calibration_error(probabilities, labels, features, gamma, n_bins, n_components).max()
    )
