"""Does an answer depend on the letter it stands at? Every rotation of the options is asked.

Over all rotations of a question every option stands once at every letter, so that the mean over
rotations is free of what the model thinks of the letters.
"""

from __future__ import annotations

import numpy as np
from datasets import Dataset, concatenate_datasets

from calib.metrics.arrays import as_array, as_integers, first_place
from calib.models.model import Model
from calib.questions import check_questions, options_per_question
from calib.questions.transform import rotate_options
from calib.reading.layers import read_layers


def read_rotations(model: Model, questions: Dataset, **settings) -> np.ndarray:
    """What a model answers to each question in every rotation of its options.

    Parameters
    ----------
    questions : datasets.Dataset
        They may differ in their number of options.
    **settings
        Of :func:`calib.read_layers`, which reads each question as many times as it has options.

    Returns
    -------
    float32 array ``[questions, rotations, options]``
        The last layer's logits by letter; in rotation r the options are moved on by r letters, and
        in rotation 0 stand where they did. There are as many of both as the largest question has
        options; those that a question does not have are -inf.

    Raises
    ------
    ValueError
        If there are no questions, and as :func:`calib.read_layers`.

    Examples
    --------
    >>> from calib import load_questions, open_model
    >>> read_rotations(open_model("almanac"), load_questions("almanac", limit=5)).shape
    (5, 4, 4)
    """
    questions = check_questions(questions, unanswered=True)
    n_options = options_per_question(questions)
    if not len(n_options):
        raise ValueError("there are no questions: check what selected them")
    largest = n_options.max()
    asked = [np.flatnonzero(n_options > r) for r in range(largest)]  # in each rotation
    rotated = [rotate_options(questions.select(which), r) for r, which in enumerate(asked)]
    logits = read_layers(model, concatenate_datasets(rotated), **settings).logits[:, -1]
    found = np.full((len(questions), largest, largest), -np.inf, dtype=logits.dtype)
    rotation = np.repeat(np.arange(largest), [len(which) for which in asked])
    found[np.concatenate(asked), rotation] = logits
    return found


def by_option(rotated) -> np.ndarray:
    """Logits or probabilities by letter, put in the order of the options as they stood.

    Parameters
    ----------
    rotated : array_like ``[questions, rotations, options]``
        By letter, in rotation r of options moved on by r letters. Where questions differ in their
        number of options, the rotations and options that one does not have are -inf in logits,
        and 0 in probabilities.

    Returns
    -------
    array ``[questions, rotations, options]``
        Absent ones stay what they are. The mean of probabilities over rotations,
        ``by_option(p).mean(axis=1)``, is what debiasing aims at, at the price of as many readings
        as there are options; where questions differ in that number, it is the sum over rotations,
        divided by the question's number.

    Raises
    ------
    TypeError, ValueError
        If there are not as many rotations as options, in the array and of each question, or some
        entry is nan.

    Examples
    --------
    >>> by_option([[[0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [0.3, 0.1, 0.6]]])[0].tolist()
    [[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.6, 0.3, 0.1]]
    """
    rotated, n_options = _check_rotated(rotated)
    n, places = n_options[:, None, None], np.arange(rotated.shape[2])
    letter = np.where(places < n, (places[:, None] + places) % n, places)
    return np.take_along_axis(rotated, letter, axis=2)


def answer_changes(rotated) -> np.ndarray:
    """Whether the option a model answers with is not the same in all rotations.

    Parameters
    ----------
    rotated : array_like ``[questions, rotations, options]``
        Logits or probabilities by letter, as :func:`by_option` takes them.

    Returns
    -------
    bool array ``[questions]``

    Examples
    --------
    >>> answer_changes([[[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.6, 0.4]]]).tolist()
    [False, True]
    """
    rotated, n_options = _check_rotated(rotated)
    answers = _answers(rotated, n_options)
    asked = np.arange(rotated.shape[1]) < n_options[:, None]
    return ((answers != answers[:, :1]) & asked).any(axis=1)


