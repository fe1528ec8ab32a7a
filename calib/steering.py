"""Steering along a direction: choose the strength on one split, judge it once on another.

Strength is in units of the layer's median residual length. It is chosen on the calibration split by
one stated rule: of the strengths that keep accuracy within .005 of the unsteered model's, the one
of lowest NLL. What it does is then told on the test split, beside the unsteered model, with
intervals of the differences from resamples that all share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset

from calib import metrics
from calib.arrays import softmax
from calib.branches import check_branch, read_branches
from calib.comparison import Comparison, compare
from calib.directions import Direction
from calib.models import Model
from calib.reading import Reading, read_layers
from calib.tracing import Push

STRENGTHS = tuple(np.linspace(-2, 2, 21).round(1).tolist())
TOLERANCE = 0.005  # of accuracy, on the calibration split


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
        Of :func:`calib.reading.read_layers`.

    Returns
    -------
    Reading
        Below the direction's layer as without steering.

    Raises
    ------
    ValueError
        If the direction is not one of this model's or the strength not finite, and as
        :func:`calib.reading.read_layers`.

    Examples
    --------
    >>> from calib import load_questions, open_model, read_layers
    >>> from calib.directions import random_direction
    >>> model, questions = open_model("almanac"), load_questions("almanac", limit=5)
    >>> direction = random_direction(read_layers(model, questions, keep_residuals=[6]), 6, seed=0)
    >>> steer(model, questions, direction, 1.5).logits.shape
    (5, 9, 4)
    """
    check_branch(model, direction, strength)
    vector = torch.tensor(direction.push(strength), dtype=torch.float32)
    return read_layers(model, questions, push=Push(direction.layer, vector, everywhere), **settings)


@dataclass(frozen=True)
class Sweep:
    """Directions at many strengths, read on one split.

    Attributes
    ----------
    directions : tuple of Direction
    strengths : tuple of float
        0 among them.
    logits : float32 array ``[directions, strengths, questions, options]``
    labels : int64 array ``[questions]``
    """

    directions: tuple[Direction, ...]
    strengths: tuple[float, ...]
    logits: np.ndarray
    labels: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """Float64, of the shape of the logits."""
        return softmax(self.logits)

    def choose(self, tolerance: float = TOLERANCE) -> list[float]:
        """The strength of lowest NLL for each direction, accuracy staying within a tolerance.

        Accuracy is compared with that at strength 0, which is always allowed.
        """
        accuracy = metrics.accuracy(self.probabilities, self.labels)  # [directions, strengths]
        nll = metrics.nll(self.probabilities, self.labels)
        unsteered = accuracy[:, [self.strengths.index(0)]]
        # The differences are multiples of 1 / questions: rounding must not decide.
        allowed = np.abs(accuracy - unsteered) <= tolerance + 1e-9
        best = np.where(allowed, nll, np.inf).argmin(axis=1)
        return [self.strengths[i] for i in best]


def sweep(model: Model, questions: Dataset, directions, strengths=STRENGTHS, **settings) -> Sweep:
    """Read the model on every direction at every strength.

    Parameters
    ----------
    directions : sequence of Direction
    strengths : sequence of float
        In units of each direction's scale; 0 must be among them.
    **settings
        Of :func:`calib.branches.read_branches`.

    Raises
    ------
    ValueError
        If 0 is not among the strengths, and as :func:`calib.branches.read_branches`.

    Examples
    --------
    >>> from calib import load_questions, open_model, read_layers
    >>> from calib.directions import random_direction
    >>> model, questions = open_model("almanac-tuned"), load_questions("almanac", limit=50)
    >>> direction = random_direction(read_layers(model, questions, keep_residuals=[6]), 6, seed=0)
    >>> sweep(model, questions, [direction], strengths=(-1, 0, 1)).logits.shape
    (1, 3, 50, 4)
    """
    directions, strengths = tuple(directions), tuple(float(s) for s in strengths)
    if 0 not in strengths:
        raise ValueError(
            f"the strengths {strengths} do not have 0 among them, the unsteered model that the "
            "others are compared with; add it"
        )
    branches = [(direction, s) for direction in directions for s in strengths]
    logits = read_branches(model, questions, branches, **settings)
    logits = logits.reshape(len(directions), len(strengths), *logits.shape[1:])
    return Sweep(directions, strengths, logits, np.array(questions["answer"]))


@dataclass(frozen=True)
class Trial:
    """Directions whose strengths were chosen on the calibration split, judged on the test split.

    Attributes
    ----------
    chosen : tuple of (Direction, float)
        Each direction with its strength.
    sweep : Sweep
        What the strengths were chosen from.
    logits : float32 array ``[directions, questions, options]``
        On the test split.
    comparison : Comparison
        With the unsteered model, on the test split.
    """

    chosen: tuple[tuple[Direction, float], ...]
    sweep: Sweep
    logits: np.ndarray
    comparison: Comparison


def try_directions(
    model: Model,
    directions: dict[str, Direction],
    calibration: Dataset,
    test: Dataset,
    *,
    strengths=STRENGTHS,
    tolerance: float = TOLERANCE,
    **settings,
) -> Trial:
    """Choose each direction's strength on the calibration split, judge it on the test split.

    Parameters
    ----------
    directions : dict of str to Direction
        By the name they have in the comparison; fitted on the calibration split or elsewhere, but
        not on the test split.
    calibration, test : datasets.Dataset
        Without a question in common.
    strengths, tolerance
        Of :func:`sweep` and :meth:`Sweep.choose`.
    **settings
        Of :func:`calib.branches.read_branches`.

    Raises
    ------
    ValueError
        If the splits share a question, and as :func:`sweep`.

    Examples
    --------
    >>> from calib import load_questions, open_model, read_layers
    >>> from calib.directions import confidence_regression
    >>> model = open_model("almanac-tuned")
    >>> calibration = load_questions("almanac", "validation", limit=200)
    >>> reading = read_layers(model, calibration, keep_residuals=[4])
    >>> candidates = {"regression": confidence_regression(reading, 4)}
    >>> trial = try_directions(model, candidates, calibration, load_questions("almanac", limit=200))
    >>> list(trial.comparison.table.index)
    ['unsteered', 'regression']
    """
    check_disjoint(calibration, test)
    swept = sweep(model, calibration, directions.values(), strengths, **settings)
    chosen = tuple(zip(swept.directions, swept.choose(tolerance), strict=True))
    unsteered = (swept.directions[0], 0.0)
    logits = read_branches(model, test, [unsteered, *chosen], **settings)
    rows = dict(zip(["unsteered", *directions], softmax(logits), strict=True))
    posterior = np.array(test["posterior"]) if "posterior" in test.features else None
    comparison = compare(rows, np.array(test["answer"]), "unsteered", posterior)
    return Trial(chosen, swept, logits[1:], comparison)


def check_disjoint(calibration: Dataset, test: Dataset) -> None:
    """Refuse splits that share a question: its text and its options in their order.

    Raises
    ------
    ValueError
        Naming how many they share, and the first.
    """
    seen = {(row["question"], tuple(row["choices"])) for row in calibration}
    shared = [i for i, r in enumerate(test) if (r["question"], tuple(r["choices"])) in seen]
    if shared:
        raise ValueError(
            f"{len(shared)} questions of the test split stand in the calibration split too, first "
            f"question {shared[0]} ({test[shared[0]]['question']!r:.60}); nothing may be judged on "
            "what it was fitted on: leave them out of one of the two"
        )
