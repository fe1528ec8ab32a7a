"""Checks of single arguments that every room makes: counts, numbers, levels."""

from __future__ import annotations

from numbers import Integral, Real


def check_count(name: str, value) -> int:
    """A whole number of at least 1, such as ``n_bins``; TypeError or ValueError if it is none.

    >>> check_count("n_bins", 10)
    10
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; it must be an integer of at least 1")
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be an integer of at least 1")
    return int(value)


def check_real(name: str, value) -> None:
    """Refuse what is no single number, such as a string."""
    if not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r}; it must be a number")


def check_not_negative(name: str, value) -> None:
    """Refuse a weight or an exponent below 0, infinite or nan."""
    check_real(name, value)
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} is {value}; it must be a finite number of at least 0")


def check_positive(name: str, value, usual) -> None:
    """Refuse what is no number above 0, infinity allowed; ``usual`` is a value to try."""
    check_real(name, value)
    if not value > 0:
        raise ValueError(f"{name} is {value}; it must be above 0, such as {usual}")


def check_level(level) -> None:
    """Refuse a confidence level that is not between 0 and 1."""
    check_real("level", level)
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie between 0 and 1, such as 0.95")
