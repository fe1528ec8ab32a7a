"""Readings of real language models that come with the package: the atlas.

>>> from calib import atlas, load_reading
>>> reading = load_reading("qwen2.5-coder-1.5b-instruct/zero-shot")
>>> len(reading), reading.n_layers
(14042, 28)

An entry is a folder ``<model>/<prompt>``, a reading whose logits are kept in float16; ``calib atlas
MODEL`` writes one of any model. What each was made from stands in its ``provenance``.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from calib.reading.reading import Reading

__all__ = ["names"]

SHIPPED = files("calib") / "reading" / "shipped"
SHOTS = ("zero", "one", "two", "three", "four", "five")


def names() -> list[str]:
    """The readings that come with the package, as ``<model>/<prompt>``.

    >>> [name for name in names() if name.startswith("smollm2")]
    ['smollm2-135m-instruct/zero-shot']
    """
    with as_file(SHIPPED) as folder:
        entries = (file.parent.relative_to(folder) for file in folder.glob("*/*/reading.json"))
        return sorted(entry.as_posix() for entry in entries)


def load_entry(name: str) -> Reading:
    """A reading that comes with the package; ValueError names those there are."""
    there = names()
    if name not in there:
        close = difflib.get_close_matches(name, there, n=3) or there
        raise ValueError(
            f"there is no file or folder {name!r} here, and no reading of that name comes with the "
            f"package; did you mean {', '.join(close)}?"
        )
    with as_file(SHIPPED / name) as folder:
        reading = Reading.load(folder)
    return replace(reading, logits=reading.logits.astype(np.float32))


def save_entry(reading: Reading, folder: Path) -> None:
    """Write a reading as an entry: without residual streams, its logits in float16.

    They are counted from the largest of a question's options, which changes no probability and
    rounds the likely options least.
    """
    logits = reading.logits - reading.logits.max(axis=2, keepdims=True)
    replace(reading, logits=logits.astype(np.float16), residuals={}).save(folder)


def prompt_name(shots: int, chat: bool) -> str:
    """What an entry's prompt is called.

    >>> prompt_name(0, chat=False), prompt_name(5, chat=True)
    ('zero-shot', 'five-shot-chat')
    """
    return f"{SHOTS[shots]}-shot" + ("-chat" if chat else "")
