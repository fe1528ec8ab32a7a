"""Confidences that are no option probabilities, in the form that every metric takes."""

from __future__ import annotations

import numpy as np

from calib.metrics.arrays import as_array, as_reals

LEAST = 0.001  # a confidence of c takes some 1 / c options


def from_pairs(confidence, correct) -> tuple[np.ndarray, np.ndarray]:
    """Option probabilities and labels that say the same as confidences and right or wrong.

    For confidence from elsewhere, such as the agreement of sampled answers or a percentage that a
    model wrote: option 0 has the confidence, as many others as are needed share the rest evenly,
    and the label is 0 where the answer was right. Metrics of the answer's confidence (accuracy,
    confidence, gap, ECE, MCE, AUROC, AURC, AUSE and the Brier decomposition) are then those of the
    pairs; metrics of all options, such as NLL, mean nothing here.

    Parameters
    ----------
    confidence : array_like ``[..., questions]``
        0.001 to 1; the lower the least, the more options are needed.
    correct : array_like of bool ``[questions]``

    Returns
    -------
    probabilities : float64 array ``[..., questions, options]``
    labels : int64 array ``[questions]``

    Raises
    ------
    TypeError, ValueError
        If a confidence is out of range, or right and wrong are not bool ``[questions]``.

    Examples
    --------
    >>> p, labels = from_pairs([0.75, 0.75], [True, False])
    >>> p.tolist(), labels.tolist()
    ([[0.75, 0.25], [0.75, 0.25]], [0, 1])
    """
    confidence = as_reals("confidences", confidence, "[..., questions]")
    correct = as_array("correct", correct)
    if correct.dtype != bool:
        raise TypeError(f"correct is {correct.dtype}; it must be bool: right or wrong")
    if correct.ndim != 1 or confidence.shape[-1:] != correct.shape:
        raise ValueError(
            f"confidence has shape {confidence.shape}, correct {correct.shape}; they must be "
            "[..., questions] and [questions]"
        )
    outside = ~((confidence >= LEAST) & (confidence <= 1))
    if outside.any():
        raise ValueError(
            f"confidence holds {confidence[outside][0]}; it must lie between {LEAST} and 1, for an "
            f"answer has some chance: raise lower ones by np.maximum(confidence, {LEAST}), divide "
            "percentages by 100"
        )
    # Each of the others has less than the least confidence, so that option 0 is the answer.
    n_others = int(1 / confidence.min(initial=1))
    each = (1 - confidence[..., None]) / n_others
    others = np.broadcast_to(each, (*confidence.shape, n_others))
    return np.concatenate([confidence[..., None], others], axis=-1), (~correct).astype(np.int64)
