"""Multiple-choice questions from wherever people have them, in MMLU's columns, checked row by row.

A question is a row with ``question``, ``subject``, ``choices`` (2 to 26 options, perhaps not as
many in each), and ``answer`` (the index of the right option); where the truth is known,
``posterior`` holds the probability that each option is the recorded answer.
"""

from __future__ import annotations

import difflib
import os
import warnings
from numbers import Integral
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict

from calib.questions import almanac, mmlu
from calib.questions.check import as_dataset, has_repeat, rows_of
from calib.questions.columns import to_mmlu
from calib.questions.mmlu import CATEGORIES
from calib.questions.rows import SPLIT_NAMES, files_of, read_file
from calib.questions.sets import SETS, load_set

REPEATS = ("refuse", "drop", "keep")
ENOUGH = 20  # questions that tell whether the right answers stand at one letter on purpose


def load_questions(
    source,
    split="test",
    subjects=None,
    category=None,
    limit=None,
    seed=0,
    repeats="refuse",
    stratify=False,
) -> Dataset:
    """Load multiple-choice questions, checked row by row.

    Parameters
    ----------
    source : str, Path, datasets.Dataset, pandas.DataFrame or list of dict
        ``"almanac"`` (the laboratory, with posteriors) or ``"mmlu"``, which come with the package;
        ``"truthfulqa"``, ``"copa"``, ``"cola"`` or ``"rotten_tomatoes"``, from the hub; a
        folder with a file for the split, ``<split>*``, ``*_<split>`` or in a folder of that name;
        one file; or the rows themselves. Files are jsonl, parquet or csv, this with or without a
        header. Columns are MMLU's, or those of Global-MMLU, MMMLU, MMLU-Redux or MMLU-Pro. The
        answer is an index or a letter; digits are indices, from 0. Without a column for it, the
        subject is the file's name.
    split : {"test", "validation", "dev"}
        ``dev`` holds the exemplars of few-shot prompts. A file, and rows, are of one split.
    subjects : str or list of str, optional
        Keep these subjects only.
    category : {"STEM", "humanities", "social sciences", "other"}, optional
        Keep the subjects of one of MMLU's four categories.
    limit : int, optional
        Keep at most this many questions: a random subset drawn with ``seed``, in file order.
    seed : int
        Of the subset, and of TruthfulQA's options, of which the right one always comes first.
    repeats : {"refuse", "drop", "keep"}
        What becomes of a question in which an option stands twice. Those released with MMLU are
        read as published.
    stratify : bool
        Draw the subset so that each subject has its share of it, rounded by largest remainders.

    Returns
    -------
    datasets.Dataset
        Columns ``question``, ``subject``, ``choices``, ``answer`` and, where the truth is known,
        ``posterior``. ``info.dataset_name`` remembers the source.

    Raises
    ------
    TypeError
        If the source is of another kind.
    ValueError
        For a missing column, an empty question or option, a repeated option, an answer out of
        range, a value of another type, text that is not UTF-8, an unknown split, subject or
        category. The message names the file and the row.

    References
    ----------
    .. [1] Hendrycks et al., "Measuring Massive Multitask Language Understanding", ICLR 2021.

    Examples
    --------
    >>> questions = load_questions("almanac", category="STEM", limit=100)
    >>> len(questions), sorted(set(questions["subject"]))
    (100, ['bridge_geology', 'field_botany'])
    """
    _check_wishes(split, subjects, category, limit, seed, repeats, stratify)
    name = str(source) if isinstance(source, str | Path) else "questions"
    rows = _read(source, split, seed)
    if repeats == "drop":
        rows = _without_repeats(rows)
    if not rows:
        raise ValueError(f"{name}: there are no questions in it")
    questions = as_dataset(rows, name, repeats=repeats)
    wanted = _wanted_subjects(set(questions["subject"]), subjects, category)
    keep = [i for i, subject in enumerate(questions["subject"]) if subject in wanted]
    questions = questions.select(keep)
    if limit is not None and limit < len(questions):
        questions = questions.select(_subset(questions["subject"], limit, seed, stratify))
    _warn_of_one_letter(questions)
    if isinstance(source, Dataset):
        questions.info.dataset_name = source.info.dataset_name
    elif isinstance(source, str | Path):
        questions.info.dataset_name = str(source)
    return questions


