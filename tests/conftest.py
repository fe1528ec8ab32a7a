"""What tests of every room share: the order they run in, a model that must not run, a browser."""

import os
import shutil
from importlib.util import find_spec

import pytest

# The tests' two processes share the processor: one thread for each, and for each that they start,
# the book's kernels too. Set here, before torch and numpy are imported: they look once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from support.architectures import TOKENIZER, random_module
from support.book import NEEDED

from calib import open_model

collect_ignore = ["support", "recomputed"]  # they hold no tests


def pytest_collection_modifyitems(items):
    """What takes longest first, so that neither of two processes is left alone at the end.

    One builds the book, for the pages; the other computes what its numbers should be, without it.
    Last comes what only reads the book: by then it is built.
    """
    readers = ("browser", "notebooks", "claims", "api", "exercises")
    order = {"test_pages.py": 0, "test_book_numbers.py": 1}
    order |= {f"test_{name}.py": 3 for name in readers}
    items.sort(key=lambda item: order.get(item.path.name, 2))


def pytest_report_header():
    missing = [name for name in NEEDED if not find_spec(name)]
    return f"the book is not tested: {', '.join(missing)} not installed" if missing else None


@pytest.fixture
def unused():
    """A model that fails the test if it is run after it was opened."""
    model = open_model((random_module("llama"), TOKENIZER))

    def stop(*_):
        pytest.fail("the model ran before the input was checked")

    model.module.register_forward_pre_hook(stop)
    return model


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    found = (shutil.which(name) for name in ("chromium", "google-chrome", "chromium-browser"))
    path = os.environ.get("BROWSER_PATH") or next(filter(None, found), None)
    with playwright.sync_playwright() as play:
        try:
            chromium = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {error.message.splitlines()[0]} (BROWSER_PATH names one)")
        yield chromium
        chromium.close()
