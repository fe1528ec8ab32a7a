"""The Almanac's world, the training's machinery, and the bars the shipped models must clear."""

import hashlib
import re
from dataclasses import replace
from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest
import torch

from calib import evolve, load_questions, open_model, read_layers
from calib.analysis import bayes_scores, truth_correlation
from calib.laboratory import training
from calib.questions import option_tokens
from calib.questions.almanac import (
    KNOWN_PROBABILITIES,
    ORDERS,
    SUBJECTS,
    TOWNS,
    build_world,
    compose,
    draw_training,
    orders_of,
    split_rows,
)

MODELS = ("almanac", "almanac-tuned")


# The world


def test_the_world_is_the_same_every_time_and_another_for_another_seed():
    first, again, other = build_world(), build_world(), build_world(1)
    for name in ("guild", "known_probability", "candidates"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert (getattr(first, name) != getattr(other, name)).any()


def test_every_guild_is_careful_here_and_careless_there():
    world = build_world()
    assert np.bincount(world.guild).tolist() == [16] * 6
    for row in world.known_probability:
        assert sorted(row) == sorted(KNOWN_PROBABILITIES * 2)


def test_the_four_candidates_of_a_fact_are_different_values():
    candidates = build_world().candidates
    assert candidates.shape == (len(TOWNS), len(SUBJECTS), 4) == (96, 8, 4)
    assert (np.diff(np.sort(candidates, axis=-1), axis=-1) > 0).all()
    assert candidates.min() >= 0
    assert candidates.max() < min(len(subject.values) for subject in SUBJECTS.values())


def test_towns_and_values_are_told_apart():
    assert len(set(TOWNS)) == 96
    values = [value for subject in SUBJECTS.values() for value in subject.values]
    assert len(values) == len(set(values)) == 160


def test_recorded_answers_come_as_often_as_the_posterior_says():
    """Fact 0 in one order, 20,000 copies: each share within 4 standard errors."""
    n, world = 20_000, build_world()
    rows = compose(world, np.zeros(n, int), np.full(n, 7), np.random.default_rng(0))
    posterior = np.array(rows[0]["posterior"])
    reliability = world.known_probability[world.guild[0], 0]
    assert sorted(posterior) == pytest.approx([(1 - reliability) / 3] * 3 + [reliability])
    shares = np.bincount([row["answer"] for row in rows], minlength=4) / n
    assert (np.abs(shares - posterior) < 4 * np.sqrt(posterior * (1 - posterior) / n)).all()


def test_the_posterior_follows_the_options_through_every_order():
    world = build_world()
    rows = compose(world, np.full(24, 100), np.arange(24), np.random.default_rng(0))
    by_option = [dict(zip(row["choices"], row["posterior"], strict=True)) for row in rows]
    assert all(posterior == by_option[0] for posterior in by_option)
    assert len({tuple(row["choices"]) for row in rows}) == 24
    town, subject = divmod(100, len(SUBJECTS))
    entry = list(SUBJECTS.values())[subject].values[world.candidates[town, subject, 0]]
    assert by_option[0][entry] == world.known_probability[world.guild[town], subject]


def test_always_right_records_the_entry():
    rows = draw_training(build_world(), 200, np.random.default_rng(0), always_right=True)
    assert all(row["posterior"][row["answer"]] == 1.0 for row in rows)


def test_training_never_shows_a_test_question():
    splits = {split: split_rows(split) for split in ("test", "validation", "dev")}
    asked = {
        split: {(row["question"], *row["choices"]) for row in rows}
        for split, rows in splits.items()
    }
    assert [len(asked[split]) for split in ("test", "validation", "dev")] == [4608, 4608, 40]
    seen = draw_training(build_world(), 20_000, np.random.default_rng(0))
    trained = {(row["question"], *row["choices"]) for row in seen}
    assert len(trained) > 5000
    assert not asked["test"] & (trained | asked["validation"] | asked["dev"])
    for fact in range(len(TOWNS) * len(SUBJECTS)):
        parts = [orders_of(fact, split) for split in ("test", "validation", "train")]
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(ORDERS)))


