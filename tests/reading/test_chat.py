"""Models asked in a chat template, against their own passes over the same conversation."""

import numpy as np
import pytest
import torch
from support.architectures import TOKENIZER, random_module
from support.chats import chatting
from support.rows import GOOD, THREE

from calib import load_questions, open_model, read_layers, sample_answers
from calib.analysis import read_rotations
from calib.mechanisms import ablate_neurons, fit_tuned_lens, read_activations, read_attribution
from calib.questions import build_prompts, content_free, option_tokens, tokenize
from calib.questions.chat import CHAT_FORM, template_digest
from calib.questions.prompts import PROMPT_FORM
from calib.reading._batches import plan_batches
from calib.recalibration import FeatureClipping
from calib.steering import gradient_direction

HEADER = "The following are multiple choice questions (with answers) about sums.\n\n"
SOLVED = "What is 2 + 1?\nA. 1\nB. 2\nC. 3\nAnswer:"
ASKED = "What is 1 + 1?\nA. 1\nB. 2\nAnswer:"


def planted(form, name="llama", **how):
    """A random model and its tokenizer, whose marks it embeds."""
    tokenizer = chatting(form, **how)
    module = random_module(name, vocab_size=len(tokenizer))
    return module, open_model((module, tokenizer))


@pytest.fixture(scope="module")
def questions():
    return load_questions("almanac", subjects=["fair_music", "inn_cookery"], limit=16)


def last_logits(module, ids):
    with torch.no_grad():
        return module(input_ids=torch.as_tensor(ids)[None].long(), use_cache=False).logits[0, -1]


@pytest.mark.parametrize("read", [
    lambda model, rows: read_layers(model, rows, chat=True),
    lambda model, rows: read_rotations(model, rows, chat=True),
    lambda model, rows: sample_answers(model, rows, 1, chat=True),
    lambda model, rows: FeatureClipping.of(model, 2, chat=True),
])  # fmt: skip
def test_a_model_without_a_template_is_refused_before_it_runs(unused, read):
    with pytest.raises(ValueError, match="has no chat template; leave out chat=True"):
        read(unused, [GOOD])


@pytest.mark.parametrize("read", [
    lambda model, rows: read_layers(model, rows, chat=True),
    lambda model, rows: read_activations(model, rows, 2, chat=True),
    lambda model, rows: read_attribution(model, rows, chat=True),
    lambda model, rows: ablate_neurons(model, rows, 2, np.zeros(384), [[0]], chat=True),
    lambda model, rows: gradient_direction(model, rows, 1, chat=True),
])  # fmt: skip
def test_the_laboratorys_have_none(read):
    with pytest.raises(ValueError, match="has no chat template"):
        read(open_model("almanac"), [GOOD])


@pytest.mark.parametrize("shots", [0, 1])
@pytest.mark.parametrize(
    ("form", "name", "letters"),
    [
        ("chatml", "qwen2", ["A", "B"]),
        ("gemma", "gemma3", ["A", "B"]),
        ("llama3", "llama", ["A", "B"]),
        ("llama2", "llama", [" A", " B"]),
        ("qwen3", "qwen3", ["A", "B"]),
    ],
)
def test_a_reading_is_the_models_own_pass_over_the_conversation(form, name, letters, shots):
    module, model = planted(form, name, adds_bos=True)
    reading = read_layers(model, [GOOD], shots=shots, exemplars=[THREE], chat=True)
    turns = [{"role": "user", "content": HEADER + ASKED}]
    if shots:
        turns = [
            {"role": "user", "content": HEADER + SOLVED},
            {"role": "assistant", "content": "C"},
            {"role": "user", "content": ASKED},
        ]
    ids = model.tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, enable_thinking=False
    )["input_ids"]
    tokens = [TOKENIZER(letter)["input_ids"][0] for letter in letters]
    expected = last_logits(module, ids)[tokens]
    np.testing.assert_allclose(reading.logits[0, -1], expected, atol=1e-5)


def test_what_it_was_asked_in_is_told():
    _, model = planted("gemma")
    plain, chat = read_layers(model, [GOOD]), read_layers(model, [GOOD], chat=True)
    assert read_layers(open_model("almanac"), [GOOD]).provenance["chat_template"] == "none"
    told = [(r.provenance["prompt"], r.provenance["chat_template"]) for r in (plain, chat)]
    digest = template_digest(model.tokenizer)
    assert told == [(PROMPT_FORM, "not used"), (CHAT_FORM, f"used, {digest}")]
    assert chat.provenance["option_tokens"] == option_tokens(model.tokenizer, 2, chat=True)
    assert abs(plain.logits[0, -1] - chat.logits[0, -1]).max() > 1e-3


def test_a_folder_of_plain_questions_is_not_gone_on_with_in_a_chat(tmp_path):
    _, model = planted("chatml")
    for first, then in ((False, True), (True, False)):
        folder = tmp_path / str(first)
        read_layers(model, [GOOD], chat=first, resume=folder)
        with pytest.raises(ValueError, match="the run was begun with prompt ="):
            read_layers(model, [GOOD], chat=then, resume=folder)
        read_layers(model, [GOOD], chat=first, resume=folder)


