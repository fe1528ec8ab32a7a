"""What the unembedding does not read: its spectrum, its null space, and what lies in that."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.architectures import D_MODEL, TOKENIZER, random_module
from support.planted import AXIS, planted_model, planted_questions
from transformers import AutoModelForCausalLM, OlmoConfig

from calib import Reading, lens, load_questions, open_model, read_layers
from calib.mechanisms import (
    Subspace,
    norm_shares,
    random_subspace,
    remove_subspace,
    singular_values,
    unembedding_null_space,
)
from calib.models.architectures import find_parts
from calib.questions import option_tokens

LETTERS = option_tokens(TOKENIZER, 4)
ONES = np.full(D_MODEL, D_MODEL**-0.5)


def opened(name):
    return open_model((random_module(name), TOKENIZER))


def norm_of(module):
    return module.get_submodule(find_parts(module)["norm"])


def zero_columns(model, columns):
    with torch.no_grad():
        model.module.lm_head.weight[:, columns] = 0


def axes(width, *which):
    return Subspace(np.eye(width)[list(which)], np.ones(len(which)), "axes")


def orthonormal(basis):
    np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-12)


def check_spans(basis, expected, atol=1e-6):
    """Both span the same."""
    np.testing.assert_allclose(basis.T @ basis, expected.T @ expected, atol=atol)


# The spectrum


def raw_contrasts(module, centres, tokens=slice(None)):
    """Folded and centred rows, float64, of a norm whose gain is its weight."""
    weight, gain = (part.weight.detach().double() for part in (module.lm_head, norm_of(module)))
    rows = (weight[tokens] * gain).numpy()
    if centres:
        rows = rows - rows.mean(axis=1, keepdims=True)
    return rows - rows.mean(axis=0)


@pytest.mark.parametrize(("name", "centres"), [("llama", False), ("gpt2", True)])
def test_singular_values_are_those_of_the_folded_rows_less_their_mean(name, centres):
    model = opened(name)
    sizes = np.linalg.svd(raw_contrasts(model.module, centres), compute_uv=False)
    found, n = singular_values(model), D_MODEL - centres  # less the mean, of which nothing is read
    assert (found.shape, found.dtype) == ((n,), np.float64)
    np.testing.assert_allclose(found, sizes[:n], rtol=1e-5, atol=1e-4)
    assert sizes[D_MODEL - 2] > 0.1


@pytest.mark.parametrize(("name", "centres"), [("llama", False), ("gpt2", True)])
def test_four_letters_differ_in_three_directions(name, centres):
    model = opened(name)
    contrasts = raw_contrasts(model.module, centres, LETTERS)
    sizes, found = np.linalg.svd(contrasts, compute_uv=False), singular_values(model, LETTERS)
    np.testing.assert_allclose(found[:3], sizes[:3], rtol=1e-5)
    np.testing.assert_allclose(found[3:], 0, atol=1e-5)
    assert found[2] > 0.1
    space = unembedding_null_space(model, tokens=LETTERS)
    assert len(space.basis) == D_MODEL - 3 - centres
    orthonormal(space.basis)
    np.testing.assert_allclose(contrasts @ space.basis.T, 0, atol=1e-5)


def test_every_row_of_a_large_vocabulary_counts():
    """4,100 rows are more than are multiplied at once."""
    module = planted_model().module
    module.resize_token_embeddings(4100, mean_resizing=False)
    torch.manual_seed(0)
    with torch.no_grad():
        module.lm_head.weight.normal_()
        module.lm_head.weight[4097:] *= 1000
    found = singular_values(open_model((module, TOKENIZER)))
    sizes = np.linalg.svd(raw_contrasts(module, False), compute_uv=False)
    np.testing.assert_allclose(found, sizes, rtol=1e-5)
    assert sizes[2] > 2 * sizes[3]  # the last three rows


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_what_is_added_to_all_rows_is_not_seen(name):
    """As a softmax does not."""
    model = opened(name)
    sizes, space = singular_values(model), unembedding_null_space(model, 3)
    with torch.no_grad():
        weight = model.module.lm_head.weight
        weight += 3 * torch.randn(D_MODEL, generator=torch.Generator().manual_seed(0))
    assert weight.mean(dim=0).abs().max() > 3
    np.testing.assert_allclose(singular_values(model), sizes, rtol=1e-4, atol=1e-3)
    check_spans(unembedding_null_space(model, 3).basis, space.basis, atol=1e-3)


# The null space


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_the_null_space_is_the_axes_that_the_unembedding_does_not_read(name):
    model = opened(name)
    zero_columns(model, [7, 20, 41])
    space = unembedding_null_space(model, D_MODEL)
    orthonormal(space.basis)
    assert space.name == "null space"
    assert space.shares[:3].max() < 1e-12 < 1e-6 < space.shares[3]
    assert (np.diff(space.shares) >= 0).all()
    assert space.shares.sum() == pytest.approx(1)
    check_spans(space.basis[:3], np.eye(D_MODEL)[[7, 20, 41]])


@pytest.mark.parametrize(("name", "no_gain"), [("llama", 0.0), ("gemma2", -1.0)])
def test_an_axis_that_the_norm_gives_no_gain_is_null(name, no_gain):
    """Gemma's norm adds 1 to its weight: what is 0 there is a gain of 1."""
    model = opened(name)
    with torch.no_grad():
        norm_of(model.module).weight[[3, 9]] = torch.tensor([no_gain, -1.0 - no_gain])
    space = unembedding_null_space(model, 2)
    check_spans(space.basis[:1], np.eye(D_MODEL)[[3]])
    assert space.shares[0] < 1e-12 < 1e-6 < space.shares[1]


