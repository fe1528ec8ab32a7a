"""Does an answer depend on the letter it stands at? Every rotation of the options is asked.

Over all rotations of a question every option stands once at every letter, so that the mean over
rotations is free of what the model thinks of the letters.
"""

from __future__ import annotations

import numpy as np
from datasets import Dataset, concatenate_datasets

from calib.metrics import check
from calib.models.model import Model
from calib.questions.load import count_options
from calib.questions.transform import rotate_options
from calib.reading.layers import read_layers


def read_rotations(model: Model, questions: Dataset, **settings) -> np.ndarray:
    """What a model answers to each question in every rotation of its options.

    Parameters
    ----------
    questions : datasets.Dataset
        All with equally many options.
    **settings
        Of :func:`calib.read_layers`, which reads as many times as many questions as there
        are options.

    Returns
    -------
    float32 array ``[questions, rotations, options]``
        The last layer's logits by letter; in rotation r the options are moved on by r letters, and
        in rotation 0 stand where they did.

    Raises
    ------
    ValueError
        If there are no questions, or some have more options than others, and as
        :func:`calib.read_layers`.

    Examples
    --------
    >>> from calib import load_questions, open_model
    >>> read_rotations(open_model("almanac"), load_questions("almanac", limit=5)).shape
    (5, 4, 4)
    """
    n_options = count_options(questions)
    rotated = concatenate_datasets([rotate_options(questions, r) for r in range(n_options)])
    logits = read_layers(model, rotated, **settings).logits[:, -1]
    return logits.reshape(n_options, len(questions), n_options).swapaxes(0, 1)


def by_option(rotated) -> np.ndarray:
    """Logits or probabilities by letter, put in the order of the options as they stood.

    Parameters
    ----------
    rotated : array_like ``[questions, rotations, options]``
        By letter, in rotation r of options moved on by r letters.

    Returns
    -------
    array ``[questions, rotations, options]``
        The mean of probabilities over rotations, ``by_option(p).mean(axis=1)``, is what debiasing
        aims at, at the price of as many readings as there are options.

    Raises
    ------
    ValueError
        If there are not as many rotations as options.

    Examples
    --------
    >>> by_option([[[0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [0.3, 0.1, 0.6]]])[0].tolist()
    [[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.6, 0.3, 0.1]]
    """
    rotated = _check_rotated(rotated)
    options = np.arange(rotated.shape[2])
    letter = (options[:, None] + options) % len(options)  # [rotations, options]
    return np.take_along_axis(rotated, letter[None], axis=2)


def answer_changes(rotated) -> np.ndarray:
    """Whether the option a model answers with is not the same in all rotations.

    Parameters
    ----------
    rotated : array_like ``[questions, rotations, options]``
        Logits or probabilities by letter.

    Returns
    -------
    bool array ``[questions]``

    Examples
    --------
    >>> answer_changes([[[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.6, 0.4]]]).tolist()
    [False, True]
    """
    answers = _answers(_check_rotated(rotated))
    return (answers != answers[:, :1]).any(axis=1)


def recall_by_letter(probabilities, labels) -> np.ndarray:
    """Share of right answers among the questions whose right option stands at each letter.

    Its standard deviation, ``.std()``, is the RStd of Zheng et al. [1]_: 0 where every letter is
    found equally well. Over all rotations, as here, each letter is asked about the same options;
    over the questions as they stand, as there, about different ones.

    Parameters
    ----------
    probabilities : array_like ``[questions, rotations, options]``
        By letter.
    labels : array_like of int ``[questions]``
        Of the options as they stood, rotation 0.

    Returns
    -------
    float64 array ``[options]``, 0 to 1

    Raises
    ------
    TypeError, ValueError
        If there are not as many rotations as options, and as :func:`calib.metrics.check`.

    References
    ----------
    .. [1] Zheng, Zhou, Meng, Zhou & Huang, "Large language models are not robust multiple choice
       selectors", ICLR 2024, arXiv 2309.03882.

    Examples
    --------
    >>> recall_by_letter([[[0.9, 0.1], [0.6, 0.4]]], [0]).tolist()
    [1.0, 0.0]
    """
    p, labels = check(_check_rotated(probabilities).swapaxes(0, 1), labels)
    right = _answers(p.swapaxes(0, 1)) == labels[:, None]  # [questions, rotations]
    options = np.arange(p.shape[2])
    letter = (labels[:, None] + options) % len(options)  # [questions, rotations]
    return np.array([right[letter == k].mean() for k in options])


def _answers(rotated):
    """The option answered with, as they stood, int ``[questions, rotations]``."""
    n_options = rotated.shape[2]
    return (rotated.argmax(axis=2) - np.arange(n_options)) % n_options


def _check_rotated(rotated) -> np.ndarray:
    rotated = np.asarray(rotated)
    if rotated.ndim != 3 or rotated.shape[1] != rotated.shape[2]:
        raise ValueError(
            f"the array has shape {rotated.shape}; it must be [questions, rotations, options], "
            "with as many rotations as options: take read_rotations"
        )
    return rotated