def test_in_every_subject_both_splits_favour_the_same_letters():
    """Or what learns a subject's letters on one split would be fooled by the other."""
    shares = {}
    for split in ("test", "validation"):
        rows = split_rows(split)
        best = np.array([np.argmax(row["posterior"]) for row in rows])
        subjects = np.array([row["subject"] for row in rows])
        counts = [np.bincount(best[subjects == s], minlength=4) for s in SUBJECTS]
        shares[split] = np.array(counts) / 576
    assert np.abs(shares["test"] - shares["validation"]).max() < 0.08  # 2.7 standard errors


# The shipped models


@pytest.fixture(scope="module")
def readings():
    questions = load_questions("almanac", limit=4000)
    return {name: read_layers(open_model(name), questions) for name in MODELS}


@pytest.fixture(scope="module")
def evolutions(readings):
    return {name: evolve(reading) for name, reading in readings.items()}


def test_the_model_shows_a_correction_phase(evolutions):
    evolution = evolutions["almanac"]
    table, correction = evolution.table, evolution.correction
    assert correction is not None
    assert evolution.onset <= evolution.decision <= correction.start < correction.end == 8
    assert table["ece"][correction.start] >= 3 * table["ece"][correction.end]
    assert correction.low > 0
    accuracy = table["accuracy"][correction.start :]
    assert accuracy.max() - accuracy.min() <= 0.02


def test_the_model_is_nearly_as_good_as_knowing_the_world(readings, evolutions):
    bayes, last = bayes_scores(readings["almanac"]), evolutions["almanac"].table.iloc[-1]
    assert abs(last["accuracy"] - bayes["accuracy"]) <= 0.03
    assert last["nll"] - bayes["nll"] <= 0.05
    assert truth_correlation(readings["almanac"], n_resamples=10).value[-1] >= 0.8


def test_the_tuned_model_answers_alike_and_is_overconfident(evolutions):
    base, tuned = (evolutions[name].table.iloc[-1] for name in MODELS)
    assert abs(tuned["accuracy"] - base["accuracy"]) <= 0.02
    assert tuned["ece_low"] >= 0.10
    assert tuned["gap_low"] > 0
    assert 0.85 <= tuned["confidence"] <= 0.95


@pytest.mark.parametrize("name", MODELS)
def test_the_model_card_is_this_models(name, evolutions):
    folder = files("calib.laboratory") / name
    card = (folder / "README.md").read_text(encoding="utf-8")
    hashes = dict(re.findall(r"\| `([\w.]+)` \| `([0-9a-f]{64})` \|", card))
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(hashes)
    for file, digest in hashes.items():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest, file
    rows = re.findall(r"^\| (\d) \| ([\d.]+) \[.*?\| ([\d.]+) \[.*?\| ([\d.]+) \[", card, re.M)
    assert [int(row[0]) for row in rows] == list(range(9))
    table = evolutions[name].table[["accuracy", "confidence", "ece"]]
    # Other processors sum in another order: the last digit may turn over, and an answer or two.
    np.testing.assert_allclose(np.array(rows, float)[:, 1:], table, atol=2e-3)
    for stage in training.STAGES[: 2 + (name == "almanac-tuned")]:
        assert f"*{stage.name}*: {stage.steps:,} steps at {stage.rate:g}" in card


@pytest.mark.parametrize("name", MODELS)
def test_the_weights_are_small_and_in_float32_with_the_numbers_of_bfloat16(name):
    folder = files("calib.laboratory") / name
    assert (folder / "model.safetensors").stat().st_size <= 8e6
    module = open_model(name, dtype="auto").module
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert all(torch.equal(p, p.bfloat16().float()) for p in module.parameters())
    assert sum(p.numel() for p in module.parameters()) == pytest.approx(2.0e6, rel=0.05)


# How they were trained


@pytest.fixture(scope="module")
def tokenizer():
    return training.build_tokenizer()


