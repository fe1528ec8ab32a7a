"""MMLU itself, where a copy of it is at hand."""

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset
from support.architectures import TOKENIZER, random_module
from support.book import ROOT

from calib import build_prompts, load_questions, open_model, read_layers
from calib.questions import category_of, option_tokens

FOLDER = Path(os.environ.get("MMLU_FOLDER", ROOT.parent / "shared" / "mmlu"))
pytestmark = pytest.mark.skipif(
    not FOLDER.exists(),
    reason=f"no copy of MMLU at {FOLDER}; name one in MMLU_FOLDER, in the layout of cais/mmlu",
)


@pytest.fixture(scope="module")
def questions():
    return load_questions(FOLDER)


def test_the_test_split_is_whole(questions):
    assert len(questions) == 14_042
    subjects = Counter(questions["subject"])
    assert len(subjects) == 57
    assert {len(choices) for choices in questions["choices"]} == {4}
    categories = Counter(category_of(subject) for subject in questions["subject"])
    assert categories == {
        "STEM": 3018, "humanities": 4705, "social sciences": 3077, "other": 3242,
    }  # fmt: skip
    assert sum(count == 100 for count in subjects.values()) == 10  # as chapter 1 says


def test_stem_has_the_papers_size_and_uneven_letters():
    stem = load_questions(FOLDER, category="STEM")
    assert len(stem) == 3018
    letters = Counter(stem["answer"])
    assert [letters[i] for i in range(4)] == [645, 719, 783, 871]
    assert round(871 / 3018, 2) == 0.29  # as chapter 2 says


@pytest.mark.parametrize(("split", "count"), [("validation", 1542), ("dev", 285)])
def test_the_other_splits_load(split, count):
    questions = load_questions(FOLDER, split)
    assert len(questions) == count
    assert len(set(questions["subject"])) == 57


def test_the_rows_are_those_datasets_reads(questions):
    plain = load_dataset("parquet", data_files=str(FOLDER / "all" / "test-*.parquet"))["train"]
    for i in (0, 7_000, 14_041):
        assert questions[i] == {name: plain[i][name] for name in questions.column_names}


@pytest.mark.parametrize("shots", [0, 5])
def test_every_question_gets_its_prompt(questions, shots):
    prompts = build_prompts(questions, shots=shots)
    assert len(prompts) == 14_042
    for prompt, row in zip(prompts, questions, strict=True):
        assert prompt.startswith("The following are multiple choice questions (with answers) about")
        assert prompt.endswith(f"\nD. {row['choices'][3]}\nAnswer:")
        assert len(re.findall(r"^Answer: [A-D]$", prompt, re.M)) == shots
        assert row["question"].strip() in prompt


def test_the_first_prompt_is_the_evaluation_harnesses(questions):
    assert build_prompts(questions)[0] == (
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
        "Find the degree for the given field extension Q(sqrt(2), sqrt(3), sqrt(18)) over Q.\n"
        "A. 0\nB. 4\nC. 2\nD. 6\nAnswer:"
    )


def test_two_hundred_of_them_read_through_a_model_as_it_reads_them_alone():
    some = load_questions(FOLDER, category="STEM", limit=200)
    module = random_module("llama", max_position_embeddings=4096)
    reading = read_layers(open_model((module, TOKENIZER)), some)
    assert reading.logits.shape == (200, 4, 4)
    assert reading.posterior is None
    np.testing.assert_array_equal(reading.labels, some["answer"])
    letters = option_tokens(TOKENIZER, 4)
    for i in range(0, 200, 20):
        ids = TOKENIZER(build_prompts(some)[i], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            own = module(input_ids=ids).logits[0, -1, letters]
        np.testing.assert_allclose(reading.logits[i, -1], own, atol=1e-5)
