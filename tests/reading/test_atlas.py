"""The readings that come with the package: whole, of its own MMLU, and as they were read."""

from dataclasses import replace

import numpy as np
import pytest

from calib import Reading, atlas, evolve, load_questions, load_reading
from calib.metrics import accuracy, ece, nll
from calib.questions import question_ids
from calib.reading.atlas import save_entry

NAMES = atlas.names()
# SHA-256 of the files that the four models were read from, its first digits.
FILES = {
    "qwen2.5-coder-1.5b-instruct": ("Qwen2.5-Coder-1.5B-Instruct-Q4_K_M.gguf", "cc324af070c2"),
    "qwen2.5-coder-0.5b-instruct": ("Qwen2.5-Coder-0.5B-Instruct-AWQ-Q4_K_M.gguf", "1d9614638d18"),
    "smollm2-135m-instruct": ("SmolLM2-135M-Instruct.Q4_1.gguf", "b179c9523d0e"),
    "gemma-3-270m": ("gemma-3-270m-Q4_K_M.gguf", "a5fd3b62230a"),
}


@pytest.fixture(scope="module")
def qwen():
    return load_reading("qwen2.5-coder-1.5b-instruct/zero-shot")


def test_these_are_there():
    assert NAMES == sorted(NAMES)
    assert {
        "qwen2.5-coder-1.5b-instruct/zero-shot",
        "qwen2.5-coder-1.5b-instruct/five-shot",
        "smollm2-135m-instruct/zero-shot",
    } <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_is_of_the_questions_and_the_file_that_it_says(name):
    reading = load_reading(name)
    told, (model, prompt) = reading.provenance, name.split("/")
    questions = load_questions(told["questions"], told["split"], **told["sample"])
    np.testing.assert_array_equal(reading.question_ids, question_ids(questions))
    np.testing.assert_array_equal(reading.labels, questions["answer"])
    np.testing.assert_array_equal(reading.subjects, questions["subject"])
    file, digest = FILES[model]
    assert (told["file"]["name"], told["file"]["sha256"][:12]) == (file, digest)
    assert told["file"]["quantization"].startswith("Q4")
    assert told["shots"] == {"zero": 0, "five": 5}[prompt.split("-")[0]]
    assert told["chat_template"].startswith("used") == prompt.endswith("-chat")
    assert reading.logits.dtype == np.float32
    assert not any("/" in str(told[key]) for key in ("model", "revision", "command") if key in told)


def test_the_reading_of_all_of_mmlu_says_what_was_measured_when_it_was_made(qwen):
    # Computed from the float32 reading, before it was rounded.
    p, labels = qwen.probabilities, qwen.labels
    assert accuracy(p[[22, 23, 24, 25, 28]], labels).round(3).tolist() == [
        0.255, 0.402, 0.487, 0.481, 0.490,
    ]  # fmt: skip
    assert ece(p[[24, 25, 28]], labels, 15).round(3).tolist() == [0.337, 0.327, 0.063]
    assert nll(p[[24, 28]], labels).round(3).tolist() == [2.060, 1.149]
    evolution = evolve(qwen, n_resamples=50)
    assert (evolution.onset, evolution.decision) == (23, 24)
    assert (evolution.correction.start, evolution.correction.end) == (24, 28)


def test_half_precision_moves_no_probability_by_a_thousandth(tmp_path):
    rng = np.random.default_rng(0)
    logits = (20 + 6 * rng.normal(size=(2000, 5, 4))).astype(np.float32)
    logits[:500, :, 3] = -np.inf
    n_options, labels = np.where(np.arange(2000) < 500, 3, 4), rng.integers(3, size=2000)
    reading = Reading(logits, labels, np.array(["s"] * 2000), n_options=n_options)
    save_entry(replace(reading, residuals={0: np.ones((2000, 3))}), tmp_path)
    back = load_reading(tmp_path)
    assert back.logits.dtype == np.float16
    assert back.residuals == {}
    assert abs(back.probabilities - reading.probabilities).max() < 5e-4
    assert (back.probabilities[:, :500, 3] == 0).all()


def test_together_they_take_less_than_twenty_megabytes():
    folder = atlas.SHIPPED
    assert 0 < sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 20e6
