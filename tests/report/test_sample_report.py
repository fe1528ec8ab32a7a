"""The page on readings that lm-evaluation-harness made: its numbers, and what it refuses."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from support.browser import Visit

from calib import Reading, metrics
from calib.reading import read_harness
from calib.report import InputFault, write_sample_report
from calib.report._last_layer import temper
from calib.report.samples import render_samples
from calib.report.text import interval_text, number_text

BeautifulSoup = pytest.importorskip("bs4").BeautifulSoup

FOLDER = Path(__file__).parents[1] / "reading" / "harness"
FILES = sorted(FOLDER.glob("samples_*.jsonl"))
SETTINGS = {"n_bins": 10, "min_count": 1, "n_resamples": 200, "seed": 0}
COMMAND = "calib report samples_*.jsonl"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("samples") / "mine"
    return write_sample_report(FILES, out, seed=3, command=COMMAND)


@pytest.fixture(scope="module")
def page(done):
    return parse(done[0].read_text(encoding="utf-8"))


def parse(text):
    return BeautifulSoup(text, "html.parser")


def rows(page, table):
    """Cells of a table's body by the row's heading; a cell is its value and its interval."""
    return {
        row.th.get_text(): [list(cell.stripped_strings) for cell in row.select("td")]
        for row in page.select(f"#{table} tbody tr")
    }


def planted(subjects, n_each, scale=1.0, seed=0):
    """A reading whose labels are drawn from its logits divided by ``scale``."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(n_each * len(subjects), 4))
    labels = np.array([rng.choice(4, p=p) for p in softmax(logits, axis=1)])
    about = {"model": "planted", "options": "letters", "files": {}}
    return Reading(scale * logits[:, None], labels, np.repeat(subjects, n_each), provenance=about)


# The page of real files


def test_the_finding_tells_confidence_accuracy_and_what_a_temperature_mends(done, page):
    file, said = done
    assert (file.name, said) == ("index.html", page.select_one(".finding").get_text())
    assert said.startswith(
        "On 30 questions SmolLM2-135M-Instruct is overconfident: its mean confidence is 0.780 ["
    )
    assert "its accuracy 0.300 [" in said
    assert "At the best temperature, 8.14 [" in said
    assert re.search(r"ECE is 0\.524 \[.*show 0\.1\d\d by chance", said)


def test_the_table_holds_the_metrics_and_their_intervals(page):
    reading = read_harness(FILES)
    p, labels = reading.probabilities[-1], reading.labels
    found = metrics.bootstrap(p, labels, ("accuracy", "gap", "ece", "mce", "nll", "brier"), seed=3)
    shown = rows(page, "scores")
    names = ("accuracy", "confidence − accuracy", "ECE", "MCE", "NLL (nats)", "Brier score")
    for name, interval in zip(names, found.values(), strict=True):
        assert " ".join(shown[name][0]) == interval_text(*interval)
    assert shown["ECE, bins of equal mass"][0][0] == number_text(
        metrics.ece(p, labels, binning="equal-mass")
    )
    assert shown["AUROC of confidence"][0][0] == number_text(metrics.auroc(p, labels))


def test_at_the_temperature_accuracy_stays_and_changes_are_differences(page):
    for name, cells in rows(page, "scores").items():
        before, after, change = (float(cells[i][0].replace("−", "-")) for i in (0, 2, 4))
        assert change == pytest.approx(after - before, abs=0.0011), name
    assert rows(page, "scores")["accuracy"][4] == ["0.000", "[0.000, 0.000]"]


def test_the_temperature_is_that_of_lowest_nll(page):
    reading = read_harness(FILES)

    def loss(log_t):
        z = log_softmax(reading.logits[:, -1] / np.exp(log_t), axis=1)
        return -z[np.arange(30), reading.labels].mean()

    best = np.exp(minimize_scalar(loss, bounds=(-3, 6), method="bounded").x)
    assert best == pytest.approx(8.14, abs=0.01)
    assert f"The best temperature is {best:.2f} [" in page.get_text()


def test_small_subjects_have_no_row_and_are_counted(page):
    assert page.select("#subjects, #categories") == []
    note = " ".join(page.select_one("#left-out").get_text().split())
    assert note.startswith("4 subjects with fewer than 20 questions have no row")


def test_the_page_says_what_it_was_made_with(page):
    told = {
        dt.get_text(): " ".join(dt.find_next("dd").get_text().split())
        for dt in page.select("#made-with dt")
    }
    assert (told["command"], told["model"]) == (COMMAND, "SmolLM2-135M-Instruct")
    assert told["versions"].endswith("lm_eval 0.4.13, transformers 5.22.2")
    assert told["tasks"].startswith("mmlu_astronomy 1.0, mmlu_global_facts 1.0")
    assert told["measured with"].endswith("1,000 resamples, seed 3")
    listed = [item.get_text(" ") for item in page.select("#files li")]
    assert len(listed) == 4
    assert all(re.fullmatch(r"samples_\S+\.jsonl\s+[0-9a-f]{64}", item) for item in listed)
    assert "letters and texts" in " ".join(page.get_text().split())
    assert "acc_norm" in page.get_text()


def test_the_page_asks_for_nothing_else_and_describes_its_pictures(page):
    assert page.select("script, link, iframe, object, a") == []
    alts = [image["alt"] for image in page.select("img")]
    assert len(alts) == 2
    assert all(alt.startswith("Reliability diagram: ") for alt in alts)
    assert all(image["src"].startswith("data:image/svg+xml") for image in page.select("img"))


