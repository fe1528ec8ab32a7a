"""Readings from wherever they are, and several of them on the questions that all have read."""

from __future__ import annotations

from collections import defaultdict
from os import PathLike
from pathlib import Path

import numpy as np

from calib.reading.atlas import load_entry
from calib.reading.harness import read_harness
from calib.reading.reading import Reading


def load_reading(source) -> Reading:
    """A reading from a folder, from lm-evaluation-harness' files, or one that the package brings.

    Parameters
    ----------
    source : str, Path or list of them
        A folder that :meth:`calib.Reading.save` wrote; a file ``samples_*.jsonl`` of the harness,
        or several of one run; or a name of :func:`calib.atlas.names`. What exists on disk comes
        before a name.

    Raises
    ------
    TypeError
        If the source is of another kind.
    ValueError
        If there is neither such a path nor such a name, or what is there holds no reading.

    Examples
    --------
    >>> reading = load_reading("smollm2-135m-instruct/zero-shot")
    >>> reading.provenance["shots"], reading.logits.shape
    (0, (14042, 31, 4))
    """
    several = isinstance(source, list | tuple)
    parts = list(source) if several else [source]
    if not parts or not all(isinstance(part, str | PathLike) for part in parts):
        raise TypeError(
            f"the source is {source!r:.60}; it must be a folder, a name of calib.atlas.names(), or "
            "one or several files of lm-evaluation-harness"
        )
    if several or Path(source).suffix == ".jsonl":
        return read_harness(parts)
    if Path(source).is_file():
        raise ValueError(
            f"{source} is a file, and no samples_*.jsonl of lm-evaluation-harness; a reading is a "
            "folder with reading.safetensors and reading.json: name that"
        )
    return Reading.load(source) if Path(source).is_dir() else load_entry(str(source))


def same_questions(*readings: Reading) -> list[Reading]:
    """Readings cut down to the questions that all of them have read, in the order of the first.

    So that two prompts or two models are compared question by question. The same question is one of
    the same subject, text and options in the same order; where a set repeats a question, its first
    place there goes with the first place here.

    Raises
    ------
    ValueError
        If a reading does not say which its questions are, or they have none in common.

    Examples
    --------
    >>> names = [f"qwen2.5-coder-1.5b-instruct/{prompt}-shot" for prompt in ("zero", "five")]
    >>> zero, five = same_questions(*map(load_reading, names))
    >>> len(zero), len(five), bool((zero.labels == five.labels).all())
    (2000, 2000, True)
    """
    places = [_places(reading, number) for number, reading in enumerate(readings)]
    common = [key for key in places[0] if all(key in place for place in places[1:])]
    if not common:
        raise ValueError(
            "these readings have no question in common; were their options shuffled, or are they "
            "of different sets?"
        )
    return [
        reading.select(np.array([place[key] for key in common]))
        for reading, place in zip(readings, places, strict=True)
    ]


def _places(reading: Reading, number: int) -> dict[tuple[int, int], int]:
    """Where each question stands, by its id and how often it was there before."""
    if reading.question_ids is None:
        raise ValueError(
            f"reading {number} ({reading.provenance.get('model', 'of an unnamed model')}) does not "
            "say which questions it holds: it was saved by an older version; read the model again, "
            "or set question_ids=calib.questions.question_ids(questions)"
        )
    places, seen = {}, defaultdict(int)
    for place, question in enumerate(reading.question_ids.tolist()):
        places[question, seen[question]] = place
        seen[question] += 1
    return places
