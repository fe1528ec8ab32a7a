"""What a model says when its residual stream is pushed: layer by layer, or on many branches."""

from __future__ import annotations

import numpy as np
import torch
from datasets import Dataset

from calib._checks import check_real
from calib.models.model import Model
from calib.reading._forward import Push, read_streams, try_pushes
from calib.reading._provenance import digest_of
from calib.reading._run import Run, check_model
from calib.reading._tree_attention import at_once, chunks, read_tree
from calib.reading.layers import read_layers
from calib.reading.reading import Reading
from calib.steering.directions import Direction

LONGEST = 1e18  # float32 and bfloat16 reach to 3e38


def steer(
    model: Model,
    questions: Dataset,
    direction: Direction,
    strength: float,
    *,
    everywhere: bool = False,
    **settings,
) -> Reading:
    """Read every layer of a model that is steered along a direction.

    Parameters
    ----------
    strength : float
        In units of ``direction.scale``; 0 changes nothing.
    everywhere : bool
        Push every position instead of the answer position alone.
    **settings
        Of :func:`calib.read_layers`.

    Returns
    -------
    Reading
        Below the direction's layer as without steering.

    Raises
    ------
    ValueError
        If the direction is not one of this model's or the strength not finite, and as
        :func:`calib.read_layers`.

    Examples
    --------
    >>> from calib import load_questions, open_model, read_layers
    >>> from calib.steering import random_direction
    >>> model, questions = open_model("almanac"), load_questions("almanac", limit=5)
    >>> direction = random_direction(read_layers(model, questions, keep_residuals=[6]), 6, seed=0)
    >>> steer(model, questions, direction, 1.5).logits.shape
    (5, 9, 4)
    """
    check_branch(model, direction, strength)
    vector = torch.tensor(direction.push(strength), dtype=torch.float32)
    return read_layers(model, questions, push=Push(direction.layer, vector, everywhere), **settings)


def read_branches(
    model: Model,
    questions: Dataset,
    branches: list[tuple[Direction, float]],
    *,
    everywhere: bool = False,
    shots: int = 0,
    exemplars: Dataset | None = None,
    chat: bool = False,
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
    shots, exemplars, chat, batch_tokens, resume
        As in :func:`calib.read_layers`.

    Returns
    -------
    float32 array ``[branches, questions, options]``
        Option logits at the last layer, in the order of ``branches``.

    Raises
    ------
    ValueError
        If there are no branches, a direction is not one of this model's, a strength is not finite,
        or so large that the logits are not; and as :func:`calib.read_layers`.

    Notes
    -----
    Models in which a token cannot be given a position (ALiBi), whose layers do more than attend, or
    whose sliding window is shorter than a prompt, take a pass for each branch here too.

    Examples
    --------
    >>> from calib import load_questions, open_model, read_layers
    >>> from calib.steering import random_direction
    >>> model, questions = open_model("almanac"), load_questions("almanac", limit=5)
    >>> direction = random_direction(read_layers(model, questions, keep_residuals=[6]), 6, seed=0)
    >>> read_branches(model, questions, [(direction, 0), (direction, 1.5)]).shape
    (2, 5, 4)
    """
    branches = list(branches)
    for branch in branches:
        if not isinstance(branch, tuple | list) or len(branch) != 2:
            raise TypeError(f"a branch is {branch!r:.60}; it must be (direction, strength)")
        check_branch(model, *branch)
    if not branches:
        raise ValueError("there are no branches to read; give at least one (direction, strength)")
    order = np.argsort([direction.layer for direction, _ in branches], kind="stable")
    branches = [branches[i] for i in order]
    layers = [direction.layer for direction, _ in branches]
    vectors = np.array([direction.push(strength) for direction, strength in branches])
    vectors = torch.tensor(vectors, dtype=torch.float32)

    run = Run.prepare(model, questions, shots, exemplars, chat=chat)
    step = 0 if everywhere else at_once(model, run.longest, len(branches), batch_tokens)
    batches = run.plan(batch_tokens, share=not everywhere, beside=step)
    try_pushes(model)

    def forward(part):
        if step:
            parts = [
                read_tree(model, part.prompts, run.tokens, *some, part.prefix)["logits"]
                for some in zip(chunks(layers, step), vectors.split(step), strict=True)
            ]
            logits = torch.cat(parts, dim=1)
        else:
            pushes = (Push(*push, everywhere) for push in zip(layers, vectors, strict=True))
            runs = [
                read_streams(model, part.prompts, run.tokens, (), part.prefix, push)["logits"]
                for push in pushes
            ]
            logits = torch.stack([logits[:, -1] for logits in runs], dim=1)
        _check_finite(logits, branches)
        return {"logits": logits}

    settings = {"branches": digest_of([*vectors.numpy(), np.array(layers)])}
    settings |= {"everywhere": everywhere, "batch_tokens": batch_tokens}
    found = run.through(batches, forward, resume=resume, settings=run.provenance() | settings)
    logits = np.empty((len(branches), len(run.prompts), len(run.tokens)), dtype=np.float32)
    logits[order] = found["logits"].swapaxes(0, 1)
    return run.without_absent(logits)


def _check_finite(logits, branches) -> None:
    """Refuse logits ``[batch, branches, options]`` that overflowed."""
    wrong = (~logits.isfinite()).any(dim=2).any(dim=0).nonzero()[:, 0].tolist()
    if wrong:
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
    check_model(model)
    if not isinstance(direction, Direction):
        raise TypeError(f"the direction is {direction!r:.60}; make_direction makes one")
    check_real("strength", strength)
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
