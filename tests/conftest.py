"""The book, built once for every test that reads it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def book():
    """The folder ``_build`` of a book built just now, without a warning."""
    command = ["make", "html", f"RUN={sys.executable}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    return ROOT / "_build"
