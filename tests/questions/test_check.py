"""The rules of a row: each fault with its error, then what passes, and as what."""

import math

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Value
from support.properties import given, settings, st
from support.rows import GOOD, THREE, write

from calib import build_prompts, load_questions
from calib.questions import check_questions, content_free

FAULTS = [
    ({"question": None}, r"the question is None \(null\); it must be a text"),
    ({"question": 3}, r"the question is 3 \(int\); it must be a text"),
    ({"subject": "\t"}, "the subject is empty"),
    ({"question": "a\ud800"}, r"the question holds '\\ud800', half a character"),
    ({"choices": None}, r"choices is None \(null\); it must be a list of texts"),
    ({"choices": "yes/no"}, r"choices is 'yes/no' \(str\); it must be a list of texts"),
    ({"choices": {"text": ["1", "2"], "label": ["A", "B"]}}, r"choices is .* \(dict\)"),
    ({"choices": ["1"]}, "1 options; there must be from 2 to 26"),
    ({"choices": [1, 2]}, r"an option is 1 \(int\); it must be a text \(option 0 of"),
    ({"choices": ["1", None]}, r"an option is None \(null\)"),
    ({"choices": ["1", True]}, r"an option is True \(bool\)"),
    ({"choices": ["1", "1"]}, r"an option stands twice in \['1', '1'\]"),
    ({"choices": ["1", "\udfff"]}, "an option holds .*half a character"),
    ({"answer": 2}, "answer is 2; it must be a whole number from 0 to 1"),
    ({"answer": -1}, "answer is -1; it must be a whole number from 0 to 1"),
    ({"answer": True}, r"answer is True \(bool\); it must be a whole number"),
    ({"answer": np.True_}, r"answer is .*True.* \(bool"),
    ({"answer": 0.5}, r"answer is 0.5 \(float\)"),
    ({"answer": math.nan}, r"answer is nan \(float\)"),
    ({"answer": math.inf}, r"answer is inf \(float\)"),
    ({"answer": pd.NA}, r"answer is <NA>|answer is None"),
    ({"answer": 10**5000}, "answer is something too long to be shown"),
    ({"posterior": [1.0]}, r"posterior is \[1.0\]; it must be 2 numbers"),
    ({"posterior": [-0.5, 1.5]}, r"posterior is \[-0.5, 1.5\]"),
    ({"posterior": [math.nan, 1]}, r"posterior is \[nan, 1\]"),
    ({"posterior": [0.5, 0.6]}, r"posterior \[0.5, 0.6\] sums to 1.1;"),
    ({"posterior": "ab"}, "posterior is 'ab'"),
    ({"posterior": None}, "posterior is None"),
    ({"order": [0, 0]}, r"order is \[0, 0\]; it must hold the places 0 to 1"),
]
KNOWN = {**GOOD, "posterior": [0.25, 0.75], "order": [1, 0]}


@pytest.mark.parametrize(("change", "message"), FAULTS)
def test_a_faulty_row_is_named_with_its_value_and_the_rule(change, message):
    with pytest.raises(ValueError, match=rf"^questions, question 1 \(.*\): {message}"):
        check_questions([KNOWN, {**KNOWN, **change}])


def test_a_posterior_is_known_for_all_or_for_none():
    with pytest.raises(ValueError, match=r"question 1 .*posterior is None"):
        check_questions([{**GOOD, "posterior": [0.5, 0.5]}, GOOD])


@pytest.mark.parametrize("other", [None, 5, GOOD, iter([]), np.zeros(3)])
def test_what_holds_no_questions_is_refused_by_its_type(other):
    with pytest.raises(TypeError, match=f"questions is a {type(other).__name__}; it must be a Dat"):
        check_questions(other)


def test_a_split_has_to_be_chosen():
    splits = DatasetDict(test=Dataset.from_list([GOOD]), dev=Dataset.from_list([GOOD]))
    with pytest.raises(TypeError, match="a DatasetDict; choose one of its splits: 'test', 'dev'"):
        check_questions(splits)


def test_a_list_of_something_else_is_refused():
    with pytest.raises(ValueError, match="question 1 is 5; it must be a dict"):
        check_questions([GOOD, 5])


def test_a_dataset_of_questions_is_given_back_itself():
    questions = load_questions("almanac", limit=3)
    assert check_questions(questions) is questions
    assert questions.info.dataset_name == "almanac"


def test_other_types_become_these_and_the_rest_stays():
    questions = Dataset.from_list([{**GOOD, "page": 7}])
    questions = questions.cast_column("answer", ClassLabel(names=["A", "B"]))
    questions.info.dataset_name = "a book"
    checked = check_questions(questions)
    assert checked.features["answer"] == Value("int64")
    assert checked.to_list() == [{**GOOD, "page": 7}]
    assert checked.info.dataset_name == "a book"