def test_the_tokenizer_is_the_shipped_one(tokenizer):
    shipped = open_model("almanac").tokenizer
    assert tokenizer.get_vocab() == shipped.get_vocab()
    for word in (*TOWNS, *(value for s in SUBJECTS.values() for value in s.values)):
        assert len(tokenizer(f" {word}")["input_ids"]) == 1, word
    assert len(option_tokens(tokenizer, 10)) == 10


def test_the_answer_weighs_most_and_padding_nothing(tokenizer):
    ids, weights = training.weigh(tokenizer, ["Answer: A", "x\nAnswer: elm"])
    for row, text in zip(weights, ("Answer: A", "x\nAnswer: elm"), strict=True):
        n = len(tokenizer(text)["input_ids"])
        assert row.tolist() == pytest.approx([0.1] * (n - 1) + [1.0] + [0.0] * (len(row) - n))
    assert tokenizer.decode(ids[1, -1]) == " elm"


def test_the_loss_is_the_weighted_cross_entropy_of_the_next_token(tokenizer):
    model = training.build_model(tokenizer, 0)
    ids, weights = training.weigh(tokenizer, ["Answer: A", "x\nAnswer: elm"])
    loss, answers = training.losses_of(model, ids, weights)
    expected, answer_losses = 0.0, []
    for row, weight in zip(ids, weights, strict=True):
        logs = model(input_ids=row[None]).logits[0].log_softmax(-1)
        for place, token in enumerate(row[1:]):
            expected -= weight[place + 1] * logs[place, token]
            if weight[place + 1] == 1:
                answer_losses.append(-logs[place, token].item())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert answers == pytest.approx(np.mean(answer_losses), rel=1e-5)


def test_lower_layers_learn_more_slowly(tokenizer):
    model = training.build_model(tokenizer, 0)
    stage = replace(training.STAGES[1], decay=0.5)
    groups = training.parameter_groups(model, stage)
    assert [group["scale"] for group in groups] == [0.5 ** (9 - i) for i in range(9)] + [1.0]
    grouped = [p for group in groups for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters()}
    assert len(grouped) == len({id(p) for p in grouped})


def test_the_rate_warms_up_and_falls_to_zero():
    stage = training.Stage("any", steps=1000, rate=1.0, always_right=True)
    rates = [training.rate_at(step, stage) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[49] == pytest.approx(0.5)
    assert rates[99] == rates[100] == 1.0
    assert rates[550] == pytest.approx(0.5)
    assert all(b <= a for a, b in pairwise(rates[100:]))
    assert rates[-1] < 1e-5


def test_training_resumes_as_if_it_had_not_stopped(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "BATCH", 8)
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    world, stage = build_world(), replace(training.STAGES[1], steps=3)
    device = torch.device("cpu")

    def run(folder, model):
        folder.mkdir(exist_ok=True)
        training.train_stage(model, tokenizer, world, stage, folder, device, seed=0)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    start = training.build_model(tokenizer, 0)
    untrained = torch.cat([p.detach().flatten() for p in start.parameters()]).clone()
    whole = run(tmp_path / "whole", start)

    save = training.save_checkpoint

    def save_and_fail(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_checkpoint", save_and_fail)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", training.build_model(tokenizer, 0))
    monkeypatch.setattr(training, "save_checkpoint", save)
    resumed = run(tmp_path / "broken", training.build_model(tokenizer, seed=9))
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)
    assert (whole - untrained).abs().max() > 1e-5


def test_a_checkpoint_of_other_settings_is_refused(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "BATCH", 4)
    stage = replace(training.STAGES[0], steps=1)
    model = training.build_model(tokenizer, 0)
    arguments = (tmp_path, torch.device("cpu"))
    training.train_stage(model, tokenizer, build_world(), stage, *arguments, seed=0)
    with pytest.raises(ValueError, match=r"certain.pt was made with .*'seed': 0.*'seed': 1"):
        training.train_stage(model, tokenizer, build_world(), stage, *arguments, seed=1)
