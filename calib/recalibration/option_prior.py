"""Three ways to take out of a model's answers what it thinks of the letters themselves.

A model may favour a letter whatever is asked. Divided by such a prior over the letters, option
probabilities say more about the options. The methods differ in the questions that the prior is
read off: real ones, ones without content, or real ones with their options moved around
(:mod:`calib.analysis.letters`). None needs labels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from scipy.special import log_softmax, logsumexp

from calib.metrics.arrays import as_array, as_reals
from calib.metrics.inputs import softmax
from calib.questions.check import NO_ANSWER
from calib.recalibration.logits import check_logits
from calib.recalibration.method import Method


@dataclass(eq=False)
class OptionPrior(Method):
    """Option probabilities over a prior of the letters, softmax(log p - log prior).

    The prior is the mean option probabilities of the logits it is fitted on. A letter that only
    some questions have has no mean over all of them, so all must have equally many options.

    Attributes
    ----------
    log_prior : float64 array ``[options]``
        None until fitted.
    """

    changes_answer: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    needs_equal_options: ClassVar[bool] = True

    log_prior: np.ndarray | None = field(init=False, default=None)

    @property
    def prior(self) -> np.ndarray:
        """Probability of each letter, float64 ``[options]``."""
        self._check_fitted()
        return np.exp(self.log_prior)

    def _count(self):
        return self.log_prior.size

    def _fit(self, logits, labels, features, subjects):
        # In logarithms throughout: a letter's mean probability may be too small for a float.
        self.log_prior = logsumexp(log_softmax(logits, axis=1), axis=0) - np.log(len(logits))

    def _apply(self, logits, features):
        return softmax(logits - self.log_prior)


class BatchCalibration(OptionPrior):
    """Takes the mean probabilities of a batch of questions for the letters' prior [1]_.

    So it takes for granted that the right answers stand at all letters equally often: where they
    do not, it takes that out as well.

    In the paper the batch is the questions that are to be answered, here
    ``method.fit(logits)(logits)``; fitted on the calibration split, which is a choice, the answer
    to a question does not depend on what else is asked.

    References
    ----------
    .. [1] Zhou et al., "Batch calibration: rethinking calibration for in-context learning and
       prompt engineering", arXiv 2309.17249, 2023.

    Examples
    --------
    >>> logits = np.log([[0.9, 0.1], [0.7, 0.3]])
    >>> method = BatchCalibration().fit(logits)
    >>> method.prior.round(3).tolist(), method(logits).round(3).tolist()
    ([0.8, 0.2], [[0.692, 0.308], [0.368, 0.632]])
    """


class ContextualCalibration(OptionPrior):
    """Takes what the model answers to questions without content for the letters' prior [1]_.

    Fitted on the logits of such questions, made by :func:`calib.questions.content_free`; called on
    others. The prior is the mean over them. The quotient is normalised, which is a choice: a flat
    prior then changes nothing. Labels other than -1, which these questions have, are refused.

    References
    ----------
    .. [1] Zhao, Wallace, Feng, Klein & Singh, "Calibrate before use: improving few-shot
       performance of language models", ICML 2021, arXiv 2102.09690.

    Examples
    --------
    >>> method = ContextualCalibration().fit(np.log([[0.6, 0.4], [0.2, 0.8]]))
    >>> method(np.log([[0.5, 0.5]])).round(3).tolist()
    [[0.6, 0.4]]
    """

    def _check_labels(self, logits, labels):
        if labels is None:
            return
        labels = as_array("labels", labels)
        if labels.dtype.kind not in "fiu" or (labels != NO_ANSWER).any():
            raise ValueError(
                f"{self} is fitted on questions without content, which have no labels: "
                "content_free makes them"
            )


class PriDe(OptionPrior):
    """Reads the letters' prior off questions with their options rotated: PriDe [1]_.

    As every option stands once at every letter, the mean log probability of each letter has
    nothing of the options in it, if options and letters add up in the logits. Its softmax is a
    question's prior; the prior is the mean over questions, of which few are enough.

    Fitted on logits ``[questions, rotations, options]`` by letter, of every rotation of the
    options, as :func:`calib.analysis.read_rotations` gives them; called as any other method.

    Examples
    --------
    An option that adds 2 and a letter that adds 1, at A and B in turn:

    >>> method = PriDe().fit([[[2.0 + 1.0, 0.0], [1.0, 2.0]]])
    >>> float(method.log_prior[0] - method.log_prior[1])
    1.0

    References
    ----------
    .. [1] Zheng, Zhou, Meng, Zhou & Huang, "Large language models are not robust multiple choice
       selectors", ICLR 2024, arXiv 2309.03882.
    """

    def _check_fitting_logits(self, logits):
        """The mean log probability of each letter, ``[questions, options]``."""
        logits = as_reals("logits", logits, "[questions, rotations, options]")
        self._check_equal_options(logits)  # before the rotations that a question does not have
        logits = check_logits(logits)
        if logits.ndim != 3 or logits.shape[1] != logits.shape[2]:
            raise ValueError(
                f"logits have shape {logits.shape}; they must be [questions, rotations, options], "
                "with as many rotations as options: take calib.analysis.read_rotations"
            )
        return log_softmax(logits, axis=2).mean(axis=1)
