"""The chapters as plain notebooks: the same code, the same words, a way to open them on Colab."""

import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from bs4 import BeautifulSoup
from IPython.core.inputtransformer2 import TransformerManager
from plain_markdown import Translator, with_includes
from pybtex.database import parse_string
from support import bare
from support.book import PAGES, ROOT

CELL = re.compile(r"^```\{code-cell\} ipython3\n(?:---\n.*?\n---\n)?(.*?)\n```$", re.M | re.S)


@pytest.fixture(scope="module")
def notebooks(book):
    """The notebooks by page."""
    read = {
        name: nbformat.read(book / f"html/notebooks/{name}.ipynb", as_version=4) for name in PAGES
    }
    for notebook in read.values():
        nbformat.validate(notebook)
    return read


def text_of(notebook):
    return "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


@pytest.mark.parametrize("name", PAGES)
def test_a_notebook_holds_the_code_that_the_page_was_computed_with(name, notebooks):
    """And nothing else: that code ran where nothing but the library is installed (bare.py)."""
    chapter = (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8")
    cells = [c.source for c in notebooks[name].cells[1:] if c.cell_type == "code"]
    assert cells
    assert cells == CELL.findall(chapter)


@pytest.mark.parametrize("name", PAGES)
def test_a_notebook_says_what_the_page_says(name, notebooks, book):
    text = text_of(notebooks[name])
    assert not re.search(r"\{[\w:-]+\}`|^[`:]{3,}\{|^\([\w-]+\)=$", text, re.M)
    page = BeautifulSoup((book / f"html/book/{name}.html").read_bytes(), "html.parser")
    quoted = [span.get_text() for span in page.select("article span.pasted-text")]
    assert len(quoted) >= 2
    assert [value for value in quoted if value not in text] == []
    links = page.select("article a.reference.internal[href*='bibliography']")
    years = set(re.findall(r"\d{4}", " ".join(link.get_text() for link in links)))
    assert years
    assert [year for year in years if year not in text] == []
    for heading in page.select("article section[id] > h2"):
        title = re.sub(r"^[\d.]+\s*", "", heading.get_text()).rstrip("#").strip()
        assert f"## {title}" in text


def test_links_between_notebooks_lead_to_notebooks(notebooks, book):
    targets = {
        target
        for notebook in notebooks.values()
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text_of(notebook))
    }
    assert len(targets) >= 5
    assert [target for target in targets if not (book / "html/notebooks" / target).exists()] == []


def test_solutions_come_folded(notebooks):
    for name in PAGES[1:]:
        cells = notebooks[name].cells
        solutions = [cell for cell in cells if cell.source.startswith("#### Solution")]
        assert len(solutions) >= 4
        assert all(cell.metadata["jp-MarkdownHeadingCollapsed"] for cell in solutions)
        assert notebooks[name].metadata.colab.collapsed_sections == [s.id for s in solutions]


def test_every_page_with_a_notebook_offers_it(notebooks, book):
    for name in notebooks:
        page = BeautifulSoup((book / f"html/book/{name}.html").read_bytes(), "html.parser")
        (link,) = page.select("a[href$='.ipynb'].btn-download-notebook-button")
        assert (book / "html" / "book" / link["href"]).exists()


def test_every_colab_link_names_a_notebook_of_the_build(book):
    """There are some where the repository's address is known, none where it is not."""
    links = re.findall(
        r'https://colab\.research\.google\.com/[^"]*',
        "".join(page.read_text(encoding="utf-8") for page in (book / "html/book").glob("*.html")),
    )
    names = [re.search(r"/blob/gh-pages/(notebooks/[\w-]+\.ipynb)$", link)[1] for link in links]
    assert [name for name in names if not (book / "html" / name).exists()] == []


# A book of two pages, built with and without an address


