"""Sampled answers against the model's own distribution, and against one plain pass per token."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.stats import chisquare
from support.architectures import TOKENIZER, random_module

from calib import load_questions, open_model, sample_answers
from calib.questions import format_open_question, tokenize
from calib.sampling import Samples
from calib.sampling.sample import draw_answers, normalise

END = TOKENIZER.eos_token_id
(LINE_END,) = TOKENIZER("\n")["input_ids"]
# Windows shorter than a prompt, where attention has one.
WINDOW = {"sliding_window": 9}
ARCHITECTURES = {
    "llama": {},
    "gpt2": {},
    "opt": {},
    "bloom": {},
    "phi": {},
    "mistral": WINDOW,
    "gemma2": WINDOW,
    "gemma3": WINDOW,
}


@pytest.fixture(scope="module")
def almanac():
    return open_model("almanac")


@pytest.fixture(scope="module")
def questions():
    """Prompts of five lengths."""
    return load_questions("almanac", limit=60)


@pytest.fixture
def passes(almanac):
    """The shape of what goes through each pass of the almanac's model."""
    shapes = []
    watch = almanac.module.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    yield shapes
    watch.remove()


def distribution(module, ids, temperature=1.0):
    """Probabilities of the next token by a plain pass over one whole text."""
    with torch.no_grad():
        logits = module(input_ids=torch.as_tensor(ids)[None].long(), use_cache=False).logits[0, -1]
    return (logits.double() / temperature).softmax(-1).numpy()


def drawn_plainly(module, prompt, uniforms, temperature):
    """One answer, token by token, nothing kept from one to the next; -1 from its end on."""
    answer = []
    for u in uniforms:
        p = distribution(module, [*prompt, *answer], temperature)
        token = int(np.flatnonzero(np.cumsum(p) > u)[0])
        if token in (END, LINE_END):
            break
        answer.append(token)
    return answer + [-1] * (len(uniforms) - len(answer))


# The model's own distribution


@pytest.mark.parametrize("temperature", [0.8, 1.0, 3.0])
def test_frequencies_are_the_models_probabilities(almanac, questions, temperature):
    """Chi-square of 20,000 samples; words expected fewer than 20 times, and ends, are one class."""
    uncertain = [row for row in questions if max(row["posterior"]) < 0.5][:5]
    n = 20_000
    for seed, row in enumerate(uncertain):
        (prompt,) = tokenize(TOKENIZER, [format_open_question(row)])
        uniforms = np.random.default_rng(seed).random((1, n, 1))
        drawn = draw_answers(almanac, [prompt], uniforms, temperature)
        p = distribution(almanac.module, prompt, temperature)
        common = np.setdiff1d(np.flatnonzero(n * p >= 20), [END, LINE_END])
        observed = np.array([np.sum(drawn == token) for token in common])
        observed, expected = (np.append(a, n - a.sum()) for a in (observed, n * p[common]))
        assert len(expected) > 4 and expected.min() >= 5
        assert chisquare(observed, expected).pvalue > 0.001
    assert len(uncertain) == 5


def test_the_share_of_right_answers_is_the_probability_of_the_right_word(almanac, questions):
    """A known capability: over 60 questions of 400 samples the standard error is at most .0033."""
    samples = sample_answers(almanac, questions, 400, max_tokens=1)
    chance = []
    for row in questions:
        p = distribution(almanac.module, TOKENIZER(format_open_question(row))["input_ids"])
        (token,) = TOKENIZER(f" {row['choices'][row['answer']]}")["input_ids"]
        chance.append(p[token])
    share = samples.correct.mean(axis=1)
    assert share.mean() == pytest.approx(np.mean(chance), abs=0.01)
    assert np.abs(share - chance).max() < 0.1  # four standard errors


# Several tokens, several architectures


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_answers_are_those_of_plain_passes(name):
    """Uniform numbers of few values, so that samples agree for a while; 0 takes the first token,
    which is the end of a text."""
    model = open_model((random_module(name, **ARCHITECTURES[name]), TOKENIZER))
    rng = np.random.default_rng(0)
    prompts = [rng.integers(5, 1000, size=14) for _ in range(3)]
    uniforms = rng.choice([0.0, 0.2, 0.5, 0.8], p=[0.1, 0.3, 0.3, 0.3], size=(3, 8, 4))
    found = draw_answers(model, prompts, uniforms, temperature=0.8)
    for prompt, its_uniforms, answers in zip(prompts, uniforms, found, strict=True):
        for sample, answer in zip(its_uniforms, answers, strict=True):
            assert answer.tolist() == drawn_plainly(model.module, prompt, sample, 0.8)
    ended = (found == -1).any(axis=-1)
    assert 0 < ended.sum() < ended.size
    assert len(np.unique(found.reshape(-1, 4), axis=0)) > 12


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_near_temperature_zero_answers_are_greedy(name):
    """As transformers generates them, at any uniform number."""
    model = open_model((random_module(name), TOKENIZER))
    prompts = [np.arange(7, 20), np.arange(100, 113)]
    uniforms = np.random.default_rng(0).random((2, 3, 6))
    for temperature in (1e-6, 1e-300):
        found = draw_answers(model, prompts, uniforms, temperature)
        assert (found >= 0).all()
        for prompt, answers in zip(prompts, found, strict=True):
            ids = torch.as_tensor(prompt)[None]
            greedy = model.module.generate(ids, do_sample=False, max_new_tokens=6)
            assert answers.tolist() == [greedy[0, len(prompt) :].tolist()] * 3


