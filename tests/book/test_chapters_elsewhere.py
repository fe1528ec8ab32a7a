"""Every chapter's cells with its models on a device that is not the CPU.

In every run, of all chapters but the longest, up to the first figure and on some of the questions:
the CPU's numbers. Behind the marker ``weekly`` all cells on all questions: the printed numbers.
"""

import json
import os
import subprocess
import sys

import pytest
from plain_markdown import as_value
from support import chapter as support
from support.book import PAGES, ROOT

LONG = ("temperature", "beyond", "recalibration")
PARTS = {"index": 1}  # one question of so many; of 8 elsewhere
MOST = 4e9  # bytes, as the page on reproducing says; the GPU that Colab lends has 15


def run_chapter(page, out, *part):
    """What the cells glued, by the device that the models were on."""
    command = [sys.executable, support.__file__, ROOT / "book" / f"{page}.md", out, *part]
    settings = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(out.read_text(encoding="utf-8"))
    assert {device: told["failed"] for device, told in found.items()} == dict.fromkeys(found)
    assert found["elsewhere"]["bytes"] < MOST
    return {
        device: {name: as_value(text) for name, text in told["glued"].items()}
        for device, told in found.items()
    }


def assert_alike(found, expected):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        if isinstance(value, float):
            assert value == pytest.approx(expected[name], abs=1e-4, rel=1e-4, nan_ok=True), name
        else:
            assert value == expected[name], name


@pytest.mark.parametrize("page", [page for page in PAGES if page not in LONG])
def test_a_chapter_runs_up_to_its_first_figure(page, tmp_path):
    found = run_chapter(page, tmp_path / "out.json", str(PARTS.get(page, 8)))
    assert_alike(found["elsewhere"], found["cpu"])


@pytest.mark.weekly
@pytest.mark.parametrize("page", PAGES)
def test_all_cells_of_a_chapter_give_the_printed_numbers(page, tmp_path, glued):
    found = run_chapter(page, tmp_path / "out.json")
    assert_alike(found["elsewhere"], glued[page])
