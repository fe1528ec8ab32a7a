"""The built pages in a real browser with the network off: whole, silent, fit for everyone."""

import functools
import http.server
import threading

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from support.book import CHAPTERS
from support.browser import Visit

LOOKS = {"light": ("light", 1280), "dark": ("dark", 390)}

# What is folded is looked at too, at once and not halfway through fading in.
OPEN = """() => {
    const still = document.createElement("style");
    still.textContent = "* { animation: none !important; transition: none !important }";
    document.head.append(still);
    document.querySelectorAll(".toggle-button-hidden").forEach(button => button.click());
    document.querySelectorAll("details").forEach(box => box.open = true);
}"""

# Code is thousands of words in a handful of colours: one word of each is as good as all of them,
# and saves most of the time. The others are taken away.
THIN = """() => {
    const seen = new Set(), again = [];
    for (const word of document.querySelectorAll("div.highlight pre span")) {
        const around = word.parentElement.closest("pre, span");
        const [own, its] = [word, around].map(element => getComputedStyle(element));
        const box = word.closest(".admonition")?.className;
        const look = [own.color, own.backgroundColor, its.backgroundColor, box].join();
        if (seen.has(look)) again.push(word);
        seen.add(look);
    }
    again.forEach(word => word.remove());
}"""

# Without fetching the style sheets once more, to which no rule of interest looks.
JUDGE = """async () => {
    const options = { preload: false, resultTypes: ["violations"] };
    const { violations } = await axe.run(document, options);
    return violations.map(
        found => [found.impact, found.id, ...found.nodes.map(node => node.html.slice(0, 120))]
    );
}"""

CUT_OFF = """() =>
    [...document.querySelectorAll("article div.highlight pre, article div.text_html")]
        .filter(box => box.scrollWidth > box.clientWidth + 1).map(box => box.textContent)
"""


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


@pytest.fixture(scope="module")
def names(book):
    """Every page that was built, and the two that belong to none."""
    root = book / "html"
    found = [path.relative_to(root).as_posix() for path in sorted(root.glob("book/**/*.html"))]
    assert {f"book/{name}.html" for name in ("index", *CHAPTERS)} <= set(found)
    return [*found, *(name for name in ("search.html", "genindex.html") if (root / name).exists())]


@pytest.fixture(scope="module", params=LOOKS)
def context(request, browser):
    scheme, width = LOOKS[request.param]
    size = {"width": width, "height": 800}
    context = browser.new_context(viewport=size, color_scheme=scheme)
    yield context
    context.close()


def violations(page):
    """What axe finds wrong, down to what it calls minor."""
    page.evaluate(THIN)
    page.evaluate(AXE_SCRIPT)
    return page.evaluate(JUDGE)


def flaws(visit):
    """What a page does wrong however it is opened, by kind."""
    formulas = visit.page.locator("mjx-merror").all_inner_texts()
    return {"asks for": visit.outside, "prints": visit.complaints, "formulas": formulas}


def listed(found):
    """Each page's flaws in a line of its own."""
    return "\n".join(
        f"{name} {kind}: {flaw}"
        for name, flaws in found.items()
        for kind, flaw in flaws.items()
        if flaw
    )


def test_every_page_is_whole_silent_and_accessible(context, site, names):
    found = {}
    for name in names:
        visit = Visit(context, f"{site}/{name}", site)
        width = visit.page.viewport_size["width"]
        visit.page.evaluate(OPEN)
        wide = visit.page.evaluate("document.documentElement.scrollWidth")
        found[name] = {
            "scrolls sideways": wide - width if wide > width else 0,
            "cut off": visit.page.evaluate(CUT_OFF) if width > 1000 else [],
            "violates": violations(visit.page),
            **flaws(visit),
        }
        visit.page.close()
    assert not listed(found), listed(found)


def test_every_page_opens_from_the_disk(browser, book, names):
    context, found = browser.new_context(), {}
    for name in names:
        visit = Visit(context, (book / "html" / name).as_uri(), "file://")
        found[name] = flaws(visit)
        visit.page.close()
    context.close()
    assert not listed(found), listed(found)


def test_what_opens_over_a_page_is_accessible(context, site):
    """The menu of downloads, the search and, on a phone, the two halves of the contents."""
    for opener in (
        ".dropdown-download-buttons > button",
        ".search-button__button",
        ".primary-toggle",
        ".secondary-toggle",
    ):
        visit = Visit(context, f"{site}/book/index.html", site)
        button = visit.page.locator(opener).locator("visible=true")
        if button.count():  # there is room for the contents beside the page elsewhere
            button.first.click()
            visit.page.wait_for_timeout(400)
            assert violations(visit.page) == [], opener
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


def test_figures_keep_white_paper_and_their_colours_on_the_dark_page(browser, site):
    visit = Visit(browser, f"{site}/book/reliability.html", site, color_scheme="dark")
    theme = visit.page.evaluate("document.documentElement.dataset.theme")
    paper, filtered = visit.page.evaluate(
        "(style => [style.backgroundColor, style.filter])"
        "(getComputedStyle(document.querySelector('article .cell_output img')))"
    )
    assert (theme, paper, filtered) == ("dark", "rgb(255, 255, 255)", "none")
    visit.page.close()


def test_a_folded_solution_opens_wherever_its_title_is_clicked(browser, site):
    visit = Visit(browser, f"{site}/book/reliability.html", site)
    answer = "It is calibrated: it promises 25 %"
    solution = visit.page.locator("div.solution.dropdown", has_text=answer)
    text = solution.get_by_text(answer)
    assert not text.is_visible()
    solution.locator("button.toggle-button").click()
    text.wait_for(state="visible")
    solution.get_by_text("Solution to").click()
    text.wait_for(state="hidden")
    assert visit.complaints == []
    visit.page.close()


def test_the_search_finds_a_word_of_the_book(browser, site):
    visit = Visit(browser, f"{site}/search.html?q=overconfidence", site)
    visit.page.wait_for_selector("#search-results li a")
    found = visit.page.locator("#search-results li a").all_inner_texts()
    assert any("Reliability" in title for title in found)
    assert visit.complaints == []
    visit.page.close()


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_the_first_screen_shows_the_finding(browser, site, size):
    viewport = dict(zip(("width", "height"), size, strict=True))
    visit = Visit(browser, f"{site}/book/index.html", site, viewport=viewport)
    box = visit.page.locator("article .cell_output img").first.bounding_box()
    assert box["y"] + box["height"] <= size[1]
    visit.page.close()