def recall_by_letter(rotated, labels) -> np.ndarray:
    """Share of right answers among the questions whose right option stands at each letter.

    Its standard deviation, ``.std()``, is the RStd of Zheng et al. [1]_: 0 where every letter is
    found equally well. Over all rotations, as here, each letter is asked about the same options;
    over the questions as they stand, as there, about different ones. Where questions differ in
    their number of options, a letter is judged on those that have it, each in the one rotation that
    brings its right option there.

    Parameters
    ----------
    rotated : array_like ``[questions, rotations, options]``
        Logits or probabilities by letter, as :func:`by_option` takes them.
    labels : array_like of int ``[questions]``
        Of the options as they stood, rotation 0.

    Returns
    -------
    float64 array ``[options]``, 0 to 1
        nan for a letter that no question has.

    Raises
    ------
    TypeError, ValueError
        If there are not as many rotations as options, or the labels are not integers, one for each
        question, of options that it has.

    References
    ----------
    .. [1] Zheng, Zhou, Meng, Zhou & Huang, "Large language models are not robust multiple choice
       selectors", ICLR 2024, arXiv 2309.03882.

    Examples
    --------
    >>> recall_by_letter([[[0.9, 0.1], [0.6, 0.4]]], [0]).tolist()
    [1.0, 0.0]
    """
    rotated, n_options = _check_rotated(rotated)
    labels = _check_labels(labels, n_options)[:, None]
    right = _answers(rotated, n_options) == labels  # [questions, rotations]
    rotations, n = np.arange(rotated.shape[1]), n_options[:, None]
    asked = rotations < n
    letter = ((labels + rotations) % n)[asked]  # of the right option
    found, count = (np.bincount(letter, w, len(rotations)) for w in (right[asked], None))
    return np.divide(found, count, out=np.full(len(rotations), np.nan), where=count > 0)


def _answers(rotated, n_options):
    """The option answered with, as they stood, int ``[questions, rotations]``."""
    return (rotated.argmax(axis=2) - np.arange(rotated.shape[1])) % n_options[:, None]


def _check_rotated(rotated) -> tuple[np.ndarray, np.ndarray]:
    """The array, and how many options each question has, int64 ``[questions]``."""
    rotated = as_array("rotations", rotated)
    if rotated.dtype.kind not in "fiu":
        raise TypeError(f"rotations are {rotated.dtype}; they must be logits or probabilities")
    if rotated.ndim != 3 or rotated.shape[1] != rotated.shape[2] or not rotated.size:
        raise ValueError(
            f"the array has shape {rotated.shape}; it must be [questions, rotations, options], "
            "with as many rotations as options: take read_rotations"
        )
    wrong = np.isnan(rotated) | np.isposinf(rotated)
    if wrong.any():
        at = first_place(wrong)
        raise ValueError(f"rotations{list(at)} is {rotated[at]}; a logit is a finite number")
    return rotated, _count_options(rotated)


def _count_options(rotated) -> np.ndarray:
    """Rotations that are there, which are as many as options, and nothing but them."""
    # No probabilities are all 0; where those of rotation 0 are, they are equal logits.
    zero = (rotated == 0).all(axis=2) & (rotated[:, :1] != 0).any(axis=2)
    n_options = (~zero & ~np.isneginf(rotated).all(axis=2)).sum(axis=1)
    places = np.arange(rotated.shape[1])
    here = places < n_options[:, None]
    here = here[:, :, None] & here[:, None, :]
    wrong = np.where(here, np.isneginf(rotated), rotated != rotated[:, -1:, -1:])
    wrong |= (n_options < 2)[:, None, None]
    if wrong.any():
        at = first_place(wrong)
        raise ValueError(
            f"rotations{list(at)} is {rotated[at]}, and question {at[0]} has {n_options[at[0]]} "
            "rotations; it must have as many rotations as options, at least 2, and those that are "
            "absent come last, -inf in logits and 0 in probabilities"
        )
    return n_options


def _check_labels(labels, n_options) -> np.ndarray:
    labels = as_integers("labels", labels, "they are the index of the right option")
    if labels.shape != n_options.shape:
        raise ValueError(
            f"labels have shape {labels.shape}; there must be one for each of the "
            f"{len(n_options)} questions"
        )
    wrong = (labels < 0) | (labels >= n_options)
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(
            f"labels[{at}] is {labels[at]}; with {n_options[at]} options labels run from 0 to "
            f"{n_options[at] - 1}: drop the question or recode its label"
        )
    return labels.astype(np.int64)
