"""The library's reference, made from its docstrings: what autodoc and napoleon leave to be done.

Works cited in a docstring are numbered within it. Links name what a user imports, wherever it is
defined. And ``{names}`` lists all that another page documents, in its order, with one line each.
"""

import gc
import inspect
import posixpath
import re
from functools import cache
from importlib import import_module
from importlib.util import find_spec

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

import calib

# Those whose __all__ is public; what stands at the top is called by its name there.
MODULES = (
    "", "metrics", "questions", "models", "reading", "recalibration", "analysis", "steering",
    "mechanisms", "sampling", "figures", "report", "atlas",
)  # fmt: skip
LITERAL = re.compile(r"(``.*?``)")
CHOICES = re.compile(r"^( *\w[\w, ]* : )(\{.*?\})")  # a parameter's type: {"one", "other"}
WORK = re.compile(r"\[(\d+)\](?=_)")  # where it is cited
WORKS = re.compile(r"^( *\.\. )\[(\d+)\]")  # where it is named
ROLE = re.compile(r":(func|class|meth|attr):`(~?)([\w.]+)`")


@cache
def public_names():
    """Names as users import them, by the object's identity."""
    found = {}
    for name in MODULES:
        # Where users find it: the atlas lies in a room, and has its address at the top.
        module = getattr(calib, name) if name else calib
        for public in module.__all__:
            address = f"calib.{name}.{public}" if name else f"calib.{public}"
            found.setdefault(id(getattr(module, public)), address)
    return found


def link_text(role, short, target, module, public):
    """A link to what a docstring of the module calls ``target``."""
    owner, _, rest = target.removeprefix("calib.").partition(".")
    place = module if target == f"{owner}.{rest}".rstrip(".") else import_module("calib")
    thing = part_of(place, owner)
    while inspect.ismodule(thing):
        owner, _, rest = rest.partition(".")
        thing = part_of(thing, owner)
    if thing is None:  # a method of the class whose docstring this is
        return f":py:{role}:`{target}`"
    name = public.get(id(thing), f"{thing.__module__}.{owner}")
    if rest in getattr(thing, "__dataclass_fields__", ()):  # which the class describes itself
        return f":py:class:`{owner}.{rest} <{name}>`"
    name = f"{name}.{rest}".rstrip(".")
    title = name if target.startswith("calib.") else target
    title = title.rpartition(".")[2] if short else title
    return f":py:{role}:`{title}{'()' * (role in ('func', 'meth'))} <{name}>`"


def part_of(place, name):
    """A module's part, or the module of this name inside it; None if there is neither."""
    if name in vars(place):  # not hasattr: nnsight gives every object some methods
        return vars(place)[name]
    if name in getattr(place, "__all__", ()):
        return getattr(place, name)
    path = f"{place.__name__}.{name}"
    return import_module(path) if hasattr(place, "__path__") and find_spec(path) else None


def import_library(app):
    """Import what all pages need, and spare the garbage collector from going through it again.

    With torch and transformers in memory it would take as long as the pages themselves.
    """
    public_names()
    gc.freeze()


def prepare_docstring(app, what, name, thing, options, lines):
    """Before napoleon reads it, turn a docstring's plain text into what is meant by it."""
    module = inspect.getmodule(thing.fget if isinstance(thing, property) else thing)
    public = public_names()
    mark = re.sub(r"\W|_", "-", name).strip("-")
    for i, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...")):
            continue
        line = WORKS.sub(rf"\1[#{mark}-\2]", CHOICES.sub(r"\1``\2``", line))
        parts = LITERAL.split(line)
        parts[::2] = (
            ROLE.sub(
                lambda found: link_text(*found.groups(), module, public),
                WORK.sub(rf"[#{mark}-\1]", part).replace("|", r"\|"),
            )
            for part in parts[::2]
        )
        lines[i] = "".join(parts)


