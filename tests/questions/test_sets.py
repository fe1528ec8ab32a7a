"""The paper's other data: a row of each as the hub has it, and the files where there is a copy."""

import os
from pathlib import Path

import pytest
from support.book import ROOT

from calib import load_questions
from calib.questions import options_per_question, shuffle_options
from calib.questions.sets import SETS, load_set

FOLDER = Path(os.environ.get("OTHER_SETS_FOLDER", ROOT.parent / "shared" / "other-sets"))
SENTENCE, REVIEW = "The rope stretched.", "clever and suspenseful ."
COPA = {
    "premise": "My body cast a shadow over the grass.",
    "choice1": "The sun was rising.",
    "choice2": "The grass was cut.",
    "label": 0,
}


@pytest.mark.parametrize("name", SETS)
def test_a_split_without_labels_is_refused_before_anything_is_fetched(name):
    with pytest.raises(ValueError, match=f"{name} has no dev split with labels; choose one of tes"):
        load_questions(name, "dev")


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        (
            "truthfulqa",
            {
                "question": "Why do veins appear blue?",
                "mc1_targets": {"choices": ["Light", "Blood", "Heart"], "labels": [1, 0, 0]},
                "mc2_targets": {"choices": ["Light"], "labels": [1]},
            },
            ("Why do veins appear blue?", "truthfulqa", ["Light", "Blood", "Heart"], 0),
        ),
        (
            "copa",
            {**COPA, "question": "cause"},
            (
                "My body cast a shadow over the grass. What was the cause of this?",
                "copa cause",
                ["The sun was rising.", "The grass was cut."],
                0,
            ),
        ),
        (
            "copa",
            {**COPA, "question": "effect", "label": 1},
            (
                "My body cast a shadow over the grass. What was the result of this?",
                "copa effect",
                ["The sun was rising.", "The grass was cut."],
                1,
            ),
        ),
        (
            "cola",
            {"sentence": SENTENCE, "label": 1, "idx": 0},
            (
                f"Is this sentence linguistically acceptable? {SENTENCE}",
                "cola",
                ["No", "Yes"],
                1,
            ),
        ),
        (
            "rotten_tomatoes",
            {"text": REVIEW, "label": 1},
            (
                f"Is this review of a film negative or positive? {REVIEW}",
                "film reviews",
                ["negative", "positive"],
                1,
            ),
        ),
    ],
)
def test_a_row_of_the_hub_becomes_a_question(name, row, expected):
    question = SETS[name].to_row(row)
    assert tuple(question.values()) == expected
    assert load_questions([question]).to_list() == [question]


def test_splits_without_public_labels_are_stood_in_for():
    assert {name: found.splits for name, found in SETS.items()} == {
        "truthfulqa": {"test": "validation"},
        "copa": {"test": "validation", "validation": "train"},
        "cola": {"test": "validation", "validation": "train"},
        "rotten_tomatoes": {"test": "test", "validation": "validation"},
    }


def test_only_a_split_that_is_there_is_fetched():
    with pytest.raises(ValueError, match="truthfulqa has no validation split with labels"):
        load_set("truthfulqa", "validation", seed=0)


@pytest.mark.skipif(
    not FOLDER.exists(), reason=f"no copy of the sets at {FOLDER}; name one in OTHER_SETS_FOLDER"
)
@pytest.mark.filterwarnings("ignore:the right answer of all")
@pytest.mark.parametrize(
    ("file", "count", "most"),
    [
        ("truthfulqa", 813, 13),
        ("copa-dev", 500, 2),
        ("copa-test", 500, 2),
        ("cola-dev", 1043, 2),
        ("rotten-tomatoes-test", 1066, 2),
    ],
)
def test_the_files_load_whole_and_shuffled(file, count, most):
    questions = load_questions(FOLDER / f"{file}.jsonl")
    counts = options_per_question(questions)
    assert (len(questions), counts.min(), counts.max()) == (count, 2, most)
    shuffled = shuffle_options(questions, 0)
    for before, after in zip(questions, shuffled, strict=True):
        right = after["choices"][after["answer"]]
        assert right == before["choices"][before["answer"]]
    assert {0, 1} <= set(shuffled["answer"])
