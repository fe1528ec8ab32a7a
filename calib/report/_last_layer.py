"""A reading's last layer in numbers: as it is, and at the temperature that suits it best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calib.analysis.subjects import calibrated_ece
from calib.analysis.temperatures import layer_temperatures
from calib.metrics import Interval, bootstrap, ece, resample
from calib.questions.mmlu import CATEGORIES
from calib.reading.reading import Reading
from calib.recalibration.by_layer import recalibrate_layers
from calib.recalibration.temperature import Temperature

METRICS = ("accuracy", "confidence", "gap", "ece", "mce", "nll", "brier", "auroc")
ADAPTIVE = "ece_adaptive"  # ECE over bins of equal mass
ENOUGH = 20  # questions a subject needs for a row of its own


def temper(reading: Reading, seed: int) -> tuple[Reading, tuple[float, float, float]]:
    """The reading at its best temperature, and that temperature with its interval.

    The reading is cross-fitted: each half of the questions, dealt at random, is at the temperature
    of the other half, so that no question is judged by one that has seen its label. The number is
    that of all questions.

    Raises
    ------
    ValueError
        If no temperature can be fitted, as where all answers are right.
    """
    tempered = recalibrate_layers(reading, Temperature(), n_folds=2, seed=seed)
    return tempered, Interval.read(layer_temperatures(reading).iloc[-1], "temperature")


def scores(p, labels, settings: dict) -> dict[str, Interval]:
    """Metrics of probabilities ``[questions, options]``, with bootstrap intervals.

    The same seed draws the same resamples, so that two of them, on the same questions, are paired.
    """
    names = ("n_bins", "min_count", "n_resamples", "seed")
    return bootstrap(p, labels, METRICS, **{name: settings[name] for name in names})


def adaptive_ece(p, labels, settings: dict) -> Interval:
    """ECE over bins of equal mass, on the same resamples; slow, since each has bins of its own."""
    how = {"n_resamples": settings["n_resamples"], "seed": settings["seed"]}
    return resample(lambda p, y: ece(p, y, settings["n_bins"], "equal-mass"), p, labels, **how)


def change(before: Interval, after: Interval) -> Interval:
    """How much a metric changes, from resamples that are the same in both."""
    return Interval.of(after.value - before.value, after.samples - before.samples, 0.95)


def by_chance(p, settings: dict) -> dict[str, float]:
    """ECE, in both kinds of bins, that the same confidences would show if they were right."""
    confidence, n_bins = p.max(axis=-1), settings["n_bins"]
    return {
        name: calibrated_ece(confidence, n_bins=n_bins, binning=bins, seed=settings["seed"])
        for name, bins in (("ece", "equal-width"), (ADAPTIVE, "equal-mass"))
    }


@dataclass(frozen=True)
class Part:
    """Some of the questions: their scores and the ECE of chance, both also at the temperature."""

    n_questions: int
    scores: dict[str, Interval]
    chance: dict[str, float]
    tempered: dict[str, Interval] | None = None
    tempered_chance: dict[str, float] | None = None


def measure(
    reading: Reading, tempered: Reading | None, settings: dict, which: np.ndarray | None = None
) -> Part:
    """The scores of the questions that a mask chooses; of all, with :func:`adaptive_ece`."""
    chosen = slice(None) if which is None else which
    labels = reading.labels[chosen]
    settings = settings | {"min_count": min(settings["min_count"], max(1, len(labels) // 50))}
    found = []
    for one in [reading] if tempered is None else [reading, tempered]:
        p = one.probabilities[-1][chosen]
        found += [scores(p, labels, settings), by_chance(p, settings)]
        if which is None:
            found[-2][ADAPTIVE] = adaptive_ece(p, labels, settings)
    return Part(len(labels), *found)


def categories_of(reading: Reading) -> dict[str, np.ndarray]:
    """Masks of MMLU's categories; none where a subject is not MMLU's, or all are of one."""
    try:
        found = reading.categories
    except ValueError:
        return {}
    masks = {c: found == c for c in CATEGORIES if (found == c).any()}
    return masks if len(masks) > 1 else {}


def subjects_of(reading: Reading) -> dict[str, np.ndarray]:
    """Masks of the subjects with enough questions, in the order of the alphabet."""
    masks = {str(s): reading.subjects == s for s in np.unique(reading.subjects)}
    return {name: mask for name, mask in masks.items() if mask.sum() >= ENOUGH}
