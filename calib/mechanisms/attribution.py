"""Attribution to components: what each attention and each MLP does to answer and confidence.

Between two layers the residual stream changes in steps, one an attention or an MLP. Each step does
two things: it changes what the option rows read, and it changes the length that this is divided by
(:mod:`calib.mechanisms.unembedding`). Walked one after the other, all steps lead from the lens at
the first layer to the lens at the last, so that their effects add up, on the logits and on any
metric.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from datasets import Dataset

from calib.mechanisms.blocks import find_blocks, read_writes
from calib.mechanisms.unembedding import Readout, readout_of
from calib.metrics import bootstrap
from calib.metrics.inputs import softmax
from calib.metrics.intervals import Interval, columns_of
from calib.models.model import Model
from calib.reading._fields import absent_options
from calib.reading._run import Run


@dataclass(frozen=True)
class Attribution:
    """The readout after each component's step.

    Attributes
    ----------
    components : tuple of str
        ``"attention 7"``, ``"MLP 7"``, ...; the number is that of the layer the block ends in. Of
        blocks whose attention and MLP run side by side, attention comes first here too.
    reads : float32 array ``[questions, components + 1, options]``
        What the option rows read of the stream, at the start and after each component.
    lengths : float32 array ``[questions, components + 1]``
        What the norm divides that by.
    labels : int64 array ``[questions]``
    readout : Readout
        Of the option letters.
    n_options : int64 array ``[questions]``
        Options of each question; beyond them, logits are -inf.
    """

    components: tuple[str, ...]
    reads: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    readout: Readout
    n_options: np.ndarray

    @property
    def direct(self) -> np.ndarray:
        """Direct logit attribution, ``[questions, components, options]``.

        What each component's own write adds to them, at the length that the stream has in the end.
        In this no order matters; before a soft-cap, and with the start and the bias, they sum to
        the logits.
        """
        return np.diff(self.reads, axis=1) / self.lengths[:, -1, None, None]

    def logits(self, read: int, length: int | None = None) -> np.ndarray:
        """Option logits ``[questions, options]`` with the reads of one step.

        Parameters
        ----------
        read : int
            After how many components, 0 to all.
        length : int, optional
            The step whose length they are divided by; the same if not given. With another this is
            a counterfactual: as if the components between the two had only written, or had only
            changed the norm.
        """
        length = read if length is None else length
        reads, lengths = map(torch.from_numpy, (self.reads[:, read], self.lengths[:, length]))
        device = self.readout.rows.device
        logits = self.readout.divide(reads.to(device), lengths.to(device)).cpu().numpy()
        return np.where(absent_options(self.n_options, logits.shape[1]), -np.inf, logits)

    def effects(
        self, metric: str = "confidence", *, n_resamples=1000, level=0.95, seed=0, **options
    ) -> pd.DataFrame:
        """What each component changes of a metric by writing, through the norm, and in all.

        Writing comes first: the reads change at the old length, then the length follows.

        Parameters
        ----------
        metric : str
            Of :func:`calib.metrics.bootstrap`, which takes the ``options`` too.

        Returns
        -------
        pandas.DataFrame
            One row per component, and ``"all"``; columns ``write``, ``norm`` and ``total``, each
            with ``_low`` and ``_high``. Rows add up, and ``write`` and ``norm`` to ``total``.
        """
        n = len(self.components)
        path = [(0, 0)] + [step for i in range(n) for step in ((i + 1, i), (i + 1, i + 1))]
        p = softmax(np.stack([self.logits(*step) for step in path]))
        of = bootstrap(
            p, self.labels, [metric], n_resamples=n_resamples, level=level, seed=seed, **options
        )[metric]
        # Rows: the value itself, then its resamples.
        walk = np.vstack([of.value, of.samples])
        steps = np.diff(walk, axis=1).reshape(len(walk), n, 2)
        steps = np.concatenate([steps, steps.sum(axis=1, keepdims=True)], axis=1)
        parts = {"write": steps[..., 0], "norm": steps[..., 1], "total": steps.sum(axis=2)}
        found = {name: Interval.of(part[0], part[1:], level) for name, part in parts.items()}
        return pd.DataFrame(
            columns_of(found), index=pd.Index([*self.components, "all"], name="component")
        )


def read_attribution(
    model: Model,
    questions: Dataset,
    start: int = 0,
    end: int | None = None,
    *,
    shots: int = 0,
    exemplars: Dataset | None = None,
    chat: bool = False,
    batch_tokens: int = 8192,
) -> Attribution:
    """Read what every component writes at the answer position, in one traced pass per batch.

    Parameters
    ----------
    start, end : int
        Layers, 0 to L; the last if not given. Over a correction phase, those of
        :attr:`calib.analysis.Evolution.correction`.
    shots, exemplars, chat, batch_tokens
        As in :func:`calib.read_layers`.

    Raises
    ------
    ValueError
        If ``start`` is not below ``end`` or the layers do not exist, and as
        :func:`calib.mechanisms.find_blocks`, :func:`calib.mechanisms.readout_of`
        and :func:`calib.read_layers`.

    Examples
    --------
    >>> from calib import load_questions, open_model
    >>> questions = load_questions("almanac", limit=50)
    >>> attribution = read_attribution(open_model("almanac"), questions, 6, 8)
    >>> attribution.components
    ('attention 7', 'MLP 7', 'attention 8', 'MLP 8')
    """
    end = model.n_layers if end is None else end
    if not 0 <= start < end <= model.n_layers:
        raise ValueError(
            f"start is {start} and end is {end}; they must be layers, from 0 to {model.n_layers}, "
            "and the first below the second"
        )
    blocks = find_blocks(model)
    run = Run.prepare(model, questions, shots, exemplars, chat=chat)
    readout = readout_of(model, run.tokens)

    def forward(part):
        return read_writes(model, part.prompts, blocks, start, end, part.prefix, readout)

    settings = {"attribution": [start, end]}
    found = run.through(run.plan(batch_tokens), forward, settings=settings)
    components = [f"{p} {ell}" for ell in range(start + 1, end + 1) for p in ("attention", "MLP")]
    read = found["reads"], found["lengths"], run.labels, readout, run.n_options
    return Attribution(tuple(components), *read)
