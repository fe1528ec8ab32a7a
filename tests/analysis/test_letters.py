"""Rotated options: one question by hand, letters planted, and a model's own forward pass."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from support.architectures import TOKENIZER, random_module
from support.properties import given, settings, st

from calib import build_prompts, load_questions, open_model
from calib.analysis import answer_changes, by_option, read_rotations, recall_by_letter
from calib.metrics import softmax
from calib.questions import content_free, option_tokens, rotate_options

ROW = {
    "question": "Who guards the gate?",
    "subject": "local_legends",
    "choices": ["owl", "fox", "bear", "wolf"],
    "answer": 2,
    "posterior": [0.1, 0.2, 0.6, 0.1],
    "source": "page 7",
}
TURNED = {**ROW, "choices": ["wolf", "owl", "fox", "bear"], "answer": 3}
TURNED["posterior"] = [0.1, 0.1, 0.2, 0.6]


def planted(n=200, letters=(1.0, 0.0, -0.5, 0.0), seed=0):
    """Logits of options ``[n, options]``, and of all rotations by letter, letters added."""
    content = np.random.default_rng(seed).normal(size=(n, len(letters)))
    rotated = np.stack([np.roll(content, r, axis=1) for r in range(len(letters))], axis=1)
    return content, rotated + np.array(letters)


# Questions


def test_one_question_by_hand():
    questions = Dataset.from_list([ROW])
    questions.info.dataset_name = "the almanac"
    rotated = rotate_options(questions, 1)
    assert rotated[0] == TURNED
    assert rotated.info.dataset_name == "the almanac"
    assert rotated.features == questions.features
    assert questions[0] == ROW  # as it was
    back_to_front = rotate_options(questions, 3)[0]
    assert (back_to_front["choices"], back_to_front["answer"]) == (
        ["fox", "bear", "wolf", "owl"],
        1,
    )


def test_questions_without_a_posterior_are_rotated_too():
    row = {name: value for name, value in ROW.items() if name not in ("posterior", "source")}
    assert rotate_options(Dataset.from_list([row]), 2)[0] == {
        **row,
        "choices": ["bear", "wolf", "owl", "fox"],
        "answer": 0,
    }


def test_where_no_option_is_right_none_becomes_it():
    empty = content_free(Dataset.from_list([ROW]), ["N/A"])
    assert rotate_options(empty, 1)["answer"] == [-1]


@settings(max_examples=25, deadline=None)
@given(first=st.integers(-9, 9), second=st.integers(-9, 9), n_options=st.integers(2, 6))
def test_rotations_add_up_and_a_full_turn_is_none(first, second, n_options):
    choices = [f"option {i}" for i in range(n_options)]
    row = {"question": "?", "subject": "s", "choices": choices, "answer": n_options - 1}
    questions = Dataset.from_list([row])
    twice = rotate_options(rotate_options(questions, first), second)
    assert twice[0] == rotate_options(questions, first + second)[0]
    assert rotate_options(questions, n_options)[0] == row
    assert twice[0]["choices"][twice[0]["answer"]] == choices[-1]


@pytest.mark.parametrize("shift", [1.0, "1", None])
def test_a_shift_that_is_no_integer_is_refused(shift):
    with pytest.raises(TypeError, match=f"shift is {shift!r}; it must be an integer"):
        rotate_options(Dataset.from_list([ROW]), shift)


# Reading


def test_reading_rotations_is_reading_each_rotation():
    """Prompts turned by hand, through the module itself."""
    module = random_module("llama")
    rows = load_questions("almanac", limit=6).to_list()
    found = read_rotations(open_model((module, TOKENIZER)), Dataset.from_list(rows))
    assert (found.shape, found.dtype) == ((6, 4, 4), np.float32)
    letters = option_tokens(TOKENIZER, 4)
    for r in range(4):
        for i, row in enumerate(rows):
            turned = {**row, "choices": [row["choices"][(k - r) % 4] for k in range(4)]}
            (prompt,) = build_prompts([turned])
            with torch.no_grad():
                logits = module(**TOKENIZER(prompt, return_tensors="pt")).logits[0, -1, letters]
            np.testing.assert_allclose(found[i, r], logits.numpy(), atol=1e-4)


def test_rotations_are_read_with_exemplars_of_the_questions_own_source():
    model, questions = open_model("almanac"), load_questions("almanac", limit=3)
    with_shots = read_rotations(model, questions, shots=1)
    assert np.abs(with_shots - read_rotations(model, questions)).max() > 0.1


def test_no_questions_are_refused():
    with pytest.raises(ValueError, match="there are no questions"):
        read_rotations(open_model("almanac"), Dataset.from_list([ROW]).select([]))


def test_a_question_is_read_in_as_many_rotations_as_it_has_options():
    """The others are absent, and those that are there what they are when it is asked alone."""
    three = {**ROW, "choices": ROW["choices"][:3], "posterior": [0.2, 0.2, 0.6]}
    two = {**ROW, "choices": ROW["choices"][:2], "posterior": [0.5, 0.5], "answer": 0}
    model, rows = open_model("almanac"), [two, ROW, three]
    found = read_rotations(model, Dataset.from_list(rows))
    assert found.shape == (3, 4, 4)
    for i, (row, n) in enumerate(zip(rows, (2, 4, 3), strict=True)):
        (alone,) = read_rotations(model, Dataset.from_list([row]))
        np.testing.assert_allclose(found[i, :n, :n], alone, atol=1e-4)
        assert np.isneginf(found[i, n:]).all() and np.isneginf(found[i, :, n:]).all()


# Measures


def test_options_are_put_back_where_they_stood():
    content, rotated = planted(letters=(0.0, 0.0, 0.0))
    np.testing.assert_array_equal(by_option(rotated), np.repeat(content[:, None], 3, axis=1))


def test_the_mean_over_rotations_is_free_of_letters():
    """As far as letters add to logits: the mean logit of an option is its own and the letters'."""
    content, rotated = planted()
    mean = by_option(rotated).mean(axis=1)
    np.testing.assert_allclose(mean, content + 0.125, atol=1e-12)  # (1 - .5) / 4


