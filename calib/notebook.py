"""Values that a chapter computes and its prose quotes."""

from __future__ import annotations

from IPython.display import display

from calib.report.text import interval_text

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
    value = value.item() if hasattr(value, "item") else value
    metadata = {"scrapbook": {"name": name, "mime_prefix": _PREFIX}}
    display({f"{_PREFIX}text/plain": repr(value)}, raw=True, metadata=metadata)


def glue_interval(name: str, value: float, low: float, high: float, digits: int = 3) -> None:
    """Glue a value, its bounds (``_low``, ``_high``) and the three as a text (``_text``)."""
    glue(name, float(value))
    glue(f"{name}_low", float(low))
    glue(f"{name}_high", float(high))
    glue(f"{name}_text", interval_text(value, low, high, digits))
