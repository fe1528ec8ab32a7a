"""Ablation against the model's own passes with the neurons held, and a planted one on paper."""

import numpy as np
import pytest
import torch
from support.architectures import CONFIGS, TOKENIZER
from support.planted_neuron import (
    ENTROPY,
    LETTER,
    SILENT,
    WORD,
    close,
    down_of,
    held,
    module_of,
    opened,
    planted_neuron_model,
    questions_of_lengths,
    questions_of_subjects,
    questions_of_words,
    readout_by_hand,
    run,
    seen,
)

from calib import build_prompts, open_model, read_layers
from calib.mechanisms import Ablation, _changes, ablate_neurons, describe_neurons, read_activations
from calib.mechanisms import ablation as ablation_module

GROUPS = [(3,), (0, 95, 17, 40), tuple(range(50, 90))]
BELOW = [name for name in CONFIGS if name != "bloom"]  # whose prompts branch


@pytest.fixture(scope="module")
def questions():
    return questions_of_lengths()


@pytest.fixture
def passes(monkeypatch):
    """How many prompts and branches went through each pass that had branches."""
    made, read_tree = [], _changes.read_tree

    def watched(model, prompts, tokens, layers, vectors, prefix=None, keep=False, basis=None):
        made.append((len(prompts), len(layers), prefix is not None))
        return read_tree(model, prompts, tokens, layers, vectors, prefix, keep, basis)

    monkeypatch.setattr(_changes, "read_tree", watched)
    return made


def same(ablation, other):
    assert ablation.groups == other.groups
    for part in ("total", "direct", "intact", "labels"):
        close(getattr(ablation, part), getattr(other, part))


def constants(n, seed=0):
    """Far from what the neurons say, so that a group of few shows."""
    return 3 * np.random.default_rng(seed).normal(size=n).astype(np.float32)


def n_neurons(name):
    return 256 if name in ("gpt2", "gptj", "bloom") else 96


# On paper


@pytest.fixture(scope="module")
def planted():
    return planted_neuron_model()


@pytest.fixture(scope="module")
def words():
    return questions_of_words()


@pytest.fixture(scope="module")
def by_means(planted, words):
    means = read_activations(planted, words, 2).mean(axis=0)
    close(means, [0, 1 / 4, 1, 0])
    return ablate_neurons(planted, words, 2, means)


@pytest.fixture(scope="module")
def by_zeros(planted, words):
    return ablate_neurons(planted, words, 2, np.zeros(4))


def test_planted_answers_by_hand(by_means, by_zeros):
    """Reads of 3/2 and -1/2, divided by a length of 5 or 4 over √8; without the entropy neuron by
    4, and at its mean, which writes 3/2, by √(16 + 9/4)."""
    reads = np.array([[3, -1, -1, -1], [-1, -1, 3, -1]]) / 2 * 8**0.5  # falcon's and eagle's
    for ablation in (by_means, by_zeros):
        close(ablation.intact[[0, 12]], reads / [[5], [4]])
        close(ablation.direct[ENTROPY], ablation.intact, 1e-6)
    close(by_zeros.total[ENTROPY][[0, 12]], reads / 4)
    close(by_means.total[ENTROPY][[0, 12]], reads / 18.25**0.5)
    assert by_means.groups == ((0,), (1,), (2,), (3,))
    assert by_means.labels.tolist() == questions_of_words()["answer"]


# The answer's logit is √8 · 2 = 4√2 above each other one, over the length. Half of the
# questions are right, and of the others each letter is right for a third:
#
#   length        confidence   entropy     nll
#   5             .508189      1.233323    1.242587      intact, falcon and stag
#   4             .578252      1.144188    1.254853      intact, eagle and hare
#   mean          .543220      1.188755    1.248720
#   √(16 + 9/4)   .556151      1.174445    1.248799      the entropy neuron at its mean
#   √(16 - 9)     .738749      0.861374    1.371842      eagle and hare without the word neuron
#
# Without the letter neuron the first coordinate is halved: reads of (5, -3, -1, -1)/4, and squared
# lengths less by 3/4:
#
#   5             .458994      1.279658    1.250124      direct
#   4             .516643      1.217487    1.249658
#   √(25 - 3/4)   .462524      1.276232    1.249696      total
#   √(16 - 3/4)   .523630      1.209056    1.250541
#
# Accuracy is 1/2 throughout. So while all confidence is above it and in one bin the ECE changes as
# confidence does; without the letter neuron half of it is below.
def check_effects(row, total, direct):
    """``total`` and ``direct``: changes of confidence, entropy, NLL and ECE."""
    for name, all_of_it, part in zip(
        ("confidence", "entropy", "nll", "ece"), total, direct, strict=True
    ):
        assert row[name] == pytest.approx(all_of_it, abs=3e-6)
        assert row[f"{name}_direct"] == pytest.approx(part, abs=3e-6 if part else 1e-7)
        assert row[f"{name}_norm"] == pytest.approx(all_of_it - part, abs=6e-6)


