"""Values that a chapter computes and its prose quotes."""

from __future__ import annotations

from calib.analysis.comparison import Comparison
from calib.report.text import interval_text

__all__ = ["glue", "glue_comparison", "glue_interval"]

_PREFIX = "application/papermill.record/"


def glue(name: str, value) -> None:
    """Keep a number or a text under a name, for ``{glue:text}`` in the prose and for the tests.

    The same as MyST-NB's ``glue``, but it needs IPython only, so that a chapter also runs as a
    plain notebook.

    Parameters
    ----------
    name : str
        Unique within the book.
    value : float, int or str
        NumPy scalars are turned into Python's: their text would carry their type.
    """
    from IPython.display import display  # what runs a notebook brings it, the library does not

    value = value.item() if hasattr(value, "item") else value
    metadata = {"scrapbook": {"name": name, "mime_prefix": _PREFIX}}
    display({f"{_PREFIX}text/plain": repr(value)}, raw=True, metadata=metadata)


def glue_interval(name: str, interval, digits: int = 3) -> str:
    """Glue a value, its limits (``_low``, ``_high``) and the three as a text (``_text``).

    Parameters
    ----------
    interval : Interval, or value, low and high
    digits : int
        Of the text, after the point.

    Returns
    -------
    str
        The text, for a table.
    """
    value, low, high = interval
    text = interval_text(value, low, high, digits)
    for end, part in {"": value, "_low": low, "_high": high}.items():
        glue(name + end, float(part))
    glue(f"{name}_text", text)
    return text


def glue_comparison(prefix: str, comparison: Comparison, metrics, keys=None, *, changes=True):
    """Glue metrics of ways of answering, as ``prefix_way_metric``, and their changes, ``_change``.

    Parameters
    ----------
    metrics : sequence of str
    keys : dict of str to str, optional
        Which ways, and what they are called in the names; all of them, with ``_`` for blanks, if
        not given.
    changes : bool
        Whether to glue the differences from the reference, too.
    """
    if keys is None:
        keys = {name: "_".join(name.split()) for name in comparison.table.index}
    for name, key in keys.items():
        for metric in metrics:
            called = f"{prefix}_{key}_{metric}"
            glue_interval(called, comparison.interval(name, metric))
            if changes:
                glue_interval(f"{called}_change", comparison.change(name, metric))
