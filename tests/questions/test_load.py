"""Questions: each fault with its error, then literal values."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from support.rows import GOOD, THREE, write

from calib import build_prompts, load_questions
from calib.questions import category_of
from calib.questions.mmlu import CATEGORIES

FAULTS = {
    "the question is empty": {"question": "  "},
    "the subject is empty": {"subject": ""},
    "an option is empty": {"choices": ["1", " "]},
    "an option stands twice": {"choices": ["2", "2"]},
    r"answer is 2; it must be a whole number from 0 to 1": {"answer": 2},
    r"answer is -1": {"answer": -1},
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_faulty_row_is_named_with_the_rule_it_breaks(tmp_path, message):
    write(tmp_path, [GOOD, {**GOOD, **FAULTS[message]}])
    with pytest.raises(ValueError, match=rf"question 1 .*{message}"):
        load_questions(tmp_path)


def test_a_missing_column_is_named(tmp_path):
    write(tmp_path, [{("reply" if k == "answer" else k): v for k, v in GOOD.items()}])
    with pytest.raises(ValueError, match=r"no column 'answer'; found .*'reply'"):
        load_questions(tmp_path)


@pytest.mark.parametrize("n", [1, 27])
def test_the_number_of_options_has_bounds(tmp_path, n):
    write(tmp_path, [{**GOOD, "choices": [str(i) for i in range(n)], "answer": 0}])
    with pytest.raises(ValueError, match=rf"{n} options; there must be from 2 to 26"):
        load_questions(tmp_path)


def test_jsonl_that_is_not_utf8_is_named_by_line_and_byte(tmp_path):
    line = json.dumps({**GOOD, "question": "caf\xe9?"}, ensure_ascii=False)
    (tmp_path / "test.jsonl").write_bytes(
        json.dumps(GOOD).encode() + b"\n" + line.encode("latin-1")
    )
    with pytest.raises(ValueError, match=r"line 2: byte 17 is not UTF-8"):
        load_questions(tmp_path)


def test_parquet_that_is_not_utf8_is_refused(tmp_path):
    text = pa.array([b"caf\xe9?"]).view(pa.binary()).cast(pa.string(), safe=False)
    table = pa.table({"question": text, "subject": ["s"], "choices": [["1", "2"]], "answer": [0]})
    pq.write_table(table, tmp_path / "test-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="not UTF-8"):
        load_questions(tmp_path)


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "test.jsonl").write_text(json.dumps(GOOD) + '\n{"question": ', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        load_questions(tmp_path)


def test_a_line_that_is_no_object_is_named(tmp_path):
    (tmp_path / "test.jsonl").write_text(json.dumps(GOOD) + '\n["What?", 1]', encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 2 is \['What\?', 1\]; it must be an object"):
        load_questions(tmp_path)


def test_an_empty_file_is_refused(tmp_path):
    pq.write_table(pa.Table.from_pylist([GOOD]).slice(0, 0), tmp_path / "test.parquet")
    with pytest.raises(ValueError, match="there are no questions"):
        load_questions(tmp_path)


def test_a_folder_without_the_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"neither 'almanac' nor 'mmlu' nor a folder with test"):
        load_questions(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "train"}, "split 'train' is unknown; choose one of test, validation, dev"),
        ({"subjects": "local_legend"}, "no subject 'local_legend' here; did you mean local_legend"),
        ({"category": "stem"}, "category 'stem' is unknown; choose one of STEM, humanities"),
        ({"subjects": ["fair_music"], "category": "STEM"}, "none of the subjects"),
        ({"category": ["STEM"]}, r"category \['STEM'\] is unknown"),
        ({"subjects": 5}, "subjects is 5; it must be a subject or a list of them"),
        ({"subjects": ["fair_music", 5]}, "subjects is .*; it must be a subject or a list"),
        ({"limit": 0}, "limit is 0"),
        ({"limit": True}, "limit is True"),
        ({"seed": -1}, "seed is -1; it must be a whole number of at least 0"),
        ({"seed": "a"}, "seed is 'a'"),
        ({"repeats": "ignore"}, "repeats 'ignore' is unknown; choose one of refuse, drop, keep"),
    ],
)
def test_a_wrong_choice_is_answered_with_the_right_ones(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_questions("almanac", **arguments)


def test_an_unknown_subject_has_no_category():
    with pytest.raises(ValueError, match="'sums' belongs to none"):
        category_of("sums")


def test_mmlu_has_57_subjects_in_four_categories():
    sizes = {category: len(subjects) for category, subjects in CATEGORIES.items()}
    assert sizes == {"STEM": 18, "humanities": 13, "social sciences": 12, "other": 14}
    assert len(frozenset().union(*CATEGORIES.values())) == 57


def test_a_file_of_ones_own_loads_with_ten_options(tmp_path):
    ten = {**GOOD, "choices": [str(i) for i in range(10)], "answer": 9}
    questions = load_questions(write(tmp_path, [ten]))
    assert questions[0] == ten
    assert build_prompts(questions)[0].endswith("\nJ. 9\nAnswer:")


def test_the_limit_is_a_seeded_subset_in_file_order():
    everything = load_questions("almanac")
    some = load_questions("almanac", limit=50, seed=1)
    assert some["question"] != load_questions("almanac", limit=50, seed=2)["question"]
    rows = [(r["question"], tuple(r["choices"])) for r in everything]
    places = [rows.index((r["question"], tuple(r["choices"]))) for r in some]
    assert len(places) == 50
    assert places == sorted(places)


# Sources that are no folder


@pytest.mark.parametrize("source", [None, 5, GOOD, iter([])])
def test_a_source_of_another_kind_is_refused(source):
    with pytest.raises(TypeError, match=f"the source is a {type(source).__name__}; it must be a"):
        load_questions(source)


@pytest.mark.parametrize("source", [[], Dataset.from_list([GOOD]).select([])])
def test_no_rows_are_refused(source):
    with pytest.raises(ValueError, match="there are no questions"):
        load_questions(source)


def test_a_category_needs_subjects_of_mmlu():
    with pytest.raises(ValueError, match="'sums' belongs to none of MMLU's categories"):
        load_questions([GOOD], category="STEM")


@pytest.mark.parametrize("hold", [list, pd.DataFrame, Dataset.from_list])
def test_rows_at_hand_are_read_like_those_of_a_file(hold, tmp_path):
    rows = [GOOD, THREE]
    questions = load_questions(hold(rows))
    assert questions.to_list() == load_questions(write(tmp_path, rows)).to_list() == rows
    assert questions.info.dataset_name is None
    assert load_questions(hold(rows), limit=1, seed=0).num_rows == 1


# Repeated options, and right answers all in one place

TWICE = {**GOOD, "question": "Which?", "choices": ["1", "1"]}


def test_a_repeated_option_can_be_dropped():
    with pytest.raises(ValueError, match=r"question 1 .*an option stands twice"):
        load_questions([GOOD, TWICE])
    with pytest.warns(UserWarning, match="1 of 2 questions are left out: an option stands twice"):
        assert load_questions([GOOD, TWICE], repeats="drop").to_list() == [GOOD]
    with pytest.raises(ValueError, match=r"question 1 .*answer is 7"):
        load_questions([GOOD, {**TWICE, "answer": 7}], repeats="drop")
    with (
        pytest.warns(UserWarning, match="1 of 1"),
        pytest.raises(ValueError, match="there are no questions in it"),
    ):
        load_questions([TWICE], repeats="drop")


def test_a_repeated_option_can_be_kept_and_asked():
    kept = load_questions([GOOD, TWICE], repeats="keep")
    assert kept["repeats"] == [False, True]
    assert "A. 1\nB. 1\nAnswer:" in build_prompts(kept)[1]
    assert load_questions(kept).to_list() == kept.to_list()
    assert load_questions([GOOD], repeats="keep").column_names == list(GOOD)


def test_right_answers_all_in_one_place_are_pointed_out(recwarn):
    rows = [{**GOOD, "question": f"{i}?"} for i in range(20)]
    load_questions(rows[:19])
    load_questions([*rows[:19], {**rows[19], "answer": 0}])
    assert not recwarn.list
    with pytest.warns(UserWarning, match="of all 20 questions stands in place 1; .*shuffle_option"):
        load_questions(rows)


@pytest.mark.parametrize("wish", [{"stratify": True}, {"stratify": 1, "limit": 2}])
def test_a_subset_is_stratified_only_where_there_is_one(wish):
    with pytest.raises(ValueError, match=r"stratify is .* give True together with a limit"):
        load_questions("almanac", **wish)


def test_largest_remainders_share_out_what_rounding_leaves():
    # Of 10 questions 5, 3 and 2: a subset of 4 has shares of 2, 1.2 and .8.
    subjects = ["a"] * 5 + ["b"] * 3 + ["c"] * 2
    rows = [{**GOOD, "subject": s, "question": f"{s}{i}?"} for i, s in enumerate(subjects)]
    for seed in range(5):
        some = load_questions(rows, limit=4, seed=seed, stratify=True)
        assert some["subject"][:] == ["a", "a", "b", "c"]
