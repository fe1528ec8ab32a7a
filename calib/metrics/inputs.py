"""What every metric asks of its input, and the two numbers per question most of them start from."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from calib.metrics.arrays import as_array, as_reals, first_place

Probabilities: TypeAlias = ArrayLike
"""Option probabilities, array_like ``[..., questions, options]``.

Each row is not negative and sums to 1 within 1e-4; at least 1 question and 2 options. Leading axes,
such as layers, are computed side by side: a metric has their shape. Rows are not renormalised.

Questions may differ in their number of options: there are columns for the largest, a question
with n options has the first n, and the others are 0.
"""
Labels: TypeAlias = ArrayLike
"""Index of the right option, array_like of int ``[questions]``, shared by all leading axes."""
Features: TypeAlias = ArrayLike
"""What tells questions apart besides confidence, finite array_like ``[questions, d]``.

Such as a layer's residual streams.
"""
Score: TypeAlias = float | np.ndarray
"""A float, or a float64 array of the leading shape of the probabilities where they have one."""

AXES = "[..., questions, options]"
SUM_TOLERANCE = 1e-4  # a float32 softmax stays well inside, a float16 one may not


def check(probabilities: Probabilities, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Option probabilities and labels as every metric wants them, or an error that says why not.

    Returns
    -------
    probabilities : float64 array ``[..., questions, options]``
    labels : int64 array ``[questions]``

    Raises
    ------
    TypeError
        If the probabilities are not real numbers, or the labels not integers.
    ValueError
        If shapes, ranges or sums are wrong, naming the first offending place.

    Examples
    --------
    >>> check([[0.9, 0.2]], [0])
    Traceback (most recent call last):
    ...
    ValueError: probabilities[0] sums to 1.1; a row must sum to 1 within 0.0001. \
For logits take the softmax, in float32 or finer
    """
    p, labels = as_reals("probabilities", probabilities, AXES), as_array("labels", labels)
    _check_shapes(p.shape, labels.shape)
    if labels.dtype.kind not in "iu":
        raise TypeError(
            f"labels are {labels.dtype}; they must be the integer index of the right option: "
            "convert them, for letters with 'ABCD'.index"
        )
    _check_values(p)
    n_options = p.shape[-1]
    outside = (labels < 0) | (labels >= n_options)
    if outside.any():
        first = int(outside.argmax())
        raise ValueError(
            f"labels[{first}] is {labels[first]}; with {n_options} options labels run from 0 to "
            f"{n_options - 1}: drop the question or recode its label"
        )
    return p, labels.astype(np.int64)


def _check_shapes(probabilities, labels) -> None:
    if len(probabilities) < 2:
        raise ValueError(
            f"probabilities have shape {probabilities}; they must be [..., questions, options]: "
            "one question is p[None, :]"
        )
    n_questions, n_options = probabilities[-2:]
    if n_options < 2:
        raise ValueError(
            f"probabilities have {n_options} options in their last axis; at least 2 are needed: "
            "write a binary p as [1 - p, p]"
        )
    if 0 in probabilities:
        raise ValueError(
            f"probabilities have shape {probabilities}; no metric is defined on nothing: "
            "check what selected the questions"
        )
    if labels != (n_questions,):
        raise ValueError(
            f"labels have shape {labels}, probabilities {probabilities}; there must be one label "
            f"per question, shape ({n_questions},): layers and other axes go before questions"
        )


def _check_values(p) -> None:
    _check_finite("probabilities", p)
    if p.min() < 0:
        at = first_place(p < 0)
        raise ValueError(
            f"probabilities{list(at)} is {p[at]:.6g}; no entry may be negative: "
            "for logits take the softmax"
        )
    sums = p.sum(axis=-1)  # [..., questions]
    wrong = np.abs(sums - 1) > SUM_TOLERANCE
    if wrong.any():
        at = first_place(wrong)
        raise ValueError(
            f"probabilities{list(at)} sums to {sums[at]:.6g}; a row must sum to 1 within "
            f"{SUM_TOLERANCE}. For logits take the softmax, in float32 or finer"
        )


def _check_finite(name, array) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        at = first_place(~finite)
        raise ValueError(
            f"{name}{list(at)} is {array[at]}; every entry must be finite: "
            "find where the model overflows, or run it in a wider type"
        )


def check_features(features, n_questions: int | None = None) -> np.ndarray:
    """Float64 features ``[questions, d]``, or an error that says why not.

    >>> check_features([[0.5], [1.0]], n_questions=3)
    Traceback (most recent call last):
    ...
    ValueError: features have shape (2, 1); they must be [3, d], with d at least 1
    """
    features = as_reals("features", features, "[questions, d]").copy()
    rows = "questions" if n_questions is None else n_questions
    if features.ndim != 2 or 0 in features.shape or rows not in ("questions", len(features)):
        raise ValueError(
            f"features have shape {features.shape}; they must be [{rows}, d], with d at least 1"
        )
    _check_finite("features", features)
    return features


def check_with_features(probabilities, labels, features):
    """:func:`check` of one layer's probabilities, and :func:`check_features` of its questions."""
    p, labels = check(probabilities, labels)
    if p.ndim != 2:
        raise ValueError(
            f"probabilities have shape {p.shape}; here they must be [questions, options]: pass one "
            "layer, with its features"
        )
    return p, labels, check_features(features, len(p))


def confidence_and_correct(
    probabilities: Probabilities, labels: Labels
) -> tuple[np.ndarray, np.ndarray]:
    """Confidence, the largest option probability, and whether that option is the right one.

    Between equal largest probabilities the first option is the answer.

    Returns
    -------
    confidence : float64 array ``[..., questions]``, 1/options to 1
    correct : bool array ``[..., questions]``

    Examples
    --------
    >>> confidence, correct = confidence_and_correct([[0.7, 0.3], [0.6, 0.4]], [0, 1])
    >>> confidence.tolist(), correct.tolist()
    ([0.7, 0.6], [True, False])
    """
    return top(*check(probabilities, labels))


def top(p, labels) -> tuple[np.ndarray, np.ndarray]:
    """:func:`confidence_and_correct` of input already checked."""
    return p.max(axis=-1), p.argmax(axis=-1) == labels


def softmax(logits) -> np.ndarray:
    """Option probabilities, float64 ``[..., options]``, of logits of any type.

    SciPy's, along the last axis; in float64, since confidences close to 1 are not told apart in
    single precision, and every measure of order would see ties. An option with a logit of -inf,
    which a question does not have, gets exactly 0.

    Raises
    ------
    TypeError, ValueError
        If the logits are not real numbers, or all of a row are -inf: no option is left.

    Examples
    --------
    >>> softmax([[0.0, 0.0, -np.inf], [1000.0, 0.0, 0.0]]).tolist()
    [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]
    """
    from scipy import special  # here, so that most metrics need NumPy alone

    logits = as_reals("logits", logits, "[..., options]")
    if not logits.ndim or not logits.shape[-1]:
        raise ValueError(f"logits have shape {logits.shape}; they must be [..., options]")
    none = np.isneginf(logits).all(axis=-1)
    if none.any():
        raise ValueError(
            f"logits{list(first_place(none)) or ''} are all -inf; a softmax needs an option: leave "
            "the row out"
        )
    return special.softmax(logits, axis=-1)
