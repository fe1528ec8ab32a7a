"""The letters' prior: planted in logits and found again, and questions without content."""

import numpy as np
import pytest
from datasets import Dataset

from calib import build_prompts, load_questions, metrics, open_model, read_layers
from calib.metrics import softmax
from calib.questions import content_free
from calib.recalibration import BatchCalibration, ContextualCalibration, PriDe

PRIOR = np.array([0.4, 0.3, 0.2, 0.1])
METHODS = [BatchCalibration(), ContextualCalibration(), PriDe()]


def planted(n=300, seed=0):
    """Logits of options, and of all rotations by letter with the prior's logarithm added."""
    content = 2 * np.random.default_rng(seed).normal(size=(n, 4))
    rotated = np.stack([np.roll(content, r, axis=1) for r in range(4)], axis=1)
    return content, rotated + np.log(PRIOR)


def logits_for(method, logits):
    """What the method is fitted on: the logits, or as many rotations of the same."""
    if not isinstance(method, PriDe):
        return logits
    return np.repeat(np.asarray(logits)[:, None], np.shape(logits)[-1], axis=1)


# By hand


def test_batch_and_context_take_the_mean_probabilities():
    logits = np.log([[0.5, 0.25, 0.25], [0.9, 0.05, 0.05]])
    for kind in (BatchCalibration, ContextualCalibration):
        method = kind().fit(logits)
        np.testing.assert_allclose(method.prior, [0.7, 0.15, 0.15])
        # .5/.7, .25/.15, .25/.15 over their sum: 15, 35, 35 of 85
        np.testing.assert_allclose(method(logits)[0], np.array([15, 35, 35]) / 85)


def test_pride_takes_the_mean_over_questions_of_each_ones_geometric_mean():
    """Questions of priors .8, .2 and .5, .5: of the first, odds 16 and 1 have the mean 4."""
    logits = np.log([[[16.0, 1.0], [0.5, 0.5]], [[9.0, 1.0], [1.0, 9.0]]])
    method = PriDe().fit(logits)
    np.testing.assert_allclose(method.prior, [0.65, 0.35])
    np.testing.assert_allclose(method(np.log([[0.65, 0.35]])), [[0.5, 0.5]])


# Planted


def test_pride_finds_a_planted_prior_and_takes_it_out():
    content, rotated = planted()
    method = PriDe().fit(rotated[:3])
    np.testing.assert_allclose(method.prior, PRIOR, atol=1e-12)
    np.testing.assert_allclose(method(rotated[:, 0]), softmax(content), atol=1e-12)
    np.testing.assert_allclose(method(rotated)[:, 1], softmax(np.roll(content, 1, 1)), atol=1e-12)


def test_context_finds_a_planted_prior():
    method = ContextualCalibration().fit(np.log(PRIOR)[None] + [[0.0], [5.0]])
    np.testing.assert_allclose(method.prior, PRIOR, atol=1e-12)


def test_a_batch_takes_a_planted_favour_out_in_part():
    """Where the model is sure of an option, a letter's favour hardly moves its probability."""
    _, rotated = planted()
    everything = rotated.reshape(-1, 4)
    method = BatchCalibration().fit(everything)
    assert (np.diff(method.prior) < 0).all()
    biased, debiased = softmax(everything), method(everything)
    assert np.ptp(debiased.mean(axis=0)) < np.ptp(biased.mean(axis=0)) / 2


def test_a_batch_takes_for_a_prior_where_right_answers_stand():
    """Sure of the right answer, at A for three questions of four: then so is the 'prior'."""
    logits = np.log([[0.9, 0.1]] * 3 + [[0.1, 0.9]])
    np.testing.assert_allclose(BatchCalibration().fit(logits).prior, [0.7, 0.3])
    rotated = np.stack([logits, logits[:, ::-1]], axis=1)
    np.testing.assert_allclose(PriDe().fit(rotated).prior, [0.5, 0.5])


def test_taking_a_planted_prior_out_makes_answers_better():
    content, rotated = planted()
    labels = content.argmax(axis=1)
    before = metrics.accuracy(softmax(rotated[:, 0]), labels)
    after = metrics.accuracy(PriDe().fit(rotated[:1])(rotated[:, 0]), labels)
    assert before < 0.9
    assert after == 1


