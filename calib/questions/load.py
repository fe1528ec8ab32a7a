"""Multiple-choice questions in MMLU's columns, checked row by row.

A question is a row with ``question``, ``subject``, ``choices`` (2 to 10 options) and ``answer``
(the index of the right option); where the truth is known, ``posterior`` holds the probability
that each option is the recorded answer.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
from datasets import Dataset, load_dataset

from calib.questions import almanac
from calib.questions.mmlu import CATEGORIES, has_known_repeat

MAX_OPTIONS = 10
SPLITS = ("test", "validation", "dev")
COLUMNS = ("question", "subject", "choices", "answer")
HUB_MMLU = "cais/mmlu"


def load_questions(
    source, split="test", subjects=None, category=None, limit=None, seed=0
) -> Dataset:
    """Load multiple-choice questions, checked row by row.

    Parameters
    ----------
    source : str or Path
        ``"almanac"`` (the laboratory, with posteriors), ``"mmlu"`` (the hub's ``cais/mmlu``), or a
        folder holding ``<split>*.parquet`` or ``<split>*.jsonl``, directly or under ``all/``.
    split : {"test", "validation", "dev"}
        ``dev`` holds the exemplars of few-shot prompts.
    subjects : str or list of str, optional
        Keep these subjects only.
    category : {"STEM", "humanities", "social sciences", "other"}, optional
        Keep the subjects of one of MMLU's four categories.
    limit : int, optional
        Keep at most this many questions: a random subset drawn with ``seed``, in file order.

    Returns
    -------
    datasets.Dataset
        Columns ``question``, ``subject``, ``choices``, ``answer`` and, where the truth is known,
        ``posterior``. ``info.dataset_name`` remembers the source.

    Raises
    ------
    ValueError
        For a missing column, an empty question or option, a repeated option, options that differ
        in number, an answer out of range, text that is not UTF-8, an unknown split, subject or
        category. The message names the row.

    References
    ----------
    .. [1] Hendrycks et al., "Measuring Massive Multitask Language Understanding", ICLR 2021.

    Examples
    --------
    >>> questions = load_questions("almanac", category="STEM", limit=100)
    >>> len(questions), sorted(set(questions["subject"]))
    (100, ['bridge_geology', 'field_botany'])
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit is {limit!r}; it must be a whole number of at least 1, or None")
    questions = _read(source, split)
    _check_rows(questions, source)
    wanted = _wanted_subjects(set(questions["subject"]), subjects, category)
    keep = [i for i, subject in enumerate(questions["subject"]) if subject in wanted]
    questions = questions.select(keep)
    if limit is not None and limit < len(questions):
        shuffled = Dataset.from_dict({"row": range(len(questions))}).shuffle(seed=seed)
        questions = questions.select(sorted(shuffled["row"][:limit]))
    questions.info.dataset_name = str(source)
    return questions


def count_options(questions: Dataset) -> int:
    """Number of options, which must be the same for all questions.

    Raises
    ------
    ValueError
        If there are no questions, or some have more options than others.

    Examples
    --------
    >>> count_options(load_questions("almanac", limit=3))
    4
    """
    counts = sorted({len(choices) for choices in questions["choices"]})
    if not counts:
        raise ValueError("there are no questions: check what selected them")
    if len(counts) > 1:
        raise ValueError(
            f"questions have from {counts[0]} to {counts[-1]} options; all must have equally "
            "many: take those of one number at a time"
        )
    return counts[0]


def category_of(subject: str) -> str:
    """One of MMLU's four categories for a subject of MMLU or of the Almanac.

    >>> category_of("college_physics"), category_of("local_legends")
    ('STEM', 'humanities')
    """
    if subject in almanac.SUBJECTS:
        return almanac.SUBJECTS[subject].category
    for category, subjects in CATEGORIES.items():
        if subject in subjects:
            return category
    raise ValueError(
        f"subject {subject!r} belongs to none of MMLU's categories; select it by subjects=[...]"
    )


def _read(source, split: str) -> Dataset:
    if source == "almanac":
        return Dataset.from_list(almanac.split_rows(split))
    if source == "mmlu":
        return load_dataset(HUB_MMLU, "all", split=split)
    folder = Path(source)
    for place in (folder, folder / "all"):
        for suffix, read in ((".parquet", _read_parquet), (".jsonl", _read_jsonl)):
            files = sorted(place.glob(f"{split}*{suffix}"))
            if files:
                return Dataset(pa.concat_tables([read(file) for file in files]))
    raise ValueError(
        f"source {str(source)!r} is neither 'almanac' nor 'mmlu' nor a folder with "
        f"{split}*.parquet or {split}*.jsonl in it or under its all/"
    )


def _read_parquet(file: Path) -> pa.Table:
    table = pa.parquet.read_table(file)
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} holds text that is not UTF-8 ({error}); save it again") from None
    return table


