"""A real model, SmolLM2-135M-Instruct in four bits, read as transformers itself computes it."""

import numpy as np
import pytest
import torch
import transformers
from support import smollm2

from calib import (
    build_prompts,
    load_questions,
    load_reading,
    read_branches,
    read_layers,
    steer,
)
from calib.models.place import full_precision
from calib.questions import tokenize
from calib.reading import plan_batches
from calib.steering import random_direction

N_LAYERS = 30


@pytest.fixture(scope="module")
def theirs(smollm2_file):
    """The same file, opened by transformers alone."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        smollm2_file.parent,
        gguf_file=str(smollm2_file),
        dtype=torch.float32,
        quantization_config=transformers.GgufConfig(dequantize=True),
    )


@pytest.fixture(scope="module")
def questions():
    return load_questions("mmlu", subjects=["anatomy", "virology"], limit=8, seed=8)


@pytest.fixture(scope="module")
def reading(model, questions):
    return read_layers(model, questions, batch_tokens=256, keep_residuals=[20])


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_it_speaks(model):
    ids = model.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        token = model.module(input_ids=ids).logits[0, -1].argmax()
    assert model.tokenizer.decode(token) == " Paris"


def test_the_lens_at_every_layer_is_what_transformers_own_states_give(
    model, theirs, questions, reading
):
    tokens = [model.tokenizer.encode(f" {x}", add_special_tokens=False) for x in "ABCD"]
    assert reading.provenance["option_tokens"] == [token for (token,) in tokens]
    rows = torch.tensor(tokens).flatten()
    for i, prompt in enumerate(build_prompts(questions)):
        ids = model.tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.no_grad(), full_precision("cpu"):
            output = theirs(input_ids=ids, output_hidden_states=True)
            *states, last = (state[0, -1] for state in output.hidden_states)
            states = [theirs.model.norm(state) for state in states] + [last]  # that is normed
            logits = [theirs.lm_head(state)[rows].numpy() for state in states]
        assert len(logits) == N_LAYERS + 1
        close(reading.logits[i], np.array(logits))
        close(reading.logits[i, -1], output.logits[0, -1, rows].numpy())


def test_a_reading_of_mmlu(reading):
    assert reading.logits.shape == (8, N_LAYERS + 1, 4)
    assert reading.labels.tolist() == [2, 2, 0, 3, 0, 1, 2, 3]
    told = [[0.7961, 0.0021, 0.018, 0.1838], [0.7244, 0.0034, 0.0696, 0.2026]]
    np.testing.assert_allclose(reading.probabilities[-1, :2], told, atol=2e-3)


def test_provenance_names_the_file_its_digest_and_its_quantization(reading):
    told = reading.provenance
    assert told["file"] == {"name": smollm2.NAME, "sha256": smollm2.SHA256, "quantization": "Q4_1"}
    assert (told["model"], told["architecture"]) == (smollm2.NAME, "LlamaForCausalLM")
    assert (told["dtype"], told["questions"]) == ("float32", "mmlu")


def test_shared_exemplars_change_no_number(model, questions, monkeypatch):
    prompts = tokenize(model.tokenizer, build_prompts(questions, 3))
    limits = questions["subject"], 8192, model.context
    assert [b.shared > 100 for b in plan_batches(prompts, *limits, share=True)] == [True, True]
    shared = read_layers(model, questions, shots=3)
    monkeypatch.setattr("calib.reading._run.can_share", lambda _: False)
    whole = read_layers(model, questions, shots=3)
    close(shared.logits, whole.logits)


def test_branches_are_pushes_read_one_at_a_time(model, questions, reading):
    some = questions.select(range(2))
    branches = [
        (random_direction(reading, 20, seed=seed), strength)
        for seed in (0, 1)
        for strength in (0.0, -2.0)
    ]
    found = read_branches(model, some, branches)
    for logits, branch in zip(found, branches, strict=True):
        close(logits, steer(model, some, *branch).logits[:, -1])
    assert np.abs(found[1] - found[0]).max() > 0.1


def test_an_interrupted_reading_goes_on_to_the_same_numbers(model, questions, reading, tmp_path):
    settings = {"batch_tokens": 256, "keep_residuals": [20], "resume": tmp_path / "run"}
    passes = []

    def stop(module, inputs):
        passes.append(len(passes))
        if len(passes) == 2:
            raise KeyboardInterrupt

    hook = model.module.register_forward_pre_hook(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            read_layers(model, questions, **settings)
        kept = len(list((tmp_path / "run").glob("*.safetensors")))
        resumed = read_layers(model, questions, **settings)
    finally:
        hook.remove()
    np.testing.assert_array_equal(resumed.logits, reading.logits)
    np.testing.assert_array_equal(resumed.residuals[20], reading.residuals[20])
    batches = len(list((tmp_path / "run").glob("*.safetensors")))
    assert (kept, len(passes)) == (1, batches + 1)  # the one that was interrupted ran twice
    assert batches > 2


def test_in_its_chat_template_it_is_asked_as_it_was_tuned(model, theirs, questions):
    some = questions.select(range(2))
    reading = read_layers(model, some, chat=True)
    tokens = [model.tokenizer.encode(x, add_special_tokens=False) for x in "ABCD"]
    assert reading.provenance["option_tokens"] == [token for (token,) in tokens]
    assert reading.provenance["chat_template"].startswith("used, ")
    rows = torch.tensor(tokens).flatten()
    for i, prompt in enumerate(build_prompts(some)):
        turn = [{"role": "user", "content": prompt}]
        text = model.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        assert text.endswith(f"{prompt}<|im_end|>\n<|im_start|>assistant\n")
        ids = model.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad(), full_precision("cpu"):
            close(reading.logits[i, -1], theirs(input_ids=ids).logits[0, -1, rows].numpy())


def test_the_atlas_holds_what_it_reads(model):
    """Thirty of its 14,042 questions, read once more."""
    entry, questions = load_reading("smollm2-135m-instruct/zero-shot"), load_questions("mmlu")
    short = np.flatnonzero([len(text) < 200 for text in questions["question"]])
    which = np.random.default_rng(0).choice(short, 30, replace=False)
    again = read_layers(model, questions.select(which), batch_tokens=2048)
    kept = entry.select(which)
    np.testing.assert_array_equal(again.question_ids, kept.question_ids)
    np.testing.assert_allclose(again.probabilities, kept.probabilities, atol=5e-4)
    for name in ("file", "weights", "option_tokens", "shots", "prompt"):
        assert again.provenance[name] == entry.provenance[name], name
