"""The command ``calib report``: its page, its numbers, and what it refuses."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from support.architectures import TOKENIZER, random_module
from support.browser import Visit
from support.readings import planted
from support.second_device import ELSEWHERE

from calib import Reading, evolve, load_questions, metrics, open_model, read_layers
from calib.__main__ import main
from calib._arguments import CATEGORIES
from calib.analysis import Correction, Evolution, calibrated_ece
from calib.analysis.phases import METRICS
from calib.metrics import Interval
from calib.metrics.intervals import columns_of
from calib.questions import mmlu
from calib.report import finding, write_report
from calib.report.html import COLUMNS, render
from calib.report.text import interval_text, number_text
from calib.report.write import made_with

BeautifulSoup = pytest.importorskip("bs4").BeautifulSoup

LIMIT, SEED = 100, 3


def run(*arguments, folder):
    command = [sys.executable, "-m", "calib", *arguments]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=offline)


def parse(file):
    return BeautifulSoup(file.read_bytes(), "html.parser")


def rows(page, table):
    """Cells of a table's body by the row's heading; a cell is its value and its interval."""
    return {
        row.th.get_text(): [list(cell.stripped_strings) for cell in row.select("td")]
        for row in page.select(f"#{table} tbody tr")
    }


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The command run once, and the folder it ran in."""
    folder = tmp_path_factory.mktemp("report")
    arguments = ["--limit", str(LIMIT), "--seed", str(SEED), "--out", "deep/mine"]
    return run("report", "almanac", *arguments, folder=folder), folder


@pytest.fixture(scope="module")
def page(done):
    return parse(done[1] / "deep/mine/index.html")


