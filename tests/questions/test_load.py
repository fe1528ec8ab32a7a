"""Questions: each fault with its error, then literal values."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.rows import GOOD, write

from calib import build_prompts, load_questions
from calib.questions import category_of
from calib.questions.mmlu import CATEGORIES

FAULTS = {
    "the question is empty": {"question": "  "},
    "the subject is empty": {"subject": ""},
    "3 options where the first question has 2": {"choices": ["1", "2", "3"]},
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


@pytest.mark.parametrize("n", [1, 11])
def test_the_number_of_options_has_bounds(tmp_path, n):
    write(tmp_path, [{**GOOD, "choices": [str(i) for i in range(n)], "answer": 0}])
    with pytest.raises(ValueError, match=rf"{n} options; there must be from 2 to 10"):
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
        ({"limit": 0}, "limit is 0"),
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
