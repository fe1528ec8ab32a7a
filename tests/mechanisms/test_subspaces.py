"""Subspaces: components by hand, what lies in them, the correction restored."""

import numpy as np
import pytest
import torch
from support.architectures import TOKENIZER

from calib import Reading, lens, load_questions, open_model, read_layers
from calib.mechanisms import (
    Subspace,
    correction_components,
    principal_components,
    random_subspace,
    restore_correction,
)
from calib.questions import option_tokens
from calib.steering import Direction

LETTERS = option_tokens(TOKENIZER, 4)


def up_to_sign(actual, expected):
    """Rows of a basis may point either way."""
    signs = np.sign((actual * expected).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(actual * signs, expected, atol=1e-12)


def orthonormal(basis):
    np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-12)


def directions(*vectors):
    return [Direction(np.array(v, dtype=float), 3, 1.0, f"{i}") for i, v in enumerate(vectors)]


def reading_with(residuals):
    n_questions = len(next(iter(residuals.values())))
    labels = np.zeros(n_questions, dtype=int)
    return Reading(np.zeros((n_questions, 4, 2)), labels, labels.astype(str), residuals=residuals)


# Principal components


def test_two_directions_have_their_sum_and_their_difference_as_components():
    """At an angle of cosine .28 they hold (1 + .28) / 2 and (1 - .28) / 2 of the whole."""
    space = principal_components(directions([1, 0, 0], [0.28, 0.96, 0]))
    up_to_sign(space.basis, np.array([[0.8, 0.6, 0], [0.6, -0.8, 0]]))
    np.testing.assert_allclose(space.shares, [0.64, 0.36], atol=1e-15)
    assert space.name == "component"


def test_components_are_about_zero():
    """Directions that agree are one component, and are not taken for no spread at all."""
    space = principal_components(directions([0, 0.6, 0.8], [0, 0.6, 0.8], [0, 0.6, 0.8]))
    up_to_sign(space.basis[:1], np.array([[0, 0.6, 0.8]]))
    np.testing.assert_allclose(space.shares, [1, 0, 0], atol=1e-15)


def test_a_component_as_a_direction():
    space = principal_components(directions([1, 0, 0], [0.28, 0.96, 0]))
    second = space.direction(1, 2, reading_with({2: np.diag([2, 4, 9])}))
    assert (second.layer, second.scale, second.name) == (2, 4.0, "component 2")
    np.testing.assert_allclose(np.abs(second.vector), [0.6, 0.8, 0], atol=1e-15)


def test_fewer_than_two_directions_are_refused():
    for some in ([], directions([1, 0])):
        with pytest.raises(ValueError, match=f"{len(some)} directions; components need at least"):
            principal_components(some)


def test_correction_components_by_hand():
    """Changes 3, -3 and 3 along one axis, 4 along another: 27 and 16 of 43."""
    start = np.arange(16, dtype=np.float32).reshape(4, 4)
    change = np.array([[0, 3, 0, 0], [0, -3, 0, 0], [0, 3, 0, 0], [0, 0, 0, 4]], np.float32)
    space = correction_components(reading_with({1: start, 3: start + change}), 1, 3)
    up_to_sign(space.basis[:2], np.eye(4)[[1, 3]])
    np.testing.assert_allclose(space.shares, [27 / 43, 16 / 43, 0, 0], atol=1e-15)
    assert space.name == "correction component"


@pytest.mark.parametrize("n", [5, 40])
def test_components_are_orthonormal_and_share_all_there_is(n):
    rng = np.random.default_rng(0)
    change = rng.normal(size=(n, 12)) * np.arange(1, 13)
    space = correction_components(reading_with({0: np.zeros((n, 12)), 1: change}), 0, 1)
    orthonormal(space.basis)
    assert space.basis.shape == (min(n, 12), 12)
    assert space.shares.sum() == pytest.approx(1)
    assert (np.diff(space.shares) < 0).all()
    held = ((change @ space.basis.T) ** 2).sum(axis=0)
    np.testing.assert_allclose(space.shares, held / (change**2).sum())


def test_a_phase_that_ends_before_it_starts_or_was_not_kept_is_refused():
    reading = reading_with({1: np.eye(3), 2: np.eye(3)})
    with pytest.raises(ValueError, match="start is 2 and end is 1; the phase must end after"):
        correction_components(reading, 2, 1)
    with pytest.raises(ValueError, match=r"kept the residuals of layers \[1, 2\], not of 3"):
        correction_components(reading, 1, 3)


# Projections


def test_a_projection_by_hand():
    space = principal_components(directions([1, 0, 0], [0.28, 0.96, 0]))
    vectors = np.array([[[10.0, 0, 7], [0, 10, 7]]])
    np.testing.assert_allclose(space.project(vectors, 1), [[[6.4, 4.8, 0], [4.8, 3.6, 0]]])
    np.testing.assert_allclose(space.project(vectors), [[[10, 0, 0], [0, 10, 0]]], atol=1e-12)