def test_the_entropy_neuron_at_its_mean_by_hand(by_means):
    row = by_means.effects().loc[ENTROPY]
    check_effects(row, (0.012931, -0.014310, 0.000079, 0.012931), (0, 0, 0, 0))
    assert row["norm_share"] == pytest.approx(1, abs=1e-5)


def test_the_entropy_neuron_at_zero_by_hand(by_zeros):
    """Falcon and stag become as sure as the others."""
    row = by_zeros.effects().loc[ENTROPY]
    check_effects(row, (0.035031, -0.044568, 0.006133, 0.035031), (0, 0, 0, 0))
    assert row["norm_share"] == pytest.approx(1, abs=1e-5)


def test_the_letter_neuron_by_hand(by_means, by_zeros):
    """Its mean is zero."""
    for ablation in (by_means, by_zeros):
        row = ablation.effects().loc[LETTER]
        check_effects(
            row,
            (-0.050143, 0.053889, 0.001399, -0.012667),
            (-0.055402, 0.059817, 0.001171, -0.014395),
        )
        assert row["norm_share"] == pytest.approx(1 - 0.059817 / 0.053889, abs=1e-4)


def test_the_word_neuron_by_hand(by_means, by_zeros):
    """It says the same to every question: at its mean it does nothing, at zero it goes all through
    the norm, as the letters do not read what it writes."""
    assert by_means.effects().loc[WORD].drop("norm_share").abs().max() < 1e-6
    row = by_zeros.effects().loc[WORD]
    check_effects(row, (0.115280, -0.185974, 0.064627, 0.115280), (0, 0, 0, 0))


def test_a_silent_neuron_does_nothing(by_means, by_zeros):
    for ablation in (by_means, by_zeros):
        row = ablation.effects().loc[SILENT]
        assert row.drop("norm_share").abs().max() < 1e-6


def test_neurons_ablated_together_by_hand(planted, words):
    """With the letter, the entropy and the word neuron at 0, 2/3 and 0, reads of (5, -3, -1, -1)/4
    at a length of √(9/4 + 2² + 4²), or at those that were."""
    instead, group = [0, 2 / 3, 0, 9], [LETTER, ENTROPY, WORD]
    ablation = ablate_neurons(planted, words, 2, instead, [group, group[::-1]])
    reads = np.array([[5, -3, -1, -1], [-1, -1, 5, -3]]) / 4 * 8**0.5
    for way in (0, 1):
        close(ablation.total[way][[0, 12]], reads / 22.25**0.5)
        close(ablation.direct[way][[0, 12]], reads / [[5], [4]])


def test_all_measures_find_the_planted_neuron(planted, by_means):
    table, effects = describe_neurons(planted, 2), by_means.effects()
    assert table["logit_var"].idxmin() == ENTROPY
    assert table["rho"].idxmax() == ENTROPY
    assert table["norm"].idxmax() == ENTROPY
    for name in ("confidence", "entropy"):
        assert effects[f"{name}_norm"].abs().idxmax() == ENTROPY
        assert effects[f"{name}_direct"].abs().idxmax() == LETTER


