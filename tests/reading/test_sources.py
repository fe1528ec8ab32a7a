"""Readings by path or by name, and several on the questions that all have read."""

import numpy as np
import pytest

from calib import Reading, atlas, load_reading
from calib.reading import same_questions


def reading(ids, n_layers=1, **fields):
    n = len(ids)
    ids = None if ids is None else np.array(ids, dtype=np.uint64)
    logits = np.arange(n * n_layers * 2, dtype=np.float32).reshape(n, n_layers, 2)
    labels, subjects = np.zeros(n, int), np.array(["s"] * n)
    return Reading(logits, labels, subjects, question_ids=ids, **fields)


def test_a_path_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = atlas.names()[0]
    assert len(load_reading(name)) > 1
    reading([7]).save(tmp_path / name)
    assert load_reading(name).question_ids.tolist() == [7]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "qwen-1.5b/zero-shot",
            "no file or folder 'qwen-1.5b/zero-shot' .*did you mean .*qwen",
        ),
        ("nowhere", "did you mean .*smollm2-135m-instruct/zero-shot"),
        ("file.txt", "file.txt is a file, and no samples_"),
        ("empty", "reading.safetensors is missing"),
    ],
)
def test_what_is_no_reading_is_refused_with_what_there_is(source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("no reading")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        load_reading(source)


@pytest.mark.parametrize("source", [None, 3, [], [3]])
def test_a_source_of_another_kind_is_refused(source):
    with pytest.raises(TypeError, match="must be a folder, a name"):
        load_reading(source)


def test_only_the_questions_of_all_are_kept_in_the_order_of_the_first():
    one, other = reading([5, 3, 9, 1]), reading([1, 9, 2, 3], n_layers=3)
    a, b = same_questions(one, other)
    assert a.question_ids.tolist() == b.question_ids.tolist() == [3, 9, 1]
    assert a.logits[:, 0, 0].tolist() == [2, 4, 6]  # rows 1, 2 and 3 of the first
    assert b.logits[:, 0, 0].tolist() == [18, 6, 0]  # rows 3, 1 and 0 of the other


def test_a_repeated_question_goes_with_its_own_place():
    a, b = same_questions(reading([4, 4, 6]), reading([6, 4, 4]))
    assert a.logits[:, 0, 0].tolist() == [0, 2, 4]
    assert b.logits[:, 0, 0].tolist() == [2, 4, 0]
    a, b = same_questions(reading([4, 4]), reading([4]))
    assert (len(a), len(b)) == (1, 1)


def test_readings_without_common_or_known_questions_are_refused():
    with pytest.raises(ValueError, match="no question in common"):
        same_questions(reading([1]), reading([2]))
    unknown = Reading(np.zeros((1, 1, 2)), [0], ["s"], provenance={"model": "old"})
    with pytest.raises(ValueError, match=r"reading 1 \(old\) does not say which questions"):
        same_questions(reading([1]), unknown)


def test_what_its_questions_are_is_kept_on_disk_and_in_a_selection(tmp_path):
    some = reading([5, 2**64 - 1, 7])
    some.save(tmp_path)
    back = load_reading(tmp_path)
    assert back.question_ids.tolist() == [5, 2**64 - 1, 7]
    assert back.select([2, 0]).question_ids.tolist() == [7, 5]
