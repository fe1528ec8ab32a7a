"""Values that a chapter computes and its prose quotes, and what its notebook runs on.

What is heavy is imported where it is used: :func:`runtime` has to come before it.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import requires, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calib.analysis.comparison import Comparison

__all__ = ["glue", "glue_comparison", "glue_interval", "runtime"]

_PREFIX = "application/papermill.record/"
_LIBRARY = "calibration-across-layers"
# Modules that are not called as what installs them.
_MODULES = {_LIBRARY: "calib", "scikit-learn": "sklearn", "websocket-client": "websocket"}


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
    from calib.report.text import interval_text

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


def runtime() -> None:
    """Print one line: the versions of what the notebook uses, the GPU and its memory.

    The first cell of a notebook calls it on Colab, right after it has installed the library.

    Raises
    ------
    RuntimeError
        If the library, or a package that it needs, was imported before another version of it was
        installed: the old one stays in use until the session is restarted.
    """
    if replaced := _replaced():
        raise RuntimeError(
            f"{', '.join(replaced)}: restart the session (Runtime → Restart session), then run "
            "the notebook again from its first cell; until then Python goes on with the old ones"
        )
    import torch

    found = [f"calib {version(_LIBRARY)}"]
    found += [f"{name} {version(name)}" for name in ("torch", "transformers", "nnsight")]
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        found += [gpu.name, f"{gpu.total_memory / 2**30:.1f} GiB"]
    else:
        found += ["no GPU: Runtime → Change runtime type → T4"]
    print(" · ".join(found))


def _replaced() -> list[str]:
    """What of the library's needs is imported in another version than is now installed."""
    needed = [line for line in requires(_LIBRARY) if "extra ==" not in line]
    found = []
    for name in (_LIBRARY, *(re.match(r"[\w.-]+", line)[0] for line in needed)):
        module = sys.modules.get(_MODULES.get(name, name.replace("-", "_")))
        old, new = getattr(module, "__version__", None), version(name)
        # Without the tag of a build: torch names one where its distribution need not.
        if old and old.partition("+")[0] != new.partition("+")[0]:
            found.append(f"{name} was imported as {old} and installed as {new}")
    return found