def test_a_column_of_nulls_is_no_posterior():
    questions = Dataset.from_list([{**GOOD, "posterior": [0.5, 0.5]}, {**GOOD, "posterior": None}])
    with pytest.raises(ValueError, match=r"question 1 .*posterior is None"):
        check_questions(questions)
    assert check_questions(questions.select([1])).column_names == list(GOOD)


@pytest.mark.parametrize("form", ["numpy", "torch", "pandas", "arrow"])
def test_a_dataset_in_another_format_is_read_as_it_is(form):
    plain = Dataset.from_list([GOOD])
    assert build_prompts(plain.with_format(form)) == build_prompts(plain)


def test_a_frame_and_a_list_are_read_alike_whatever_they_count_with():
    rows = [{**GOOD, "answer": np.int32(1)}, {**THREE, "answer": 2.0}]
    expected = [GOOD, {**THREE, "answer": 2}]
    assert check_questions(rows).to_list() == expected
    assert check_questions(pd.DataFrame(rows)).to_list() == expected
    assert check_questions(Dataset.from_list(expected).to_pandas()).to_list() == expected


def test_twenty_six_options_are_not_too_many():
    row = {**GOOD, "choices": [str(i) for i in range(26)], "answer": 25}
    assert check_questions([row, GOOD]).to_list() == [row, GOOD]


# Questions without content


def test_questions_without_content_are_welcome_where_that_is_said():
    empty = content_free([GOOD])
    with pytest.raises(ValueError, match="answer is -1"):
        check_questions(empty)
    assert check_questions(empty, unanswered=True) is empty


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"question": "1", "choices": ["1", "2"]},
        {"question": None, "choices": [None, None]},
        {"question": 5, "choices": [5, 5]},
        {"question": "\ud800", "choices": ["\ud800", "\ud800"]},
        {"question": "", "choices": [""]},
        {"question": "", "choices": None},
    ],
)
def test_no_other_question_is_without_an_answer(change):
    with pytest.raises(ValueError, match="question 0"):
        check_questions([{**GOOD, "answer": -1, **change}], unanswered=True)


def test_an_exemplar_has_an_answer():
    with pytest.raises(ValueError, match="answer is -1"):
        build_prompts([GOOD], shots=1, exemplars=content_free([GOOD]))


# Whatever stands in a row

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)


def mostly(*values):
    """Strategy: a right value, or any."""
    return st.one_of(st.sampled_from(values), VALUES)


CHANGES = {
    "question": mostly("?", "", None),
    "subject": mostly("law"),
    "choices": mostly(["a", "b"], ["a", "b", "c"]),
    "answer": mostly(0, 1, "A", "0", 1.0),
    "posterior": mostly([0.5, 0.5], [1, 0, 0]),
    "extra": VALUES,
}
ROWS = st.lists(
    st.fixed_dictionaries({}, optional=CHANGES).map(lambda change: GOOD | change),
    min_size=1,
    max_size=3,
)


def satisfies_the_rules(questions):
    for row in questions:
        n = len(row["choices"])
        assert row["question"].strip() and row["subject"].strip()
        assert 2 <= n <= 26 and len(set(row["choices"])) == n
        assert all(type(text) is str and text.strip() for text in row["choices"])
        assert type(row["answer"]) is int and 0 <= row["answer"] < n
        if "posterior" in questions.column_names:
            assert len(row["posterior"]) == n and min(row["posterior"]) >= 0
            assert math.isclose(sum(row["posterior"]), 1, abs_tol=1.1e-4)


def loads_or_says_where(source, n_rows):
    try:
        questions = load_questions(source)
    except ValueError as error:
        assert "question " in str(error) or "column" in str(error) or "line " in str(error), error
    else:
        assert len(questions) == n_rows
        satisfies_the_rules(questions)


@settings(max_examples=300, deadline=None)
@given(rows=ROWS)
def test_any_values_give_questions_or_the_row_that_is_at_fault(rows, tmp_path_factory):
    loads_or_says_where(rows, len(rows))
    loads_or_says_where(write(tmp_path_factory.mktemp("rows"), rows), len(rows))


@settings(max_examples=300, deadline=None)
@given(rows=ROWS)
def test_any_values_in_a_frame_give_questions_or_the_row_that_is_at_fault(rows):
    columns = {name: [row.get(name) for row in rows] for row in rows for name in row}
    frame = pd.DataFrame({name: pd.Series(some, dtype=object) for name, some in columns.items()})
    loads_or_says_where(frame, len(rows))
