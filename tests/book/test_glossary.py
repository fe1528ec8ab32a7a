"""The glossary's terms, linked where a chapter first uses them."""

import re

import pytest
from support.book import CHAPTERS, ROOT

TERMS = re.findall(
    r"^(\w[^\n]*)\n  \w", (ROOT / "book" / "glossary.md").read_text(encoding="utf-8"), re.M
)
# Words that the prose also needs in their ordinary sense: a reader's eye says where to link them.
ORDINARY = {
    "accuracy", "agreement", "branch", "calibrated", "capability", "category", "component",
    "decision", "direction", "laboratory", "layer", "lens", "onset", "option", "proper",
    "reliability", "strength", "temperature",
}  # fmt: skip
LINK = re.compile(r"\*{0,2}\{term\}`([^`<]+?)(?:\s*<([^>]+)>)?`")


def prose_of(chapter):
    """Paragraphs and lists from the question on, without code, headings, exercises and formulas."""
    text = (ROOT / "book" / f"{chapter}.md").read_text(encoding="utf-8")
    text = text[text.index("## The question") : text.index("## Exercises")]
    text = re.sub(r"^```\{code-cell\}.*?^```$", "", text, flags=re.S | re.M)
    text = re.sub(r"\$\$.*?\$\$", "", text, flags=re.S)
    text = re.sub(r"^(#|\|).*$", "", text, flags=re.M)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    # Of what stands in backticks only the links to terms are prose.
    return re.sub(r"(\{term\})?(\{[\w:]+\})?`[^`]*`", lambda f: f[0] if f[1] else "", text)


def linked_in(chapter):
    return {(found[2] or found[1]).strip() for found in LINK.finditer(prose_of(chapter))}


def test_the_glossary_is_in_order():
    assert len(TERMS) > 40
    assert sorted(TERMS, key=str.lower) == TERMS
    assert set(TERMS) >= ORDINARY


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_term_is_linked_where_a_chapter_first_uses_it(chapter):
    prose = prose_of(chapter)
    used = {}
    for term in set(TERMS) - ORDINARY:
        ending = "" if term.isupper() else "(?:s|es)?"
        found = re.search(rf"(?<![\w-]){re.escape(term)}{ending}(?![\w-])", prose)
        if found:
            used[term] = found.start()
    assert used
    first = {(link[2] or link[1]).strip(): link for link in reversed([*LINK.finditer(prose)])}
    late = [
        term
        for term, place in used.items()
        if term not in first or place < first[term].start() or place > first[term].end()
    ]
    assert late == []


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_term_is_linked_once(chapter):
    links = [(link[2] or link[1]).strip() for link in LINK.finditer(prose_of(chapter))]
    assert sorted({term for term in links if links.count(term) > 1}) == []
    assert set(links) <= set(TERMS)


def test_every_term_is_linked_from_some_chapter():
    linked = set().union(*map(linked_in, CHAPTERS))
    assert set(TERMS) - linked == set()
