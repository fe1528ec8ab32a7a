"""Weights and tokenizer out of a GGUF file, as plain as those of any other checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from transformers import AutoTokenizer

from calib.models._gguf_header import Header
from calib.models._memory import available_memory

# Byte-level vocabularies that begin each text with a token where the file does not say it.
BEGINNING = ("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "lfm2")
ENTRY = 850  # bytes


def how_to_load(path: Path) -> tuple[str, dict]:
    """What ``from_pretrained`` takes: a folder, and the file with its whole path.

    A name alone would be looked for in the current folder first. Weights are to be unpacked: some
    architectures' would else stay in blocks where transformers finds a kernel for them.
    """
    path = path.absolute()
    plain = transformers.GgufConfig(dequantize=True)
    return str(path.parent), {"gguf_file": str(path), "quantization_config": plain}


def needed_memory(header: Header, dtype: torch.dtype) -> int:
    """Bytes that unpacking takes at its peak, at most, as measured with transformers 5.22.

    What has been unpacked stays in the type asked for; of one tensor at a time there are three
    copies in float32; and the package gguf makes an array of each entry of the vocabulary.
    """
    lists = {"tokens": 2, "merges": 2, "scores": 1, "token_type": 1}
    entries = sum(n * header.facts.get(f"tokenizer.ggml.{name}", 0) for name, n in lists.items())
    unpacked = peak = 0
    for tensor in header.tensors:
        peak = max(peak, unpacked + 3 * 4 * tensor.count)
        unpacked += dtype.itemsize * tensor.count
    return max(peak, unpacked) + ENTRY * entries


def check_memory(path: Path, header: Header, dtype: torch.dtype) -> None:
    """Refuse weights that do not fit into memory while they are unpacked; OutOfMemoryError."""
    needed, free = needed_memory(header, dtype), available_memory()
    if free is not None and needed > free:
        way_out = "close other programs, or take a smaller model"
        if dtype.itemsize > 2:
            way_out = f"use dtype=torch.bfloat16, {way_out}"
        count = sum(tensor.count for tensor in header.tensors)
        raise torch.OutOfMemoryError(
            f"{path.name} does not fit into memory: to unpack its {count:,} weights in {dtype} "
            f"takes {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free; {way_out}"
        )


def check_plain(module, path: Path) -> None:
    """Refuse weights that are still packed: their bytes are no numbers to compute with."""
    packed = [name for name, weight in module.named_parameters() if not weight.is_floating_point()]
    if packed:
        raise ValueError(
            f"transformers {transformers.__version__} left {len(packed)} weights of {path.name} "
            f"packed in bytes, first {packed[0]}, which cannot be read; use another version of it, "
            "or open the model's own folder or hub id"
        )


def tokenizer_of(path: Path, header: Header):
    """The tokenizer in the file, which begins a text with a token exactly where the file says so.

    transformers reads the vocabulary from it, and not always this.
    """
    folder, how = how_to_load(path)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=how["gguf_file"])
    facts = header.facts
    spelled = facts.get("tokenizer.ggml.model"), facts.get("tokenizer.ggml.pre")
    usual = True if spelled[0] == "llama" or spelled[1] in BEGINNING else None
    wanted = facts.get("tokenizer.ggml.add_bos_token", usual)
    if wanted is not None and tokenizer.bos_token_id is not None:
        if wanted != _begins(tokenizer):
            tokenizer.add_bos_token = wanted
        if wanted != _begins(tokenizer):
            raise ValueError(
                f"{path.name} says that its texts {'' if wanted else 'do not '}begin with "
                f"{tokenizer.bos_token!r}, and {type(tokenizer).__name__} of transformers "
                f"{transformers.__version__} does otherwise; load the tokenizer of the original "
                "model, and pass (module, tokenizer)"
            )
    return tokenizer


def _begins(tokenizer) -> bool:
    return tokenizer("A")["input_ids"][:1] == [tokenizer.bos_token_id]
