"""The book, built once for every test that reads it, and a browser to look at pages with."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from playwright.sync_api import Error, TimeoutError, sync_playwright

# The tests' two processes share the processor: one thread for each, and for each that they start,
# the book's kernels too. Set here, before torch and numpy are imported: they look once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from architectures import TOKENIZER, random_module
from bare import bare_kernel
from plain_markdown import as_value

from calib.models import open_model

ROOT = Path(__file__).parent.parent
CHAPTERS = (
    "reliability", "asking", "layers", "direction", "temperature", "mechanisms", "beyond",
    "recalibration", "training", "own",
)  # fmt: skip
PAGES = ("index", *CHAPTERS)  # those that are executed


def pytest_collection_modifyitems(items):
    """What takes longest first, so that neither of two processes is left alone at the end.

    One builds the book, for the pages; the other computes what its numbers should be, without it.
    Last comes what only reads the book: by then it is built.
    """
    readers = ("browser", "notebooks", "claims", "api", "exercises")
    order = {"test_pages.py": 0, "test_book_numbers.py": 1}
    order |= {f"test_{name}.py": 3 for name in readers}
    items.sort(key=lambda item: order.get(item.path.name, 2))


@pytest.fixture(scope="session")
def book(tmp_path_factory, worker_id):
    """The folder ``_build`` of a book built just now, without a warning.

    By whichever process asks first; the other waits for it. The chapters that are not in the cache
    run as their notebooks would where only ``pip install`` of the project was called (bare.py).
    """
    common = tmp_path_factory.getbasetemp()
    if worker_id != "master":  # each of several processes has a folder inside the common one
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
    values = {}
    for page in PAGES:
        records = json.loads((book / f"jupyter_execute/book/{page}.glue.json").read_text())
        assert records
        values[page] = {
            name: as_value(record["data"]["text/plain"]) for name, record in records.items()
        }
    return values


def values_of(glued, page):
    """A chapter's values without the name of the chapter, and their limits."""
    values = {name.removeprefix(f"{page}_"): v for name, v in glued[page].items()}
    limits = {
        name: (values[f"{name}_low"], values[f"{name}_high"])
        for name in values
        if f"{name}_low" in values
    }
    return values, limits


def lies_below(first, second):
    """Whether all of one interval lies below all of another."""
    return first[1] < second[0]


@pytest.fixture(scope="session")
def browser():
    found = (shutil.which(name) for name in ("chromium", "google-chrome", "chromium-browser"))
    path = os.environ.get("BROWSER_PATH") or next(filter(None, found), None)
    with sync_playwright() as play:
        try:
            chromium = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"no Chromium: {error.message.splitlines()[0]} (BROWSER_PATH names one)")
        yield chromium
        chromium.close()


@pytest.fixture
def unused():
    """A model that fails the test if it is run after it was opened."""
    model = open_model((random_module("llama"), TOKENIZER))

    def stop(*_):
        pytest.fail("the model ran before the input was checked")

    model.module.register_forward_pre_hook(stop)
    return model


class Visit:
    """A page opened with the network cut; collects what it asked for and what is wrong with it.

    That is whatever it prints, and formulas that stay unset.

    ``browser`` may be one of its contexts too, whose pages open sooner.
    """

    def __init__(self, browser, address, inside, **options):
        self.outside, self.complaints = [], []
        self.page = browser.new_page(**options)
        self.page.route(lambda url: not url.startswith(inside), self._refuse)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)
        formulas = "[...document.querySelectorAll('.math')]"
        done = f"() => {formulas}.every(formula => formula.querySelector('mjx-container'))"
        try:
            self.page.wait_for_function(done, timeout=10_000)
        except TimeoutError as error:
            self.complaints.append(f"formulas are not set: {error.message}")

    def _refuse(self, route):
        self.outside.append(route.request.url)
        route.abort()