def test_the_mean_that_a_layer_norm_removes_is_no_null_space():
    """It is not read, but makes no stream longer either. Of two axes that the unembedding does not
    read, only the difference is null: their sum moves the mean, and what is read of all others."""
    model = opened("gpt2")
    whole = unembedding_null_space(model, D_MODEL - 1)
    orthonormal(whole.basis)
    np.testing.assert_allclose(whole.basis @ ONES, 0, atol=1e-9)
    assert whole.shares[0] > 1e-6
    with pytest.raises(ValueError, match="there is no effective null space"):
        unembedding_null_space(model)
    zero_columns(model, [7, 20])
    difference = (np.eye(D_MODEL)[7] - np.eye(D_MODEL)[20]) * 0.5**0.5
    space = unembedding_null_space(model, 2)
    assert space.shares[0] < 1e-12 < 1e-6 < space.shares[1]
    check_spans(space.basis[:1], difference[None], atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "phi"])
def test_a_step_into_the_null_space_only_scales_what_the_lens_reads(name):
    """Less the lens of nothing, which holds the biases."""
    module = random_module(name)
    module.config.final_logit_softcapping = None
    model = open_model((module, TOKENIZER))
    zero_columns(model, [7, 20])
    # Of a LayerNorm's null directions not the mean, which would not make the stream longer.
    difference = np.eye(D_MODEL)[7] - np.eye(D_MODEL)[20]
    step = unembedding_null_space(model, 2).project(30 * difference)
    x = np.random.default_rng(0).normal(size=(5, D_MODEL))
    still, stepped, nothing = (
        lens(model, torch.tensor(a).float()).double().numpy() for a in (x, x + step, 0 * x)
    )
    still, stepped = still - nothing, stepped - nothing
    scale = (still * stepped).sum(axis=1) / (still**2).sum(axis=1)
    assert (0 < scale).all() and (scale < 0.5).all()
    np.testing.assert_allclose(stepped, scale[:, None] * still, atol=1e-4)


def test_what_all_letters_read_alike_is_null():
    """The letters read three axes, and now a fourth all alike, more than the others."""
    model = planted_model()
    with torch.no_grad():
        model.module.lm_head.weight[LETTERS, AXIS] = 5
    space = unembedding_null_space(model, 5, LETTERS)
    check_spans(space.basis, np.eye(8)[3:])
    # But the whole vocabulary does not: to it the letters are four tokens of many.
    n = len(TOKENIZER)
    common = 100 * (1 - 4 / n)  # four times 5² less n (4 · 5 / n)²
    shares = unembedding_null_space(model, 8).shares
    expected = np.array([0, 0, 0, 0, 1, 1, 1, common]) / (3 + common)
    np.testing.assert_allclose(shares, expected, atol=1e-6)


