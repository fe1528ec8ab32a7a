"""What a model would have said, had its residual stream been pushed: branches, many at once."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from datasets import Dataset

from calib.models.open import Model
from calib.questions.prompts import prepare
from calib.reading._batches import plan_batches
from calib.reading._forward import Push, can_share, read_batch, read_batches
from calib.reading._provenance import digest_of, origin_of
from calib.reading._tree_attention import can_branch, read_siblings
from calib.reading.reading import open_shards
from calib.steering.directions import Direction

MOST = 512  # branches a pass; beyond, their attention mask outgrows what sharing the prompt saves
LONGEST = 1e18  # float32 and bfloat16 reach to 3e38


def read_branches(
    model: Model,
    questions: Dataset,
    branches: list[tuple[Direction, float]],
    *,
    everywhere: bool = False,
    shots: int = 0,
    exemplars: Dataset | None = None,
    batch_tokens: int = 8192,
    resume=None,
) -> np.ndarray:
    """What the model answers to each question on every branch.

    Parameters
    ----------
    branches : list of (Direction, float)
        A direction, whose layer is where to push, and a strength, in units of the direction's
        scale; 0 gives what the model says unpushed.
    everywhere : bool
        Push every position instead of the answer position alone. Positions then change what later
        ones see, so that nothing can be shared: each branch costs a pass of its own.
    shots, exemplars, batch_tokens, resume
        As in :func:`calib.reading.reading.read_layers`.

    Returns
    -------
    float32 array ``[branches, questions, options]``
        Option logits at the last layer, in the order of ``branches``.

    Raises
    ------
    ValueError
        If there are no branches, a direction is not one of this model's, a strength is not finite,
        or so large that the logits are not; and as :func:`calib.reading.reading.read_layers`.

    Notes
    -----
    Models in which a token cannot be given a position (ALiBi), whose layers do more than attend, or
    whose sliding window is shorter than a prompt, take a pass for each branch here too.

    Examples
    --------
    >>> from calib import load_questions, open_model, read_layers
    >>> from calib.steering.directions import random_direction
    >>> model, questions = open_model("almanac"), load_questions("almanac", limit=5)
    >>> direction = random_direction(read_layers(model, questions, keep_residuals=[6]), 6, seed=0)
    >>> read_branches(model, questions, [(direction, 0), (direction, 1.5)]).shape
    (2, 5, 4)
    """
    for direction, strength in branches:
        check_branch(model, direction, strength)
    if not branches:
        raise ValueError("there are no branches to read; give at least one (direction, strength)")
    order = np.argsort([direction.layer for direction, _ in branches], kind="stable")
    layers = [branches[i][0].layer for i in order]
    vectors = np.array([branches[i][0].push(branches[i][1]) for i in order])
    vectors = torch.tensor(vectors, dtype=torch.float32)

    tokens, prompts = prepare(model.tokenizer, questions, shots, exemplars)
    longest = max(prompts, key=len)
    room = batch_tokens - len(longest)
    step = min(len(branches), MOST, room)
    if everywhere or step < 1 or len(longest) > model.context or not can_branch(model, longest):
        step = 0  # a pass for each branch
    share = shots > 0 and not everywhere and can_share(model)
    subjects = questions["subject"]
    batches = plan_batches(prompts, subjects, batch_tokens, model.context, share, beside=step)
    settings = {"branches": digest_of([*vectors.numpy(), np.array(layers)])}
    settings |= {"everywhere": everywhere, "batch_tokens": batch_tokens}
    origin = origin_of(model, questions, shots, tokens)
    shards = open_shards(resume, origin | settings, prompts, batches)

    if step:
        read = partial(_read_together, model, tokens, layers, vectors, step)
    else:
        pushes = [Push(*push, everywhere) for push in zip(layers, vectors, strict=True)]
        read = partial(_read_one_by_one, model, tokens, pushes)
    logits = np.empty((len(branches), len(prompts), len(tokens)), dtype=np.float32)
    for rows, found in read_batches(model, prompts, batches, read, shards):
        logits[np.ix_(order, rows)] = found["logits"].transpose(1, 0, 2)
        _check_finite(logits[:, rows], branches)
    return logits


def _read_together(model, tokens, layers, vectors, step, prompts, beginning=None):
    parts = []
    for i in range(0, len(layers), step):
        some = layers[i : i + step], vectors[i : i + step]
        parts.append(read_siblings(model, prompts, tokens, *some, beginning)["logits"])
    return {"logits": torch.cat(parts, dim=1)}


def _read_one_by_one(model, tokens, pushes, prompts, beginning=None):
    runs = (read_batch(model, prompts, tokens, (), beginning, push)["logits"] for push in pushes)
    return {"logits": torch.stack([logits[:, -1] for logits in runs], dim=1)}


def _check_finite(logits, branches) -> None:
    """Refuse logits ``[branches, batch, options]`` that overflowed."""
    wrong = np.flatnonzero(~np.isfinite(logits).all(axis=(1, 2)))
    if len(wrong):
        # One such branch spoils all of its pass, since no attention times infinity is not nothing:
        # the longest push is the one to name.
        pushes = [branches[i] for i in wrong]
        direction, strength = max(pushes, key=lambda push: np.linalg.norm(push[0].push(push[1])))
        raise ValueError(
            f"{direction.name} at layer {direction.layer} with strength {strength} gives logits "
            "that are not finite; use smaller strengths, or run the model in a wider type"
        )


def check_branch(model: Model, direction: Direction, strength: float) -> None:
    """Refuse a direction that is not one of this model's, and a strength that is not finite."""
    if not 0 <= direction.layer <= model.n_layers:
        raise ValueError(
            f"{direction.name} is at layer {direction.layer}; the layers of {model.name} run from "
            f"0 to {model.n_layers}"
        )
    if direction.vector.shape != (model.d_model,):
        raise ValueError(
            f"{direction.name} has shape {direction.vector.shape}, the residual stream of "
            f"{model.name} has ({model.d_model},); fit the direction on this model"
        )
    length = abs(strength) * direction.scale
    if not length < LONGEST:
        raise ValueError(
            f"the strength of {direction.name} is {strength}; it must be finite, and the push, of "
            f"length {length:.3g}, shorter than {LONGEST:.0e}, whose square a norm can still take"
        )
