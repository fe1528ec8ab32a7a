"""Retraining: what the runs see, what a step does, the table they write, and the shipped one.

The retrained weights are not shipped, so of the shipped table only the starting model's row can be
computed again; the others are held to what their numbers must have in common.
"""

import copy
import json
import re
from importlib.resources import files
from itertools import chain

import numpy as np
import pytest
import torch

from calib import load_questions, metrics, open_model, read_layers
from calib.laboratory import retraining
from calib.laboratory.retraining import BATCH, LOSSES, N_FACTS, RUNS, SETTINGS, SHIPPED
from calib.metrics import softmax
from calib.questions import format_question
from calib.questions.almanac import KNOWN_PROBABILITIES, ORDERS, build_world, orders_of, split_rows
from calib.recalibration import Temperature

SHORT = SETTINGS | {"steps": 2, "validation": 60, "test": 200, "min_count": 5, "resamples": 50}
PASS = N_FACTS // BATCH  # steps


def asked(row):
    """A question as it is put, without its recorded answer."""
    return row["question"], *row["choices"]


def recorded(row):
    return *asked(row), row["answer"]


# What the runs see


@pytest.fixture(scope="module")
def passes():
    """Three passes of each regime, and the first of another seed."""
    world = build_world()

    def draw(regime, seed):
        rows = list(chain(*retraining.draw_batches(world, regime, 3 * PASS, seed)))
        return [rows[i * N_FACTS : (i + 1) * N_FACTS] for i in range(3)]

    return {"fresh": draw("fresh", 0), "fixed": draw("fixed", 0), "seed 1": draw("fixed", 1)}


def test_a_pass_asks_about_every_fact_once(passes):
    for drawn in passes.values():
        for rows in drawn:
            assert len(rows) == N_FACTS == len({row["question"] for row in rows}) == 768
    batches = list(retraining.draw_batches(build_world(), "fresh", PASS + 1, 0))
    assert [len(rows) for rows in batches] == [64] * 13


def test_fixed_shows_the_same_records_again_in_another_order(passes):
    first, second, third = passes["fixed"]
    assert {*map(recorded, first)} == {*map(recorded, second)} == {*map(recorded, third)}
    assert first != second != third
    assert {*map(recorded, first)} != {*map(recorded, passes["seed 1"][0])}


def test_fresh_begins_with_the_fixed_records_and_then_draws_new_ones(passes):
    first, second, _ = ({row["question"]: row for row in rows} for rows in passes["fresh"])
    assert {*map(recorded, first.values())} == {*map(recorded, passes["fixed"][0])}
    same_order = np.mean([first[q]["choices"] == second[q]["choices"] for q in first])
    assert same_order == pytest.approx(1 / 12, abs=0.04)  # of 12 training orders, 4 standard errors
    entries = [
        [row["choices"][row["answer"]] for row in (first[question], second[question])]
        for question in first
    ]
    again = np.mean([a == b for a, b in entries])
    chance = np.mean([np.square(row["posterior"]).sum() for row in first.values()])
    assert again == pytest.approx(chance, abs=4 * np.sqrt(chance * (1 - chance) / N_FACTS))


def test_no_run_sees_a_test_question(passes):
    held_out = {asked(row) for split in ("test", "validation") for row in split_rows(split)}
    seen = {asked(row) for rows in passes["fresh"] for row in rows}
    assert len(seen) > 2 * N_FACTS
    assert not seen & held_out
    assert all(len(orders_of(fact, "train")) == len(ORDERS) / 2 for fact in (0, 100, 767))


@pytest.mark.parametrize("regime", retraining.REGIMES)
def test_all_losses_see_the_same_batches(regime, monkeypatch):
    monkeypatch.setattr(retraining, "BATCH", 8)
    answer_logits, seen = retraining.answer_logits, []

    def look(model, rows):
        seen.append([recorded(row) for row in rows])
        return answer_logits(model, rows)

    monkeypatch.setattr(retraining, "answer_logits", look)
    for loss in LOSSES:
        retraining.retrain(regime, loss, seed=0, steps=2, rate=1e-4)
    assert len(seen) == 2 * len(LOSSES)
    assert seen[0] != seen[1]
    assert seen == seen[:2] * len(LOSSES)


