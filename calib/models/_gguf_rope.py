"""Rotary positions that a GGUF file says are scaled, which transformers' loader leaves out.

Llama 3.1 and 3.2 scale them at all positions, Gemma 3 from 4 billion parameters on in every sixth
layer: left out, every prompt would be read with the wrong positions, and nothing would show it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import transformers
from transformers import AutoConfig

from calib.models._gguf_header import Header

FACTORS, LONG = "rope_freqs.weight", "rope_factors_long.weight"
TAKEN_OVER = ("gpt-oss", "gpt_oss", "qwen35", "qwen35moe", "lfm2")  # their loaders do it
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def scaled_config(path: Path, header: Header, folder: str, gguf_file: str):
    """The configuration with the scaling in it; None where there is none to add.

    ValueError names a scaling that cannot be added.
    """
    names = {tensor.name for tensor in header.tensors}
    kind = header.of_architecture("rope.scaling.type") or "none"
    if header.facts["general.architecture"] in TAKEN_OVER:
        return None
    if kind == "none" and not names & {FACTORS, LONG}:
        return None
    config = AutoConfig.from_pretrained(folder, gguf_file=gguf_file)
    told = config.rope_parameters
    whole = told.get("full_attention", told)  # of Gemma 3, whose other layers are not scaled
    if FACTORS in names and kind == "none":
        scaling = _as_llama3(path, header, whole["rope_theta"])
    elif kind == "linear" and not names & {FACTORS, LONG}:
        scaling = {"rope_type": "linear", "factor": header.of_architecture("rope.scaling.factor")}
    else:
        scaling = None
    if not scaling or not scaling["factor"]:
        kind = "in a way of its own" if kind == "none" else kind
        raise ValueError(
            f"{path.name} scales its rotary positions ({kind}), which transformers "
            f"{transformers.__version__} leaves out of a GGUF file; open the model's own folder or "
            "hub id"
        )
    whole.update(scaling)
    return config


def _as_llama3(path: Path, header: Header, theta: float) -> dict | None:
    """Llama 3's scaling, if the divisors of the frequencies in the file are those that it gives."""
    tensor = next(tensor for tensor in header.tensors if tensor.name == FACTORS)
    if tensor.kind != 0:  # float32
        return None
    found = np.fromfile(path, "<f4", tensor.count, offset=header.begin + tensor.offset)
    factor, low, high, context = float(found.max()), *LLAMA3.values()
    wavelengths = 2 * np.pi * theta ** (np.arange(len(found)) / len(found))
    smooth = np.clip((context / wavelengths - low) / (high - low), 0, 1)
    expected = 1 / ((1 - smooth) / factor + smooth)
    if not np.allclose(found, expected, rtol=1e-3):
        return None
    return {"rope_type": "llama3", "factor": factor, **LLAMA3}
