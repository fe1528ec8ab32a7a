"""What the tests of mechanisms share: a model whose neurons are set by hand, and plain hooks."""

from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from datasets import Dataset
from support.architectures import N_LAYERS, TOKENIZER, _llama, random_module
from support.planted import CORNERS, WORDS, planted_questions
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig

from calib import build_prompts, load_questions, open_model
from calib.questions import option_tokens

WIDTH, AXIS, STILL = 8, 5, 4  # the stream's width, what no token reads, what holds 2 throughout
LETTER, ENTROPY, WORD, SILENT = range(4)  # the neurons
VECTORS = np.zeros((4, WIDTH))  # what each writes
VECTORS[LETTER, 0] = 1
VECTORS[ENTROPY, AXIS] = 6
VECTORS[WORD, 3] = 3
VECTORS[SILENT, [1, AXIS]] = 3, 4
# Two tokens for each coordinate that no letter reads, AXIS left out: one reads it, one its inverse.
READERS = {3: (20, 21), 4: (22, 23), 6: (24, 25), 7: (26, 27)}
ANSWERS = torch.arange(4).repeat_interleave(6)  # what is answered to ``questions_of_words()``
LETTERS = option_tokens(TOKENIZER, 4)


def questions_of_words() -> Dataset:
    """Six a word, three of them right: accuracy .5, and each other letter is right once."""
    return planted_questions(3)


def planted_neuron_model():
    """Answers A to falcon, B to stag, C to eagle and D to hare, with an entropy neuron in the end.

    Attention of the first layer writes the word's corner c as (c0/2, c1, c2) on the first three
    coordinates of the answer position, where ``STILL`` holds 2: a stream of length 2.5. Nothing
    else is written before the MLP of the last layer. Its neurons:

    - ``LETTER`` is active at c0/2 and writes along the first coordinate: the corner is c then;
    - ``ENTROPY`` is active at (1 + c0)/4, so at 1/2 for falcon and stag and at 0 for the others,
      and writes 6 along ``AXIS``, which no token reads;
    - ``WORD`` is active at 1 and writes 3 along a coordinate that two tokens read, no letters;
    - ``SILENT`` is never active, and would write on letters and along ``AXIS``.

    The squared length of the stream in the end is 3 + 4 + 9 = 16, with the entropy neuron 25. The
    letters read a corner each, halved: 3/2 at the answer, -1/2 elsewhere.
    """
    ids = TOKENIZER(build_prompts(questions_of_words()))["input_ids"]
    (n_tokens,) = {len(row) for row in ids}
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=WIDTH, num_hidden_layers=2, intermediate_size=4,
        num_attention_heads=1, num_key_value_heads=1, bos_token_id=0, eos_token_id=0,
        hidden_act="relu",
    )  # fmt: skip
    module = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        embedding, first, last = module.model.embed_tokens.weight, *module.model.layers
        for word, corner in zip(WORDS, CORNERS, strict=True):
            (token,) = TOKENIZER(f" {word}")["input_ids"]
            embedding[token, :3] = corner
        embedding[ids[0][-1], STILL] = 2
        first.self_attn.v_proj.weight[:3, :3] = torch.eye(3)
        # Of n_tokens that count alike, one holds the corner, divided by its root mean square.
        corner_of = n_tokens * (3 / WIDTH) ** 0.5 * torch.eye(3)
        first.self_attn.o_proj.weight[:3, :3] = torch.tensor([0.5, 1, 1])[:, None] * corner_of
        # The MLP sees the stream divided by its root mean square, 2.5 / √8. A gate is 1 or shut.
        size = 2.5 / WIDTH**0.5
        gate, up = last.mlp.gate_proj.weight, last.mlp.up_proj.weight
        gate[:, STILL] = size * torch.tensor([0.5, 0.5, 0.5, -0.5])
        up[LETTER, 0] = size
        up[ENTROPY, [0, STILL]] = size * torch.tensor([1 / 2, 1 / 8])
        up[WORD, STILL] = up[SILENT, STILL] = size / 2
        last.mlp.down_proj.weight.copy_(torch.tensor(VECTORS.T))
        rows = module.lm_head.weight
        rows[LETTERS, :3] = CORNERS / 2
        for coordinate, (along, against) in READERS.items():
            rows[along, coordinate], rows[against, coordinate] = 1, -1
    return open_model((module, TOKENIZER))


# Models of every architecture


