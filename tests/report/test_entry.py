"""The command ``calib atlas``: what it writes, and what it refuses."""

import os
from pathlib import Path

import numpy as np
import pytest
from support.architectures import TOKENIZER, random_module

from calib import load_questions, load_reading, open_model, read_layers
from calib.__main__ import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model that takes MMLU's longest prompts."""
    folder = tmp_path_factory.mktemp("models") / "Small Model"
    for part in (random_module("llama", max_position_embeddings=4096), TOKENIZER):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_entry_is_the_models_reading_in_half_precision(folder, capsys):
    main(["atlas", str(folder), "--limit", "57", "--seed", "3"])
    said = capsys.readouterr().out
    assert said.endswith(f"{os.path.join('atlas', 'small-model', 'zero-shot')}\n")
    assert said.startswith("At the last layer the accuracy of small-model is not reliably above")
    entry = load_reading("atlas/small-model/zero-shot")
    questions = load_questions("mmlu", limit=57, seed=3, stratify=True)
    whole = read_layers(open_model(folder), questions)
    np.testing.assert_allclose(entry.probabilities, whole.probabilities, atol=5e-4)
    np.testing.assert_array_equal(entry.question_ids, whole.question_ids)
    told = entry.provenance
    assert told["sample"] == {"limit": 57, "seed": 3, "stratify": True}
    assert (told["split"], told["device"], told["shots"]) == ("test", "cpu", 0)
    assert not (os.path.exists("atlas/small-model/zero-shot/run"))


def test_an_interrupted_entry_goes_on_and_a_finished_one_is_left_alone(folder, monkeypatch, capsys):
    arguments = ["atlas", str(folder), "--limit", "20", "--shots", "1", "--name", "mine"]
    with monkeypatch.context() as patch:
        patch.setattr("calib.report.entry.save_entry", interrupt)
        with pytest.raises(KeyboardInterrupt):
            main(arguments)
    assert os.listdir("atlas/mine/one-shot") == ["run"]
    main(arguments)
    assert load_reading("atlas/mine/one-shot").provenance["shots"] == 1
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "holds a reading already; name another --out or --name" in capsys.readouterr().err


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere/at/all"], "no folder here and no hub id"),
        (["almanac", "--dtype", "float17"], "dtype is 'float17'"),
        (["almanac", "--shots", "6"], "argument --shots: invalid choice"),
        (["almanac", "--shots", "5"], "tokens, the model's context is 1024"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["atlas", *arguments])
    assert stopped.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = [line for line in told.err.splitlines() if line.startswith("calib: ")]
    assert words in line


def test_the_help_of_a_command_is_its_own(capsys):
    for command, words in (("report", "--category"), ("atlas", "--name"), ("", "atlas")):
        with pytest.raises(SystemExit) as stopped:
            main([*command.split(), "--help"])
        assert stopped.value.code == 0
        assert words in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([])
    assert "required: COMMAND" in capsys.readouterr().err


SAMPLES = Path(__file__).parents[1] / "reading" / "harness"


def test_files_of_the_harness_are_reported_on_and_nothing_is_asked(capsys):
    files = sorted(map(str, SAMPLES.glob("samples_mmlu_*.jsonl")))
    main(["report", *files, "--out", "page"])
    said, written = capsys.readouterr().out.splitlines()
    assert said.startswith("On 24 questions SmolLM2-135M-Instruct is overconfident")
    assert Path(written).read_text(encoding="utf-8").count("calib report")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.jsonl", "--shots", "5"], "--shots says how a model is asked"),
        (["a.jsonl", "--batch-tokens", "5"], "--batch-tokens says how a model is asked"),
        (["a.jsonl", "--chat"], "--chat says how a model is asked"),
        (["almanac", "a.jsonl"], "a report is of one model, and these are 2: almanac, a.jsonl"),
        (["a.jsonl"], "a.jsonl"),
    ],
)
def test_what_does_not_go_together_is_told_in_a_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["report", *arguments])
    assert stopped.value.code == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert words in told.err
