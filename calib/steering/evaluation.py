"""Candidate directions evaluated: fitted and chosen on one split, judged once on another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

from calib.analysis.comparison import Comparison, compare
from calib.metrics.inputs import softmax
from calib.models.model import Model
from calib.questions import check_questions
from calib.reading._fields import posterior_of
from calib.steering.directions import Direction
from calib.steering.interventions import read_branches
from calib.steering.sweeps import STRENGTHS, TOLERANCE, Sweep, sweep


@dataclass(frozen=True)
class Evaluation:
    """Directions whose strengths were chosen on the calibration split, judged on the test split.

    Attributes
    ----------
    chosen : dict of str to (Direction, float)
        Each candidate's direction and strength.
    sweep : Sweep
        What they were chosen from.
    logits : dict of str to float32 array ``[questions, options]``
        Of every candidate and ``"unsteered"``, on the test split.
    comparison : Comparison
        With the unsteered model, on the test split.
    """

    chosen: dict[str, tuple[Direction, float]]
    sweep: Sweep
    logits: dict[str, np.ndarray]
    comparison: Comparison


def try_directions(
    model: Model,
    candidates: dict[str, Direction | list[Direction]],
    calibration: Dataset,
    test: Dataset,
    *,
    strengths=STRENGTHS,
    tolerance: float = TOLERANCE,
    **settings,
) -> Evaluation:
    """Choose each candidate's strength on the calibration split, judge it on the test split.

    Parameters
    ----------
    candidates : dict of str to Direction, or to list of Direction
        By the name they have in the comparison; fitted on the calibration split or elsewhere, but
        not on the test split. Of a list, such as one per layer, the direction is chosen with the
        strength, by the same rule.
    calibration, test : datasets.Dataset
        Without a question in common.
    strengths, tolerance
        As in :func:`sweep` and :meth:`Sweep.choose`.
    **settings
        Of :func:`calib.read_branches`; in a ``resume`` folder, each split has its own.

    Raises
    ------
    ValueError
        If the splits share a question, a candidate is called ``"unsteered"``, and as
        :func:`sweep`.

    Examples
    --------
    >>> from calib import load_questions, open_model, read_layers
    >>> from calib.steering import confidence_regression
    >>> model = open_model("almanac-tuned")
    >>> calibration = load_questions("almanac", "validation", limit=200)
    >>> reading = read_layers(model, calibration, keep_residuals=[4])
    >>> candidates = {"regression": confidence_regression(reading, 4)}
    >>> test = load_questions("almanac", limit=200)
    >>> evaluation = try_directions(model, candidates, calibration, test)
    >>> list(evaluation.comparison.table.index)
    ['unsteered', 'regression']
    """
    calibration, test = check_questions(calibration), check_questions(test)
    check_disjoint(calibration, test)
    if "unsteered" in candidates:
        raise ValueError("a candidate is called 'unsteered', as the model without it; rename it")
    resume = settings.pop("resume", None)
    on_calibration, on_test = (
        settings | {"resume": None if resume is None else Path(resume) / split}
        for split in ("calibration", "test")
    )
    lists = {n: [c] if isinstance(c, Direction) else list(c) for n, c in candidates.items()}
    if not lists or not all(lists.values()):
        raise ValueError(
            f"the candidates {list(lists)} must be at least one, with at least one direction each"
        )
    flat = [direction for several in lists.values() for direction in several]
    swept = sweep(model, calibration, flat, strengths, **on_calibration)
    chosen, start = {}, 0
    for name, several in lists.items():
        chosen[name] = swept.choose(slice(start, start + len(several)), tolerance)
        start += len(several)
    logits = read_branches(model, test, [(flat[0], 0.0), *chosen.values()], **on_test)
    logits = dict(zip(["unsteered", *lists], logits, strict=True))
    ways = {name: softmax(some) for name, some in logits.items()}
    comparison = compare(ways, np.array(test["answer"]), "unsteered", posterior_of(test))
    return Evaluation(chosen, swept, logits, comparison)


def check_disjoint(calibration: Dataset, test: Dataset) -> None:
    """Refuse splits that share a question: its text and its options in their order.

    Raises
    ------
    ValueError
        Naming how many they share, and the first.

    Examples
    --------
    >>> from calib import load_questions
    >>> splits = (load_questions("almanac", split, limit=50) for split in ("validation", "test"))
    >>> check_disjoint(*splits)  # says nothing
    """
    seen = {(row["question"], tuple(row["choices"])) for row in calibration}
    shared = [i for i, r in enumerate(test) if (r["question"], tuple(r["choices"])) in seen]
    if shared:
        raise ValueError(
            f"{len(shared)} questions of the test split stand in the calibration split too, first "
            f"question {shared[0]} ({test[shared[0]]['question']!r:.60}); nothing may be judged on "
            "what it was fitted on: leave them out of one of the two"
        )
