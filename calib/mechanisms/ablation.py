"""Ablating neurons: what confidence would be, had they said the same to every question.

The activation of a neuron at the answer position is replaced by a constant, such as its mean. That
changes the residual stream after its block by a multiple of the neuron's output vector. So one pass
serves all neurons of a layer: of the last, the changed streams need the final norm and the option
rows alone; of a layer below, each is a branch of the prompt (:mod:`calib.reading._tree_attention`).

The **total** effect is that of the changed stream, the **direct** one that with the final norm's
length as it was; the rest is the norm's (Stolfo et al., NeurIPS 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from operator import index

import numpy as np
import pandas as pd
import torch
from datasets import Dataset

from calib import metrics
from calib.mechanisms._changes import change_of, propagation, read_ablated
from calib.mechanisms.neurons import (
    n_neurons,
    neuron_block,
    output_vectors,
    post_norm,
    read_neurons,
)
from calib.mechanisms.unembedding import readout_of
from calib.metrics.inputs import softmax
from calib.models.model import Model
from calib.reading._provenance import digest_of
from calib.reading._run import Run
from calib.reading._tree_attention import MOST, chunks

METRICS = {
    "confidence": metrics.mean_confidence, "entropy": metrics.entropy,
    "nll": metrics.nll, "ece": metrics.ece,
}  # fmt: skip


@dataclass(frozen=True)
class Ablation:
    """Answers with groups of neurons ablated, and without.

    Attributes
    ----------
    groups : tuple of tuple of int
        The neurons ablated together.
    total, direct : float32 array ``[groups, questions, options]``
        Option logits; ``direct`` with the final norm's length as it was.
    intact : float32 array ``[questions, options]``
    labels : int64 array ``[questions]``
    """

    groups: tuple[tuple[int, ...], ...]
    total: np.ndarray
    direct: np.ndarray
    intact: np.ndarray
    labels: np.ndarray

    def effects(self) -> pd.DataFrame:
        """What ablating each group changes.

        Returns
        -------
        pandas.DataFrame
            One row per group. For each of mean confidence, mean entropy of the option probabilities
            (nats), NLL (nats) and ECE: the total change, ``confidence``, the direct one,
            ``confidence_direct``, and their difference, ``confidence_norm``. ``norm_share`` is
            1 - direct / total of the entropy [1]_: 1 where all goes through the norm, 0 where
            nothing does, and of no meaning where the total is near 0.

        References
        ----------
        .. [1] Stolfo et al., "Confidence regulation neurons in language models", NeurIPS 2024.
        """
        ways = {"": softmax(self.total), "_direct": softmax(self.direct)}
        intact, columns = softmax(self.intact), {}
        for name, metric in METRICS.items():
            before = metric(intact, self.labels)
            for way, p in ways.items():
                columns[name + way] = metric(p, self.labels) - before
            columns[f"{name}_norm"] = columns[name] - columns[f"{name}_direct"]
        with np.errstate(divide="ignore", invalid="ignore"):
            columns["norm_share"] = 1 - columns["entropy_direct"] / columns["entropy"]
        return pd.DataFrame(columns, index=pd.RangeIndex(len(self.groups), name="group"))


def ablate_neurons(
    model: Model,
    questions: Dataset,
    layer: int,
    instead,
    groups=None,
    *,
    shots: int = 0,
    exemplars: Dataset | None = None,
    chat: bool = False,
    batch_tokens: int = 8192,
) -> Ablation:
    """Answer with neurons of one MLP held at a constant, at the answer position.

    Parameters
    ----------
    layer : int
        The layer that the block ends in, 1 to L.
    instead : float array ``[neurons]``
        What the activations are replaced by. Their means on the calibration split
        (:func:`calib.mechanisms.read_activations`) take away what a neuron says about each
        question, zeros also what it says to all.
    groups : sequence of sequences of int, optional
        Neurons to ablate together; every neuron by itself if not given.
    shots, exemplars, chat, batch_tokens
        As in :func:`calib.read_layers`.

    Returns
    -------
    Ablation
        It takes 8 bytes for each group, question and option.

    Notes
    -----
    Below the last layer, one neuron's effect may drown in the rounding of bfloat16: open the model
    in float32. Models whose prompts cannot branch take a pass for each group there.

    Raises
    ------
    TypeError, ValueError
        If the groups are not sequences of whole numbers, one is empty, or names a neuron twice or
        one that does not exist; if there are not as many constants as neurons or one is not finite;
        and as :func:`calib.mechanisms.describe_neurons` and
        :func:`calib.read_layers`.

    Examples
    --------
    >>> from calib import load_questions, open_model
    >>> from calib.mechanisms import read_activations
    >>> model, questions = open_model("almanac"), load_questions("almanac", limit=20)
    >>> calibration = load_questions("almanac", "validation", limit=50)
    >>> means = read_activations(model, calibration, layer=8).mean(axis=0)
    >>> ablate_neurons(model, questions, 8, means, [[0, 3], [7]]).total.shape
    (2, 20, 4)
    """
    block = neuron_block(model, layer)
    instead, groups = _check(instead, groups, n_neurons(model, block, layer))
    run = Run.prepare(model, questions, shots, exemplars, chat=chat)
    used, places = np.unique([n for group in groups for n in group], return_inverse=True)
    used = used.tolist()
    # The groups as places among the neurons that occur; only those are read.
    among = [where.tolist() for where in np.split(places, np.cumsum([*map(len, groups)])[:-1])]
    step = min(len(groups), MOST, max(batch_tokens - len(run.longest), 1))
    batches, readout = run.plan(batch_tokens, beside=step), readout_of(model, run.tokens)
    vectors, post = output_vectors(model, block, layer, used), post_norm(model, block, layer)
    change = partial(change_of, vectors, post, block.factor, instead[used].to(vectors))
    after = propagation(model, run, layer)

    def forward(part):
        found = read_neurons(model, block, layer, part.prompts, part.prefix, used)
        some = (change(found, groups) for groups in chunks(among, step))
        return read_ablated(readout, found["stream"], some, partial(after, part))

    settings = {"ablation": layer, "instead": digest_of([instead.numpy()]), "groups": groups}
    found = run.through(batches, forward, settings=settings)
    ways = found["total"].swapaxes(0, 1), found["direct"].swapaxes(0, 1), found["intact"]
    return Ablation(groups, *map(run.without_absent, ways), run.labels)


def _check(instead, groups, n_neurons):
    instead = np.asarray(instead, dtype=np.float32)
    if instead.shape != (n_neurons,):
        raise ValueError(
            f"instead has shape {instead.shape}; the layer has {n_neurons} neurons, and each needs "
            "one constant"
        )
    for at in np.flatnonzero(~np.isfinite(instead)):
        raise ValueError(f"instead[{at}] is {instead[at]}; it must be finite")
    if groups is None:
        groups = [[neuron] for neuron in range(n_neurons)]
    try:
        groups = tuple(tuple(index(neuron) for neuron in group) for group in groups)
    except TypeError:
        raise TypeError(
            f"groups is {groups}; it must be groups of neurons' numbers, such as [[0, 3], [7]]"
        ) from None
    for i, group in enumerate(groups):
        if not group or len(set(group)) < len(group):
            raise ValueError(
                f"group {i} is {list(group)}; it must hold at least one neuron and none twice"
            )
        if not 0 <= min(group) <= max(group) < n_neurons:
            raise ValueError(f"group {i} is {list(group)}; neurons run from 0 to {n_neurons - 1}")
    if not groups:
        raise ValueError("there are no groups to ablate; leave groups out to ablate every neuron")
    return torch.from_numpy(instead), groups
