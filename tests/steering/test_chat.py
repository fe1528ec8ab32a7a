"""Steering in a chat template: what is pushed is what is read."""

import numpy as np
import pytest
from support.architectures import D_MODEL, random_module
from support.chats import chatting

from calib import load_questions, open_model, read_branches, read_layers, steer, sweep
from calib.steering import Direction, try_directions


@pytest.fixture(scope="module")
def model():
    tokenizer = chatting("chatml")
    return open_model((random_module("llama", vocab_size=len(tokenizer)), tokenizer))


@pytest.fixture(scope="module")
def questions():
    return load_questions("almanac", subjects=["fair_music"], limit=8)


def direction(layer):
    vector = np.random.default_rng(layer).normal(size=D_MODEL)
    return Direction(vector / np.linalg.norm(vector), layer, 4.0, f"at {layer}")


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_branch_at_strength_0_is_the_reading(model, questions, shots, everywhere):
    how = {"shots": shots, "chat": True}
    branches = [(direction(1), 0), (direction(2), 1.5)]
    unpushed, pushed = read_branches(model, questions, branches, everywhere=everywhere, **how)
    reading = read_layers(model, questions, **how)
    np.testing.assert_allclose(unpushed, reading.logits[:, -1], atol=1e-4)
    steered = steer(model, questions, direction(2), 1.5, everywhere=everywhere, **how)
    np.testing.assert_allclose(pushed, steered.logits[:, -1], atol=1e-4)
    assert abs(pushed - unpushed).max() > 0.1
    plain = read_branches(model, questions, branches[:1], shots=shots)[0]
    assert abs(plain - unpushed).max() > 1e-2


def test_sweeps_and_trials_hand_it_on(model, questions):
    questions = load_questions("almanac", limit=150)
    unpushed = read_layers(model, questions, chat=True).logits[:, -1]
    found = sweep(model, questions, [direction(2)], strengths=(0, 1), chat=True)
    np.testing.assert_allclose(found.logits[0, 0], unpushed, atol=1e-4)
    calibration = load_questions("almanac", "validation", limit=8)
    tried = try_directions(
        model, {"one": direction(2)}, calibration, questions, strengths=(0, 1), chat=True
    )
    np.testing.assert_allclose(tried.logits["unsteered"], unpushed, atol=1e-4)