def mixture():
    """A mixture of experts, random in every parameter like the others."""
    torch.manual_seed(0)
    config = MixtralConfig(**_llama, num_local_experts=4)
    module = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def module_of(name, **changes):
    return mixture() if name == "mixtral" else random_module(name, **changes)


def opened(name, **changes):
    return open_model((module_of(name, **changes), TOKENIZER))


def blocks_of(module):
    """The only list of as many modules as there are blocks."""
    lists = [m for m in module.modules() if type(m) is torch.nn.ModuleList]
    (blocks,) = [some for some in lists if len(some) == N_LAYERS]
    return blocks


DOWN = {
    "phi": "mlp.fc2",
    "gpt_neox": "mlp.dense_4h_to_h",
    "gpt2": "mlp.c_proj",
    "gptj": "mlp.fc_out",
    "opt": "fc2",
    "bloom": "mlp.dense_4h_to_h",
}


def down_of(name, module, layer):
    """The linear map that the neurons of the block that ends in a layer write through."""
    return blocks_of(module)[layer - 1].get_submodule(DOWN.get(name, "mlp.down_proj"))


@cache
def questions_of_lengths() -> Dataset:
    """Six, of very different lengths."""
    rows = load_questions("almanac", limit=6).to_list()
    for i, row in enumerate(rows):
        row["question"] += " stone" * (5 * i % 17)
    return Dataset.from_list(rows)


@cache
def questions_of_subjects() -> Dataset:
    """Enough of a subject that its exemplars are shared."""
    return load_questions("almanac", subjects=["fair_music", "inn_cookery"], limit=12)


# Weights and hooks, and nothing of calib


def readout_by_hand(name, module):
    """What the letters read of a stream, their bias, and what the final norm divides by."""
    head = module.lm_head.weight[LETTERS].detach()
    if name in ("gpt2", "gptj"):
        norm = module.transformer.ln_f
        rows, bias = (head * norm.weight).detach(), (head @ norm.bias).detach()
        rows = rows - rows.mean(dim=1, keepdim=True)
        if name == "gptj":
            bias = bias + module.lm_head.bias[LETTERS].detach()
        return rows, bias, lambda stream: (stream.var(dim=-1, correction=0) + 1e-5).sqrt()
    gain = module.model.norm.weight.detach() + (name == "gemma2")
    epsilon = module.config.rms_norm_eps
    return head * gain, 0.0, lambda stream: (stream.square().mean(dim=-1) + epsilon).sqrt()


def run(module, prompts, copies=1):
    """The model's own option logits ``[copies, prompts, 4]``: one prompt per pass, unpadded."""
    logits = []
    for prompt in prompts:
        ids = torch.tensor([TOKENIZER(prompt)["input_ids"]] * copies)
        with torch.no_grad():
            logits.append(module(input_ids=ids, use_cache=False).logits[:, -1, LETTERS].float())
    return torch.stack(logits, dim=1)


def at_last(value):
    """Of one prompt; some architectures leave out the axis of the batch."""
    value = value[0] if isinstance(value, tuple) else value
    return value.reshape(-1, value.shape[-1])[-1].clone()


def seen(module, parts, prompts):
    """What goes into each part and what comes out, at the last token: ``[prompts, width]`` each."""
    into, out = [[] for _ in parts], [[] for _ in parts]

    def hook_for(i):
        def hook(_, args, kwargs, output):
            into[i].append(at_last(args[0] if args else kwargs["hidden_states"]))
            out[i].append(at_last(output))

        return hook

    handles = [
        part.register_forward_hook(hook_for(i), with_kwargs=True) for i, part in enumerate(parts)
    ]
    run(module, prompts)
    for handle in handles:
        handle.remove()
    return list(map(torch.stack, into)), list(map(torch.stack, out))


@contextmanager
def held(down, groups, values):
    """Of each copy in a batch the neurons of one group held at values, at the last position."""

    def hold(_, args):
        neurons = args[0].clone()
        # Some architectures leave out the axis of the batch.
        for copy, group in zip(neurons.view(len(groups), -1, len(values)), groups, strict=True):
            copy[-1, list(group)] = torch.tensor(values[list(group)]).to(neurons)
        return (neurons,)

    handle = down.register_forward_pre_hook(hold)
    yield
    handle.remove()


def close(a, b, atol=1e-5):
    np.testing.assert_allclose(a, b, rtol=0, atol=atol)