@pytest.fixture(scope="module", params=["https://github.com/me/mine", ""])
def small(request, tmp_path_factory):
    """The address of its repository, and the built pages."""
    folder, address = tmp_path_factory.mktemp("small"), request.param
    (folder / "book").mkdir()
    shutil.copytree(ROOT / "book" / "_ext", folder / "book" / "_ext")
    shutil.copytree(ROOT / "book" / "_static", folder / "book" / "_static")
    shutil.copy(ROOT / "constraints.txt", folder)
    shutil.copy(ROOT / "Makefile", folder)
    config = (ROOT / "_config.yml").read_text(encoding="utf-8")
    config = config.replace("execute_notebooks: cache", 'execute_notebooks: "off"')
    (folder / "_config.yml").write_text(config)
    (folder / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters: [{file: book/one}, {file: book/words}]\n"
    )
    head = "---\nkernelspec: {name: python3, display_name: Python 3, language: python}\n"
    head += "jupytext: {text_representation: {format_name: myst}}\n---\n\n"
    (folder / "book/index.md").write_text(head + "# Start\n\n[](one.md)\n")
    (folder / "book/one.md").write_text(
        head + "# One\n\nSee {cite:t}`b` and [](words.md).\n\n```{code-cell} ipython3\n6 * 7\n```\n"
    )
    (folder / "book/words.md").write_text("# Words\n\n```{bibliography}\n```\n")
    (folder / "book/references.bib").write_text(
        "@misc{b, author={Bo, A.}, title={T}, year={2001}, eprint={1}}"
    )
    told = {"BOOK_REPOSITORY_URL": address, "BOOK_SITE_URL": "https://me.example"}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB", "BOOK"))}
    options = {"cwd": folder, "env": environment | told, "capture_output": True, "text": True}
    done = subprocess.run(["make", "html", f"RUN={sys.executable}"], **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return address, folder / "_build" / "html"


def test_the_button_is_there_where_the_address_is_known_and_only_there(small):
    address, html = small
    page = BeautifulSoup((html / "book/one.html").read_bytes(), "html.parser")
    found = [link["href"] for link in page.select("a[href*='colab']")]
    colab = "https://colab.research.google.com/github/me/mine/blob/gh-pages/notebooks/one.ipynb"
    assert found == ([colab] if address else [])
    assert "colab" not in (html / "book/words.html").read_text()
    assert sorted(p.name for p in (html / "notebooks").iterdir()) == ["index.ipynb", "one.ipynb"]


def test_a_notebook_asks_colab_for_a_gpu(small):
    metadata = nbformat.read(small[1] / "notebooks/one.ipynb", 4).metadata
    assert (metadata.accelerator, metadata.colab.gpuType) == ("GPU", "T4")


@pytest.mark.parametrize("on_colab", [False, True])
def test_the_first_cell_installs_the_library_on_colab_only(small, on_colab, monkeypatch, capsys):
    address, html = small
    first = nbformat.read(html / "notebooks/one.ipynb", 4).cells[0]
    assert first.cell_type == ("code" if address else "markdown")
    assert "pip install" in first.source
    if not address:
        return
    assert max(map(len, first.source.splitlines())) <= 82
    names, said = {}, []

    class Shell:
        def run_line_magic(self, name, line):
            said.append((name, line.format(**names)))  # IPython fills in what stands in braces, too

    names["get_ipython"] = Shell
    if on_colab:
        monkeypatch.setitem(sys.modules, "google.colab", object())
    exec(TransformerManager().transform_cell(first.source), names)
    source = "git+https://github.com/me/mine@main"
    assert said == [("pip", f'install --quiet "calibration-across-layers @ {source}"')] * on_colab
    assert capsys.readouterr().out.startswith("calib ") == on_colab


def test_notebooks_link_to_each_other_and_to_the_pages(small):
    address, html = small
    said = text_of(nbformat.read(html / "notebooks/index.ipynb", 4))
    colab = "https://colab.research.google.com/github/me/mine/blob/gh-pages/notebooks/one.ipynb"
    assert f"[One]({colab if address else 'one.ipynb'})" in said
    said = text_of(nbformat.read(html / "notebooks/one.ipynb", 4))
    assert "[Words](https://me.example/book/words.html)" in said
    assert "See [Bo (2001)](https://arxiv.org/abs/1)" in said


# The translation


LIBRARY = parse_string(
    "@misc{a, author={van Dam, A. and Li, B.}, title={T}, year={1999}, url={https://a.org}}"
    "@misc{b, author={Bo, A. and Co, B. and Do, C.}, title={U}, year={2001}}",
    "bibtex",
)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("of {glue:text}`n` or {glue:text}`x:.2f`", "of 12 or 0.35"),
        ("{glue:text}`i_text`", "0.1 [0.0, 0.2]"),
        ("{glue:text}`far:.1f`", "inf"),
        ("by {cite:t}`a`", "by [van Dam & Li (1999)](https://a.org)"),
        ("said {cite:p}`b,a`", "said (Bo et al., 2001; [van Dam & Li, 1999](https://a.org))"),
        ("a {term}`lens` and {term}`rotations <rotation>`", "a lens and rotations"),
        ("{py:func}`~calib.evolve`", "`calib.evolve`"),
        ("[](other.md) and [there](other.md#part)", "[Other](o.ipynb) and [there](o.ipynb)"),
        ("[](nowhere.md)", "Nowhere"),
        ("(label)=\n## A part", "## A part"),
        (
            "```{exercise-start} Warm-up: one\n:label: ex-one\n```\nDo it.\n```{exercise-end}\n```",
            "### Exercise: Warm-up: one\n\nDo it.",
        ),
    ],
)
def test_roles_and_directives_become_plain_text(text, plain):
    glued = {"n": "12", "x": "0.3456", "i_text": "'0.1 [0.0, 0.2]'", "far": "inf"}
    pages = {"other": ("Other", "o.ipynb"), "nowhere": ("Nowhere", "")}
    assert Translator(glued, LIBRARY, pages.get)(text) == plain


