"""Open a decoder-only language model, find what a lens needs in it, and check that it is right.

Reading a layer needs four things that every architecture names differently: the residual stream
after each block, the final norm, the unembedding, and what is done to the logits afterwards.
:func:`open_model` finds them and proves them on the spot: the lens at the last layer must give the
model's own logits.
"""

from __future__ import annotations

import copy
from importlib.resources import files
from operator import attrgetter
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from nnsight.modeling.transformers import TransformersModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from calib._checks import check_positive
from calib.models.architectures import find_parts, logit_scale_of, rope_switch_of
from calib.models.model import Model
from calib.models.ndif import api_key
from calib.models.place import device_of, dtype_of, memory_for
from calib.models.proof import probes_of, prove

LABORATORY = {name: files("calib") / "laboratory" / name for name in ("almanac", "almanac-tuned")}


def open_model(
    source, *, remote: bool = False, device=None, dtype=None, time_limit: float = 600
) -> Model:
    """Open a decoder-only model for reading, and check that its lens is right.

    Parameters
    ----------
    source : str, Path or (module, tokenizer)
        ``"almanac"`` or ``"almanac-tuned"`` (the laboratory's models, shipped with the package), a
        hub id, a folder written by ``save_pretrained``, or a loaded pair. A loaded module stays
        where it is; whatever is read of it is read in evaluation mode.
    remote : bool
        Run the model on NDIF (https://ndif.us), which takes a hub id and needs a key in the
        environment variable ``NDIF_API_KEY``. Only the configuration and the tokenizer are
        downloaded.
    device : str or torch.device, optional
        By default the CUDA GPU, else the CPU; a Mac's GPU (``"mps"``) when it is asked for.
        ``"auto"`` spreads the layers over all GPUs there are, as accelerate places them
        (``pip install accelerate``).
    dtype : torch.dtype or its name, optional
        By default float32 on a CPU and the checkpoint's own type elsewhere, which ``"auto"`` names
        everywhere. That of the laboratory's models is float32.
    time_limit : float
        With ``remote``: most seconds that one traced pass may take, the server's queue included.

    Raises
    ------
    TypeError
        If the source is none of these kinds.
    ValueError
        If the source is a file or a missing folder, a part cannot be found, weights have no place
        on a device, the tokenizer ends prompts with a token of its own or has tokens that the model
        does not embed, logits are not finite, or the lens at the last layer differs from the
        model's own logits; the message says where. Also if the device is none of this machine's,
        or given with a loaded module. With ``remote``, if the source is no hub id, or a device or
        dtype is given.
    torch.OutOfMemoryError
        If the weights do not fit on the device.
    OSError
        With ``remote``: PermissionError, ConnectionError, TimeoutError or
        :class:`calib.models.RemoteError`, as a later trace of the model.

    Examples
    --------
    >>> model = open_model("almanac")
    >>> model.architecture, model.n_layers, model.d_model
    ('LlamaForCausalLM', 8, 128)
    """
    check_positive("time_limit", time_limit, 600)
    if remote:
        _check_remote(source, device, dtype)
        tokenizer, name = AutoTokenizer.from_pretrained(source), source
        # The task is part of the name that NDIF keeps a model under.
        traced = TransformersModel(source, task="text-generation", tokenizer=tokenizer)
    else:
        module, tokenizer, name = _load(source, device, dtype)
        _check_module(module)
        find_parts(module)  # refuses what is unknown here before nnsight does in its words
        # Without a device, the pipeline that nnsight makes would move the module to the first GPU;
        # with one, it refuses a module that accelerate has placed.
        placed = getattr(module, "hf_device_map", None) is not None
        stays = {} if placed else {"device": module.device}
        traced = TransformersModel(module, tokenizer=tokenizer, **stays)
    _check_tokenizer(tokenizer)
    module, config = traced._module, traced._module.config.get_text_config()
    architecture, paths = type(module).__name__, find_parts(module)
    context = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    switch = rope_switch_of(config)
    probes = probes_of(tokenizer, min(context, switch or context))
    model = Model(
        traced=traced,
        tokenizer=tokenizer,
        remote=remote,
        time_limit=time_limit,
        name=name,
        revision=_revision(source),
        architecture=architecture,
        **paths,
        n_layers=len(attrgetter(paths["layers"])(module)),
        d_model=config.hidden_size,
        context=context,
        logit_scale=logit_scale_of(config),
        soft_cap=getattr(config, "final_logit_softcapping", None),
        rope_switch=switch,
        probe=tuple(probes[0]),
    )
    return prove(model, probes)


