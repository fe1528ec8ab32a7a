"""What ablated neurons change in the stream after their block, and what follows from it."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch

from calib.reading._forward import Push, read_streams, try_pushes
from calib.reading._tree_attention import can_branch, read_tree


class Change(NamedTuple):
    """What ablating each group changes in the stream: so much of each vector of a basis.

    ``amounts [batch, groups, n]`` and ``basis [n, d_model]``, or none, and the amounts are
    ``[batch, groups, d_model]`` themselves.
    """

    amounts: torch.Tensor
    basis: torch.Tensor | None

    @property
    def vectors(self) -> torch.Tensor:
        return self.amounts if self.basis is None else self.amounts @ self.basis


def read_ablated(readout, stream, changes, after):
    """Logits ``[batch, groups, options]``, and ``[batch, options]`` intact, of changed streams."""
    home, total, direct = readout.rows.device, [], []
    width = stream.shape[1]
    last = after(stream, Change(torch.zeros(len(stream), 1, 1), torch.zeros(1, width)))  # intact
    last = last.to(home)
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


def propagation(model, run, layer):
    """How the last layer's streams ``[batch, groups, d_model]`` are had when a layer is changed."""
    if layer == model.n_layers:
        return lambda part, stream, change: stream[:, None] + change.vectors.to(stream)
    try_pushes(model)
    branches = can_branch(model, run.longest)
    return partial(_branch if branches else _push, model, run.tokens, layer)


def change_of(vectors, post, factor, instead, found, groups) -> Change:
    """What ablating each group changes, of groups as places among the neurons that are read.

    Their output ``vectors [n, d_model]`` may go through a norm after the MLP, and are added by a
    ``factor``; ``instead [n]`` takes the place of what they say. Only the neurons that occur are
    multiplied with, so that single ones do not cost a layer each.
    """
    used, where = torch.unique(torch.tensor([n for g in groups for n in g]), return_inverse=True)
    owner = torch.repeat_interleave(torch.tensor([len(group) for group in groups]))
    member = torch.zeros(len(groups), len(used)).index_put((owner, where), torch.tensor(1.0))
    used, member = used.to(vectors.device), member.to(vectors)
    amounts = (instead[used] - found["activations"].to(vectors)[:, used])[:, None] * member
    if post is None:
        return Change(amounts, factor * vectors[used])
    written = found["written"].to(vectors)[:, None]
    return Change(factor * (post(written + amounts @ vectors[used]) - post(written)), None)


def _branch(model, tokens, layer, part, stream, change):
    """In one pass, each group a branch."""
    amounts, basis = change
    layers = [layer] * amounts.shape[1]
    found = read_tree(
        model, part.prompts, tokens, layers, amounts, part.prefix, keep=True, basis=basis
    )
    return found["residuals"].float()


def _push(model, tokens, layer, part, stream, change):
    """By a pass for each group, in models whose prompts cannot branch."""
    last, runs, vectors = model.n_layers, [], change.vectors
    for group in range(vectors.shape[1]):
        push = Push(layer, vectors[:, group])
        run = read_streams(model, part.prompts, tokens, [last], part.prefix, push)
        runs.append(run[f"residuals.{last}"])
    return torch.stack(runs, dim=1).float()
