"""The readout taken apart: the same logits as the lens, its parts by hand, and clear refusals."""

from dataclasses import replace
from operator import attrgetter

import numpy as np
import pytest
import torch
from support.architectures import CONFIGS, D_MODEL, TOKENIZER, random_module
from support.planted import CORNERS, planted_model
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, OlmoConfig

from calib import lens, open_model
from calib.mechanisms import Readout, readout_of
from calib.mechanisms.unembedding import norm_of
from calib.models.model import TOLERANCE
from calib.questions import option_tokens

LETTERS = option_tokens(TOKENIZER, 4)
LENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1, 30, 1000)  # the epsilons make themselves felt below 1e-2
EPSILONS = {
    "llama": "rms_norm_eps",
    "gemma2": "rms_norm_eps",
    "olmo2": "rms_norm_eps",
    "granite": "rms_norm_eps",
    "phi": "layer_norm_eps",
    "gpt_neox": "layer_norm_eps",
    "cohere": "layer_norm_eps",
    "gpt2": "layer_norm_epsilon",
    "gptj": "layer_norm_epsilon",
    "bloom": "layer_norm_epsilon",
}
LAYER_NORMS = {"phi", "gpt_neox", "gpt2", "gptj", "opt", "bloom", "cohere"}


def opened(name, dtype=torch.float32, **changes):
    return open_model((random_module(name, **changes).to(dtype), TOKENIZER))


