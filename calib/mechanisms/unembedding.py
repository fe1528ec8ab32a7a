"""The readout taken apart: what the unembedding reads, and the length that this is divided by.

The final norm divides the residual stream by its length, and the unembedding reads the result.
With the norm's gain, and the centring of a LayerNorm, folded into the unembedding's rows, a logit
is

    logit = row · stream / length(stream) + bias

So a component can change confidence in two ways: by what it *writes* on the rows, or through the
*norm*, by making the stream longer or shorter. Holding the length still tells the two apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from calib.models.logit_lens import finish, lens
from calib.models.model import Model
from calib.models.place import full_precision

SHORT = 1e-3  # length of a probe that a norm's epsilon shows on


@dataclass(frozen=True)
class Readout:
    """The final norm and some rows of the unembedding, in one.

    Attributes
    ----------
    rows : float32 tensor ``[tokens, d_model]``
        Of the unembedding, with the final norm's linear part and the model's logit scale.
    bias : float32 tensor ``[tokens]``
    centres : bool
        Whether the norm removes the mean first: a LayerNorm does, an RMSNorm does not.
    epsilon : float
        What the norm adds to the mean square.
    cap : float or None
        The model's soft-cap.
    """

    rows: torch.Tensor
    bias: torch.Tensor
    centres: bool
    epsilon: float
    cap: float | None

    @property
    def contrasts(self) -> torch.Tensor:
        """The rows less their mean, ``[tokens, d_model]``.

        A softmax over these tokens sees no more of the rows: what adds the same to all of them
        changes no probability.
        """
        return self.rows - self.rows.mean(dim=0)

    def lengths(self, residuals: torch.Tensor) -> torch.Tensor:
        """What the norm divides by, ``[...]`` of ``[..., d_model]``: a root mean square."""
        if self.centres:
            residuals = residuals - residuals.mean(dim=-1, keepdim=True)
        return (residuals.square().mean(dim=-1) + self.epsilon).sqrt()

    def logits(self, residuals: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Logits ``[..., tokens]`` of ``[..., d_model]``; with ``lengths``, as if those were its.

        With the lengths of another stream, this is what that stream's *frozen* norm would give.
        Residuals may be on any device; the logits are where they are.
        """
        lengths = self.lengths(residuals) if lengths is None else lengths
        home = self.rows.device
        with full_precision(home.type):
            reads = residuals.to(home) @ self.rows.T
        return self.divide(reads, lengths.to(home)).to(residuals.device)

    def divide(self, reads: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Logits of what the rows read, both ``[..., tokens]``, at lengths ``[...]``."""
        return finish(reads / lengths[..., None] + self.bias, None, self.cap)


def readout_of(model: Model, tokens=None) -> Readout:
    """Take a model's readout apart: asked of its final norm, and proved on a random stream.

    Parameters
    ----------
    tokens : list of int, optional
        Only these rows of the unembedding; the whole vocabulary if not given.

    Returns
    -------
    Readout
        On the unembedding's device.

    Raises
    ------
    ValueError
        If the model is remote, for its weights are not here; if a token is none of the vocabulary;
        or if the final norm does something else than a LayerNorm or an RMSNorm.

    Examples
    --------
    >>> from calib import lens, open_model
    >>> model, stream = open_model("almanac"), torch.ones(128)
    >>> readout = readout_of(model, tokens=[5, 6])
    >>> torch.allclose(readout.logits(stream), lens(model, stream, [5, 6]), atol=1e-4)
    True
    """
    model.require_rows("its readout is made of them")
    norm, unembedding = model.weights_of("norm"), model.weights_of("unembedding")
    weight = unembedding.weight.detach()
    rows = slice(None)
    if tokens is not None:
        rows = tokens = [int(token) for token in tokens]
        if not tokens or not 0 <= min(tokens) <= max(tokens) < len(weight):
            raise ValueError(
                f"tokens is {tokens}; it must be at least one, each from 0 to {len(weight) - 1}"
            )
    scale = 1.0 if model.logit_scale is None else model.logit_scale
    with model.running():
        gain, offset, centres, epsilon = take_apart(norm, model.d_model, weight)
        gain, offset = gain.to(weight.device), offset.to(weight.device)
        weight = weight[rows].float()
        bias = weight @ offset
        if unembedding.bias is not None:
            bias = bias + unembedding.bias.detach()[rows].float()
        folded = weight * gain  # in place from here on: a vocabulary's rows are large
        folded *= scale
        if centres:
            folded -= folded.mean(dim=1, keepdim=True)
        readout = Readout(folded, bias * scale, centres, epsilon, model.soft_cap)
        _prove(model, readout, tokens, weight.device)
    return readout


def take_apart(norm, d_model: int, like: torch.Tensor):
    """A norm's gain and offset ``[d_model]``, whether it centres, and its epsilon.

    Asked of the norm itself, on the device and in the type of ``like`` or of its own weights:
    architectures differ in where they keep the gain, some add 1, and some have none.
    """
    like = next(norm.parameters(), like)
    sign = torch.tensor([1.0, -1.0]).repeat(d_model // 2)  # of mean 0 and length 1
    probes = torch.stack([sign, SHORT * sign, torch.ones(d_model), torch.zeros(d_model)])
    with torch.no_grad():
        of_sign, of_short, of_ones, offset = norm(probes.to(like)).float().cpu()
    long, short = of_sign - offset, of_short - offset
    # The gain over √(1 + ε), and over √(SHORT² + ε): from their ratio, ε.
    ratio = float((short @ long) / (long @ long)) ** 2
    epsilon = max(SHORT**2 * (1 - ratio) / (ratio - SHORT**2), 0.0)
    gain = long * sign * (1 + epsilon) ** 0.5
    centres = torch.allclose(of_ones, offset)
    return gain.to(like.device), offset.to(like.device), centres, epsilon


def _prove(model, readout, tokens, device):
    stream = torch.randn(2, model.d_model, generator=torch.Generator().manual_seed(0)).to(device)
    stream[1] *= SHORT  # where a wrong epsilon would show
    ours, own = readout.logits(stream), lens(model, stream.to(model.dtype), tokens).float()
    # One logit may happen to be next to nothing: that is no measure of its error.
    size = torch.maximum(own.abs().max(), readout.rows.norm(dim=1).max()).clamp_min(1e-30)
    off = float((ours - own).abs().max() / size)
    if not off <= model.tolerance:
        raise ValueError(
            f"{model.architecture} ({model.name}): the final norm {model.norm} is neither a "
            f"LayerNorm nor an RMSNorm; its logits part from theirs by {off:.1e} of the largest"
        )
