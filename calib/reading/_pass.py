"""One batch through the model: its prefix, the pass that the caller hands in, what comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from calib.models.model import Model
from calib.models.place import memory_for
from calib.reading._batches import Batch
from calib.reading._prefix import run_prefix


class Part(NamedTuple):
    """What a pass is given: the prompts of one batch.

    Attributes
    ----------
    rows : list of int
        Their places among all prompts.
    prompts : list of int array ``[tokens]``
        Token ids; with a prefix, what follows it.
    prefix : transformers Cache or None
        Keys and values of what all of them begin with.
    """

    rows: list[int]
    prompts: list[np.ndarray]
    prefix: Any


# From a batch to tensors, or arrays of numbers, ``[batch, ...]`` by name.
Pass = Callable[[Part], dict[str, Any]]


def one_by_one(model: Model, prompts, batches: list[Batch], forward: Pass, resume=None):
    """A function from a batch's number to its arrays; what batches share is run once for them.

    Its second argument, arrays of a batch before it or none yet, is what they must be like. It
    raises ValueError where they are not or are not finite, and torch.OutOfMemoryError that says
    what would fit.
    """
    prefix, ids = None, ()

    def run_one(number: int, like: dict) -> dict[str, np.ndarray]:
        nonlocal prefix, ids
        batch = batches[number]
        rows, shared = list(batch.rows), batch.shared
        with memory_for(*_told(model, batch, resume)):
            if shared and not np.array_equal(ids, prompts[rows[0]][:shared]):
                prefix, ids = None, prompts[rows[0]][:shared]  # free the last one first
                prefix = run_prefix(model, [ids])
            rest = [prompts[i][shared:] for i in rows]
            found = forward(Part(rows, rest, prefix if shared else None))
            found = {name: as_array(some) for name, some in found.items()}
        check_batch(found, rows, like)
        return found

    return run_one


def _told(model, batch, resume) -> tuple[str, str]:
    """What to say of a batch that does not fit into memory."""
    n, smallest = len(batch.rows), batch.room // len(batch.rows)
    way_out = f"use batch_tokens={max(batch.room // 2, smallest)} or fewer"
    if n == 1:
        way_out = (
            "ask for fewer shots, samples, branches or neurons, or leave out the longest prompt"
        )
    if model.device.type != "cpu":
        way_out += ', or open the model with dtype=torch.bfloat16 or device="auto"'
    if resume is not None:
        way_out += f". The finished batches stay in {resume}, for the same settings"
    return f"a batch of {n} prompts, {batch.room} tokens, on {model.device}", way_out


def as_array(some) -> np.ndarray:
    """A tensor as an array, of float32 whatever the model computes in; an array as it is."""
    return some.float().cpu().numpy() if isinstance(some, torch.Tensor) else some


def check_batch(found: dict, rows, results: dict) -> None:
    """Refuse arrays that are not those of these questions, or not finite; ``results`` so far."""
    shapes = {name: array.shape for name, array in found.items()}
    wanted = {name: (len(rows), *array.shape[1:]) for name, array in (results or found).items()}
    if not found or shapes != wanted:
        raise ValueError(f"a batch came back with the arrays {shapes}; they must be {wanted}")
    for name, array in found.items():
        if not (finite := np.isfinite(array).reshape(len(rows), -1).all(axis=1)).all():
            at = int(finite.argmin())
            raise ValueError(
                f"{name} of question {rows[at]} are not finite: the model overflows; open it with "
                "dtype=torch.float32 or torch.bfloat16, or use smaller pushes"
            )
