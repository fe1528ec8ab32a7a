"""The built pages: whole, linked, described, light."""

import re
from collections import Counter
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from support.book import CHAPTERS, ROOT

PAGES = ("index", *CHAPTERS, "glossary", "bibliography")


@pytest.fixture(scope="module")
def pages(book):
    """The parsed pages by name."""
    return {
        name: BeautifulSoup((book / f"html/book/{name}.html").read_bytes(), "html.parser")
        for name in PAGES
    }


@pytest.mark.parametrize("name", PAGES)
def test_every_picture_is_described(name, pages):
    pictures = pages[name].select("article img")
    assert pictures or name in ("glossary", "bibliography")
    for picture in pictures:
        assert len(picture.get("alt", "")) > 40, picture
        assert "/" not in picture["alt"], "a file's path describes nothing"


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_has_all_its_parts(name, pages):
    headings = [h.get_text().rstrip("#").strip() for h in pages[name].select("article h2")]
    titles = [re.sub(r"^[\d.]+\s*", "", heading) for heading in headings]
    for part in ("The question", "The smallest computation", "Exercises", "In three lines"):
        assert part in titles
    assert titles[-1] == "Sources"
    (summary,) = (h for h in pages[name].select("section > h2") if "three lines" in h.get_text())
    assert len(summary.parent.select("li")) == 3
    exercises = pages[name].select("div.exercise")
    assert 4 <= len(exercises) == len(pages[name].select("div.solution.dropdown")) <= 5
    titles = [
        re.search(r"\((.*)\)", e.select_one(".admonition-title").get_text())[1] for e in exercises
    ]
    assert titles[0].startswith("Warm-up: ") and titles[-1].startswith("Project: ")
    assert pages[name].select("a.reference.internal[href*='bibliography']")


@pytest.mark.parametrize("name", ("index", *CHAPTERS))
def test_code_fits_the_column(name):
    text = (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8")
    cells = re.findall(r"```\{code-cell\} ipython3\n(?:---\n.*?\n---\n)?(.*?)```", text, re.S)
    assert cells
    assert [line for cell in cells for line in cell.splitlines() if len(line) > 82] == []


def test_no_page_shows_a_traceback_or_a_warning(pages):
    for name, page in pages.items():
        outputs = page.select("div.cell_output")
        assert outputs or name in ("glossary", "bibliography")
        text = " ".join(output.get_text() for output in outputs)
        assert not re.search(r"Traceback|Warning|\bnan\b", text), name


@pytest.fixture(scope="module")
def built(book):
    """Every page of the book that was built, by where it lies in ``html``."""
    site = book / "html"
    found = {path.relative_to(site).as_posix(): path for path in site.glob("book/**/*.html")}
    assert found.keys() >= {f"book/{name}.html" for name in PAGES}
    return {name: BeautifulSoup(path.read_bytes(), "html.parser") for name, path in found.items()}


def test_every_link_within_the_book_leads_somewhere(built, book):
    site = book / "html"
    ids = {site / name: {tag["id"] for tag in page.select("[id]")} for name, page in built.items()}
    for name, page in built.items():
        links = [urlsplit(a["href"]) for a in page.select("a[href]")]
        local = [link for link in links if not link.scheme and not link.netloc]
        assert local
        for link in local:
            target = ((site / name).parent / unquote(link.path)).resolve()
            target = target if link.path else site / name
            assert target.exists(), (name, link)
            if link.fragment and target in ids:
                assert unquote(link.fragment) in ids[target], (name, link)


def test_a_page_is_light(built, book):
    """At most 2.5 MB for what a page does not share: its text, animations and own pictures."""
    site = book / "html"
    pictures = {
        name: {
            ((site / name).parent / unquote(image["src"])).resolve()
            for image in page.select("img[src]:not([src^='data:'])")  # those are in the text
        }
        for name, page in built.items()
    }
    shown_by = Counter(path for shown in pictures.values() for path in shown)
    for name, shown in pictures.items():
        own = [site / name, *(path for path in shown if shown_by[path] == 1)]
        assert sum(path.stat().st_size for path in own) <= 2_500_000, name


def test_no_two_elements_share_an_id(built):
    for name, page in built.items():
        ids = Counter(element["id"] for element in page.select("[id]"))
        assert [one for one, times in ids.items() if times > 1] == [], name