@pytest.mark.parametrize("form", ["chatml", "llama2"])
def test_exemplars_are_shared_in_a_chat_too(form, questions, monkeypatch):
    _, model = planted(form)
    plans = []

    def watched(*arguments, **room):
        plans.append(plan_batches(*arguments, **room))
        return plans[-1]

    monkeypatch.setattr("calib.reading._run.plan_batches", watched)
    settings = {"shots": 3, "chat": True, "batch_tokens": 1000, "keep_residuals": range(4)}
    shared = read_layers(model, questions, **settings)
    monkeypatch.setattr("calib.reading._run.can_share", lambda _: False)
    whole = read_layers(model, questions, **settings)
    assert all(batch.shared > 80 for batch in plans[0])
    assert not any(batch.shared for batch in plans[1])
    np.testing.assert_allclose(shared.logits, whole.logits, atol=1e-4, rtol=1e-5)
    for layer in range(4):
        np.testing.assert_allclose(shared.residuals[layer], whole.residuals[layer], atol=1e-4)


def test_questions_without_content_are_read(questions):
    module, model = planted("gemma")
    empty = content_free(questions, texts=["N/A"])
    reading = read_layers(model, empty, chat=True)
    tokens = option_tokens(model.tokenizer, 4, chat=True)
    for i, prompt in enumerate(build_prompts(empty, chat=model.tokenizer)):
        ids = model.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        np.testing.assert_allclose(
            reading.logits[i, -1], last_logits(module, ids)[tokens], atol=1e-5
        )


# Whatever else asks, asks the same


@pytest.fixture(scope="module")
def chat_model():
    return planted("gemma")


@pytest.fixture(scope="module")
def reading(chat_model, questions):
    return read_layers(chat_model[1], questions, chat=True, keep_residuals=[1])


def test_mechanisms_see_the_same_answers(chat_model, questions, reading):
    model, final = chat_model[1], reading.logits[:, -1]
    attribution = read_attribution(model, questions, chat=True)
    np.testing.assert_allclose(attribution.logits(6), final, atol=1e-4)
    ablation = ablate_neurons(model, questions, 3, np.zeros(96), [[0]], chat=True)
    np.testing.assert_allclose(ablation.intact, final, atol=1e-4)
    rotated = read_rotations(model, questions, chat=True)
    np.testing.assert_allclose(rotated[:, 0], final, atol=1e-5)


def test_activations_are_those_of_the_conversation(chat_model, questions):
    module, model = chat_model
    found = read_activations(model, questions, 3, chat=True)
    kept = []
    module.model.layers[2].mlp.down_proj.register_forward_pre_hook(
        lambda _, args: kept.append(args[0][0, -1])
    )
    for prompt in tokenize(
        model.tokenizer, build_prompts(questions, chat=model.tokenizer), chat=True
    ):
        last_logits(module, prompt)
    np.testing.assert_allclose(found, torch.stack(kept), atol=1e-5)


def test_a_direction_is_learned_on_the_conversation(chat_model, questions, reading):
    direction = gradient_direction(chat_model[1], questions, 1, chat=True, max_steps=3)
    assert direction.scale == pytest.approx(reading.scale(1), rel=1e-6)
    pushed = read_layers(chat_model[1], questions, chat=True)
    assert pushed.provenance == reading.provenance


def test_the_last_layer_needs_no_translator_where_the_letters_are_the_chats(chat_model):
    """KL at the last layer is 0 only if the lens is fitted on the tokens that were read."""
    calibration = load_questions("almanac", "validation", limit=60)
    lens = fit_tuned_lens(chat_model[1], calibration, chat=True, held_out=0.4, max_rounds=1)
    assert lens.fit.logit_lens.iloc[-1] < 1e-6 < lens.fit.logit_lens.iloc[0]


def test_clipping_reads_the_chats_letters(chat_model):
    module, model = chat_model
    tokens = TOKENIZER("ABC")["input_ids"]
    rows = FeatureClipping.of(model, 3, chat=True).rows
    np.testing.assert_array_equal(rows, module.lm_head.weight[tokens].detach().numpy())


def greedy(module, ids, n):
    """The most probable token, again and again."""
    ids = list(ids)
    for _ in range(n):
        ids.append(int(last_logits(module, ids).argmax()))
    return ids[-n:]


def test_answers_are_drawn_after_the_generation_prompt(monkeypatch):
    module, model = planted("llama3", adds_bos=True)
    asked = "The following are questions (with answers) about sums.\n\nWhat is 1 + 1?\nAnswer:"
    ids = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": asked}], add_generation_prompt=True
    )["input_ids"]
    first, second = greedy(module, ids, 2)
    settings = {"temperature": 1e-6, "max_tokens": 2, "chat": True}
    said = sample_answers(model, [GOOD], 2, **settings).answers
    expected = model.tokenizer.decode([first, second]).strip().casefold()
    assert said.tolist() == [[expected, expected]] and len(expected) > 1
    # What ends the assistant's turn ends the answer.
    monkeypatch.setattr("calib.sampling.sample.end_of_turn", lambda _: second)
    cut = sample_answers(model, [GOOD], 1, **settings).answers[0, 0]
    assert cut == model.tokenizer.decode([first]).strip().casefold() != expected
