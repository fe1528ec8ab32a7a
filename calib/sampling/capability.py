"""How likely a model is to solve a question when it answers by drawing from its distribution.

Calibration usually asks whether confidence is the chance that one given answer is right. A model
that draws its answers has a **capability** μ for each question, the share of its answers that are
right, and one can ask whether confidence is *that* number: it says how many of k attempts
succeed, and on which questions attempts are worth while.

For a question with lettered options answered at temperature 1 nothing has to be sampled: μ is the
probability of the right option. Where the truth is known, "right" may also mean *the* entry rather
than what one copy recorded: then μ is the probability of the option of largest posterior.
"""

from __future__ import annotations

import heapq

import numpy as np
from scipy.special import xlog1py

from calib._checks import check_count
from calib.metrics.intervals import plain


def pass_at_k(n: int, c, k: int):
    """Unbiased estimate of the chance that at least one of k answers is right.

    1 - C(n - c, k) / C(n, k): the share, among all ways of choosing k of the n sampled answers, of
    those with a right one [1]_. Multiplied out factor by factor, no large number appears.

    Parameters
    ----------
    n : int
        Answers sampled to each question.
    c : array_like of int ``[...]``
        How many of them are right, 0 to n.
    k : int
        1 to n.

    Returns
    -------
    float, or float64 array of the shape of ``c``, 0 to 1

    Raises
    ------
    TypeError, ValueError
        If a number is no integer or out of range.

    References
    ----------
    .. [1] Chen et al., "Evaluating large language models trained on code", arXiv 2107.03374,
       equation 1.

    Examples
    --------
    >>> round(pass_at_k(10, 3, 5), 6), pass_at_k(10, [0, 5, 10], 1).tolist()
    (0.916667, [0.0, 0.5, 1.0])
    """
    n, k, c = check_count("n", n), check_count("k", k), np.asarray(c)
    if k > n:
        raise ValueError(f"k is {k}, n is {n}; of n answers at most n can be chosen")
    if c.dtype.kind not in "iu":
        raise TypeError(f"c is {c.dtype}; it must count right answers, in integers")
    if ((c < 0) | (c > n)).any():
        raise ValueError(f"c runs from {c.min()} to {c.max()}; it must lie between 0 and n, {n}")
    drawn = np.arange(k)
    wrong = np.maximum(n - c[..., None] - drawn, 0)  # wrong answers left after as many are drawn
    return plain(1 - np.prod(wrong / (n - drawn), axis=-1))


def expected_pass_at_k(chance, k):
    """Chance that at least one of k answers is right: 1 - (1 - p)^k, if each is with chance p.

    Exact for a known p. Where p is estimated it is not, for the curve is concave in p. A share of n
    samples in its place gives too little on average: use :func:`pass_at_k`. One mean p for
    different questions gives too much: take the mean over questions last. A calibrated confidence
    is such a mean, over all questions of this confidence, and gives too much as well.

    Parameters
    ----------
    chance : array_like ``[...]``, 0 to 1
    k : int or array_like of int
        At least 0; of a shape that broadcasts with ``chance``.

    Returns
    -------
    float, or float64 array of the common shape, 0 to 1

    Raises
    ------
    TypeError, ValueError
        If a chance is outside 0 to 1, or k no integer of at least 0.

    Examples
    --------
    >>> expected_pass_at_k(0.5, [0, 1, 2]).tolist()
    [0.0, 0.5, 0.75]
    >>> float(expected_pass_at_k([0.0, 1.0], 3).mean()), expected_pass_at_k(0.5, 3)
    (0.5, 0.875)
    """
    chance, k = _check_chances("chance", chance), np.asarray(k)
    if k.dtype.kind not in "iu":
        raise TypeError(f"k is {k.dtype}; it must count answers, in integers")
    if (k < 0).any():
        raise ValueError(f"k is {k.min()} at its least; it must not be negative")
    # (1 - p)^k by its logarithm: next to 1, a small p would lose its digits.
    return plain(0 - np.expm1(xlog1py(k, -chance)))


