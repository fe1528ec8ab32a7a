"""Small models as files of GGUF, written as llama.cpp's converter writes them."""

import json

import numpy as np
import pytest
import transformers
from support.architectures import TOKENIZER, random_module


def needed():
    """Skips a test where such files cannot be opened."""
    for name in ("gguf", "accelerate"):
        pytest.importorskip(name)
    if not hasattr(transformers, "GgufConfig"):
        pytest.skip(f"transformers {transformers.__version__} is older than 5.17")


def write_gguf(file, module=None, kind="F32", facts=(), tensors=(), version=3, weights=True):
    """A file of GGUF with a module's weights and the laboratory's tokenizer; the module.

    Matrices are of the ``kind``, and the module returned has the values that the file can hold.
    ``facts`` and ``tensors`` (of float32) are added; a fact that is None is left out.
    """
    import gguf

    module = random_module("llama") if module is None else module
    config = module.config
    own = name = config.model_type.removesuffix("_text")
    told = {"general.type": "model", "general.name": "tiny"}
    told |= {f"{name}.{key}": value for key, value in about(config).items()} | vocabulary()
    told |= dict(facts)
    name = told.pop("general.architecture", name)
    writer = gguf.GGUFWriter(file, name)
    for key, value in told.items():
        if value is not None:
            put(writer, key, value)
    kind, holds = gguf.GGMLQuantizationType[kind], {}
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(numbers[own], config.num_hidden_layers)
    for own_name, weight in (module.state_dict() if weights else {}).items():
        if own_name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = weight.float().numpy()
        if values.ndim > 1:
            packed = gguf.quantize(values, kind)
            holds[own_name] = weight.new_tensor(gguf.dequantize(packed, kind))
            packed = gguf.quantize(in_order(values, own_name, config), kind)
            own_kind = kind
        else:
            packed = values + (own == "gemma3")
            own_kind = None
        named = names.get_name(own_name, (".weight", ".bias"))
        writer.add_tensor(named, packed, raw_dtype=own_kind)
    for tensor, values in dict(tensors).items():
        writer.add_tensor(tensor, np.asarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if version != 3:
        content = bytearray(file.read_bytes())
        content[4:8] = version
        file.write_bytes(content)
    module.load_state_dict(holds, strict=False)
    return module


def put(writer, key, value):
    """A fact of whatever kind it is."""
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    else:
        (writer.add_uint32 if isinstance(value, int) else writer.add_float32)(key, value)


def about(config):
    """What the converter tells of an architecture."""
    told = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    }
    rope = config.rope_parameters
    told["rope.freq_base"] = float(rope.get("full_attention", rope)["rope_theta"])
    if config.model_type == "gemma3_text":
        told |= {"attention.key_length": config.head_dim,
                 "attention.sliding_window": config.sliding_window}  # fmt: skip
    return told


def vocabulary():
    model = json.loads(TOKENIZER.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token == "<end>" else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
    }


def in_order(values, own_name, config):
    """Rows of queries and keys as llama.cpp has them: the pairs that are rotated side by side."""
    if config.model_type != "llama" or not own_name.endswith(("q_proj.weight", "k_proj.weight")):
        return values
    key = own_name.endswith("k_proj.weight")
    heads = config.num_key_value_heads if key else config.num_attention_heads
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)