def test_shares_are_of_the_unembedding_with_the_gain_by_hand():
    """The planted model's letters read three axes, alike; a gain of 2 on the first makes it 4."""
    model = planted_model()
    with torch.no_grad():
        norm_of(model.module).weight[0] = 2
    shares = unembedding_null_space(model, 8).shares
    np.testing.assert_allclose(shares, [0, 0, 0, 0, 0, 1 / 6, 1 / 6, 4 / 6], atol=1e-6)
    np.testing.assert_allclose(singular_values(model), [2, 1, 1, 0, 0, 0, 0, 0], atol=1e-6)


def test_a_norm_without_weights_has_a_null_space_too():
    torch.manual_seed(0)
    config = OlmoConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    module = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        module.lm_head.weight[:, 4] = module.lm_head.weight[:, 9]
    space = unembedding_null_space(open_model((module, TOKENIZER)), 1)
    difference = (np.eye(16)[4] - np.eye(16)[9]) * 0.5**0.5
    check_spans(space.basis, difference[None], atol=1e-5)


# The rule


def opened_with_sizes(*sizes):
    """Axis i is read by two tokens, as ±sizes[i]/√2, so that it has that singular value."""
    model = planted_model()
    with torch.no_grad():
        weight = model.module.lm_head.weight.zero_()
        for i, size in enumerate(sizes):
            weight[2 * i, i], weight[2 * i + 1, i] = size * 0.5**0.5, -size * 0.5**0.5
    return model


def test_the_effective_null_space_holds_one_percent_of_the_singular_values():
    """.2, .3 and .4 are .9 of 100, and .5 more is too much. In squares it would be little."""
    model = opened_with_sizes(20, 0.5, 20, 0.3, 20, 0.2, 0.4, 38.6)
    space = unembedding_null_space(model)
    np.testing.assert_allclose(np.abs(space.basis), np.eye(8)[[5, 3, 6]], atol=1e-6)
    total = 3 * 400 + 0.25 + 0.09 + 0.04 + 0.16 + 1489.96
    np.testing.assert_allclose(space.shares, np.array([0.04, 0.09, 0.16]) / total, rtol=1e-5)
    sizes = [38.6, 20, 20, 20, 0.5, 0.4, 0.3, 0.2]
    np.testing.assert_allclose(singular_values(model), sizes, rtol=1e-5)


def test_the_rule_takes_all_that_is_not_read():
    model = planted_model()
    for tokens in (None, LETTERS):
        check_spans(unembedding_null_space(model, tokens=tokens).basis, np.eye(8)[3:])


def test_where_nothing_is_little_read_there_is_no_effective_null_space():
    model = opened_with_sizes(14, 14, 14, 14, 2, 14, 14, 14)
    message = r"read least holds 2\.0% of all singular values, more than 1%: there is no effective"
    with pytest.raises(ValueError, match=message):
        unembedding_null_space(model)
    check_spans(unembedding_null_space(model, 1).basis, np.eye(8)[[4]])


@pytest.mark.parametrize(
    ("name", "k", "most"),
    [("llama", 0, 64), ("llama", -1, 64), ("llama", 65, 64), ("gpt2", 64, 63)],
)
def test_a_null_space_of_no_or_too_many_dimensions_is_refused(name, k, most):
    with pytest.raises(ValueError, match=f"k is {k}; it must be from 1 to {most}"):
        unembedding_null_space(opened(name), k)


# How much of the stream lies in it


def reading_with(residuals, n_layers=3):
    n_questions = len(next(iter(residuals.values()), [0]))
    labels = np.zeros(n_questions, dtype=int)
    logits = np.zeros((n_questions, n_layers + 1, 4))
    return Reading(logits, labels, labels.astype(str), residuals=residuals)