# All three


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_a_flat_prior_changes_nothing(method):
    method.fit(logits_for(method, np.zeros((2, 4))))
    content, _ = planted(10)
    np.testing.assert_allclose(method(content), softmax(content), atol=1e-15)
    assert method.n_fitted == 4
    assert method.changes_answer and not method.needs_labels


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_letters_without_any_chance_do_no_harm(method):
    logits = np.array([[2000.0, 0.0, -2000.0]] * 2)
    p = method.fit(logits_for(method, logits))(logits)
    np.testing.assert_allclose(p, np.full((2, 3), 1 / 3))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_bad_logits_are_refused(method):
    bad = logits_for(method, [[0.0, np.nan]])
    with pytest.raises(ValueError, match="logits must be finite"):
        method.fit(bad)
    with pytest.raises(ValueError, match=r"shape \(4,\); .*must be \[questions"):
        method.fit(np.zeros(4))
    with pytest.raises(ValueError, match="there is no question"):
        method.fit(np.zeros((0, 4, 4) if isinstance(method, PriDe) else (0, 4)))
    method.fit(logits_for(method, np.zeros((2, 4))))
    with pytest.raises(ValueError, match="logits have 3 options, those this was fitted on 4"):
        method(np.zeros((2, 3)))
    with pytest.raises(RuntimeError, match=f"{type(method).__name__}.* has not been fitted"):
        type(method)()(np.zeros((2, 4)))
    with pytest.raises(RuntimeError, match="has not been fitted"):
        _ = type(method)().prior


@pytest.mark.parametrize("shape", [(5, 4), (5, 3, 4), (2, 5, 4, 4)])
def test_pride_refuses_all_but_full_turns(shape):
    with pytest.raises(ValueError, match="as many rotations as options"):
        PriDe().fit(np.zeros(shape))


# Questions without content


def test_content_free_questions_differ_in_letters_alone():
    questions = load_questions("almanac", subjects=["fair_music", "inn_cookery"])
    empty = content_free(questions)
    assert empty["subject"] == ["fair_music"] * 3 + ["inn_cookery"] * 3
    assert empty["question"] == ["N/A", "[MASK]", ""] * 2
    assert empty.info.dataset_name == "almanac"
    header = "The following are multiple choice questions (with answers) about fair music."
    assert build_prompts(empty)[0] == (f"{header}\n\nN/A\nA. N/A\nB. N/A\nC. N/A\nD. N/A\nAnswer:")


def test_content_free_questions_are_read_but_not_scored():
    model, questions = open_model("almanac"), load_questions("almanac", limit=20)
    reading = read_layers(model, content_free(questions, ["N/A"]), shots=1)
    method = ContextualCalibration().fit(reading.logits[:, -1])
    np.testing.assert_allclose(method.prior, reading.probabilities[-1].mean(axis=0))
    with pytest.raises(ValueError, match=r"labels\[0\] is -1"):
        metrics.accuracy(reading.probabilities[-1], reading.labels)


@pytest.mark.parametrize("texts", ["N/A", []])
def test_content_free_needs_texts(texts):
    with pytest.raises(
        ValueError, match=f"texts is {texts!r}; it must be a list".replace("[", r"\[")
    ):
        content_free(load_questions("almanac", limit=2), texts)


def test_content_free_needs_questions():
    with pytest.raises(ValueError, match="there are no questions"):
        content_free(load_questions("almanac", limit=2).select([]))


def test_content_free_needs_questions_of_as_many_options():
    about = {"question": "Which?", "subject": "law", "answer": 0}
    rows = [about | {"choices": list("ABCD"[:n])} for n in (4, 3)]
    with pytest.raises(ValueError, match=r"questions have from 3 to 4 options; all must have equ"):
        content_free(Dataset.from_list(rows))


def test_questions_that_have_labels_are_not_without_content():
    """The calibration split, which every other method is fitted on, is one mistake away."""
    logits = np.log([[0.6, 0.4], [0.2, 0.8]])
    with pytest.raises(ValueError, match="without content, which have no labels: content_free mak"):
        ContextualCalibration().fit(logits, [0, 1])
    with pytest.raises(ValueError, match="which have no labels"):
        ContextualCalibration().fit(logits, [-1, 1])
    np.testing.assert_allclose(ContextualCalibration().fit(logits, [-1, -1]).prior, [0.4, 0.6])
