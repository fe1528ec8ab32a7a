"""Agreement of samples: worked by hand, and against counts of the standard library."""

import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import entropy
from support.properties import given, st

from calib.sampling import agreement, entropy_consistency, first_second_distance, majority

MEASURES = (agreement, entropy_consistency, first_second_distance)

# By hand


@pytest.mark.parametrize(
    ("answers", "agree", "entropic", "distance"),
    [
        ("AAAAAABBBC", 0.6, 0.182655, 0.3),
        ("AAAAABBBBB", 0.5, 0, 0),
        ("AAAAAAAAAA", 1, 1, 1),
        ("ABCDEFGHIJ", 0.1, 0, 0),
        ("AAB", 2 / 3, 1 - (math.log2(3) - 2 / 3), 1 / 3),
        ("AABBC", 0.4, 1 - (0.8 * math.log(2.5) + 0.2 * math.log(5)) / math.log(3), 0),
    ],
)
def test_by_hand(answers, agree, entropic, distance):
    rows = [list(answers), list(answers[::-1])]  # the order is of no account
    np.testing.assert_allclose(agreement(rows), agree)
    np.testing.assert_allclose(entropy_consistency(rows), entropic, atol=5e-7)
    np.testing.assert_allclose(first_second_distance(rows), distance, atol=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_one_sample_agrees_with_itself(measure):
    assert measure([["owl"], ["fox"]]).tolist() == [1, 1]


def test_questions_do_not_mix():
    """The same answers, rare at one question and frequent at the next."""
    rows = [list("AAAB"), list("BBBB"), list("ABCD"), list("BBAA")]
    np.testing.assert_allclose(agreement(rows), [0.75, 1, 0.25, 0.5])
    np.testing.assert_allclose(first_second_distance(rows), [0.5, 1, 0, 0])
    assert majority(rows).tolist() == ["A", "B", "A", "B"]


def test_between_equally_frequent_answers_the_first_drawn_is_taken():
    rows = [list("CBBCA"), list("BCCBA"), list("ZABCD")]
    assert majority(rows).tolist() == ["C", "B", "Z"]
    assert majority([[9, 2, 2, 9], [-1, 5, 5, -1]]).tolist() == [9, -1]


def test_an_empty_answer_is_one_too():
    assert majority([["", "owl", ""]]).tolist() == [""]
    np.testing.assert_allclose(agreement([["", "owl", ""]]), [2 / 3])


# Against counts one by one


@given(
    st.integers(1, 8).flatmap(
        lambda n: st.lists(st.lists(st.integers(-3, 3), min_size=n, max_size=n), min_size=1)
    )
)
def test_against_counts_one_by_one(rows):
    as_text = np.array(rows).astype(str)
    for measure in MEASURES:
        np.testing.assert_allclose(measure(rows), measure(as_text))
    for i, row in enumerate(rows):
        common = Counter(row).most_common()  # equal counts in the order of first appearance
        counts = [count for _, count in common]
        second = counts[1] if len(counts) > 1 else 0
        unique = len(counts)
        expected = 1 - entropy(counts, base=unique) if unique > 1 else 1
        assert majority(rows)[i] == common[0][0] == int(majority(as_text)[i])
        assert agreement(rows)[i] == pytest.approx(counts[0] / len(row))
        assert first_second_distance(rows)[i] == pytest.approx((counts[0] - second) / len(row))
        assert entropy_consistency(rows)[i] == pytest.approx(expected, abs=1e-12)


# Refusals


@pytest.mark.parametrize("function", [majority, *MEASURES])
@pytest.mark.parametrize(
    ("answers", "error", "message"),
    [
        (["A", "B"], ValueError, r"shape \(2,\); they must be \[questions, samples\]"),
        ("A", ValueError, r"shape \(\)"),
        (np.empty((3, 0), dtype=int), ValueError, r"shape \(3, 0\)"),
        (np.empty((0, 3), dtype=int), ValueError, r"shape \(0, 3\)"),
        ([[0.5, 1.0]], TypeError, "answers are float64; they must be text or integers"),
        ([[True, False]], TypeError, "answers are bool"),
        ([["A", None]], TypeError, r"answers are object; .* astype\(str\)"),
    ],
)
def test_what_is_no_table_of_answers_is_refused(function, answers, error, message):
    with pytest.raises(error, match=message):
        function(answers)
