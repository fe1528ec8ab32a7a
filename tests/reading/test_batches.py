"""Which prompts go together, on token ids small enough to see through."""

import numpy as np
import pytest

from calib.reading._batches import common_prefix, fill, plan_batches


def prompts_of(rng, n, subject, prefix):
    """``n`` prompts that share their first tokens and differ in the next."""
    tails = [[subject, i, *rng.integers(100, size=rng.integers(1, 30))] for i in range(n)]
    return [[7] * prefix + [int(t) for t in tail] for tail in tails]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"context": 3}, r"prompt of question 1 has 4 tokens, the model's context is 3; use fewer"),
        ({"batch_tokens": 3}, r"question 1 has 4 tokens, batch_tokens is 3; .* raise batch_tokens"),
        ({"context": 3, "batch_tokens": 3}, r"the model's context is 3; .* out$"),
    ],
)
def test_a_prompt_that_is_too_long_is_named(limits, message):
    limits = {"context": 10, "batch_tokens": 10, **limits}
    with pytest.raises(ValueError, match=message):
        plan_batches([[1], [1, 2, 3, 4]], ["a", "a"], share=True, **limits)


@pytest.mark.parametrize("share", [False, True])
def test_batches_stay_within_the_budget_and_lose_nothing(share):
    rng = np.random.default_rng(0)
    prompts = [p for s in range(5) for p in prompts_of(rng, 40, s, 60 * (s < 3))]
    subjects = np.repeat(list("abcde"), 40)
    batches = plan_batches(prompts, subjects, batch_tokens=400, context=100, share=share)
    assert sorted(i for batch in batches for i in batch.rows) == list(range(200))
    for batch in batches:
        lengths = [len(prompts[i]) for i in batch.rows]
        assert len(lengths) * max(lengths) <= 400
        assert lengths == sorted(lengths, reverse=True)
        assert min(lengths) > batch.shared
        assert len({tuple(prompts[i][: batch.shared]) for i in batch.rows}) == 1
    shared = {subjects[batch.rows[0]]: batch.shared for batch in batches if batch.shared}
    assert shared == ({"a": 61, "b": 61, "c": 61} if share else {})
    first = batches[0]
    assert max(len(prompts[i]) for i in first.rows) == max(map(len, prompts))


def test_a_prefix_is_shared_only_where_that_saves_half_the_work():
    def shared(prompts):
        (batch,) = plan_batches(prompts, ["a"] * len(prompts), 1000, 100, share=True)
        return batch.shared

    assert shared([[1] * 10 + [2], [1] * 10 + [3], [1] * 10 + [4]]) == 10  # 20 of 33
    assert shared([[1] * 10 + [2], [1] * 10 + [3]]) == 0  # 10 of 22
    assert shared([[1] * 10 + [2]]) == 0


@pytest.mark.parametrize("share", [False, True])
def test_prompts_of_different_kinds_share_no_batch(share):
    """Whatever the kinds are: of equal length, or on either side of a limit."""
    rng = np.random.default_rng(1)
    prompts = [p for s in range(3) for p in prompts_of(rng, 30, s, 40)]
    lengths = np.array([len(prompt) for prompt in prompts])
    subjects = np.repeat(list("abc"), 30)
    for kinds in (lengths, lengths > 50):
        batches = plan_batches(prompts, subjects, 400, 100, share=share, kinds=kinds)
        assert sorted(i for batch in batches for i in batch.rows) == list(range(90))
        assert all(len({kinds[i] for i in batch.rows}) == 1 for batch in batches)
    alone = plan_batches(prompts, subjects, 400, 100, share=lengths <= 50, kinds=lengths > 50)
    assert {batch.shared > 0 for batch in alone if lengths[batch.rows[0]] > 50} == {False}
    assert {batch.shared > 0 for batch in alone if lengths[batch.rows[0]] <= 50} == {True}


def test_identical_prompts_keep_a_token_each():
    assert common_prefix([[1, 2, 3]] * 3) == 2
    assert common_prefix([[4]]) == 0
    assert common_prefix([[1, 2], [3, 4]]) == 0


def time_of(sizes, shared):
    """What a plan counts: padded tokens, and 128 for each pass, or 512 behind a prefix."""
    return sum(max(batch) * len(batch) + (512 if shared else 128) for batch in sizes)


@pytest.mark.parametrize("shared", [0, 50])
def test_no_other_cut_of_the_sorted_prompts_takes_less_time(shared):
    rng = np.random.default_rng(1)
    for _ in range(20):
        lengths = np.sort(rng.integers(1, 200, size=9))[::-1]
        found = fill(list(range(9)), lengths + shared, 1500, shared, np.zeros(9, int))
        plan = [[lengths[i] for i in batch.rows] for batch in found]
        cuts = (np.flatnonzero([k >> i & 1 for i in range(8)]) + 1 for k in range(2**8))
        others = [np.split(lengths, cut) for cut in cuts]
        within = [some for some in others if all(len(b) * (b[0] + shared) <= 1500 for b in some)]
        assert len(within) > 1
        assert time_of(plan, shared) == min(time_of(some, shared) for some in within)


@pytest.mark.parametrize("batch_tokens", [2048, 8192, 32768, 131072])
def test_little_is_padded_whatever_the_limit(batch_tokens):
    # Lengths as those of MMLU: a median of some 100 tokens, a few ten times as long.
    lengths = np.exp(np.random.default_rng(0).normal(4.65, 0.62, 1000)).clip(40, 1044).astype(int)
    batches = fill(list(range(1000)), lengths, batch_tokens, 0, np.zeros(1000, int))
    computed = sum(lengths[batch.rows[0]] * len(batch.rows) for batch in batches)
    assert 1 - lengths.sum() / computed < 0.03
    assert len(batches) < 100