def write_signature(app, what, name, thing, options, signature, returns):
    """A default that is made anew for each object is written ..., which Sphinx can read."""
    return (signature or "").replace("<factory>", "...") or None, returns


def link_alias(app, env, node, contnode):
    """What a signature takes for a class may be a type alias."""
    if node.get("reftype") == "class":
        python = env.get_domain("py")
        target, builder = node["reftarget"], app.builder
        return python.resolve_xref(env, node["refdoc"], builder, "type", target, node, contnode)


def number_works(app, domain, objtype, content):
    """Number the works that a description cites as its docstring does, and link to them.

    Not as footnotes, which MyST takes for its own and gathers at the end of the page.
    """
    for cited in list(content.findall(nodes.footnote_reference)):
        label = cited["refname"]
        number = f"[{label.rpartition('-')[2]}]"
        cited.replace_self(nodes.reference("", number, internal=True, refid=f"work-{label}"))
    for work in list(content.findall(nodes.footnote)):
        (label,) = work["names"]
        number = nodes.Text(f"[{label.rpartition('-')[2]}] ")
        text = nodes.paragraph("", "", number, *work[0].children, classes=["work"])
        text["ids"] = [f"work-{label}"]
        work.replace_self(text)


class names(nodes.General, nodes.Element):
    """Where the names that a page documents are to stand."""


class Names(SphinxDirective):
    """``{names}`` with a page, relative to this one: all it documents, in its order."""

    required_arguments = 1

    def run(self):
        folder = posixpath.dirname(self.env.docname)
        return [names(page=posixpath.join(folder, self.arguments[0]))]


class FillNames(SphinxPostTransform):
    default_priority = 5  # before links are resolved

    def run(self, **_):
        for node in list(self.document.findall(names)):
            node.replace_self(self._table(node["page"]))

    def _table(self, page):
        body, section = nodes.tbody(), None
        for entry in self.env.get_doctree(page).findall(addnodes.desc):
            if isinstance(entry.parent, nodes.section) and entry[0]["ids"]:  # not a method
                if entry.parent is not section:
                    section = entry.parent
                    body += _row(nodes.paragraph("", section[0].astext()), classes=["group"])
                body += _row(self._link(page, entry[0]["ids"][0]), self._first_line(entry))
        columns = [nodes.colspec(colwidth=width) for width in (40, 60)]
        group = nodes.tgroup("", *columns, body, cols=2)
        return nodes.table("", group, classes=["names"])

    def _link(self, page, anchor):
        name = nodes.literal("", anchor)
        link = make_refnode(self.app.builder, self.env.docname, page, anchor, name)
        return nodes.paragraph("", "", link)

    def _first_line(self, entry):
        line = next(iter(entry[-1].findall(nodes.paragraph))).deepcopy()
        for cited in list(line.findall(nodes.reference)):  # a work, on the other page
            whole, at = cited.parent, cited.parent.index(cited)
            before, after = whole[at - 1].rstrip(), whole[at + 1 :]
            if before.endswith(".") and after and after[0].astext().startswith("."):  # "et al."
                before = before[:-1]
            whole[at - 1 : at + 1] = [nodes.Text(before)]
        for reference in line.findall(addnodes.pending_xref):
            reference["refdoc"] = self.env.docname
        return line


def _row(*cells, classes=()):
    span = {"morecols": 1} if len(cells) == 1 else {}
    return nodes.row("", *(nodes.entry("", cell, **span) for cell in cells), classes=[*classes])


def setup(app):
    app.add_node(names)
    app.add_directive("names", Names)
    app.add_post_transform(FillNames)
    app.add_css_file("api.css")
    app.connect("builder-inited", import_library)
    app.connect("autodoc-process-docstring", prepare_docstring, priority=400)
    app.connect("autodoc-process-signature", write_signature)
    app.connect("object-description-transform", number_works)
    app.connect("missing-reference", link_alias)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
