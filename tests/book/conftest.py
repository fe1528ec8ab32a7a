"""The book, built once for every test that reads it."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
from support.bare import bare_kernel
from support.book import NEEDED, PAGES, ROOT

# Where what builds the book and looks at it is not installed, the library is tested alone.
collect_ignore_glob = [] if all(map(find_spec, NEEDED)) else ["test_*.py"]


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """The folder ``_build`` of a book built just now, without a warning.

    By whichever process asks first; the other waits for it. The chapters that are not in the cache
    run as their notebooks would where only ``pip install`` of the project was called (bare.py).
    """
    from filelock import FileLock

    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each process has a folder inside the common one
        common = common.parent
    outcome = common / "book"
    with FileLock(common / "book.lock"):
        if not outcome.exists():
            command = ["make", "html", f"RUN={sys.executable}"]
            bare = {**os.environ, "JUPYTER_PATH": str(bare_kernel(common / "jupyter"))}
            done = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True)
            failure = done.stdout[-8000:] + done.stderr[-8000:] if done.returncode else ""
            outcome.write_text(failure, encoding="utf-8")
    assert outcome.read_text(encoding="utf-8") == ""
    return ROOT / "_build"


@pytest.fixture(scope="session")
def glued(book):
    """Glued values by page and name."""
    from plain_markdown import as_value

    values = {}
    for page in PAGES:
        records = json.loads((book / f"jupyter_execute/book/{page}.glue.json").read_text())
        assert records
        values[page] = {
            name: as_value(record["data"]["text/plain"]) for name, record in records.items()
        }
    return values
