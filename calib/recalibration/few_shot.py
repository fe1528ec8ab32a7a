"""Few-shot recalibration: a confidence curve for a new mixture of subjects, from a few questions.

How far confidence is to be trusted may differ from subject to subject, and what a user asks is a
mixture of subjects that nobody has labelled. A small network is shown a few of the questions,
without their answers, and says what curve the confidence of the others should pass through.

A reconstruction of the idea of Li, Khandelwal & Guu (arXiv 2403.18286), not of its code: there the
curve is the precision above each threshold of confidence, here the accuracy at each confidence,
which is what calibration asks for. Architecture, loss and sizes are choices; the defaults were
found on the Almanac's validation split.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from calib._checks import check_count
from calib.metrics.local import Projection
from calib.recalibration.curve import Curve, log_odds
from calib.recalibration.logits import check_logits
from calib.recalibration.method import Method
from calib.recalibration.mixtures import check_concentration, draw_mixtures

HIDDEN = 32  # width of both networks
N_MIXTURES = 2560  # to train on
BATCH = 32  # of them in a step
LEARNING_RATE = 3e-3  # at first; it falls to 0


@dataclass(eq=False)
class FewShot(Method):
    """Predicts a mixture's confidence curve from a few of its questions, no answers given [1]_.

    A network that does not see the order of its examples [2]_: each one's log-odds, and features
    where wanted, go through one small network, the mean over examples through another, which moves
    the points of a rising :class:`~calib.recalibration.Curve`. It starts with the curve that
    changes nothing, and is trained on mixtures of the calibration split's subjects, drawn by
    :func:`~calib.recalibration.draw_mixtures`: shown some questions of each, it is to
    lower the NLL of right and wrong of others in the same mixture.

    ``method.given(logits)`` is the curve for a mixture of which these are examples. The method
    called on questions ``[questions, options]`` takes all of them for examples of one mixture.
    Fitting refuses fewer than ``n_examples + n_judged`` questions.

    Parameters
    ----------
    n_examples : int
        Examples of each mixture in training. Once fitted, any number may be given.
    n_components : int
        Principal components of the features shown with each example. With 0, features are not
        read: confidences alone tell mixtures apart.
    n_pieces : int
        Of the curve, between quantiles of the calibration split's log-odds.
    n_judged : int
        Other questions of each mixture, on which its curve is judged in training.
    concentration : float
        Of the mixtures to train on, as there.
    n_steps : int
        Of AdamW, on 32 mixtures each.
    seed : int

    References
    ----------
    .. [1] Li, Khandelwal & Guu, "Few-shot recalibration of language models", arXiv 2403.18286,
       2024.
    .. [2] Zaheer et al., "Deep sets", NeurIPS 2017.

    Examples
    --------
    Of two subjects, law is always right and history in half of the cases:

    >>> logits = np.log([[0.8, 0.2], [0.9, 0.1], [0.7, 0.3], [0.9, 0.1]] * 50)
    >>> labels, subjects = [0, 1, 0, 0, 1, 0, 0, 0] * 25, ["history"] * 2 + ["law"] * 2
    >>> method = FewShot(n_examples=5, n_judged=20, n_steps=200)
    >>> method = method.fit(logits, labels, subjects=subjects * 50)
    >>> history, law = method.given(logits[[0, 1, 0]]), method.given(logits[[2, 3, 2]])
    >>> bool(history(logits[1])[0] < 0.7), bool(law(logits[1])[0] > 0.9)
    (True, True)
    """

    needs_subjects: ClassVar[bool] = True

    n_examples: int = 20
    n_components: int = 0
    n_pieces: int = 2
    n_judged: int = 50
    concentration: float = 0.1
    n_steps: int = 800
    seed: int = 0
    projection: Projection | None = field(init=False, repr=False, default=None)
    centre: float = field(init=False, repr=False, default=None)
    unit: float = field(init=False, repr=False, default=None)
    knots: np.ndarray = field(init=False, repr=False, default=None)
    network: SetNetwork = field(init=False, repr=False, default=None)

    def __post_init__(self):
        for name in ("n_examples", "n_pieces", "n_judged", "n_steps"):
            check_count(name, getattr(self, name))
        if self.n_components != 0:
            check_count("n_components", self.n_components)
        check_concentration(self.concentration)

    @property
    def needs_features(self) -> bool:
        return self.n_components > 0

    def _count(self):
        p = self.projection
        of_projection = p.mean.size + p.axes.size if p else 0
        of_network = sum(parameter.numel() for parameter in self.network.parameters())
        return 2 + self.knots.size + of_projection + of_network

    def __call__(self, logits, features=None) -> np.ndarray:
        """Option probabilities of the questions of one mixture, their own examples.

        Logits are ``[questions, options]``; else as the other methods.
        """
        return self.given(logits, features)(logits)

    def given(self, logits, features=None) -> Curve:
        """The curve for a mixture, of some of its questions, unlabelled.

        Parameters
        ----------
        logits : float array ``[examples, options]``
            In any order; one example at least.
        features : float array ``[examples, d]``, optional

        Raises
        ------
        RuntimeError, TypeError, ValueError
            As calling the method does.
        """
        logits = check_logits(logits)
        if logits.ndim != 2:
            raise ValueError(
                f"logits have shape {logits.shape}; examples of one mixture must be "
                "[examples, options]: give one mixture at a time"
            )
        self._check_ready(logits)
        features = self._check_features(features, logits.shape[:1])
        with torch.no_grad():
            moves = self.network(self._seen(log_odds(logits), features)[None])
        return Curve(self.knots, _move(torch.from_numpy(self.knots), moves)[0].numpy())

    def _fit(self, logits, labels, features, subjects):
        n_questions = self.n_examples + self.n_judged
        mixtures = draw_mixtures(subjects, n_questions, N_MIXTURES, self.concentration, self.seed)
        z = log_odds(logits)
        self.centre, self.unit = z.mean(), z.std() or 1.0
        self.knots = np.unique(np.quantile(z, np.linspace(0, 1, self.n_pieces + 1)))
        self.projection = Projection.fit(features, self.n_components) if self.n_components else None
        seen = self._seen(z, features)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = SetNetwork(seen.shape[1], len(self.knots)).double()
        # What a curve makes of a question is a weighted mean of its values at the knots.
        weights = np.stack([np.interp(z, self.knots, one) for one in np.eye(len(self.knots))], 1)
        correct = (logits.argmax(axis=1) == labels).astype(np.float64)
        self._train(mixtures, seen, torch.from_numpy(weights), torch.from_numpy(correct))

    def _train(self, mixtures, seen, weights, correct) -> None:
        knots = torch.from_numpy(self.knots)
        optimiser = torch.optim.AdamW(self.network.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.n_steps)
        rng = np.random.default_rng(self.seed)
        for _ in range(self.n_steps):
            batch = mixtures[rng.integers(len(mixtures), size=BATCH)]
            examples, judged = np.split(batch, [self.n_examples], axis=1)
            values = _move(knots, self.network(seen[examples]))  # [mixtures, points]
            z = torch.einsum("mqp,mp->mq", weights[judged], values)
            loss = nn.functional.binary_cross_entropy_with_logits(z, correct[judged])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()

    def _seen(self, z, features) -> torch.Tensor:
        """What the network sees of each question, float64 ``[questions, 1 + components]``."""
        columns = [(z - self.centre)[:, None] / self.unit]
        if self.projection:
            columns.append(self.projection(features))
        return torch.from_numpy(np.concatenate(columns, axis=1))


class SetNetwork(nn.Module):
    """From examples ``[..., examples, d]`` in any order to moves ``[..., points]``, at first 0."""

    def __init__(self, d: int, n_points: int):
        super().__init__()
        self.each = nn.Sequential(
            nn.Linear(d, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()
        )
        self.all = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, n_points))
        nn.init.zeros_(self.all[-1].weight)
        nn.init.zeros_(self.all[-1].bias)

    def forward(self, examples):
        return self.all(self.each(examples).mean(dim=-2))


def _move(knots, moves):
    """Rising values ``[..., points]`` at the knots: the first moved, the steps between scaled."""
    steps = torch.diff(knots) * moves[..., 1:].exp()
    return torch.cat([knots[:1] + moves[..., :1], steps], dim=-1).cumsum(dim=-1)