def test_effects_are_of_the_logits_alone():
    """Two questions of two options, by hand: odds of 1 and 3, and of 3 and 9 when ablated."""
    odds = np.log(np.array([[1, 3], [3, 9], [1, 9]]))  # intact, total, direct
    intact, total, direct = np.stack([odds, 0 * odds], axis=-1).astype(np.float32)
    ablation = Ablation(((5,),), total[None], direct[None], intact, np.array([0, 1]))
    (row,) = ablation.effects().to_dict("records")
    assert row["confidence"] == pytest.approx((0.75 + 0.9) / 2 - (0.5 + 0.75) / 2, abs=1e-6)
    assert row["confidence_direct"] == pytest.approx((0.5 + 0.9) / 2 - (0.5 + 0.75) / 2, abs=1e-6)
    assert row["confidence_norm"] == pytest.approx((0.75 - 0.5) / 2, abs=1e-6)
    half, three, nine = np.log(2), np.log(4) - 0.75 * np.log(3), np.log(10) - 0.9 * np.log(9)
    assert row["entropy"] == pytest.approx((nine - half) / 2, abs=1e-6)
    assert row["entropy_direct"] == pytest.approx((nine - three) / 2, abs=1e-6)
    share = 1 - (nine - three) / (nine - half)
    assert row["norm_share"] == pytest.approx(share, abs=1e-5)
    # Question 1 is answered wrong.
    assert row["nll"] == pytest.approx((np.log(10 / 4) - np.log(0.75 / 0.5)) / 2, abs=1e-6)
    assert row["nll_direct"] == pytest.approx(np.log(10 / 4) / 2, abs=1e-6)


# The model's own passes


def expected(name, layer, questions, values, shots=0, **changes):
    """Logits ``[groups, questions, options]`` and ``[questions, options]`` intact."""
    module, groups = module_of(name, **changes), [*GROUPS, ()]
    with held(down_of(name, module, layer), groups, values):
        *total, intact = run(module, build_prompts(questions, shots), copies=len(groups)).numpy()
    return np.stack(total), intact


@pytest.mark.parametrize(
    ("name", "layer"),
    [(name, layer) for name in CONFIGS for layer in (2, 3)]
    + [("llama", 1), ("gpt_neox", 1), ("bloom", 1)],
)
def test_ablation_is_the_models_own_pass_with_the_neurons_held(name, layer, questions, passes):
    values = constants(n_neurons(name))
    ablation = ablate_neurons(opened(name), questions, layer, values, GROUPS)
    assert ablation.groups == tuple(GROUPS)
    assert ablation.total.shape == ablation.direct.shape == (3, 6, 4)
    assert ablation.total.dtype == ablation.direct.dtype == ablation.intact.dtype == np.float32
    assert passes == ([(6, 1, False), (6, 3, False)] if layer < 3 and name in BELOW else [])
    total, intact = expected(name, layer, questions, values)
    close(ablation.total, total, 1e-4)
    close(ablation.intact, intact, 1e-4)
    for change in (total - intact, ablation.direct - ablation.intact):
        assert np.abs(change).max(axis=(1, 2)).min() > 2e-3
    assert np.abs(ablation.total - ablation.direct).max() > 1e-2


@pytest.mark.parametrize("name", ["llama", "gpt2", "gptj", "gemma2"])
@pytest.mark.parametrize("layer", [2, 3])
def test_direct_effects_leave_the_final_norm_as_it_was(name, layer, questions):
    values, module = constants(n_neurons(name)), module_of(name)
    ablation = ablate_neurons(opened(name), questions, layer, values, GROUPS)
    rows, bias, length_of = readout_by_hand(name, module)
    norm = module.transformer.ln_f if name.startswith("gpt") else module.model.norm
    prompts = build_prompts(questions)
    (intact,), _ = seen(module, [norm], prompts)
    for group, direct in zip(GROUPS, ablation.direct, strict=True):
        with held(down_of(name, module, layer), [group], values):
            (ablated,), _ = seen(module, [norm], prompts)
        logits = ablated @ rows.T / length_of(intact)[:, None] + bias
        close(direct, 2 * torch.tanh(logits / 2) if name == "gemma2" else logits, 1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_so_is_it_after_shared_exemplars(name, passes):
    few, values = questions_of_subjects().select(range(6)), constants(n_neurons(name))
    ablation = ablate_neurons(opened(name), few, 2, values, GROUPS, shots=1)
    assert passes == ([(6, 1, True), (6, 3, True)] if name in BELOW else [])
    total, intact = expected(name, 2, few, values, shots=1)
    close(ablation.total, total, 1e-4)
    close(ablation.intact, intact, 1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "bloom"])
