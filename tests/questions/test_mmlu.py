"""MMLU itself, as it comes with the package."""

import hashlib
import json
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
from calib.questions.mmlu import KNOWN_REPEATS, has_known_repeat

FOLDER = Path(os.environ.get("MMLU_FOLDER", ROOT.parent / "shared" / "mmlu"))
# SHA-256, its first 32 digits, of the JSON of subject, question, options and answer, row by row, as
# they were in a copy of the hub's cais/mmlu (whose validation split is the early release's here).
DIGESTS = {
    "test": "7151f6835ac44f4ecb10b77e3c54ec5c",
    "validation": "8ec6314f4005d98e15913b2d873a0297",
    "dev": "1532eece7f4255f9f2ef40267141156b",
}


@pytest.fixture(scope="module")
def questions():
    return load_questions("mmlu")


@pytest.mark.parametrize("split", DIGESTS)
def test_each_split_is_the_one_that_was_released(split):
    digest = hashlib.sha256()
    for row in load_questions("mmlu", split):
        parts = [row[name] for name in ("subject", "question", "choices", "answer")]
        digest.update(json.dumps(parts).encode())
    assert digest.hexdigest()[:32] == DIGESTS[split]


@pytest.mark.skipif(
    not FOLDER.exists(),
    reason=f"no copy of MMLU at {FOLDER}; name one in MMLU_FOLDER, in the layout of cais/mmlu",
)
@pytest.mark.parametrize("split", DIGESTS)
def test_the_rows_are_those_of_a_copy_of_the_hubs(split):
    name = str(FOLDER / "all" / f"{split}-*.parquet")
    plain = load_dataset("parquet", data_files=name)["train"]
    own = load_questions("mmlu", split)
    assert own.to_list() == plain.select_columns(own.column_names).to_list()


def test_the_questions_that_repeat_an_option_are_the_thirteen_known():
    rows = [row for split in DIGESTS for row in load_questions("mmlu", split)]
    repeated = [row for row in rows if len(set(row["choices"])) < len(row["choices"])]
    assert len(repeated) == len(KNOWN_REPEATS) == 13
    assert all(map(has_known_repeat, repeated))


def test_a_stratified_subset_has_each_subjects_share():
    some = load_questions("mmlu", limit=2000, stratify=True)
    counts, whole = Counter(some["subject"]), Counter(load_questions("mmlu")["subject"])
    assert (len(some), len(counts)) == (2000, 57)
    assert max(abs(counts[s] - 2000 * whole[s] / 14_042) for s in whole) < 1
    assert counts["professional_law"] == 218  # 1,534 of 14,042
    other = load_questions("mmlu", limit=2000, stratify=True, seed=1)
    assert set(some["question"]) != set(other["question"])


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
    stem = load_questions("mmlu", category="STEM")
    assert len(stem) == 3018
    letters = Counter(stem["answer"])
    assert [letters[i] for i in range(4)] == [645, 719, 783, 871]
    assert round(871 / 3018, 2) == 0.29  # as chapter 2 says


@pytest.mark.parametrize(("split", "count"), [("validation", 1542), ("dev", 285)])
def test_the_other_splits_load(split, count):
    questions = load_questions("mmlu", split)
    assert len(questions) == count
    assert len(set(questions["subject"])) == 57


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
    some = load_questions("mmlu", category="STEM", limit=200)
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
