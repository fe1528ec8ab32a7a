"""Readings from lm-evaluation-harness' files, in ``harness``: what it wrote, and what is refused.

The files are those that lm_eval 0.4.13 wrote here with SmolLM2-135M-Instruct in float32 on 24
questions of MMLU and six sentences to finish; of the results, ``pretty_env_info``, ``date``,
``configs`` and the duration were taken out, which tell of the machine and of local files.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from calib import Reading, metrics
from calib.reading import read_harness
from calib.reading.sources import load_reading, same_questions

FOLDER = Path(__file__).parent / "harness"
DATE = "2026-11-28T13-30-38.887118"
SUBJECTS = ("astronomy", "global_facts", "philosophy")
MMLU = [FOLDER / f"samples_mmlu_{subject}_{DATE}.jsonl" for subject in SUBJECTS]
SENTENCES = FOLDER / f"samples_sentences_{DATE}.jsonl"
RESULTS = f"results_{DATE}.json"


@pytest.fixture(scope="module")
def reading():
    return read_harness(MMLU)


def lines_of(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write(folder, rows, name=MMLU[0].name):
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def changed(folder, **fields):
    """A copy in which the third document is another."""
    rows = lines_of(MMLU[0])
    rows[2] |= fields
    return write(folder, rows)


# What the harness wrote


def test_the_accuracy_is_the_one_that_the_harness_tells(reading):
    told = json.loads((FOLDER / RESULTS).read_text(encoding="utf-8"))["results"]
    for subject in SUBJECTS:
        part = reading.select(reading.subjects == subject)
        accuracy = metrics.accuracy(part.probabilities[-1], part.labels)
        assert accuracy == pytest.approx(told[f"mmlu_{subject}"]["acc,none"])
    assert metrics.accuracy(reading.probabilities[-1], reading.labels) == pytest.approx(5 / 24)


def test_the_probabilities_are_those_that_calib_reads_of_the_same_model(reading):
    """Read by read_layers on the same questions, of the same weights; the largest difference of
    all 24 questions was 1.4e-6."""
    first_of_each = [
        [0.8798026332, 0.0095543298, 0.0577659516, 0.0528770855],
        [0.8515510614, 0.0046406327, 0.0444193870, 0.0993889891],
        [0.7746361297, 0.0126848479, 0.0251648625, 0.1875141599],
    ]
    np.testing.assert_allclose(reading.probabilities[-1][::8], first_of_each, atol=3e-6)


def test_the_atlas_holds_the_same_questions_and_nearly_the_same_probabilities(reading):
    ours, theirs = same_questions(reading, load_reading("smollm2-135m-instruct/zero-shot"))
    assert len(ours) == 24
    assert ours.labels.tolist() == theirs.labels.tolist()
    # The atlas keeps logits in float16.
    np.testing.assert_allclose(ours.probabilities[-1], theirs.probabilities[-1], atol=5e-4)


def test_a_reading_has_one_layer_in_the_order_of_the_files(reading):
    assert reading.logits.shape == (24, 1, 4)
    assert reading.n_layers == 0
    assert reading.subjects.tolist() == [subject for subject in SUBJECTS for _ in range(8)]
    assert reading.labels[:8].tolist() == [3, 1, 2, 3, 3, 0, 3, 0]
    assert reading.logits[0, 0].tolist() == [
        -3.843113660812378, -8.36582088470459, -6.566412448883057, -6.65484094619751,
    ]  # fmt: skip
    assert set(reading.categories) == {"STEM", "other", "humanities"}
    assert read_harness(MMLU[::-1]).subjects[0] == "philosophy"


def test_the_provenance_tells_the_model_and_the_files(reading):
    told = reading.provenance
    assert told["model"] == "SmolLM2-135M-Instruct"
    assert told["model_args"] == {"pretrained": "SmolLM2-135M-Instruct", "dtype": "float32"}
    assert (told["backend"], told["dtype"], told["shots"]) == ("hf", "float32", 0)
    assert (told["chat_template"], told["options"]) == ("not used", "letters")
    assert told["versions"]["lm_eval"] == "0.4.13"
    assert told["tasks"] == {f"mmlu_{subject}": 1.0 for subject in SUBJECTS}
    assert list(told["files"]) == [file.name for file in MMLU]
    assert told["files"][MMLU[0].name].startswith("09f9da539fac60a5")


def test_options_that_are_texts_differ_in_number_and_are_not_divided_by_their_length():
    reading = read_harness(SENTENCES)
    assert reading.n_options.tolist() == [3, 2, 4, 3, 4, 2]
    assert reading.provenance["options"] == "texts"
    assert set(reading.subjects) == {"sentences"}
    assert reading.question_ids is None
    assert np.isneginf(reading.logits[1, 0, 2:]).all()
    # "Two plus two makes": five -2.658, four -2.726
    assert reading.probabilities[-1][1].round(4).tolist() == [0.5169, 0.4831, 0.0, 0.0]
    assert read_harness([*MMLU, SENTENCES]).provenance["options"] == "letters and texts"


def test_it_is_saved_and_loaded_as_any_other(reading, tmp_path):
    reading.save(tmp_path / "kept")
    again = Reading.load(tmp_path / "kept")
    np.testing.assert_array_equal(again.logits, reading.logits)
    assert again.provenance == reading.provenance


def test_without_results_the_model_is_not_told(tmp_path):
    shutil.copy(MMLU[0], tmp_path)
    told = read_harness(tmp_path / MMLU[0].name).provenance
    assert (told["model"], told["shots"], told["chat_template"]) == ("not told",) * 3


# How else the harness writes it


def test_files_of_versions_before_0_4_3_are_read_alike(tmp_path):
    rows = lines_of(MMLU[0])
    for row in rows:
        row["target"] = int(row["target"])
        row["arguments"] = [list(pair.values()) for pair in row["arguments"].values()]
        row["filtered_resps"] = [[float(x), y == "True"] for x, y in row["filtered_resps"]]
        del row["filter"], row["doc_hash"]
    file = tmp_path / MMLU[0].name
    file.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    old, new = read_harness(file), read_harness(MMLU[0])
    np.testing.assert_array_equal(old.logits, new.logits)
    assert old.labels.tolist() == new.labels.tolist()


@pytest.mark.parametrize("targets", ["ABCD", (" A", " B", " C", " D")])
def test_a_target_may_be_the_text_of_an_option(tmp_path, targets):
    rows = lines_of(MMLU[0])
    for row in rows:
        row["target"] = targets[int(row["target"])]
    assert read_harness(write(tmp_path, rows)).labels.tolist() == [3, 1, 2, 3, 3, 0, 3, 0]


def numbered(folder, target, acc):
    """Documents with the options 1, 2 and 3, of which the second is the likeliest."""
    pair = {f"gen_args_{i}": {"arg_0": "1 + 1 =", "arg_1": f" {i + 1}"} for i in range(3)}
    scores = [["-3.0", "False"], ["-1.0", "True"], ["-4.0", "False"]]
    row = {"doc": {}, "target": target, "arguments": pair, "filtered_resps": scores, "acc": acc}
    return write(folder, [row | {"doc_id": i} for i in range(2)], f"samples_sums_{DATE}.jsonl")


def test_where_options_are_numbers_acc_tells_index_from_text(tmp_path):
    assert read_harness(numbered(tmp_path, "1", 1.0)).labels.tolist() == [1, 1]  # index 1
    assert read_harness(numbered(tmp_path, "2", 1.0)).labels.tolist() == [1, 1]  # text "2"
    assert read_harness(numbered(tmp_path, "3", 0.0)).labels.tolist() == [2, 2]  # text "3"


def test_options_scored_without_their_question_too_are_left_out(tmp_path):
    rows = lines_of(MMLU[0])
    for row in rows:
        for i in range(4):
            row["arguments"][f"gen_args_{i + 4}"] = {"arg_0": "", "arg_1": f" {'ABCD'[i]}"}
        row["filtered_resps"] += [["-1.0", "False"]] * 4
        row["acc_mutual_info"] = 0.0
    reading = read_harness(write(tmp_path, rows))
    np.testing.assert_array_equal(reading.logits, read_harness(MMLU[0]).logits)


def test_a_subject_is_found_in_the_data_where_the_task_does_not_name_it(tmp_path):
    rows = lines_of(MMLU[0])
    other = write(tmp_path, rows, f"samples_mmlu_continuation_astronomy_{DATE}.jsonl")
    assert set(read_harness(other).subjects) == {"astronomy"}


# What is refused


def test_a_file_that_is_cut_off(tmp_path):
    file = tmp_path / MMLU[0].name
    text = MMLU[0].read_text(encoding="utf-8")
    file.write_text(text[:-100], encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 8 is no JSON .*; the file is cut off: copy it aga"):
        read_harness(file)
    file.write_text(text[:100] + text[200:], encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 1 is no JSON .*; it must be a document"):
        read_harness(file)


def test_a_file_that_is_cut_off_between_two_lines(tmp_path):
    shutil.copy(FOLDER / RESULTS, tmp_path)
    file = write(tmp_path, lines_of(MMLU[0])[:5])
    with pytest.raises(ValueError, match="holds 5 documents, but its run had 8"):
        read_harness(file)


def test_results_of_another_run(tmp_path):
    results = json.loads((FOLDER / RESULTS).read_text(encoding="utf-8"))
    results["results"]["mmlu_astronomy"]["acc,none"] = 0.5
    (tmp_path / RESULTS).write_text(json.dumps(results), encoding="utf-8")
    shutil.copy(MMLU[0], tmp_path)
    with pytest.raises(ValueError, match=r"accuracy 0.250000, but the results .* 0.500000"):
        read_harness(tmp_path / MMLU[0].name)
    (tmp_path / RESULTS).write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=f"{RESULTS} is no JSON"):
        read_harness(tmp_path / MMLU[0].name)
    (tmp_path / RESULTS).write_text('{"config": 1}', encoding="utf-8")
    with pytest.raises(ValueError, match=f"{RESULTS} holds no results"):
        read_harness(tmp_path / MMLU[0].name)


LOW = ["-9.0", "False"]
# As lm_eval 0.4.13 writes a task of generate_until.
WRITTEN = {
    "arguments": {"gen_args_0": {"arg_0": "The capital of France is", "arg_1": {"until": ["\n"]}}},
    "filtered_resps": [" Paris."],
}
ONE = {"arguments": {"gen_args_0": {"arg_0": "x", "arg_1": " y"}}, "filtered_resps": [LOW]}
IN_PROMPT = {
    "arguments": {f"gen_args_{i}": {"arg_0": f"{i}", "arg_1": " y"} for i in range(2)},
    "filtered_resps": [LOW, LOW],
}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (WRITTEN, "the model was asked to write a text"),
        (ONE, "has one option"),
        (IN_PROMPT, "the options stand in the prompts"),
        ({"arguments": [["x"]]}, "arguments are .* must be a context and an option"),
        ({"arguments": {"gen_args_1": ["x", " A"]}}, "arguments are .* must be a context"),
        ({"filtered_resps": ["-1.0"] * 4}, "filtered_resps are"),
        ({"filtered_resps": [LOW] * 3}, "has 4 arguments and 3 scores"),
        ({"filtered_resps": [LOW] * 3 + [["nan", "False"]]}, "of option 3 is nan, which is not f"),
        ({"filtered_resps": [["-inf", "False"]] + [LOW] * 3}, "of option 0 is -inf"),
        ({"acc": None}, "acc is None; it must be 0 or 1"),
        ({"acc": 0.25}, "acc is 0.25"),
        ({"acc": 1.0}, "acc is 1, but option 0 has the largest .* target '2' is option 2"),
        ({"target": "0"}, "acc is 0, but option 0 has the largest .* target '0' is option 0"),
        ({"target": "4"}, "target is '4', which is neither the index nor the text"),
        ({"target": "[0, 2]"}, "tasks with several right answers"),
        ({"doc_id": 1}, "document 1 stands there before, in .*line 2"),
        ({"doc_id": None}, "lacks a whole number as doc_id"),
    ],
)
def test_a_line_that_is_no_answer_to_a_question_of_several_options(tmp_path, fields, words):
    file = changed(tmp_path, **fields)
    with pytest.raises(ValueError, match=f"{file.name}, line 3.*{words}"):
        read_harness(file)


def test_targets_that_may_be_indices_or_texts(tmp_path):
    """Options 2, 1, 0, of which the second is likeliest: "0" is the first or the third."""
    file = numbered(tmp_path, "0", 0.0)
    rows = lines_of(file)
    for row in rows:
        for i, pair in enumerate(row["arguments"].values()):
            pair["arg_1"] = f" {2 - i}"
    with pytest.raises(ValueError, match="no label can be told"):
        read_harness(write(tmp_path, rows, file.name))


def test_what_is_no_file_of_samples(tmp_path):
    for name, text, words in (
        (MMLU[0].name, "", "is empty"),
        (MMLU[0].name, '{"question": "?"}', "line 1 lacks doc_id, doc, target, arguments"),
        (MMLU[0].name, "7", "line 1 lacks doc_id"),
        (MMLU[0].name, "[1, 2", "is no JSON"),
        (MMLU[0].name, "[1, 2]", "entry 1 lacks doc_id"),
        ("mine.jsonl", "{}", "is not named samples_<task>_<date>.jsonl"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=words):
            read_harness(tmp_path / name)
    (tmp_path / MMLU[0].name).write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is no text in UTF-8"):
        read_harness(tmp_path / MMLU[0].name)
    with pytest.raises(ValueError, match="is a folder: name the files in it"):
        read_harness(tmp_path)
    with pytest.raises(ValueError, match=r"nothing\.jsonl is not there"):
        read_harness(tmp_path / "nothing.jsonl")
    with pytest.raises(ValueError, match="there are no paths"):
        read_harness([])
    with pytest.raises(TypeError, match="paths are 3"):
        read_harness(3)


def test_files_of_two_models(tmp_path):
    results = json.loads((FOLDER / RESULTS).read_text(encoding="utf-8"))
    results["model_name"] = "another"
    (tmp_path / RESULTS).write_text(json.dumps(results), encoding="utf-8")
    shutil.copy(MMLU[1], tmp_path)
    other = tmp_path / MMLU[1].name
    words = "are not of one model, run in one way: model is 'SmolLM2-135M-Instruct' and 'another'"
    with pytest.raises(ValueError, match=words):
        read_harness([MMLU[0], other])
    (tmp_path / RESULTS).unlink()  # nor is it known to be the same
    with pytest.raises(ValueError, match="model is 'SmolLM2-135M-Instruct' and 'not told'"):
        read_harness([MMLU[0], other])
    (tmp_path / "second").mkdir()
    shutil.copy(MMLU[0], tmp_path / "second")
    with pytest.raises(ValueError, match="lie in several folders"):
        read_harness([other, tmp_path / "second" / MMLU[0].name])


def test_a_task_that_is_there_twice(tmp_path):
    later = tmp_path / MMLU[0].name.replace("2026-11-28", "2026-11-29")
    shutil.copy(MMLU[0], later)
    with pytest.raises(ValueError, match="are both of the task 'mmlu_astronomy'"):
        read_harness([MMLU[0], later])


def test_the_files_tell_nothing_of_the_machine_they_were_made_on():
    for file in FOLDER.iterdir():
        text = file.read_text(encoding="utf-8")
        assert not [word for word in ("/tmp", "/work", "/home", "/root", "GiB") if word in text]
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 60_000
