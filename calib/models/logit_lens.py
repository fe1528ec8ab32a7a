"""The logit lens: what a residual stream would say if it were the last."""

from __future__ import annotations

import torch

from calib.models.model import Model


def lens(model: Model, residuals: torch.Tensor, tokens=None) -> torch.Tensor:
    """Logits that a residual stream would give if it were the last: the logit lens.

    Parameters
    ----------
    residuals : tensor ``[..., d_model]``
        On any device.
    tokens : list of int, optional
        Only these rows of the unembedding; the whole vocabulary if not given.

    Returns
    -------
    tensor ``[..., tokens]``
        In the model's own type, after its logit scale and soft-cap; where the residuals are.

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
    rows = slice(None) if tokens is None else torch.as_tensor(tokens)
    if model.remote:
        with model.running():
            logits = _read_there(model, residuals.reshape(-1, model.d_model), rows)
        logits = logits.reshape(*residuals.shape[:-1], -1)
        return finish(logits, model.logit_scale, model.soft_cap).to(residuals.device)
    norm, unembedding = model.weights_of("norm"), model.weights_of("unembedding")
    first = next(norm.parameters(), unembedding.weight).device
    with model.running(), torch.no_grad():
        normed = norm(residuals.to(first)).to(unembedding.weight.device)
        if model.plain_head:
            bias = None if unembedding.bias is None else unembedding.bias[rows]
            logits = torch.nn.functional.linear(normed, unembedding.weight[rows], bias)
        else:
            logits = unembedding(normed)[..., rows]
    return finish(logits, model.logit_scale, model.soft_cap).to(residuals.device)


def _read_there(model, vectors, rows):
    """Logits ``[n, tokens]`` of ``vectors [n, d_model]``, by a server."""
    norm, unembedding, step = model.part("norm"), model.part("unembedding"), model.at_once
    ids = torch.tensor([model.probe[:1]])
    with torch.no_grad(), model.trace(input_ids=ids, use_cache=False):
        parts = norm(vectors.to(norm.input)).split(step)
        logits = torch.cat([unembedding(some)[:, rows].cpu() for some in parts]).save()
    return logits


def finish(logits, scale: float | None, cap: float | None):
    """What a model does to its logits after the unembedding: scale, then soft-cap."""
    if scale is not None:
        logits = logits * scale
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return logits