def test_an_answer_ends_before_a_line_end():
    """At a uniform number in the middle of the line end's interval."""
    model = open_model((random_module("llama"), TOKENIZER))
    prompt = np.arange(7, 20)
    limits = np.cumsum(distribution(model.module, prompt))
    hit = (limits[LINE_END - 1] + limits[LINE_END]) / 2
    found = draw_answers(model, [prompt], np.array([[[hit, 0.5], [0.5, 0.5]]]), 1.0)[0]
    assert found[0].tolist() == [-1, -1]
    assert (found[1] >= 0).all()


def test_all_tokens_that_end_texts_for_a_model_end_answers():
    """Some generation configurations name several."""
    model = open_model((random_module("llama"), TOKENIZER))
    prompt, uniforms = np.arange(7, 20), np.full((1, 1, 3), 0.5)
    tokens = draw_answers(model, [prompt], uniforms, 1.0)[0, 0].tolist()
    assert len(set(tokens)) == 3
    model.module.generation_config.eos_token_id = [END, tokens[1]]
    assert draw_answers(model, [prompt], uniforms, 1.0)[0, 0].tolist() == [tokens[0], -1, -1]


def test_extreme_uniform_numbers_take_words_that_can_be_said():
    """The first word and the last, not those beside them that have no probability at all."""
    model = open_model((random_module("llama"), TOKENIZER))
    possible = [3, 700]
    bias = torch.full((len(TOKENIZER),), -torch.inf)
    bias[possible] = 0
    model.module.lm_head.register_forward_hook(lambda _, __, output: output + bias)
    prompts = [np.arange(i, i + 5) for i in range(1, 21)]
    uniforms = np.broadcast_to(np.array([[0.0], [np.nextafter(1, 0)]]), (20, 2, 1))
    assert draw_answers(model, prompts, uniforms, 1.0)[..., 0].tolist() == [possible] * 20


# What is drawn, and at what cost


def test_batches_do_not_change_what_is_drawn(almanac, questions):
    draw = {"n_samples": 7, "max_tokens": 3, "temperature": 2.0}
    together = sample_answers(almanac, questions, **draw)
    alone = sample_answers(almanac, questions, **draw, batch_tokens=7 * 31)
    first = sample_answers(almanac, questions.select(range(9)), **draw)
    np.testing.assert_array_equal(together.answers, alone.answers)
    np.testing.assert_array_equal(together.answers[:9], first.answers)
    assert len(np.unique(together.answers)) > 60


def test_the_seed_decides_what_is_drawn(almanac, questions):
    one, same, other = (
        sample_answers(almanac, questions, 5, max_tokens=1, seed=seed).answers for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, same)
    assert 0 < np.mean(one == other) < 1


def test_answers_of_one_token_cost_one_pass_a_batch(almanac, questions, passes):
    prompts = tokenize(TOKENIZER, [format_open_question(row) for row in questions])
    lengths = [len(prompt) for prompt in prompts]
    sample_answers(almanac, questions, 100, max_tokens=1)
    expected = {(lengths.count(length), length) for length in lengths}
    assert (set(passes), len(passes)) == (expected, len(expected))


def test_a_later_pass_has_a_row_for_each_prefix_and_one_token(almanac, questions, passes):
    """And none for answers that have ended."""
    some = questions.select([0])
    (prompt,) = tokenize(TOKENIZER, [format_open_question(some[0])])
    uniforms = np.random.default_rng(0).random((1, 200, 3))
    uniforms[0, 150:, 1] = 0  # takes the first token, the end of a text
    found = draw_answers(almanac, [prompt], uniforms, 1.0)[0]
    assert (found[150:, 1:] == -1).all()
    second, third = ({tuple(a[:n]) for a in found.tolist() if a[n - 1] >= 0} for n in (1, 2))
    assert passes == [(1, len(prompt)), (len(second), 1), (len(third), 1)]
    assert len(second) < 60


def test_batch_tokens_bound_every_pass(almanac, questions, passes):
    sample_answers(almanac, questions, 5, max_tokens=1, batch_tokens=100)
    assert max(rows * length for rows, length in passes) <= 100
    passes.clear()
    sample_answers(almanac, questions, 5, max_tokens=4, temperature=5.0, batch_tokens=500)
    assert {length for _, length in passes} == {1, *range(24, 29)}
    assert max(rows for rows, length in passes if length == 1) <= 500 // 27


