"""A attribution against the lens, against hooks, and a planted model's worked on paper."""

import numpy as np
import pandas
import pytest
import scipy.special
import torch
from support.architectures import CONFIGS, N_LAYERS, TOKENIZER
from support.planted_neuron import (
    blocks_of,
    close,
    module_of,
    opened,
    planted_neuron_model,
    questions_of_lengths,
    questions_of_subjects,
    questions_of_words,
    readout_by_hand,
    seen,
)

from calib import build_prompts, metrics, read_layers
from calib.mechanisms import attribution as attribution_module
from calib.mechanisms import read_attribution

COMPONENTS = tuple(f"{part} {layer}" for layer in (1, 2, 3) for part in ("attention", "MLP"))
CHANGED = {"granite": {"residual_multiplier": 0.3}, "gpt_neox": {"use_parallel_residual": False}}
MODELS = [(name, {}) for name in [*CONFIGS, "mixtral"]] + list(CHANGED.items())
every_model = pytest.mark.parametrize(
    ("name", "changes"), MODELS, ids=[" ".join([name, *changes]) for name, changes in MODELS]
)
some_models = pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gptj", "opt", "mixtral"])


@pytest.fixture(scope="module")
def questions():
    return questions_of_lengths()


@pytest.fixture(scope="module")
def few_subjects():
    return questions_of_subjects()


@pytest.fixture
def prefixes(monkeypatch):
    """How many prompts each pass read, and whether after a prefix."""
    made, read_writes = [], attribution_module.read_writes

    def watched(model, prompts, blocks, start, end, prefix=None, readout=None):
        made.append((len(prompts), prefix is not None))
        return read_writes(model, prompts, blocks, start, end, prefix, readout)

    monkeypatch.setattr(attribution_module, "read_writes", watched)
    return made


def same(attribution, other, order=slice(None)):
    """The same reads and lengths, of questions in another order."""
    close(attribution.reads, other.reads[order])
    close(attribution.lengths, other.lengths[order])
    np.testing.assert_array_equal(attribution.labels, other.labels[order])


def adds_up(effects):
    close(effects["write"] + effects["norm"], effects["total"], 1e-12)
    parts = effects[["write", "norm", "total"]]
    close(parts.iloc[:-1].sum(), parts.loc["all"], 1e-12)


# Steps


@every_model
def test_the_steps_are_the_lens_at_each_layer(name, changes, questions):
    model = opened(name, **changes)
    attribution, lens = read_attribution(model, questions), read_layers(model, questions).logits
    assert (attribution.components, attribution.reads.shape) == (COMPONENTS, (6, 7, 4))
    assert (attribution.reads.dtype, attribution.lengths.dtype) == (np.float32, np.float32)
    assert attribution.labels.tolist() == questions["answer"]
    for layer in range(N_LAYERS + 1):
        close(attribution.logits(2 * layer), lens[:, layer], 1e-4)
    between = np.stack([attribution.logits(step) for step in (1, 3, 5)], axis=1)
    for side in (lens[:, :-1], lens[:, 1:]):  # attention does something, and is not all
        assert np.abs(between - side).max(axis=(0, 2)).min() > 1e-3


@some_models
def test_effects_add_up(name, questions):
    attribution = read_attribution(opened(name), questions)
    before, after = (
        scipy.special.softmax(attribution.logits(step).astype(float), axis=-1) for step in (0, 6)
    )
    entropy = scipy.special.entr
    for metric, change in (
        ("confidence", after.max(axis=-1).mean() - before.max(axis=-1).mean()),
        ("entropy", entropy(after).sum(axis=-1).mean() - entropy(before).sum(axis=-1).mean()),
        ("nll", metrics.nll(after, attribution.labels) - metrics.nll(before, attribution.labels)),
        ("ece", metrics.ece(after, attribution.labels) - metrics.ece(before, attribution.labels)),
    ):
        effects = attribution.effects(metric, n_resamples=20)
        assert list(effects.index) == [*COMPONENTS, "all"]
        adds_up(effects)
        assert effects.loc["all", "total"] == pytest.approx(change, abs=1e-9)
        assert (effects[["write", "norm"]].iloc[:-1] != 0).to_numpy().any()


@every_model
def test_direct_effects_add_up_to_the_logits(name, changes, questions):
    model = opened(name, **changes)
    attribution = read_attribution(model, questions)
    start = attribution.reads[:, 0] / attribution.lengths[:, -1, None]
    logits = start + attribution.direct.sum(axis=1) + attribution.readout.bias.numpy()
    if name == "gemma2":
        logits = 2 * np.tanh(logits / 2)
    close(logits, read_layers(model, questions).logits[:, -1], 1e-4)
    assert np.abs(attribution.direct).max(axis=(0, 2)).min() > 1e-3


