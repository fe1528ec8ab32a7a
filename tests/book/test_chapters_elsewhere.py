"""Every chapter's cells with its models on a device that is not the CPU: the book's own numbers.

Up to the first figure in every run; all cells behind the marker ``weekly``.
"""

import json
import os
import subprocess
import sys

import pytest
from plain_markdown import as_value
from support import chapter as support
from support.book import PAGES, ROOT

MOST = 3.2e9  # bytes, as the page on reproducing says; the GPU that Colab lends has 15


def run_chapter(page, out, *until):
    """What the cells glued, and the most bytes on the device."""
    command = [sys.executable, support.__file__, ROOT / "book" / f"{page}.md", out, *until]
    settings = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["failed"] is None
    assert found["bytes"] < MOST
    return {name: as_value(text) for name, text in found["glued"].items()}


def assert_alike(found, expected):
    for name, value in found.items():
        if isinstance(value, float):
            assert value == pytest.approx(expected[name], abs=1e-4, rel=1e-4, nan_ok=True), name
        else:
            assert value == expected[name], name


@pytest.mark.parametrize("page", PAGES)
def test_a_chapter_runs_up_to_its_first_figure(page, tmp_path, request):
    found = run_chapter(page, tmp_path / "out.json", "figure")
    # Asked for only now: another process may be building the book meanwhile.
    assert_alike(found, request.getfixturevalue("glued")[page])


@pytest.mark.weekly
@pytest.mark.parametrize("page", PAGES)
def test_all_cells_of_a_chapter_give_the_printed_numbers(page, tmp_path, glued):
    found = run_chapter(page, tmp_path / "out.json")
    assert found.keys() == glued[page].keys()
    assert_alike(found, glued[page])
