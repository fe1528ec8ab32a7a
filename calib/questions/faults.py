"""What a question must be: the rules of a row, in one place, for questions from wherever."""

from __future__ import annotations

import math
from numbers import Integral, Real
from string import ascii_uppercase

import numpy as np

from calib.questions.mmlu import has_known_repeat

LETTERS = ascii_uppercase
MAX_OPTIONS = len(LETTERS)
NO_ANSWER = -1  # as a label it makes every metric refuse
SUM_TOLERANCE = 1e-4  # of a posterior
REPEAT = "an option stands twice"  # how the fault begins that can be dropped or kept


def fault_of(row: dict, *, known=False, ordered=False, unanswered=False) -> str | None:
    """What is wrong with a row, and the rule it breaks; None if nothing is.

    Where some row has a posterior (``known``) or an order (``ordered``), each needs one.
    """
    for name in ("question", "subject"):
        if fault := _text_fault(row.get(name), f"the {name}"):
            empty_is_meant = name == "question" and unanswered and _is_content_free(row)
            if not empty_is_meant:
                return fault
    choices, answer = row.get("choices"), row.get("answer")
    if isinstance(choices, np.ndarray):
        choices = choices.tolist()
    if not isinstance(choices, list | tuple):
        return f"choices is {shown(choices)} ({_kind(choices)}); it must be a list of texts"
    if not 2 <= len(choices) <= MAX_OPTIONS:
        return f"{len(choices)} options; there must be from 2 to {MAX_OPTIONS}"
    if unanswered and _is_content_free(row):
        return None
    for k, choice in enumerate(choices):
        if fault := _text_fault(choice, "an option"):
            return f"{fault} (option {k} of {shown(list(choices))})"
    if isinstance(answer, bool | np.bool_) or not isinstance(answer, Real) or answer != answer // 1:
        return (
            f"answer is {shown(answer)} ({_kind(answer)}); it must be a whole number from 0 to "
            f"{len(choices) - 1}"
        )
    if not 0 <= answer < len(choices):
        return f"answer is {shown(answer)}; it must be a whole number from 0 to {len(choices) - 1}"
    if known and (fault := _posterior_fault(row.get("posterior"), len(choices))):
        return fault
    if len(set(choices)) < len(choices) and not (
        is_marked(row.get("repeats")) or has_known_repeat(row)
    ):
        return f"{REPEAT} in {shown(list(choices))}; options must differ"
    if ordered and not _is_order(row.get("order"), len(choices)):
        return (
            f"order is {shown(row.get('order'))}; it must hold the places 0 to {len(choices) - 1}, "
            "or the column have another name"
        )
    return None


def _text_fault(value, what: str) -> str | None:
    if not isinstance(value, str):
        return f"{what} is {shown(value)} ({_kind(value)}); it must be a text"
    if not value.strip():
        return f"{what} is empty; it needs a text"
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"{what} holds {value[error.start]!r}, half a character; save it as UTF-8 again"
    return None


def _posterior_fault(posterior, n_options: int) -> str | None:
    if isinstance(posterior, np.ndarray):
        posterior = posterior.tolist()
    rule = f"it must be {n_options} numbers from 0 that sum to 1"
    numbers = isinstance(posterior, list | tuple) and all(
        isinstance(p, Real) and not isinstance(p, bool) for p in posterior
    )
    if not numbers or len(posterior) != n_options or not all(0 <= p < math.inf for p in posterior):
        return f"posterior is {shown(posterior)}; {rule}"
    if abs(math.fsum(posterior) - 1) > SUM_TOLERANCE:
        return f"posterior {shown(posterior)} sums to {math.fsum(posterior):.6g}; {rule}"
    return None


def _is_order(order, n_options: int) -> bool:
    if isinstance(order, np.ndarray):
        order = order.tolist()
    places = isinstance(order, list | tuple) and all(isinstance(k, Integral) for k in order)
    return places and sorted(order) == list(range(n_options))


def _is_content_free(row) -> bool:
    """Made by content_free: one text for question and options, and no option is right."""
    answer, text = row.get("answer"), row.get("question")
    if not isinstance(answer, Integral) or answer != NO_ANSWER:
        return False
    if not isinstance(text, str) or (text.strip() and _text_fault(text, "the question")):
        return False
    choices = row.get("choices")
    return isinstance(choices, list | tuple | np.ndarray) and all(
        isinstance(choice, str) and choice == text for choice in choices
    )


def is_marked(value) -> bool:
    """Whether the column ``repeats`` says that an option may stand twice."""
    return isinstance(value, bool | np.bool_) and bool(value)


def is_missing(value) -> bool:
    """Null, or not a number: what pandas writes for null."""
    return value is None or (isinstance(value, Real) and value != value)


def shown(value) -> str:
    """The beginning of a value, for errors, even of what is too long or too deep to be written."""
    try:
        return f"{value!r:.80}"
    except (ValueError, RecursionError):
        return "something too long to be shown"


def _kind(value) -> str:
    return "null" if value is None else type(value).__name__
