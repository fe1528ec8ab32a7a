"""What a model says that was trained with focal loss, turned back into what it means."""

from __future__ import annotations

import math

import numpy as np

from calib._checks import check_not_negative
from calib.metrics.arrays import as_reals
from calib.metrics.inputs import check


def focal_posterior(probabilities, gamma: float) -> np.ndarray:
    """The posterior at which given probabilities minimise the expected focal loss [1]_.

    So it undoes what focal loss does to a model that minimises it: the answers stay, and confidence
    becomes the chance of being right. With v the probabilities, the posterior is proportional to
    v / [(1-v)^γ - γ (1-v)^(γ-1) v log v].

    Parameters
    ----------
    probabilities : array_like ``[..., classes]``
        Not negative, each row sums to 1.
    gamma : float
        Of the focal loss, not negative; with 0 nothing changes.

    Returns
    -------
    float64 array ``[..., classes]``

    Raises
    ------
    TypeError, ValueError
        As :func:`calib.metrics.check`, or if γ is negative or not finite.

    References
    ----------
    .. [1] Charoenphakdee, Vongkulbhisal, Chairatanakul & Sugiyama, "On focal loss for
       class-posterior probability estimation: a theoretical perspective", CVPR 2021.

    Examples
    --------
    >>> focal_posterior([0.7, 0.3], gamma=3).round(3).tolist()
    [0.956, 0.044]
    """
    check_not_negative("gamma", gamma)
    v = np.atleast_1d(as_reals("probabilities", probabilities, "[..., classes]"))
    rows = v.reshape(math.prod(v.shape[:-1]), v.shape[-1])
    p, _ = check(rows, np.zeros(len(rows), dtype=np.int64))
    # 1 - v as the sum of the others would be no better: a row sums to 1 only so precisely.
    rest = np.maximum(1 - p, np.finfo(np.float64).eps)
    weight = rest**gamma - gamma * rest ** (gamma - 1) * p * np.log(np.where(p > 0, p, 1))
    posterior = p / weight
    return (posterior / posterior.sum(axis=-1, keepdims=True)).reshape(v.shape)