# What a step does


@pytest.fixture(scope="module")
def start():
    return open_model("almanac-tuned", device="cpu")


def test_logits_at_the_answer_are_those_of_each_prompt_alone(start):
    rows = split_rows("test")[:6]
    prompts = [start.tokenizer(format_question(row))["input_ids"] for row in rows]
    assert len({len(ids) for ids in prompts}) > 1
    with torch.no_grad():
        found = retraining.answer_logits(start, rows)
        for ids, logits in zip(prompts, found, strict=True):
            alone = start.module(input_ids=torch.tensor([ids])).logits[0, -1]
            torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-4)


def weights_of(module):
    return torch.cat([weight.detach().flatten() for weight in module.parameters()])


def test_cross_entropy_steps_are_those_of_plain_torch(start, monkeypatch):
    """Two steps of warm-up and cosine written out: rates 1e-4 and, halfway down, 5e-5."""
    monkeypatch.setattr(retraining, "BATCH", 16)
    module = copy.deepcopy(start.module)
    optimizer = torch.optim.AdamW(module.parameters(), betas=(0.9, 0.98), weight_decay=0.1)
    batches = retraining.draw_batches(build_world(), "fresh", 2, seed=0)
    for rate, rows in zip((1e-4, 5e-5), batches, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        for row in rows:
            text = f"{format_question(row)} {'ABCD'[row['answer']]}"
            ids = torch.tensor(start.tokenizer(text)["input_ids"])
            logits = module(input_ids=ids[None, :-1]).logits[0, -1]
            (torch.nn.functional.cross_entropy(logits, ids[-1]) / 16).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    trained = retraining.retrain("fresh", "cross-entropy", seed=0, steps=2, rate=1e-4)
    before = weights_of(start.module)
    moved, expected = weights_of(trained.module) - before, weights_of(module) - before
    assert (moved - expected).norm() < 1e-3 * expected.norm()
    assert (moved != 0).sum() > 1e6


# The table


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Three short runs, the last after an interruption; the file, and what it held before."""
    out = tmp_path_factory.mktemp("retrain") / "table.json"
    patch = pytest.MonkeyPatch()
    patch.setattr(retraining, "BATCH", 8)
    runs = [("start", "none", 0), ("fresh", "focal-3", 0), ("fixed", "brier", 1)]
    retraining.retrain_all(out, SHORT, runs[:2])
    before = json.loads(out.read_text(encoding="utf-8"))
    # The finished are not done again: neither could be, with a loss and a model that are gone.
    patch.delitem(LOSSES, "focal-3")
    retraining.retrain_all(out, SHORT, runs)
    patch.undo()
    return out, before


def test_finished_runs_are_kept(short):
    out, before = short
    table = json.loads(out.read_text(encoding="utf-8"))
    assert table["settings"] == before["settings"] == SHORT
    assert table["runs"][:2] == before["runs"]
    done = [(row["regime"], row["loss"], row["seed"], row["steps"]) for row in table["runs"]]
    assert done == [("start", "none", 0, 0), ("fresh", "focal-3", 0, 2), ("fixed", "brier", 1, 2)]
    assert not out.with_suffix(".partial").exists()


def test_other_settings_are_refused(short):
    out, _ = short
    text = out.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"table.json was made with .*'steps': 2.*'steps': 3"):
        retraining.retrain_all(out, SHORT | {"steps": 3})
    assert out.read_text(encoding="utf-8") == text


def test_without_steps_nothing_begins(tmp_path):
    with pytest.raises(ValueError, match=r"steps is 0; it must be an integer of at least 1"):
        retraining.retrain_all(tmp_path / "table.json", SHORT | {"steps": 0})
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_found_out_first(tmp_path):
    with pytest.raises(FileNotFoundError):
        retraining.retrain_all(tmp_path / "missing" / "table.json", SHORT)


def test_the_row_of_the_start_is_what_the_metrics_say(short, start):
    row = json.loads(short[0].read_text(encoding="utf-8"))["runs"][0]
    questions = load_questions("almanac", "test", limit=200)
    reading = read_layers(start, questions)
    logits, labels = reading.logits[:, -1], reading.labels
    p = softmax(logits)
    validation = read_layers(start, load_questions("almanac", "validation", limit=60))
    scale = Temperature().fit(validation.logits[:, -1], validation.labels)
    expected = {
        "accuracy": metrics.accuracy(p, labels),
        "confidence": metrics.mean_confidence(p, labels),
        "ece": metrics.ece(p, labels),
        "mce": metrics.mce(p, labels, min_count=5),
        "nll": metrics.nll(p, labels),
        "gap": metrics.signed_gap(p, labels),
        "auroc": metrics.auroc(p, labels),
        "temperature": scale.value,
        "ece_scaled": metrics.ece(scale(logits), labels),
        "truth": np.corrcoef(p.max(1), reading.posterior.max(1))[0, 1],
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, abs=6e-5)
    answers = p.argmax(1)
    high = p.max(1) > 0.9
    chance = np.array(questions["posterior"])[high, answers[high]].mean()
    assert row["reliability"]["bin"][-1] == 9
    assert row["reliability"]["count"][-1] == high.sum()
    assert row["reliability"]["chance"][-1] == pytest.approx(chance, abs=6e-5)
    assert row["reliability"]["accuracy"][-1] == pytest.approx(
        (answers == labels)[high].mean(), abs=6e-5
    )


# The shipped table


@pytest.fixture(scope="module")
def shipped():
    return json.loads(SHIPPED.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def rows(shipped):
    return {(row["regime"], row["loss"], row["seed"]): row for row in shipped["runs"]}


def test_the_shipped_table_holds_every_run_of_these_settings(shipped):
    assert shipped["settings"] == SETTINGS
    assert [(row["regime"], row["loss"], row["seed"]) for row in shipped["runs"]] == RUNS
    assert SHIPPED.stat().st_size < 60_000
    for row in shipped["runs"]:
        assert row["steps"] == (0 if row["regime"] == "start" else SETTINGS["steps"])


def test_every_number_lies_in_its_range_and_its_interval(shipped):
    names = [*retraining.METRICS, "ece_scaled", "truth"]
    for row in shipped["runs"]:
        recovered = ["ece_recovered"] if row["loss"] in retraining.GAMMAS else []
        for name in names + recovered:
            low, value, high = (row[name + suffix] for suffix in ("_low", "", "_high"))
            assert (-1 if name in ("gap", "truth") else 0) <= low < high
            assert high <= (5 if name == "nll" else 1)
            assert value <= high
            if name not in ("ece", "mce", "ece_scaled", "ece_recovered"):
                assert low <= value  # those others are biased upwards, more so in resamples
        assert 0 < row["temperature"] < 10
        assert ("ece_recovered" in row) == bool(recovered)


def test_the_reliability_of_each_run_gives_its_metrics(shipped):
    for row in shipped["runs"]:
        bins = {name: np.array(column) for name, column in row["reliability"].items()}
        weight = bins["count"] / SETTINGS["test"]
        assert weight.sum() == 1
        gap = bins["confidence"] - bins["accuracy"]
        many = bins["count"] >= SETTINGS["min_count"]
        found = {
            "confidence": weight @ bins["confidence"],
            "accuracy": weight @ bins["accuracy"],
            "gap": weight @ gap,
            "ece": weight @ np.abs(gap),
            "mce": np.abs(gap[many]).max(),
        }
        assert {name: row[name] for name in found} == pytest.approx(found, abs=1.6e-4)
        assert (bins["confidence"] > bins["bin"] / 10).all()
        assert (bins["confidence"] <= bins["bin"] / 10 + 0.1).all()
        # Accuracy scatters about the chance of being right: 4.5 standard errors.
        spread = np.sqrt(bins["chance"] * (1 - bins["chance"]) / bins["count"])
        assert (np.abs(bins["accuracy"] - bins["chance"]) < 4.5 * spread + 1e-4).all()


def test_the_shipped_row_of_the_start_is_on_its_model_card(rows):
    """The same 4,000 questions; tests of the laboratory read the card's table from the model."""
    card = (files("calib.laboratory") / SETTINGS["start"] / "README.md").read_text(encoding="utf-8")
    last = re.search(r"^\| 8 \|(.*)\|$", card, re.M).group(1)
    cells = [[float(number) for number in re.findall(r"[\d.]+", c)] for c in last.split("|")]
    start = rows["start", "none", 0]
    for name, cell in zip(("accuracy", "confidence", "ece", "nll"), cells, strict=False):
        of_run = [start[name + suffix] for suffix in ("", "_low", "_high")]
        assert of_run == pytest.approx(cell, abs=2e-3), name
    assert start["truth"] == pytest.approx(cells[4][0], abs=6e-3)


# What it says


def confidence_of_minimiser(loss):
    """Mean over the four reliabilities of the top probability of least expected loss, on a grid."""
    grid = np.linspace(0.25, 0.999, 301)
    top, other = np.empty((2, len(grid)))  # the loss where the entry is recorded, and another
    for i, v in enumerate(grid):
        logits = torch.tensor([[v, *[(1 - v) / 3] * 3]]).log()
        top[i], other[i] = (loss(logits, torch.tensor([label])).item() for label in (0, 1))
    risks = [r * top + (1 - r) * other for r in KNOWN_PROBABILITIES]
    return np.mean([grid[risk.argmin()] for risk in risks])


def test_fresh_records_lead_to_the_minimiser_of_each_loss(rows):
    fresh = {key: row for key, row in rows.items() if key[0] == "fresh"}
    assert len(fresh) == 8
    for (_, loss, _), row in fresh.items():
        expected = confidence_of_minimiser(LOSSES[loss])
        assert row["confidence"] == pytest.approx(expected, abs=0.02)
        assert abs(row["accuracy"] - rows["start", "none", 0]["accuracy"]) < 0.01


def test_with_fresh_records_proper_losses_are_honest_and_focal_losses_too_modest(rows):
    for loss in ("cross-entropy", "brier"):
        row = rows["fresh", loss, 0]
        assert row["ece_high"] < 0.05
        assert abs(row["gap"]) < 0.02
        assert row["truth_low"] > 0.8
    for loss in ("focal-1", "focal-3", "flsd-53", "focal-calibration"):
        assert rows["fresh", loss, 0]["gap_high"] < -0.05
        assert rows["fresh", loss, 0]["temperature"] < 0.8
    for key in (("focal-1", 0), ("focal-3", 0), ("focal-3", 1)):
        row = rows["fresh", *key]
        assert row["ece_recovered_high"] < 0.05 < row["ece_low"]


def test_with_fixed_records_every_loss_is_overconfident_and_worse_than_the_start(rows):
    start = rows["start", "none", 0]
    fixed = [row for row in rows.values() if row["regime"] == "fixed"]
    assert len(fixed) == 8
    for row in fixed:
        assert row["gap_low"] > start["gap_high"]
        assert row["accuracy_high"] < start["accuracy_low"]
        assert row["nll_low"] > start["nll_high"]
    # Focal loss with a large γ less so than cross-entropy, by more than other data make.
    for seed in (0, 1):
        focal, plain = (rows["fixed", loss, seed] for loss in ("focal-3", "cross-entropy"))
        assert focal["ece_high"] < plain["ece_low"] - 0.04
        assert abs(plain["ece"] - rows["fixed", "cross-entropy", 0]["ece"]) < 0.02
        assert abs(focal["ece"] - rows["fixed", "focal-3", 0]["ece"]) < 0.02
    # What undoes focal loss where it was minimised in expectation misleads here.
    focal = rows["fixed", "focal-3", 0]
    assert focal["ece_recovered_low"] > focal["ece_high"]
