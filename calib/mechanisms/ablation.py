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
from calib.mechanisms.neurons import modules_of, neuron_block, output_vectors, read_neurons
from calib.mechanisms.unembedding import readout_of
from calib.metrics.inputs import softmax
from calib.models.model import Model
from calib.reading._forward import Push, read_streams
from calib.reading._run import Run
from calib.reading._tree_attention import MOST, can_branch, chunks, read_tree

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
    shots, exemplars, batch_tokens
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
    vectors = output_vectors(model, block, layer)
    instead, groups = _check(instead, groups, len(vectors))
    run = Run.prepare(model, questions, shots, exemplars)
    step = min(len(groups), MOST, max(batch_tokens - len(run.longest), 1))
    batches, readout = run.plan(batch_tokens, beside=step), readout_of(model, run.tokens)
    change_of = partial(_changes, model, block, layer, vectors, instead.to(vectors))
    after = _propagation(model, run, layer)

    def forward(part):
        found = read_neurons(model, block, layer, part.prompts, part.prefix)
        some = (change_of(found, groups) for groups in chunks(groups, step))
        return _read_ablated(readout, found["stream"], some, partial(after, part))

    found = run.through(batches, forward)
    ways = found["total"].swapaxes(0, 1), found["direct"].swapaxes(0, 1), found["intact"]
    return Ablation(groups, *map(run.without_absent, ways), run.labels)


def _read_ablated(readout, stream, changes, after):
    """Logits ``[batch, groups, options]``, and ``[batch, options]`` intact, of changed streams."""
    home, total, direct = readout.rows.device, [], []
    last = after(stream, torch.zeros(len(stream), 1, stream.shape[1])).to(home)  # intact
    frozen = readout.lengths(last)  # [batch, 1]
    for change in changes:
        ablated = after(stream, change).to(home)
        total.append(readout.logits(ablated))
        direct.append(readout.logits(ablated, frozen))
    return {
        "total": torch.cat(total, dim=1),
        "direct": torch.cat(direct, dim=1),
        "intact": readout.logits(last)[:, 0],
    }


def _propagation(model, run, layer):
    """How the last layer's streams ``[batch, groups, d_model]`` are had when a layer is changed."""
    if layer == model.n_layers:
        return lambda part, stream, change: stream[:, None] + change.to(stream)
    branches = can_branch(model, run.longest)
    return partial(_branch if branches else _push, model, run.tokens, layer)


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


def _branch(model, tokens, layer, part, stream, change):
    """In one pass, each group a branch."""
    layers = [layer] * change.shape[1]
    found = read_tree(model, part.prompts, tokens, layers, change, part.prefix, keep=True)
    return found["residuals"].float()


def _push(model, tokens, layer, part, stream, change):
    """By a pass for each group, in models whose prompts cannot branch."""
    last, runs = model.n_layers, []
    for group in range(change.shape[1]):
        push = Push(layer, change[:, group])
        run = read_streams(model, part.prompts, tokens, [last], part.prefix, push)
        runs.append(run[f"residuals.{last}"])
    return torch.stack(runs, dim=1).float()


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
