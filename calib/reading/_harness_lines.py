"""A file of lm-evaluation-harness, line by line: what each document's options scored.

The harness changed how it writes them. Up to 0.4.2 a file is one JSON list, ``arguments`` a list of
pairs, and scores are numbers. Since 0.4.3 each document is a line, ``arguments`` an object
``{"gen_args_0": {"arg_0": context, "arg_1": option}}``, and scores are text, ``["-1.5", "False"]``.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

import numpy as np

NEEDED = ("doc_id", "doc", "target", "arguments", "filtered_resps")


@dataclass(frozen=True)
class Document:
    """One line: a question, and the log-likelihood of each of its options.

    Attributes
    ----------
    place : str
        File and line, for errors.
    doc : dict
        The row of the data set.
    options : tuple of str
        What the model was asked to continue with, without spaces around it.
    scores : tuple of float
        Log-likelihood of each option, as the harness calls it: not divided by its length.
    target : str
        The right option as the harness tells it: its index or its text.
    right : bool
        Whether the harness counted the answer as right, its ``acc``.
    """

    place: str
    number: int
    doc: dict
    options: tuple[str, ...]
    scores: tuple[float, ...]
    target: str
    right: bool

    @property
    def answer(self) -> int:
        """The option of the largest score, the first of equals, as the harness answers."""
        return int(np.argmax(self.scores))

    @property
    def lettered(self) -> bool:
        """Whether the options are A, B, C and so on, and not texts."""
        bare = [option.strip("(). ") for option in self.options]
        return bare == list(ascii_uppercase[: len(bare)])


def read_documents(file: Path) -> list[Document]:
    """All documents of a file, or ValueError that names the line."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8 ({error}); copy it again") from None
    rows = _rows(text, file)
    if not rows:
        raise ValueError(f"{file} is empty; run lm_eval again with --log_samples")
    documents, seen = [], {}
    for place, row in rows:
        document = _document(row, place)
        if before := seen.get(document.number):
            raise ValueError(
                f"{place}: document {document.number} stands there before, in {before}; a task's "
                "documents may be there once: was the file written twice, or has the task several "
                "filters? Keep one line for each document"
            )
        seen[document.number] = place
        documents.append(document)
    return documents


def _rows(text: str, file: Path) -> list[tuple[str, object]]:
    """What JSON says of each document, and its place."""
    if text.lstrip().startswith("["):
        rows = _parse(text, str(file), "the file is cut off: copy it again, or run lm_eval again")
        return [(f"{file}, entry {number}", row) for number, row in enumerate(rows, 1)]
    lines = text.split("\n")  # not splitlines: a text may hold other line breaks of Unicode
    lines = [(f"{file}, line {n}", line) for n, line in enumerate(lines, 1) if line.strip()]
    rows = []
    for place, line in lines:
        why = "it must be a document as lm_eval writes it: copy the file again"
        if place == lines[-1][0]:
            why = "the file is cut off: copy it again, or run lm_eval again"
        rows.append((place, _parse(line, place, why)))
    return rows


def _parse(text: str, place: str, why: str):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is no JSON ({error}); {why}") from None


def labels_of(documents: list[Document]) -> list[int]:
    """Index of each document's right option, as a task tells it and its ``acc`` confirms.

    A target is an index or the text of an option, and which of them a task does not say: with the
    options 1, 2 and 3 a target "1" may be either. The one that agrees with every ``acc`` is it.
    """
    readings = [[_as_index(d) for d in documents], [_as_text(d) for d in documents]]
    agreeing = [labels for labels in readings if _contradiction(documents, labels) is None]
    if not agreeing:  # told of the reading that goes further
        at, label = max(_contradiction(documents, labels) for labels in readings)
        raise ValueError(_disagreement(documents[at], label))
    if agreeing[0] != agreeing[-1]:
        raise ValueError(
            f"{documents[0].place}: the targets of this task may be indices or texts of options, "
            "and acc agrees with both; no label can be told: have doc_to_target give an index, and "
            "doc_to_choice options that are no numbers"
        )
    return agreeing[0]


def _as_index(document: Document) -> int:
    """The target as an index, from 0; -1 if it is none of an option."""
    target = {"False": "0", "True": "1"}.get(document.target, document.target)
    index = int(target) if target.isascii() and target.isdecimal() else -1
    return index if index < len(document.options) else -1


