"""Low-dimensional subspaces of the residual stream, and how much of the correction they hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from calib.models.logit_lens import lens
from calib.models.model import Model
from calib.reading._fields import absent_options
from calib.reading.reading import Reading
from calib.steering.directions import Direction, make_direction


@dataclass(frozen=True)
class Subspace:
    """Orthonormal vectors of the residual stream, the most important first.

    Attributes
    ----------
    basis : float64 array ``[k, d_model]``
    shares : float64 array ``[k]``
        What each vector holds of what the subspace was fitted to, summed squares, 0 to 1.
    name : str
    """

    basis: np.ndarray
    shares: np.ndarray
    name: str

    def project(self, vectors, k: int | None = None) -> np.ndarray:
        """The part of ``vectors [..., d_model]`` that lies in the first k dimensions, or in all."""
        basis = self.basis[:k]
        return vectors @ basis.T @ basis

    def share_of(self, vectors) -> np.ndarray:
        """How much of the squared length of ``vectors [..., d_model]`` lies in it, 0 to 1."""
        vectors = np.asarray(vectors, dtype=np.float64)
        return np.square(vectors @ self.basis.T).sum(axis=-1) / np.square(vectors).sum(axis=-1)

    def direction(self, i: int, layer: int, reading: Reading) -> Direction:
        """One of the vectors as a direction at a layer."""
        return make_direction(self.basis[i], layer, reading, f"{self.name} {i + 1}")


def principal_components(directions: list[Direction]) -> Subspace:
    """Principal components of directions, about zero: of one candidate fitted on every subject.

    Raises
    ------
    ValueError
        If there are fewer than two.

    Examples
    --------
    >>> pair = [Direction(np.array(v), 3, 1.0, "x") for v in ([1.0, 0.0], [0.8, 0.6])]
    >>> principal_components(pair).shares.round(2).tolist()
    [0.9, 0.1]
    """
    if len(directions) < 2:
        raise ValueError(f"{len(directions)} directions; components need at least two")
    return _components(np.stack([d.vector for d in directions]), "component")


def correction_components(reading: Reading, start: int, end: int) -> Subspace:
    """Principal components, about zero, of every question's change from one layer to another.

    Over the correction phase: the subspace in which the upper layers rewrite confidence.

    Raises
    ------
    ValueError
        If ``start`` is not below ``end``, or the reading did not keep the residuals of both.

    Examples
    --------
    >>> from calib import load_questions, open_model, read_layers
    >>> questions = load_questions("almanac", "validation", limit=200)
    >>> reading = read_layers(open_model("almanac"), questions, keep_residuals=[7, 8])
    >>> bool(correction_components(reading, 7, 8).shares[0] > 0.8)
    True
    """
    return _components(_change(reading, start, end), "correction component")


def random_subspace(k: int, d_model: int, seed: int) -> Subspace:
    """A subspace drawn uniformly: the control.

    Raises
    ------
    ValueError
        If ``k`` is not 1 to d_model.

    Examples
    --------
    >>> random_subspace(2, 8, seed=0).basis.shape
    (2, 8)
    """
    check_k(k, d_model)
    normal = np.random.default_rng(seed).normal(size=(d_model, k))
    return Subspace(np.linalg.qr(normal)[0].T, np.full(k, 1 / d_model), f"random {seed}")


def restore_correction(
    model: Model, reading: Reading, subspace: Subspace, start: int, end: int, tokens
) -> np.ndarray:
    """Option logits when only the part in a subspace of the correction is made, k dimensions of it.

    To each question's residual stream at ``start`` its own change up to ``end`` is added, projected
    on the first k dimensions, and the result read through the final norm and unembedding. With all
    dimensions this is the lens at ``end``, with none that at ``start``.

    Parameters
    ----------
    reading : Reading
        With the residuals of ``start`` and ``end`` kept; not the one the subspace was fitted on.
    tokens : list of int
        The option letters' tokens.

    Returns
    -------
    float32 array ``[k + 1, questions, options]``
        With 0, 1, ... dimensions of the subspace.

    Examples
    --------
    >>> from calib import load_questions, open_model, read_layers
    >>> from calib.questions import option_tokens
    >>> model, questions = open_model("almanac"), load_questions("almanac", limit=20)
    >>> reading = read_layers(model, questions, keep_residuals=[7, 8])
    >>> tokens = option_tokens(model.tokenizer, 4)
    >>> restore_correction(model, reading, random_subspace(2, 128, 0), 7, 8, tokens).shape
    (3, 20, 4)
    """
    begin, change = reading.stream(start), _change(reading, start, end)
    like = {"dtype": model.dtype, "device": model.device}
    read = [
        lens(model, torch.tensor(begin + subspace.project(change, k), **like), tokens)
        for k in range(len(subspace.basis) + 1)
    ]
    logits = torch.stack(read).float().cpu().numpy()
    return np.where(absent_options(reading.n_options, logits.shape[2]), -np.inf, logits)


def check_k(k: int, d_model: int) -> None:
    """Refuse a number of dimensions that the stream does not have."""
    if not 1 <= k <= d_model:
        raise ValueError(f"k is {k}; it must be from 1 to {d_model}, the dimensions there are")


def _change(reading, start, end):
    if not start < end:
        raise ValueError(f"start is {start} and end is {end}; the phase must end after it starts")
    return reading.stream(end) - reading.stream(start)


def _components(rows, name):
    if not np.any(rows):
        raise ValueError(f"there is no {name}: nothing changes in any question")
    _, sizes, basis = np.linalg.svd(rows, full_matrices=False)
    return Subspace(basis, sizes**2 / (sizes**2).sum(), name)
