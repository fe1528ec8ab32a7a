"""Confidence from the agreement of sampled answers: it needs no probabilities, only the answers.

The answer is the most frequent one, and how far the samples agree on it is the confidence. All
three measures are after Lyu et al., AAAI 2025; none is by itself the chance of being right.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

Answers: TypeAlias = ArrayLike
"""Sampled answers, array_like of str or int ``[questions, samples]``, at least 1 sample.

What is none is refused with a TypeError or ValueError.
"""


def majority(answers: Answers) -> np.ndarray:
    """The most frequent answer to each question; of equally frequent ones that drawn first.

    The rule for ties is a choice: the first drawn is any of the tied answers with equal chance,
    where the first in the alphabet would be preferred always.

    Returns
    -------
    array ``[questions]``
        Of the type of ``answers``.

    Examples
    --------
    >>> majority([["owl", "fox", "owl"], ["owl", "fox", "elk"]]).tolist()
    ['owl', 'owl']
    """
    answers = _check(answers)
    tally = _tally(answers)
    return answers.ravel()[tally.place[tally.top]]


def agreement(answers: Answers) -> np.ndarray:
    """Share of the samples that give the most frequent answer [1]_.

    Too high on average for few samples: the answer that chance favoured is the one that is chosen.

    Returns
    -------
    float64 array ``[questions]``, 1/samples to 1

    References
    ----------
    .. [1] Lyu et al., "Calibrating large language models with sample consistency", AAAI 2025.

    Examples
    --------
    >>> agreement([list("AAAAAABBBC"), list("AAAAABBBBB")]).tolist()
    [0.6, 0.5]
    """
    answers = _check(answers)
    tally = _tally(answers)
    return tally.count[tally.top] / answers.shape[1]


def first_second_distance(answers: Answers) -> np.ndarray:
    """How much more frequent the most frequent answer is than the next, in shares of samples.

    Returns
    -------
    float64 array ``[questions]``, 0 to 1
        1 where all samples agree.

    Examples
    --------
    >>> first_second_distance([list("AAAAAABBBC"), list("AAAAABBBBB")]).tolist()
    [0.3, 0.0]
    """
    answers = _check(answers)
    tally = _tally(answers)
    # Behind the only answer of the last question there is nothing; a 0 stands for it.
    next_count = np.append(tally.count, 0)[tally.top + 1]
    second = np.where(tally.n_distinct > 1, next_count, 0)
    return (tally.count[tally.top] - second) / answers.shape[1]


def entropy_consistency(answers: Answers) -> np.ndarray:
    """1 less the entropy of the answers' shares, in units of the largest that so many could have.

    1 - H / log(number of different answers). The unit is the question's own: two answers of equal
    share give 0, and so do twenty.

    Returns
    -------
    float64 array ``[questions]``, 0 to 1
        1 where all samples agree, 0 where all different answers are equally frequent.

    Examples
    --------
    >>> entropy_consistency([list("AAAAAABBBC"), list("AAAAABBBBB")]).round(6).tolist()
    [0.182655, 0.0]
    """
    answers = _check(answers)
    tally = _tally(answers)
    share = tally.count / answers.shape[1]
    entropy = np.bincount(tally.question, -share * np.log(share))
    largest = np.log(np.maximum(tally.n_distinct, 2))  # of one answer the entropy is 0
    return np.clip(1 - entropy / largest, 0, 1)  # rounding


class _Tally(NamedTuple):
    """Each different answer to each question, by question and falling count, then as drawn.

    ``question``, ``count`` and ``place``, where among all samples it is first, are
    ``[different answers]``; ``top``, the most frequent one's index among them, and ``n_distinct``
    are ``[questions]``.
    """

    question: np.ndarray
    count: np.ndarray
    place: np.ndarray
    top: np.ndarray
    n_distinct: np.ndarray


def _tally(answers) -> _Tally:
    kinds, kind = np.unique(answers, return_inverse=True)
    at_question = np.arange(len(answers))[:, None] * len(kinds)
    cells = at_question + kind.reshape(answers.shape)  # one number for each question's each answer
    _, place, count = np.unique(cells.ravel(), return_index=True, return_counts=True)
    question = place // answers.shape[1]
    order = np.lexsort((place, -count, question))
    n_distinct = np.bincount(question)
    top = np.cumsum(n_distinct) - n_distinct
    return _Tally(question, count[order], place[order], top, n_distinct)


def _check(answers) -> np.ndarray:
    answers = np.asarray(answers)
    if answers.dtype.kind not in "Uiu":
        raise TypeError(
            f"answers are {answers.dtype}; they must be text or integers: "
            "convert them, with astype(str) if nothing else"
        )
    if answers.ndim != 2 or 0 in answers.shape:
        raise ValueError(
            f"answers have shape {answers.shape}; they must be [questions, samples], at least one "
            "of each: one question is answers[None]"
        )
    return answers
