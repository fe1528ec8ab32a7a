"""Questions changed on purpose: options moved around, or nothing left to answer.

A rotation moves every option on by the same number of letters, the last ones to the front. Over all
rotations of a question every option stands once at every letter, so that whatever is uneven among
the letters is the letters' doing.
"""

from __future__ import annotations

from numbers import Integral

from datasets import Dataset

from calib.questions.load import count_options

NO_ANSWER = -1  # as a label it makes every metric refuse


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
    columns = questions.to_dict()
    answers = zip(columns["answer"], columns["choices"], strict=True)
    columns["answer"] = [
        (answer + shift) % len(choices) if answer >= 0 else answer for answer, choices in answers
    ]
    for name in {"choices", "posterior"} & set(columns):
        columns[name] = [_move_on(row, shift) for row in columns[name]]
    rotated = Dataset.from_dict(columns, features=questions.features)
    rotated.info.dataset_name = questions.info.dataset_name
    return rotated


def _move_on(row: list, shift: int) -> list:
    start = -shift % len(row)
    return row[start:] + row[:start]


def content_free(questions: Dataset, texts=("N/A", "[MASK]", "")) -> Dataset:
    """Questions without content: what a model answers to them it answers to the letters.

    Parameters
    ----------
    questions : datasets.Dataset
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
    n_options = count_options(questions)
    if isinstance(texts, str) or not len(texts):
        raise ValueError(f"texts is {texts!r}; it must be a list of one text at least: ['N/A']")
    rows = [
        {"question": t, "subject": subject, "choices": [t] * n_options, "answer": NO_ANSWER}
        for subject in sorted(set(questions["subject"]))
        for t in texts
    ]
    empty = Dataset.from_list(rows)
    empty.info.dataset_name = questions.info.dataset_name
    return empty
