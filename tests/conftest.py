"""The book, built once for every test that reads it, and a browser to look at pages with."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Error, sync_playwright
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parent.parent
BOOK_READERS = ("test_book_numbers.py", "test_pages.py")

# The tests' two processes share the processor: one thread for each, and for each that they start,
# the book's kernels too. Set here, before torch and numpy are imported: they look once.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    """The tests that read the book go first: nothing takes as long as building it."""
    items.sort(key=lambda item: item.path.name not in BOOK_READERS)


def pytest_runtest_setup(item):
    if "book" in item.fixturenames and item.path.name not in BOOK_READERS:
        pytest.fail(f"{item.path.name} reads the book: name it in BOOK_READERS", pytrace=False)


class BookAside(LoadScopeScheduling):
    """One process builds the book and reads it, the other tests the library meanwhile.

    Each file's tests stay in one process, so that what its fixtures compute is computed once.
    (Not by ``--dist loadgroup``: xdist 3.8 silently ignores groups under pytest 9.2, see
    https://github.com/pytest-dev/pytest-xdist/issues/1386.)
    """

    def _split_scope(self, nodeid):
        file = nodeid.partition("::")[0]
        return "book" if file.endswith(BOOK_READERS) else file


def pytest_xdist_make_scheduler(config, log):
    return BookAside(config, log)


@pytest.fixture(scope="session")
def book():
    """The folder ``_build`` of a book built just now, without a warning."""
    command = ["make", "html", f"RUN={sys.executable}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    return ROOT / "_build"


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


class Visit:
    """A page opened with the network cut; collects what it asked for and complained of."""

    def __init__(self, browser, address, inside, **options):
        self.outside, self.complaints = [], []
        self.page = browser.new_page(**options)
        self.page.route(lambda url: not url.startswith(inside), self._refuse)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('.math')]"
            ".every(formula => formula.querySelector('mjx-container'))"
        )

    def _refuse(self, route):
        self.outside.append(route.request.url)
        route.abort()

    def _hear(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)