def test_norm_shares_by_hand():
    """Shares of .36 and 0; the mean of a resample is 0, .18 or .36, the first and the last a
    quarter of the time each: a wide interval reaches them, one of the middle 40 % does not."""
    residuals = {3: [[0, 5, 0], [0, 0, 2]], 1: [[3, 4, 0], [0, 0, 2]], 2: [[7, 0, 0], [-1, 0, 0]]}
    reading = reading_with({ell: np.array(r, np.float32) for ell, r in residuals.items()})
    found = norm_shares(reading, axes(3, 0))
    assert (list(found.index), found.index.name) == ([1, 2, 3], "layer")
    assert list(found.columns) == ["share", "share_low", "share_high"]
    np.testing.assert_allclose(found, [[0.18, 0, 0.36], [1, 1, 1], [0, 0, 0]], atol=1e-12)
    narrow = norm_shares(reading, axes(3, 0), level=0.4)
    np.testing.assert_allclose(narrow.loc[1], [0.18, 0.18, 0.18], atol=1e-12)
    two = norm_shares(reading, axes(3, 0, 1))
    np.testing.assert_allclose(two.loc[[1, 3]], [[0.5, 0, 1], [0.5, 0, 1]], atol=1e-12)


def test_norm_shares_of_many_questions():
    """Of four equal axes one holds a quarter, and its mean is known to 1 / √questions."""
    rng = np.random.default_rng(0)
    reading = reading_with({2: rng.normal(size=(400, 4)) * rng.uniform(1, 9, size=(400, 1))})
    share, low, high = norm_shares(reading, axes(4, 2)).loc[2]
    assert low < share < high
    each = reading.residuals[2][:, 2] ** 2 / (reading.residuals[2] ** 2).sum(axis=1)
    assert share == pytest.approx(each.mean())
    error = each.std() / 20
    assert share == pytest.approx(0.25, abs=3 * error)
    np.testing.assert_allclose([share - low, high - share], 1.96 * error, rtol=0.15)
    again, other, few = (
        norm_shares(reading, axes(4, 2), seed=seed, n_resamples=n)
        for seed, n in ((0, 1000), (1, 1000), (0, 1))
    )
    assert tuple(again.loc[2]) == (share, low, high)
    assert other.share[2] == share and other.share_low[2] != low
    assert few.share_low[2] == few.share_high[2] != share


def test_the_whole_space_holds_all_and_what_is_left_the_rest():
    streams = np.random.default_rng(0).normal(size=(30, 12))
    reading, whole = reading_with({0: streams, 3: streams**3}), random_subspace(12, 12, seed=1)
    np.testing.assert_allclose(norm_shares(reading, whole), np.ones((2, 3)), rtol=1e-12)
    some, rest = (
        norm_shares(reading, Subspace(whole.basis[part], whole.shares[part], "part")).share
        for part in (slice(4), slice(4, None))
    )
    assert ((0.1 < some) & (some < 0.6)).all()
    np.testing.assert_allclose(some + rest, 1, rtol=1e-12)


def test_without_residuals_there_are_no_shares():
    with pytest.raises(ValueError, match="kept no residuals; read again with keep_residuals="):
        norm_shares(reading_with({}), axes(3, 0))


# What the last layer has in it, taken away


@pytest.fixture(scope="module")
def planted():
    model = planted_model()
    return model, read_layers(model, planted_questions(3), keep_residuals=[1, 2])


def test_an_axis_that_is_not_read_only_makes_the_stream_longer(planted):
    """It is of length 2, of which the axis is 1: without it, √3."""
    model, reading = planted
    found = remove_subspace(model, reading, axes(8, AXIS), LETTERS)
    assert (found.shape, found.dtype) == ((2, 24, 4), np.float32)
    total, frozen = found
    intact = reading.logits[:, 2]
    falcon = [1.5 * 2**0.5, *[-0.5 * 2**0.5] * 3]  # at a root mean square of √(4/8)
    np.testing.assert_allclose(intact[0], falcon, atol=1e-4)
    np.testing.assert_allclose(frozen, intact, atol=1e-5)
    np.testing.assert_allclose(total, intact * 2 / 3**0.5, atol=1e-4)


def test_an_axis_that_is_read_is_missed_in_both(planted):
    """Less its first coordinate, falcon's corner is as stag's is but for the sign."""
    total, frozen = remove_subspace(*planted, axes(8, 0), LETTERS)
    np.testing.assert_allclose(frozen[0], np.array([1, -1, 0, 0]) * 2**0.5, atol=1e-4)
    np.testing.assert_allclose(total[0], np.array([1, -1, 0, 0]) * (8 / 3) ** 0.5, atol=1e-4)


