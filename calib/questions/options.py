"""How many options questions have."""

from __future__ import annotations

import numpy as np

from calib.questions.check import check_questions


def options_per_question(questions) -> np.ndarray:
    """Number of options of each question, int64 ``[questions]``.

    >>> from calib import load_questions
    >>> options_per_question(load_questions("almanac", limit=2)).tolist()
    [4, 4]
    """
    choices = check_questions(questions, unanswered=True)["choices"]
    return np.array([len(row) for row in choices], dtype=np.int64)


def count_options(questions) -> int:
    """Number of options, which must be the same for all questions.

    Raises
    ------
    ValueError
        If there are no questions, or some have more options than others.

    Examples
    --------
    >>> from calib import load_questions
    >>> count_options(load_questions("almanac", limit=3))
    4
    """
    counts = np.unique(options_per_question(questions)).tolist()
    if not counts:
        raise ValueError("there are no questions: check what selected them")
    if len(counts) > 1:
        raise ValueError(
            f"questions have from {counts[0]} to {counts[-1]} options; all must have equally "
            "many: take those of one number at a time"
        )
    return counts[0]