def _read_jsonl(file: Path) -> pa.Table:
    rows = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            rows.append(json.loads(line.decode("utf-8")))
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{file}, line {number}: byte {error.start} is not UTF-8; save the file as UTF-8"
            ) from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, line {number} is not JSON ({error})") from None
        if not isinstance(rows[-1], dict):
            raise ValueError(f"{file}, line {number} is {rows[-1]!r:.60}; it must be an object")
    return pa.Table.from_pylist(rows)


def _check_rows(questions: Dataset, source) -> None:
    missing = [name for name in COLUMNS if name not in questions.column_names]
    if missing:
        raise ValueError(
            f"{source}: no column {missing[0]!r}; found {questions.column_names}, "
            f"needed {list(COLUMNS)}"
        )
    if not len(questions):
        raise ValueError(f"{source}: there are no questions in it")
    n_options = len(questions[0]["choices"])
    if not 2 <= n_options <= MAX_OPTIONS:
        raise ValueError(f"{source}: {n_options} options; there must be from 2 to {MAX_OPTIONS}")
    for i, row in enumerate(questions):
        fault = _fault(row, n_options)
        if fault:
            raise ValueError(f"{source}, question {i} ({row['question']!r:.60}): {fault}")


def _fault(row, n_options: int) -> str | None:
    """What is wrong with a row, and the rule it breaks; None if nothing is."""
    choices, answer = row["choices"], row["answer"]
    if not isinstance(row["question"], str) or not row["question"].strip():
        return "the question is empty; every question needs a text"
    if not isinstance(row["subject"], str) or not row["subject"].strip():
        return "the subject is empty; every question needs one"
    if len(choices) != n_options:
        return f"{len(choices)} options where the first question has {n_options}; all need as many"
    if not all(isinstance(c, str) and c.strip() for c in choices):
        return f"an option is empty in {choices}; every option needs a text"
    if len(set(choices)) < n_options and not has_known_repeat(row):
        return f"an option stands twice in {choices}; options must differ"
    if not isinstance(answer, int) or not 0 <= answer < n_options:
        return f"answer is {answer!r}; it must be a whole number from 0 to {n_options - 1}"
    return None


def _wanted_subjects(present: set[str], subjects, category) -> set[str]:
    wanted = {subjects} if isinstance(subjects, str) else set(subjects or present)
    for subject in sorted(wanted - present):
        close = difflib.get_close_matches(subject, present, n=3) or sorted(present)[:5]
        raise ValueError(f"no subject {subject!r} here; did you mean {', '.join(close)}?")
    if category is None:
        return wanted
    if category not in CATEGORIES:
        raise ValueError(f"category {category!r} is unknown; choose one of {', '.join(CATEGORIES)}")
    chosen = {s for s in wanted if category_of(s) == category}
    if not chosen:
        raise ValueError(f"none of the subjects {sorted(wanted)} belongs to {category!r}")
    return chosen
