"""Questions as a checked Dataset, from whatever holds them; the rules are in ``faults``."""

from __future__ import annotations

import pandas as pd
from datasets import Dataset, DatasetDict, Features, Sequence, Value, concatenate_datasets

from calib.questions.faults import NO_ANSWER as NO_ANSWER
from calib.questions.faults import REPEAT, fault_of, is_marked, is_missing, shown

COLUMNS = ("question", "subject", "choices", "answer")
FEATURES = {
    "question": Value("string"),
    "subject": Value("string"),
    "choices": Sequence(Value("string")),
    "answer": Value("int64"),
    "posterior": Sequence(Value("float64")),
    "order": Sequence(Value("int64")),  # of shuffled options
    "repeats": Value("bool"),  # whether an option may stand twice
}
PLACE = ("place",)  # a key of rows from a file, for errors, that no file can have as a column


def check_questions(questions, *, unanswered: bool = False) -> Dataset:
    """Questions as a checked Dataset, whatever they come as.

    Whatever takes questions calls this first, so that a set built by hand passes the same checks as
    one that :func:`calib.load_questions` gives.

    Parameters
    ----------
    questions : datasets.Dataset, pandas.DataFrame or list of dict
        With ``question``, ``subject``, ``choices`` (2 to 26 texts, not as many in each question),
        ``answer`` (index of the right one) and perhaps ``posterior``.
    unanswered : bool
        Whether questions without content are welcome, whose answer is -1: those of
        :func:`calib.questions.content_free`.

    Returns
    -------
    datasets.Dataset
        The same object if it was one already, in these types.

    Raises
    ------
    TypeError
        If the questions are of another kind.
    ValueError
        For a missing column or a row that breaks a rule; the message names row, value and rule.

    Examples
    --------
    >>> row = {"question": "1 + 1?", "subject": "sums", "choices": ["1", "2"], "answer": 1}
    >>> len(check_questions([row, row]))
    2
    >>> check_questions([row, {**row, "answer": 2}])
    Traceback (most recent call last):
    ...
    ValueError: questions, question 1 ('1 + 1?'): answer is 2; it must be a whole number from 0 to 1
    """
    if not isinstance(questions, Dataset):
        return as_dataset(rows_of(questions), "questions", unanswered=unanswered)
    if not _is_plain(questions):
        questions = questions.with_format(None)
    name = questions.info.dataset_name or "questions"
    rows = rows_of(questions, FEATURES)
    if _has_types(questions, rows):
        check_rows(rows, name, unanswered=unanswered)
        return questions
    return as_before(as_dataset(rows, name, unanswered=unanswered), questions)


def rows_of(questions, names=None) -> list[dict]:
    """Rows as dictionaries, of a Dataset (its columns ``names``), a DataFrame or a list of them."""
    if isinstance(questions, DatasetDict):
        splits = ", ".join(map(repr, questions))
        raise TypeError(f"questions is a DatasetDict; choose one of its splits: {splits}")
    if isinstance(questions, Dataset):
        names = [name for name in questions.column_names if names is None or name in names]
        try:
            columns = [questions.with_format(None)[name][:] for name in names]
        except UnicodeDecodeError as error:
            raise ValueError(f"questions hold text that is not UTF-8 ({error})") from None
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    if isinstance(questions, pd.DataFrame):
        if not questions.columns.is_unique:
            raise ValueError(f"the columns {list(questions.columns)} are not all different")
        # A missing value of pandas' own compares with nothing.
        return [
            {str(k): None if v is pd.NA or v is pd.NaT else v for k, v in row.items()}
            for row in questions.to_dict("records")
        ]
    if isinstance(questions, list | tuple):
        for i, row in enumerate(questions):
            if not isinstance(row, dict):
                raise ValueError(f"questions, question {i} is {shown(row)}; it must be a dict")
        return list(questions)
    raise TypeError(
        f"questions is a {type(questions).__name__}; it must be a Dataset, a DataFrame or a list "
        "of dictionaries: load_questions(source) makes one"
    )


def as_dataset(rows: list[dict], source: str, *, unanswered=False, repeats="refuse") -> Dataset:
    """Checked rows as a Dataset of questions; columns beyond those of a question are left out."""
    if repeats == "keep":
        kept = [is_marked(row.get("repeats")) or has_repeat(row, unanswered) for row in rows]
        if any(kept):
            rows = [row | {"repeats": mark} for row, mark in zip(rows, kept, strict=True)]
    check_rows(rows, source, unanswered=unanswered)
    names = [name for name in FEATURES if name in COLUMNS or has(name, rows)]
    columns = {name: [row.get(name) for row in rows] for name in names}
    columns["choices"] = [list(choices) for choices in columns["choices"]]
    columns["answer"] = [int(answer) for answer in columns["answer"]]
    if "posterior" in columns:
        columns["posterior"] = [[float(p) for p in row] for row in columns["posterior"]]
    if "repeats" in columns:
        columns["repeats"] = [is_marked(mark) for mark in columns["repeats"]]
    return Dataset.from_dict(columns, features=Features({name: FEATURES[name] for name in names}))


def as_before(changed: Dataset, questions: Dataset) -> Dataset:
    """Changed questions with the source and the other columns of what they were made from."""
    others = [name for name in questions.column_names if name not in FEATURES]
    if others:
        changed = concatenate_datasets([changed, questions.select_columns(others)], axis=1)
    changed.info.dataset_name = questions.info.dataset_name
    return changed


def has_repeat(row: dict, unanswered: bool = False) -> bool:
    """Whether nothing is wrong with a row but that an option stands twice."""
    return (fault_of(row, unanswered=unanswered) or "").startswith(REPEAT)


def check_rows(rows: list[dict], source: str, *, unanswered: bool = False) -> None:
    """Refuse the first row that breaks a rule; ValueError names it, the value and the rule."""
    found = [name for name in rows[0] if name != PLACE] if rows else COLUMNS
    missing = [name for name in COLUMNS if name not in found]
    if missing:
        raise ValueError(
            f"{source}: no column {missing[0]!r}; found {found}, needed {list(COLUMNS)}"
        )
    known, ordered = has("posterior", rows), has("order", rows)
    for i, row in enumerate(rows):
        fault = fault_of(row, known=known, ordered=ordered, unanswered=unanswered)
        if fault:
            asked = shown(row.get("question"))
            raise ValueError(f"{source}, {place_of(row, i)} ({asked}): {fault}")


def place_of(row: dict, i: int) -> str:
    """Where a row stands: among all, and in its file if it is from one."""
    return f"question {i} in {row[PLACE]}" if PLACE in row else f"question {i}"


def has(name: str, rows: list[dict]) -> bool:
    """Whether some row has this optional column; then all must."""
    return any(not is_missing(row.get(name)) for row in rows)


def _has_types(questions: Dataset, rows: list[dict]) -> bool:
    """Whether columns have the types that a checked Dataset has, and none is of nulls alone."""
    features = questions.features
    there = {name: kind for name, kind in FEATURES.items() if name in features}
    return (
        set(COLUMNS) <= set(there)
        and all(features[name] == kind for name, kind in there.items())
        and (not rows or all(has(name, rows) for name in there if name not in COLUMNS))
    )


def _is_plain(questions: Dataset) -> bool:
    """Whether rows come as Python values, with all their columns."""
    form = questions.format
    return form["type"] is None and set(form["columns"]) == set(questions.column_names)