def test_a_prompt_with_its_answer_may_fill_the_context(questions):
    """Positions that are learned end there: one token more would fail in the model."""
    some = questions.select([0])
    (prompt,) = tokenize(TOKENIZER, [format_open_question(some[0])])
    model = open_model((random_module("gpt2", n_positions=len(prompt) + 3), TOKENIZER))
    sample_answers(model, some, 5, max_tokens=4)
    with pytest.raises(ValueError, match=f"an answer of 5 it is longer than .* {len(prompt) + 3}"):
        sample_answers(model, some, 5, max_tokens=5)


# Texts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" chalk", "chalk"),
        ("The Dragon.", "the dragon"),
        (" 3.14 . ", "3.14"),
        ("etc..", "etc."),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("", ""),
        (" . ", ""),
    ],
)
def test_answers_are_compared_without_blanks_capitals_and_a_final_full_stop(text, expected):
    assert normalise(text) == expected


def test_right_answers_are_written_as_the_samples_are(almanac):
    """Who founded a town: all names have capitals."""
    some = load_questions("almanac", subjects="founding_history", limit=20)
    samples = sample_answers(almanac, some, 30, max_tokens=1)
    right = [row["choices"][row["answer"]].casefold() for row in some]
    assert samples.labels_text.tolist() == right
    assert samples.correct.mean() > 0.3
    assert (samples.correct.shape, samples.correct.dtype) == ((20, 30), bool)


def test_right_means_word_for_word():
    samples = Samples(np.array([["owl", "owls"], ["", "fox"]]), np.array(["owl", "fox"]))
    assert samples.correct.tolist() == [[True, False], [False, True]]


def test_an_answer_that_is_cut_off_is_judged_by_what_was_drawn():
    """A model that would say three words: the first alone is right, or all three are."""
    model = open_model((random_module("llama"), TOKENIZER))
    (row,) = load_questions("almanac", limit=1).to_list()

    def draw(right_answer, max_tokens):
        choices = [right_answer, *row["choices"][1:]]
        questions = Dataset.from_list([{**row, "choices": choices, "answer": 0}])
        return sample_answers(model, questions, 3, temperature=1e-6, max_tokens=max_tokens)

    first, whole = (str(draw("?", n).answers[0, 0]) for n in (1, 3))
    assert first and whole.startswith(first) and len(whole) > len(first)
    for right_answer, max_tokens, correct in (
        (first, 1, True), (first, 3, False), (whole, 1, False), (whole, 3, True),
    ):  # fmt: skip
        assert draw(right_answer, max_tokens).correct.tolist() == [[correct] * 3]


def test_an_answer_of_several_tokens_is_one_text(almanac, questions):
    samples = sample_answers(almanac, questions, 4, max_tokens=3, temperature=3.0)
    assert all(text == normalise(text) for text in samples.answers.ravel().tolist())
    assert max(len(text.split()) for text in samples.answers.ravel().tolist()) > 1


# Refusals


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"n_samples": 0}, ValueError, "n_samples is 0; it must be an integer of at least 1"),
        ({"n_samples": 2.5}, TypeError, "n_samples is 2.5; it must be an integer"),
        ({"temperature": 0}, ValueError, "temperature is 0; .* most probable word alone take a"),
        ({"temperature": -1.0}, ValueError, "temperature is -1.0; it must be positive and finite"),
        ({"temperature": np.inf}, ValueError, "temperature is inf"),
        ({"temperature": np.nan}, ValueError, "temperature is nan"),
        ({"temperature": "1"}, TypeError, "temperature is '1'; it must be a number"),
        ({"max_tokens": 0}, ValueError, "max_tokens is 0; it must be an integer of at least 1"),
        ({"batch_tokens": 0}, ValueError, "batch_tokens is 0; it must be an integer"),
        ({"batch_tokens": 23}, ValueError, "takes .* tokens, batch_tokens is 23; raise it"),
        ({"batch_tokens": 80, "max_tokens": 2}, ValueError, "lower n_samples or max_tokens"),
        ({"max_tokens": 500}, ValueError, "longer than the model's context, 512; leave"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_the_model_runs(
    unused, questions, settings, error, message
):
    with pytest.raises(error, match=message):
        sample_answers(unused, questions, **({"n_samples": 4} | settings))


def test_without_questions_there_is_nothing_to_ask(unused, questions):
    with pytest.raises(ValueError, match="there are no questions to ask"):
        sample_answers(unused, questions.select([]), 3)


def test_a_remote_model_is_refused(unused, questions):
    remote = replace(unused, remote=True, name="tiny/llama")
    with pytest.raises(
        ValueError, match="tiny/llama are on the server, and a server keeps no keys"
    ):
        sample_answers(remote, questions, 3)


def test_logits_that_overflow_are_refused(questions):
    model = open_model((random_module("llama"), TOKENIZER))
    with torch.no_grad():
        model.module.lm_head.weight[5] = torch.inf
    with pytest.raises(ValueError, match="logits are not finite; run it in a wider type"):
        sample_answers(model, questions, 3)
