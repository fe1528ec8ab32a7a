"""Feature clipping: no feature that the unembedding reads may be larger than a threshold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.special import log_softmax

from calib._checks import check_count, check_not_negative, check_positive
from calib.metrics.arrays import as_reals
from calib.metrics.inputs import check_features, softmax
from calib.questions.prompts import option_tokens
from calib.recalibration.method import Method

if TYPE_CHECKING:
    from calib.models.model import Model

TAIL = 1e-4  # share of features above the highest finite threshold tried


@dataclass(eq=False)
class FeatureClipping(Method):
    """Logits of features clipped at a threshold C, W · clip(φ, -C, C) + b [1]_.

    Made by :meth:`of` from a model; the features φ are what :func:`final_features` gives. At C = 0
    all questions get the same answer, the bias alone; at infinity the logits are exactly the
    model's. In between the answer may change.

    Fitting tries thresholds at quantiles of |φ|, closer together towards the largest, and
    infinity, and keeps that of lowest NLL. ECE would not do: a constant answer, as confident as it
    is often right, has none. Between equal ones it keeps the larger.

    After [1]_, which clips the features of an image classifier, not negative there, from above
    alone. Choices are the final norm's output as φ, whose sign means nothing, hence both sides; the
    grid; and NLL.

    Parameters
    ----------
    rows : float array ``[options, d]``
        W, with the model's logit scale.
    bias : float array ``[options]``
        b, with it too.
    two_sided : bool
        Otherwise the features are clipped from above alone, min(φ, C), and at C = 0 the negative
        ones still speak.
    cap : float or None
        The model's soft-cap.
    tolerance : float
        Largest difference allowed between the logits given and those of their features, over the
        size of a logit.
    n_thresholds : int
        Tried besides infinity.

    Attributes
    ----------
    threshold : float or None
        C, from 0 to infinity; None until it is fitted.

    References
    ----------
    .. [1] Tao et al., "Feature clipping for uncertainty calibration", AAAI 2025, arXiv 2410.19796.

    Examples
    --------
    >>> x = np.array([[1.0], [1.0], [1.0], [1.0], [9.0]])
    >>> method = FeatureClipping(rows=np.array([[1.0], [0.0]]), bias=np.zeros(2))
    >>> method.fit(x * [1, 0], [0, 0, 0, 1, 1], x).threshold
    1.0
    """

    changes_answer: ClassVar[bool] = True
    needs_features: ClassVar[bool] = True

    rows: np.ndarray = field(repr=False)
    bias: np.ndarray = field(repr=False)
    two_sided: bool = True
    cap: float | None = None
    tolerance: float = 1e-4
    n_thresholds: int = 50
    threshold: float | None = field(init=False, default=None)

    def __post_init__(self):
        self.rows = as_reals("rows", self.rows, "[options, d]")
        self.bias = as_reals("bias", self.bias, "[options]")
        if self.rows.ndim != 2 or self.bias.shape != self.rows.shape[:1]:
            raise ValueError(
                f"rows have shape {self.rows.shape}, bias {self.bias.shape}; they must be "
                "[options, d] and [options]"
            )
        if self.cap is not None:
            check_positive("cap", self.cap, 30.0)
        check_not_negative("tolerance", self.tolerance)
        check_count("n_thresholds", self.n_thresholds)

    @classmethod
    def of(
        cls, model: Model, n_options: int = 4, two_sided: bool = True, *, chat: bool = False
    ) -> FeatureClipping:
        """Clip what a model's unembedding reads, for questions of so many options.

        Where questions differ in their number of options, give the largest. If they are asked in
        the model's chat template, say ``chat=True``: its letters may be other tokens.

        Raises
        ------
        ValueError
            If the model is remote, for its weights are not here, and as
            :func:`calib.questions.option_tokens`.

        Examples
        --------
        >>> from calib import load_questions, open_model, read_layers
        >>> model, questions = open_model("almanac"), load_questions("almanac", limit=50)
        >>> reading = read_layers(model, questions, keep_residuals=[model.n_layers])
        >>> logits, features = reading.logits[:, -1], final_features(model, reading.residuals[8])
        >>> method = FeatureClipping.of(model).fit(logits, reading.labels, features)
        >>> method(logits, features).shape
        (50, 4)
        """
        model.require_rows("clipping needs its final norm and unembedding")
        tokens = option_tokens(model.tokenizer, n_options, chat=chat)
        unembedding = model.weights_of("unembedding")
        rows, bias = unembedding.weight[tokens], torch.zeros(n_options)
        if unembedding.bias is not None:
            bias = unembedding.bias[tokens]
        scale = 1.0 if model.logit_scale is None else model.logit_scale
        rows, bias = (scale * tensor.detach().cpu().double().numpy() for tensor in (rows, bias))
        return cls(rows, bias, two_sided, model.soft_cap, model.tolerance)

    def _count(self):
        return 1

    def _fit(self, logits, labels, features, subjects):
        own = self._read_checked(logits, features)
        levels = 1 - np.geomspace(TAIL, 1, self.n_thresholds)
        thresholds = [np.inf, *np.quantile(np.abs(features), levels)]
        losses = []
        for threshold in thresholds:
            clipped = log_softmax(logits + (self._read(features, threshold) - own), axis=1)
            losses.append(-clipped[np.arange(len(labels)), labels].mean())
        self.threshold = float(thresholds[np.argmin(losses)])

    def _apply(self, logits, features):
        # What clipping changes is added to the logits given: they stay the model's own to the last
        # digit where it changes nothing, whatever type the model computes in.
        own = self._read_checked(logits, features)
        return softmax(logits + (self._read(features, self.threshold) - own))

    def _read(self, features, threshold=np.inf) -> np.ndarray:
        """Logits ``[questions, options]`` of clipped features."""
        clipped = np.clip(features, -threshold if self.two_sided else None, threshold)
        logits = clipped @ self.rows.T + self.bias
        return logits if self.cap is None else self.cap * np.tanh(logits / self.cap)

    def _read_checked(self, logits, features) -> np.ndarray:
        """Logits of the features, which must be the logits given."""
        if (logits.shape[1], features.shape[1]) != self.rows.shape:
            raise ValueError(
                f"logits have {logits.shape[1]} options and features {features.shape[1]} columns; "
                f"the unembedding's rows are {list(self.rows.shape)}: pass final_features(model, "
                "reading.residuals[model.n_layers]) of questions of as many options"
            )
        own = self._read(features)
        # Logits may happen to be next to nothing: features of such length give such ones else.
        usual = np.linalg.norm(self.rows, axis=1).max() * np.sqrt(np.square(features).mean())
        present = np.isfinite(logits)
        size = max(np.abs(logits[present]).max(), usual)
        off = np.abs(own - logits)[present].max() / max(size, np.finfo(float).tiny)
        if off > self.tolerance:
            raise ValueError(
                f"the logits are not those of the features; they part by {off:.1e} of a logit's "
                f"size (allowed {self.tolerance:.0e}): pass reading.logits[:, -1] and "
                "final_features(model, reading.residuals[model.n_layers]) of the same model"
            )
        return own


def final_features(model: Model, residuals) -> np.ndarray:
    """What the unembedding reads: the final norm's output, float64 ``[questions, d_model]``.

    Parameters
    ----------
    residuals : float array ``[questions, d_model]``
        ``reading.residuals[model.n_layers]``.

    Raises
    ------
    TypeError, ValueError
        If the residuals are not finite ``[questions, d_model]``, or the model is remote, for its
        weights are not here.

    Examples
    --------
    >>> from calib import open_model
    >>> final_features(open_model("almanac"), np.ones((3, 128))).shape
    (3, 128)
    """
    model.require_rows("clipping needs its final norm and unembedding")
    residuals = check_features(residuals)
    if residuals.shape[1] != model.d_model:
        raise ValueError(
            f"residuals have {residuals.shape[1]} columns; those of {model.name} have "
            f"{model.d_model}"
        )
    norm = model.weights_of("norm")
    device = next(norm.parameters(), model.weights_of("unembedding").weight).device
    with model.running(), torch.no_grad():
        features = norm(torch.from_numpy(residuals).to(model.dtype).to(device))
    return features.cpu().double().numpy()
