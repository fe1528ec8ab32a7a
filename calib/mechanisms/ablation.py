"""Ablating neurons: what confidence would be, had they said the same to every question.

The activation of a neuron at the answer position is replaced by a constant, such as its mean. That
changes the residual stream after its block by a multiple of the neuron's output vector. So one pass
serves all neurons of a layer: of the last, the changed streams need the final norm and the option
rows alone; of a layer below, each is a branch of the prompt (:mod:`calib.reading._tree_attention`).

The **total** effect is that of the changed stream, the **direct** effect [1]_ that with the final
norm's length as it was; the rest is the norm's.

References
----------
.. [1] Stolfo et al., "Confidence regulation neurons in language models", NeurIPS 2024.
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
from calib.arrays import softmax
from calib.mechanisms.neurons import modules_of, neuron_block, output_vectors, read_neurons
from calib.mechanisms.unembedding import readout_of
from calib.models.open import Model
from calib.questions.prompts import prepare
from calib.reading._batches import plan_batches
from calib.reading._forward import Push, can_share, read_batch, read_batches
from calib.reading._tree_attention import can_branch, read_siblings

MOST = 512  # groups at once: their branches' mask and their streams have to fit into memory
METRICS = {
    "confidence": metrics.mean_confidence,
    "entropy": metrics.entropy,
    "nll": metrics.nll,
    "ece": metrics.ece,
}


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
            One row a group. For each of mean confidence, mean entropy of the option probabilities
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
    batch_tokens: int = 8192,
) -> Ablation:
    """Answer with neurons of one MLP held at a constant, at the answer position.

    Parameters
    ----------
    layer : int
        The layer that the block ends in, 1 to L.
    instead : float array ``[neurons]``
        What the activations are replaced by. Their means on the calibration split
        (:func:`calib.mechanisms.neurons.read_activations`) take away what a neuron says about each
        question, zeros also what it says to all.
    groups : sequence of sequences of int, optional
        Neurons to ablate together; every neuron by itself if not given.
    shots, exemplars, batch_tokens
        As in :func:`calib.reading.reading.read_layers`.

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
        and as :func:`calib.mechanisms.neurons.describe_neurons` and
        :func:`calib.reading.reading.read_layers`.

    Examples
    --------
    >>> from calib import load_questions, open_model
    >>> from calib.mechanisms.neurons import read_activations
    >>> model, questions = open_model("almanac"), load_questions("almanac", limit=20)
    >>> calibration = load_questions("almanac", "validation", limit=50)
    >>> means = read_activations(model, calibration, layer=8).mean(axis=0)
    >>> ablate_neurons(model, questions, 8, means, [[0, 3], [7]]).total.shape
    (2, 20, 4)
    """
    block = neuron_block(model, layer)
    vectors = output_vectors(model, block, layer)
    instead, groups = _check(instead, groups, len(vectors))
    tokens, prompts = prepare(model.tokenizer, questions, shots, exemplars)
    step = min(len(groups), MOST, max(batch_tokens - max(map(len, prompts)), 1))
    share = shots > 0 and can_share(model)
    plan = prompts, questions["subject"], batch_tokens, model.context, share
    batches = plan_batches(*plan, beside=step)
    changes = partial(_changes, model, block, layer, vectors, instead.to(vectors))
    after = None
    if layer < model.n_layers:
        road = _branch if can_branch(model, max(prompts, key=len)) else _push
        after = partial(road, model, tokens, layer)
    chunks = [groups[i : i + step] for i in range(0, len(groups), step)]
    readout = readout_of(model, tokens)
    read = partial(_read_ablated, model, block, layer, readout, changes, chunks, after)
    shape = len(groups), len(prompts), len(tokens)
    total, direct, intact = (np.empty(s, np.float32) for s in (shape, shape, shape[1:]))
    for rows, found in read_batches(model, prompts, batches, read, None):
        total[:, rows], direct[:, rows] = found["total"], found["direct"]
        intact[rows] = found["intact"]
    return Ablation(groups, total, direct, intact, np.array(questions["answer"]))


def _read_ablated(model, block, layer, readout, changes, chunks, after, prompts, beginning=None):
    """Logits of one batch, ``[groups, batch, options]``, and ``[batch, options]`` intact."""
    found = read_neurons(model, block, layer, prompts, beginning)
    home, stream = readout.rows.device, found["stream"]
    nothing, total, direct = torch.zeros(len(prompts), 1, model.d_model), [], []
    last = stream[:, None] if after is None else after(nothing, prompts, beginning)
    last = last.to(home)  # [batch, 1, d_model], intact
    frozen = readout.lengths(last)
    for groups in chunks:
        change = changes(found, groups)  # [batch, groups, d_model]
        ablated = stream[:, None] + change if after is None else after(change, prompts, beginning)
        ablated = ablated.to(home)
        total.append(readout.logits(ablated).transpose(0, 1))
        direct.append(readout.logits(ablated, frozen).transpose(0, 1))
    return {
        "total": torch.cat(total),
        "direct": torch.cat(direct),
        "intact": readout.logits(last)[:, 0],
    }


def _changes(model, block, layer, vectors, instead, found, groups):
    """What ablating each group changes in the stream after the block, ``[batch, groups, d_model]``.

    Only the neurons that occur are multiplied with, so that single ones do not cost a layer each.
    """
    used, where = torch.unique(torch.tensor([n for g in groups for n in g]), return_inverse=True)
    owner = torch.repeat_interleave(torch.tensor([len(group) for group in groups]))
    member = torch.zeros(len(groups), len(used)).index_put((owner, where), torch.tensor(1.0))
    used, member = used.to(vectors.device), member.to(vectors)
    moved = (instead[used] - found["activations"].to(vectors)[:, used])[:, None] * member
    change = moved @ vectors[used]
    _, post = modules_of(model, block, layer)
    if post is not None:
        like = next(post.parameters(), change)
        written = found["written"].to(like)[:, None]
        with torch.no_grad():
            change = (post(written + change.to(like)) - post(written)).to(vectors)
    return block.factor * change.to(found["stream"])


def _branch(model, tokens, layer, change, prompts, beginning):
    """The last layer's streams ``[batch, groups, d_model]`` when one below it is changed."""
    layers = [layer] * change.shape[1]
    found = read_siblings(model, prompts, tokens, layers, change, beginning, keep=True)
    return found["residuals"].float()


def _push(model, tokens, layer, change, prompts, beginning):
    """The same by a pass for each group, in models whose prompts cannot branch."""
    pushes = (Push(layer, change[:, group]) for group in range(change.shape[1]))
    last = [model.n_layers]
    runs = [read_batch(model, prompts, tokens, last, beginning, push) for push in pushes]
    return torch.stack([run["residuals"][0] for run in runs], dim=1).float()


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
