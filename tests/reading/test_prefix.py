"""Prompts that share their prefix read the same as prompts that are run whole."""

import numpy as np
import pytest
import torch
from support.architectures import CONFIGS, TOKENIZER, random_module

from calib import build_prompts, load_questions, open_model, read_layers
from calib.questions import option_tokens
from calib.reading._batches import plan_batches
from calib.reading._forward import read_streams
from calib.reading._prefix import can_share, run_prefix

# Attention that looks back less far than the exemplars reach.
WINDOWS = {
    "mistral": {"sliding_window": 40},
    "gemma2": {"sliding_window": 40},
    "gemma3": {"sliding_window": 40},
    "phi3": {"sliding_window": 40},
}


@pytest.fixture(scope="module")
def questions():
    return load_questions("almanac", subjects=["fair_music", "inn_cookery"], limit=20)


def whole_and_shared(module, questions, monkeypatch):
    """Readings without and with shared prefixes, and the planned batches of both."""
    model = open_model((module, TOKENIZER))
    plans = []

    def watched(*arguments, **room):
        plans.append(plan_batches(*arguments, **room))
        return plans[-1]

    monkeypatch.setattr("calib.reading._run.plan_batches", watched)
    settings = {"shots": 3, "batch_tokens": 1000, "keep_residuals": range(4)}
    shared = read_layers(model, questions, **settings)
    monkeypatch.setattr("calib.reading._run.can_share", lambda _: False)
    whole = read_layers(model, questions, **settings)
    return whole, shared, plans


def close(a, b):
    np.testing.assert_allclose(a.logits, b.logits, atol=1e-4, rtol=1e-5)
    for layer in range(4):
        np.testing.assert_allclose(a.residuals[layer], b.residuals[layer], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shared_prefix_changes_no_number(name, questions, monkeypatch):
    whole, shared, (with_sharing, without) = whole_and_shared(
        random_module(name), questions, monkeypatch
    )
    assert all(batch.shared > 80 for batch in with_sharing)
    assert not any(batch.shared for batch in without)
    close(whole, shared)


@pytest.mark.parametrize("name", WINDOWS)
def test_nor_where_attention_does_not_reach_back_to_it(name, questions, monkeypatch):
    module = random_module(name, **WINDOWS[name])
    whole, shared, (with_sharing, _) = whole_and_shared(module, questions, monkeypatch)
    assert all(batch.shared > 80 for batch in with_sharing)
    close(whole, shared)


def test_the_prefix_is_run_once_a_subject(questions, monkeypatch):
    run = []

    def watched(model, prompts):
        run.append(len(prompts[0]))
        return run_prefix(model, prompts)

    for module in ("_prefix", "_pass"):  # the question whether it can, and the run itself
        monkeypatch.setattr(f"calib.reading.{module}.run_prefix", watched)
    model = open_model((random_module("llama"), TOKENIZER))
    read_layers(model, questions, shots=3, batch_tokens=1000)
    assert run[0] == 2  # of the five tokens that ask whether the model can
    assert len(run) == 3


def test_a_prefix_is_not_changed_by_those_who_share_it():
    model = open_model((random_module("llama"), TOKENIZER))
    prefix = run_prefix(model, [[5, 3, 2, 9, 8]])
    before = [layer.keys.clone() for layer in prefix.layers]
    first = read_streams(model, [[7, 1], [4]], [0, 1], prefix=prefix)["logits"]
    again = read_streams(model, [[7, 1], [4]], [0, 1], prefix=prefix)["logits"]
    assert prefix.get_seq_length() == 5
    assert all(torch.equal(a, b.keys) for a, b in zip(before, prefix.layers, strict=True))
    torch.testing.assert_close(first, again, rtol=0, atol=0)


def test_padding_stands_where_no_prompt_sees_it(questions):
    model = open_model((random_module("gpt2"), TOKENIZER))
    letters = option_tokens(TOKENIZER, 4)
    prompts = TOKENIZER(build_prompts(questions))["input_ids"]
    prompts = [prompt[:n] for prompt, n in zip(prompts, range(3, 23), strict=True)]
    together = read_streams(model, prompts, letters)["logits"]
    for prompt, logits in zip(prompts, together, strict=True):
        alone = read_streams(model, [prompt], letters)["logits"][0]
        torch.testing.assert_close(logits, alone, rtol=0, atol=1e-5)


def test_a_model_with_a_state_takes_the_plain_road():
    model = open_model((random_module("llama"), TOKENIZER))
    assert can_share(model)
    model.module._is_stateful = True
    model._facts.clear()  # to be asked again
    assert not can_share(model)


def test_a_kind_of_layer_not_known_here_takes_the_plain_road():
    model = open_model((random_module("qwen3"), TOKENIZER))
    assert can_share(model)
    model.module.config.layer_types[1] = "linear_attention"
    model._facts.clear()
    assert not can_share(model)


def test_whether_a_model_can_is_asked_once(monkeypatch):
    model = open_model((random_module("llama"), TOKENIZER))
    assert can_share(model)
    monkeypatch.setattr("calib.reading._prefix.run_prefix", lambda *_: pytest.fail("asked again"))
    assert can_share(model)


def test_a_model_that_counts_positions_anew_takes_the_plain_road():
    module = random_module("llama")
    model = open_model((module, TOKENIZER))
    rotate = module.model.rotary_emb.forward
    module.model.rotary_emb.forward = lambda x, position_ids: rotate(
        x, position_ids - position_ids[:, :1]
    )
    assert not can_share(model)
