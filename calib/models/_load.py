"""Load module and tokenizer: of a pair, a folder, a file or the hub, onto one device or several."""

from __future__ import annotations

import copy
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from calib.models._gguf import GgufFile, describe, find_gguf, judge, own_type
from calib.models._gguf_load import check_memory, check_plain, how_to_load, tokenizer_of
from calib.models._gguf_rope import scaled_config
from calib.models.place import device_of, dtype_of, launched, memory_for

LABORATORY = {name: files("calib") / "laboratory" / name for name in ("almanac", "almanac-tuned")}
# What tensor parallelism cuts into equal parts, as configurations call it.
CUT = {
    "num_attention_heads": "attention heads",
    "num_key_value_heads": "key-value heads",
    "intermediate_size": "the width of an MLP",
}


class Loaded(NamedTuple):
    """What was found under a source, and its name; the file if it is one of GGUF."""

    module: Any
    tokenizer: Any
    name: str
    file: GgufFile | None = None


def load(source, device, dtype, tensor_parallel: bool = False, gguf_file=None) -> Loaded:
    """Module, tokenizer and name; refuses as :func:`calib.open_model` says."""
    if isinstance(source, tuple):
        module, tokenizer = _check_pair(source)
        if gguf_file is not None:
            raise ValueError(
                f"gguf_file is {str(gguf_file)!r}, and the source is a loaded pair, whose weights "
                "are loaded already; leave it out, or name the file's folder as the source"
            )
        if device is not None or dtype is not None or tensor_parallel:
            told = f"device is {device} and dtype is {dtype}"
            if tensor_parallel:
                told = "tensor_parallel is True"
            raise ValueError(
                f"{told}; a loaded module stays as it is, so leave them out, or call "
                "module.to(device, dtype) before"
            )
        # nnsight sets the padding side of the tokenizer it is given; the caller's stays untouched.
        name = getattr(module, "name_or_path", "") or type(module).__name__
        return Loaded(module, copy.deepcopy(tokenizer), name)
    _check_path(source)
    path = str(LABORATORY.get(source, source))
    file = find_gguf(path, gguf_file)
    if file is not None:
        return _load_gguf(file, device, dtype, tensor_parallel)
    if Path(path).is_file():
        raise ValueError(
            f"{source} is a file; a model is a folder written by save_pretrained, or a .gguf file. "
            "Load any other by transformers, and pass (module, tokenizer)"
        )
    placed = {}
    if tensor_parallel:
        placed = _spread(path, device)
        device = None
    device = device_of(device)
    dtype = dtype_of(dtype, device)
    if device == "auto":
        placed = {"device_map": "auto"}
    module = _pretrained(source, path, device, dtype, placed)
    return Loaded(module, AutoTokenizer.from_pretrained(path), str(source))


def _load_gguf(file: Path, device, dtype, tensor_parallel: bool) -> Loaded:
    """The same of a GGUF file, once its header has shown that it can be opened."""
    if tensor_parallel:
        raise ValueError(
            f"{file} would be unpacked whole by every process; leave out tensor_parallel, or open "
            "it once, save it by model.module.save_pretrained(folder) and model.tokenizer's "
            "save_pretrained, and spread that folder"
        )
    header = judge(file)
    device = device_of(device)
    dtype = dtype_of(dtype, device)
    dtype = own_type(header) if dtype == "auto" else dtype
    check_memory(file, header, dtype)
    folder, how = how_to_load(file)
    if config := scaled_config(file, header, folder, how["gguf_file"]):
        how["config"] = config
    about = describe(file, header)
    placed = {"device_map": "auto"} if device == "auto" else {}
    module = _pretrained(file, folder, device, dtype, placed, **how)
    check_plain(module, file)
    return Loaded(module, tokenizer_of(file, header), file.name, about)


def _pretrained(source, path: str, device, dtype, placed: dict, **how):
    """The module in a folder or on the hub, whole, where it is to be."""
    way_out = "use dtype=torch.bfloat16, which takes two bytes for each weight"
    if not placed and device.type != "cpu":
        way_out += ', device="auto" for all GPUs together, or device="cpu"'
    in_type = "its own type" if dtype == "auto" else dtype
    with memory_for(f"{source} on {device} in {in_type}", way_out):
        module, found = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, output_loading_info=True, **placed, **how
        )
        if not placed:
            _move(module, device)
    if lost := sorted(found["missing_keys"]):
        raise ValueError(
            f"{source} lacks {len(lost)} weights, first {lost[0]}, which would be random; check "
            "that the checkpoint is whole, and of the architecture that it names"
        )
    return module


def _spread(path: str, device) -> dict:
    """What has transformers spread a model over all processes; ValueError where it could not."""
    launch = launched()
    if launch is None:
        raise ValueError(
            "tensor_parallel=True spreads a model over processes that a launcher starts, and this "
            "one is alone: torchrun --nproc_per_node 2 ..., one for each GPU"
        )
    if device is not None:
        raise ValueError(
            f"device is {device!r}; with tensor_parallel=True each process has a GPU of its own, "
            "or all are on the CPU where there is none, so leave it out"
        )
    try:
        from transformers.distributed import DistributedConfig

        # What nnsight takes from there, privately, to trace such a model.
        from transformers.distributed.tensor_parallel import _get_parameter_plan  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"these versions of transformers and nnsight cannot spread a model together ({error}); "
            "install transformers 5.22, or leave out tensor_parallel"
        ) from error
    config = AutoConfig.from_pretrained(path).get_text_config()
    for name, what in CUT.items():
        size = getattr(config, name, None)
        if isinstance(size, int) and size % launch.size:
            raise ValueError(
                f"{what} of {path}, {size}, cannot be shared out evenly over {launch.size} "
                "processes; start as many as divide it"
            )
    return {"distributed_config": DistributedConfig(tp_size=launch.size)}


def _move(module, device) -> None:
    try:
        module.to(device)
    except TypeError as error:
        raise ValueError(
            f"{device} does not take {module.dtype} ({error}); open the model with dtype=float32"
        ) from error


def _check_pair(source) -> tuple:
    """Module and tokenizer of a loaded pair, in this order."""
    module, tokenizer = (*source, None)[:2]
    is_pair = len(source) == 2 and isinstance(module, torch.nn.Module)
    if not (is_pair and isinstance(tokenizer, PreTrainedTokenizerBase)):
        kinds = ", ".join(type(part).__name__ for part in source)
        raise TypeError(
            f"the source is ({kinds}); a loaded pair is (module, tokenizer), both of transformers"
        )
    return module, tokenizer


def _check_path(source) -> None:
    """Refuse what is no folder here and cannot be the id of a model on the hub."""
    if not isinstance(source, str | Path):
        raise TypeError(
            f"the source is a {type(source).__name__}; name a model, or pass (module, tokenizer)"
        )
    text, path = str(source), Path(source)
    if source in LABORATORY or path.exists() or text.lower().endswith(".gguf"):
        return
    if isinstance(source, Path) or text.count("/") > 1 or text.startswith((".", "~", "/")):
        raise ValueError(f"there is no folder {text!r} here; check the path")
