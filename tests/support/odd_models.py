"""Models with something unusual that can be read all the same, each with what it is unusual in."""

import torch
from support.architectures import CONFIGS, _llama, random_module
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    NanoChatConfig,
    Phi3Config,
)

SWITCH = 64  # tokens, from which on the long factors count


def at_random(config, kind=None):
    """A model of a configuration, random in every parameter."""
    torch.manual_seed(0)
    module = (kind(config) if kind else AutoModelForCausalLM.from_config(config)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


class InFloat32(torch.nn.Module):
    def forward(self, x):
        return x.float()


class NoKeeping(LlamaForCausalLM):
    """Computes logits at every position, whatever is asked."""

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None,
        use_cache=None,
    ):  # fmt: skip
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )


class InTuple(LlamaForCausalLM):
    """Returns no named output."""

    def forward(self, *arguments, **settings):
        return tuple(super().forward(*arguments, **settings).values())


def long_rope():
    """Reads all positions with other factors once a prompt has more than ``SWITCH`` tokens."""
    return at_random(
        Phi3Config(
            **_llama,
            original_max_position_embeddings=SWITCH,
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0] * 8,
                "long_factor": [4.0] * 8,
            },
        )
    )


def wrapped_head():
    module = random_module("llama")
    module.lm_head = torch.nn.Sequential(module.lm_head, InFloat32())
    return module


def hooked_head():
    """Something is done before the unembedding, in a hook of its own."""
    module = random_module("llama")
    module.lm_head.register_forward_pre_hook(lambda _, args: (args[0] + 1.0,))
    return module


def quantized_mlps():
    """Activations are quantized by the range of the whole batch: whatever stands in it counts."""
    module = random_module("llama")
    for block in module.model.layers:
        block.mlp = torch.ao.quantization.quantize_dynamic(
            block.mlp, {torch.nn.Linear}, dtype=torch.qint8
        )
    return module


def in_training():
    """As a trainer leaves it: dropout is on."""
    return random_module("gpt2").train()


MODELS = {
    "not causal": lambda: at_random(LlamaConfig(**_llama, is_causal=False)),
    "bidirectional": lambda: at_random(
        Gemma3TextConfig(**_llama, head_dim=16, use_bidirectional_attention=True)
    ),
    "long rope": long_rope,
    "norm used twice": lambda: at_random(NanoChatConfig(**_llama)),
    "wrapped head": wrapped_head,
    "hooked head": hooked_head,
    "no logits_to_keep": lambda: at_random(CONFIGS["llama"], NoKeeping),
    "output in a tuple": lambda: at_random(CONFIGS["llama"], InTuple),
    "in training": in_training,
    "quantized as it runs": quantized_mlps,
}