@some_models
def test_a_part_of_the_layers_is_that_part_of_all(name, questions):
    model = opened(name)
    whole, part = read_attribution(model, questions), read_attribution(model, questions, 1, 2)
    assert part.components == ("attention 2", "MLP 2")
    close(part.reads, whole.reads[:, 2:5])
    close(part.lengths, whole.lengths[:, 2:5])
    close(part.direct, np.diff(whole.reads[:, 2:5], axis=1) / whole.lengths[:, 4, None, None])
    lens = read_layers(model, questions).logits
    close(part.logits(0), lens[:, 1], 1e-4)
    close(part.logits(2), lens[:, 2], 1e-4)


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        ("llama", "self_attn"),
        ("gemma2", "post_attention_layernorm"),
        ("gpt2", "attn"),
        ("gptj", "attn"),
        ("mixtral", "self_attn"),
    ],
)
def test_after_attention_the_readout_sees_what_hooks_saw(name, attention, questions):
    attribution, module = read_attribution(opened(name), questions), module_of(name)
    blocks = blocks_of(module)
    parts = [*blocks, *(block.get_submodule(attention) for block in blocks)]
    into, out = seen(module, parts, build_prompts(questions))
    steps = [into[0]]
    for i in range(N_LAYERS):
        steps += [into[i] + out[N_LAYERS + i], out[i]]
    steps = torch.stack(steps, dim=1)  # [questions, steps, d_model]
    rows, bias, length_of = readout_by_hand(name, module)
    close(attribution.reads, steps @ rows.T)
    close(attribution.lengths, length_of(steps))
    close(attribution.readout.bias, bias)


# On paper


@pytest.fixture(scope="module")
def planted():
    """Question 0 is about falcons, where the entropy neuron is active, question 12 about eagles."""
    return read_attribution(planted_neuron_model(), questions_of_words())


def test_reads_and_lengths_by_hand(planted):
    """Lengths are 2 at the start, 2.5 after attention and 5 or 4 in the end, all over √8."""
    assert planted.components == ("attention 1", "MLP 1", "attention 2", "MLP 2")
    attended, answered = [5 / 4, -3 / 4, -1 / 4, -1 / 4], [3 / 2, -1 / 2, -1 / 2, -1 / 2]
    close(planted.reads[0], [[0] * 4, attended, attended, attended, answered])
    order = [2, 3, 0, 1]  # of letters, for C as for A
    close(planted.reads[12][:, order], planted.reads[0])
    close(planted.lengths[0] * 8**0.5, [2, 2.5, 2.5, 2.5, 5])
    close(planted.lengths[12] * 8**0.5, [2, 2.5, 2.5, 2.5, 4])
    assert planted.labels[[0, 12]].tolist() == [0, 2]


def test_direct_effects_by_hand(planted):
    """At the last length, attention writes what it read and the MLP the rest of the answer."""
    first, _, _, last = planted.direct[0] * 5 / 8**0.5
    close(first, [5 / 4, -3 / 4, -1 / 4, -1 / 4])
    close(last, [1 / 4, 1 / 4, -1 / 4, -1 / 4])
    assert np.abs(planted.direct[:, 1:3]).max() < 1e-6


def test_counterfactuals_by_hand(planted):
    """The last reads at the length before; the first reads at the last length."""
    close(planted.logits(4, 3)[0], np.array([3, -1, -1, -1]) / 2 * 8**0.5 / 2.5)
    close(planted.logits(1, 4)[0], np.array([5, -3, -1, -1]) / 4 * 8**0.5 / 5)


def test_effects_by_hand(planted):
    """From 1/4, the confidence of (5, -3, -1, -1)/4 · √8 over lengths of 2 and 2.5, then that of
    (3, -1, -1, -1)/2 · √8 over 2.5, and over 5 for half of the questions and 4 for the others:

    .769911, .680036, .762084, (.508189 + .578252)/2 = .543220
    """
    effects = planted.effects(n_resamples=50)
    close(effects["write"], [0.519911, 0, 0, 0.082048, 0.601959])
    close(effects["norm"], [-0.089875, 0, 0, -0.218866, -0.308741])
    close(effects["total"], [0.430036, 0, 0, -0.136818, 0.293218])


