"""Open a decoder-only language model, find what a lens needs in it, and check that it is right.

Reading a layer needs four things that every architecture names differently: the residual stream
after each block, the final norm, the unembedding, and what is done to the logits afterwards.
:func:`open_model` finds them and proves them on the spot: the lens at the last layer must give the
model's own logits.
"""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from nnsight.modeling.transformers import TransformersModel
from transformers import AutoTokenizer

from calib._checks import check_positive
from calib.models._gguf import find_gguf, judge
from calib.models._load import LABORATORY, load
from calib.models.architectures import find_parts, logit_scale_of, rope_switch_of
from calib.models.model import Model
from calib.models.ndif import api_key
from calib.models.proof import probes_of, prove


def open_model(
    source,
    *,
    gguf_file=None,
    remote: bool = False,
    device=None,
    dtype=None,
    tensor_parallel: bool = False,
    time_limit: float = 600,
) -> Model:
    """Open a decoder-only model for reading, and check that its lens is right.

    Parameters
    ----------
    source : str, Path or (module, tokenizer)
        ``"almanac"`` or ``"almanac-tuned"`` (the laboratory's models, shipped with the package), a
        hub id, a folder written by ``save_pretrained``, a file of GGUF, or a loaded pair. A loaded
        module stays where it is; whatever is read of it is read in evaluation mode.
    gguf_file : str or Path, optional
        Which file of GGUF is meant, of those in a folder or on the hub (``pip install
        'calibration-across-layers[gguf]'``). Its weights are unpacked as they are loaded: what is
        read is the quantized model, computed with plain numbers.
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
        everywhere. That of the laboratory's models is float32, that of a quantized GGUF file
        bfloat16.
    tensor_parallel : bool
        Spread one model, layer by layer, over the processes that ``torchrun`` started on this
        machine, each with a GPU of its own: for a model larger than a GPU (``pip install
        accelerate``). All of them then run the same batches together; without it, each has a model
        of its own, and they share batches out.
    time_limit : float
        With ``remote``: most seconds that one traced pass may take, the server's queue included.

    Raises
    ------
    TypeError
        If the source is none of these kinds.
    ValueError
        If the source is a missing folder or a file of another kind, a part cannot be found, weights
        have no place on a device, the tokenizer ends prompts with a token of its own or has tokens
        that the model does not embed, logits are not finite, or the lens at the last layer differs
        from the model's own logits; the message says where. Also if the device is none of this
        machine's, or given with a loaded module. If a GGUF file is not whole, is no decoder, or is
        of an architecture or with weights of a type that cannot be unpacked. With ``remote``, if
        the source is no hub id, or a file, device or dtype is given. With ``tensor_parallel``, if
        there are no several processes, their number does not divide the model's sizes, or it is
        asked for with another way to place a model or with a GGUF file.
    ImportError
        If a GGUF file is opened, and a package that reads it is missing or too old.
    torch.OutOfMemoryError
        If the weights do not fit on the device; of a GGUF file, before they are loaded.
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
        _check_remote(source, gguf_file, device, dtype, tensor_parallel)
        tokenizer, name, file = AutoTokenizer.from_pretrained(source), source, None
        # The task is part of the name that NDIF keeps a model under.
        traced = TransformersModel(source, task="text-generation", tokenizer=tokenizer)
    else:
        module, tokenizer, name, file = load(source, device, dtype, tensor_parallel, gguf_file)
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
        revision=_revision(source, gguf_file),
        file=file,
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


def check_gguf(source, gguf_file=None) -> bool:
    """Whether a GGUF file on this machine is meant; what cannot be opened is refused by its header.

    ValueError or ImportError, as :func:`open_model`.
    """
    if not Path(source).exists():
        return False
    file = find_gguf(source, gguf_file)
    return file is not None and bool(judge(file))


def _check_remote(source, gguf_file, device, dtype, tensor_parallel) -> None:
    """Refuse what cannot run on NDIF, before anything is sent or downloaded."""
    if not _is_hub_id(source):
        what = "a loaded module" if isinstance(source, tuple) else f"{str(source)!r}"
        raise ValueError(
            f"remote=True needs the hub id of a model, such as 'meta-llama/Llama-3.1-8B', and "
            f"{what} is on this machine; open it without remote=True"
        )
    if gguf_file is not None:
        raise ValueError(
            f"gguf_file is {str(gguf_file)!r}; with remote=True the server has weights of its own, "
            "so leave it out, or open the file without remote=True"
        )
    if device is not None or dtype is not None:
        raise ValueError(
            f"device is {device} and dtype is {dtype}; with remote=True both are the server's, so "
            "leave them out"
        )
    if tensor_parallel:
        raise ValueError("with remote=True the server spreads the model; leave out tensor_parallel")
    api_key()


def _is_hub_id(source) -> bool:
    return isinstance(source, str) and source not in LABORATORY and not Path(source).exists()


def _revision(source, gguf_file=None) -> str:
    """The commit on the hub that the configuration, or the file, was downloaded from, if it was."""
    name = str(gguf_file or "config.json")  # perhaps in a folder of the repository
    found = try_to_load_from_cache(source, name) if _is_hub_id(source) else None
    return Path(found).parents[name.count("/")].name if isinstance(found, str) else ""


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