def _check_remote(source, device, dtype) -> None:
    """Refuse what cannot run on NDIF, before anything is sent or downloaded."""
    if not _is_hub_id(source):
        what = "a loaded module" if isinstance(source, tuple) else f"{str(source)!r}"
        raise ValueError(
            f"remote=True needs the hub id of a model, such as 'meta-llama/Llama-3.1-8B', and "
            f"{what} is on this machine; open it without remote=True"
        )
    if device is not None or dtype is not None:
        raise ValueError(
            f"device is {device} and dtype is {dtype}; with remote=True both are the server's, so "
            "leave them out"
        )
    api_key()


def _is_hub_id(source) -> bool:
    return isinstance(source, str) and source not in LABORATORY and not Path(source).exists()


def _revision(source) -> str:
    """The commit on the hub that the configuration was downloaded from, if it was."""
    found = try_to_load_from_cache(source, "config.json") if _is_hub_id(source) else None
    return Path(found).parent.name if isinstance(found, str) else ""


def _load(source, device, dtype):
    if isinstance(source, tuple):
        module, tokenizer = _check_pair(source)
        if device is not None or dtype is not None:
            raise ValueError(
                f"device is {device} and dtype is {dtype}; a loaded module stays as it is, so "
                "leave them out, or call module.to(device, dtype) before"
            )
        # nnsight sets the padding side of the tokenizer it is given; the caller's stays untouched.
        name = getattr(module, "name_or_path", "") or type(module).__name__
        return module, copy.deepcopy(tokenizer), name
    _check_path(source)
    device = device_of(device)
    dtype = dtype_of(dtype, device)
    path = str(LABORATORY.get(source, source))
    placed = {"device_map": "auto"} if device == "auto" else {}
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


def _check_module(module) -> None:
    """Refuse what cannot be traced: a wrapper of PEFT, and weights that have no place.

    Those are moved in from memory or disk for a moment only.
    """
    if hasattr(module, "peft_config") and hasattr(module, "get_base_model"):
        raise ValueError(
            f"{type(module).__name__} wraps the model; of adapters such as LoRA's, open "
            "module.merge_and_unload(), or module.get_base_model() with them switched on. A prompt "
            "that was tuned adds tokens of its own, and cannot be read"
        )
    away = [name for name, weight in module.named_parameters() if weight.device.type == "meta"]
    if away:
        raise ValueError(
            f"{len(away)} weights, first {away[0]}, have no place on a device and would be moved "
            "in from memory or disk when they are needed, which cannot be traced; use more or "
            "larger GPUs, a smaller dtype, or remote=True"
        )


def _check_tokenizer(tokenizer) -> None:
    """Refuse a tokenizer that ends its prompts: what is read would not be the answer's place."""
    text = "Which?\nAnswer:"
    plain, full = (tokenizer(text, add_special_tokens=a)["input_ids"] for a in (False, True))
    ended = not plain or full[-1] == tokenizer.eos_token_id
    if ended or full[-len(plain) :] != plain:
        raise ValueError(
            f"{type(tokenizer).__name__} ends every prompt with {tokenizer.decode(full[-1:])!r}, "
            "so the answer position would be lost; open its tokenizer with add_eos_token=False, or "
            "leave out what its post-processor appends"
        )
