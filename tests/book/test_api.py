"""The library's reference: every public name once, under the name that users import, and whole."""

import importlib
import inspect
import re
from types import ModuleType

import pytest
from bs4 import BeautifulSoup
from sphinx.util.inventory import InventoryFile
from support.book import CHAPTERS, ROOT

import calib

LISTED = (  # rooms with an __all__
    "metrics", "questions", "models", "reading", "recalibration", "analysis", "steering",
    "mechanisms", "sampling", "figures", "report",
)  # fmt: skip
OPEN = ("losses",)  # without one: what they define without an underscore is public
PAGES = ("api", *(f"api/{room}" for room in (*LISTED, *OPEN, "laboratory")))


KINDS = ("py:function", "py:class", "py:exception", "py:data", "py:type")


@pytest.fixture(scope="module")
def documented(book):
    """The page of every documented name, by kind and name; other names of the same left out."""
    with open(book / "html" / "objects.inv", "rb") as file:
        inventory = InventoryFile.load(file, "", lambda _, address: address)
    return {
        kind: {
            name: address.partition("#")[0].removesuffix(".html")
            for name, (_, _, address, _) in names.items()
            if address.endswith(("#" + name, "#module-" + name))
        }
        for kind, names in inventory.items()
        if kind.startswith("py:")
    }


@pytest.fixture(scope="module")
def pages(book):
    return {
        name: BeautifulSoup((book / f"html/book/{name}.html").read_bytes(), "html.parser")
        for name in PAGES
    }


def things(documented, module):
    """What is documented as a part of the module, without modules inside it."""
    names = (name for kind in KINDS for name in documented.get(kind, ()))
    return {name.rpartition(".")[2] for name in names if name.rpartition(".")[0] == module}


@pytest.mark.parametrize("module", LISTED)
def test_every_name_of_a_module_is_documented_and_no_other(module, documented):
    room = getattr(calib, module)
    at_the_top = {name for name in room.__all__ if name in calib.__all__}
    assert things(documented, f"calib.{module}") == set(room.__all__) - at_the_top


def test_every_name_of_the_library_is_documented(documented):
    modules = {n for n in calib.__all__ if isinstance(getattr(calib, n), ModuleType)}
    assert things(documented, "calib") == set(calib.__all__) - modules
    assert {f"calib.{name}" for name in modules} <= set(documented["py:module"])


@pytest.mark.parametrize("module", OPEN)
def test_every_name_of_an_open_module_is_documented(module, documented):
    home = importlib.import_module(f"calib.{module}")
    defined = {
        name
        for name, thing in vars(home).items()
        if not name.startswith("_") and getattr(thing, "__module__", None) == home.__name__
    }
    assert things(documented, home.__name__) == defined


def test_what_the_chapters_import_is_documented(documented):
    text = "".join((ROOT / f"book/{name}.md").read_text(encoding="utf-8") for name in CHAPTERS)
    imports = re.findall(r"^from (calib[.\w]*) import (\([^)]+\)|.+)", text, re.M)
    names = ((home, re.sub(r" as \w+|[()]", "", names).split(",")) for home, names in imports)
    used = {f"{home}.{name.strip()}" for home, several in names for name in several}
    known = {id(_get(name)) for names in documented.values() for name in names}
    assert len(used) > 40
    assert {name for name in used if id(_get(name)) not in known} == set()


def _get(name):
    """What a documented name stands for."""
    parts = name.split(".")
    thing = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], start=2):
        try:
            thing = vars(thing)[part] if part in vars(thing) else getattr(thing, part)
        except AttributeError:
            thing = importlib.import_module(".".join(parts[:i]))
    return thing


def descriptions(pages):
    """The heading and the text of each name, and its page."""
    for page, tree in pages.items():
        for heading in tree.select("dl.py > dt.sig[id]"):
            yield heading["id"], heading.find_next_sibling("dd"), page


def test_a_name_stands_on_one_page_and_in_the_index(pages, documented):
    names = [name for name, _, _ in descriptions(pages)]
    assert len(names) == len(set(names)) > 150
    linked = {a["href"].partition("#")[2] for a in pages["api"].select("table.names a")}
    for kind in KINDS:
        for name, page in documented[kind].items():
            assert page.startswith("book/api/") and name in linked, name


def test_names_are_those_that_users_import(pages):
    """Beside calib.read_layers, calib.read_layers is nowhere to be read."""
    modules = (calib, *(getattr(calib, name) for name in LISTED))
    public = {(m.__name__, name): getattr(m, name) for m in modules for name in m.__all__}
    for tree in pages.values():
        text = tree.select_one("article").get_text()
        for (module, name), thing in public.items():
            home = getattr(thing, "__module__", module)
            assert home == module or not re.search(rf"\b{re.escape(f'{home}.{name}')}\b", text)


def test_parameters_and_examples_are_shown(pages):
    seen = 0
    for name, shown, _ in descriptions(pages):
        text = inspect.getdoc(_get(name)) if callable(_get(name)) else None
        if not text:
            continue
        code = "\n".join(pre.get_text() for pre in shown.select("pre"))
        for line in re.findall(r"^ *((?:>>>|\.\.\.) .*\S)", text, re.M):
            assert line in code, name
        section = re.search(r"^Parameters\n-+\n(.*?)(?=\n\S+\n---|\Z)", text, re.S | re.M)
        wanted = re.findall(r"^([*\w][*\w, ]*?)(?: :.*)?$", section[1], re.M) if section else []
        bold = [strong.get_text() for strong in shown.select("dl.field-list strong")]
        assert [names for names in wanted if names not in bold] == [], name
        assert not re.search(r"^Examples\n-", text, re.M) or "Examples" in [
            rubric.get_text() for rubric in shown.select("p.rubric")
        ]
        seen += bool(section)
    assert seen > 80


def test_works_cited_are_linked_within_a_description(pages):
    """Their numbers begin anew in each docstring, and no link leads to another's."""
    cited = 0
    for name, shown, _ in descriptions(pages):
        for link in shown.select("a[href^='#work-']"):
            work = shown.find(id=link["href"].removeprefix("#"))
            assert work is not None, (name, link)
            assert work.get_text().startswith(link.get_text())
            cited += 1
    assert cited > 40


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_left_of_the_markup(name, pages):
    article = pages[name].select_one("article")
    assert article.select(".problematic, .system-message") == []
    for literal in article.select("pre, code, dt.sig"):
        literal.decompose()
    assert re.findall(r"`|:\w+:|\[#|\\|<factory>", article.get_text()) == []
