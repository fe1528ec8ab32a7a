"""What is written inside a block, against hooks on a module that calib never saw."""

import pytest
import torch
from support.architectures import CONFIGS, D_MODEL, N_LAYERS, TOKENIZER, _llama
from support.planted import planted_model
from support.planted_neuron import (
    blocks_of,
    module_of,
    opened,
    questions_of_lengths,
    seen,
)
from transformers import AutoModelForCausalLM, GPTNeoConfig, GptOssConfig, JambaConfig

from calib import build_prompts, open_model
from calib.mechanisms import Block, find_blocks
from calib.mechanisms.blocks import read_writes
from calib.reading._prefix import run_prefix

PROMPTS = build_prompts(questions_of_lengths())
IDS = TOKENIZER(PROMPTS)["input_ids"]
# Whose settings change what is written, or where, beside the architectures as they come.
CHANGED = {
    "granite": {"residual_multiplier": 0.3},
    "gpt_neox": {"use_parallel_residual": False},
    "opt": {"enable_bias": False},
}
MODELS = [(name, {}) for name in [*CONFIGS, "mixtral"]] + list(CHANGED.items())
every_model = pytest.mark.parametrize(
    ("name", "changes"), MODELS, ids=[" ".join([name, *changes]) for name, changes in MODELS]
)
ATTENTION = {
    "gpt_neox": "attention",
    "gpt2": "attn",
    "gptj": "attn",
    "gemma2": "post_attention_layernorm",
}
MLP = {"opt": "fc2", "gemma2": "post_feedforward_layernorm"}


def close(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def streams_of(module, prompts):
    """The stream at every layer ``[prompts, layers, d_model]``, by hooks on the blocks."""
    into, out = seen(module, blocks_of(module), prompts)
    return torch.stack([into[0], *out], dim=1)


# What is written


@every_model
def test_writes_add_up_to_what_a_block_changes(name, changes):
    model = opened(name, **changes)
    assert len({len(ids) for ids in IDS}) == 6
    found = read_writes(model, IDS, find_blocks(model), 0, N_LAYERS)
    streams, writes = found["streams"], found["writes"]
    assert writes.shape == (6, 2 * N_LAYERS, D_MODEL)
    expected = streams_of(module_of(name, **changes), PROMPTS)
    close(streams, expected)
    close(writes[:, ::2] + writes[:, 1::2], expected.diff(dim=1))
    assert writes.abs().amax(dim=2).min() > 0.05  # each is a part of it


@pytest.mark.parametrize(
    "name", ["llama", "gemma2", "gpt_neox", "gpt2", "gptj", "opt", "cohere", "mixtral"]
)
def test_attention_and_the_mlp_write_what_they_give(name):
    model, module = opened(name), module_of(name)
    found = read_writes(model, IDS, find_blocks(model), 0, N_LAYERS)
    attention, mlp = ATTENTION.get(name, "self_attn"), MLP.get(name, "mlp")
    parts = [b.get_submodule(part) for b in blocks_of(module) for part in (attention, mlp)]
    _, out = seen(module, parts, PROMPTS)
    close(found["writes"], torch.stack(out, dim=1))


def test_what_a_multiplier_makes_of_them_is_written():
    model, module = (f("granite", residual_multiplier=0.3) for f in (opened, module_of))
    found = read_writes(model, IDS, find_blocks(model), 0, N_LAYERS)
    parts = [p for block in blocks_of(module) for p in (block.self_attn, block.mlp)]
    _, out = seen(module, parts, PROMPTS)
    close(found["writes"], 0.3 * torch.stack(out, dim=1))


@every_model
def test_some_layers_are_those_of_all(name, changes):
    model = opened(name, **changes)
    blocks = find_blocks(model)
    whole = read_writes(model, IDS, blocks, 0, N_LAYERS)
    some = read_writes(model, IDS, blocks, 1, 2)
    close(some["streams"], whole["streams"][:, 1:3])
    close(some["writes"], whole["writes"][:, 2:4])


@every_model
def test_a_prefix_run_before_changes_nothing(name, changes):
    model = opened(name, **changes)
    blocks, ids = find_blocks(model), IDS[0]
    longer = [ids + [5] * i for i in range(3)]
    whole = read_writes(model, longer, blocks, 0, N_LAYERS)
    prefix = run_prefix(model, [ids[:-1]])
    rest = read_writes(model, [row[len(ids) - 1 :] for row in longer], blocks, 0, N_LAYERS, prefix)
    for name_of, value in whole.items():
        close(rest[name_of], value)


@every_model
def test_in_bfloat16_they_add_up_as_far_as_it_allows(name, changes):
    model = open_model((module_of(name, **changes).to(torch.bfloat16), TOKENIZER))
    found = read_writes(model, IDS, find_blocks(model), 0, N_LAYERS)
    writes = found["writes"].unflatten(1, (N_LAYERS, 2)).sum(dim=2)
    close(writes, found["streams"].diff(dim=1), 2e-2 * float(found["streams"].abs().max()))


# Where


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("llama", Block("self_attn.o_proj", "mlp.down_proj", "mlp.down_proj", 1.0)),
        (
            "gemma2",
            Block("post_attention_layernorm", "post_feedforward_layernorm", "mlp.down_proj", 1.0),
        ),
        ("gpt2", Block("attn.c_proj", "mlp.c_proj", "mlp.c_proj", 1.0)),
        ("opt", Block("self_attn.out_proj", "fc2", "fc2", 1.0)),
        ("mixtral", Block("self_attn.o_proj", "mlp", "mlp", 1.0)),
    ],
)
def test_where_the_parts_are(name, block):
    assert find_blocks(opened(name)) == [block] * N_LAYERS


