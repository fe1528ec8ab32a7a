"""The other data that the paper reads, from the hub: TruthfulQA, COPA, CoLA, Rotten Tomatoes.

How the paper words their questions is not known; the wording here is this project's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from datasets import load_dataset

from calib.questions.transform import shuffle_row


class HubSet(NamedTuple):
    """Where a set is on the hub, and what its rows become.

    Attributes
    ----------
    path, config : str
        As :func:`datasets.load_dataset` takes them.
    splits : dict of str to str
        Its labelled splits by what they are here.
    to_row : callable
        From a row there to one with question, subject, choices and answer.
    first_is_right : bool
        Whether the right option always comes first, so that options have to be shuffled.
    """

    path: str
    config: str | None
    splits: dict[str, str]
    to_row: Callable[[dict], dict]
    first_is_right: bool = False


def _truthfulqa(row: dict) -> dict:
    """mc1: one true answer, before one to twelve false ones."""
    targets = row["mc1_targets"]
    return {
        "question": row["question"],
        "subject": "truthfulqa",
        "choices": targets["choices"],
        "answer": targets["labels"].index(1),
    }


def _copa(row: dict) -> dict:
    what = {"cause": "What was the cause of this?", "effect": "What was the result of this?"}
    return {
        "question": f"{row['premise']} {what[row['question']]}",
        "subject": f"copa {row['question']}",
        "choices": [row["choice1"], row["choice2"]],
        "answer": row["label"],
    }


def _cola(row: dict) -> dict:
    return {
        "question": f"Is this sentence linguistically acceptable? {row['sentence']}",
        "subject": "cola",
        "choices": ["No", "Yes"],
        "answer": row["label"],
    }


def _rotten_tomatoes(row: dict) -> dict:
    return {
        "question": f"Is this review of a film negative or positive? {row['text']}",
        "subject": "film reviews",
        "choices": ["negative", "positive"],
        "answer": row["label"],
    }


# Where the test split's labels are not public, the hub's validation split is the test split here.
SETS = {
    "truthfulqa": HubSet(
        "truthfulqa/truthful_qa", "multiple_choice", {"test": "validation"}, _truthfulqa, True
    ),
    "copa": HubSet("super_glue", "copa", {"test": "validation", "validation": "train"}, _copa),
    "cola": HubSet("nyu-mll/glue", "cola", {"test": "validation", "validation": "train"}, _cola),
    "rotten_tomatoes": HubSet(
        "cornell-movie-review-data/rotten_tomatoes",
        None,
        {"test": "test", "validation": "validation"},
        _rotten_tomatoes,
    ),
}


def load_set(name: str, split: str, seed: int) -> list[dict]:
    """Rows of a set, its options shuffled with ``seed`` where the right one always comes first.

    Raises
    ------
    ValueError
        If the set has no such split with labels.
    """
    found = SETS[name]
    if split not in found.splits:
        raise ValueError(
            f"{name} has no {split} split with labels; choose one of {', '.join(found.splits)}"
        )
    rows = load_dataset(found.path, found.config, split=found.splits[split]).to_list()
    rows = [found.to_row(row) for row in rows]
    return [shuffle_row(row, seed) for row in rows] if found.first_is_right else rows
