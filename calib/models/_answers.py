"""Whether what came back from a server is what was asked for, and what to call it if not."""

from __future__ import annotations

import ast
from contextlib import contextmanager


class Misunderstood(Exception):
    """What came back is not what the protocol has; the message describes it."""


@contextmanager
def understood(content):
    """Reading what came back fails in as many ways as there are things that can come back."""
    try:
        yield
    except Exception:
        raise Misunderstood(described(content)) from None


def described(content) -> str:
    """What came back, in a few words.

    >>> described(b""), described("<!doctype html><p>Sorry"), described(b"PK" * 600)
    ('nothing', 'a web page', '1,200 bytes that cannot be read')
    """
    if not content:
        return "nothing"
    binary = isinstance(content, bytes)
    if (content if binary else str(content).encode()).lstrip().startswith(b"<"):
        return "a web page"
    return f"{len(content):,} bytes that cannot be read" if binary else repr(content)


def saved_names(block: ast.With) -> set[str]:
    """Names that a traced block saves wherever it runs: assigned ``….save()`` outside any branch.

    >>> text = "with trace:\\n    a, b = x.save(), y\\n    c = z.save()"
    >>> sorted(saved_names(ast.parse(text).body[0]))
    ['a', 'c']
    """
    assigned = []
    for statement in block.body:
        for target in statement.targets if isinstance(statement, ast.Assign) else ():
            value = statement.value
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                assigned += zip(target.elts, value.elts, strict=False)
            else:
                assigned.append((target, value))
    return {name.id for name, value in assigned if isinstance(name, ast.Name) and _saves(value)}


def _saves(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and getattr(value.func, "attr", "") == "save"
