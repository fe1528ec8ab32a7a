"""The null space of the unembedding: what can be written there without a logit noticing.

A component that writes there still makes the stream longer, and so makes all logits smaller through
the final norm: a way to change confidence and nothing else. Few models have an exact null
space; the *effective* one is spanned by the directions that are read least.

A softmax does not see what adds the same to all its logits. So the rows are taken less their mean,
and what is read by all rows alike counts as not read. A LayerNorm removes the mean of the stream
before it takes the length: what is written there changes neither, and is no part of the null space.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.linalg
import torch

from calib._checks import check_count, check_level
from calib.mechanisms.subspaces import Subspace, check_k
from calib.mechanisms.unembedding import readout_of
from calib.metrics.intervals import Interval
from calib.metrics.resampling import draw_counts
from calib.models.model import Model
from calib.models.place import in_float64
from calib.reading._fields import absent_options
from calib.reading.reading import Reading

SHARE = 0.01  # of the sum of singular values, that the effective null space holds at most


def singular_values(model: Model, tokens=None) -> np.ndarray:
    """Singular values of the unembedding, the final norm folded in and the rows less their mean.

    Parameters
    ----------
    tokens : list of int, optional
        Only these rows, such as the option letters'; the whole vocabulary if not given.

    Returns
    -------
    float64 array ``[d_model]``, or ``[d_model - 1]`` where the norm is a LayerNorm
        Falling; zeros where there are fewer rows than dimensions.

    Raises
    ------
    ValueError
        If there is only one token, and as :func:`calib.mechanisms.readout_of`.

    Examples
    --------
    >>> from calib import open_model
    >>> singular_values(open_model("almanac")).shape
    (128,)
    """
    return np.sqrt(_spectrum(model, tokens)[0][::-1])


def unembedding_null_space(model: Model, k: int | None = None, tokens=None) -> Subspace:
    """The directions of the residual stream that the unembedding turns into logits least.

    Right-singular vectors of the smallest :func:`singular_values`, the least first. Their
    ``shares`` tell how much of the unembedding, in squared singular values, each still holds.

    Parameters
    ----------
    k : int, optional
        1 to d_model, or to d_model - 1 where the norm is a LayerNorm; if not given, the most whose
        singular values together are no more than 1 % of the sum of all. Where all are alike this is
        1 % of the dimensions, about the 40 of 4,096 that [1]_ take for a Llama.
    tokens : list of int, optional
        As in :func:`singular_values`. What the option letters do not tell apart is far more than
        what the vocabulary does not.

    Raises
    ------
    ValueError
        If ``k`` is out of range, or not given and even one direction holds more than 1 %; and as
        :func:`singular_values`.

    References
    ----------
    .. [1] Stolfo et al., "Confidence regulation neurons in language models", NeurIPS 2024.

    Examples
    --------
    >>> from calib import open_model
    >>> unembedding_null_space(open_model("almanac"), k=4).basis.shape
    (4, 128)
    """
    values, vectors = _spectrum(model, tokens)
    if k is not None:
        check_k(k, len(values))
    if k is None:
        sizes = np.sqrt(values) / np.sqrt(values).sum()
        k = int((sizes.cumsum() <= SHARE).sum())
        if k == 0:
            raise ValueError(
                f"the direction that is read least holds {sizes[0]:.1%} of all singular values, "
                f"more than {SHARE:.0%}: there is no effective null space; give k to take some"
            )
    return Subspace(vectors.T[:k], values[:k] / values.sum(), "null space")


def norm_shares(
    reading: Reading, subspace: Subspace, *, n_resamples=1000, level=0.95, seed=0
) -> pd.DataFrame:
    """How much of the residual stream lies in a subspace, at every layer that the reading kept.

    The share of a question's squared length, averaged over the questions. A random subspace of k
    dimensions holds k/d_model on average.

    Returns
    -------
    pandas.DataFrame
        One row per layer; ``share``, 0 to 1, with ``share_low`` and ``share_high``.

    Raises
    ------
    ValueError
        If the reading kept no residuals, or ``n_resamples`` or ``level`` is out of range.

    Examples
    --------
    >>> from calib import load_questions, open_model, read_layers
    >>> from calib.mechanisms import random_subspace
    >>> model, questions = open_model("almanac"), load_questions("almanac", limit=50)
    >>> reading = read_layers(model, questions, keep_residuals=[7, 8])
    >>> list(norm_shares(reading, random_subspace(128, 128, 0)).share.round(6))
    [1.0, 1.0]
    """
    if not reading.residuals:
        raise ValueError("the reading kept no residuals; read again with keep_residuals=")
    check_level(level)
    n_resamples = check_count("n_resamples", n_resamples)
    layers = sorted(reading.residuals)
    shares = np.stack([subspace.share_of(reading.stream(ell)) for ell in layers])
    counts = draw_counts(np.random.default_rng(seed), len(reading), n_resamples)
    samples = counts @ shares.T / len(reading)  # [resamples, layers]
    found = Interval.of(shares.mean(axis=1), samples, level)
    return pd.DataFrame(found.columns("share"), index=pd.Index(layers, name="layer"))


def remove_subspace(model: Model, reading: Reading, subspace: Subspace, tokens) -> np.ndarray:
    """Option logits when what the last layer has in a subspace is taken away.

    Parameters
    ----------
    reading : Reading
        With the residuals of the last layer kept.
    tokens : list of int
        The option letters' tokens.

    Returns
    -------
    float32 array ``[2, questions, options]``
        With the norm as it then is, and with its length frozen as it was: what only the second
        changes, the rows did read.

    Raises
    ------
    ValueError
        If the last layer was not kept, and as :func:`calib.mechanisms.readout_of`.

    Examples
    --------
    >>> from calib import load_questions, open_model, read_layers
    >>> from calib.questions import option_tokens
    >>> model, questions = open_model("almanac"), load_questions("almanac", limit=20)
    >>> reading = read_layers(model, questions, keep_residuals=[8])
    >>> null_space = unembedding_null_space(model, k=4)
    >>> remove_subspace(model, reading, null_space, option_tokens(model.tokenizer, 4)).shape
    (2, 20, 4)
    """
    stream, readout = reading.stream(reading.n_layers), readout_of(model, tokens)
    whole, left = (
        torch.tensor(rows, dtype=torch.float32, device=readout.rows.device)
        for rows in (stream, stream - subspace.project(stream))
    )
    both = torch.stack([readout.logits(left), readout.logits(left, readout.lengths(whole))])
    logits = both.cpu().numpy()
    return np.where(absent_options(reading.n_options, logits.shape[2]), -np.inf, logits)


def _spectrum(model, tokens):
    """Squared singular values, rising, and their directions as columns, both float64."""
    readout, gram = readout_of(model, tokens), 0.0
    if len(readout.rows) < 2:
        raise ValueError(f"tokens is {tokens}; a softmax over one token sees nothing: give two")
    with model.running():
        mean = readout.rows.mean(dim=0)
        for rows in readout.rows.split(4096):  # a large vocabulary need not be held twice
            contrasts = in_float64(rows - mean)
            gram = gram + contrasts.T @ contrasts
    gram = gram.cpu().numpy()
    if not readout.centres:
        values, vectors = np.linalg.eigh(gram)
        return np.maximum(values, 0), vectors
    # In a basis of what is left when the mean of the stream is taken away.
    basis = scipy.linalg.null_space(np.ones((1, len(gram))))
    values, vectors = np.linalg.eigh(basis.T @ gram @ basis)
    return np.maximum(values, 0), basis @ vectors
