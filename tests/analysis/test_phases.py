"""The phases on planted readings, where they can be read off."""

import numpy as np
import pytest
from support.readings import planted

from calib import Reading, by_category, evolve, load_questions, metrics
from calib.analysis.phases import METRICS, find_correction, first_for_good
from calib.metrics import Interval


@pytest.mark.parametrize("tolerance", [-0.01, 1.5])
def test_a_tolerance_is_a_difference_of_accuracies(tolerance):
    with pytest.raises(ValueError, match="0 to 1"):
        evolve(planted([0.5], [0.5]), tolerance=tolerance)


def test_for_good_means_until_the_last_layer():
    assert first_for_good([True, False, True, True]) == 2
    assert first_for_good([True, True]) == 0
    assert first_for_good([True, False]) is None


def test_the_phases_of_a_planted_reading_are_found():
    #                  embedding  basel.  onset  decided  worst  corrected
    reading = planted([0.25, 0.25, 0.40, 0.70, 0.70, 0.70], [0.3, 0.9, 0.9, 0.8, 0.95, 0.72])
    evolution = evolve(reading, n_resamples=300)
    assert (evolution.onset, evolution.decision) == (2, 3)
    correction = evolution.correction
    assert (correction.start, correction.end) == (4, 5)
    accuracy = metrics.accuracy(reading.probabilities[5], reading.labels)
    assert correction.fall == pytest.approx((0.95 - accuracy) - (0.72 - accuracy), abs=1e-6)
    assert 0 < correction.low <= correction.fall <= correction.high
    assert correction.accuracy_change == 0


def test_no_fall_is_no_correction():
    evolution = evolve(planted([0.25, 0.7, 0.7], [0.3, 0.75, 0.95]), n_resamples=300)
    assert evolution.decision == 1
    assert evolution.correction is None


def test_a_model_at_the_baseline_has_no_onset():
    evolution = evolve(planted([0.25, 0.24, 0.25], [0.3, 0.5, 0.4]), n_resamples=300)
    assert evolution.onset is None


def test_a_layer_that_always_gives_the_commonest_letter_has_not_left_the_baseline():
    rng = np.random.default_rng(0)
    labels = rng.choice(4, p=[0.2, 0.2, 0.2, 0.4], size=2000)
    p = np.full((2000, 3, 4), 0.1)
    p[:, :2, 3] = 0.7  # D whatever the question, right for 40 %
    right = rng.random(2000) < 0.6
    p[np.arange(2000), 2, np.where(right, labels, (labels + 1) % 4)] = 0.7
    evolution = evolve(Reading(np.log(p), labels, np.full(2000, "s")), n_resamples=300)
    assert evolution.baseline_accuracy == np.mean(labels == 3)
    assert evolution.table["accuracy"][1] == evolution.baseline_accuracy > 0.35
    assert evolution.onset == 2


def test_an_interval_is_read_off_the_table():
    evolution = evolve(planted([0.25, 0.7], [0.3, 0.75]), n_resamples=50)
    row = evolution.table.loc[1]
    assert evolution.interval("ece", 1) == (row["ece"], row["ece_low"], row["ece_high"])


def test_the_interval_of_the_fall_is_widened_for_the_choice_of_the_layer():
    """Falls 1..1000: two candidate layers halve each tail, 2.5 % becomes 1.25 %."""
    samples = np.zeros((1000, 3))
    samples[:, 0] = np.arange(1, 1001)
    ece = Interval(np.array([500.0, 100.0, 0.0]), None, None, samples)
    accuracy = Interval(np.zeros(3), None, None, np.zeros((1000, 3)))
    correction = find_correction(ece, accuracy, decision=0)
    assert (correction.start, correction.end, correction.fall) == (0, 2, 500)
    assert correction.low == pytest.approx(1 + 0.0125 * 999)
    assert correction.high == pytest.approx(1 + 0.9875 * 999)


def test_the_decision_at_the_last_layer_leaves_no_room_for_a_correction():
    ece = Interval(np.array([0.5, 0.1]), None, None, np.tile([0.5, 0.1], (10, 1)))
    assert find_correction(ece, ece, decision=1) is None


def test_the_table_holds_the_plain_metrics_of_every_layer():
    reading = planted([0.25, 0.6, 0.7], [0.4, 0.9, 0.75], n=300)
    table = evolve(reading, n_resamples=50).table
    assert list(table.columns) == [f"{m}{end}" for m in METRICS for end in ("", "_low", "_high")]
    for layer, p in enumerate(reading.probabilities):
        row = table.loc[layer]
        assert row["accuracy"] == metrics.accuracy(p, reading.labels)
        assert row["ece"] == pytest.approx(metrics.ece(p, reading.labels), abs=1e-12)
        assert row["mce"] == pytest.approx(metrics.mce(p, reading.labels, min_count=20), abs=1e-12)
        assert row["nll"] == pytest.approx(metrics.nll(p, reading.labels), abs=1e-12)
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]


def test_categories_share_out_the_questions():
    questions = load_questions("almanac", limit=100)
    n = len(questions)
    logits = np.arange(n, dtype=np.float32)[:, None, None] * np.ones((1, 2, 4), np.float32)
    subjects = np.array(questions["subject"])
    parts = by_category(Reading(logits, np.array(questions["answer"]), subjects))
    assert list(parts) == ["STEM", "humanities", "social sciences", "other"]
    assert set(parts["humanities"].subjects) == {"founding_history", "local_legends"}
    rows = np.concatenate([part.logits[:, 0, 0] for part in parts.values()])
    assert sorted(rows.tolist()) == list(range(n))


def test_a_subject_of_no_category_is_refused():
    with pytest.raises(ValueError, match="'sums' belongs to none"):
        by_category(Reading(np.zeros((1, 1, 4)), np.array([0]), np.array(["sums"])))