@pytest.mark.parametrize("layer", [2, 3])
def test_what_is_held_at_what_it_says_changes_nothing(name, layer, questions):
    model, one = opened(name), questions.select([2])
    (said,) = read_activations(model, one, layer)
    ablation = ablate_neurons(model, one, layer, said, [*GROUPS, range(n_neurons(name))])
    for logits in (*ablation.total, *ablation.direct):
        close(logits, ablation.intact)


@pytest.mark.parametrize("name", ["mistral", "gemma2"])
def test_prompts_longer_than_the_window_take_the_plain_road(name, questions, passes):
    model, values = opened(name, sliding_window=20), constants(96)
    ablation = ablate_neurons(model, questions, 2, values, GROUPS)
    assert not passes
    total, intact = expected(name, 2, questions, values, sliding_window=20)
    close(ablation.total, total, 1e-4)
    close(ablation.intact, intact, 1e-4)


@pytest.mark.parametrize("layer", [2, 3])
def test_a_multiplier_of_what_is_written_counts(layer, questions):
    model, values = opened("granite", residual_multiplier=0.3), constants(96)
    ablation = ablate_neurons(model, questions, layer, values, GROUPS)
    total, _ = expected("granite", layer, questions, values, residual_multiplier=0.3)
    close(ablation.total, total, 1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("layer", [2, 3])
def test_in_bfloat16_it_is_as_close_as_it_allows(name, layer, questions):
    values = constants(n_neurons(name))
    model = open_model((module_of(name).to(torch.bfloat16), TOKENIZER))
    ablation = ablate_neurons(model, questions, layer, values, GROUPS)
    total, intact = expected(name, layer, questions, values)
    close(ablation.total, total, 4e-2 * np.abs(total).max())
    close(ablation.intact, intact, 4e-2 * np.abs(total).max())


# Sums


@pytest.fixture(scope="module")
def together(questions):
    """A model, its constants and every neuron of the layer below the last by itself."""
    model, values = opened("qwen3"), constants(96)
    return model, values, ablate_neurons(model, questions, 2, values)


def test_every_neuron_by_itself_if_no_groups_are_given(together, questions):
    model, values, ablation = together
    assert ablation.groups == tuple((i,) for i in range(96))
    some = [5, 0, 95]
    close(
        ablate_neurons(model, questions, 2, values, [[i] for i in some]).total, ablation.total[some]
    )
    lens = read_layers(model, questions)
    close(ablation.intact, lens.logits[:, -1])
    np.testing.assert_array_equal(ablation.labels, lens.labels)


def test_effects_add_up(together):
    effects = together[2].effects()
    assert (len(effects), effects.index.name) == (96, "group")
    for name in ("confidence", "entropy", "nll", "ece"):
        close(effects[f"{name}_direct"] + effects[f"{name}_norm"], effects[name], 1e-12)
        assert effects[f"{name}_norm"].abs().max() > 1e-5
    close(effects["norm_share"] * effects["entropy"], effects["entropy_norm"], 1e-12)


@pytest.mark.parametrize("layer", [2, 3])
def test_few_groups_at_a_time_change_nothing(layer, questions, passes, monkeypatch):
    model, values, groups = opened("llama"), constants(96), [*GROUPS, (3, 4), (95,)]
    whole = ablate_neurons(model, questions, layer, values, groups)
    assert passes == [(6, 1, False), (6, 5, False)] * (layer == 2)
    passes.clear()
    monkeypatch.setattr(ablation_module, "MOST", 2)
    same(ablate_neurons(model, questions, layer, values, groups), whole)
    assert passes == [(6, 1, False), (6, 2, False), (6, 2, False), (6, 1, False)] * (layer == 2)


@pytest.mark.parametrize("layer", [2, 3])
@pytest.mark.parametrize(
    ("room", "some_passes"),
    [
        (0, [(1, 1, False)] * 24),
        (2, [(1, 1, False), (1, 2, False), (1, 1, False)] * 6),
        (100, [(n, groups, False) for n in (1, 2, 3) for groups in (1, 3)]),
    ],
)
def test_nor_do_small_batches(layer, room, some_passes, questions, passes):
    model, values = opened("llama"), constants(96)
    whole = ablate_neurons(model, questions, layer, values, GROUPS)
    passes.clear()
    longest = max(map(len, TOKENIZER(build_prompts(questions))["input_ids"]))
    small = ablate_neurons(model, questions, layer, values, GROUPS, batch_tokens=longest + room)
    same(small, whole)
    assert passes == some_passes * (layer == 2)


@pytest.mark.parametrize("layer", [2, 3])
def test_order_changes_nothing_but_the_order(layer, questions):
    model, values = opened("gemma2"), constants(96)
    whole = ablate_neurons(model, questions, layer, values, GROUPS)
    turned = ablate_neurons(model, questions, layer, values, [g[::-1] for g in GROUPS[::-1]])
    close(turned.total, whole.total[::-1])
    close(turned.direct, whole.direct[::-1])
    order = [4, 1, 5, 0, 2, 3]
    other = ablate_neurons(model, questions.select(order), layer, values, GROUPS)
    close(other.total, whole.total[:, order])
    close(other.direct, whole.direct[:, order])
    close(other.intact, whole.intact[order])
    np.testing.assert_array_equal(other.labels, whole.labels[order])


# What is refused


@pytest.fixture
def unused():
    """A model that fails the test if it answers a question; blocks are proved on five tokens."""
    model = open_model((module_of("llama"), TOKENIZER))

    def stop(_, args, kwargs):
        if kwargs["input_ids"].shape != (1, 5):
            pytest.fail("the model ran before the input was checked")

    model.module.register_forward_pre_hook(stop, with_kwargs=True)
    return model


NOT_FINITE = np.where(np.arange(96) < 7, 0, np.nan)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, np.zeros(96)), "layer is 0; it is the layer that a block ends in, from 1 to 3"),
        ((4, np.zeros(96)), "layer is 4; it is the layer that a block ends in, from 1 to 3"),
        ((2, np.zeros(64)), r"instead has shape \(64,\); the layer has 96 neurons, and each needs"),
        ((2, np.zeros((96, 1))), r"instead has shape \(96, 1\); the layer has 96 neurons"),
        ((2, 0.0), r"instead has shape \(\); the layer has 96 neurons"),
        ((2, NOT_FINITE), r"instead\[7\] is nan; it must be finite"),
        ((2, -np.inf * np.ones(96)), r"instead\[0\] is -inf; it must be finite"),
        (
            (2, np.zeros(96), [[1], []]),
            r"group 1 is \[\]; it must hold at least one neuron and none",
        ),
        ((2, np.zeros(96), [[1, 2, 1]]), r"group 0 is \[1, 2, 1\]; .* at least one .* none twice"),
        ((2, np.zeros(96), [[1], [4, 96]]), r"group 1 is \[4, 96\]; neurons run from 0 to 95"),
        ((2, np.zeros(96), [[1], [-1, 4]]), r"group 1 is \[-1, 4\]; neurons run from 0 to 95"),
        ((2, np.zeros(96), []), "no groups to ablate; leave groups out to ablate every neuron"),
    ],
)
def test_a_wrong_request_is_refused_before_the_model_answers(arguments, message, unused, questions):
    with pytest.raises(ValueError, match=message):
        ablate_neurons(unused, questions, *arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_tokens": 20}, r"tokens, batch_tokens is 20; .* or raise batch_tokens"),
        ({"shots": 6}, "shots is 6"),
    ],
)
def test_what_read_layers_refuses_is_refused(settings, message, unused, questions):
    with pytest.raises(ValueError, match=message):
        ablate_neurons(unused, questions, 2, np.zeros(96), **settings)


@pytest.mark.parametrize("groups", [[3, 7], [[1.7]], ["a"]])
def test_groups_that_are_none_are_refused(groups, unused, questions):
    with pytest.raises(TypeError, match=r"it must be groups of neurons' numbers, such as \[\[0,"):
        ablate_neurons(unused, questions, 2, np.zeros(96), groups)


def test_a_mixture_of_experts_has_no_one_basis_of_neurons(questions):
    message = (
        r"layer 3 of MixtralForCausalLM is a MixtralSparseMoeBlock, .* read_attribution shows what"
    )
    with pytest.raises(ValueError, match=message):
        ablate_neurons(opened("mixtral"), questions, 3, np.zeros(96))
