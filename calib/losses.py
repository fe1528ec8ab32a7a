"""Training losses that promise calibration, and the exponent of focal loss.

Each loss takes logits, a float tensor ``[..., classes]``, and labels, an int64 tensor ``[...]`` of
class indices from 0, and returns their mean loss, a tensor ``[]`` that is not negative. It raises
TypeError or ValueError where one of them, or a parameter, is of another type, shape or range, or
there are no labels. Brier's loss is proper, as cross-entropy is: in expectation the true posterior
minimises it. Focal loss is not.

A logit of -inf is a class without a chance.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import lambertw
from torch.nn.functional import logsigmoid, one_hot

from calib._checks import check_not_negative

__all__ = [
    "brier_loss", "focal_calibration_loss", "focal_loss", "focal_loss_sd", "principled_gamma",
]  # fmt: skip


def brier_loss(logits, labels):
    """Brier score of the softmax: squared distance to the label, summed over classes [1]_.

    From 0 to 2, as :func:`calib.metrics.brier` of the same probabilities.

    References
    ----------
    .. [1] Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather
       Review 78, 1950.

    Examples
    --------
    >>> brier_loss(torch.zeros(1, 2), torch.tensor([0])).item()
    0.5
    """
    _check(logits, labels)
    return _distances(logits, labels).square().sum(-1).mean()


def focal_loss(logits, labels, gamma: float):
    """Cross-entropy, each label's weighted by (1 - p)^γ: less, the more probable it is [1]_.

    With γ = 0 it is cross-entropy. With γ > 0 it is not proper: its minimiser is less confident
    than the posterior where this is confident; see
    :func:`calib.recalibration.focal_posterior`.

    Parameters
    ----------
    gamma : float
        Not negative and finite, as all parameters here.

    References
    ----------
    .. [1] Lin, Goyal, Girshick, He & Dollár, "Focal loss for dense object detection", ICCV 2017,
       equation 4.

    Examples
    --------
    >>> round(focal_loss(torch.zeros(1, 2), torch.tensor([0]), gamma=1).item(), 6)
    0.346574
    """
    _check(logits, labels)
    check_not_negative("gamma", gamma)
    return _focal(_margins(logits, labels), gamma).mean()


def focal_loss_sd(
    logits, labels, *, threshold: float = 0.2, gamma_below: float = 5, gamma_above: float = 3
):
    """Focal loss whose γ depends on each sample's label probability; by default FLSD-53 [1]_.

    No gradient flows through the choice of γ. As a function of the probability the loss jumps at
    the threshold, upwards where ``gamma_below`` is the larger: a sample is weighted less just below
    it than just above.

    Parameters
    ----------
    threshold : float
        0 to 1; labels less probable than it are given ``gamma_below``, all others ``gamma_above``.
    gamma_below, gamma_above : float
        Not negative.

    References
    ----------
    .. [1] Mukhoti et al., "Calibrating deep neural networks using focal loss", NeurIPS 2020,
       arXiv:2002.09437.

    Examples
    --------
    >>> round(focal_loss_sd(torch.zeros(1, 2), torch.tensor([0])).item(), 6)
    0.086643
    """
    _check(logits, labels)
    check_not_negative("gamma_below", gamma_below)
    check_not_negative("gamma_above", gamma_above)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; it is a probability, 0 to 1")
    margins = _margins(logits, labels)
    below = margins.detach().sigmoid() < threshold
    gammas = torch.full_like(margins, gamma_above).masked_fill(below, gamma_below)
    return _focal(margins, gammas).mean()


def focal_calibration_loss(logits, labels, gamma: float, weight: float, squared: bool = True):
    """Focal loss plus a weighted distance of the softmax to the label, after [1]_.

    After the paper's abstract, in which focal loss is joined by a Euclidean, strictly proper term.
    The square, which makes it proper, is a choice here; so are the weight and γ.

    Parameters
    ----------
    gamma : float
        Of the focal loss, not negative.
    weight : float
        Of the distance, not negative; with 0 this is focal loss.
    squared : bool
        Add Brier's loss, which is proper; else the mean of its square roots, which is not.

    References
    ----------
    .. [1] Liang et al., "Calibrating deep neural network using Euclidean distance",
       arXiv:2410.18321.

    Examples
    --------
    >>> loss = focal_calibration_loss(torch.zeros(1, 2), torch.tensor([0]), gamma=1, weight=2)
    >>> round(loss.item(), 6)
    1.346574
    """
    _check(logits, labels)
    check_not_negative("gamma", gamma)
    check_not_negative("weight", weight)
    distances = _distances(logits, labels)
    # The norm, unlike the root of a sum of squares, has a gradient where the distance is 0.
    far = distances.square().sum(-1) if squared else torch.linalg.vector_norm(distances, dim=-1)
    return (_focal(_margins(logits, labels), gamma) + weight * far).mean()


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


def _margins(logits, labels):
    """The label's logit above the log-sum-exp of all others: the log odds of the label ``[...]``.

    With them p and 1 - p both keep their digits, however large the logits are.
    """
    at = labels[..., None]
    # Where no other class has a chance the log odds stay finite, else γ = 0 would make them nan.
    finite = logits.clamp(min=torch.finfo(logits.dtype).min)
    others = finite.scatter(-1, at, -torch.inf).logsumexp(-1)
    return logits.gather(-1, at)[..., 0] - others


def _focal(margins, gamma):
    return -torch.exp(gamma * logsigmoid(-margins)) * logsigmoid(margins)


def _distances(logits, labels):
    """Probabilities less the one-hot label ``[..., classes]``."""
    return logits.softmax(-1) - one_hot(labels, logits.shape[-1]).to(logits.dtype)


def _check(logits, labels) -> None:
    for name, tensor in (("logits", logits), ("labels", labels)):
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name} are {type(tensor).__name__}; they must be torch tensors")
    if not logits.is_floating_point():
        raise TypeError(f"logits are {logits.dtype}; they must be of a floating-point type")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels are {labels.dtype}; they must be class indices, torch.int64")
    if labels.shape != logits.shape[:-1] or not labels.numel():
        raise ValueError(
            f"logits have shape {list(logits.shape)}, labels {list(labels.shape)}; they must be "
            "[..., classes] and [...], with one label or more"
        )
    if (n_classes := logits.shape[-1]) < 2:
        raise ValueError(f"logits have {n_classes} classes in their last axis; give at least 2")
    low, high = (int(extreme) for extreme in labels.aminmax())
    if low < 0 or high >= n_classes:
        raise ValueError(
            f"labels run from {low} to {high}; with {n_classes} classes they must be from 0 to "
            f"{n_classes - 1}: leave out what is not to be learned before"
        )
    largest = logits.amax(-1)
    if not largest.isfinite().all():
        raise ValueError(
            f"the largest logit of a row is {largest[~largest.isfinite()][0].item()}; it must be "
            "finite: find where the model overflows"
        )