def _subset(subjects, limit: int, seed: int, stratify: bool) -> list[int]:
    """A random subset of rows, in their order; if stratified, each subject has its share of it."""
    shuffled = np.array(Dataset.from_dict({"row": range(len(subjects))}).shuffle(seed=seed)["row"])
    if not stratify:
        return sorted(shuffled[:limit].tolist())
    of, counts = np.unique(np.asarray(subjects), return_inverse=True, return_counts=True)[1:]
    shares = limit * counts / len(subjects)
    quotas = np.floor(shares).astype(int)
    remainders = np.argsort(quotas - shares, kind="stable")
    quotas[remainders[: limit - quotas.sum()]] += 1
    drawn = of[shuffled]
    chosen = [shuffled[drawn == s][:quota] for s, quota in enumerate(quotas)]
    return sorted(np.concatenate(chosen).tolist())


def _check_wishes(split, subjects, category, limit, seed, repeats, stratify) -> None:
    for what, value, known in (("split", split, SPLIT_NAMES), ("repeats", repeats, REPEATS)):
        if value not in list(known):
            raise ValueError(f"{what} {value!r} is unknown; choose one of {', '.join(known)}")
    some = [subjects] if isinstance(subjects, str) else subjects
    if some is not None and not (
        isinstance(some, list | tuple | set | frozenset) and all(isinstance(s, str) for s in some)
    ):
        raise ValueError(f"subjects is {subjects!r:.60}; it must be a subject or a list of them")
    if some is not None and not some:
        raise ValueError("subjects is empty; leave it out to keep all, or name one at least")
    if category is not None and category not in list(CATEGORIES):
        raise ValueError(f"category {category!r} is unknown; choose one of {', '.join(CATEGORIES)}")
    if limit is not None and not _is_whole(limit, 1):
        raise ValueError(f"limit is {limit!r}; it must be a whole number of at least 1, or None")
    if not isinstance(stratify, bool) or (stratify and limit is None):
        raise ValueError(
            f"stratify is {stratify!r} and limit is {limit!r}; it says how a subset is drawn, so "
            "give True together with a limit, or False"
        )
    if not _is_whole(seed, 0):
        raise ValueError(f"seed is {seed!r}; it must be a whole number of at least 0")


def _is_whole(value, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= least


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


def _read(source, split: str, seed: int) -> list[dict]:
    """Rows in MMLU's columns, not yet checked."""
    if isinstance(source, Dataset | DatasetDict | pd.DataFrame | list | tuple):
        given = rows_of(source)
        rows = to_mmlu(given, "questions")
        if isinstance(source, Dataset):  # what a Dataset of questions remembers of its options
            for name in {"order", "repeats"} & set(source.column_names):
                for row, before in zip(rows, given, strict=True):
                    row[name] = before[name]
        return rows
    if not isinstance(source, str | Path):
        raise TypeError(
            f"the source is a {type(source).__name__}; it must be a name, a folder, a file, a "
            "Dataset, a DataFrame or a list of dictionaries"
        )
    if source == "almanac":
        return almanac.split_rows(split)
    if source == "mmlu":
        return mmlu.split_rows(split)
    if source in SETS:
        return load_set(source, split, seed)
    path, name = Path(source), str(source)
    if os.path.isfile(path):
        return to_mmlu(read_file(path), name)
    if os.path.isdir(path) and (files := files_of(path, split)):
        return to_mmlu([row for file in files for row in read_file(file)], name)
    raise ValueError(
        f"source {name!r} is neither 'almanac' nor 'mmlu' nor a folder with {split}*.parquet, "
        f"{split}*.jsonl or {split}*.csv in it or under its all/, nor another of the layouts that "
        f"load_questions knows, nor a file, nor one of {', '.join(SETS)}"
    )


def _without_repeats(rows: list[dict]) -> list[dict]:
    kept = [row for row in rows if not has_repeat(row)]
    if len(kept) < len(rows):
        warnings.warn(
            f"{len(rows) - len(kept)} of {len(rows)} questions are left out: an option stands "
            "twice in them",
            stacklevel=3,
        )
    return kept


def _warn_of_one_letter(questions: Dataset) -> None:
    """A model that favours the letter would look like one that knows."""
    answers = set(questions["answer"])
    if len(questions) >= ENOUGH and len(answers) == 1:
        warnings.warn(
            f"the right answer of all {len(questions)} questions stands in place {min(answers)}; "
            "move the options around with shuffle_options before a model is asked",
            stacklevel=3,
        )


def _wanted_subjects(present: set[str], subjects, category) -> set[str]:
    wanted = (
        {subjects} if isinstance(subjects, str) else set(present if subjects is None else subjects)
    )
    for subject in sorted(wanted - present):
        close = difflib.get_close_matches(subject, present, n=3) or sorted(present)[:5]
        raise ValueError(f"no subject {subject!r} here; did you mean {', '.join(close)}?")
    if category is None:
        return wanted
    chosen = {s for s in wanted if category_of(s) == category}
    if not chosen:
        raise ValueError(f"none of the subjects {sorted(wanted)} belongs to {category!r}")
    return chosen