def capability_brier(confidence, correct):
    """Mean squared distance of confidence from capability, estimated without bias from samples.

    The mean over questions of (c - m)² - m (1 - m) / (k - 1), where m of the k samples, as a share,
    are right [1]_: the second term is what the chance of k samples alone adds to the first. It is
    unbiased only for a confidence that was not computed from these samples: of the share m of five
    itself it makes -.04 where .04 is true, for capabilities drawn from Beta(2, 2). The Brier score
    of confidence against single answers is larger by the mean of μ (1 - μ), which no confidence can
    avoid. The correction is elementary and ours; the target is after the paper.

    Parameters
    ----------
    confidence : array_like ``[..., questions]``, 0 to 1
        Not from the samples in ``correct``: for the agreement of answers, draw others to judge it.
    correct : array_like of bool ``[questions, samples]``
        At least 2 samples; shared by all leading axes.

    Returns
    -------
    float, or float64 array of the leading shape
        -1 to 1: below 0 by chance alone, for confidence close to capability.

    Raises
    ------
    TypeError, ValueError
        If shapes, types or ranges are wrong.

    References
    ----------
    .. [1] Yang et al., "On calibration of large language models: from response to capability",
       arXiv 2602.13540.

    Examples
    --------
    >>> correct = [[True, True, False, False]] * 2
    >>> round(capability_brier([0.5, 1.0], correct), 6)
    0.041667
    """
    confidence, correct = _check_chances("confidence", confidence), np.asarray(correct)
    if correct.dtype != bool:
        raise TypeError(f"correct is {correct.dtype}; it must be bool: right or wrong")
    if correct.ndim != 2 or not len(correct) or correct.shape[1] < 2:
        raise ValueError(
            f"correct has shape {correct.shape}; it must be [questions, samples], of at least 2 "
            "samples: one cannot tell chance from capability"
        )
    if confidence.shape[-1:] != correct.shape[:1]:
        raise ValueError(
            f"confidence has shape {confidence.shape}, correct {correct.shape}; the last axis of "
            "confidence must be the questions"
        )
    share = correct.mean(axis=1)
    chance_adds = share * (1 - share) / (correct.shape[1] - 1)
    return plain(((confidence - share) ** 2 - chance_adds).mean(axis=-1))


def allocate(chance, budget: int) -> np.ndarray:
    """How many answers to draw for each question so that most questions are expected solved.

    A question counts as solved if one of its answers is right. Each next answer goes where it adds
    most, p (1 - p)^j after j answers [1]_. What it adds falls with j, so that this is optimal for
    chances that are true [2]_. Of equal questions the first come first.

    Parameters
    ----------
    chance : array_like ``[questions]``, 0 to 1
        That one answer is right; a confidence in its place, where it is not known. Of a confidence
        of exactly 1, such as the agreement of few samples may be, a second answer is never drawn.
    budget : int
        Most answers in all.

    Returns
    -------
    int64 array ``[questions]``
        Sums to the budget, or less where another answer would add nothing: nothing is spent on a
        chance of 0, and one answer on a chance of 1.

    Raises
    ------
    TypeError, ValueError
        If a chance is outside 0 to 1, there are no questions, or the budget is no integer of at
        least 1.

    References
    ----------
    .. [1] Yang et al., "On calibration of large language models: from response to capability",
       arXiv 2602.13540.
    .. [2] Fox, "Discrete optimization via marginal analysis", Management Science 13, 1966.

    Examples
    --------
    >>> allocate([1.0, 0.5, 0.1, 0.0], 5).tolist()
    [1, 3, 1, 0]
    """
    chance, budget = _check_chances("chance", chance), check_count("budget", budget)
    if chance.ndim != 1 or not len(chance):
        raise ValueError(f"chance has shape {chance.shape}; it must be [questions], at least one")
    counts = np.zeros(len(chance), dtype=np.int64)
    gains = [(-p, i) for i, p in enumerate(chance.tolist()) if p > 0]
    heapq.heapify(gains)  # the largest gain first
    for _ in range(budget):
        if not gains:
            break
        gain, i = gains[0]
        counts[i] += 1
        following = gain * (1 - chance[i])
        if following:
            heapq.heapreplace(gains, (following, i))
        else:
            heapq.heappop(gains)
    return counts


def _check_chances(name: str, values) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype.kind not in "fiu":
        raise TypeError(f"{name} is {values.dtype}; it must be real numbers from 0 to 1")
    outside = ~((values >= 0) & (values <= 1))
    if outside.any():
        first = values[outside][0]
        raise ValueError(f"{name} holds {first}; it must lie between 0 and 1, as a chance does")
    return values.astype(np.float64)
