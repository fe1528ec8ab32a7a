"""Array functions that several modules share."""

from __future__ import annotations

import numpy as np


def softmax(logits) -> np.ndarray:
    """Probabilities, float64, of logits ``[..., options]``.

    >>> softmax([[0.0, 0.0], [1000.0, 0.0]]).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    logits = np.asarray(logits, dtype=np.float64)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
