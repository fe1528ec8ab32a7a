"""Smooth calibration error: a kernel in place of bins, its width chosen by the error itself."""

from __future__ import annotations

import numpy as np

from calib.metrics.inputs import Labels, Probabilities, Score, check, top
from calib.metrics.intervals import plain

N_CELLS = 4096  # of the grid on 0 to 1; the width found is rarely below 40 cells
N_HALVINGS = 40


def smooth_ece(probabilities: Probabilities, labels: Labels) -> Score:
    """Calibration error free of bins, by smoothing correct - confidence along confidence [1]_.

    The residuals are smoothed by a Gaussian kernel of width σ, reflected at 0 and 1 so that none
    is lost, and the absolute value is integrated. This falls as σ grows; the smooth ECE is where
    it equals σ, found by bisection. The authors' package cuts the kernel off at ±1/2, and so
    gives some 0.5 % more where the error, and with it σ, is near 0.2. One question gives
    |confidence - correct|. From 0 to 1.

    References
    ----------
    .. [1] Błasiok & Nakkiran, "Smooth ECE: principled reliability diagrams via kernel
       smoothing", arXiv 2309.12236, 2023.

    Examples
    --------
    >>> round(smooth_ece([[0.75, 0.25], [0.75, 0.25]], [0, 1]), 6)
    0.25
    """
    spectrum = residual_spectrum(*top(*check(probabilities, labels)))
    low, high = np.zeros(spectrum.shape[:-1]), np.ones(spectrum.shape[:-1])
    for _ in range(N_HALVINGS):
        sigma = (low + high) / 2
        wider = smoothed_error(spectrum, sigma) > sigma
        low, high = np.where(wider, sigma, low), np.where(wider, high, sigma)
    return plain(low)


def residual_spectrum(confidence, correct):
    """Spectrum ``[..., N_CELLS + 1]`` of the mean residual a grid cell, mirrored at 0 and 1.

    Each residual is shared between the two cells whose centres it lies between, so that its
    place is kept.
    """
    lead, n_questions = confidence.shape[:-1], confidence.shape[-1]
    residual = (correct - confidence) / n_questions
    place = np.clip(confidence * N_CELLS - 0.5, 0, N_CELLS - 1)
    cell = np.minimum(place.astype(np.int64), N_CELLS - 2)
    share = place - cell
    row = np.arange(int(np.prod(lead))).reshape(*lead, 1) * N_CELLS
    cells = np.concatenate([(cell + row).ravel(), (cell + 1 + row).ravel()])
    shared = np.concatenate([(residual * (1 - share)).ravel(), (residual * share).ravel()])
    grid = np.bincount(cells, shared, minlength=int(np.prod(lead)) * N_CELLS)
    grid = grid.reshape(*lead, N_CELLS)
    return np.fft.rfft(np.concatenate([grid, grid[..., ::-1]], axis=-1))


def smoothed_error(spectrum, sigma):
    """Integral ``[...]`` of the absolute residual smoothed by width ``sigma`` ``[...]``.

    Mirroring makes the reflected kernel a plain convolution on a circle of length 2, and that a
    product with the Gaussian's own transform.
    """
    frequency = np.pi * np.arange(spectrum.shape[-1])
    damping = np.exp(-np.square(frequency * np.asarray(sigma)[..., None]) / 2)
    smoothed = np.fft.irfft(spectrum * damping)[..., :N_CELLS]
    return np.abs(smoothed).sum(axis=-1)
