"""What the theme and the outputs leave out for those who use a keyboard or a screen reader.

Everything is mended when the pages are written, none of it by a script in the page.
"""

from bs4 import BeautifulSoup


def name_sliders(page):
    """An animation's slider says what it moves; matplotlib names only the buttons."""
    for slider in page.select("input.anim-slider"):
        slider["aria-label"] = "Frame"


def make_entries_items(page):
    """The bibliography is marked as a list, so its entries are items of one.

    Docutils gives them a role that is deprecated and that no list may hold.
    """
    for entry in page.select('[role="list"] > [role="doc-biblioentry"]'):
        entry["role"] = "listitem"


def empty_corners(page):
    """A heading without a word heads nothing: the corners of a table of pandas are plain cells."""
    for cell in page.select("table.dataframe th"):
        if not cell.get_text(strip=True):
            cell.name = "td"


def drop_repeated_ids(page):
    """Only the first element keeps an id: links lead there in any case.

    All exercises of a page call their content the same, and so do docstrings their citations.
    """
    seen = set()
    for element in page.select("[id]"):
        if element["id"] in seen:
            del element["id"]
        else:
            seen.add(element["id"])


def unlist_signatures(page):
    """The parameters of a long signature, one a line, are no list of definitions: none has any."""
    for lines in page.select("dt.sig > dl"):
        for line in lines.find_all("dd", recursive=False):
            line.name, line["class"] = "div", "sig-line"
        lines.name = "div"


def free_titles_of_links(page):
    """A click on a solution's title opens it; the link inside led away instead.

    It led to the exercise, which stands right above, and the script that opens the solution failed.
    """
    for link in page.select("div.solution.dropdown > .admonition-title > a"):
        link.unwrap()


MENDED = (
    name_sliders, make_entries_items, empty_corners, drop_repeated_ids, unlist_signatures,
    free_titles_of_links,
)  # fmt: skip


def mend(html):
    """The body of a page with all of this put right."""
    page = BeautifulSoup(html, "html.parser")
    for step in MENDED:
        step(page)
    return str(page)


def with_named_branches(generate):
    """The table of contents, each arrow that unfolds a branch with a name."""

    def named(*args, **kwargs):
        contents = generate(*args, **kwargs)
        for arrow in contents.select("li > details > summary"):
            title = arrow.find_parent("li").a.get_text(strip=True)
            arrow["aria-label"] = f"Pages of {title}"
        return contents

    return named


def mend_page(app, pagename, templatename, context, doctree):
    if "body" in context:
        context["body"] = mend(context["body"])
    context["generate_toctree_html"] = with_named_branches(context["generate_toctree_html"])


def setup(app):
    app.connect("html-page-context", mend_page, priority=910)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
