"""Which question is which, so that readings of several prompts and models go side by side."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from calib.questions.check import check_questions


def question_ids(questions) -> np.ndarray:
    """A number for each question that changes with its subject, its text and its options' order.

    Parameters
    ----------
    questions : datasets.Dataset, pandas.DataFrame or list of dict
        As :func:`calib.load_questions` gives them, or in the same columns.

    Returns
    -------
    uint64 array ``[questions]``
        The first eight bytes of a SHA-256: a million different questions hold two with the same
        number once in some forty million such sets. MMLU itself repeats 27 of its test questions.

    Examples
    --------
    >>> row = {"question": "1 + 1?", "subject": "sums", "choices": ["1", "2"], "answer": 1}
    >>> turned = {**row, "choices": ["2", "1"], "answer": 0}
    >>> ids = question_ids([row, turned])
    >>> ids.dtype, int(ids[0] == ids[1])
    (dtype('uint64'), 0)
    """
    questions = check_questions(questions, unanswered=True)
    columns = (questions[name][:] for name in ("subject", "question", "choices"))
    texts = [json.dumps(row, ensure_ascii=False) for row in zip(*columns, strict=True)]
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
    return np.array([int.from_bytes(digest[:8]) for digest in digests], dtype=np.uint64)
