"""The spellings that people have: what is refused, then each set's own columns."""

import numpy as np
import pytest
from support.rows import GOOD

from calib import load_questions

OPTIONS = {"A": "1", "B": "2", "C": "3", "D": "4"}
MMMLU = {"Question": "What?", **OPTIONS, "Answer": "D", "Subject": "law"}
READ = {"question": "What?", "subject": "law", "choices": ["1", "2", "3", "4"], "answer": 3}


def without(row, name):
    return {key: value for key, value in row.items() if key != name}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (GOOD | {"Answer": 0}, "'answer' and 'Answer' are both answer"),
        (GOOD | {"options": ["1", "2"]}, "'choices' and 'options' are both choices"),
        (GOOD | {"A": "1", "b": "2"}, "'choices' and 'A' are both options"),
        (MMMLU | {"option_a": "1", "option_b": "2"}, "'A' and 'option_a' are both options"),
        (without(MMMLU, "C"), r"columns \['A', 'B', 'D'\] are options, but there is none for C"),
        (without(GOOD, "subject"), "no column 'subject'; .*add one: every question needs a subj"),
        (without(GOOD, "choices"), "no column 'choices'; found .*'question'"),
        (GOOD | {"answer": "C"}, r"question 0 .*answer is 'C' \(str\); it must be"),
        (GOOD | {"choices": 1, "answer": "A"}, r"question 0 .*choices is 1 \(int\)"),
        (GOOD | {"answer": "two"}, "question 0 .*answer is 'two'"),
        (GOOD | {"answer": "²"}, "question 0 .*answer is '²'"),
        (GOOD | {"answer_index": 0}, "question 0: answer and answer_index say 1 and 0"),
        (MMMLU | {"B": ""}, r"question 0 .*an option is empty; it needs a text \(option 1"),
        (MMMLU | {"B": 2}, r"an option is 2 \(int\)"),
    ],
)
def test_columns_that_say_two_things_or_nothing_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        load_questions([row])


@pytest.mark.parametrize(("letter", "index"), [("A", 1), ("b", "0")])
def test_answers_that_could_be_both_are_refused(letter, index):
    rows = [GOOD | {"answer": answer} for answer in (letter, letter, index)]
    with pytest.raises(ValueError, match="a letter at question 0 and an index at question 2"):
        load_questions(rows)


@pytest.mark.parametrize(
    "row",
    [
        READ,
        MMMLU,
        {key.lower(): value for key, value in MMMLU.items()},
        without(READ, "choices") | {f"option_{k.lower()}": v for k, v in OPTIONS.items()},
        without(without(READ, "subject"), "choices")  # MMLU-Pro
        | {"options": READ["choices"], "answer": "D", "answer_index": 3, "category": "law"},
        READ | {"category": "humanities"},
        without(READ, "answer") | {"answer_index": 3},
        READ | {"answer": " d "},
        READ | {"answer": "3"},
        READ | {"choices": np.array(READ["choices"]), "answer": "D"},
        READ | {"notes": [1, {"a": None}]},
        MMMLU | {"E": "", "F": None, "G": float("nan"), "H": " "},
    ],
)
def test_each_spelling_is_read_as_mmlus(row):
    assert load_questions([row]).to_list() == [READ]


def test_an_option_that_pandas_lost_is_told():
    import pandas as pd

    from calib import load_questions

    row = {"question": "Which?", "subject": "s", "A": "x", "B": "y", "C": float("nan"), "answer": 0}
    with pytest.warns(UserWarning, match="in 1 of 1 questions an option is missing .*keep_default"):
        assert load_questions(pd.DataFrame([row]))[0]["choices"] == ["x", "y"]


def test_no_subjects_are_not_all_subjects():
    from calib import load_questions

    with pytest.raises(ValueError, match="subjects is empty; leave it out to keep all"):
        load_questions("almanac", subjects=[])
