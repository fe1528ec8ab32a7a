"""Which process runs which batches of a plan."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from support.properties import given, settings, st

from calib.reading._batches import BEHIND_PREFIX, PASS, Batch, plan_batches
from calib.reading._shares import check_alike, share_out


def length(piece, batches, prompts):
    """What a piece takes: each batch its pass and its tokens, each prefix once."""
    some = [batches[i] for i in piece]
    prefixes = {tuple(prompts[batch.rows[0]][: batch.shared]) for batch in some}
    return sum(map(len, prefixes)) + sum(
        (BEHIND_PREFIX if batch.shared else PASS) + batch.room - batch.shared * len(batch.rows)
        for batch in some
    )


def test_two_long_batches_weigh_as_much_as_four_short_ones():
    batches = [Batch((i,), 0, room) for i, room in enumerate([872, 872, 372, 372, 372, 372])]
    pieces = share_out(batches, [[]] * 6, 2)
    assert pieces == [range(0, 2), range(2, 6)]
    assert [length(piece, batches, [[]] * 6) for piece in pieces] == [2000, 2000]


def test_a_prefix_is_counted_where_it_is_run():
    """Three batches each would have the first process run both prefixes."""
    prompts = [[1] * 1000 + [5]] * 2 + [[2] * 1000 + [5]] * 4
    batches = [Batch((i,), 1000, 1001) for i in range(6)]
    pieces = share_out(batches, prompts, 2)
    assert pieces == [range(0, 2), range(2, 6)]
    assert [length(piece, batches, prompts) for piece in pieces] == [2026, 3052]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_with_nothing_to_do_nobody_does_anything(size):
    assert share_out([], [], size) == [range(0)] * size


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(1, 900)), max_size=7),
    st.integers(1, 4),
)
def test_no_cut_has_a_shorter_longest_piece(drawn, size):
    prompts, batches = [], []
    for subject, n, own in sorted(drawn):  # prompts of a subject follow each other
        shared = 600 if subject else 0
        prompt = np.concatenate([np.full(shared, subject), np.zeros(own, int)])
        rows = tuple(range(len(prompts), len(prompts) + n))
        prompts += [prompt] * n
        batches.append(Batch(rows, shared, n * len(prompt)))
    pieces = share_out(batches, prompts, size)
    assert len(pieces) == size
    assert [i for piece in pieces for i in piece] == list(range(len(batches)))
    cuts = combinations([*range(len(batches) + 1)] * (size - 1), size - 1)
    best = min(
        max(
            length(range(*piece), batches, prompts)
            for piece in pairwise([0, *sorted(cut), len(batches)])
        )
        for cut in set(cuts)
    )
    assert max(length(piece, batches, prompts) for piece in pieces) == best


def test_a_prefix_is_run_by_one_process_or_by_two_at_a_border():
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(12), 10)
    prompts = [np.append(np.full(300, s), rng.integers(0, 99, 20 + s)) for s in subjects]
    batches = plan_batches(prompts, subjects.astype(str), 2000, 4000, share=True)
    pieces = share_out(batches, prompts, 5)
    runs = [{int(prompts[batches[i].rows[0]][0]) for i in piece} for piece in pieces]
    assert sum(map(len, runs)) <= 12 + 4
    assert set().union(*runs) == set(range(12))


def test_the_first_difference_is_named_with_the_process():
    told = [{"shots": 0, "limit": 5}, {"shots": 0, "limit": 5}, {"shots": 0, "limit": 6}]
    check_alike(told[:2])
    words = "limit is 5 in process 0 and 6 in process 2; all must make the same calls"
    with pytest.raises(ValueError, match=words):
        check_alike(told)
    with pytest.raises(ValueError, match="push is None in process 0 and 1 in process 1"):
        check_alike([{}, {"push": 1}])
