"""The header of a GGUF file: what is said of the model, and where its tensors lie.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The package
``gguf`` has a reader, which makes arrays of every token of the vocabulary. That takes seconds, and
a file that ends too early is not told from a good one.
"""

from __future__ import annotations

import mmap
import struct
from math import prod
from pathlib import Path
from typing import NamedTuple

MAGIC = b"GGUF"
VERSIONS = (2, 3)
LONGEST_SHAPE = 4  # dimensions of a tensor
STRING, ARRAY = 8, 9
# The other kinds of value, as struct names them: of 1, 2, 4 and 8 bytes, and truth values.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
NUMBERS |= {12: "d"}


class Tensor(NamedTuple):
    """One tensor of the file: its kind is GGML's number for the type, its offset in bytes."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def count(self) -> int:
        """How many weights it holds."""
        return prod(self.shape)


class Header(NamedTuple):
    """What stands before the weights.

    Attributes
    ----------
    facts : dict
        Numbers and texts by their key; of a list, only how long it is.
    tensors : list of Tensor
    begin, size : int
        Bytes before the first tensor, and of the whole file.
    """

    facts: dict
    tensors: list[Tensor]
    begin: int
    size: int

    def of_architecture(self, key: str):
        """A fact that stands under the architecture's name; None if it does not."""
        return self.facts.get(f"{self.facts['general.architecture']}.{key}")


class Damaged(ValueError):
    """The header is not whole, or no header."""


def read_header(path: Path) -> Header:
    """The header of a file; ValueError says why it has none that can be read."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        if start[:4] == MAGIC and len(start) < 8:
            raise ValueError(f"{path} is cut off after {len(start)} bytes; download it again")
        if start[:4] != MAGIC:
            raise ValueError(
                f"{path} is no GGUF file: it begins with {start[:4]!r} in place of {MAGIC!r}; "
                "check the path, or download it again"
            )
        _check_version(path, int.from_bytes(start[4:], "little"))
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                facts, tensors, end = _parse(_Cursor(content, 8))
            except (struct.error, UnicodeDecodeError, Damaged) as error:
                raise ValueError(
                    f"{path} is damaged or not whole: its header cannot be read ({error}); "
                    "download it again"
                ) from error
    alignment = facts.get("general.alignment", 32)
    return Header(facts, tensors, -(-end // alignment) * alignment, size)


def _check_version(path: Path, version: int) -> None:
    if version & 0xFFFF == 0:
        raise ValueError(
            f"{path} was written for a machine with the other byte order (big-endian), which "
            "transformers does not read; take the file for little-endian machines"
        )
    if version not in VERSIONS:
        raise ValueError(
            f"{path} is of version {version} of GGUF, and versions {VERSIONS[0]} and "
            f"{VERSIONS[1]} can be read; take a file that a present llama.cpp has written"
        )


class _Cursor:
    """Reads values one after the other; struct.error or Damaged where there are none left."""

    def __init__(self, content, at: int):
        self.content, self.at = content, at

    def number(self, kind: str):
        (value,) = struct.unpack_from(f"<{kind}", self.content, self.at)
        self.at += struct.calcsize(f"<{kind}")
        return value

    def skip(self, size: int) -> int:
        """Where what is skipped began."""
        begin, self.at = self.at, self.at + size
        if self.at > len(self.content):
            raise Damaged(f"the file ends at byte {len(self.content)}, within it")
        return begin

    def text(self) -> str:
        size = self.number("Q")
        return self.content[self.skip(size) : self.at].decode()

    def value(self, kind: int):
        if kind == STRING:
            return self.text()
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind != ARRAY:
            raise Damaged(f"it has a value of kind {kind}")
        kind, count = self.number("I"), self.number("Q")
        if kind in NUMBERS:
            self.skip(count * struct.calcsize(f"<{NUMBERS[kind]}"))
        elif kind == STRING:
            for _ in range(count):
                self.skip(self.number("Q"))
        else:
            raise Damaged(f"it has a list of kind {kind}")
        return count


def _parse(cursor: _Cursor) -> tuple[dict, list[Tensor], int]:
    """Facts, tensors, and the byte after them."""
    n_tensors, n_facts = cursor.number("Q"), cursor.number("Q")
    facts, tensors = {}, []
    for _ in range(n_facts):
        key = cursor.text()
        facts[key] = cursor.value(cursor.number("I"))
    for _ in range(n_tensors):
        name, dimensions = cursor.text(), cursor.number("I")
        if dimensions > LONGEST_SHAPE:
            raise Damaged(f"the tensor {name[:40]!r} has {dimensions} dimensions")
        shape = tuple(cursor.number("Q") for _ in range(dimensions))
        tensors.append(Tensor(name, shape, cursor.number("I"), cursor.number("Q")))
    if not isinstance(facts.get("general.architecture"), str):
        raise Damaged("it does not name an architecture")
    alignment = facts.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise Damaged(f"its alignment is {alignment!r}")
    return facts, tensors, cursor.at