@pytest.mark.parametrize(("scheme", "ground"), [("light", (255,) * 3), ("dark", (22, 24, 27))])
def test_the_page_fits_a_phone_by_day_and_by_night(browser, done, scheme, ground):
    size = {"width": 390, "height": 800}
    visit = Visit(browser, done[0].as_uri(), "file://", viewport=size, color_scheme=scheme)
    assert (visit.outside, visit.complaints) == ([], [])
    visit.page.evaluate("document.querySelector('details').open = true")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    shown = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert shown == f"rgb{ground}"
    visit.page.close()


def test_the_reading_lies_beside_the_page(done):
    kept = Reading.load(done[0].parent / "reading")
    np.testing.assert_array_equal(kept.logits, read_harness(FILES).logits)


# Where the truth is known


def test_a_calibrated_model_is_told_apart_from_none():
    reading = planted(["anatomy", "virology", "philosophy"], 400)
    text, said = render_samples(reading, "planted", SETTINGS, "")
    assert "planted is neither reliably over- nor underconfident" in said
    page = parse(text)
    ece, chance = (float(cell[0]) for cell in rows(page, "scores")["ECE"][:2])
    assert ece < 2 * chance
    low, high = map(float, re.search(r"temperature is \S+ \[(\S+), (\S+)\]", text).groups())
    assert low < 1 < high
    assert list(rows(page, "categories")) == ["humanities", "other"]
    assert [cells[0] for cells in rows(page, "categories").values()] == [["400"], ["800"]]
    assert list(rows(page, "subjects")) == ["anatomy", "philosophy", "virology"]
    assert page.select("#left-out") == []


@pytest.mark.parametrize(("scale", "verdict"), [(3.0, "overconfident"), (0.3, "underconfident")])
def test_a_model_of_wrong_temperature_is_mended_by_it(scale, verdict):
    reading = planted(["law"], 1500, scale)
    text, said = render_samples(reading, "planted", SETTINGS, "")
    assert f"planted is {verdict}" in said
    low, high = map(float, re.search(r"temperature is \S+ \[(\S+), (\S+)\]", text).groups())
    assert low < scale < high
    before, _, after, chance, _ = (
        float(cell[0].replace("−", "-")) for cell in rows(parse(text), "scores")["ECE"]
    )
    assert before > 0.1
    assert after < 2 * chance


def test_a_category_is_judged_at_the_temperature_of_all():
    reading = planted(["anatomy", "philosophy"], 100, scale=3.0)
    text, _ = render_samples(reading, "planted", SETTINGS, "")
    tempered, _ = temper(reading, seed=0)
    part = reading.subjects == "philosophy"
    cells = rows(parse(text), "categories")["humanities"]
    p, labels = tempered.probabilities[-1][part], reading.labels[part]
    assert cells[-2][0] == number_text(metrics.ece(p, labels))
    assert cells[-1][0] == number_text(metrics.nll(p, labels))


def test_no_question_is_judged_by_a_temperature_that_saw_its_label():
    reading = planted(["law"], 40)
    moved = reading.labels.copy()
    moved[7] = (moved[7] + 1) % 4
    other = replace(reading, labels=moved)
    first, second = (temper(r, seed=1)[0].probabilities[-1] for r in (reading, other))
    same = (first == second).all(axis=1)
    assert same[7]
    assert same.sum() == 20  # its half


def test_where_every_answer_is_right_no_temperature_is_fitted():
    logits = np.tile([3.0, 0.0, 0.0, 0.0], (30, 1, 1))
    about = {"model": "sure", "options": "letters", "files": {}}
    reading = Reading(logits, np.zeros(30, dtype=int), np.repeat("law", 30), provenance=about)
    text, said = render_samples(reading, "sure", SETTINGS, "")
    page = parse(text)
    assert "all 15 answers are right" in page.select_one("#refusal").get_text()
    assert "temperature" not in said
    assert {len(cells) for cells in rows(page, "scores").values()} == {2}
    assert rows(page, "scores")["AUROC of confidence"][0] == ["–"]
    assert rows(page, "subjects")["law"][-2:] == [["–"], ["–"]]
    assert len(page.select("img")) == 1


def test_one_question_is_enough_for_a_page():
    reading = planted(["law"], 1)
    text, said = render_samples(reading, "one", SETTINGS, "")
    assert "No temperature could be fitted: there are 1 questions for 2 folds" in text
    assert said.startswith("On 1 question one is")


# What it refuses


def test_files_that_cannot_be_read_are_the_inputs_fault(tmp_path):
    broken = tmp_path / FILES[0].name
    broken.write_text(FILES[0].read_text(encoding="utf-8")[:-50], encoding="utf-8")
    with pytest.raises(InputFault, match=r"line 8 is no JSON .*cut off"):
        write_sample_report([broken], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_a_former_report_is_written_over(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(InputFault, match=r"holds 'letter\.txt' and is no former report"):
        write_sample_report(FILES[:1], tmp_path / "own")
    write_sample_report(FILES[:1], tmp_path / "out")
    write_sample_report(FILES[:2], tmp_path / "out")
    assert len(Reading.load(tmp_path / "out/reading")) == 16


def test_the_folder_is_named_after_the_model_where_none_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(FILES[0], tmp_path)
    page, said = write_sample_report([FILES[0].name])
    assert page == Path("report-a-model-without-a-name/index.html")
    (result,) = FOLDER.glob("results_*.json")
    told = json.loads(result.read_text(encoding="utf-8"))
    told["model_name"] = "/home/me/models/my model"
    (tmp_path / result.name).write_text(json.dumps(told), encoding="utf-8")
    page, said = write_sample_report([FILES[0].name])
    assert page == Path("report-my-model/index.html")
    assert said.startswith("On 8 questions my model is")
