"""What the architectures call their parts, and where they differ beyond the names."""

from __future__ import annotations

from operator import attrgetter

# Where the architectures keep each part; the first path that exists is taken.
PATHS = {
    "layers": (
        "model.layers",
        "model.language_model.layers",  # of models that see as well, such as Gemma 3 from 4B on
        "gpt_neox.layers",
        "transformer.h",
        "model.decoder.layers",
    ),
    "norm": (
        "model.norm",
        "model.language_model.norm",
        "model.final_layernorm",
        "gpt_neox.final_layer_norm",
        "transformer.ln_f",
        "model.decoder.final_layer_norm",
    ),
    "unembedding": ("lm_head",),
}

# Where a block keeps the last linear map of its attention and of its MLP. A mixture of experts has
# many of the second: there the whole MLP writes.
WRITERS = {
    "attention": (
        "self_attn.o_proj",
        "self_attn.dense",
        "self_attn.out_proj",
        "attention.dense",
        "attn.c_proj",
        "attn.out_proj",
        "attn.attention.out_proj",
        "self_attention.dense",
    ),
    "mlp": (
        "mlp.down_proj",
        "mlp.fc2",
        "mlp.dense_4h_to_h",
        "mlp.c_proj",
        "mlp.fc_out",
        "fc2",
        "mlp",
        "block_sparse_moe",
    ),
}
# The norms that come after these maps in blocks that have the second of them. Elsewhere the name of
# the first is that of a norm before the MLP.
POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")


def find_parts(module) -> dict[str, str]:
    """Path of each of ``PATHS`` inside a module, or ValueError that names the tried."""
    if getattr(module, "get_output_embeddings", lambda: module)() is None:
        raise ValueError(
            f"{type(module).__name__} has no unembedding, so it says nothing; open the model with "
            "its head, as AutoModelForCausalLM gives it"
        )
    parts = {part: _find(module, part) for part in PATHS}
    if not len(attrgetter(parts["layers"])(module)):
        raise ValueError(f"{type(module).__name__} has no layers; check its configuration")
    return parts


def _find(module, part: str) -> str:
    for path in PATHS[part]:
        try:
            found = attrgetter(path)(module)
        except AttributeError:
            continue
        if found is not None:
            return path
    raise ValueError(
        f"{type(module).__name__} keeps its {part} under none of {', '.join(PATHS[part])}; "
        "this architecture is not known here"
    )


def logit_scale_of(config) -> float | None:
    """Cohere multiplies its logits, Granite divides them."""
    if getattr(config, "logits_scaling", None):
        return 1 / config.logits_scaling
    return getattr(config, "logit_scale", None)


def rope_switch_of(config) -> int | None:
    """Prompt length beyond which LongRoPE reads all positions with other factors; None elsewhere.

    Some models keep an account for each kind of layer; the shortest length counts.
    """
    told = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    accounts = [told, *(some for some in told.values() if isinstance(some, dict))]
    switches = [
        account["original_max_position_embeddings"]
        for account in accounts
        if account.get("rope_type", account.get("type")) == "longrope"
    ]
    return min(switches, default=None)
