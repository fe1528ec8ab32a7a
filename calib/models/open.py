"""Open a decoder-only language model, find what a lens needs in it, and check that it is right.

Reading a layer needs four things that every architecture names differently: the residual stream
after each block, the final norm, the unembedding, and what is done to the logits afterwards.
:func:`open_model` finds them and proves them on the spot: the lens at the last layer must give the
model's own logits.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from importlib.resources import files
from operator import attrgetter
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from nnsight.modeling.transformers import TransformersModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from calib.models.architectures import PATHS, find_part, logit_scale_of
from calib.models.logit_lens import check_lens
from calib.models.model import Model
from calib.models.ndif import api_key

LABORATORY = {name: files("calib") / "laboratory" / name for name in ("almanac", "almanac-tuned")}


def open_model(
    source, *, remote: bool = False, device=None, dtype=None, time_limit: float = 600
) -> Model:
    """Open a decoder-only model for reading, and check that its lens is right.

    Parameters
    ----------
    source : str, Path or (module, tokenizer)
        ``"almanac"`` or ``"almanac-tuned"`` (the laboratory's models, shipped with the package), a
        hub id, a folder written by ``save_pretrained``, or a loaded pair. A loaded module is put
        into evaluation mode and stays where it is.
    remote : bool
        Run the model on NDIF (https://ndif.us), which takes a hub id and needs a key in the
        environment variable ``NDIF_API_KEY``. Only the configuration and the tokenizer are
        downloaded.
    device : str or torch.device, optional
        By default the first GPU, else the CPU. ``"auto"`` spreads the layers over all GPUs there
        are, as accelerate places them (``pip install accelerate``).
    dtype : torch.dtype, optional
        By default float32 on a CPU and the checkpoint's own type elsewhere.
    time_limit : float
        With ``remote``: most seconds that one traced pass may take, the server's queue included.

    Raises
    ------
    ValueError
        If a part cannot be found, weights have no place on a device, the tokenizer ends prompts
        with a token of its own, or the lens at the last layer differs from the model's own logits;
        the message says where. With ``remote``, also if the source is no hub id, or a device or
        dtype is given.
    OSError
        With ``remote``: PermissionError, ConnectionError, TimeoutError or
        :class:`calib.models.RemoteError`, as a later trace of the model.

    Examples
    --------
    >>> model = open_model("almanac")
    >>> model.architecture, model.n_layers, model.d_model
    ('LlamaForCausalLM', 8, 128)
    """
    if remote:
        _check_remote(source, device, dtype)
        tokenizer, name = AutoTokenizer.from_pretrained(source), source
        # The task is part of the name that NDIF keeps a model under.
        traced = TransformersModel(source, task="text-generation", tokenizer=tokenizer)
    else:
        module, tokenizer, name = _load(source, device, dtype)
        _check_placement(module)
        traced = TransformersModel(module, tokenizer=tokenizer)
    _check_tokenizer(tokenizer)
    module, config = traced._module, traced._module.config.get_text_config()
    architecture = type(module).__name__
    paths = {part: find_part(module, part, architecture) for part in PATHS}
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
        context=getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length,
        logit_scale=logit_scale_of(config),
        soft_cap=getattr(config, "final_logit_softcapping", None),
    )
    tuple_output, weights_dtype = check_lens(model)
    return replace(model, tuple_output=tuple_output, dtype=weights_dtype)


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
        module, tokenizer = source
        # nnsight sets the padding side of the tokenizer it is given; the caller's stays untouched.
        name = getattr(module, "name_or_path", "") or type(module).__name__
        return module.eval(), copy.deepcopy(tokenizer), name
    on_gpu = torch.cuda.is_available()
    if device is None:
        device = "cuda" if on_gpu else "cpu"
    if dtype is None:
        on_gpu = on_gpu if device == "auto" else torch.device(device).type != "cpu"
        dtype = "auto" if on_gpu else torch.float32
    path = str(LABORATORY.get(source, source))
    placed = {"device_map": "auto"} if device == "auto" else {}
    module = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **placed).eval()
    if not placed:
        module.to(device)
    return module, AutoTokenizer.from_pretrained(path), str(source)


def _check_placement(module) -> None:
    """Refuse weights that are moved in for a moment only: a trace cannot read them."""
    away = [name for name, weight in module.named_parameters() if weight.device.type == "meta"]
    if away:
        raise ValueError(
            f"{len(away)} weights, first {away[0]}, have no place on a device and would be moved "
            "in from memory or disk when they are needed, which cannot be traced; use more or "
            "larger GPUs, a smaller dtype, or remote=True"
        )


def _check_tokenizer(tokenizer) -> None:
    prompt = tokenizer("Answer:")["input_ids"]
    if prompt and prompt[-1] == tokenizer.eos_token_id:
        raise ValueError(
            f"{type(tokenizer).__name__} ends every prompt with {tokenizer.eos_token!r}, so the "
            "answer position would be lost; open its tokenizer with add_eos_token=False"
        )