def _as_text(document: Document) -> int:
    """The target as an option's text; -1 if no option is."""
    target = document.target.strip()
    return document.options.index(target) if target in document.options else -1


def _contradiction(documents, labels) -> tuple[int, int] | None:
    """The first document whose label is none, or not what its acc says, and that label."""
    for at, (document, label) in enumerate(zip(documents, labels, strict=True)):
        if label < 0 or (document.answer == label) != document.right:
            return at, label
    return None


def _disagreement(document: Document, label: int) -> str:
    if label < 0:
        return (
            f"{document.place}: target is {document.target!r:.60}, which is neither the index nor "
            f"the text of one of the {len(document.options)} options {document.options!r:.80}; "
            "leave the document out, or tasks with several right answers"
        )
    return (
        f"{document.place}: acc is {int(document.right)}, but option {document.answer} has the "
        f"largest log-likelihood and the target {document.target!r:.60} is option {label}; acc "
        "must say whether the two are one: the line was altered, or the task scores in another way"
    )


# One line


def _document(row, place: str) -> Document:
    missing = [name for name in NEEDED if not isinstance(row, dict) or name not in row]
    if missing or not isinstance(row["doc_id"], int):
        lacking = ", ".join(missing) or "a whole number as doc_id"
        raise ValueError(
            f"{place} lacks {lacking}: it is no document of lm-evaluation-harness; name files "
            "samples_<task>_<date>.jsonl, written with --log_samples"
        )
    asked = _arguments(row["arguments"], place)
    scores = _scores(row["filtered_resps"], place)
    if len(asked) != len(scores):
        raise ValueError(
            f"{place} has {len(asked)} arguments and {len(scores)} scores; each option must have "
            "one: copy the file again"
        )
    if "acc_mutual_info" in row:  # then each option is scored without its question, too
        asked, scores = asked[: len(asked) // 2], scores[: len(scores) // 2]
    if len({context for context, _ in asked}) > 1:
        raise ValueError(
            f"{place}: the options stand in the prompts, each with the same continuation, so their "
            "scores are no probabilities of options; leave this task out"
        )
    if len(scores) < 2:
        raise ValueError(
            f"{place} has one option; a question must have two at least: only tasks of "
            "output_type multiple_choice can be read"
        )
    if row.get("acc") not in (0, 1):
        raise ValueError(
            f"{place}: acc is {row.get('acc')!r}; it must be 0 or 1, since labels are checked by "
            "it: leave the task out, or add acc to its metric_list"
        )
    return Document(
        place=place,
        number=row["doc_id"],
        doc=row["doc"] if isinstance(row["doc"], dict) else {},
        options=tuple(option.strip() for _, option in asked),
        scores=tuple(scores),
        target=str(row["target"]),
        right=bool(row["acc"]),
    )


def _arguments(arguments, place: str) -> list[tuple[str, str]]:
    """Context and option of each request, in the order of the options."""
    try:
        if isinstance(arguments, dict):
            arguments = [arguments[f"gen_args_{i}"] for i in range(len(arguments))]
        pairs = [(a["arg_0"], a["arg_1"]) if isinstance(a, dict) else a[:2] for a in arguments]
        pairs = [(context, option) for context, option in pairs]
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{place}: arguments are {arguments!r:.60}; they must be a context and an option for "
            "each request: only tasks of output_type multiple_choice can be read"
        ) from None
    if not all(isinstance(option, str) for _, option in pairs):
        raise ValueError(
            f"{place}: the model was asked to write a text, not to choose an option; only tasks "
            "of output_type multiple_choice can be read"
        )
    return pairs


def _scores(responses, place: str) -> list[float]:
    """Log-likelihoods, whether they are written as numbers or as text."""
    try:
        scores = [float(score) for score, _ in responses]
    except (TypeError, ValueError):
        raise ValueError(
            f"{place}: filtered_resps are {responses!r:.60}; they must be a log-likelihood and "
            "whether it is the greedy one, for each option: only tasks of output_type "
            "multiple_choice can be read"
        ) from None
    for option, score in enumerate(scores):
        if not math.isfinite(score):
            raise ValueError(
                f"{place}: the log-likelihood of option {option} is {score}, which is not finite; "
                "run lm_eval again, with dtype=bfloat16 or float32 if float16 overflows"
            )
    return scores
