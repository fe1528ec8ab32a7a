"""What all recalibration methods have in common: fitted on one split, called on another."""

from __future__ import annotations

import math
from typing import ClassVar, Self

import numpy as np

from calib.metrics import check, confidence_and_correct
from calib.metrics.arrays import as_array, as_reals, first_place
from calib.metrics.inputs import check_features, softmax
from calib.recalibration.logits import check_logits, count_present


class Method:
    """A map from logits to probabilities that is fitted on the calibration split.

    Every method is called alike, and all but two are fitted alike, on the questions of the
    calibration split, so that a table of them is one loop. The two are fitted on other logits:
    :class:`~calib.recalibration.ContextualCalibration` on those of questions without content,
    :class:`~calib.recalibration.PriDe` on those of rotations. A method writes ``_fit``, ``_apply``
    and ``_count``, whose input is checked here.

    Attributes
    ----------
    changes_answer : bool
        Whether the most probable option may become another one.
    needs_labels, needs_features : bool
        What fitting takes besides the logits, and calling too for features.
    needs_subjects : bool
        Whether fitting takes subjects.
    needs_equal_options : bool
        Whether all questions must have every option, for the method keeps numbers for each; the
        others take questions that differ in their number of options.
    n_fitted : int
        Numbers kept from fitting: what the method costs in memory. RuntimeError before.
    """

    changes_answer: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True
    needs_features: ClassVar[bool] = False
    needs_subjects: ClassVar[bool] = False
    needs_equal_options: ClassVar[bool] = False
    _widths: tuple[int, int | None] | None = None  # options and features, known once fitted

    @property
    def n_fitted(self) -> int:
        self._check_fitted()
        return self._count()

    def fit(self, logits, labels=None, features=None, subjects=None) -> Self:
        """Fit the method and return it.

        Parameters
        ----------
        logits : float array ``[questions, options]``
            -inf at the end of a row are options that the question does not have.
        labels : int array ``[questions]``
            Not read by methods that need none.
        features : float array ``[questions, d]``, optional
            What is known of each question besides its logits, such as a layer's residual stream;
            not read by methods that need none.
        subjects : array_like of str ``[questions]``, optional
            :attr:`calib.Reading.subjects`, or any other parts that the questions fall into;
            not read by methods that need none.

        Raises
        ------
        TypeError, ValueError
            If there are no questions, something is missing, not finite or of another length, or if
            all answers are right or all wrong: there is no doubt to learn from.
        """
        self._widths = None
        logits = self._check_fitting_logits(logits)
        labels = self._check_labels(logits, labels)
        features = self._check_features(features, logits.shape[:-1])
        subjects = self._check_subjects(subjects, len(logits))
        self._fit(logits, labels, features, subjects)
        self._widths = logits.shape[1], None if features is None else features.shape[1]
        return self

    def __call__(self, logits, features=None) -> np.ndarray:
        """Option probabilities, float64 ``[..., options]``, of logits ``[..., options]``.

        Features, where they are needed, are ``[..., d]`` with the same leading axes. An option that
        a question does not have, of logit -inf, gets exactly 0.

        Raises
        ------
        RuntimeError
            If the method has not been fitted.
        TypeError, ValueError
            If there are no questions, or logits or features are not finite, missing, or of another
            shape than those it was fitted on.
        """
        logits = check_logits(logits)
        self._check_ready(logits)
        features = self._check_features(features, logits.shape[:-1])
        rows = logits.reshape(-1, logits.shape[-1])
        return self._apply(rows, features).reshape(logits.shape)

    def _fit(self, logits, labels, features, subjects) -> None:
        raise NotImplementedError

    def _apply(self, logits, features) -> np.ndarray:
        raise NotImplementedError

    def _count(self) -> int:
        raise NotImplementedError

    def _check_fitted(self) -> None:
        if self._widths is None:
            raise RuntimeError(f"{self} has not been fitted; call fit(logits, labels) first")

    def _check_ready(self, logits) -> None:
        self._check_fitted()
        if not self.needs_equal_options:
            return
        if logits.shape[-1] != self._widths[0]:
            raise ValueError(
                f"logits have {logits.shape[-1]} options, those this was fitted on "
                f"{self._widths[0]}; fit it again for other questions"
            )
        self._check_equal_options(logits)

    def _check_equal_options(self, logits) -> None:
        absent = np.isneginf(logits)
        if absent.any():
            at = first_place(absent)
            raise ValueError(
                f"logits{list(at)} is -inf; {type(self).__name__} keeps numbers for each option, "
                "so all questions must have every option: fit and call it on those of one number "
                "n at a time, logits[n_options == n, :n]"
            )

    def _check_fitting_logits(self, logits) -> np.ndarray:
        logits = check_logits(logits)
        if logits.ndim != 2:
            raise ValueError(
                f"logits have shape {logits.shape}; to fit, they must be [questions, options]"
            )
        if self.needs_equal_options:
            self._check_equal_options(logits)
        return logits

    def _check_labels(self, logits, labels):
        if not self.needs_labels:
            return None
        if labels is None:
            raise ValueError(f"{self} is fitted on labels; pass fit(logits, labels)")
        p, labels = check(softmax(logits), labels)
        absent = labels >= count_present(logits)
        if absent.any():
            at = int(absent.argmax())
            raise ValueError(
                f"labels[{at}] is {labels[at]}; question {at} has {count_present(logits)[at]} "
                "options: drop the question or recode its label"
            )
        _, right = confidence_and_correct(p, labels)
        if right.all() or not right.any():
            raise ValueError(
                f"all {len(right)} answers are {'right' if right[0] else 'wrong'}; calibration is "
                "learned from both kinds: use more questions"
            )
        return labels

    def _check_features(self, features, lead: tuple[int, ...]):
        """Float64 ``[questions, d]`` of features ``[*lead, d]``."""
        if not self.needs_features:
            return None
        if features is None:
            raise ValueError(
                f"{self} reads features too; pass features= of shape [questions, d], such as a "
                "layer's residual streams"
            )
        features = as_reals("features", features, "[questions, d]")
        if features.ndim < 1 or features.shape[:-1] != lead:
            raise ValueError(
                f"features have shape {features.shape}; for logits {[*lead, 'options']} they must "
                f"be {[*lead, 'd']}"
            )
        features = check_features(features.reshape(math.prod(lead), features.shape[-1]))
        if self._widths is not None and features.shape[1] != self._widths[1]:
            raise ValueError(
                f"features have {features.shape[1]} columns, those this was fitted on "
                f"{self._widths[1]}; pass the same layer's"
            )
        return features

    def _check_subjects(self, subjects, n_questions: int):
        if not self.needs_subjects:
            return None
        if subjects is None:
            raise ValueError(f"{self} is fitted on subjects too; pass fit(..., subjects=)")
        subjects = as_array("subjects", subjects, dtype=object)  # else numbers become text
        if subjects.shape != (n_questions,):
            raise ValueError(
                f"subjects have shape {subjects.shape}; there must be one subject for each of the "
                f"{n_questions} questions"
            )
        for i, subject in enumerate(subjects):
            if not isinstance(subject, str):
                raise TypeError(f"subjects[{i}] is {subject!r}; a question's subject is a str")
        return subjects.astype(str)
