"""The ledger of claims, written from ``claims.yml`` and from the values that the chapters glue.

Whether a claim holds is computed when the book is built: a verdict cannot stay behind its figures.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from plain_markdown import as_value

PAGE = "book/claims"
MARK = "% the claims stand here"
VERDICTS = ("holds", "does not hold", "cannot be tested here")
NOT_ASKED = "*Not asked yet.*"


@dataclass(frozen=True)
class Value:
    """A value with its interval, as the conditions compare it: an interval as a whole."""

    value: float
    low: float
    high: float
    text: str

    def __lt__(self, other):
        return self.high < getattr(other, "low", other)

    def __gt__(self, other):
        return self.low > getattr(other, "high", other)

    def __abs__(self):
        if self.low < 0 < self.high:
            return Value(abs(self.value), 0.0, max(-self.low, self.high), self.text)
        low, high = sorted((abs(self.low), abs(self.high)))
        return Value(abs(self.value), low, high, self.text)

    def __str__(self):
        return self.text


def read_values(folder):
    """What the chapters glued, by name, from the files that the build writes beside them."""
    glued = {}
    for file in sorted(Path(folder).glob("*.glue.json")):
        for name, record in json.loads(file.read_text(encoding="utf-8")).items():
            glued[name.replace("-", "_")] = as_value(record["data"]["text/plain"])
    numbers = {name: value for name, value in glued.items() if not isinstance(value, str)}
    return {
        name: Value(
            value,
            numbers.get(f"{name}_low", value),
            numbers.get(f"{name}_high", value),
            glued.get(f"{name}_text") or f"{value:.3f}".replace("-", "−"),
        )
        for name, value in numbers.items()
    }


def verdict(claim, values):
    """One of the three verdicts on a claim."""
    if "holds" not in claim:
        return VERDICTS[2]
    allowed = {**values, "__builtins__": {}, "abs": abs}
    return VERDICTS[0] if eval(claim["holds"], allowed) else VERDICTS[1]


def as_table(claims, values):
    """The claims of one chapter as MyST: what is said, and for each kind of model what was seen."""
    rows = ["```{list-table}", ":header-rows: 1", ":class: claims", ":widths: 28 36 36", ""]
    rows += ["* - Claim", "  - In the laboratory", "  - In real models"]
    for claim in claims:
        source = claim["source"]
        said_by = "*Our question*" if source == "this book" else f"{{cite:t}}`{source}`"
        rows += [f"* - {claim['claim']}\n\n    {said_by}", f"  - {as_cell(claim, values)}"]
        rows += [f"  - {as_cell(claim['real'], values) if 'real' in claim else NOT_ASKED}"]
    return "\n".join([*rows, "```"])


def as_cell(tried, values):
    """What was done, the figure that decides, and the verdict, a paragraph each."""
    said = verdict(tried, values)
    mark = f"[{said}]{{.{said.replace(' ', '-')}}}"
    seen = in_one_piece(tried.get("figure", "").format_map(values))
    return "\n\n    ".join([tried["here"], *([f"{seen}."] if seen else []), mark])


def in_one_piece(text):
    """The text with its intervals unbroken."""
    return re.sub(r" \[[^]]*\]", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text)


def as_text(claims, values, titles):
    """All claims, chapter by chapter, under a line that counts the verdicts."""
    verdicts = [verdict(claim, values) for claim in claims]
    hold, fail, open_ = (verdicts.count(v) for v in VERDICTS)
    real = [verdict(claim["real"], values) for claim in claims if "real" in claim]
    parts = [
        f"Of {len(claims)} claims {hold} hold in the laboratory, {fail} do not, and {open_} cannot "
        f"be tested there. Of the {len(real)} that were asked of real models as well, "
        f"{real.count(VERDICTS[0])} hold and {real.count(VERDICTS[1])} do not."
    ]
    for chapter in dict.fromkeys(claim["chapter"] for claim in claims):
        some = [claim for claim in claims if claim["chapter"] == chapter]
        # Without a link: the page's contents would show it without its words.
        parts.append(f"## {titles[chapter]}\n\nIn [](/book/{chapter}.md).")
        parts.append(as_table(some, values))
    return "\n\n".join(parts)


def read_last(app, env, docnames):
    """Let the chapters be read before the page that quotes them all."""
    if PAGE in docnames:
        docnames.remove(PAGE)
        docnames.append(PAGE)


def fill_in(app, docname, source):
    if docname != PAGE:
        return
    file = Path(app.srcdir, "book", "claims.yml")
    app.env.note_dependency(str(file))
    claims = yaml.safe_load(file.read_text(encoding="utf-8"))["claims"]
    values = read_values(Path(app.outdir).parent / "jupyter_execute" / "book")
    titles = {Path(name).name: title.astext() for name, title in app.env.titles.items()}
    source[0] = re.sub(MARK, lambda _: as_text(claims, values, titles), source[0])


def setup(app):
    app.connect("env-before-read-docs", read_last, priority=900)
    app.connect("source-read", fill_in)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
