"""MyST as plain Markdown: what a chapter says, for readers that know no roles or directives."""

import re
from ast import literal_eval

from pybtex.database import parse_file
from pybtex.plugin import find_plugin

ROLE = re.compile(r"\{([\w:-]+)\}`([^`]+)`")
LINK = re.compile(r"\[([^\]]*)\]\(([\w./-]+)\.md(?:#[\w-]*)?\)")
INCLUDE = re.compile(r"^```\{include\} (\S+)\n((?::[\w-]+: .*\n)*)```$", re.M)
BEGIN = re.compile(r"^```\{(exercise|solution)-start\} *(.*)\n((?::[\w-]+: .*\n)*)```\n?", re.M)
END = re.compile(r"^```\{(?:exercise|solution)-end\}\n```\n?", re.M)
TIMES = re.compile(r"^```\{nb-exec-table\}\n```$", re.M)
TARGET = re.compile(r"^\([\w-]+\)=\n", re.M)


class Translator:
    """Translates one chapter.

    Parameters
    ----------
    glued : dict of str
        The text of each glued value, as ``repr`` gives it.
    library : pybtex.database.BibliographyData
        The works that citations name.
    page : callable
        Title and address of another page of the book, the address "" where nothing is known.
    """

    def __init__(self, glued, library, page):
        self.glued, self.library, self.page = glued, library, page
        self.cited = []
        self.titles = {}  # of exercises, by label

    def __call__(self, text):
        text = BEGIN.sub(self._heading, END.sub("", TARGET.sub("", text)))
        text = TIMES.sub("*(In the built book, the times stand here.)*", text)
        text = LINK.sub(self._link, ROLE.sub(self._role, text))
        left = re.search(r"^[`:]{3,}\{.*|\{[\w:-]+\}`.*", text, re.M)
        if left:
            raise ValueError(f"no plain Markdown is known for {left[0]!r}: teach Translator")
        return text.strip()

    def _heading(self, found):
        kind, rest, options = found.groups()
        if kind == "solution":
            return f"#### Solution ({self.titles[rest]})\n\n"
        self.titles[re.search(r":label: (\S+)", options)[1]] = rest
        return f"### Exercise: {rest}\n\n"

    def _role(self, found):
        name, content = found.groups()
        if name == "glue:text":
            key, _, form = content.partition(":")
            return format(as_value(self.glued[key]), form)
        if name.startswith("cite:"):
            return self._citation(content.split(","), in_text=name == "cite:t")
        titled = re.fullmatch(r"(.*\S)\s*<[^>]+>", content, re.S)
        if name == "term":
            return titled[1] if titled else content
        if name.startswith("py:"):
            return f"`{titled[1] if titled else content.lstrip('~!')}`"
        return found[0]  # reported by the caller

    def _citation(self, keys, in_text):
        works = []
        for key in map(str.strip, keys):
            self.cited.append(key)
            entry = self.library.entries[key]
            names, year = authors(entry), entry.fields["year"]
            text = f"{names} ({year})" if in_text else f"{names}, {year}"
            works.append(f"[{text}]({address(entry)})" if address(entry) else text)
        return ", ".join(works) if in_text else f"({'; '.join(works)})"

    def _link(self, found):
        text, name = found.groups()
        title, target = self.page(name)
        return f"[{text or title}]({target})" if target else text or title

    def references(self):
        """The works cited so far as a Markdown list, by author."""
        keys = sorted(set(self.cited))
        style = find_plugin("pybtex.style.formatting", "plain")()
        backend = find_plugin("pybtex.backends", "markdown")()
        entries = style.format_entries([self.library.entries[key] for key in keys])
        lines = (entry.text.render(backend).replace("\n", " ") for entry in entries)
        return "\n".join(f"- {line}" for line in lines)


def as_value(text):
    """What was glued, from its ``repr``; an infinite value is written inf, which no literal is."""
    return literal_eval(text if text.startswith(("'", '"')) else text.replace("inf", "1e999"))


def read_library(path):
    """The works of a BibTeX file."""
    return parse_file(str(path))


def authors(entry):
    """Who wrote it, as a citation says it: one name, two, or the first "et al."."""
    names = [
        " ".join(str(part) for part in (*p.rich_prelast_names, *p.rich_last_names))
        for p in entry.persons["author"]
    ]
    return " & ".join(names) if len(names) <= 2 else f"{names[0]} et al."


def address(entry):
    """Where the work is to be found, or ""."""
    fields = entry.fields
    if "url" in fields:
        return fields["url"]
    if "doi" in fields:
        return f"https://doi.org/{fields['doi']}"
    return f"https://arxiv.org/abs/{fields['eprint']}" if "eprint" in fields else ""


def with_includes(text, folder):
    """The text with the included files, or the parts of them that are asked for, in place."""

    def read(found):
        path, options = found.groups()
        part = (folder / path).read_text(encoding="utf-8")
        limits = dict(re.findall(r"^:(start-after|end-before): (.*)$", options, re.M))
        if "start-after" in limits:
            part = part.partition(limits["start-after"])[2]
        if "end-before" in limits:
            part = part.partition(limits["end-before"])[0]
        return part.strip()

    return INCLUDE.sub(read, text)
