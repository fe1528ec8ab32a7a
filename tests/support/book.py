"""Where the book is, its chapters, and the values that a chapter computes and its prose quotes."""

from pathlib import Path

# What the tests of the book import besides the library and pytest.
NEEDED = (
    "jupyter_book", "bs4", "nbformat", "pybtex", "playwright", "axe_playwright_python", "filelock",
)  # fmt: skip
ROOT = Path(__file__).parent.parent.parent
CHAPTERS = (
    "reliability", "asking", "layers", "real", "direction", "temperature", "mechanisms", "beyond",
    "recalibration", "training", "own",
)  # fmt: skip
PAGES = ("index", *CHAPTERS)  # those that are executed


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
