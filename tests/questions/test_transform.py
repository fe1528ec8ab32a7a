"""Options moved around: what is refused, cases by hand, and that nothing is lost on the way."""

from collections import Counter

import pytest
from datasets import Dataset
from support.properties import given, settings, st
from support.rows import GOOD, THREE

from calib import load_questions
from calib.questions import content_free, options_per_question, rotate_options, shuffle_options

MIXED = [{**GOOD, "posterior": [0.25, 0.75]}, {**THREE, "posterior": [0.125, 0.125, 0.75]}]


@pytest.mark.parametrize(
    ("seed", "error"), [("a", TypeError), (1.5, TypeError), (True, TypeError), (-1, ValueError)]
)
def test_a_seed_that_is_no_whole_number_is_refused(seed, error):
    with pytest.raises(error, match=f"seed is {seed!r}; it must be an integer of at least 0"):
        shuffle_options([GOOD], seed)


def test_questions_without_an_answer_are_not_shuffled():
    with pytest.raises(ValueError, match="answer is -1"):
        shuffle_options(content_free([GOOD]), 0)


@pytest.mark.parametrize("texts", [5, [5], ["N/A", None], []])
def test_content_free_takes_texts_alone(texts):
    with pytest.raises(ValueError, match="it must be a list of one text at least"):
        content_free([GOOD], texts)


def test_content_free_needs_as_many_options_in_each():
    with pytest.raises(ValueError, match="from 2 to 3 options; all must have equally many"):
        content_free([GOOD, THREE])


def test_options_are_counted_for_each_question():
    counts = options_per_question([GOOD, THREE, GOOD])
    assert (counts.tolist(), counts.dtype) == ([2, 3, 2], "int64")
    empty = Dataset.from_list([GOOD]).select([])
    assert (options_per_question(empty).shape, options_per_question(empty).dtype) == ((0,), "int64")


def test_each_question_turns_by_its_own_number_of_options():
    turned = rotate_options(
        [{**row, "order": list(range(len(row["choices"])))} for row in MIXED], 1
    )
    assert turned["choices"] == [["2", "1"], ["3", "1", "2"]]
    assert turned["answer"] == [0, 0]
    assert turned["posterior"] == [[0.75, 0.25], [0.75, 0.125, 0.125]]
    assert turned["order"] == [[1, 0], [2, 0, 1]]


@settings(max_examples=50, deadline=None)
@given(seeds=st.lists(st.integers(0, 2**40), min_size=1, max_size=3), shift=st.integers(-5, 5))
def test_the_order_leads_back_to_the_file(seeds, shift):
    moved = Dataset.from_list([{**row, "page": i} for i, row in enumerate(MIXED)])
    for seed in seeds:
        moved = rotate_options(shuffle_options(moved, seed), shift)
    for row, before in zip(moved, MIXED, strict=True):
        assert row["choices"] == [before["choices"][place] for place in row["order"]]
        assert row["posterior"] == [before["posterior"][place] for place in row["order"]]
        assert row["order"][row["answer"]] == before["answer"]
    assert moved["page"] == [0, 1]


def test_the_order_depends_on_the_question_and_the_seed_alone():
    rows = [{**GOOD, "question": f"{i}?", "choices": list("abcde")} for i in range(500)]
    orders = shuffle_options(rows, 3)["order"][:]
    assert shuffle_options(rows[::-1], 3)["order"][:] == orders[::-1]
    assert shuffle_options([{**rows[7], "subject": "law"}], 3)["order"][0] == orders[7]
    assert shuffle_options(rows, 4)["order"][:] != orders
    # Each option is as likely in each place: 100 of 500, with a deviation of 9.
    for place in range(5):
        assert all(60 < n < 140 for n in Counter(order[place] for order in orders).values())


def test_what_was_shuffled_stays_so_when_it_is_loaded_again():
    shuffled = shuffle_options(load_questions("almanac", limit=5), 1)
    again = load_questions(shuffled)
    assert again.to_list() == shuffled.to_list()
    assert again.info.dataset_name == "almanac"
