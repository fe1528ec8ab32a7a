"""Different numbers of options in one set: each question reads as in a set of its own."""

import numpy as np
import pytest
import torch
from support.architectures import TOKENIZER, random_module

from calib import (
    Reading,
    load_questions,
    metrics,
    open_model,
    read_branches,
    read_layers,
    try_directions,
)
from calib.mechanisms import (
    ablate_neurons,
    fit_tuned_lens,
    random_subspace,
    read_activations,
    read_attribution,
    remove_subspace,
    restore_correction,
)
from calib.questions import option_tokens, options_per_question
from calib.steering import confidence_regression, gradient_direction, random_direction

NUMBERS = (2, 3, 4, 6)


def with_options(rows, numbers):
    """Questions cut down, or filled up, to as many options as asked for, in turn."""
    mixed = []
    for i, row in enumerate(rows):
        n = numbers[i % len(numbers)]
        choices = [*row["choices"], "something else", "nothing of this"][:n]
        posterior = np.array([*row["posterior"], 0, 0][:n]) + 0.01
        mixed.append(
            {
                **row,
                "choices": choices,
                "answer": row["answer"] % n,
                "posterior": (posterior / posterior.sum()).tolist(),
            }
        )
    return mixed


@pytest.fixture(scope="module")
def rows():
    return with_options(load_questions("almanac", "validation", limit=120).to_list(), NUMBERS)


@pytest.fixture(scope="module")
def model():
    return open_model((random_module("llama"), TOKENIZER))


@pytest.fixture(scope="module")
def reading(model, rows):
    return read_layers(model, rows, keep_residuals=[1, 2, 3])


def parts(rows):
    """The rows of each number of options, and which they are."""
    counts = options_per_question(rows)
    return [(n, np.flatnonzero(counts == n), [r for r in rows if len(r["choices"]) == n])
            for n in NUMBERS]  # fmt: skip


def check_parts(whole, part_of, rows):
    """Logits ``[..., questions, options]`` of all are those of each part, with -inf beyond."""
    for n, at, some in parts(rows):
        np.testing.assert_allclose(whole[..., at, :n], part_of(some), rtol=1e-4, atol=1e-4)
        assert np.isneginf(whole[..., at, n:]).all()


def test_each_question_is_read_as_in_a_set_of_its_own(model, reading, rows):
    assert reading.n_options.tolist() == [len(row["choices"]) for row in rows]
    assert reading.chance == pytest.approx(np.mean([1 / 2, 1 / 3, 1 / 4, 1 / 6]))
    check_parts(
        reading.logits.swapaxes(0, 1),
        lambda some: read_layers(model, some).logits.swapaxes(0, 1),
        rows,
    )
    for n, at, some in parts(rows):
        alone = read_layers(model, some)
        np.testing.assert_allclose(reading.posterior[at, :n], alone.posterior)
        assert (reading.posterior[at, n:] == 0).all()
        assert (reading.probabilities[:, at, n:] == 0).all()


@pytest.mark.parametrize("metric", ["accuracy", "mean_confidence", "nll", "brier", "entropy"])
def test_a_mean_over_questions_is_the_mean_of_its_parts(metric, model, reading, rows):
    measure = getattr(metrics, metric)
    whole = measure(reading.probabilities, reading.labels)
    alone = [read_layers(model, some) for _, _, some in parts(rows)]
    by_part = [measure(one.probabilities, one.labels) for one in alone]
    np.testing.assert_allclose(whole, np.mean(by_part, axis=0), atol=1e-5)  # 30 questions each


def test_a_mixed_reading_is_saved_selected_and_loaded(reading, tmp_path):
    some = reading.select(reading.n_options < 4)
    some.save(tmp_path)
    again = Reading.load(tmp_path)
    np.testing.assert_array_equal(again.logits, some.logits)
    assert set(again.n_options.tolist()) == {2, 3}


def test_branches_of_mixed_questions(model, reading, rows):
    branches = [(random_direction(reading, 2, seed), 0.7) for seed in range(3)]
    check_parts(
        read_branches(model, rows, branches), lambda s: read_branches(model, s, branches), rows
    )


def test_directions_are_judged_on_mixed_questions(model, reading, rows):
    asked = {row["question"] for row in rows}
    test = load_questions("almanac", "test", limit=250).to_list()
    test = with_options([row for row in test if row["question"] not in asked], NUMBERS)
    evaluation = try_directions(
        model, {"regression": confidence_regression(reading, 2)}, rows, test, strengths=(-1, 0, 1)
    )
    assert np.isfinite(evaluation.comparison.table.loc["regression", "nll"])
    assert np.isneginf(evaluation.logits["unsteered"][0, 2:]).all()


def test_a_gradient_on_mixed_questions_lowers_their_nll():
    tuned = open_model("almanac-tuned")
    rows = with_options(load_questions("almanac", "validation", limit=60).to_list(), (2, 3, 4))
    direction = gradient_direction(tuned, rows, 7, max_steps=5)
    still, pushed = read_branches(tuned, rows, [(direction, 0.0), (direction, 0.1)])
    labels = np.array([row["answer"] for row in rows])
    nll = [metrics.nll(metrics.softmax(logits), labels) for logits in (still, pushed)]
    assert nll[1] < nll[0]


def test_mechanisms_of_mixed_questions(model, reading, rows):
    tokens = option_tokens(TOKENIZER, max(NUMBERS))
    attribution = read_attribution(model, rows)
    check_parts(
        attribution.logits(-1),
        lambda some: read_attribution(model, some).logits(-1),
        rows,
    )
    assert np.isfinite(attribution.effects("nll", n_resamples=20).to_numpy()).all()
    means = read_activations(model, rows, 3).mean(axis=0)
    groups = [[0, 1], [5]]
    ablation = ablate_neurons(model, rows, 3, means, groups)
    check_parts(
        ablation.total, lambda some: ablate_neurons(model, some, 3, means, groups).total, rows
    )
    assert np.isneginf(ablation.intact[0, 2:]).all()
    assert np.isfinite(ablation.effects()[["confidence", "entropy", "nll", "ece"]]).all(axis=None)
    space = random_subspace(2, model.d_model, seed=0)
    for logits in (
        restore_correction(model, reading, space, 1, 3, tokens),
        remove_subspace(model, reading, space, tokens),
    ):
        absent = np.arange(6) >= reading.n_options[:, None]
        assert np.isneginf(logits[:, absent]).all()
        assert np.isfinite(logits[:, ~absent]).all()


def test_a_tuned_lens_is_trained_on_mixed_questions(model, rows):
    lens = fit_tuned_lens(model, rows, max_rounds=3)
    assert np.isfinite(lens.fit.to_numpy()).all()
    assert (lens.fit.tuned_lens <= lens.fit.logit_lens).all()
    assert torch.isfinite(lens.matrices).all()
    read = read_layers(model, rows, lens=lens)
    assert np.isneginf(read.logits[0, :, 2:]).all()
