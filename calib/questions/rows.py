"""Rows of questions from files: jsonl, parquet and csv, each row with the place it came from."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from calib.questions.check import PLACE
from calib.questions.columns import FILE_SUBJECT
from calib.questions.faults import LETTERS, shown

SUFFIXES = (".parquet", ".jsonl", ".csv")
# What a split is called in the names of files and folders.
SPLIT_NAMES = {"test": ("test",), "validation": ("validation", "val"), "dev": ("dev",)}
SPLIT_WORDS = "|".join(name for names in SPLIT_NAMES.values() for name in names)
SHARD = re.compile(r"(-\d+-of-\d+)?$")


def files_of(folder: Path, split: str) -> list[Path]:
    """The files of a split in a folder, by the layouts that are known; none if there are none.

    ``<split>*`` and ``*_<split>`` in the folder, in its ``all/``, or in a folder called as the
    split, where any file counts; or ``<split>*`` in a folder for each subject.
    """
    names = SPLIT_NAMES[split]
    places = [(folder, names), (folder / "all", names)]
    places += [(folder / name, ("",)) for name in names]
    for place, beginnings in places:
        if found := _in_folder(place, beginnings):
            return found
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    return _of_one_kind(folder, [f for place in folders for f in _in_folder(place, names)])


def _in_folder(place: Path, names) -> list[Path]:
    if not place.is_dir():
        return []
    # "val" alone is followed by no letter: values.csv are other things.
    words = "|".join("val(?![a-z])" if name == "val" else name for name in names)
    pattern = re.compile(rf"({words}).*|.*_({words})")
    files = [
        file
        for file in sorted(place.iterdir())
        if file.suffix in SUFFIXES and file.is_file() and not file.name.startswith(".")
    ]
    return _of_one_kind(place, [file for file in files if pattern.fullmatch(file.stem)])


def _of_one_kind(place: Path, files: list[Path]) -> list[Path]:
    kinds = {file.suffix: file for file in files}
    if len(kinds) > 1:
        one, other = (file.relative_to(place) for file in list(kinds.values())[:2])
        raise ValueError(f"{place} holds {one} and {other}; which of them is meant? Name the file")
    return files


def read_file(file: Path) -> list[dict]:
    """Rows of one file, each with its ``place`` and the subject that the file's name tells.

    Raises
    ------
    ValueError
        If the file is not what its name says, naming the line.
    """
    readers = {".parquet": _read_parquet, ".jsonl": _read_jsonl, ".csv": _read_csv}
    if file.suffix not in readers:
        raise ValueError(f"{file} is no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
    subject = _subject_of(file)
    try:
        rows = readers[file.suffix](file)
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror or error})") from None
    return [row | {FILE_SUBJECT: subject} for row in rows]


def _subject_of(file: Path) -> str:
    """``abstract_algebra`` of ``abstract_algebra_test.csv``; the folder's where no name is left."""
    stem = SHARD.sub("", file.stem)
    stem = re.sub(rf"^({SPLIT_WORDS})([-_.]|$)|([-_.]|^)({SPLIT_WORDS})$", "", stem)
    places = (place.name for place in file.absolute().parents)
    return stem or next((p for p in places if not re.fullmatch(f"all|{SPLIT_WORDS}", p)), "")


def _read_parquet(file: Path) -> list[dict]:
    try:
        table = pa.parquet.read_table(file)
        table.validate(full=True)
        rows = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        is_text = isinstance(error, UnicodeDecodeError) or "UTF8" in str(error)
        what = "text that is not UTF-8" if is_text else "what cannot be read as parquet"
        raise ValueError(f"{file} holds {what} ({error}); save it again") from None
    return [row | {PLACE: f"{file.name}, row {i}"} for i, row in enumerate(rows)]


def _read_jsonl(file: Path) -> list[dict]:
    rows = []
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        place = f"{file}, line {number}"
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place} is not JSON ({error})") from None
        except (ValueError, RecursionError) as error:  # a name twice, a number too long, too deep
            raise ValueError(f"{place} cannot be read ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(f"{place} is {shown(row)}; it must be an object")
        rows.append(row | {PLACE: f"{file.name}, line {number}"})
    return rows


def _object(pairs) -> dict:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} stands twice in an object")
    return dict(pairs)


def _lines(file: Path) -> list[str]:
    """Lines of text, without the byte-order mark that some programs put before the first."""
    lines = []
    for number, line in enumerate(file.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{file}, line {number}: byte {error.start} is not UTF-8; save the file as UTF-8"
            ) from None
    return lines


def _read_csv(file: Path) -> list[dict]:
    """With a header of a known spelling, or MMLU's own: question, options, letter."""
    _lines(file)  # refuses by line what is not UTF-8
    text = file.read_bytes().decode("utf-8-sig")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        lines = [(reader.line_num, fields) for fields in reader if fields]
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num} is not csv ({error})") from None
    if not lines:
        return []
    header = lines[0][1]
    if "question" in [name.strip().lower() for name in header]:
        named = [name for name in header if name.strip()]
        if len(set(named)) < len(named):
            raise ValueError(f"{file}: the columns {header} are not all different")
        lines = lines[1:]
    elif [fields[0] for _, fields in lines] == [str(i) for i in range(len(lines))]:
        raise ValueError(
            f"{file} has no header with 'question', and its first column counts the rows; write it "
            "with a header, or without that column (index=False)"
        )
    elif 4 <= len(header) <= len(LETTERS) + 2:
        header = ["question", *LETTERS[: len(header) - 2], "answer"]
    else:
        raise ValueError(
            f"{file} has no header with 'question', and {len(header)} columns; without one they "
            "must be a question, 2 to 26 options and the letter of the answer"
        )
    rows = []
    for number, fields in lines:
        if len(fields) != len(header):
            raise ValueError(
                f"{file}, line {number} has {len(fields)} fields, the first has {len(header)}"
            )
        row = dict(zip(header, fields, strict=True))
        for name, value in row.items():
            if name.strip().lower() in ("choices", "options", "posterior"):
                row[name] = _parsed(value)
        rows.append(row | {PLACE: f"{file.name}, line {number}"})
    return rows


def _parsed(text: str):
    """A list that a csv file holds as text, where it is JSON; else the text, to be refused."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
