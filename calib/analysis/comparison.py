"""Ways of answering the same questions side by side, each with its difference from one of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from calib.analysis.truth import correlate
from calib.metrics import bootstrap
from calib.metrics.arrays import as_reals
from calib.metrics.inputs import AXES
from calib.metrics.intervals import Interval, columns_of

METRICS = ("accuracy", "confidence", "ece", "mce", "nll", "auroc")


@dataclass(frozen=True)
class Comparison:
    """Metrics of several ways of answering, and their differences from a reference.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per way; for each metric a column with its value and two with its interval, ``ece``,
        ``ece_low``, ``ece_high``. ``truth`` is the correlation of confidence with the known
        probability, where there is one.
    changes : pandas.DataFrame
        The same of the differences from the reference.
    reference : str
    """

    table: pd.DataFrame
    changes: pd.DataFrame
    reference: str

    def interval(self, name: str, metric: str) -> tuple[float, float, float]:
        """Value, low and high of a metric for one way."""
        return Interval.read(self.table.loc[name], metric)

    def change(self, name: str, metric: str) -> tuple[float, float, float]:
        """Value, low and high of a metric's difference from the reference."""
        return Interval.read(self.changes.loc[name], metric)


def compare(
    ways: dict[str, np.ndarray],
    labels,
    reference: str,
    posterior=None,
    *,
    n_bins: int = 10,
    min_count: int = 20,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare ways of answering the same questions, on resamples that all of them share.

    Parameters
    ----------
    ways : dict of str to float array ``[questions, options]``
        Option probabilities by name, all of the same shape.
    labels : int array ``[questions]``
    reference : str
        The way that the others' differences are taken from.
    posterior : float array ``[questions, options]``, optional
        Where the truth is known.
    n_bins, min_count, n_resamples, level, seed
        Of :func:`calib.metrics.bootstrap`.

    Returns
    -------
    Comparison
        Differences have percentile intervals of the paired differences.

    Raises
    ------
    ValueError
        If the reference is none of the ways, and what the metrics refuse.

    Examples
    --------
    >>> ways = {"bold": [[0.9, 0.1]] * 4, "meek": [[0.7, 0.3]] * 4}
    >>> comparison = compare(ways, np.array([0, 0, 0, 1]), "bold", min_count=1)
    >>> round(comparison.change("meek", "ece")[0], 3)
    -0.1
    """
    if reference not in ways:
        raise ValueError(f"reference is {reference!r}; it must be one of {', '.join(ways)}")
    arrays = [as_reals(f"probabilities of {n!r}", p, AXES) for n, p in ways.items()]
    if len({p.shape for p in arrays}) > 1:
        raise ValueError(
            f"the ways have shapes {[p.shape for p in arrays]}; all must be probabilities of the "
            "same questions [questions, options]"
        )
    p = np.stack(arrays)
    draws = {"n_resamples": n_resamples, "level": level, "seed": seed}
    intervals = bootstrap(p, labels, METRICS, n_bins=n_bins, min_count=min_count, **draws)
    if posterior is not None:
        intervals["truth"] = correlate(p, posterior, **draws)
    at, changes = list(ways).index(reference), {}
    with np.errstate(invalid="ignore"):  # an infinite NLL less another is nan
        for name, interval in intervals.items():
            samples = interval.samples - interval.samples[:, [at]]
            changes[name] = Interval.of(interval.value - interval.value[at], samples, level)
    tables = (pd.DataFrame(columns_of(i), pd.Index(ways, name="")) for i in (intervals, changes))
    return Comparison(*tables, reference)
