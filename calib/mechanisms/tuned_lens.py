"""The tuned lens: a translator for each layer, trained to say what the last layer will say.

The logit lens reads a layer as if it were the last, and garbles what is written in another form. A
tuned lens [1]_ first translates: the stream h of a layer becomes h + A h + b, with a matrix and a
vector of its own, and then goes through the final norm and unembedding. What a layer still lacks
through it is more likely missing in the layer.

It is trained to imitate, so it can itself do what the upper layers do, if that is affine: lower all
confidences, for one. Set a lens that only has a temperature beside it.

After [1]_, with these differences: trained at the answer position and on the option letters, as
everything here is read there; by L-BFGS, stopped early on questions held out.

References
----------
.. [1] Belrose et al., "Eliciting latent predictions from transformers with the tuned lens",
   arXiv 2303.08112, 2023.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file

from calib.mechanisms.unembedding import Readout, readout_of
from calib.models.model import Model
from calib.models.place import in_float64
from calib.questions import check_questions
from calib.reading._provenance import digest_of
from calib.reading.layers import read_layers
from calib.steering.directions import ENOUGH

PATIENCE = 10  # rounds without a better fit to the held-out questions


@dataclass(frozen=True, eq=False)
class TunedLens:
    """A translator for every layer; that of the last does nothing.

    Attributes
    ----------
    matrices : float32 tensor ``[layers + 1, d_model, d_model]``
        On the device of the model's unembedding.
    shifts : float32 tensor ``[layers + 1, d_model]``
    fit : pandas.DataFrame
        One row per layer: ``logit_lens`` and ``tuned_lens``, the mean Kullback-Leibler divergence
        (nats) of what each reads from what the last layer says, on the held-out questions. The
        training was stopped by these, so the second is never worse, and a little too good.
    """

    matrices: torch.Tensor
    shifts: torch.Tensor
    fit: pd.DataFrame

    def check(self, model: Model) -> None:
        """Refuse a model with other layers or another width; ValueError says how they differ."""
        shape = (model.n_layers + 1, model.d_model)
        if self.shifts.shape != shape:
            raise ValueError(
                f"the lens is for {len(self.shifts) - 1} layers of width {self.shifts.shape[1]}, "
                f"{model.name} has {model.n_layers} of width {model.d_model}; fit one on this model"
            )

    def save(self, file) -> None:
        """Write the lens into one safetensors file."""
        parts = {"matrices": self.matrices.cpu(), "shifts": self.shifts.cpu()}
        save_file(parts | {"fit": torch.from_numpy(np.ascontiguousarray(self.fit))}, file)

    @classmethod
    def load(cls, file, device="cpu") -> TunedLens:
        """Read what :meth:`save` wrote; onto the device of the model's unembedding."""
        found = load_file(file)
        matrices, shifts = found["matrices"].to(device), found["shifts"].to(device)
        return cls(matrices, shifts, _as_table(found["fit"].numpy()))

    def describe(self) -> str:
        """As a Reading's provenance carries it."""
        return "tuned lens " + digest_of([self.matrices.cpu().numpy(), self.shifts.cpu().numpy()])