def test_limits_by_hand(planted):
    """What differs between questions is .508189 or .578252, so that the mean of 24 has a standard
    error of .035032/√24; the start, the same for all, has none."""
    effects = planted.effects(n_resamples=4000)
    half = 1.96 * 0.035032 / 24**0.5
    for row in ("MLP 2", "all"):
        for column in ("norm", "total"):
            low, value, high = (effects.loc[row, column + side] for side in ("_low", "", "_high"))
            assert (value - low, high - value) == pytest.approx((half, half), rel=0.1)
    for column in ("write", "norm", "total"):
        still = effects.loc[["attention 1", "MLP 1", "attention 2"]]
        close(still[f"{column}_low"], still[column])
        close(still[f"{column}_high"], still[column])


def test_the_ece_by_hand(planted):
    """At first confidence is 1/4, and A is answered throughout, right for 3 + 1 + 1 + 1 of 24: no
    error. In the end half of all is right, and confidence, .508189 or .578252, in one bin."""
    effects = planted.effects("ece", n_resamples=5)
    adds_up(effects)
    assert effects.loc["all", "total"] == pytest.approx(0.043220, abs=1e-5)


def test_options_reach_the_bootstrap(planted):
    settings = {"metric": "nll", "level": 0.5, "n_resamples": 200, "seed": 1}
    first, again, other, wide = (
        planted.effects(**settings | changes) for changes in ({}, {}, {"seed": 2}, {"level": 0.9})
    )
    pandas.testing.assert_frame_equal(first, again)
    assert (other.loc["all"] != first.loc["all"])[["total_low", "total_high"]].all()
    assert wide.loc["all", "total_low"] < first.loc["all", "total_low"]
    assert wide.loc["all", "total_high"] > first.loc["all", "total_high"]
    with pytest.raises(ValueError, match="n_bins is 0"):
        planted.effects("ece", n_bins=0)


# Passes


@every_model
def test_exemplars_change_the_attribution_and_sharing_them_does_not(
    name, changes, few_subjects, prefixes, monkeypatch
):
    model = opened(name, **changes)
    shared = read_attribution(model, few_subjects, shots=1)
    assert prefixes == [(9, True), (3, False)]  # to share three would save too little
    prefixes.clear()
    for i, logits in enumerate(read_layers(model, few_subjects, shots=1).logits.swapaxes(0, 1)):
        close(shared.logits(2 * i), logits, 1e-4)
    monkeypatch.setattr("calib.reading._run.can_share", lambda _: False)
    same(read_attribution(model, few_subjects, shots=1), shared)
    assert prefixes == [(12, False)]
    assert np.abs(read_attribution(model, few_subjects).reads - shared.reads).max() > 1e-2


def test_other_exemplars_are_other_prompts(few_subjects):
    model = opened("llama")
    own = read_attribution(model, few_subjects, shots=1)
    others = read_attribution(model, few_subjects, shots=1, exemplars=few_subjects)
    lens = read_layers(model, few_subjects, shots=1, exemplars=few_subjects).logits
    close(others.logits(6), lens[:, -1], 1e-4)
    assert np.abs(own.reads - others.reads).max() > 1e-2


@some_models
def test_order_and_batches_change_nothing(name, questions, prefixes):
    model = opened(name)
    attribution, order = read_attribution(model, questions), [4, 1, 5, 0, 2, 3]
    assert prefixes == [(6, False)]
    same(read_attribution(model, questions.select(order)), attribution, order)
    prefixes.clear()
    longest = max(map(len, TOKENIZER(build_prompts(questions))["input_ids"]))
    same(read_attribution(model, questions, batch_tokens=longest), attribution)
    assert len(prefixes) >= 4


# What is refused


@pytest.mark.parametrize(
    ("start", "end", "shown"), [(2, 2, 2), (3, 1, 1), (-1, 2, 2), (0, 4, 4), (3, None, 3)]
)
def test_layers_that_are_no_steps_are_refused(start, end, shown, questions):
    message = f"start is {start} and end is {shown}; they must be layers, from 0 to 3, and the firs"
    with pytest.raises(ValueError, match=message):
        read_attribution(opened("llama"), questions, start, end)


def test_what_read_layers_refuses_is_refused(questions):
    model = opened("llama")
    with pytest.raises(ValueError, match=r"batch_tokens is 20; .* or raise batch_tokens"):
        read_attribution(model, questions, batch_tokens=20)
    with pytest.raises(ValueError, match="shots is 6"):
        read_attribution(model, questions, shots=6)
    with pytest.raises(ValueError, match="there are no questions to read"):
        read_attribution(model, questions.select([]))


def test_an_unknown_metric_is_refused(planted):
    with pytest.raises(ValueError, match=r"surprise.* names from accuracy, confidence"):
        planted.effects("surprise")
