"""How accuracy and calibration evolve through the layers, and the phases this falls into.

Onset
    the first layer from which on accuracy's interval lies above the baseline accuracy, that of
    always giving the commonest right letter, since a layer that knows nothing often does just that:
    one over the number of options would take MMLU's uneven letters for knowledge;
decision
    the first layer from which on accuracy stays within a tolerance of the last layer's;
correction
    from the layer of largest ECE at or after the decision to the last layer, if ECE falls between
    them by more than chance. The interval of the fall is widened for having picked the layer
    (Bonferroni over the layers that could have been picked).

The correction is the *confidence correction phase* of [1]_; these definitions in words and code
are ours.

References
----------
.. [1] Joshi, Ahmad & Modi, "Calibration Across Layers", EMNLP 2025.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from calib.metrics import Interval, bootstrap
from calib.metrics.intervals import columns_of
from calib.reading.reading import Reading

METRICS = ("accuracy", "confidence", "gap", "ece", "mce", "nll", "brier", "auroc")


@dataclass(frozen=True)
class Correction:
    """The fall of ECE over the correction phase.

    Attributes
    ----------
    start, end : int
        The layer of largest ECE at or after the decision, and the last layer.
    fall, low, high : float
        ECE at ``start`` minus ECE at ``end``, with its interval.
    accuracy_change, accuracy_low, accuracy_high : float
        Accuracy at ``end`` minus accuracy at ``start``, with its interval.
    """

    start: int
    end: int
    fall: float
    low: float
    high: float
    accuracy_change: float
    accuracy_low: float
    accuracy_high: float

    @property
    def fall_of_ece(self) -> tuple[float, float, float]:
        """The fall with its interval."""
        return self.fall, self.low, self.high

    @property
    def change_of_accuracy(self) -> tuple[float, float, float]:
        """The change of accuracy with its interval."""
        return self.accuracy_change, self.accuracy_low, self.accuracy_high


@dataclass(frozen=True)
class Evolution:
    """Metrics by layer, and the phases they show.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per layer; for each metric a column with its value and two with its interval,
        ``ece``, ``ece_low``, ``ece_high``.
    baseline_accuracy : float
        Of always answering with the letter that is right most often.
    onset : int or None
        None if accuracy never leaves the baseline for good.
    decision : int
    correction : Correction or None
        None if ECE does not fall by more than chance.
    """

    table: pd.DataFrame
    baseline_accuracy: float
    onset: int | None
    decision: int
    correction: Correction | None

    def interval(self, metric: str, layer: int) -> tuple[float, float, float]:
        """Value, low and high of a metric at a layer."""
        return Interval.read(self.table.loc[layer], metric)


def evolve(
    reading: Reading,
    *,
    n_bins: int = 10,
    min_count: int = 20,
    tolerance: float = 0.02,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Evolution:
    """Metrics of every layer with bootstrap intervals, and the three phases.

    Parameters
    ----------
    reading : Reading
        At least 2 layers beside the embedding make sense.
    n_bins : int
        Equal-width bins of ECE and MCE.
    min_count : int
        Questions a bin needs to count towards MCE.
    tolerance : float
        How close to the last layer's accuracy a decided layer must be, 0 to 1.
    n_resamples, level, seed
        Of the bootstrap over questions; all layers share each resample.

    Raises
    ------
    ValueError
        If ``tolerance`` is not between 0 and 1, and what the metrics refuse.

    Examples
    --------
    >>> from calib import load_questions, open_model, read_layers
    >>> reading = read_layers(open_model("almanac"), load_questions("almanac", limit=200))
    >>> list(evolve(reading).table.columns[:3])
    ['accuracy', 'accuracy_low', 'accuracy_high']
    """
    if not 0 <= tolerance <= 1:
        raise ValueError(f"tolerance is {tolerance}; it is a difference of accuracies, 0 to 1")
    intervals = bootstrap(
        reading.probabilities,
        reading.labels,
        METRICS,
        n_bins=n_bins,
        min_count=min_count,
        n_resamples=n_resamples,
        level=level,
        seed=seed,
    )
    baseline = float(np.bincount(reading.labels).max() / len(reading))
    accuracy = intervals["accuracy"]
    decision = first_for_good(np.abs(accuracy.value - accuracy.value[-1]) <= tolerance)
    return Evolution(
        table=pd.DataFrame(columns_of(intervals)).rename_axis("layer"),
        baseline_accuracy=baseline,
        onset=first_for_good(accuracy.low > baseline),
        decision=decision,
        correction=find_correction(intervals["ece"], accuracy, decision, level),
    )


def first_for_good(holds) -> int | None:
    """The first layer from which on something holds at every layer; None if not at the last.

    >>> first_for_good([True, False, True, True])
    2
    """
    fails = np.flatnonzero(~np.asarray(holds))
    first = int(fails[-1]) + 1 if len(fails) else 0
    return first if first < len(holds) else None


def find_correction(
    ece: Interval, accuracy: Interval, decision: int, level: float = 0.95
) -> Correction | None:
    """The correction phase from bootstrapped ECE and accuracy, or None if there is none.

    Parameters
    ----------
    ece, accuracy : Interval
        With ``value [layers + 1]`` and ``samples [resamples, layers + 1]`` of the same resamples.
    decision : int
        The layer from which on accuracy is settled.
    level : float
        Confidence level, between 0 and 1.
    """
    end = len(ece.value) - 1
    start = decision + int(np.argmax(ece.value[decision:]))
    if start == end:
        return None
    tail = (1 - level) / 2 / (end - decision)  # the layer was picked among end - decision
    falls = ece.samples[:, start] - ece.samples[:, end]
    low, high = np.quantile(falls, [tail, 1 - tail])
    if low <= 0:
        return None
    changes = accuracy.samples[:, end] - accuracy.samples[:, start]
    accuracy_low, accuracy_high = np.quantile(changes, [tail, 1 - tail])
    return Correction(
        start=start,
        end=end,
        fall=float(ece.value[start] - ece.value[end]),
        low=float(low),
        high=float(high),
        accuracy_change=float(accuracy.value[end] - accuracy.value[start]),
        accuracy_low=float(accuracy_low),
        accuracy_high=float(accuracy_high),
    )