def fit_tuned_lens(
    model: Model,
    questions: Dataset,
    *,
    held_out: float = 0.2,
    max_rounds: int = 100,
    seed: int = 0,
    **settings,
) -> TunedLens:
    """Train a tuned lens on the calibration split.

    Each layer's translator starts at zero, as the logit lens, and the best one is kept by its fit
    to the held-out questions, on which it is therefore never worse than the logit lens.

    Parameters
    ----------
    questions : datasets.Dataset
        Of the calibration split. Questions of the same text are held out together.
    held_out : float
        Share of the texts to stop by, between 0 and 1.
    max_rounds : int
        Of L-BFGS, of two steps each.
    seed : int
        Draws what is held out.
    **settings
        Of :func:`calib.read_layers`, which the streams of all layers are read with: 4 bytes
        for each question, layer and dimension.

    Returns
    -------
    TunedLens
        Of (d_model + 1) · d_model numbers per layer. While one layer is trained, some 40 times as
        many are held, in float64.

    Raises
    ------
    ValueError
        If ``held_out`` is out of range or leaves fewer than 20 questions to
        train on or to stop by, and as :func:`calib.read_layers`.

    Examples
    --------
    >>> from calib import load_questions, open_model
    >>> model = open_model("almanac")
    >>> calibration = load_questions("almanac", "validation", limit=200)
    >>> lens = fit_tuned_lens(model, calibration, max_rounds=3)
    >>> bool((lens.fit.tuned_lens <= lens.fit.logit_lens).all())
    True
    >>> read_layers(model, load_questions("almanac", limit=5), lens=lens).logits.shape
    (5, 9, 4)
    """
    questions = check_questions(questions)
    held = _hold_out(questions, held_out, seed)
    readout_of(model, [0])  # refuses what it cannot be made of, before any question is asked
    layers = range(model.n_layers + 1)
    reading = read_layers(model, questions, keep_residuals=layers, **settings)
    readout = readout_of(model, reading.provenance["option_tokens"])
    device = readout.rows.device
    # In float64: in float32, rounding decides in which round the training stops.
    rows, bias = in_float64(readout.rows), in_float64(readout.bias)
    readout = replace(readout, rows=rows, bias=bias)
    target = torch.from_numpy(reading.logits[:, -1]).to(readout.rows).log_softmax(-1)
    matrices = torch.zeros(len(layers), model.d_model, model.d_model, device=device)
    shifts, fit = torch.zeros(len(layers), model.d_model, device=device), []
    for ell in layers:
        stream = torch.from_numpy(reading.residuals[ell]).to(readout.rows)
        scale = reading.scale(ell)
        with model.running():
            translate = _Translator(readout, stream, target, held, scale)
            if ell < model.n_layers:
                matrices[ell], shifts[ell] = translate.train(max_rounds)
        fit.append([translate.start, translate.best])
    return TunedLens(matrices, shifts, _as_table(fit))


class _Translator:
    """One layer's translator, in training."""

    def __init__(self, readout: Readout, stream, target, held, scale):
        d_model = stream.shape[1]
        self.readout, self.scale = readout, scale
        self.parts = {
            part: (stream[rows], target[rows]) for part, rows in (("train", ~held), ("held", held))
        }
        self.matrix = stream.new_zeros(d_model, d_model, requires_grad=True)
        self.shift = stream.new_zeros(d_model, requires_grad=True)  # in units of the scale
        self.start = self.best = self.measure()

    def divergence(self, part):
        stream, target = self.parts[part]
        translated = stream + stream @ self.matrix.T + self.scale * self.shift
        absent = target.isneginf()  # options that a question does not have
        read = self.readout.logits(translated).masked_fill(absent, -torch.inf).log_softmax(-1)
        difference = target.masked_fill(absent, 0) - read.masked_fill(absent, 0)
        return (target.exp() * difference).sum(-1).mean()

    def measure(self) -> float:
        with torch.no_grad():
            return max(self.divergence("held").item(), 0.0)  # rounding may pass 0

    def train(self, max_rounds):
        parameters = [self.matrix, self.shift]
        kept, waited = [p.detach().clone() for p in parameters], 0
        lbfgs = torch.optim.LBFGS(
            parameters, max_iter=2, history_size=20, line_search_fn="strong_wolfe"
        )

        def loss_and_gradient():
            lbfgs.zero_grad()
            loss = self.divergence("train")
            loss.backward()
            return loss

        for _ in range(max_rounds):
            lbfgs.step(loss_and_gradient)
            now = self.measure()
            waited += 1
            if now < self.best:
                kept, waited = [p.detach().clone() for p in parameters], 0
                self.best = now
            elif waited == PATIENCE:
                break
        return kept[0], self.scale * kept[1]


def _as_table(fit):
    return pd.DataFrame(fit, columns=["logit_lens", "tuned_lens"]).rename_axis("layer")


def _hold_out(questions, share, seed) -> torch.Tensor:
    """Which questions to stop by, as a mask: a share of the texts with all their questions."""
    if not 0 < share < 1:
        raise ValueError(f"held_out is {share}; it is a share of the questions, between 0 and 1")
    texts = np.array(questions["question"])
    unique = np.unique(texts)
    some = np.random.default_rng(seed).permutation(unique)[: round(share * len(unique))]
    held = np.isin(texts, some)
    for what, count in (("train on", (~held).sum()), ("stop by", held.sum())):
        if count < ENOUGH:
            raise ValueError(
                f"{count} of {len(held)} questions are left to {what}; at least {ENOUGH} are "
                "needed: use more questions or another held_out"
            )
    return torch.from_numpy(held)
