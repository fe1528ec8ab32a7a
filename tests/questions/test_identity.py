"""A question is known again by its subject, its text and its options, whatever it comes in."""

import hashlib

import numpy as np
from support.rows import GOOD

from calib import load_questions
from calib.questions import question_ids, shuffle_options


def test_a_number_is_the_first_eight_bytes_of_a_digest_worked_by_hand():
    row = {"question": "1 + 1?", "subject": "sums", "choices": ["1", "2"], "answer": 1}
    digest = hashlib.sha256(b'["sums", "1 + 1?", ["1", "2"]]').hexdigest()
    assert question_ids([row]).tolist() == [int(digest[:16], 16)]


def test_every_part_of_a_question_counts_but_its_answer():
    changed = [
        {**GOOD, "question": "Another?"},
        {**GOOD, "subject": "another"},
        {**GOOD, "choices": GOOD["choices"][::-1]},
    ]
    own, *others = question_ids([GOOD, *changed]).tolist()
    assert len({own, *others}) == 4
    assert question_ids([{**GOOD, "answer": 1 - GOOD["answer"]}]).tolist() == [own]


def test_a_subset_has_the_numbers_of_the_whole():
    whole, some = load_questions("almanac"), load_questions("almanac", limit=50)
    ids = question_ids(whole)
    assert np.isin(question_ids(some), ids).all()
    same = question_ids(shuffle_options(some, seed=1)) == question_ids(some)
    assert same.sum() < 10  # one in 24 orders is the one that was


def test_mmlu_repeats_27_of_its_questions():
    ids = question_ids(load_questions("mmlu"))
    assert len(ids) - len(np.unique(ids)) == 27
