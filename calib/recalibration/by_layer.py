"""Recalibrating every layer of a reading for itself, judged on questions it was not fitted on."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np

from calib._checks import check_count
from calib.reading.reading import Reading
from calib.recalibration.method import Method
from calib.recalibration.temperature import NoTemperature


def recalibrate_layers(
    reading: Reading, method: Method, *, n_folds: int = 2, seed: int = 0
) -> Reading:
    """The reading as a method recalibrates it, fitted at each layer by itself, cross-fitted.

    The questions are dealt into folds; those of a fold are recalibrated by a copy of the method
    that was fitted on all others. So every question is judged as a new one, and
    :func:`calib.evolve` of the result says what the layers know beyond what the method mends.

    Parameters
    ----------
    reading : Reading
    method : Method
        One that reads logits and labels alone, such as
        :class:`~calib.recalibration.Temperature`; it is left as it is.
    n_folds : int
        At least 2.
    seed : int
        Of the deal.

    Returns
    -------
    Reading
        Its logits are the logarithms of the recalibrated probabilities. Where no finite temperature
        is best, the layer says nothing, and all options of a question have the same.

    Raises
    ------
    ValueError
        If there are fewer questions than folds, the method takes features or subjects, and what
        it refuses to be fitted on.

    Examples
    --------
    >>> from calib import load_reading
    >>> from calib.metrics import nll
    >>> from calib.recalibration import Temperature
    >>> reading = load_reading("qwen2.5-coder-1.5b-instruct/zero-shot")
    >>> mended = recalibrate_layers(reading, Temperature())
    >>> [round(float(nll(r.probabilities[24], r.labels)), 3) for r in (reading, mended)]
    [2.06, 1.153]
    """
    if check_count("n_folds", n_folds) < 2:
        raise ValueError(f"n_folds is {n_folds}; with fewer than 2, none is left to judge on")
    if method.needs_features or method.needs_subjects:
        raise ValueError(
            f"{type(method).__name__} is fitted on features or subjects besides the logits, which "
            "differ from layer to layer; fit it at one layer by itself"
        )
    if len(reading) < n_folds:
        raise ValueError(
            f"there are {len(reading)} questions for {n_folds} folds; use more questions"
        )
    fold = np.random.default_rng(seed).permutation(len(reading)) % n_folds
    logits = np.empty(reading.logits.shape)
    for f in range(n_folds):
        held = fold == f
        for layer in range(reading.n_layers + 1):
            at = reading.logits[:, layer].astype(np.float64)
            logits[held, layer] = _mended(method, at[~held], reading.labels[~held], at[held])
    return replace(reading, logits=logits)


def _mended(method: Method, known, labels, asked) -> np.ndarray:
    """Log-probabilities of the asked logits, by a copy of the method fitted on the known ones."""
    try:
        p = copy.deepcopy(method).fit(known, labels)(asked)
    except NoTemperature as told:
        if not told.infinite:
            raise
        p = np.isfinite(asked) / np.isfinite(asked).sum(axis=1, keepdims=True)
    # A probability below the least number of a float is 0 there.
    p = np.where(np.isfinite(asked), np.maximum(p, np.finfo(float).tiny), 0)
    with np.errstate(divide="ignore"):
        return np.log(p)