def test_a_projection_changes_nothing_the_second_time():
    space = random_subspace(5, 12, seed=0)
    vectors = np.random.default_rng(1).normal(size=(3, 4, 12))
    np.testing.assert_array_equal(space.project(vectors, 0), np.zeros((3, 4, 12)))
    for k in range(1, 6):
        once = space.project(vectors, k)
        np.testing.assert_allclose(space.project(once, k), once, atol=1e-12)
        # What is left has no part in the subspace.
        np.testing.assert_allclose((vectors - once) @ space.basis[:k].T, 0, atol=1e-12)
    np.testing.assert_array_equal(space.project(vectors), once)


def test_how_much_of_a_vector_lies_in_it_by_hand():
    """(1, 1, 1) has .6 + .8 on the first axis and 1 on the second, squared 1.96 + 1, of 3."""
    line = Subspace(np.array([[0.6, 0.8, 0]]), np.ones(1), "line")
    vectors = np.array([[[3, 4, 0], [4, -3, 0]], [[1, 0, 0], [0, 5, -5]]], dtype=np.float32)
    np.testing.assert_allclose(line.share_of(vectors), [[1, 0], [0.36, 0.32]], atol=1e-15)
    np.testing.assert_allclose(line.share_of(-7 * vectors[1]), [0.36, 0.32], atol=1e-15)
    large = np.array([300, 400, 500], dtype=np.float16)  # whose squares half precision cannot hold
    assert line.share_of(large) == pytest.approx(0.5)
    plane = Subspace(np.array([[0.6, 0.8, 0], [0, 0, 1]]), np.ones(2), "plane")
    assert plane.share_of([1, 1, 1]) == pytest.approx(2.96 / 3)


@pytest.mark.parametrize("k", [1, 4, 12])
def test_a_random_subspace_is_orthonormal_and_its_shares_are_what_to_expect(k):
    space = random_subspace(k, 12, seed=3)
    assert space.basis.shape == (k, 12)
    orthonormal(space.basis)
    np.testing.assert_array_equal(space.basis, random_subspace(k, 12, seed=3).basis)
    assert not np.allclose(np.abs(space.basis), np.abs(random_subspace(k, 12, seed=4).basis))
    held = np.mean([random_subspace(k, 12, seed).basis ** 2 for seed in range(400)], axis=0)
    np.testing.assert_allclose(held, np.broadcast_to(space.shares[:, None], (k, 12)), atol=0.03)


@pytest.mark.parametrize("k", [0, -1, 13])
def test_more_dimensions_than_the_stream_has_are_refused(k):
    with pytest.raises(ValueError, match=f"k is {k}; it must be from 1 to 12, the dim"):
        random_subspace(k, 12, seed=0)


# The correction restored, in the laboratory's model


@pytest.fixture(scope="module")
def almanac():
    return open_model("almanac")


@pytest.fixture(scope="module")
def reading(almanac):
    return read_layers(almanac, load_questions("almanac", limit=50), keep_residuals=[5, 6, 8])


@pytest.mark.parametrize("end", [6, 8])
def test_no_dimension_is_the_lens_at_the_start_and_all_are_the_lens_at_the_end(
    almanac, reading, end
):
    space = random_subspace(128, 128, seed=0)
    logits = restore_correction(almanac, reading, space, 5, end, LETTERS)
    assert (logits.shape, logits.dtype) == ((129, 50, 4), np.float32)
    np.testing.assert_allclose(logits[0], reading.logits[:, 5], atol=1e-4)
    np.testing.assert_allclose(logits[128], reading.logits[:, end], atol=1e-4)
    assert np.abs(logits[64] - reading.logits[:, end]).max() > 0.1


def test_the_corrections_own_components_restore_it_soonest(almanac, reading):
    """Fifty changes lie in fifty dimensions, and are restored by these in full."""
    own = correction_components(reading, 5, 8)
    other = random_subspace(50, 128, seed=0)
    by_own, by_other = (
        np.abs(restore_correction(almanac, reading, s, 5, 8, LETTERS) - reading.logits[:, 8])
        .mean(axis=(1, 2))
        for s in (own, other)
    )  # fmt: skip
    assert len(by_own) == len(by_other) == 51
    assert by_own[50] < 1e-4
    assert by_own[10] < by_own[0] / 2 < by_other[10]


def test_one_dimension_by_hand(almanac, reading):
    axis = np.eye(128)[17]
    space = principal_components(directions(axis, axis))
    logits = restore_correction(almanac, reading, space, 5, 8, LETTERS)
    stream = reading.residuals[5].copy()
    stream[:, 17] = reading.residuals[8][:, 17]
    np.testing.assert_allclose(logits[1], lens(almanac, torch.tensor(stream), LETTERS), atol=1e-5)


def test_a_correction_that_ends_before_it_starts_is_refused(almanac, reading):
    with pytest.raises(ValueError, match="start is 8 and end is 5"):
        restore_correction(almanac, reading, random_subspace(1, 128, seed=0), 8, 5, LETTERS)
