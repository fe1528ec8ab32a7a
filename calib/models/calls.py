"""Modules asked for what they give, wherever their weights are.

On a server a weight is out of reach, in a sandbox not even its type is there, and one that is
spread over processes cannot be indexed. But each module can be called. So a norm is asked about
probes, and a linear map about unit vectors: what it gives for each, less what it gives for nothing,
is a row of its weight.
"""

from __future__ import annotations

import torch

from calib.models.model import MOST_NUMBERS, Model


def call(model: Model, part, vectors: torch.Tensor) -> torch.Tensor:
    """What a traced module gives for ``vectors [n, width]``: float32, on the CPU."""
    ids = torch.tensor([model.probe[:1]], device=model.device)
    with model.running(), torch.no_grad(), model.trace(input_ids=ids, use_cache=False):
        given = vectors.to(part.input)
        answer = part(given).detach().float().cpu().save()
    return answer


def rows_of(model: Model, part, shape, inputs=None, outputs=None):
    """A linear map's weight and bias, from its answers to unit vectors.

    Parameters
    ----------
    part : traced module
        Such as ``model.part("unembedding")``.
    shape : (int, int)
        Numbers that it takes and gives.
    inputs, outputs : list of int, optional
        Only these of either; all if not given.

    Returns
    -------
    weight : float32 tensor ``[inputs, outputs]``
    bias : float32 tensor ``[outputs]``
        Both on the CPU.
    """
    width, step = shape[0], max(1, MOST_NUMBERS // max(shape))
    units = list(range(width)) if inputs is None else list(inputs)
    chunks = [units[first : first + step] for first in range(0, len(units), step)]
    kept = slice(None) if outputs is None else list(outputs)
    ids = torch.tensor([model.probe[:1]], device=model.device)
    with model.running(), torch.no_grad(), model.trace(input_ids=ids, use_cache=False):
        like = part.input
        bias = part(like.new_zeros(1, width))[0, kept].float()
        weight = []
        for some in chunks:
            unit = like.new_zeros(len(some), width)
            unit[list(range(len(some))), some] = 1
            weight.append(part(unit)[:, kept].float() - bias)
        weight, bias = torch.cat(weight).detach().cpu().save(), bias.detach().cpu().save()
    return weight, bias
