"""Small random models of every supported architecture, with nothing left at a convenient value."""

import copy
from importlib.resources import files

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

TOKENIZER = AutoTokenizer.from_pretrained(files("calib.laboratory") / "almanac")
N_LAYERS, D_MODEL = 3, 64

_ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "vocab_size": len(TOKENIZER)}
_common = {
    **_ends,
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
_llama = {**_common, "num_key_value_heads": 2, "intermediate_size": 96}
_gpt = {**_ends, "n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": 4, "n_positions": 512}
_vision = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip

CONFIGS = {
    "llama": LlamaConfig(**_llama),
    "mistral": MistralConfig(**_llama),
    "qwen2": Qwen2Config(**_llama),
    "qwen3": Qwen3Config(**_llama, head_dim=16),
    "gemma2": Gemma2Config(**_llama, head_dim=16, final_logit_softcapping=2.0),
    "gemma3": Gemma3TextConfig(**_llama, head_dim=16),
    "gemma3_vision": Gemma3Config(
        text_config=Gemma3TextConfig(**_llama, head_dim=16).to_dict(), vision_config=_vision
    ),
    "phi": PhiConfig(**_llama),
    "phi3": Phi3Config(**_llama),
    "gpt_neox": GPTNeoXConfig(**_common, intermediate_size=96),
    "gpt2": GPT2Config(**_gpt),
    "gptj": GPTJConfig(**_gpt, rotary_dim=8),
    "opt": OPTConfig(**_common, ffn_dim=96, word_embed_proj_dim=D_MODEL),
    "bloom": BloomConfig(**_ends, hidden_size=D_MODEL, n_layer=N_LAYERS, n_head=4),
    "olmo2": Olmo2Config(**_llama),
    "cohere": CohereConfig(**_llama, logit_scale=0.3),
    "granite": GraniteConfig(**_llama, logits_scaling=3.0),
}


def random_module(name: str, **changes):
    """A model whose every parameter is random: no norm of ones, no bias of zeros.

    ``changes`` are made to a copy of its configuration.
    """
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[name])
    config.update(changes)
    module = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module
