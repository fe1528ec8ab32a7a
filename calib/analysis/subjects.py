"""A reading by category and by subject, and the ECE that chance alone shows on as many questions.

ECE is biased upwards, the more so the fewer the questions. Beside the ECE of a subject therefore
stands the one that the same confidences would show if they were right.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from calib.metrics import Interval, accuracy, ece, mean_confidence, wilson
from calib.metrics.arrays import as_reals
from calib.metrics.bins import bin_index, ece_of
from calib.questions.mmlu import CATEGORIES
from calib.reading.reading import Reading


def by_category(reading: Reading) -> dict[str, Reading]:
    """The reading's questions split by MMLU's categories, in MMLU's order; empty ones left out.

    Raises
    ------
    ValueError
        If a subject belongs to none of them.

    Examples
    --------
    >>> subjects = np.array(["virology", "astronomy", "machine_learning"])
    >>> reading = Reading(np.zeros((3, 2, 4)), np.array([0, 1, 2]), subjects)
    >>> {category: len(part) for category, part in by_category(reading).items()}
    {'STEM': 2, 'other': 1}
    """
    found = reading.categories
    return {c: reading.select(found == c) for c in CATEGORIES if (found == c).any()}


def by_subject(reading: Reading, *, n_bins: int = 10, seed: int = 0) -> pd.DataFrame:
    """The last layer's scores by subject, in the order of the alphabet.

    Parameters
    ----------
    reading : Reading
    n_bins : int
        Equal-width bins of ECE.
    seed : int
        Of the draws of :func:`calibrated_ece`.

    Returns
    -------
    pandas.DataFrame
        One row per subject, and a last one, ``all subjects``; ``questions``, ``accuracy`` with its
        Wilson interval, ``confidence`` (mean), ``ece`` and ``calibrated_ece``.

    Examples
    --------
    >>> reading = Reading(np.zeros((3, 1, 4)), np.array([0, 0, 1]), np.array(["law", "law", "art"]))
    >>> by_subject(reading)["accuracy"].round(3).to_dict()
    {'art': 0.0, 'law': 1.0, 'all subjects': 0.667}
    """
    p, labels = reading.probabilities[-1], reading.labels
    rng = np.random.default_rng(seed)
    groups = {str(s): reading.subjects == s for s in np.unique(reading.subjects)}
    groups["all subjects"] = np.full(len(reading), True)
    rows = {}
    for name, group in groups.items():
        share, count = accuracy(p[group], labels[group]), int(group.sum())
        rows[name] = {
            "questions": count,
            **Interval(share, *map(float, wilson(share, count))).columns("accuracy"),
            "confidence": mean_confidence(p[group], labels[group]),
            "ece": ece(p[group], labels[group], n_bins),
            "calibrated_ece": calibrated_ece(p[group].max(axis=-1), n_bins=n_bins, seed=rng),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("subject")


def calibrated_ece(
    confidence, *, n_bins: int = 10, binning: str = "equal-width", n_draws: int = 200, seed=0
) -> float:
    """ECE to expect of a perfectly calibrated model on as many questions of these confidences.

    Labels are drawn from the model's own probabilities, which makes an answer right with the
    probability that its confidence says.

    Parameters
    ----------
    confidence : array_like ``[questions]``
        0 to 1.
    n_bins, binning
        As :func:`calib.metrics.ece` takes them.
    n_draws : int
        Drawn sets of labels whose ECE is averaged.
    seed : int or numpy.random.Generator

    Returns
    -------
    float
        0 to 1; towards 0 as the questions grow in number.

    Examples
    --------
    >>> [round(calibrated_ece(np.full(n, 0.8)), 2) for n in (10, 1000)]
    [0.1, 0.01]
    """
    confidence = as_reals("confidences", confidence, "[questions]")
    in_bin = bin_index(confidence, n_bins, binning)[:, None] == np.arange(
        n_bins
    )  # [questions, bins]
    draws = np.random.default_rng(seed).random((n_draws, len(confidence))) < confidence
    gap = (confidence - draws) @ in_bin  # [draws, bins]
    return float(ece_of(in_bin.sum(axis=0), gap).mean())