@pytest.fixture(scope="module")
def reading(done):
    """The one that the page was made from."""
    return Reading.load(done[1] / "deep/mine/reading")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A small model of one's own in a folder with an awkward name, and questions of one's own."""
    folder = tmp_path_factory.mktemp("own")
    for part in (random_module("gpt2"), TOKENIZER):
        part.save_pretrained(folder / "my <own> model")
    (folder / "asked").mkdir()
    for split, limit in (("test", 60), ("dev", None)):
        lines = [json.dumps(row) for row in load_questions("almanac", split, limit=limit)]
        plain = "\n".join(re.sub(r', "posterior".*?\]', "", line) for line in lines)
        (folder / f"asked/{split}.jsonl").write_text(plain, encoding="utf-8")
    return folder


# The page of the laboratory's model


def test_the_command_writes_a_page_and_says_what_it_found(done, page):
    process, folder = done
    assert process.returncode == 0, process.stderr
    said, where = process.stdout.splitlines()
    assert where == os.path.join("deep", "mine", "index.html")
    assert said == page.select_one(".finding").get_text()
    assert said.startswith(
        "The accuracy of almanac leaves the baseline at layer 5 and is settled from"
    )
    files = {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}
    names = ("index.html", "reading/reading.json", "reading/reading.safetensors")
    assert files == {os.path.join("deep", "mine", *name.split("/")) for name in names}


def test_the_reading_is_of_the_subset_asked_for(reading):
    questions = load_questions("almanac", limit=LIMIT, seed=SEED)
    assert reading.labels.tolist() == list(questions["answer"])
    assert reading.subjects.tolist() == list(questions["subject"])
    np.testing.assert_array_equal(reading.posterior, questions["posterior"])


def test_the_table_by_layer_holds_the_metrics_and_their_intervals(page, reading):
    table = evolve(reading, min_count=2, seed=SEED).table
    shown = rows(page, "layers")
    assert list(shown) == [str(layer) for layer in range(9)]
    for layer, cells in enumerate(shown.values()):
        p, labels = reading.probabilities[layer], reading.labels
        values = [
            metrics.accuracy(p, labels), metrics.mean_confidence(p, labels),
            metrics.signed_gap(p, labels), metrics.ece(p, labels),
            metrics.mce(p, labels, min_count=2), metrics.nll(p, labels), metrics.auroc(p, labels),
        ]  # fmt: skip
        assert [cell[0] for cell in cells] == [number_text(value) for value in values]
        for metric, cell in zip(COLUMNS, cells, strict=True):
            low, high = table[f"{metric}_low"][layer], table[f"{metric}_high"][layer]
            assert cell[1] == f"[{number_text(low)}, {number_text(high)}]"


def test_the_table_by_subject_holds_the_last_layers_scores(page, reading):
    shown, p = rows(page, "subjects"), reading.probabilities[-1]
    names = [name.replace("_", " ") for name in sorted(set(reading.subjects))]
    assert list(shown) == [*names, "all subjects"]
    for name, (count, accuracy, confidence, ece, calibrated) in shown.items():
        group = (reading.subjects == name.replace(" ", "_")) | (name == "all subjects")
        labels = reading.labels[group]
        right = round(metrics.accuracy(p[group], labels) * group.sum())
        exact = binomtest(right, int(group.sum())).proportion_ci(method="wilson")
        assert count == [str(group.sum())]
        assert f"{accuracy[0]} {accuracy[1]}" == interval_text(
            right / group.sum(), exact.low, exact.high
        )
        assert confidence == [number_text(metrics.mean_confidence(p[group], labels))]
        assert ece == [number_text(metrics.ece(p[group], labels))]
        assert float(calibrated[0]) == pytest.approx(chance_ece(p[group]), abs=0.02)


def chance_ece(p, draws=200):
    """Mean ECE over labels drawn from the probabilities themselves, one set at a time."""
    rng = np.random.default_rng(9)
    drawn = ([rng.choice(p.shape[1], p=row) for row in p] for _ in range(draws))
    return np.mean([metrics.ece(p, np.array(labels)) for labels in drawn])


def test_the_ece_of_a_calibrated_model_is_that_of_labels_it_draws_itself():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 0.5, 0.3], size=40)
    fast = calibrated_ece(p.max(axis=1), n_draws=4000)
    assert fast == pytest.approx(chance_ece(p, draws=1000), abs=0.004)
    assert fast > 2 * calibrated_ece(np.tile(p.max(axis=1), 10), n_draws=1000)


def test_the_known_truth_is_told(page, reading):
    posterior, p = reading.posterior, reading.probabilities
    text = page.find("h2", string="Beside the truth").find_next("p").get_text()
    logs = np.log(np.where(posterior > 0, posterior, 1))
    expected = [
        posterior.max(axis=1).mean(), -(posterior * logs).sum(axis=1).mean(),
        metrics.accuracy(p[-1], reading.labels), metrics.nll(p[-1], reading.labels),
    ]  # fmt: skip
    assert re.findall(r"\d\.\d{3}", text) == [number_text(value) for value in expected]
    cells = rows(page, "truth")
    follows = np.corrcoef(p[8].max(axis=1), posterior.max(axis=1))[0, 1]
    assert cells["8"][0] == [number_text(metrics.ece(p[8], reading.labels))]
    assert cells["8"][2][0] == number_text(follows)
    assert cells["0"][2] == ["–"]  # every question has the same embedding at the answer's place


def test_the_page_says_what_it_was_made_with(page, reading):
    told = page.select_one("#made-with")
    told = {
        dt.get_text(): " ".join(dt.find_next("dd").get_text().split()) for dt in told.select("dt")
    }
    assert told["command"] == "calib report almanac --limit 100 --seed 3 --out deep/mine"
    assert told["model"] == told["questions"] == "almanac"
    assert (told["architecture"], told["dtype"]) == ("LlamaForCausalLM", "float32")
    assert (told["shots"], told["prompt"]) == ("0", reading.provenance["prompt"])
    for package, version in reading.provenance["versions"].items():
        assert f"{package} {version}" in told["versions"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", told["date"])
    assert told["measured with"] == "10 bins of equal width, 1,000 resamples, seed 3"
    assert "bins of at least 2 questions" in " ".join(page.get_text().split())


def test_the_page_asks_for_nothing_else(page):
    assert page.select("script, link, iframe, object, a") == []
    assert not re.search(r"url\(|@import", page.style.string)
    sources = [
        tag[name] for tag in page.find_all() for name in ("src", "href") if tag.has_attr(name)
    ]
    assert len(sources) == 5
    for source in sources:
        kind, data = source.split(",", 1)
        assert kind == "data:image/svg+xml;base64"
        svg = base64.b64decode(data).decode()
        assert all(link.startswith("#") for link in re.findall(r'href="(.*?)"', svg))


def test_every_picture_is_described(page, reading):
    alts = [image.get("alt", "") for image in page.select("img")]
    assert len(alts) == 5
    assert min(map(len, alts)) > 40
    assert page.select_one(".finding").get_text() in alts[0]
    error = metrics.ece(reading.probabilities, reading.labels)
    assert f"{number_text(error[0])} at layer 0" in alts[1]
    assert f"layer {error.argmax()}, {number_text(error.max())}." in alts[1]
    captions = [caption.get_text() for caption in page.select("figcaption")[2:]]
    peak = 6 + error[6:].argmax()
    layers = ("0: the embedding", f"{peak}: largest ECE from the decision on", "8: the last")
    assert captions == [
        f"Layer {layer}. ECE {number_text(error[int(layer[0])])}." for layer in layers
    ]


@pytest.mark.parametrize(("scheme", "ground"), [("light", (255,) * 3), ("dark", (22, 24, 27))])
def test_the_page_fits_a_phone_by_day_and_by_night(browser, done, scheme, ground):
    address = (done[1] / "deep/mine/index.html").as_uri()
    size = {"width": 390, "height": 800}
    visit = Visit(browser, address, "file://", viewport=size, color_scheme=scheme)
    assert (visit.outside, visit.complaints) == ([], [])
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    shown = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert shown == f"rgb{ground}"
    loaded = "[...document.images].every(image => image.complete && image.naturalWidth > 100)"
    assert visit.page.evaluate(loaded)
    visit.page.close()


# A model and questions of one's own


def test_a_model_and_questions_of_ones_own(own, monkeypatch, capsys):
    monkeypatch.chdir(own)
    before = dict(matplotlib.rcParams)
    main(["report", "my <own> model", "--questions", "asked", "--shots", "1", "--category", "STEM"])
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []
    assert os.path.join("report-my-own-model", "index.html") in capsys.readouterr().out
    page = parse(own / "report-my-own-model/index.html")
    assert page.h1.get_text() == "Calibration by layer: my <own> model"
    assert list(rows(page, "layers")) == ["0", "1", "2", "3"]
    assert list(rows(page, "subjects")) == ["bridge geology", "field botany", "all subjects"]
    assert page.select("#truth") == []
    reading = Reading.load(own / "report-my-own-model/reading")
    questions = load_questions(own / "asked", category="STEM")
    expected = read_layers(open_model(own / "my <own> model"), questions, shots=1)
    np.testing.assert_array_equal(reading.logits, expected.logits)
    assert f"on {len(questions)}\nquestions" in page.figcaption.get_text()


def test_only_a_former_report_is_written_over(own, monkeypatch, capsys):
    monkeypatch.chdir(own)
    arguments = ["report", "my <own> model", "--questions", "asked", "--out", "again", "--limit"]
    main([*arguments, "5"])
    main([*arguments, "6"])
    assert len(Reading.load("again/reading")) == 6
    os.remove("again/index.html")  # as a run leaves it that was stopped after the reading
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "7"])
    assert stopped.value.code == 2
    assert "'again' holds 'reading' and is no former report" in capsys.readouterr().err
    assert len(Reading.load("again/reading")) == 6


def test_an_interrupted_report_goes_on_where_it_was(own, monkeypatch, capsys):
    monkeypatch.chdir(own)
    arguments = ["report", "my <own> model", "--questions", "asked", "--out", "interrupted"]
    with monkeypatch.context() as patch:
        patch.setattr(
            "calib.report.write.evolve", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            main(arguments)
    kept = sorted((own / "interrupted/run").glob("*.safetensors"))
    assert kept
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--shots", "1"])
    assert "was begun with shots = 0, this run has 1" in capsys.readouterr().err.splitlines()[-1]
    assert sorted((own / "interrupted/run").glob("*.safetensors")) == kept
    with monkeypatch.context() as patch:
        patch.setattr(
            "calib.reading._forward.read_streams", lambda *_: pytest.fail("it was read already")
        )
        main(arguments)
    assert not (own / "interrupted/run").exists()
    assert len(Reading.load(own / "interrupted/reading")) == 60


def test_an_error_that_is_not_the_inputs_keeps_its_traceback(own, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise ValueError("a bug")

    monkeypatch.chdir(own)
    arguments = ["report", "my <own> model", "--questions", "asked", "--out", str(tmp_path / "r")]
    main([*arguments, "--limit", "5"])
    monkeypatch.setattr("calib.report.write.evolve", fail)
    with pytest.raises(ValueError, match="a bug"):
        main(arguments)
    assert len(Reading.load(tmp_path / "r/reading")) == 60  # the costly part is kept
    assert not (tmp_path / "r/index.html").exists()  # nor does the former page stand beside it


# The finding in words


def evolution_of(onset, decision, correction=None, layers=6):
    interval = Interval(np.zeros(layers), np.zeros(layers), np.zeros(layers), None)
    table = pd.DataFrame(columns_of({m: interval for m in METRICS})).rename_axis("layer")
    return Evolution(table, 0.25, onset, decision, correction)


FALL = Correction(3, 5, 0.2, 0.1, 0.3, -0.01, -0.02, 0.004)


@pytest.mark.parametrize(
    ("evolution", "sentence"),
    [
        (
            evolution_of(2, 3, FALL),
            "The accuracy of m leaves the baseline at layer 2 and is settled from layer 3 on; then "
            "comes a correction phase: from layer 3 to layer 5, the last, ECE falls by "
            "0.200 [0.100, 0.300], while accuracy changes by −0.010 [−0.020, 0.004].",
        ),
        (
            evolution_of(3, 3),
            "The accuracy of m leaves the baseline at layer 3 and is settled from there on; after "
            "that ECE does not fall by more than chance: no correction phase was found.",
        ),
        (
            evolution_of(2, 5),
            "The accuracy of m leaves the baseline at layer 2 and is settled only at layer 5, the "
            "last, so no layer is left for a correction: no correction phase was found.",
        ),
        (
            evolution_of(5, 5),
            "The accuracy of m leaves the baseline at layer 5, the last, and is settled only "
            "there, so no layer is left for a correction: no correction phase was found.",
        ),
        (
            evolution_of(4, 1),
            "The accuracy of m is within 2 points of its last value from layer 1 on, and above the "
            "baseline for good from layer 4 on; after that ECE does not fall by more than chance: "
            "no correction phase was found.",
        ),
        (
            evolution_of(None, 0),
            "At the last layer the accuracy of m is not reliably above the baseline: no onset was "
            "found, so the decision marked at layer 0 means little, and no correction phase was "
            "found either.",
        ),
        (
            evolution_of(None, 1, FALL),
            "At the last layer the accuracy of m is not reliably above the baseline: no onset was "
            "found, so the decision marked at layer 1 means little, and so does it that from layer "
            "3 to layer 5, the last, ECE falls by 0.200 [0.100, 0.300].",
        ),
    ],
)
def test_the_phases_in_words(evolution, sentence):
    assert finding(evolution, "m") == sentence


@pytest.mark.parametrize(
    ("accuracies", "confidences", "n", "words"),
    [
        ([0.25, 0.24, 0.25], [0.3, 0.5, 0.4], 300, "no onset was found"),
        ([0.25, 0.7, 0.7], [0.3, 0.75, 0.95], 300, "no correction phase was found"),
        ([0.25, 0.7], [0.3, 0.75], 1, "no onset was found"),
    ],
)
def test_a_page_without_phases_says_so(accuracies, confidences, n, words):
    reading = planted(accuracies, confidences, n=n)
    settings = {"n_bins": 10, "min_count": 1, "tolerance": 0.02, "n_resamples": 100, "seed": 0}
    evolution = evolve(reading, **settings)
    text = render(reading, evolution, "m", settings=settings, made_with={})
    page = BeautifulSoup(text, "html.parser")
    assert words in page.select_one(".finding").get_text()
    assert words in page.img["alt"]
    assert not re.search(r"\bNone\b|\bnan\b", page.get_text())
    peak = (
        evolution.decision
        + metrics.ece(reading.probabilities[evolution.decision :], reading.labels).argmax()
    )
    assert len(page.select("figure")) == 2 + len({0, peak, len(accuracies) - 1})


def test_a_page_on_questions_of_different_numbers_of_options_says_so():
    alike = planted([0.25, 0.7, 0.7], [0.3, 0.75, 0.95], n=300)
    n_options = np.array([2, 4] * 150)
    logits = alike.logits.copy()
    logits[::2, :, 2:] = -np.inf
    mixed = Reading(logits, alike.labels % n_options, alike.subjects, n_options=n_options)
    settings = {"n_bins": 10, "min_count": 1, "tolerance": 0.02, "n_resamples": 20, "seed": 0}
    pages = []
    for reading in (alike, mixed):
        text = render(reading, evolve(reading, **settings), "m", settings=settings, made_with={})
        pages.append(" ".join(BeautifulSoup(text, "html.parser").get_text().split()))
    assert "on 300 questions with 4 options each;" in pages[0]
    assert "on 300 questions with 2 to 4 options each;" in pages[1]
    assert "the most probable of the question's 2 to 4 letters" in pages[1]


@pytest.mark.parametrize(("template", "said"), [("not used", True), ("none", False)])
def test_the_page_says_that_a_chat_template_was_not_used(template, said):
    reading = replace(planted([0.25, 0.7], [0.3, 0.75]), provenance={"chat_template": template})
    settings = {"n_bins": 10, "min_count": 1, "tolerance": 0.02, "n_resamples": 20, "seed": 0}
    told = made_with(reading, "calib report m")
    text = render(reading, evolve(reading, **settings), "m", settings=settings, made_with=told)
    page = BeautifulSoup(text, "html.parser")
    assert ("the questions are asked without it, as plain text" in page.get_text()) is said
    label = page.find("dt", string="chat template")
    assert label.find_next("dd").get_text() == template


# What it refuses

ONLY = ["--questions", "almanac"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: COMMAND"),
        (["report"], "required: MODEL"),
        (["draw", "almanac"], "'draw'"),
        (["report", "almanac", "--width", "3"], "--width"),
        (["report", "almanac", "--shots", "6"], "--shots: invalid choice: 6"),
        (["report", "almanac", "--limit", "0"], "'0' is no whole number of at least 1"),
        (["report", "almanac", "--seed", "-1"], "'-1' is no whole number of at least 0"),
        (["report", "almanac", "--category", "law"], "--category: invalid choice: 'law'"),
        (["report", "plain", *ONLY], "'plain' holds no model: it has no config.json"),
        (["report", "./gone/model", *ONLY], "'./gone/model' is no folder here and no hub id"),
        (["report", "almanac", "--out", "file"], "'file' is a file"),
        (["report", "almanac", "--out", "file/deep"], "'file/deep' cannot be written"),
        (["report", "almanac", "--out", "plain"], "'plain' holds 'notes.txt'"),
        (["report", "almanac", "--out", "site"], "'site' holds 'index.html'"),
        (["report", "almanac", "--out", "x" * 300], "File name too long"),
        (["report", "almanac", "--questions", "plain"], "source 'plain' is neither"),
        (["report", "almanac", "--questions", "wrong"], "wrong, question 0 .*answer is 7"),
        (["report", "almanac", "--questions", "mixed"], "mixed: the answer is a letter at"),
        (["report", "almanac", "--questions", "law", "--shots", "1"], "'law' .* dev"),
        (
            ["report", "almanac", "--questions", "law", "--category", "STEM"],
            "'law' belongs to none",
        ),
        (
            ["report", "some/model", "--questions", "copa"],
            "'copa' cannot be loaded .*check the network",
        ),
    ],
)
def test_a_fault_of_the_input_is_told_before_anything_is_opened(
    arguments, words, tmp_path, monkeypatch, capsys
):
    def stop(*_, **__):
        pytest.fail("the model was opened before the input was checked")

    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach 'super_glue' on the Hub")

    monkeypatch.setattr("calib.report._steps.open_model", stop)
    monkeypatch.setattr("calib.questions.sets.load_dataset", unreachable)
    monkeypatch.chdir(tmp_path)
    for folder in ("plain", "site", "wrong", "mixed", "law"):
        os.mkdir(folder)
    for file in ("file", "plain/notes.txt", "site/index.html"):
        (tmp_path / file).write_text("<p>mine</p>")
    row = {"question": "q", "subject": "law", "choices": ["x", "y"], "answer": 0}
    for name, answers in (("wrong", [7]), ("mixed", ["A", 1]), ("law", [0, 1])):
        lines = [json.dumps({**row, "answer": answer}) for answer in answers]
        (tmp_path / name / "test.jsonl").write_text("\n".join(lines))
    before = sorted(tmp_path.rglob("*"))
    check_refused(arguments, words, capsys)
    assert sorted(tmp_path.rglob("*")) == before


def check_refused(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert re.fullmatch(rf"calib: .*{words}.*\n", told.err)
    return told.err


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", b"{", "not a valid JSON file"),
        ("config.json", b'{"model_type": "zork"}', "zork"),
        ("model.safetensors", b"short", "header"),
        ("model.safetensors", None, "model.safetensors"),
    ],
)
def test_a_folder_whose_model_does_not_open_is_named(
    own, tmp_path, monkeypatch, capsys, file, content, words
):
    shutil.copytree(own / "my <own> model", tmp_path / "broken")
    (tmp_path / "broken" / file).unlink()
    if content is not None:
        (tmp_path / "broken" / file).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    told = check_refused(
        ["report", "broken", *ONLY], f"'broken' cannot be opened .*{words}", capsys
    )
    assert "hub" not in told.removeprefix("calib: ").replace("github", "")
    assert not (tmp_path / "report-broken").exists()


def test_a_prompt_longer_than_the_context_is_told_in_one_line(own, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkdir("long")
    row = {"question": "stone " * 600, "subject": "s", "choices": ["x", "y"], "answer": 0}
    (tmp_path / "long/test.jsonl").write_text(json.dumps(row))
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(own / "my <own> model"), "--questions", "long"])
    assert stopped.value.code == 2
    told = capsys.readouterr().err.splitlines()[-1]  # bars of the loading may stand above
    assert re.fullmatch(r"calib: the prompt of question 0 has 6\d\d tokens.*", told)
    assert not (tmp_path / "report-my-own-model").exists()


def test_a_model_the_hub_does_not_give_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    words = "'nobody/nothing' cannot be opened .* check its spelling, the network"
    check_refused(["report", "nobody/nothing", *ONLY], words, capsys)
    assert list(tmp_path.iterdir()) == []


def test_remote_is_passed_on(tmp_path, monkeypatch, capsys):
    def refuse(source, *, remote, **_):
        raise ValueError(f"{source} with remote={remote}")

    monkeypatch.setattr("calib.report._steps.open_model", refuse)
    monkeypatch.chdir(tmp_path)
    check_refused(["report", "almanac", "--remote"], "almanac with remote=True", capsys)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--device", "gpu"], r"device is 'gpu'; this machine has cpu:0"),
        (["--dtype", "float17"], r"dtype is 'float17'; it must be one of torch.float32"),
        (["--batch-tokens", "0"], r"argument --batch-tokens: '0' is no whole number"),
    ],
)
def test_where_and_how_a_model_is_read_is_checked(option, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    check_refused(["report", "almanac", *option, "--limit", "20"], words, capsys)


def test_a_report_on_another_device_says_what_one_on_the_cpu_does(tmp_path):
    pages = {}
    for device in ("cpu", ELSEWHERE):
        settings = {"limit": 300, "device": device, "batch_tokens": 1024}
        page, pages[device] = write_report("almanac", tmp_path / device, **settings)
        assert page.is_file()
    assert pages["cpu"] == pages[ELSEWHERE]


def test_the_process_ends_with_2_and_one_line(tmp_path):
    done = run("report", "almanac", "--shots", "six", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "calib: argument --shots: invalid int value: 'six'\n"


def test_the_command_line_knows_mmlus_categories():
    assert CATEGORIES == tuple(mmlu.CATEGORIES)


def test_the_help_names_every_option_and_is_quick(tmp_path):
    code = (
        "import sys, calib.__main__ as c\ntry: c.main(['report', '--help'])\n"
        "finally: print(set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    text, modules = done.stdout.rsplit("\n{", 1)
    options = (
        "--questions --shots --category --limit --remote --device --dtype --batch-tokens --out "
        "--seed"
    ).split()
    assert [option for option in options if f"\n  {option} " not in text] == []
    assert "calib report almanac\n" in text
    assert "'torch'" not in modules and "'numpy'" not in modules