def test_blocks_may_differ():
    """A mixture of experts whose first block has an MLP like any other, as DeepSeek's have."""
    module = module_of("mixtral")
    blocks_of(module)[0].mlp = blocks_of(module_of("llama"))[0].mlp
    found = find_blocks(open_model((module, TOKENIZER)))
    assert [block.down for block in found] == ["mlp.down_proj", "mlp", "mlp"]


# What is refused


def test_a_block_without_attention_is_refused():
    """Jamba attends in every second block here."""
    torch.manual_seed(0)
    config = JambaConfig(**_llama, num_experts=1, attn_layer_period=2, attn_layer_offset=1)
    model = open_model((AutoModelForCausalLM.from_config(config).eval(), TOKENIZER))
    message = r"block 1 of JambaForCausalLM keeps its attention under none of self_attn.o_proj, .*"
    with pytest.raises(ValueError, match=message + "; it has none, or this architecture is not kn"):
        find_blocks(model)


def test_an_mlp_under_no_known_name_is_refused():
    model = opened("llama")
    block = blocks_of(model.module)[1]
    block.feed_forward = block.mlp
    del block.mlp
    with pytest.raises(ValueError, match="block 2 of LlamaForCausalLM keeps its mlp under none of"):
        find_blocks(model)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_block_that_does_more_than_its_parts_write_is_refused(layer):
    module = module_of("llama")
    block = blocks_of(module)[layer - 1]
    forward = block.forward
    block.forward = lambda *args, **kwargs: 1.01 * forward(*args, **kwargs)
    message = (
        r"LlamaForCausalLM \(.*\): what self_attn.o_proj and mlp.down_proj write is not what block "
        rf"{layer} changes; they part by 9.9e-03 of the largest value"  # .01 of 1.01
    )
    with pytest.raises(ValueError, match=message):
        find_blocks(open_model((module, TOKENIZER)))


def test_a_block_that_passes_on_its_normed_stream_is_refused():
    model = opened("bloom", apply_residual_connection_post_layernorm=True)
    with pytest.raises(ValueError, match=r"write is not what block [123] changes; they part"):
        find_blocks(model)


def test_a_stream_of_zeros_is_no_reason_to_refuse():
    """The tokens that the planted model is proved on have no embedding there."""
    assert [block.down for block in find_blocks(planted_model())] == ["mlp.down_proj"] * 2


@pytest.mark.parametrize(
    ("config", "attention", "mlp"),
    [
        (
            GPTNeoConfig(
                vocab_size=len(TOKENIZER), hidden_size=32, num_layers=2, num_heads=2,
                attention_types=[[["global"], 2]], max_position_embeddings=512,
                bos_token_id=0, eos_token_id=0,
            ),
            "attn.attention.out_proj",
            "mlp.c_proj",
        ),
        (
            GptOssConfig(
                vocab_size=len(TOKENIZER), hidden_size=32, intermediate_size=32,
                num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=16,
                num_local_experts=4, bos_token_id=0, eos_token_id=0, pad_token_id=0,
            ),
            "self_attn.o_proj",
            "mlp",
        ),
    ],
    ids=["gpt_neo", "gpt_oss"],
)  # fmt: skip
def test_other_blocks_are_found_too(config, attention, mlp):
    torch.manual_seed(0)
    block = find_blocks(open_model((AutoModelForCausalLM.from_config(config), TOKENIZER)))[0]
    assert (block.attention, block.mlp) == (attention, mlp)
