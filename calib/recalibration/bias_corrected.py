"""A temperature and one offset for each letter: what an opinion about the letters adds to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from calib.metrics.inputs import softmax
from calib.recalibration.method import Method


@dataclass(eq=False)
class BiasCorrectedTemperature(Method):
    """Divides logits by a temperature and adds an offset for each letter, softmax(z / T + b) [1]_.

    Fitted by NLL, which is convex in 1/T and b, with 1/T at least 0: where the logits say nothing
    of the answer, T is infinite and the offsets alone are left, the shares of the right letters.
    Unlike a temperature, the offsets can change answers: they take out what a model, or a lens,
    thinks of a letter whatever is asked.

    Attributes
    ----------
    value : float
        The temperature T, up to infinity; None until fitted.
    offsets : float64 array ``[options]``
        Their mean is 0; None until fitted.

    References
    ----------
    .. [1] Alexandari, Kundaje & Shrikumar, "Maximum likelihood with bias-corrected calibration is
       hard-to-beat at label shift adaptation", ICML 2020, arXiv 1901.06852.

    Examples
    --------
    By hand: the logits differ by 2 where the first letter is right in 3 of 4 questions, by 0 where
    the second is, so 2 / T + Δb = log 3 and Δb = -log 3:

    >>> logits, labels = [[3.0, 1.0], [2.0, 2.0]] * 4, [0, 1] * 3 + [1, 0]
    >>> method = BiasCorrectedTemperature().fit(logits, labels)
    >>> round(method.value, 3), method.offsets.round(3).tolist()
    (0.91, [-0.549, 0.549])
    """

    changes_answer: ClassVar[bool] = True
    needs_equal_options: ClassVar[bool] = True

    value: float | None = field(init=False, default=None)
    offsets: np.ndarray | None = field(init=False, default=None)

    def _count(self):
        return 1 + self.offsets.size

    def _fit(self, logits, labels, features, subjects):
        z = logits - logits.mean(axis=1, keepdims=True)
        unit = float(np.abs(z).max()) or 1.0  # so that all numbers sought are of one size
        z, target = z / unit, np.eye(z.shape[1])[labels]

        def loss(x):
            scores = x[0] * z + x[1:]
            excess = softmax(scores) - target  # of the probabilities
            value = -log_softmax(scores, axis=1)[target == 1].mean()
            return value, np.append((excess * z).sum(axis=1).mean(), excess.mean(axis=0))

        start = np.zeros(1 + z.shape[1])
        bounds = [(0, None)] + [(None, None)] * z.shape[1]
        options = {"maxiter": 1000, "ftol": 1e-15, "gtol": 1e-9}
        found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options=options).x
        self.value = float(unit / found[0]) if found[0] > 0 else np.inf
        self.offsets = found[1:] - found[1:].mean()

    def _apply(self, logits, features):
        return softmax(logits / self.value + self.offsets)
