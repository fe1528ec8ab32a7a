"""What focal loss asks for: how hard it pushes, and what its minimiser says of the posterior."""

from __future__ import annotations

import numpy as np
from scipy.special import lambertw

from calib.losses import check_not_negative
from calib.metrics import check


def principled_gamma(probability: float) -> float:
    """The γ at which focal loss stops pushing a label harder than cross-entropy does [1]_.

    Their gradients differ by the factor (1-p)^γ - γ p (1-p)^(γ-1) log p. It is 1 at γ = 0, above 1
    for small γ, and 1 again at the γ given here.

    Parameters
    ----------
    probability : float
        Of the label, above 0, at most 1/2: beyond, the factor is below 1 for every γ > 0.

    Returns
    -------
    float
        Not negative.

    Raises
    ------
    ValueError
        If the probability is out of range.

    References
    ----------
    .. [1] Mukhoti et al., "Calibrating deep neural networks using focal loss", NeurIPS 2020,
       arXiv:2002.09437. The closed form is derived here: with x = 1 - p - γ p log p the condition
       reads x (1-p)^(γ-1) = 1, which the lower branch of Lambert's W solves.

    Examples
    --------
    >>> round(principled_gamma(0.2), 3), round(principled_gamma(0.25), 3)
    (4.851, 3.07)
    """
    if not 0 < probability <= 0.5:
        raise ValueError(
            f"probability is {probability}; it must be above 0 and at most 0.5: beyond, focal loss "
            "pushes less than cross-entropy for every gamma above 0"
        )
    rest, slope = 1 - probability, -probability * np.log(probability)
    # rest + γ slope = rest^(1-γ). In u = -log(rest) (rest / slope + γ) it is -u exp(-u) = k below.
    decay = -np.log(rest)
    k = -decay / slope * rest ** (1 + rest / slope)
    k = max(k, np.nextafter(-1 / np.e, 0))  # at 1/2 it is -1/e, where W is not found
    return float(-lambertw(k, -1).real / decay - rest / slope)


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
    v = np.atleast_1d(probabilities)
    rows = v.reshape(-1, v.shape[-1])
    p, _ = check(rows, np.zeros(len(rows), dtype=np.int64))
    # 1 - v as the sum of the others would be no better: a row sums to 1 only so precisely.
    rest = np.maximum(1 - p, np.finfo(np.float64).eps)
    weight = rest**gamma - gamma * rest ** (gamma - 1) * p * np.log(np.where(p > 0, p, 1))
    posterior = p / weight
    return (posterior / posterior.sum(axis=-1, keepdims=True)).reshape(v.shape)
