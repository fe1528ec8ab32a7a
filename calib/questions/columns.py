"""The columns that people have: each spelling of a question, turned into MMLU's."""

from __future__ import annotations

import re
import warnings
from numbers import Real

from calib.questions.check import COLUMNS, PLACE, place_of
from calib.questions.faults import LETTERS, is_missing

FILE_SUBJECT = ("subject of the file",)  # a key of rows that no file can have as a column
# Lower case; the first of each is MMLU's own. MMLU-Pro has options, answer_index and category.
ROLES = {
    "question": ("question",),
    "subject": ("subject", "category"),
    "choices": ("choices", "options"),
    "answer": ("answer", "answer_index"),
    "posterior": ("posterior",),
}
KNOWN = {spelling for spellings in ROLES.values() for spelling in spellings}
LETTER, OPTION = re.compile(r"([a-z])"), re.compile(r"option_?([a-z])")  # MMMLU, Global-MMLU


def to_mmlu(rows: list[dict], source: str) -> list[dict]:
    """Rows of any known spelling with MMLU's columns, and no others but where each came from.

    Known are, in lower and upper case: MMLU (``choices``, ``answer``), Global-MMLU (``option_a`` to
    ``option_d``), MMMLU (``A`` to ``D``), MMLU-Redux (no ``subject``) and MMLU-Pro (``options``,
    ``answer`` as a letter and ``answer_index``, ``category``). Lettered options may end early: what
    is empty at the end is no option.

    Parameters
    ----------
    rows : list of dict
        Of a file, each says its ``PLACE``, for errors, and ``FILE_SUBJECT``, the subject where
        there is no column of that.

    Raises
    ------
    ValueError
        If a column is missing, two columns say the same, answers are letters in some rows and
        numbers in others, or a row says two different answers.

    Examples
    --------
    >>> to_mmlu([{"Question": "1 + 1?", "A": "1", "B": "2", "Answer": "b", "Subject": "x"}], "file")
    [{'question': '1 + 1?', 'subject': 'x', 'answer': 1, 'choices': ['1', '2']}]
    """
    names: dict[tuple, dict] = {}
    for i, row in enumerate(rows):
        if tuple(row) not in names:
            names[tuple(row)] = _names_of(row, source)
            _check_present(names[tuple(row)], row, f"{source}, {place_of(row, i)}" if i else source)
    found = [_as_mmlu(row, names[tuple(row)]) for row in rows]
    _check_kind(found, source)
    _warn_of_missing(rows, names)
    for i, row in enumerate(found):
        row["answer"] = _index(row["answer"], row["choices"])
        if "answer_index" in row:
            index = _index(row.pop("answer_index"), row["choices"])
            if index != row["answer"]:
                raise ValueError(
                    f"{source}, {place_of(row, i)}: answer and answer_index say "
                    f"{row['answer']!r} and {index!r}; they must be the same option"
                )
    return found


def _names_of(row: dict, source: str) -> dict[str, list[str]]:
    """The columns of a row by what they say; ``choices`` may be lettered columns in order."""
    lower: dict[str, str] = {}
    for name in row:
        spelling = name.strip().lower() if isinstance(name, str) else None
        if spelling is None or not (
            spelling in KNOWN or LETTER.fullmatch(spelling) or OPTION.fullmatch(spelling)
        ):
            continue
        if spelling in lower:
            raise ValueError(
                f"{source}: {lower[spelling]!r} and {name!r} are both {spelling}; leave one of "
                "them out"
            )
        lower[spelling] = name
    names = {}
    for role, spellings in ROLES.items():
        there = [lower[spelling] for spelling in spellings if spelling in lower]
        if role == "answer" and len(there) == 2:
            names["answer_index"] = there[1:]
        elif role == "subject":
            there = there[:1]  # MMLU's category is no other subject
        elif len(there) > 1:
            raise ValueError(
                f"{source}: {there[0]!r} and {there[1]!r} are both {role}; leave one of them out"
            )
        if there:
            names[role] = there[:1]
    for pattern in (LETTER, OPTION):
        lettered = {m[1]: lower[name] for name in lower if (m := pattern.fullmatch(name))}
        if not {"a", "b"} <= set(lettered):
            continue
        if "choices" in names:
            raise ValueError(
                f"{source}: {names['choices'][0]!r} and {lettered['a']!r} are both options; leave "
                "one of them out"
            )
        first = LETTERS.lower()[: len(lettered)]
        if gap := sorted(set(first) - set(lettered)):
            raise ValueError(
                f"{source}: the columns {list(lettered.values())} are options, but there is none "
                f"for {gap[0].upper()}"
            )
        names["choices"] = [lettered[letter] for letter in first]
    return names


