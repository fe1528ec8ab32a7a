"""Neurons: a planted one on paper, measures from raw weights, activations against hooks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.architectures import CONFIGS, D_MODEL, TOKENIZER
from support.planted_neuron import (
    ENTROPY,
    LETTERS,
    READERS,
    SILENT,
    WIDTH,
    blocks_of,
    close,
    down_of,
    module_of,
    opened,
    planted_neuron_model,
    questions_of_lengths,
    questions_of_subjects,
    questions_of_words,
    seen,
)

from calib import build_prompts, open_model
from calib.mechanisms import describe_neurons, read_activations, readout_of
from calib.mechanisms import neurons as neurons_module

N_TOKENS = len(TOKENIZER)


@pytest.fixture(scope="module")
def questions():
    return questions_of_lengths()


@pytest.fixture(scope="module")
def planted():
    return planted_neuron_model()


# On paper


def test_planted_neurons_by_hand(planted):
    """Among 1035 tokens, four read the corners of a tetrahedron and eight a coordinate each.

    Of the first coordinate the four see ±1/√3, of the second the silent neuron holds 3/5; of the
    word neuron two tokens see ±1. These sum to 0, and their squares to 4/3, 9/25 · 4/3 and 2. The
    null space is ``AXIS`` alone: the singular values are three of 1, four of √2, and 0.
    """
    table = describe_neurons(planted, 2)
    assert (table.index.name, list(table.columns)) == ("neuron", ["norm", "logit_var", "rho"])
    close(table["norm"], [1, 6, 3, 5])
    close(table["logit_var"] * 1035, [4 / 3, 0, 2, 0.48])
    close(table["rho"], [0, 1, 0, 0.8])
    assert table["logit_var"].idxmin() == table["rho"].idxmax() == ENTROPY
    assert table.loc[ENTROPY, "rho"] == pytest.approx(1, abs=1e-6)


def test_for_the_letters_alone_by_hand(planted):
    """They read three coordinates of eight, so that a word is as good as an unread axis."""
    table = describe_neurons(planted, 2, tokens=LETTERS)
    close(table["logit_var"], [1 / 3, 0, 0, 0.12])
    close(table["rho"], [0, 1, 1, 0.8])
    close(table["norm"], [1, 6, 3, 5])


def test_a_larger_null_space_by_hand(planted):
    """Of four dimensions: the three that the letters read less than words theirs, and the axis."""
    close(describe_neurons(planted, 2, k=4)["rho"], [1, 1, 0, 1])
    close(describe_neurons(planted, 2, k=WIDTH)["rho"], [1, 1, 1, 1])


def test_neurons_that_write_nothing_have_no_length_and_no_share(planted):
    assert (describe_neurons(planted, 1, unigram=np.ones(N_TOKENS)) == 0).all(axis=None)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_token_frequency_direction_by_hand(planted, sign):
    """A and B e times as frequent as the rest and C and D 1/e times: what ``LETTER`` adds to the
    logits is along their logarithms. To its own axis the entropy neuron adds none."""
    logs = np.zeros(N_TOKENS)
    logs[LETTERS] = [1, 1, -1, -1]
    table = describe_neurons(planted, 2, unigram=7 * np.exp(sign * logs))
    close(table["frequency"], [sign, 0, 0, 0])
    assert list(table.columns) == ["norm", "logit_var", "rho", "frequency"]
    logs = np.zeros(N_TOKENS)
    logs[list(READERS[3])] = 1, -1
    close(describe_neurons(planted, 2, unigram=np.exp(sign * logs))["frequency"], [0, 0, sign, 0])


def test_frequencies_among_the_letters_by_hand(planted):
    """Counts of e², e, e and 1: less their mean, the logarithms 1, 0, 0 and -1. ``LETTER`` adds
    1/2, 1/2, -1/2, -1/2: a cosine of 1/√2. ``SILENT`` adds as much to A and C, and thrice it."""
    counts = np.exp([2, 1, 1, 0])
    table = describe_neurons(planted, 2, tokens=LETTERS, unigram=counts)
    close(table["frequency"], [0.5**0.5, 0, 0, 0.5**0.5])
    table = describe_neurons(planted, 2, tokens=LETTERS, unigram=counts.tolist()[::-1])
    close(table["frequency"], [-(0.5**0.5), 0, 0, -(0.5**0.5)])


def test_uniform_frequencies_have_no_direction(planted):
    close(describe_neurons(planted, 2, unigram=[3] * N_TOKENS)["frequency"], [0, 0, 0, 0])


def test_planted_activations_by_hand(planted):
    """Of falcon, stag, eagle and hare the first coordinate of the corner is 1, 1, -1 and -1."""
    activations = read_activations(planted, questions_of_words(), 2)
    assert (activations.shape, activations.dtype) == ((24, 4), np.float32)
    half = [[0.5, 0.5, 1, 0]] * 12 + [[-0.5, 0, 1, 0]] * 12
    close(activations, half)
    assert (activations[:, SILENT] == 0).all()


# From raw weights


def weights_of(name, module, layer):
    """Rows as the final norm leaves them, less nothing; output vectors ``[neurons, d_model]``."""
    down, head = down_of(name, module, layer).weight, module.lm_head.weight
    if name == "gpt2":
        rows = head * module.transformer.ln_f.weight
        rows, vectors = (x - x.mean(dim=1, keepdim=True) for x in (rows, down))
    elif name == "gemma2":
        rows = head * (1 + module.model.norm.weight)
        gain = 1 + blocks_of(module)[layer - 1].post_feedforward_layernorm.weight
        vectors = down.T * gain
    else:
        rows, vectors = head * module.model.norm.weight, down.T
    return rows.detach().double().numpy(), vectors.detach().double().numpy()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("tokens", [None, [9, 4, 77, 5, 300, 12]])
def test_measures_are_those_of_the_raw_weights(name, layer, tokens):
    model = opened(name)
    counts = np.random.default_rng(0).integers(1, 1000, N_TOKENS if tokens is None else 6)
    table = describe_neurons(model, layer, k=5, tokens=tokens, unigram=counts)
    rows, vectors = weights_of(name, module_of(name), layer)
    rows = rows if tokens is None else rows[tokens]
    lengths = np.linalg.norm(vectors, axis=1)
    cosines = vectors @ rows.T / lengths[:, None] / np.linalg.norm(rows, axis=1)
    contrasts = rows - rows.mean(axis=0)
    spare = 1 if name == "gpt2" else 0  # the mean, which is not read: no null space
    least = np.linalg.svd(contrasts)[2][-5 - spare : D_MODEL - spare]
    added = vectors @ contrasts.T
    logs = np.log(counts) - np.log(counts).mean()
    assert len(table) == len(vectors) == {"gpt2": 4 * D_MODEL}.get(name, 96)
    close(table["norm"], lengths)
    close(table["logit_var"], (cosines**2).mean(axis=1) - cosines.mean(axis=1) ** 2)
    if tokens is None:  # six rows leave 58 dimensions or more, and any five may be taken
        close(table["rho"], np.linalg.norm(vectors @ least.T, axis=1) / lengths, 1e-4)
    close(table["frequency"], added @ logs / np.linalg.norm(added, axis=1) / np.linalg.norm(logs))


def test_what_a_layer_norm_removes_makes_no_entropy_neuron():
    """A neuron that writes the same everywhere changes neither what is read nor the length."""
    module = module_of("gpt2")
    with torch.no_grad():
        down_of("gpt2", module, 3).weight[7] = 2.0
        down_of("gpt2", module, 3).weight[8] = torch.tensor([1.0, -1] * (D_MODEL // 2))
    table = describe_neurons(open_model((module, TOKENIZER)), 3, k=3)
    assert table.loc[7, ["norm", "logit_var", "rho"]].tolist() == pytest.approx([0, 0, 0])
    assert table.loc[8, "norm"] == pytest.approx(8)


def test_an_entropy_neuron_is_one_under_a_layer_norm_too():
    """Of what no token reads, the difference of two axes; the 5 written everywhere are removed."""
    module = module_of("gpt2")
    vector = torch.full((D_MODEL,), 5.0)
    vector[7], vector[20] = 8.0, 2.0
    with torch.no_grad():
        module.lm_head.weight[:, [7, 20]] = 0
        down_of("gpt2", module, 3).weight[7] = vector
    table = describe_neurons(open_model((module, TOKENIZER)), 3, k=1)
    close(table.loc[7], [18**0.5, 0, 1])
    assert table["rho"].drop(7).max() < 0.9
    assert table["logit_var"].drop(7).min() > 1e-6


def test_a_multiplier_of_what_is_written_counts():
    plain = describe_neurons(opened("granite"), 2, k=3)
    scaled = describe_neurons(opened("granite", residual_multiplier=0.3), 2, k=3)
    close(scaled["norm"], 0.3 * plain["norm"])
    close(scaled[["logit_var", "rho"]], plain[["logit_var", "rho"]])


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_neuron_alone_gives_is_its_vector(name):
    """Of the linear map, at 1 and at 0: the norm is that of the difference."""
    module = module_of(name)
    down = down_of(name, module, 2)
    n_neurons = down.weight.shape[0 if name == "gpt2" else 1]
    with torch.no_grad():
        vectors = down(torch.eye(n_neurons)) - down(torch.zeros(n_neurons))
        if name in ("gemma2", "gemma3", "gemma3_vision"):
            vectors *= 1 + blocks_of(module)[1].post_feedforward_layernorm.weight
        if name == "olmo2":
            vectors *= blocks_of(module)[1].post_feedforward_layernorm.weight
        if readout_of(opened(name), [0]).centres:
            vectors -= vectors.mean(dim=1, keepdim=True)
    table = describe_neurons(opened(name), 2, k=3)
    assert (len(table), table.index[-1]) == (n_neurons, n_neurons - 1)
    close(table["norm"], vectors.norm(dim=1))


# Activations


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("layer", [2, 3])
def test_activations_are_what_hooks_saw(name, layer, questions):
    module = module_of(name)
    activations = read_activations(opened(name), questions, layer)
    (into,), _ = seen(module, [down_of(name, module, layer)], build_prompts(questions))
    assert activations.shape == tuple(into.shape)
    close(activations, into)
    assert activations.std(axis=0).max() > 1e-2


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gemma2"])
def test_batches_and_exemplars_do_not_change_them(name, monkeypatch):
    model, module, few = opened(name), module_of(name), questions_of_subjects()
    passes, read_neurons = [], neurons_module.read_neurons

    def watched(model, block, layer, prompts, prefix=None, neurons=None):
        passes.append((len(prompts), prefix is not None))
        return read_neurons(model, block, layer, prompts, prefix, neurons)

    monkeypatch.setattr(neurons_module, "read_neurons", watched)
    shared = read_activations(model, few, 2, shots=1)
    assert passes == [(9, True), (3, False)]
    (into,), _ = seen(module, [down_of(name, module, 2)], build_prompts(few, 1))
    close(shared, into)
    passes.clear()
    longest = max(map(len, TOKENIZER(build_prompts(few, 1))["input_ids"]))
    close(read_activations(model, few, 2, shots=1, batch_tokens=longest), shared)
    assert len(passes) == 12
    order = [7, 1, 11, 0, 5, 3, 2, 4, 6, 8, 9, 10]
    close(read_activations(model, few.select(order), 2, shots=1), shared[order])


# What is refused


@pytest.mark.parametrize("layer", [0, 4, -1])
def test_a_layer_that_no_block_ends_in_is_refused(layer, questions):
    message = f"layer is {layer}; it is the layer that a block ends in, from 1 to 3"
    with pytest.raises(ValueError, match=message):
        describe_neurons(opened("llama"), layer)
    with pytest.raises(ValueError, match=message):
        read_activations(opened("llama"), questions, layer)


def test_of_a_remote_model_the_tokens_have_to_be_named():
    away = replace(opened("llama"), remote=True)
    with pytest.raises(ValueError, match=r"are on the server, and the rows .*: name tokens"):
        describe_neurons(away, 3)


def test_a_mixture_of_experts_has_no_one_basis_of_neurons(questions):
    model = opened("mixtral")
    message = (
        r"the MLP of layer 3 of MixtralForCausalLM is a MixtralSparseMoeBlock, which does not write"
        r" through one linear map, .*; read_attribution shows what it does as a whole"
    )
    with pytest.raises(ValueError, match=message):
        describe_neurons(model, 3)
    with pytest.raises(ValueError, match=message):
        read_activations(model, questions, 3)


@pytest.mark.parametrize(
    ("unigram", "tokens", "message"),
    [
        (np.ones(7), None, r"shape \(7,\); there must be one count for each of the 1035 tokens"),
        (np.ones((1035, 1)), None, r"shape \(1035, 1\); .* each of the 1035 tokens"),
        (np.ones(1035), LETTERS, r"shape \(1035,\); .* each of the 4 tokens"),
        ([3, 0, 1, 0], LETTERS, r"unigram\[1\] is 0.0; every count must be above 0 .*: add 1 to"),
        ([3, 2, -1, 0], LETTERS, r"unigram\[2\] is -1.0; every count must be above 0"),
        ([3, 2, 1, np.nan], LETTERS, r"unigram\[3\] is nan; every count must be above 0"),
        ([np.inf, 2, 1, 1], LETTERS, r"unigram\[0\] is inf; every count must be above 0"),
    ],
)
def test_counts_that_are_none_are_refused(planted, unigram, tokens, message):
    with pytest.raises(ValueError, match=message):
        describe_neurons(planted, 2, tokens=tokens, unigram=unigram)


def test_a_model_without_a_null_space_needs_k():
    with pytest.raises(ValueError, match=r"there is no effective null space; give k to take some"):
        describe_neurons(opened("llama"), 3)
    with pytest.raises(ValueError, match="k is 65; it must be from 1 to 64"):
        describe_neurons(opened("llama"), 3, k=65)
