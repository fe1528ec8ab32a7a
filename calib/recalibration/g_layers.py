"""g-layers: a small network after the last layer that learns what to add to the logits."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from calib._checks import check_count, check_not_negative, check_positive
from calib.metrics.inputs import softmax
from calib.recalibration.method import Method


@dataclass(eq=False)
class GLayers(Method):
    """Adds a small network's output to the logits, z + g(z), trained to lowest NLL [1]_.

    The model itself stays as it is. The network's last layer starts at zero, so training starts at
    the model's own probabilities. It is stopped early, by the NLL of a part of the calibration
    split that is held out of it, where the best epoch is kept: never worse than the start there.
    What g sees are logits less their mean over options, over their standard deviation on the
    calibration split: a shift of all logits of a question, which means nothing, changes nothing.

    The answer may change; so may the share of each letter, as g tells the options apart.

    After [1]_, of which it keeps layers put on top of a frozen model and trained on NLL. Choices
    are all else: sizes, the sum with z, the optimiser (AdamW on all questions at once) and early
    stopping. The defaults were found on the Almanac's validation split.

    Parameters
    ----------
    hidden : tuple of int
        Widths of the layers between, with ReLU; none makes g linear.
    learning_rate, weight_decay : float
        Of AdamW; weight decay draws g to zero.
    patience : int
        Epochs without a better one before it stops.
    max_epochs : int
    held_out : float
        Share of the calibration split, 0 to 1, that decides when to stop; at least one question.
    seed : int
        Of the network's start and of the split; torch's own generator is left as it is.

    Attributes
    ----------
    losses : float array ``[epochs + 1]``
        NLL on the part held out; the first is that of the logits themselves.

    References
    ----------
    .. [1] Rahimi et al., "Post-hoc calibration of neural networks by g-layers", 2020, arXiv
       2006.12807.

    Examples
    --------
    >>> logits = np.array([[4.0, 0.0], [0.0, 4.0]] * 20)
    >>> labels = np.array([0, 1, 0, 0] * 10)
    >>> method = GLayers().fit(logits, labels)
    >>> bool(method.losses.min() < method.losses[0])
    True
    """

    changes_answer: ClassVar[bool] = True
    needs_equal_options: ClassVar[bool] = True

    hidden: tuple[int, ...] = (16,)
    learning_rate: float = 0.01
    weight_decay: float = 1.0
    patience: int = 50
    max_epochs: int = 1000
    held_out: float = 0.2
    seed: int = 0
    scale: float = field(init=False, repr=False, default=None)
    network: torch.nn.Sequential = field(init=False, repr=False, default=None)
    losses: np.ndarray = field(init=False, repr=False, default=None)

    def __post_init__(self):
        if np.ndim(self.hidden) != 1:
            raise TypeError(f"hidden is {self.hidden!r}; it must be a tuple of widths, as (16,)")
        for width in self.hidden:
            check_count("hidden", width)
        check_count("patience", self.patience)
        check_count("max_epochs", self.max_epochs)
        check_positive("learning_rate", self.learning_rate, 0.01)
        check_not_negative("weight_decay", self.weight_decay)
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}; it must lie between 0 and 1")

    def _count(self):
        return 1 + sum(parameter.numel() for parameter in self.network.parameters())

    def _fit(self, logits, labels, features, subjects):
        self.scale = max(_centred(logits).std(), np.finfo(float).eps)
        self.network = make_network(logits.shape[1], self.hidden, self.seed)
        train, held_out = (
            (
                torch.from_numpy(logits[part]),
                self._seen(logits[part]),
                torch.from_numpy(labels[part]),
            )
            for part in split(len(logits), self.held_out, self.seed)
        )
        self._train(train, held_out)

    def _train(self, train, held_out) -> None:
        def loss(part):
            logits, seen, labels = part
            return cross_entropy(logits + self.network(seen), labels)

        optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        losses, best, kept = [], 0, None
        for epoch in range(self.max_epochs + 1):
            with torch.no_grad():
                losses.append(loss(held_out).item())
            if epoch == 0 or losses[epoch] < losses[best]:
                best = epoch
                kept = {name: value.clone() for name, value in self.network.state_dict().items()}
            elif epoch - best >= self.patience:
                break
            optimiser.zero_grad()
            loss(train).backward()
            optimiser.step()
        self.network.load_state_dict(kept)
        self.losses = np.array(losses)

    def _apply(self, logits, features):
        with torch.no_grad():
            return softmax(logits + self.network(self._seen(logits)).numpy())

    def _seen(self, logits) -> torch.Tensor:
        return torch.from_numpy(_centred(logits) / self.scale)


def split(n_questions: int, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices to train on and indices held out, at random, at least one of each.

    >>> [part.tolist() for part in split(5, held_out=0.2, seed=0)]
    [[0, 1, 3, 4], [2]]
    """
    n_held_out = min(max(round(held_out * n_questions), 1), n_questions - 1)
    order = np.random.default_rng(seed).permutation(n_questions)
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])


def make_network(n_options: int, hidden: tuple[int, ...], seed: int) -> torch.nn.Sequential:
    """Linear layers with ReLU between, in float64, the last one zero."""
    layers, widths = [], [n_options, *hidden, n_options]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for width, following in pairwise(widths):
            layers += [torch.nn.Linear(width, following, dtype=torch.float64), torch.nn.ReLU()]
    torch.nn.init.zeros_(layers[-2].weight)
    torch.nn.init.zeros_(layers[-2].bias)
    return torch.nn.Sequential(*layers[:-1])


def _centred(logits) -> np.ndarray:
    return logits - logits.mean(axis=1, keepdims=True)
