"""Logits as recalibration takes them: questions may differ in their number of options."""

from __future__ import annotations

import numpy as np

from calib.metrics.arrays import as_reals, first_place


def check_logits(logits) -> np.ndarray:
    """Float64 logits ``[..., options]``, or an error that says why not.

    A logit of -inf is an option that the question does not have: they end its row, of which two
    options at least are left.

    >>> check_logits([[1.0, 0.0, 2.0], [1.0, -np.inf, 2.0]])
    Traceback (most recent call last):
    ...
    ValueError: logits[1, 1] is -inf; only options that a question does not have are, at the end \
of its row: an option without a chance has a low logit
    """
    logits = as_reals("logits", logits, "[..., options]")
    if logits.ndim < 1 or logits.shape[-1] < 2:
        raise ValueError(
            f"logits have shape {logits.shape}; they must be [..., options], with at least 2 "
            "options"
        )
    if not logits.size:
        raise ValueError(
            f"logits have shape {logits.shape}; there is no question: check what selected them"
        )
    wrong = np.isnan(logits) | np.isposinf(logits)
    if wrong.any():
        at = first_place(wrong)
        raise ValueError(
            f"logits{list(at)} is {logits[at]}; logits must be finite: find where the model "
            "overflows, or run it in a wider type"
        )
    absent = np.isneginf(logits)
    wrong = absent[..., :-1] & ~absent[..., 1:]
    if wrong.any():
        raise ValueError(
            f"logits{list(first_place(wrong))} is -inf; only options that a question does not have "
            "are, at the end of its row: an option without a chance has a low logit"
        )
    if absent[..., 1].any():
        at = first_place(absent[..., 1])
        raise ValueError(
            f"logits{list(at)} have {np.isfinite(logits[at]).sum()} options that are not -inf; a "
            "question needs at least 2: leave the row out"
        )
    return logits


def count_present(logits) -> np.ndarray:
    """Options that each question has, int64 ``[...]``, of checked logits ``[..., options]``.

    >>> count_present(np.array([[1.0, 0.0, -np.inf], [1.0, 0.0, 2.0]])).tolist()
    [2, 3]
    """
    return np.isfinite(logits).sum(axis=-1)
