"""Every executed chapter as a plain notebook beside the pages, and the buttons that open it.

The chapters' sources are MyST, which Colab cannot open. So the build writes a notebook for each,
with the values that the prose quotes filled in, and the page offers it for download and, where the
repository's address is known, on Colab: from the branch that the built pages are published on.
"""

import json
import re
from pathlib import Path, PurePosixPath

import nbformat
from myst_nb.core.read import read_myst_markdown_notebook
from plain_markdown import Translator, read_library, with_includes

BRANCH = "gh-pages"
INSTALL = """\
# On Colab: install the library that this notebook uses, and say what it runs on.
import sys

if "google.colab" in sys.modules:
    source = "git+{repository}@{branch}"
    %pip install --quiet "calibration-across-layers @ {{source}}"
    from calib.notebook import runtime

    runtime()"""
NEEDS = "*This notebook needs the library `calib`: `pip install` the repository of its book.*"


def is_executed(app, page):
    return "kernelspec" in app.env.metadata.get(page, {})


def notebook_of(page):
    """Where a page's notebook lies, from the folder of the built pages."""
    return f"notebooks/{PurePosixPath(page).name}.ipynb"


def colab_address(app, page):
    """Where Colab opens a page's notebook, or "" where the repository's address is not known."""
    repository = app.config.html_theme_options.get("repository_url", "")
    if not repository:
        return ""
    place = repository.removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{place}/blob/{BRANCH}/{notebook_of(page)}"


def other_page(app, page):
    """A function that gives title and address of the pages that a page links to."""

    def find(name):
        target = (PurePosixPath(page).parent / name).as_posix()
        title = app.env.titles[target].astext()
        if is_executed(app, target):
            return title, colab_address(app, target) or PurePosixPath(notebook_of(target)).name
        site = app.config.html_baseurl
        return title, site and f"{site.rstrip('/')}/{target}.html"

    return find


def as_notebook(app, page):
    """A page as a notebook: its code cell for cell, its text as plain Markdown, without outputs."""
    source = Path(app.env.doc2path(page))
    glue = Path(app.outdir).parent / "jupyter_execute" / f"{page}.glue.json"
    glued = json.loads(glue.read_text(encoding="utf-8")) if glue.exists() else {}
    translate = Translator(
        {name: record["data"]["text/plain"] for name, record in glued.items()},
        read_library(Path(app.srcdir, app.config.bibtex_bibfiles[0])),
        other_page(app, page),
    )
    text = with_includes(source.read_text(encoding="utf-8"), source.parent)
    cells = [first_cell(app)]
    for cell in read_myst_markdown_notebook(text, path=source).cells:
        if cell.cell_type == "code":
            cells.append(nbformat.v4.new_code_cell(cell.source))
        else:  # a solution in a cell of its own, which can be folded
            parts = re.split(r"^(?=```\{(?:exercise|solution)-start\})", cell.source, flags=re.M)
            cells += [as_cell(translate(part)) for part in parts if part.strip()]
    if translate.cited:
        cells.append(as_cell(f"## References\n\n{translate.references()}"))
    cells = [cell for cell in cells if cell.source]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # the same in every build
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    folded = [c.id for c in cells if c.metadata]
    # Colab gives a machine by what a notebook asks for: here its smallest GPU.
    colab = {"collapsed_sections": folded, "toc_visible": True, "gpuType": "T4"}
    metadata = {"kernelspec": kernel, "accelerator": "GPU", "colab": colab}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    nbformat.validate(notebook)
    return notebook


def first_cell(app):
    options = app.config.html_theme_options
    if not options.get("repository_url"):
        return nbformat.v4.new_markdown_cell(NEEDS)
    places = {"repository": options["repository_url"], "branch": options["repository_branch"]}
    return nbformat.v4.new_code_cell(INSTALL.format(**places))


def as_cell(text):
    """A cell of Markdown; one that begins a solution comes folded in Jupyter, and so in Colab."""
    folded = {"jp-MarkdownHeadingCollapsed": True} if text.startswith("#### Solution") else {}
    return nbformat.v4.new_markdown_cell(text, metadata=folded)


def write_notebooks(app, exception):
    if exception or app.builder.format != "html":
        return
    for page in filter(lambda page: is_executed(app, page), app.env.all_docs):
        target = Path(app.outdir, notebook_of(page))
        target.parent.mkdir(exist_ok=True)
        nbformat.write(as_notebook(app, page), target)


def add_buttons(app, pagename, templatename, context, doctree):
    """Offer the notebook in the page's header: on Colab, and among the downloads."""
    if not is_executed(app, pagename):
        return
    buttons = context["header_buttons"]
    for group in buttons:
        if group.get("label") == "download-buttons":
            group["buttons"].insert(0, {
                "type": "link", "text": ".ipynb", "icon": "fas fa-code",
                "tooltip": "Download as a notebook", "label": "download-notebook-button",
                "url": context["pathto"](notebook_of(pagename), 1),
            })  # fmt: skip
    if colab_address(app, pagename):
        buttons.append({
            "type": "link", "text": "Colab", "icon": "fas fa-rocket", "tooltip": "Open on Colab",
            "label": "colab-button", "url": colab_address(app, pagename),
        })  # fmt: skip


def setup(app):
    app.connect("html-page-context", add_buttons, priority=502)  # after the theme's own, at 501
    app.connect("build-finished", write_notebooks)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
