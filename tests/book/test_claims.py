"""The ledger of claims: complete, and each verdict as the figures beside it say."""

import re

import pytest
import yaml
from bs4 import BeautifulSoup
from claims import VERDICTS, Value, as_text, read_values, verdict
from support.book import CHAPTERS, ROOT

LEDGER = yaml.safe_load((ROOT / "book" / "claims.yml").read_text(encoding="utf-8"))
CLAIMS = LEDGER["claims"]
HOLDS, FAILS, OPEN = VERDICTS


def sources(claim):
    return {key.strip() for key in claim["source"].split(",")}


def cited_in(chapter):
    text = (ROOT / "book" / f"{chapter}.md").read_text(encoding="utf-8")
    cited = re.findall(r"\{cite:[a-z]+\}`([^`]+)`", text)
    return {key.strip() for keys in cited for key in keys.split(",")}


def tried_in(claim):
    """What was tried in the laboratory and, where it was, in real models."""
    return [claim, *([claim["real"]] if "real" in claim else [])]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapters_every_source_is_judged_or_is_background(chapter):
    """Whoever lets a chapter test a new claim has to enter it, or to say that none is tested."""
    judged = {key for claim in CLAIMS if claim["chapter"] == chapter for key in sources(claim)}
    background = set(LEDGER["background"].get(chapter, ()))
    assert judged
    assert cited_in(chapter) - judged - background == set()
    assert judged & background == set()
    assert background <= cited_in(chapter)


def test_an_entry_is_whole():
    for claim in CLAIMS:
        assert claim["chapter"] in CHAPTERS
        assert claim["claim"].endswith(".")
        assert set(claim) <= {"chapter", "source", "claim", "here", "figure", "holds", "real"}
        for tried in tried_in(claim):
            assert tried["here"].endswith(".")
            assert ("holds" in tried) == ("figure" in tried), claim["claim"]
        assert set(claim.get("real", ())) <= {"here", "figure", "holds"}
    named = set().union(*map(sources, CLAIMS)) - {"this book"}
    library = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    assert named <= set(re.findall(r"^@\w+\{(\w+),", library, re.M))


def test_the_page_holds_every_claim_with_its_figures_and_its_verdict(book):
    page = BeautifulSoup((book / "html/book/claims.html").read_bytes(), "html.parser")
    rows = [row.select("td") for row in page.select("article table.claims tbody tr")]
    assert len(rows) == len(CLAIMS)
    values = read_values(book / "jupyter_execute" / "book")
    for claim, (said, *cells) in zip(CLAIMS, rows, strict=True):
        words = re.sub(r"\W+", "", claim["claim"])
        assert re.sub(r"\W+", "", said.get_text()).startswith(words)
        tried = tried_in(claim)
        for one, cell in zip(tried, cells, strict=False):
            shown = cell.get_text().replace("\N{NO-BREAK SPACE}", " ").strip()
            assert shown.endswith(verdict(one, values))
            names = re.findall(r"\{(\w+)\}", one.get("figure", ""))
            assert bool(names) == ("holds" in one)
            assert [name for name in names if values[name].text not in shown] == []
        assert len(cells) == 2
        assert len(tried) == 2 or cells[1].get_text().strip() == "Not asked yet."
    text = page.get_text()
    counted = re.search(r"Of (\d+) claims (\d+) hold.* (\d+) do not, and (\d+) ", text)
    assert int(counted[1]) == sum(map(int, counted.groups()[1:])) == len(CLAIMS)
    real = re.search(r"Of the (\d+) that were asked of real .* (\d+) hold and (\d+) do not", text)
    assert int(real[1]) == int(real[2]) + int(real[3]) == sum("real" in claim for claim in CLAIMS)


def test_the_figures_of_a_verdict_are_shown_beside_it():
    """A condition may rest on an interval that the reader does not see only if it is of a gap."""
    for tried in (one for claim in CLAIMS for one in tried_in(claim)):
        tested = set(re.findall(r"\b[a-z]+_\w+", tried.get("holds", "")))
        shown = set(re.findall(r"\{(\w+)\}", tried.get("figure", "")))
        assert {name for name in tested - shown if not name.endswith("_gap")} == set(), tried