def test_answers_follow_the_option_or_the_letter():
    _, by_content = planted(letters=(0.0,) * 4)
    assert not answer_changes(by_content).any()
    _, by_letter = planted(letters=(50.0, 0.0, 0.0, 0.0))
    assert answer_changes(by_letter).all()
    labels = np.arange(200) % 4
    assert recall_by_letter(softmax(by_letter), labels).tolist() == [1, 0, 0, 0]


def test_changes_and_recall_by_hand():
    """Two options; the first question follows the option, the second answers A either way."""
    p = [[[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.7, 0.3]]]
    assert answer_changes(p).tolist() == [False, True]
    # Labels 0, 1: at A stand question 0 unturned, right, and question 1 turned, right; at B stand
    # question 0 turned, right, and question 1 unturned, wrong.
    recall = recall_by_letter(p, [0, 1])
    assert recall.tolist() == [1.0, 0.5]
    assert recall.std() == 0.25


def test_of_equal_letters_the_first_is_the_answer():
    assert answer_changes(np.zeros((1, 2, 2))).tolist() == [True]


@pytest.mark.parametrize("measure", [by_option, answer_changes, lambda p: recall_by_letter(p, [0])])
@pytest.mark.parametrize("shape", [(), (4,), (1, 4), (1, 3, 4), (1, 1, 4, 4)])
def test_measures_refuse_all_but_full_turns(measure, shape):
    with pytest.raises(ValueError, match="as many rotations as options"):
        measure(np.full(shape, 0.25))


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, 2], ValueError, r"labels\[1\] is 2; with 2 options labels run from 0 to 1"),
        ([-1, 0], ValueError, r"labels\[0\] is -1"),
        ([0], ValueError, r"labels have shape \(1,\); there must be one for each of the 2"),
        ([0.0, 1.0], TypeError, "labels are float64; they must be integers"),
    ],
)
def test_recall_refuses_labels(labels, error, message):
    mixed = [[[0.6, 0.4, 0], [0.6, 0.4, 0], [0, 0, 0]]] * 2
    for rotated in (np.full((2, 2, 2), 0.5), mixed):
        with pytest.raises(error, match=message):
            recall_by_letter(rotated, labels)


@pytest.mark.parametrize("measure", [by_option, answer_changes, lambda p: recall_by_letter(p, [0])])
@pytest.mark.parametrize(
    ("rotated", "message"),
    [
        ([[0.6, 0.4, 0.0], [0.0, 0.0, 0.0], [0.6, 0.4, 0.0]], "has 2 rotations; it must have as"),
        (
            [[0.6, 0.3, 0.1], [0.6, 0.4, 0.0], [0.0, 0.0, 0.0]],
            r"\[0, 0, 2\] is 0.1, and question 0",
        ),
        ([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], "has 1 rotations"),
        ([[1.0, -np.inf, 0.0]] * 3, r"rotations\[0, 0, 1\] is -inf"),
        ([[1.0, 0.0, -np.inf]] * 3, r"rotations\[0, 0, 2\] is -inf, and question 0 has 3"),
        ([[-np.inf] * 3] * 3, "question 0 has 0 rotations"),
        ([[1.0, np.nan, 0.0]] * 3, r"rotations\[0, 0, 1\] is nan"),
    ],
)
def test_measures_refuse_what_is_absent_in_part(measure, rotated, message):
    with pytest.raises(ValueError, match=message):
        measure([rotated])


def test_differing_numbers_of_options_by_hand():
    """Beside three options the two of the second question, A either way; C is right once."""
    p = np.array(
        [
            [[0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [0.3, 0.1, 0.6]],
            [[0.6, 0.4, 0.0], [0.7, 0.3, 0.0], [0.0, 0.0, 0.0]],
        ]
    )
    expected = [[0.6, 0.4, 0.0], [0.3, 0.7, 0.0], [0.0, 0.0, 0.0]]
    with np.errstate(divide="ignore"):
        logits = np.log(p)
    np.testing.assert_array_equal(by_option(p)[1], expected)
    np.testing.assert_allclose(np.exp(by_option(logits)[1]), expected, atol=1e-15)
    for rotated in (p, logits):
        assert answer_changes(rotated).tolist() == [False, True]
        # Question 1 is right at A, where its option 1 stands turned, and wrong at B.
        assert recall_by_letter(rotated, [0, 1]).tolist() == [1.0, 0.5, 1.0]


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(2, 5), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_questions_side_by_side_are_what_they_are_alone(counts, seed):
    rng, most = np.random.default_rng(seed), max(counts)
    alone = [rng.normal(size=(1, n, n)) for n in counts]
    together = np.full((len(counts), most, most), -np.inf)
    for i, one in enumerate(alone):
        together[i, : counts[i], : counts[i]] = one
    assert answer_changes(together).tolist() == [answer_changes(one)[0] for one in alone]
    labels = np.array([rng.integers(n) for n in counts])
    each = [recall_by_letter(one, labels[[i]]) for i, one in enumerate(alone)]
    recall = [np.mean([e[k] for e in each if k < len(e)]) for k in range(most)]
    np.testing.assert_allclose(recall_by_letter(together, labels), recall, atol=1e-12)
    for i, one in enumerate(alone):
        np.testing.assert_array_equal(
            by_option(together)[i, : counts[i], : counts[i]], by_option(one)[0]
        )