def test_where_nothing_is_in_the_subspace_nothing_changes(planted):
    total, frozen = remove_subspace(*planted, axes(8, 6, 4), LETTERS)
    for logits in (total, frozen):
        np.testing.assert_allclose(logits, planted[1].logits[:, 2], atol=1e-5)


def test_where_all_is_in_the_subspace_the_bias_is_left():
    model = opened("phi")
    reading = reading_with({3: np.random.default_rng(0).normal(size=(5, D_MODEL))})
    found = remove_subspace(model, reading, axes(D_MODEL, *range(D_MODEL)), LETTERS)
    norm, unembedding = norm_of(model.module), model.module.lm_head
    bias = (unembedding.weight @ norm.bias + unembedding.bias)[LETTERS].detach()
    assert bias.abs().max() > 0.1
    np.testing.assert_allclose(found, np.broadcast_to(bias, (2, 5, 4)), atol=1e-5)


def test_the_null_space_of_a_random_model_removed():
    """Of a model that does not read three axes: all logits in proportion to the lengths."""
    model = opened("llama")
    zero_columns(model, [7, 20, 41])
    reading = read_layers(model, load_questions("almanac", limit=10), keep_residuals=[3])
    total, frozen = remove_subspace(model, reading, unembedding_null_space(model, 3), LETTERS)
    stream = reading.residuals[3].astype(float)
    left = np.delete(stream, [7, 20, 41], axis=1)
    factor = np.linalg.norm(stream, axis=1) / np.linalg.norm(left, axis=1)
    assert factor.max() > 1.01
    np.testing.assert_allclose(frozen, reading.logits[:, 3], atol=1e-4)
    np.testing.assert_allclose(total, factor[:, None] * reading.logits[:, 3], atol=1e-4)


def test_a_layer_norm_does_not_miss_the_mean():
    """Which is no part of the length."""
    model = opened("gpt2")
    streams = np.random.default_rng(0).normal(size=(5, D_MODEL)) + 3
    ones = Subspace(ONES[None], np.ones(1), "ones")
    found = remove_subspace(model, reading_with({3: streams}), ones, LETTERS)
    own = lens(model, torch.tensor(streams).float(), LETTERS)
    np.testing.assert_allclose(found, np.broadcast_to(own, (2, 5, 4)), atol=1e-4)


def test_a_last_layer_that_was_not_kept_is_refused(planted):
    model, reading = planted
    first = replace(reading, residuals={1: reading.residuals[1]})
    with pytest.raises(ValueError, match=r"kept the residuals of layers \[1\], not of 2"):
        remove_subspace(model, first, axes(8, AXIS), LETTERS)


@pytest.mark.parametrize("call", [singular_values, unembedding_null_space])
def test_what_has_no_readout_is_refused(planted, call):
    model, _ = planted
    with pytest.raises(ValueError, match="are on the server, and the rows of a whole vocabulary"):
        call(replace(model, remote=True))
    with pytest.raises(ValueError, match=r"tokens is \[5, -1\]; it must be at least one"):
        call(model, tokens=[5, -1])


def test_nothing_is_removed_without_a_readout(planted):
    model, reading = planted
    with pytest.raises(ValueError, match=r"tokens is \[\]; it must be at least one"):
        remove_subspace(model, reading, axes(8, AXIS), [])


def test_one_token_has_no_spectrum():
    model = open_model((random_module("llama"), TOKENIZER))
    with pytest.raises(ValueError, match=r"tokens is \[5\]; a softmax over one token sees nothing"):
        unembedding_null_space(model, 3, tokens=[5])


def test_letters_may_be_given_as_an_array():
    model = open_model((random_module("llama"), TOKENIZER))
    given = [singular_values(model, tokens) for tokens in ([5, 6, 7], np.array([5, 6, 7]))]
    np.testing.assert_array_equal(*given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"level": 95}, "level is 95; it must lie"), ({"n_resamples": 0}, "n_resamples")],
)
def test_intervals_that_cannot_be_are_refused(settings, message):
    reading = read_layers(planted_model(), planted_questions(3), keep_residuals=[2])
    with pytest.raises(ValueError, match=message):
        norm_shares(reading, random_subspace(2, 8, 0), **settings)
