"""Bins of confidence: which one each question falls in, sums over them, and their errors.

Bins are (lo, hi], 0 belongs to the first and 1 to the last, and edges are compared in float64.
"""

from __future__ import annotations

import numpy as np

BINNINGS = ("equal-width", "equal-mass")


def bin_index(confidence, n_bins, binning="equal-width"):
    """Bin of each question ``[..., questions]``, 0 to n_bins - 1."""
    if binning not in BINNINGS:
        raise ValueError(f"binning is {binning!r}; it must be one of {', '.join(BINNINGS)}")
    if binning == "equal-width":
        # k / n_bins is the float nearest to the edge, as a confidence written k / n_bins is;
        # the sums of steps in other constructions of the edges are not.
        inner_edges = np.arange(1, n_bins) / n_bins
        return np.searchsorted(inner_edges, confidence, side="left")
    n_questions = confidence.shape[-1]
    order = np.argsort(confidence, axis=-1, kind="stable")
    sizes = [len(part) for part in np.array_split(np.arange(n_questions), n_bins)]
    index = np.empty(confidence.shape, dtype=np.int64)
    bin_of_rank = np.broadcast_to(np.repeat(np.arange(n_bins), sizes), index.shape)
    np.put_along_axis(index, order, bin_of_rank, axis=-1)
    return index


def bin_sums(index, n_bins, *values):
    """Questions a bin, then the sum of each of ``values`` a bin: float64 ``[..., bins]`` each."""
    lead = index.shape[:-1]
    n_rows = int(np.prod(lead))
    offset = np.arange(n_rows).reshape(*lead, 1) * n_bins  # a run of bins for each row
    cell = (index + offset).ravel()
    weights = (None, *(value.ravel() for value in values))
    sums = (np.bincount(cell, weight, minlength=n_rows * n_bins) for weight in weights)
    return [each.reshape(*lead, n_bins).astype(np.float64) for each in sums]


def ece_of(count, gap):
    """ECE ``[...]`` of questions and summed confidence - correct in each bin ``[..., bins]``."""
    return np.abs(gap).sum(axis=-1) / count.sum(axis=-1)


def mce_of(count, gap, min_count):
    """MCE ``[...]`` of the same; nan where no bin holds ``min_count`` questions."""
    error = np.abs(gap) / np.maximum(count, 1)
    largest = np.where(count >= min_count, error, -1).max(axis=-1)
    return np.where(largest < 0, np.nan, largest)


def check_some_bin(count, min_count) -> None:
    """Refuse bins ``[..., bins]`` none of which holds ``min_count`` questions."""
    most = count.max(axis=-1)
    if (most < min_count).any():
        at = np.unravel_index(np.argmin(most), most.shape)
        where = f" at leading index {[int(i) for i in at]}" if at else ""
        raise ValueError(
            f"min_count is {min_count}; the fullest bin{where} holds {most[at]:.0f} questions, "
            "so no bin is left for MCE: lower min_count or n_bins, or use more questions"
        )
