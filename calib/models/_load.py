"""Load module and tokenizer: of a pair, a folder or the hub, onto one device, all, or processes."""

from __future__ import annotations

import copy
from importlib.resources import files
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from calib.models.place import device_of, dtype_of, launched, memory_for

LABORATORY = {name: files("calib") / "laboratory" / name for name in ("almanac", "almanac-tuned")}
# What tensor parallelism cuts into equal parts, as configurations call it.
CUT = {
    "num_attention_heads": "attention heads",
    "num_key_value_heads": "key-value heads",
    "intermediate_size": "the width of an MLP",
}


def load(source, device, dtype, tensor_parallel: bool = False):
    """Module, tokenizer and name; refuses as :func:`calib.open_model` says."""
    if isinstance(source, tuple):
        module, tokenizer = _check_pair(source)
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
        return module, copy.deepcopy(tokenizer), name
    _check_path(source)
    path = str(LABORATORY.get(source, source))
    placed = {}
    if tensor_parallel:
        placed = _spread(path, device)
        device = None
    device = device_of(device)
    dtype = dtype_of(dtype, device)
    if device == "auto":
        placed = {"device_map": "auto"}
    way_out = "use dtype=torch.bfloat16, which takes two bytes for each weight"
    if not placed and device.type != "cpu":
        way_out += ', device="auto" for all GPUs together, or device="cpu"'
    own_type = "its own type" if dtype == "auto" else dtype
    with memory_for(f"{source} on {device} in {own_type}", way_out):
        module, found = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, output_loading_info=True, **placed
        )
        if not placed:
            _move(module, device)
    if lost := sorted(found["missing_keys"]):
        raise ValueError(
            f"{path} lacks {len(lost)} weights, first {lost[0]}, which would be random; check that "
            "the checkpoint is whole, and of the architecture that its config.json names"
        )
    return module, AutoTokenizer.from_pretrained(path), str(source)


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
    if source in LABORATORY or path.is_dir():
        return
    if path.is_file():
        raise ValueError(
            f"{text} is a file; a model is a folder written by save_pretrained. Load it by "
            "transformers, a .gguf file by AutoModelForCausalLM.from_pretrained(folder, "
            "gguf_file=name), and pass (module, tokenizer)"
        )
    if isinstance(source, Path) or text.count("/") > 1 or text.startswith((".", "~", "/")):
        raise ValueError(f"there is no folder {text!r} here; check the path")
