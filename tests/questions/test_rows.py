"""Files and folders: what is refused, by file and line, then every layout that is read."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.properties import given, settings, st
from support.rows import GOOD, THREE, write

from calib import load_questions

LINE = json.dumps(GOOD).encode()
NO_SUBJECT = json.dumps({name: GOOD[name] for name in ("question", "choices", "answer")})
PUBLISHED = '"One, or two?",1,2,B\n'


def put(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (LINE[:-1] + b', "answer": 0}', "cannot be read .'answer' stands twice in an object"),
        (b"[" * 100_000 + b"]" * 100_000, "cannot be read"),
        (b'{"answer": ' + b"1" * 5000 + b"}", "cannot be read"),
        (b"\xff\xfe", "byte 0 is not UTF-8"),
        (b'{"question"', "is not JSON"),
        (b"null", "is None; it must be an object"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, line, message):
    put(tmp_path, {"test.jsonl": LINE + b"\n\n" + line})
    with pytest.raises(ValueError, match=rf"test\.jsonl, line 3:? {message}"):
        load_questions(tmp_path)


def test_a_faulty_row_is_named_by_its_line(tmp_path):
    put(tmp_path, {"test-1.jsonl": LINE, "test-2.jsonl": b"\n" + LINE.replace(b'": 1}', b'": 7}')})
    with pytest.raises(ValueError, match=r"question 1 in test-2\.jsonl, line 2 .*answer is 7"):
        load_questions(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"nonsense" * 10])
def test_a_broken_parquet_is_named(tmp_path, content):
    put(tmp_path, {"test.parquet": content})
    with pytest.raises(ValueError, match=r"test\.parquet holds what cannot be read as parquet"):
        load_questions(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("What?,1,2,B\nWhat?,1,2,3,B\n", "line 2 has 5 fields, the first has 4"),
        ('What?,1,2,B\n"What?,1,2,B\n', "is not csv"),
        ("What?;1;2;B\n", "no header with 'question', and 1 columns"),
        ("question,A,A,answer\nWhat?,1,2,B\n", "columns .* are not all different"),
        ("What?,1,,3,B\n", r"question 0 in law_test.csv, line 1 .*an option is empty"),
        (
            "What?,1,2,B\nWhat?,1,2,0\n",
            r"letter at question 0 in law_test.csv, line 1 and .*line 2",
        ),
        ("What?,1,2,B\nWhat?,1,2,C\n", r"question 1 in law_test.csv, line 2 .*answer is 'C'"),
        (b"caf\xe9?,1,2,B\n", "line 1: byte 3 is not UTF-8"),
        ("question,A,B,answer\n", "there are no questions"),
    ],
)
def test_a_faulty_csv_is_named_by_its_line(tmp_path, text, message):
    put(tmp_path, {"law_test.csv": text})
    with pytest.raises(ValueError, match=message):
        load_questions(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        {"test.jsonl": LINE, "test.csv": PUBLISHED},
        {"test/law.jsonl": LINE, "test/art.csv": PUBLISHED},
        {"law/test.jsonl": LINE, "art/test.csv": PUBLISHED},
    ],
)
def test_two_kinds_of_file_in_one_place_are_refused(tmp_path, files):
    with pytest.raises(ValueError, match=r"holds .*csv and .*jsonl; which of them is meant"):
        load_questions(put(tmp_path, files))


def test_other_files_are_not_taken_for_a_split(tmp_path):
    put(tmp_path, {"values.csv": PUBLISHED, "test/._law.csv": b"\0"})
    for split in ("test", "validation"):
        with pytest.raises(ValueError, match="is neither 'almanac' nor 'mmlu' nor a folder with"):
            load_questions(tmp_path, split)


@pytest.mark.parametrize("name", ["questions.txt", "questions.json"])
def test_a_file_of_another_kind_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"is no \.parquet, \.jsonl or \.csv file"):
        load_questions(put(tmp_path, {name: LINE}) / name)


@pytest.mark.parametrize("source", ["", "no such folder", "a\0b", "x" * 5000, "\ud800"])
def test_a_path_to_nothing_is_refused(source):
    with pytest.raises(ValueError, match="is neither 'almanac' nor 'mmlu' nor a folder with"):
        load_questions(source)


@pytest.mark.parametrize(
    ("split", "files", "subjects"),
    [
        ("test", {"all/test-00000-of-00001.jsonl": LINE, "law/test.jsonl": LINE}, ["sums"]),
        ("dev", {"dev.jsonl": LINE, "test.jsonl": NO_SUBJECT}, ["sums"]),
        ("test", {"law_test.jsonl": NO_SUBJECT, "art-test.jsonl": NO_SUBJECT}, ["law"]),
        ("validation", {"us_law_val.csv": PUBLISHED, "law_test.csv": PUBLISHED}, ["us_law"]),
        ("test", {f"test/{name}_test.csv": PUBLISHED for name in ("law", "art")}, ["art", "law"]),
        ("validation", {"val/law_val.csv": PUBLISHED, "test/art_test.csv": PUBLISHED}, ["law"]),
        ("dev", {"dev/law.jsonl": NO_SUBJECT}, ["law"]),
        (
            "test",
            {f"{name}/test-00000-of-00001.jsonl": NO_SUBJECT for name in ("law", "us_law")},
            ["law", "us_law"],
        ),
    ],
)
def test_every_layout_is_read_with_its_subjects(tmp_path, split, files, subjects):
    assert load_questions(put(tmp_path, files), split)["subject"] == subjects


@pytest.mark.parametrize("name", ["law.jsonl", "law/test.jsonl", "law/test/test-0-of-1.jsonl"])
def test_a_file_alone_is_read_and_names_the_subject(tmp_path, name):
    questions = load_questions(put(tmp_path, {name: NO_SUBJECT}) / name)
    assert questions.to_list() == [{**GOOD, "subject": "law"}]
    assert questions.info.dataset_name == str(tmp_path / name)


def test_marks_and_blank_lines_are_no_fault(tmp_path):
    put(tmp_path, {"test.jsonl": b"\xef\xbb\xbf" + LINE + b"\r\n \r\n" + LINE + b"\n\n"})
    assert load_questions(tmp_path).to_list() == [GOOD, GOOD]


def test_columns_of_changing_type_order_and_number_are_no_fault(tmp_path):
    turned = dict(reversed(THREE.items()))
    write(tmp_path, [{**GOOD, "x": 1}, {"x": ["a"], **turned}], split="test-1")
    write(tmp_path, [{"y": None, **turned}], split="test-2")
    assert load_questions(tmp_path).to_list() == [GOOD, THREE, THREE]


def test_mmlus_own_csv_is_text_to_the_letter(tmp_path):
    text = "\ufeff" + PUBLISHED + '"two\nlines",NA,None,null,nan,0.50,C\n'.replace(",0.50", "")
    text = text.replace("1,2,B", "1,2,3,0.50,B")
    questions = load_questions(put(tmp_path, {"us_law_test.csv": text}))
    assert questions["question"] == ["One, or two?", "two\nlines"]
    assert questions["choices"] == [["1", "2", "3", "0.50"], ["NA", "None", "null", "nan"]]
    assert questions["answer"] == [1, 2]


def test_a_header_may_have_any_known_spelling(tmp_path):
    text = ",,Question,A,B,C,Answer,Subject\n0,0,What?,1,2,,B,law\n0,1,Who?,1,2,3,c,art\n"
    questions = load_questions(put(tmp_path, {"test.csv": text}))
    assert questions["choices"] == [["1", "2"], ["1", "2", "3"]]
    assert (questions["answer"], questions["subject"]) == ([1, 2], ["law", "art"])


def test_parquet_of_other_types_is_read(tmp_path):
    columns = {
        "question": pa.array(["What?"], pa.large_string()),
        "subject": pa.array(["law"]).dictionary_encode(),
        "choices": pa.array([["1", "2"]], pa.large_list(pa.large_string())),
        "answer": pa.array([1], pa.uint8()),
    }
    pq.write_table(pa.table(columns), tmp_path / "test.parquet")
    assert load_questions(tmp_path).to_list() == [
        {"question": "What?", "subject": "law", "choices": ["1", "2"], "answer": 1}
    ]


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(LINE)), cut=st.integers(0, 3), new=st.binary(max_size=4))
def test_any_bytes_in_a_line_give_questions_or_an_error_that_names_it(
    at, cut, new, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("bytes")
    put(folder, {"test.jsonl": LINE + b"\n" + LINE[:at] + new + LINE[at + cut :]})
    try:
        questions = load_questions(folder)
    except ValueError as error:
        assert "test.jsonl, line" in str(error)
    else:
        assert questions[0] == GOOD
        assert all(0 <= row["answer"] < len(row["choices"]) for row in questions)


def test_a_column_that_counts_the_rows_is_no_question(tmp_path):
    file = tmp_path / "law.csv"
    file.write_text("0,Which?,x,y,A\n1,What?,x,y,B\n", encoding="utf-8")
    with pytest.raises(ValueError, match="its first column counts the rows"):
        load_questions(file)