def opened_without_norm_weights():
    torch.manual_seed(0)
    config = OlmoConfig(
        vocab_size=len(TOKENIZER), hidden_size=D_MODEL, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    module = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        module.lm_head.weight.normal_()
    return open_model((module, TOKENIZER))


def norm_and_unembedding(model):
    return [attrgetter(path)(model.module) for path in (model.norm, model.unembedding)]


def streams(d_model=D_MODEL):
    """Four of each of ``LENGTHS``, with a mean that is not zero."""
    drawn = torch.randn(len(LENGTHS), 4, d_model, generator=torch.Generator().manual_seed(1))
    return (drawn + 0.5) * torch.tensor(LENGTHS)[:, None, None]


def check_against_lens(model, tokens=None):
    readout, x = readout_of(model, tokens), streams(model.d_model).to(model.dtype)
    ours, own = readout.logits(x.float()), lens(model, x, tokens).float()
    assert ours.shape == own.shape
    off = (ours - own).abs().amax(dim=(1, 2)) / own.abs().amax(dim=(1, 2))
    assert off.max() < TOLERANCE[model.dtype]


# Against the lens


@pytest.mark.parametrize("name", CONFIGS)
def test_the_logits_are_the_lens_at_any_length(name):
    model = opened(name)
    check_against_lens(model)
    check_against_lens(model, LETTERS)


def test_the_logits_are_the_lens_where_the_norm_has_no_weights():
    model = opened_without_norm_weights()
    check_against_lens(model)
    readout = readout_of(model)
    assert readout.centres
    assert readout.epsilon == pytest.approx(1e-5, rel=1e-3)
    weight = model.module.lm_head.weight.detach()
    assert_close(readout.rows, weight - weight.mean(dim=1, keepdim=True), rtol=0, atol=1e-5)
    assert_close(readout.bias, torch.zeros(len(TOKENIZER)))


@pytest.mark.parametrize(("name", "tied"), [("llama", True), ("gpt2", False), ("cohere", False)])
def test_tied_weights_and_untied_ones(name, tied):
    """Each the other way round than the configuration's default."""
    model = opened(name, tie_word_embeddings=tied)
    embedding = model.module.get_input_embeddings().weight
    assert (model.module.lm_head.weight is embedding) == tied
    check_against_lens(model)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_type_of_weights(name, dtype):
    model = opened(name, dtype)
    check_against_lens(model)
    readout = readout_of(model)
    assert readout.rows.dtype == readout.bias.dtype == torch.float32


@pytest.mark.parametrize("name", ["llama", "gptj", "gemma2"])
def test_some_tokens_are_some_rows_in_their_order(name):
    model = opened(name)
    whole, some = readout_of(model), readout_of(model, [40, 7, 40, 0])
    assert whole.rows.shape == (len(TOKENIZER), D_MODEL)
    assert_close(some.rows, whole.rows[[40, 7, 40, 0]])
    assert_close(some.bias, whole.bias[[40, 7, 40, 0]])


# The parts


@pytest.mark.parametrize("name", CONFIGS)
def test_a_layer_norm_centres_and_an_rms_norm_does_not(name):
    assert readout_of(opened(name)).centres == (name in LAYER_NORMS)


@pytest.mark.parametrize("epsilon", [1e-8, 1e-6, 1e-5, 1e-3, 0.1])
@pytest.mark.parametrize("name", EPSILONS)
def test_epsilon_is_the_configurations(name, epsilon):
    model = opened(name, **{EPSILONS[name]: epsilon})
    assert readout_of(model).epsilon == pytest.approx(epsilon, rel=1e-2)


def test_a_large_epsilon_is_in_the_gain_too():
    """A wrong one there would scale all logits."""
    model = opened("llama", rms_norm_eps=3.0)
    norm, unembedding = norm_and_unembedding(model)
    assert_close(readout_of(model).rows, unembedding.weight * norm.weight, rtol=0, atol=1e-5)
    check_against_lens(model)


@pytest.mark.parametrize("name", CONFIGS)
def test_gain_and_offset_are_the_norms_weights(name):
    model = opened(name)
    norm, _ = norm_and_unembedding(model)
    found = norm_of(model, model.part("norm"), "the final norm")
    gain, offset = found.gain, found.offset
    weight = norm.weight.detach()
    assert_close(gain, weight + 1 if name.startswith("gemma") else weight, rtol=0, atol=1e-5)
    bias = getattr(norm, "bias", None)
    assert_close(offset, torch.zeros(D_MODEL) if bias is None else bias.detach())


@pytest.mark.parametrize(
    ("name", "scale", "has_bias"),
    [("llama", 1, False), ("granite", 1 / 3, False), ("cohere", 0.3, False), ("gpt2", 1, False),
     ("phi", 1, True), ("gptj", 1, True)],
)  # fmt: skip
def test_rows_and_bias_from_the_raw_weights(name, scale, has_bias):
    model = opened(name)
    norm, unembedding = norm_and_unembedding(model)
    weight, gain = unembedding.weight.detach(), norm.weight.detach()
    rows = weight * gain
    if name in LAYER_NORMS:
        rows = rows - rows.mean(dim=1, keepdim=True)
    bias = torch.zeros(len(TOKENIZER))
    if getattr(norm, "bias", None) is not None:
        bias = bias + weight @ norm.bias.detach()
    assert (unembedding.bias is not None) == has_bias
    if has_bias:
        bias = bias + unembedding.bias.detach()
    readout = readout_of(model)
    assert_close(readout.rows, rows * scale, rtol=0, atol=1e-5)
    assert_close(readout.bias, bias * scale, rtol=0, atol=1e-5)
    assert readout.cap is None


def test_the_logit_scale_is_of_the_bias_too():
    """As in the lens, though none of these architectures has both."""
    model = replace(opened("phi"), logit_scale=0.3)
    check_against_lens(model)
    plain, scaled = readout_of(replace(model, logit_scale=None)), readout_of(model)
    assert_close(scaled.bias, 0.3 * plain.bias)
    assert plain.bias.abs().max() > 0.1


def test_a_soft_cap_holds_every_logit_below_it():
    model = opened("gemma2")
    with torch.no_grad():
        model.module.lm_head.weight.mul_(4)
    readout = readout_of(model)
    uncapped = replace(readout, cap=None)
    x = streams()[4]
    assert (readout.cap, uncapped.logits(x).abs().max() > 4) == (2.0, True)
    assert_close(readout.logits(x), 2 * torch.tanh(uncapped.logits(x) / 2))
    assert readout.logits(x).abs().max() <= 2


# By hand


def test_the_planted_models_letters_by_hand():
    """Corner A in streams whose squares sum to 8 and to 32: lengths 1 and 2."""
    readout = readout_of(planted_model(), LETTERS)
    rows = torch.zeros(4, 8)
    rows[:, :3] = CORNERS / 2
    assert_close(readout.rows, rows, rtol=0, atol=1e-6)
    assert_close(readout.bias, torch.zeros(4))
    x = torch.tensor([[1.0, 1, 1, 0, 0, 2, 1, 0], [1, 1, 1, 0, 0, 5, 2, 0]])
    assert_close(readout.lengths(x), torch.tensor([1.0, 2]), rtol=0, atol=1e-5)
    still = torch.tensor([[1.5, -0.5, -0.5, -0.5], [0.75, -0.25, -0.25, -0.25]])
    assert_close(readout.logits(x), still, rtol=0, atol=1e-5)
    # Each at the length of the other.
    frozen = readout.logits(x, readout.lengths(x.flip(0)))
    assert_close(frozen, still.flip(0), rtol=0, atol=1e-5)
    at_three = readout.logits(x, torch.tensor(3.0))
    assert_close(at_three, torch.tensor([[0.5, -1 / 6, -1 / 6, -1 / 6]] * 2), rtol=0, atol=1e-5)


def test_the_gain_is_folded_into_the_rows_by_hand():
    model = planted_model()
    with torch.no_grad():
        model.module.model.norm.weight[0] = 2
    x = torch.tensor([1.0, 1, 1, 0, 0, 2, 1, 0])
    logits = readout_of(model, LETTERS).logits(x)
    assert_close(logits, torch.tensor([2.0, 0, -1, -1]), rtol=0, atol=1e-5)


def hand_set(**changes):
    rows = torch.tensor([[2.0, 0, -2], [0, 3, -3]])
    parts = {"bias": torch.tensor([0.5, -1]), "centres": True, "epsilon": 1 / 3, "cap": None}
    return Readout(rows, **(parts | changes))


def test_a_centred_length_by_hand():
    """About its mean the stream is (1, -1, 0), of mean square 2/3; epsilon makes it 1."""
    x = torch.tensor([3.0, 1, 2])
    assert_close(hand_set().lengths(torch.stack([x, x + 10])), torch.tensor([1.0, 1]))
    assert_close(hand_set().logits(x), torch.tensor([2.5, -4]))
    assert_close(hand_set().logits(x + 10), torch.tensor([2.5, -4]))
    assert_close(hand_set(centres=False).lengths(x), torch.tensor(5.0).sqrt())


def test_the_bias_is_not_divided_and_the_cap_comes_last():
    x, two = torch.tensor([3.0, 1, 2]), torch.tensor(2.0)
    assert_close(hand_set().logits(x, two), torch.tensor([1.5, -2.5]))
    reads = torch.tensor([[[2.0, -3], [4, 6]]])
    divided = hand_set().divide(reads, torch.tensor([[2.0, 4]]))
    assert_close(divided, torch.tensor([[[1.5, -2.5], [1.5, 0.5]]]))
    capped = hand_set(cap=2.0).logits(x)  # 2 tanh(2.5 / 2) and 2 tanh(-4 / 2)
    assert_close(capped, torch.tensor([1.6965672, -1.9280552]))


def test_contrasts_by_hand():
    """The mean row is (1, 1.5, -2.5)."""
    assert_close(hand_set().contrasts, torch.tensor([[1.0, -1.5, 0.5], [-1, 1.5, -0.5]]))


# Refusals


def test_the_whole_vocabulary_of_a_remote_model_is_refused():
    model = replace(planted_model(), remote=True, name="far/away")
    with pytest.raises(ValueError, match=r"of far/away are on the server, .*: name tokens; open"):
        readout_of(model)


@pytest.mark.parametrize("tokens", [[], [-1], [3, len(TOKENIZER)], [-len(TOKENIZER), 3]])
def test_tokens_that_are_none_of_the_vocabulary_are_refused(tokens):
    with pytest.raises(ValueError) as refused:
        readout_of(planted_model(), tokens)
    assert str(refused.value) == (
        f"tokens is {tokens}; it must be at least one, each from 0 to {len(TOKENIZER) - 1}"
    )


class OtherNorm(torch.nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.forward = forward


def rms(x):
    return x.square().mean(dim=-1, keepdim=True).sqrt()


OTHER_NORMS = {
    "max": lambda x: x / x.abs().amax(dim=-1, keepdim=True),
    "mean of absolutes": lambda x: x / x.abs().mean(dim=-1, keepdim=True),
    "part of the stream": lambda x: x / rms(x[..., :8]),
    "cubed": lambda x: (x / rms(x)) ** 3,
    "epsilon outside the root": lambda x: x / (rms(x) + 1e-3),
    "tanh": lambda x: torch.tanh(0.5 * x),
    "zero": lambda x: 0 * x,
}


@pytest.mark.parametrize("norm", OTHER_NORMS)
def test_a_norm_that_is_neither_is_refused(norm):
    module = random_module("llama")
    readout_of(open_model((module, TOKENIZER)))
    module.model.norm = OtherNorm(OTHER_NORMS[norm])
    model = open_model((module, TOKENIZER))
    message = r"LlamaForCausalLM \(.*\): the final norm model.norm is neither a LayerNorm nor"
    with pytest.raises(ValueError, match=message):
        readout_of(model)


@pytest.mark.parametrize("norm", [torch.nn.LayerNorm, torch.nn.RMSNorm])
def test_another_layer_norm_or_rms_norm_is_taken(norm):
    module = random_module("llama")
    module.model.norm = norm(D_MODEL, eps=0.01)
    model = open_model((module, TOKENIZER))
    readout = readout_of(model)
    assert readout.centres == (norm is torch.nn.LayerNorm)
    assert readout.epsilon == pytest.approx(0.01, rel=1e-3)
    rows = model.module.lm_head.weight.detach()
    if readout.centres:
        rows = rows - rows.mean(dim=1, keepdim=True)
    np.testing.assert_allclose(readout.rows, rows, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "gptj", "opt", "qwen3"])
def test_a_single_row_in_bfloat16_is_not_refused(name):
    """Its logit may be near zero, and rounding large beside it."""
    model = open_model((random_module(name).to(torch.bfloat16), TOKENIZER))
    for token in range(40):
        assert readout_of(model, [token]).rows.shape == (1, D_MODEL)