def test_a_solution_bears_the_name_of_its_exercise():
    translate = Translator({}, LIBRARY, {}.get)
    translate("```{exercise-start} Hard\n:label: ex-hard\n```\nWhy?\n```{exercise-end}\n```")
    start = "```{solution-start} ex-hard\n:class: dropdown\n```\n"
    said = translate(start + "So.\n```{solution-end}\n```")
    assert said == "#### Solution (Hard)\n\nSo."


@pytest.mark.parametrize("text", ["{doc}`x`", "```{note}\nBeware.\n```", ":::{tip}\nTry.\n:::"])
def test_what_it_does_not_know_is_an_error(text):
    with pytest.raises(ValueError, match="no plain Markdown is known for"):
        Translator({}, LIBRARY, {}.get)(text)


def test_included_parts_stand_in_the_text(tmp_path):
    (tmp_path / "table.md").write_text("before <!-- a --> the table <!-- b --> after")
    text = "See\n\n```{include} table.md\n:start-after: <!-- a -->\n:end-before: <!-- b -->\n```\n"
    assert with_includes(text, tmp_path) == "See\n\nthe table\n"


def test_the_bare_kernel_finds_the_library_and_not_what_the_tests_need():
    kept = bare.brought_by("calibration-across-layers", "ipykernel")
    assert {"calibration-across-layers", "torch", "scikit-learn", "nnsight", "ipykernel"} <= kept
    assert kept.isdisjoint({"sphinx", "myst-nb", "pytest", "netcal", "torchmetrics", "accelerate"})
    code = (
        "from support import bare\n"
        "bare.hide_the_rest('calibration-across-layers', 'ipykernel'); import calib, sklearn\n"
        "try: import myst_nb\n"
        "except ModuleNotFoundError: print('hidden')"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True, check=True)
    assert done.stdout == "hidden\n"
