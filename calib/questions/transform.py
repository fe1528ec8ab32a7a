"""Questions changed on purpose: options moved around, or nothing left to answer.

A rotation moves every option on by the same number of letters, the last ones to the front. Over all
rotations of a question every option stands once at every letter, so that whatever is uneven among
the letters is the letters' doing.
"""

from __future__ import annotations

import zlib
from numbers import Integral

import numpy as np
from datasets import Dataset

from calib.questions.check import as_before, as_dataset, check_questions
from calib.questions.faults import NO_ANSWER
from calib.questions.options import count_options


def rotate_options(questions: Dataset, shift: int) -> Dataset:
    """The same questions with every option moved on by some letters; all else stays.

    Parameters
    ----------
    questions : datasets.Dataset
    shift : int
        By 1 the option at A comes to stand at B, and the last one at A.

    Returns
    -------
    datasets.Dataset
        Answers, and posteriors where there are any, move with the options; a negative answer, such
        as the -1 of :func:`calib.questions.content_free`, stays: no option is right.

    Raises
    ------
    TypeError
        If ``shift`` is not an integer.

    Examples
    --------
    >>> from calib import load_questions
    >>> questions = load_questions("almanac", limit=1)
    >>> questions[0]["choices"], questions[0]["answer"]
    (['regent', 'abbot', 'senator', 'castellan'], 0)
    >>> rotated = rotate_options(questions, 1)
    >>> rotated[0]["choices"], rotated[0]["answer"]
    (['castellan', 'regent', 'abbot', 'senator'], 1)
    """
    if not isinstance(shift, Integral):
        raise TypeError(f"shift is {shift!r}; it must be an integer, a number of letters")
    questions = check_questions(questions, unanswered=True)
    return _changed([_rotate(row, shift) for row in questions], questions)


def shuffle_options(questions, seed: int = 0) -> Dataset:
    """The same questions with their options in random order, which a column remembers.

    Where the right option always comes first, as in TruthfulQA, a model that likes the first
    letter would look like one that knows. The order depends on the seed and the question alone,
    not on its place or on what else is asked.

    Parameters
    ----------
    questions : datasets.Dataset, pandas.DataFrame or list of dict
    seed : int
        Not negative.

    Returns
    -------
    datasets.Dataset
        Answers, and posteriors where there are any, move with the options. ``order[k]`` is the
        place at which the option that now is at place k stood before the first shuffle.

    Raises
    ------
    TypeError, ValueError
        If the seed is no integer of at least 0, and as :func:`calib.questions.check_questions`.

    Examples
    --------
    >>> row = {"question": "Which?", "subject": "sums", "choices": ["a", "b", "c"], "answer": 0}
    >>> shuffled = shuffle_options([row], seed=2)[0]
    >>> shuffled["choices"], shuffled["answer"], shuffled["order"]
    (['b', 'a', 'c'], 1, [1, 0, 2])
    """
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise TypeError(f"seed is {seed!r}; it must be an integer of at least 0")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be an integer of at least 0")
    questions = check_questions(questions)
    return _changed([shuffle_row(row, seed) for row in questions], questions)


def shuffle_row(row: dict, seed: int) -> dict:
    """One question of :func:`shuffle_options`, as a dictionary."""
    text = "\x1f".join([row["question"], *row["choices"]])
    rng = np.random.default_rng([seed, zlib.crc32(text.encode())])
    return _reorder(row, rng.permutation(len(row["choices"])).tolist(), remember=True)


def _rotate(row: dict, shift: int) -> dict:
    n = len(row["choices"])
    return _reorder(row, [(place - shift) % n for place in range(n)])


def _reorder(row: dict, order: list[int], *, remember: bool = False) -> dict:
    """A question with the option at place ``order[k]`` moved to place k."""
    row = dict(row)
    if remember:
        row.setdefault("order", list(range(len(order))))
    for name in {"choices", "posterior", "order"} & set(row):
        row[name] = [row[name][place] for place in order]
    if row["answer"] != NO_ANSWER:
        row["answer"] = order.index(row["answer"])
    return row


def _changed(rows: list[dict], questions: Dataset) -> Dataset:
    # Repeats were allowed before: the known ones do not look the same in another order.
    return as_before(as_dataset(rows, "questions", unanswered=True, repeats="keep"), questions)


def content_free(questions: Dataset, texts=("N/A", "[MASK]", "")) -> Dataset:
    """Questions without content: what a model answers to them it answers to the letters.

    Parameters
    ----------
    questions : datasets.Dataset, pandas.DataFrame or list of dict
        All with equally many options; their subjects, number of options and source, for exemplars,
        are taken over.
    texts : sequence of str
        After [1]_, where they stand for a text to be classified. That each here is the question
        and every option as well is a choice: whatever differs between options would be content.

    Returns
    -------
    datasets.Dataset
        One question for each subject and text, to be read by
        :func:`calib.read_layers`; its answer is -1, as none is right.

    Raises
    ------
    ValueError
        If there are no questions or no texts, or questions differ in their number of options.

    References
    ----------
    .. [1] Zhao, Wallace, Feng, Klein & Singh, "Calibrate before use: improving few-shot
       performance of language models", ICML 2021, arXiv 2102.09690.

    Examples
    --------
    >>> from calib import load_questions
    >>> empty = content_free(load_questions("almanac", limit=50), texts=["N/A"])
    >>> len(empty), empty[0]["choices"]
    (8, ['N/A', 'N/A', 'N/A', 'N/A'])
    """
    questions = check_questions(questions)
    n_options = count_options(questions)
    are_texts = isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts)
    if not are_texts or not texts:
        raise ValueError(f"texts is {texts!r}; it must be a list of one text at least: ['N/A']")
    rows = [
        {"question": t, "subject": subject, "choices": [t] * n_options, "answer": NO_ANSWER}
        for subject in sorted(set(questions["subject"]))
        for t in texts
    ]
    empty = Dataset.from_list(rows)
    empty.info.dataset_name = questions.info.dataset_name
    return empty
