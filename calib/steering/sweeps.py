"""Sweeps over strengths of a push, and the rule by which one of them is chosen.

Strength is in units of the layer's median residual length. It is chosen by one stated rule: of the
strengths that keep accuracy within .005 of the unsteered model's, the one of lowest NLL.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from calib import metrics
from calib.metrics.inputs import softmax
from calib.models.model import Model
from calib.questions import check_questions
from calib.steering.directions import Direction
from calib.steering.interventions import read_branches

STRENGTHS = tuple(np.linspace(-2, 2, 21).round(1).tolist())
TOLERANCE = 0.005  # of accuracy, on the calibration split


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

    def choose(
        self, among: slice = slice(None), tolerance: float = TOLERANCE
    ) -> tuple[Direction, float]:
        """The direction and strength of lowest NLL whose accuracy stays within a tolerance.

        Accuracy is compared with that at strength 0, which is always allowed.

        Parameters
        ----------
        among : slice
            Of the directions.
        tolerance : float
            How far accuracy may move, 0 to 1.
        """
        p = self.probabilities[among]
        accuracy = metrics.accuracy(p, self.labels)  # [directions, strengths]
        unsteered = accuracy[:, [self.strengths.index(0)]]
        # The differences are multiples of 1 / questions: rounding must not decide.
        allowed = np.abs(accuracy - unsteered) <= tolerance + 1e-9
        nll = np.where(allowed, metrics.nll(p, self.labels), np.inf)
        direction, strength = np.unravel_index(nll.argmin(), nll.shape)
        return self.directions[among][direction], self.strengths[strength]


def sweep(model: Model, questions: Dataset, directions, strengths=STRENGTHS, **settings) -> Sweep:
    """Read the model on every direction at every strength.

    Parameters
    ----------
    directions : sequence of Direction
    strengths : sequence of float
        In units of each direction's scale; 0 must be among them.
    **settings
        Of :func:`calib.read_branches`.

    Raises
    ------
    ValueError
        If 0 is not among the strengths, and as :func:`calib.read_branches`.

    Examples
    --------
    >>> from calib import load_questions, open_model, read_layers
    >>> from calib.steering import random_direction
    >>> model, questions = open_model("almanac-tuned"), load_questions("almanac", limit=50)
    >>> direction = random_direction(read_layers(model, questions, keep_residuals=[6]), 6, seed=0)
    >>> sweep(model, questions, [direction], strengths=(-1, 0, 1)).logits.shape
    (1, 3, 50, 4)
    """
    questions = check_questions(questions)
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
