"""The logit lens: what a residual stream would say if it were the last; proved on opening."""

from __future__ import annotations

import torch

from calib.models.model import TOLERANCE, Model


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

    Raises
    ------
    ValueError
        If the model is remote, for its weights are not here.

    References
    ----------
    .. [1] nostalgebraist, "interpreting GPT: the logit lens", 2020.

    Examples
    --------
    >>> from calib import open_model
    >>> model = open_model("almanac")
    >>> lens(model, torch.zeros(3, 128), tokens=[5, 6]).shape
    torch.Size([3, 2])
    """
    model.require_weights(
        "read_layers reads the lens there, as a block of model.trace can by model.part('norm') and "
        "model.part('unembedding')"
    )
    norm, unembedding = model.weights_of("norm"), model.weights_of("unembedding")
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


def check_lens(model: Model) -> tuple[bool, torch.dtype]:
    """Prove the lens at the last layer on five tokens, and tell what only running the model tells.

    The lens is read where the weights are, for about a thousand words from all over the
    vocabulary; a few vectors come back.

    Returns
    -------
    tuple_output : bool
        Whether a block returns a tuple whose first entry is the residual stream.
    dtype : torch.dtype
        Of the weights.

    Raises
    ------
    ValueError
        If it is not what the model itself says of these words; the message says where they part.
    """
    ids = torch.tensor([[5, 3, 2, 7, 1]], device=model.device)
    layers, norm, unembedding = (model.part(p) for p in ("layers", "norm", "unembedding"))
    whole, linear = model.traced, torch.nn.functional.linear
    with torch.no_grad(), model.trace(input_ids=ids, use_cache=False):
        weight = unembedding.weight
        some = torch.arange(0, len(weight), 1 + len(weight) // 1000)
        output = layers[-1].output
        in_tuple = isinstance(output, tuple)
        residual = (output[0] if in_tuple else output)[:, -1].clone()
        norm_in = norm.input[:, -1].clone()
        norm_out = norm.output[:, -1].clone()
        unembedding_in = unembedding.input[:, -1].clone()
        unembedding_out = unembedding.output[:, -1, some]
        own = whole.output.logits[:, -1, some]
        bias = None if unembedding.bias is None else unembedding.bias[some]
        read = linear(norm(residual).to(weight.device), weight[some], bias)
        vectors = [residual, norm_in, norm_out, unembedding_in, unembedding_out, read, own]
        vectors = [vector.detach().cpu() for vector in vectors]
        found = [in_tuple, weight.dtype, vectors].save()
    in_tuple, dtype, vectors = found
    residual, norm_in, norm_out, unembedding_in, unembedding_out, read, own = vectors
    read, finished = (finish(a, model.logit_scale, model.soft_cap) for a in (read, unembedding_out))
    tolerance = max(TOLERANCE[residual.dtype], TOLERANCE[own.dtype])
    if _difference(read, own) <= tolerance:
        return in_tuple, dtype
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


def _difference(a, b) -> float:
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item()
