"""The built pages: whole, linked, described; and in a real browser with the network off."""

import functools
import http.server
import re
import threading
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from conftest import CHAPTERS, ROOT, Visit

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


@pytest.mark.parametrize("name", PAGES)
def test_every_link_within_the_book_leads_somewhere(name, pages, book):
    folder = book / "html" / "book"
    links = [urlsplit(a["href"]) for a in pages[name].select("a[href]")]
    local = [link for link in links if not link.scheme and not link.netloc]
    assert local
    for link in local:
        target = (folder / unquote(link.path)).resolve() if link.path else folder / f"{name}.html"
        assert target.exists(), link
        if link.fragment and target.suffix == ".html":
            page = BeautifulSoup(target.read_bytes(), "html.parser")
            assert page.find(id=link.fragment), link


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


# In a browser


@pytest.fixture(scope="module")
def site(book):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(book / "html"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_stands_alone(browser, site, name, width):
    size = {"width": width, "height": 800}
    visit = Visit(browser, f"{site}/book/{name}.html", site, viewport=size)
    assert (visit.outside, visit.complaints) == ([], [])
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width + 1
    visit.page.close()


@pytest.mark.parametrize("name", ("index", *CHAPTERS))
def test_a_page_opens_from_the_disk(browser, book, name):
    visit = Visit(browser, (book / f"html/book/{name}.html").as_uri(), "file://")
    assert (visit.outside, visit.complaints) == ([], [])
    visit.page.close()


@pytest.mark.parametrize("name", ("index", *CHAPTERS))
def test_no_line_of_code_is_cut_off(browser, site, name):
    visit = Visit(
        browser, f"{site}/book/{name}.html", site, viewport={"width": 1280, "height": 800}
    )
    wide = visit.page.evaluate(
        "[...document.querySelectorAll('article div.highlight pre, article div.text_html')]"
        ".filter(box => box.scrollWidth > box.clientWidth + 1).map(box => box.textContent)"
    )
    assert wide == []
    visit.page.close()


def test_the_player_goes_from_layer_to_layer(browser, site):
    visit = Visit(browser, f"{site}/book/layers.html", site)
    picture = visit.page.locator(".animation img")
    first = picture.get_attribute("src")
    slider = visit.page.locator(".animation input[type=range]")
    assert (slider.get_attribute("min"), slider.get_attribute("max")) == ("0", "8")
    slider.fill("8")
    slider.dispatch_event("input")
    slider.dispatch_event("change")
    assert picture.get_attribute("src") != first
    assert visit.complaints == []
    visit.page.close()


def test_figures_stay_readable_on_the_dark_page(browser, site):
    visit = Visit(browser, f"{site}/book/reliability.html", site, color_scheme="dark")
    theme = visit.page.evaluate("document.documentElement.dataset.theme")
    paper = visit.page.evaluate(
        "getComputedStyle(document.querySelector('article .cell_output img')).backgroundColor"
    )
    assert (theme, paper) == ("dark", "rgb(255, 255, 255)")
    visit.page.close()


def test_a_folded_solution_opens(browser, site):
    visit = Visit(browser, f"{site}/book/reliability.html", site)
    solution = visit.page.locator("div.solution.dropdown").first
    text = solution.get_by_text("It is calibrated: it promises 25 %")
    assert not text.is_visible()
    solution.locator("button, .toggle-button").first.click()
    text.wait_for(state="visible")
    visit.page.close()


def test_the_search_finds_a_word_of_the_book(browser, site):
    visit = Visit(browser, f"{site}/search.html?q=overconfidence", site)
    visit.page.wait_for_selector("#search-results li a")
    found = visit.page.locator("#search-results li a").all_inner_texts()
    assert any("Reliability" in title for title in found)
    visit.page.close()
