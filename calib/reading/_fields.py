"""Whether the fields of a reading fit together, wherever they came from."""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from calib.questions.check import NO_ANSWER


def check_fields(reading) -> dict:
    """The fields of a reading as arrays that fit together, or ValueError."""
    logits = np.asarray(reading.logits)
    if logits.ndim != 3 or logits.dtype.kind != "f" or 0 in logits.shape[1:]:
        raise ValueError(
            f"logits are {logits.dtype} of shape {logits.shape}; they must be floats "
            "[questions, layers + 1, options]"
        )
    n_questions, n_layers, width = logits.shape
    n_options = reading.n_options
    fields = {
        "labels": np.asarray(reading.labels),
        "subjects": np.asarray(reading.subjects),
        "n_options": np.full(n_questions, width) if n_options is None else np.asarray(n_options),
    }
    if n_questions == 0:  # a selection of nothing has no types
        fields = {name: np.empty(0, t) for name, t in zip(fields, (int, str, int), strict=True)}
    for name, kinds, what in (
        ("labels", "iu", "integers"), ("subjects", "U", "text"), ("n_options", "iu", "integers"),
    ):  # fmt: skip
        _check_array(name, fields[name], kinds, what, (n_questions,))
    fields = {**fields, "n_options": fields["n_options"].astype(np.int64)}
    ids = None
    if reading.question_ids is not None:
        ids = np.asarray(reading.question_ids)
        _check_array("question_ids", ids, "u", "unsigned integers", (n_questions,))
    if reading.posterior is not None:
        fields["posterior"] = np.asarray(reading.posterior)
        _check_array("posterior", fields["posterior"], "fiu", "numbers", (n_questions, width))
    residuals = {int(ell): np.asarray(stream) for ell, stream in reading.residuals.items()}
    for ell, stream in residuals.items():
        if not 0 <= ell < n_layers:
            raise ValueError(
                f"there are residuals of layer {ell}; layers run from 0 to {n_layers - 1}"
            )
        shape = (n_questions, *stream.shape[1:2])
        _check_array(f"residuals[{ell}]", stream, "fiu", "numbers", shape)
        check_finite(f"residuals[{ell}]", stream)
    _check_options(logits, **fields)
    return fields | {"logits": logits, "residuals": residuals, "question_ids": ids}


def check_finite(name: str, array, allowed=False) -> None:
    """Refuse what is not finite, but where it is ``allowed``, a mask that broadcasts."""
    wrong = ~(np.isfinite(array) | allowed)
    if wrong.any():
        at = tuple(int(i) for i in np.unravel_index(wrong.argmax(), wrong.shape))
        raise ValueError(
            f"{name}{list(at)} is {array[at]}, which is not finite: read the model again, in "
            "float32 or bfloat16 if it overflows"
        )


def absent_options(n_options, width: int) -> np.ndarray:
    """Which of the columns a question has no option for, bool ``[questions, width]``.

    >>> absent_options([2, 3], 3).tolist()
    [[False, False, True], [False, False, False]]
    """
    return np.arange(width) >= np.asarray(n_options)[:, None]


def posterior_of(questions: Dataset) -> np.ndarray | None:
    """Posteriors ``[questions, options]``, 0 where there is no option, or None if not known."""
    if "posterior" not in questions.column_names:
        return None
    rows = questions["posterior"]
    width = max(len(row) for row in rows)
    return np.array([[*row, *[0.0] * (width - len(row))] for row in rows])


def _check_array(name, array, kinds, what, shape) -> None:
    if array.dtype.kind not in kinds or array.shape != shape:
        raise ValueError(
            f"{name}: {array.dtype} of shape {array.shape}; must be {what} of shape {shape}, the "
            "same questions as the logits"
        )


def _check_options(logits, labels, n_options, subjects, posterior=None) -> None:
    """Options are there, and nowhere else; the right one is one of them."""
    width = logits.shape[2]
    _check_range("n_options", n_options, 2, np.full_like(n_options, width))
    _check_range("labels", labels, NO_ANSWER, n_options - 1)
    absent = absent_options(n_options, width)
    check_finite("logits", logits, absent[:, None])
    for name, array, nothing in (("logits", logits, -np.inf), ("posterior", posterior, 0)):
        if array is None:
            continue
        there = np.moveaxis(array, -1, 1)[absent] != nothing
        if there.any():
            raise ValueError(
                f"{name} say something of options that their question does not have: beyond "
                f"n_options every entry must be {nothing}"
            )


def _check_range(name, values, low, high) -> None:
    outside = (values < low) | (values > high)
    if outside.any():
        i = int(outside.argmax())
        raise ValueError(f"{name}[{i}] is {values[i]}; it must be from {low} to {high[i]}")
