"""How many options each question has, where probabilities of 0 do not tell."""

from __future__ import annotations

import numpy as np

from calib.metrics.arrays import as_integers, first_place


def check_n_options(n_options, p) -> np.ndarray:
    """Number of options of each question, int64 ``[questions]``; all columns where not given.

    Parameters
    ----------
    n_options : int or array_like of int ``[questions]``, optional
    p : float64 array ``[..., questions, options]``

    Raises
    ------
    TypeError, ValueError
        If a number is no integer from 2 to the number of columns, or an option beyond it has a
        probability other than 0.

    Examples
    --------
    >>> check_n_options([2, 3], np.array([[0.5, 0.5, 0.0], [0.5, 0.25, 0.25]])).tolist()
    [2, 3]
    """
    n_questions, n_columns = p.shape[-2:]
    if n_options is None:
        return np.full(n_questions, n_columns)
    counts = as_integers("n_options", n_options, "pass one for each question")
    if counts.shape not in ((), (n_questions,)):
        raise ValueError(
            f"n_options has shape {counts.shape}; it must be one integer, or one for each of the "
            f"{n_questions} questions"
        )
    counts = np.broadcast_to(counts, n_questions)
    outside = (counts < 2) | (counts > n_columns)
    if outside.any():
        at = int(outside.argmax())
        raise ValueError(
            f"n_options is {counts[at]} for question {at}; with {n_columns} columns it must be a "
            f"whole number from 2 to {n_columns}"
        )
    absent = np.arange(n_columns) >= counts[:, None]  # [questions, options]
    wrong = absent & (p != 0)
    if wrong.any():
        at = first_place(wrong)
        raise ValueError(
            f"probabilities{list(at)} is {p[at]:.6g}; question {at[-2]} has {counts[at[-2]]} "
            "options, and those beyond have probability 0: check the number of options"
        )
    return counts.astype(np.int64)
