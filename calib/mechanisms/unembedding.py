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

from calib.models.calls import call, rows_of
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
        Only these rows of the unembedding; the whole vocabulary if not given, for which the weights
        have to be here.

    Returns
    -------
    Readout
        On the unembedding's device; of a remote model on the CPU.

    Raises
    ------
    ValueError
        If a token is none of the vocabulary; if the whole vocabulary is asked of a model whose
        unembedding can only be called, as on a server; or if the final norm is neither a LayerNorm
        nor an RMSNorm, or the unembedding not linear.

    Examples
    --------
    >>> from calib import lens, open_model
    >>> model, stream = open_model("almanac"), torch.ones(128)
    >>> readout = readout_of(model, tokens=[5, 6])
    >>> torch.allclose(readout.logits(stream), lens(model, stream, [5, 6]), atol=1e-4)
    True
    """
    if tokens is None:
        model.require_rows(
            "the rows of a whole vocabulary are too many to ask for one by one: name tokens"
        )
    else:
        tokens = [int(token) for token in tokens]
        if not tokens or not 0 <= min(tokens) <= max(tokens) < model.vocabulary:
            raise ValueError(
                f"tokens is {tokens}; it must be at least one, each from 0 to "
                f"{model.vocabulary - 1}"
            )
    scale = 1.0 if model.logit_scale is None else model.logit_scale
    with model.running():
        norm = norm_of(model, model.part("norm"), f"the final norm {model.norm}")
        weight, bias = _rows(model, tokens)
        gain, offset = norm.gain.to(weight.device), norm.offset.to(weight.device)
        bias = bias + weight @ offset
        folded = weight * gain  # in place from here on: a vocabulary's rows are large
        folded *= scale
        if norm.centres:
            folded -= folded.mean(dim=1, keepdim=True)
        readout = Readout(folded, bias * scale, norm.centres, norm.epsilon, model.soft_cap)
        _prove(model, readout, tokens)
    return readout


def _rows(model, tokens):
    """Rows ``[tokens, d_model]`` of the unembedding and their bias, float32, where it is."""
    if model.remote or not model.plain_head:
        shape = model.d_model, model.vocabulary
        weight, bias = rows_of(model, model.part("unembedding"), shape, outputs=tokens)
        return weight.T, bias
    unembedding = model.weights_of("unembedding")
    some = slice(None) if tokens is None else tokens
    weight = unembedding.weight.detach()[some].float()
    if unembedding.bias is None:
        return weight, weight.new_zeros(len(weight))
    return weight, unembedding.bias.detach()[some].float()


@dataclass(frozen=True)
class Norm:
    """A LayerNorm or an RMSNorm: ``gain · stream / length + offset``.

    Attributes
    ----------
    gain, offset : float32 tensor ``[d_model]``
        On the CPU.
    centres : bool
        Whether the stream's mean is removed first.
    epsilon : float
        What is added to the mean square.
    """

    gain: torch.Tensor
    offset: torch.Tensor
    centres: bool
    epsilon: float

    def __call__(self, stream: torch.Tensor) -> torch.Tensor:
        """What the norm gives for ``stream [..., d_model]``, in float32."""
        stream = stream.float()
        if self.centres:
            stream = stream - stream.mean(dim=-1, keepdim=True)
        length = (stream.square().mean(dim=-1, keepdim=True) + self.epsilon).sqrt()
        return self.gain.to(stream) * (stream / length) + self.offset.to(stream)


def norm_of(model: Model, part, called: str) -> Norm:
    """A norm of the model taken apart: asked of itself, and proved on a random stream.

    Architectures differ in where they keep the gain, some add 1, and some have none.

    Parameters
    ----------
    part : traced module
    called : str
        What it is in an error.
    """
    sign = torch.tensor([1.0, -1.0]).repeat(model.d_model // 2)  # of mean 0 and length 1
    stream = torch.randn(2, model.d_model, generator=torch.Generator().manual_seed(0))
    stream[1] *= SHORT  # where a wrong epsilon would show
    probes = torch.stack([sign, SHORT * sign, torch.ones_like(sign), torch.zeros_like(sign)])
    of_sign, of_short, of_ones, offset, *own = call(model, part, torch.cat([probes, stream]))
    long, short = of_sign - offset, of_short - offset
    # The gain over √(1 + ε), and over √(SHORT² + ε): from their ratio, ε.
    ratio = float((short @ long) / (long @ long)) ** 2
    epsilon = max(SHORT**2 * (1 - ratio) / (ratio - SHORT**2), 0.0)
    gain = long * sign * (1 + epsilon) ** 0.5
    norm = Norm(gain, offset, torch.allclose(of_ones, offset), epsilon)
    own = torch.stack(own)
    off = float((norm(stream) - own).abs().max() / own.abs().max().clamp_min(1e-30))
    if not off <= model.tolerance:
        raise ValueError(
            f"{model.architecture} ({model.name}): {called} is neither a LayerNorm nor an RMSNorm; "
            f"what it gives parts from theirs by {off:.1e} of the largest"
        )
    return norm


def _prove(model, readout, tokens):
    stream = torch.randn(2, model.d_model, generator=torch.Generator().manual_seed(0))
    stream = stream.to(readout.rows.device)
    stream[1] *= SHORT  # where a wrong epsilon would show
    ours, own = readout.logits(stream), lens(model, stream.to(model.dtype), tokens).float()
    # One logit may happen to be next to nothing: that is no measure of its error.
    size = torch.maximum(own.abs().max(), readout.rows.norm(dim=1).max()).clamp_min(1e-30)
    off = float((ours - own).abs().max() / size)
    if not off <= model.tolerance:
        raise ValueError(
            f"{model.architecture} ({model.name}): {model.norm} and {model.unembedding} are no "
            f"norm and a linear map; their logits part from those by {off:.1e} of the largest"
        )