def _check_present(names, row: dict, where: str) -> None:
    for name in COLUMNS:
        if name not in names and not (name == "subject" and FILE_SUBJECT in row):
            found = [column for column in row if column not in (PLACE, FILE_SUBJECT)]
            add = "; add one: every question needs a subject" if name == "subject" else ""
            raise ValueError(
                f"{where}: no column {name!r}; found {found}, needed {list(COLUMNS)} or another "
                f"spelling that load_questions knows{add}"
            )


def _as_mmlu(row: dict, names: dict[str, list[str]]) -> dict:
    found = {role: row[columns[0]] for role, columns in names.items()}
    if len(names.get("choices", ())) > 1:
        choices = [row[column] for column in names["choices"]]
        while choices and _is_empty(choices[-1]):
            choices.pop()
        found["choices"] = choices
    if FILE_SUBJECT in row:
        found.setdefault("subject", row[FILE_SUBJECT])
    if PLACE in row:
        found[PLACE] = row[PLACE]
    return found


def _warn_of_missing(rows, names) -> None:
    """pandas reads a text such as "None" or "N/A" as missing, and so an option gets lost."""
    lost = sum(
        any(isinstance(row[c], float) and row[c] != row[c] for c in _lettered(names[tuple(row)]))
        for row in rows
    )
    if lost:
        warnings.warn(
            f"in {lost} of {len(rows)} questions an option is missing (NaN) and taken as not "
            'there; if it was a text such as "None" or "N/A", read it with keep_default_na=False',
            stacklevel=4,
        )


def _lettered(names) -> list[str]:
    columns = names.get("choices", [])
    return columns if len(columns) > 1 else []


def _is_empty(option) -> bool:
    return is_missing(option) or (isinstance(option, str) and not option.strip())


def _check_kind(rows, source) -> None:
    """A column of letters or of indices, never of both: an index might be meant as a letter."""
    kinds = {}
    for i, row in enumerate(rows):
        if (kind := _kind(row["answer"])) is not None:
            kinds.setdefault(kind, i)
    if len(kinds) > 1:
        places = {kind: place_of(rows[i], i) for kind, i in kinds.items()}
        raise ValueError(
            f"{source}: the answer is a letter at {places['letter']} and an index at "
            f"{places['index']}; the column must be the one or the other throughout"
        )


def _kind(answer) -> str | None:
    text = answer.strip() if isinstance(answer, str) else None
    if text is None:
        is_number = isinstance(answer, Real) and not isinstance(answer, bool)
        return "index" if is_number and not is_missing(answer) else None
    if text.isdecimal() and text.isascii():
        return "index"
    return "letter" if len(text) == 1 and text.upper() in LETTERS else None


def _index(answer, choices):
    """An answer as an index where it is text that says one; else as it stands, to be refused."""
    if not isinstance(answer, str):
        return answer
    kind = _kind(answer)
    if kind == "letter":
        index = LETTERS.index(answer.strip().upper())
        n_options = len(choices) if hasattr(choices, "__len__") else 0  # no list: to be refused
        return index if index < n_options else answer
    if kind == "index" and len(answer.strip()) < 9:
        return int(answer)
    return answer