def test_the_books_main_results_have_the_verdict_that_the_chapters_give_them(book):
    values = read_values(book / "jupyter_execute" / "book")
    verdicts = {claim["claim"]: verdict(claim, values) for claim in CLAIMS}

    def of(prefix):
        (found,) = (v for claim, v in verdicts.items() if claim.startswith(prefix))
        return found

    assert of("After accuracy has settled, calibration improves") == HOLDS
    assert of("A direction in the residual stream improves") == HOLDS
    assert of("A calibration direction is more than a temperature") == FAILS
    assert of("Single neurons do it") == FAILS
    assert of("The phase is the layers' and not the lens's") == FAILS
    assert of("Phi-2, Llama and Mistral") == OPEN
    assert of("A calibrated forecaster can hide") == HOLDS
    assert of("Focal loss gives better calibrated models") == HOLDS
    assert of("The correction is a falling temperature") == FAILS
    verdicts = {c["claim"]: verdict(c["real"], values) for c in CLAIMS if "real" in c}
    assert of("After accuracy has settled, calibration improves") == HOLDS
    assert of("The correction is a falling temperature") == HOLDS
    assert of("The upper layers add knowledge of which questions to doubt") == FAILS
    assert of("Phi-2, Llama and Mistral") == FAILS  # SmolLM2 does not leave the baseline


# How a verdict is reached


LOW, HIGH = Value(0.1, 0.0, 0.2, "low"), Value(0.5, 0.4, 0.6, "high")
WIDE = Value(0.3, 0.1, 0.5, "wide")
VALUES = {"low": LOW, "high": HIGH, "wide": WIDE, "minus": Value(-0.5, -0.6, -0.4, "")}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("low < high", HOLDS),
        ("high > low", HOLDS),
        ("low < wide", FAILS),  # they overlap
        ("wide < high", FAILS),
        ("not wide > low", HOLDS),
        ("low < 0.21", HOLDS),
        ("low < 0.2", FAILS),
        ("low > 0", FAILS),
        ("-0.1 < low < 0.3", HOLDS),
        ("low > 0.05 or high > 0.3", HOLDS),
        ("abs(minus) > low", HOLDS),
        ("wide.value < 0.4", HOLDS),
    ],
)
def test_an_interval_is_compared_as_a_whole(condition, expected):
    assert verdict({"holds": condition}, VALUES) == expected


def test_the_size_of_a_value_on_both_sides_of_zero_reaches_down_to_zero():
    size = abs(Value(-0.1, -0.3, 0.2, ""))
    assert (size.value, size.low, size.high) == (0.1, 0.0, 0.3)


def test_without_a_condition_nothing_is_claimed():
    assert verdict({}, VALUES) == OPEN


def test_an_unknown_value_is_an_error_and_not_a_verdict():
    with pytest.raises(NameError, match="forgotten"):
        verdict({"holds": "forgotten > 0"}, VALUES)
    claim = {"chapter": "own", "source": "a", "claim": "C.", "here": "H.", "figure": "{forgotten}"}
    with pytest.raises(KeyError, match="forgotten"):
        as_text([claim | {"holds": "low > 0"}], VALUES, {"own": "Own"})


def test_values_are_read_with_their_limits_and_words(tmp_path):
    file = tmp_path / "one.glue.json"
    file.write_text(
        '{"a-b": {"data": {"text/plain": "0.25"}}, "a-b_low": {"data": {"text/plain": "0.2"}},'
        ' "a-b_high": {"data": {"text/plain": "inf"}},'
        ' "a-b_text": {"data": {"text/plain": "\'0.25 [0.2, inf]\'"}},'
        ' "n": {"data": {"text/plain": "-0.5"}}}'
    )
    values = read_values(tmp_path)
    assert values["a_b"] == Value(0.25, 0.2, float("inf"), "0.25 [0.2, inf]")
    assert values["n"] == Value(-0.5, -0.5, -0.5, "−0.500")
