"""Random mixtures of subjects: what a user may ask, where nobody knows of which subjects."""

from __future__ import annotations

import numpy as np

from calib._checks import check_count, check_real
from calib.metrics.arrays import as_array

LEAST = 1e-300  # chance of a question whose subject has no weight, so that all can be drawn


def draw_mixtures(
    subjects, n_questions: int, n_mixtures: int, concentration: float = 0.1, seed: int = 0
) -> np.ndarray:
    """Questions of random mixtures of subjects, without replacement inside each.

    Parameters
    ----------
    subjects : array_like of str ``[questions]``
    n_questions : int
        Of each mixture; where a subject has none left, the others take its place.
    n_mixtures : int
    concentration : float
        Above 0; of the Dirichlet distribution of a mixture's weights. Low values give mixtures of
        few subjects, high ones equal shares of all.
    seed : int

    Returns
    -------
    int64 array ``[mixtures, n_questions]``
        Indices of questions, each row in random order.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range or there are not enough questions.

    Examples
    --------
    >>> draw_mixtures(["law", "law", "history", "law"], n_questions=3, n_mixtures=2).shape
    (2, 3)
    """
    subjects = as_array("subjects", subjects)
    if subjects.ndim != 1:
        raise ValueError(f"subjects have shape {subjects.shape}; they must be [questions]")
    n_questions = check_count("n_questions", n_questions)
    n_mixtures = check_count("n_mixtures", n_mixtures)
    if n_questions > len(subjects):
        raise ValueError(
            f"a mixture is to have {n_questions} questions, there are {len(subjects)}; draw fewer "
            "examples, or fewer that are judged"
        )
    check_concentration(concentration)
    names, index, count = np.unique(subjects, return_inverse=True, return_counts=True)
    rng = np.random.default_rng(seed)
    drawn = np.empty((n_mixtures, n_questions), dtype=np.int64)
    for i in range(n_mixtures):
        weight = rng.dirichlet(np.full(len(names), concentration))
        chance = np.maximum(weight[index] / count[index], LEAST)
        chosen = rng.choice(len(subjects), n_questions, replace=False, p=chance / chance.sum())
        drawn[i] = rng.permutation(chosen)
    return drawn


def check_concentration(concentration) -> None:
    """Refuse what no Dirichlet distribution has."""
    check_real("concentration", concentration)
    if not 0 < concentration < np.inf:
        raise ValueError(f"concentration is {concentration}; it must be above 0, such as 0.1")
