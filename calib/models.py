"""Open a decoder-only language model, find what a lens needs in it, and check that it is right.

Reading a layer needs four things that every architecture names differently: the residual stream
after each block, the final norm, the unembedding, and what is done to the logits afterwards.
:func:`open_model` finds them and proves them on the spot: the lens at the last layer must give the
model's own logits.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from operator import attrgetter
from typing import Any

import torch
from nnsight.modeling.transformers import TransformersModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from calib.architectures import PATHS, find_part, logit_scale_of, returns_tuple

LABORATORY = {name: files("calib.laboratory") / name for name in ("almanac", "almanac-tuned")}

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}


@dataclass(frozen=True)
class Model:
    """An opened model: the traced module, and where its parts are.

    Attributes
    ----------
    traced : nnsight.TransformersModel
        Everything nnsight offers stays available through it.
    tokenizer : transformers tokenizer
        A copy of its own, padding on the left.
    name, revision, architecture : str
        For provenance; ``revision`` is the hub's commit where there is one.
    layers, norm, unembedding : str
        Paths of the parts inside ``traced``.
    n_layers, d_model, context : int
        Number of blocks, width of the residual stream, longest prompt in tokens.
    tuple_output : bool
        Whether a block returns a tuple whose first entry is the residual stream.
    logit_scale, soft_cap : float or None
        What the model does to its logits after the unembedding.
    """

    traced: Any
    tokenizer: Any
    name: str
    revision: str
    architecture: str
    layers: str
    norm: str
    unembedding: str
    n_layers: int
    d_model: int
    context: int
    tuple_output: bool
    logit_scale: float | None
    soft_cap: float | None

    @property
    def module(self) -> torch.nn.Module:
        """The model as transformers made it."""
        return self.traced._module

    @property
    def device(self) -> torch.device:
        """Where token ids have to be."""
        return self.module.get_input_embeddings().weight.device

    def part(self, name: str) -> Any:
        """The traced ``layers``, ``norm`` or ``unembedding``."""
        return attrgetter(getattr(self, name))(self.traced)


def open_model(source, *, remote: bool = False, device=None, dtype=None) -> Model:
    """Open a decoder-only model for reading, and check that its lens is right.

    Parameters
    ----------
    source : str, Path or (module, tokenizer)
        ``"almanac"`` or ``"almanac-tuned"`` (the laboratory's models, shipped with the package), a
        hub id, a folder written by ``save_pretrained``, or a loaded pair. A loaded module is put
        into evaluation mode and stays where it is.
    remote : bool
        Reserved for models run elsewhere; not available yet.
    device : str or torch.device, optional
        By default the first GPU, else the CPU.
    dtype : torch.dtype, optional
        By default float32 on a CPU and the checkpoint's own type elsewhere.

    Returns
    -------
    Model

    Raises
    ------
    ValueError
        If a part cannot be found, the tokenizer ends prompts with a token of its own, or the lens
        at the last layer differs from the model's own logits; the message says where.

    Examples
    --------
    >>> model = open_model("almanac")
    >>> model.architecture, model.n_layers, model.d_model
    ('LlamaForCausalLM', 8, 128)
    """
    if remote:
        raise NotImplementedError(
            "remote=True is not available yet; open the model on this machine"
        )
    module, tokenizer, name = _load(source, device, dtype)
    architecture = type(module).__name__
    paths = {part: find_part(module, part, architecture) for part in PATHS}
    _check_tokenizer(tokenizer)
    config = module.config.get_text_config()
    model = Model(
        traced=TransformersModel(module, tokenizer=tokenizer),
        tokenizer=tokenizer,
        name=name,
        revision=getattr(config, "_commit_hash", None) or "",
        architecture=architecture,
        **paths,
        n_layers=len(attrgetter(paths["layers"])(module)),
        d_model=config.hidden_size,
        context=getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length,
        tuple_output=returns_tuple(module, attrgetter(paths["layers"])(module)[-1]),
        logit_scale=logit_scale_of(config),
        soft_cap=getattr(config, "final_logit_softcapping", None),
    )
    check_lens(model)
    return model


def lens(model: Model, residuals: torch.Tensor, tokens=None) -> torch.Tensor:
    """Logits that a residual stream would give if it were the last: the logit lens.

    Parameters
    ----------
    residuals : tensor ``[..., d_model]``
    tokens : list of int, optional
        Only these rows of the unembedding; the whole vocabulary if not given.

    Returns
    -------
    tensor ``[..., tokens]``
        In the model's own type, after its logit scale and soft-cap.

    References
    ----------
    .. [1] nostalgebraist, "interpreting GPT: the logit lens", 2020.

    Examples
    --------
    >>> model = open_model("almanac")
    >>> lens(model, torch.zeros(3, 128), tokens=[5, 6]).shape
    torch.Size([3, 2])
    """
    norm = attrgetter(model.norm)(model.module)
    unembedding = attrgetter(model.unembedding)(model.module)
    rows = slice(None) if tokens is None else torch.as_tensor(tokens)
    bias = None if unembedding.bias is None else unembedding.bias[rows]
    with torch.no_grad():
        logits = torch.nn.functional.linear(norm(residuals), unembedding.weight[rows], bias)
    return finish(logits, model.logit_scale, model.soft_cap)


def finish(logits, scale: float | None, cap: float | None):
    """What a model does to its logits after the unembedding: scale, then soft-cap."""
    if scale is not None:
        logits = logits * scale
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return logits


def check_lens(model: Model) -> None:
    """Raise ValueError unless the lens at the last layer gives the model's own logits."""
    ids = torch.tensor([[5, 3, 2, 7, 1]], device=model.device)
    layers, norm, unembedding = (model.part(p) for p in ("layers", "norm", "unembedding"))
    with torch.no_grad(), model.traced.trace(input_ids=ids, use_cache=False):
        output = layers[-1].output
        residual = (output[0] if model.tuple_output else output)[:, -1].clone().save()
        norm_in = norm.input[:, -1].clone().save()
        norm_out = norm.output[:, -1].clone().save()
        unembedding_in = unembedding.input[:, -1].clone().save()
        unembedding_out = unembedding.output[:, -1].clone().save()
        own = model.traced.output.logits[:, -1].clone().save()
    tolerance = TOLERANCE[own.dtype]
    if _difference(lens(model, residual), own) <= tolerance:
        return
    finished = finish(unembedding_out, model.logit_scale, model.soft_cap)
    stages = {
        f"between the last layer and {model.norm}": _difference(residual, norm_in),
        f"between {model.norm} and {model.unembedding}": _difference(norm_out, unembedding_in),
        f"after {model.unembedding} (a scale or cap not known here)": _difference(finished, own),
    }
    where, size = max(stages.items(), key=lambda stage: stage[1])
    raise ValueError(
        f"{model.architecture} ({model.name}): the lens at the last layer is not the model's own "
        f"logits; they part {where}, by {size:.1e} of the largest value (allowed {tolerance:.0e})"
    )


def fingerprint(module) -> str:
    """Sixteen hexadecimal digits that change with the weights: from a few of every tensor's."""
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        some = parameter.detach().flatten()[:64].float().cpu()
        digest.update(name.encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]


def _difference(a, b) -> float:
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item()


def _load(source, device, dtype):
    if isinstance(source, tuple):
        module, tokenizer = source
        # nnsight sets the padding side of the tokenizer it is given; the caller's stays untouched.
        name = getattr(module, "name_or_path", "") or type(module).__name__
        return module.eval(), copy.deepcopy(tokenizer), name
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype is None:
        dtype = torch.float32 if torch.device(device).type == "cpu" else "auto"
    path = str(LABORATORY.get(source, source))
    module = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device).eval()
    return module, AutoTokenizer.from_pretrained(path), str(source)


def _check_tokenizer(tokenizer) -> None:
    prompt = tokenizer("Answer:")["input_ids"]
    if prompt and prompt[-1] == tokenizer.eos_token_id:
        raise ValueError(
            f"{type(tokenizer).__name__} ends every prompt with {tokenizer.eos_token!r}, so the "
            "answer position would be lost; open its tokenizer with add_eos_token=False"
        )
